"""A document as blocks: the same text in Markdown and in HTML, whatever it holds."""

import html
import html.parser
import re

import mistune  # JupyterLab brings it
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poclab.errors import printable
from poclab.handover.blocks import Heading, Listing, Picture, Table, Text, Verdict, markdown, page

PNG = b"\x89PNG\r\n\x1a\n"
#: Characters that mean something in Markdown or HTML, and a few that do not.
ODD = st.text(st.sampled_from("\\`*_[]()<>|#~$!&-+=.:;'\"19 \n\t\x1baé"), max_size=30)
RENDER = mistune.create_markdown(escape=False, plugins=["table", "strikethrough", "footnotes", "task_lists", "math"])


class _Text(html.parser.HTMLParser):
    """Collects the text and the elements of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def _shown(text):
    """Return text as a document shows it: on one line, control characters as escapes."""
    return printable(" ".join(text.split()))


@pytest.mark.parametrize(
    "text",
    [
        "1. not a list",
        "1) not a list",
        "- not a list",
        "+ not a list",
        "* not a list",
        "- [ ] no task",
        "> no quotation",
        "# no heading",
        "=== no underline",
        "---",
        "***",
        "```",
        "~~~",
        "    no code",
        "\tno code",
        "<b>no element</b>",
        "<!-- no comment -->",
        "&amp; no entity &lt;",
        "![no](picture)",
        "[no](link)",
        "[no]: http://definition.example",
        "[^1]",
        "a|b",
        "a\\|b",
        "back\\slash\\",
        "$x^2$",
        "**no** _no_ ~~no~~ `no`",
        "two\n\nparagraphs",
        "line  \nbreak",
    ],
)
@pytest.mark.parametrize("block", [Text, Heading, lambda text: Verdict(text, "go"), lambda text: Table(("a", "b"), [(text, "x")])])
def test_text_is_never_markup(text, block):
    """What is written is what is read, in both documents."""
    kinds = {"p", "h2", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    for made in (_Text(RENDER(markdown([block(text)]))), _Text(page("", [block(text)]).partition("<body>")[2])):
        assert _shown(text) in made.text
        assert set(made.tags) <= kinds


@given(st.lists(st.tuples(ODD, ODD, ODD), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_a_cell_stays_in_its_cell(rows):
    """Each row has its cells and no other, and each cell its text."""
    table = Table(("a", "b", "c"), rows)
    for made in (RENDER(markdown([table])), page("", [table])):
        lines = re.findall(r"<tr>(.*?)</tr>", made, re.S)[1:]
        cells = [[html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", line, re.S)] for line in lines]
        assert cells == [[_shown(cell) for cell in row] for row in rows]


@given(ODD)
@settings(max_examples=60, deadline=None)
def test_a_listing_keeps_every_line(text):
    """A prompt is copied from the document: no fence in it closes its own."""
    lines = [printable(line.replace("\t", "    ")) for line in text.rstrip("\n").split("\n")]
    for made in (RENDER(markdown([Listing(text), Text("after")])), page("", [Listing(text), Text("after")])):
        (shown,) = re.findall(r"<pre>(?:<code[^>]*>)?(.*?)(?:</code>)?</pre>", made, re.S)
        assert html.unescape(shown).rstrip("\n") == "\n".join(lines).rstrip("\n")
        assert "<p>after</p>" in made


def test_numbers_are_written_as_they_are_read():
    """Whoever edits the Markdown finds 0.439, +0.750 and -0.1, not escapes."""
    table = Table(("metric", "value"), [("accuracy", "0.439"), ("difference", "+0.750 (+0.189 to +1.000)"), ("gap", "-0.1")])

    assert markdown([table]) == (
        "| metric | value |\n| --- | --- |\n| accuracy | 0.439 |\n| difference | +0.750 (+0.189 to +1.000) |\n| gap | -0.1 |\n"
    )


def test_a_picture_is_a_file_beside_the_markdown_and_inside_the_page(tmp_path):
    """The page is one file; the Markdown finds its picture in the folder."""
    (tmp_path / "chart.png").write_bytes(PNG)
    picture = Picture("evidence/chart.png", "accuracy over 'time' & more", tmp_path / "chart.png")

    assert markdown([picture]) == "![accuracy over 'time' &amp; more](evidence/chart.png)\n"
    assert "<img alt='accuracy over &#x27;time&#x27; &amp; more' src='data:image/png;base64,iVBORw0KGgo='>" in page("", [picture])


def test_the_verdict_has_the_class_of_its_word():
    """Go is green and no-go red, in print too."""
    for word, name in (("go", "go"), ("no-go", "no-go"), ("not yet", "not-yet")):
        assert f"<p class='verdict {name}'>" in page("", [Verdict("v", word)])


def test_only_a_long_word_may_be_broken():
    """A narrow column breaks a digest, and keeps `q017` in one piece."""
    made = page("", [Table(("what",), [("q017 and more",), ("f" * 64,)])])

    assert "<td>q017 and more</td>" in made
    assert f"<td class=long>{'f' * 64}</td>" in made


def test_the_title_is_text():
    """A POC may be called anything."""
    assert "<title>&lt;/title&gt;&lt;script&gt;</title>" in page("</title><script>", [])
