"""What somebody else wrote is text wherever a notebook shows it: one look over everything that displays."""

import dataclasses
import html.parser
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poclab import decision, timeline, views
from poclab.cases import Case, TestSet
from poclab.charter import Charter, Criterion
from poclab.checkup import Checkup
from poclab.checkup.findings import Finding
from poclab.comparison import compare
from poclab.drills import Drill, Example, Row
from poclab.errors import InputError
from poclab.reproduction import Reproduction
from poclab.results import Record, Results
from poclab.scores import Score
from poclab.sizing import plan
from poclab.sweeps import Sweep, Trial
from poclab.system import Passage, Reply, Version
from poclab.tables import anchor, block, escaped, frame, html_table
from test_decision import MONDAY, Edit, Look, charter
from test_report import report, result
from test_timeline import run

TAGS = {"div", "p", "b", "i", "a", "mark", "img", "details", "summary", "table", "thead", "tbody", "tr", "th", "td"}
ATTRIBUTES = {"class", "style", "href", "target", "rel", "open", "src", "alt"}
#: What a page may hold besides text that can be seen: line ends and tabs.
UNSEEN = re.compile(r"[^\S\n\t ]|[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]")
PIECES = (
    "<script>alert(1)</script>",
    "</td></table></div><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)' x='",
    '" style="position:fixed"',
    "<!-- ", "]]>", "&lt;b&gt;", "<svg/onload=alert(1)>",
    "**bold** [a](javascript:alert(1)) | `x`",
    "$x^2$ \\(y\\) \\[z\\] $$w$$",
    "\x1b[2J\x1b]0;title\x07", "\x00", "\x9b31m", "\u202eabc\u2066", "\U000e0041", "\n# line\r\n\t", "{{context}}", "storks",
)  # fmt: skip
MARKS = "<>&'\"\\`$*_|{}()[]!#-=/;ab \t\r\n\x00\x0b\x1b\x7f\x85\xa0\u2028"
HOSTILE = st.lists(st.sampled_from(PIECES) | st.text(MARKS, max_size=8), min_size=1, max_size=6).map(lambda parts: "q" + "".join(parts))


class Page(html.parser.HTMLParser):
    """What a browser makes of a page: its elements with their attributes, its text, and what is outside of the one block."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text, self.open, self.outside = [], "", [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        if not self.open:
            self.outside.append((tag, dict(attributes).get("class")))
        self.found.append((tag, dict(attributes)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    handle_decl = handle_pi = unknown_decl = handle_comment


def hostile_result(text, place, score=0.0, **more):
    given = {"inputs": {"question": text}, "expected": {"answers": [text], "evidence": [text]}, "tags": {text: text}}
    reply = Reply(text, contexts=(Passage(text, text),))
    return result(f"{text}{place}", score, reply=reply, scores={"exact": Score(score, text, text)}, **{**given, **more})


def hostile_report(text, name="a", score=0.0, **more):
    found = [hostile_result(text, 1, score), hostile_result(text, 2, 1.0), hostile_result(text, 3, failure="crashed", error=text)]
    names = {"test_set": text, "warnings": (text,), "run_id": name + text, "link": text, "lock_digest": text, "corpus_digest": text + name}
    return report(*found, **{"version": Version(f"{name}{text}", **{f"k{text}": name + text}), **names, **more})


def compared(text, count):
    sides = [hostile_report(text, name, score) for name, score in (("a", 0.0), ("b", 1.0), ("c", 0.0))[:count]]
    return compare(*sides, links=[f"https://127.0.0.1/{text}", text][: count - 1])


def decided(text):
    asked = charter(
        Criterion(text, at_least=0.5),
        decision=text,
        owner=text,
        signed=dict.fromkeys(("by", "on", "where"), text),
        uncertainty=f"Whether people will use {text}",
    )
    found = [hostile_report(text, split="test")]
    return decision.weigh(asked, found, looks=[Look(*[text] * 5)], edits=[Edit((text,), ("b",), text, text)], today=MONDAY)


def a_set(text):
    return TestSet(tuple(Case(f"{text}{n}", {"question": text}, {"answers": [text]}, {text: text}) for n in range(3)))


def a_charter(text):
    given = {"uncertainty": text, "signed": {"by": text, "on": text, "where": text}, "timebox": {"start": text, "weeks": 6}}
    return Charter(text, text, text, (Criterion(text, at_least=0.5),), given)


def drilled(text):
    row = Row("hang", text, {text: True, "b": False}, (Example(text, text),), text)
    numbers = {"seed": 0, "timeout_s": 1.0, "whole": False, "drawn": 2, "right": 1, "failing": 1}
    return Drill(Version(text, k=text), text, text, rows=(row,), code_digest=text, **numbers)


def looked_back(text):
    runs = [run(1, params={text: "x"}, name=text, split=text, edition=text), run(2, params={text: text}, name=text, metrics={})]
    return timeline.of_runs(runs)


def swept(text):
    estimates = {name: {"value": 0.5, "low": 0.1, "high": None, "n": 8} for name in ("accuracy", "latency_p95_s")}
    values = [{text: text}, {text: text + "b"}]
    records = [Record(f"{text}{n}", text, one, "ok", run_id=text, estimates=estimates) for n, one in enumerate(values)]
    trials = tuple(Trial(one, text) for one in values)
    return Results(Sweep(text, Path(), Path(), "accuracy", True, trials, True, 1), tuple(records), 2, None, text, None).frame()


def reproduced(text, **more):
    then, now = hostile_report(text), hostile_report(text, "b", score=1.0)
    return Reproduction(text, then, now, "", (text,), (text,), Path("x"), **{"recorded_answers": 2, "asked_for": 1, **more})


class Shown:
    """A part of a page that has no object of its own."""

    def __init__(self, page):
        self._repr_html_ = lambda: page


DISPLAYED = {
    "report": hostile_report,
    "two compared": lambda text: compared(text, 2),
    "three compared": lambda text: compared(text, 3),
    "decision": decided,
    "test set": a_set,
    "charter": a_charter,
    "history": looked_back,
    "sweep": swept,
    "any table": lambda text: frame([{text: text, "accuracy": 0.5, "cost_usd": None}]),
    "plan": lambda text: plan([Criterion(text, at_least=0.8)], {"dev": 20, "test": 20}),
    "drill": drilled,
    "checkup": lambda text: Checkup(Path("x"), (Finding(text, "failed", text, text),)),
    "reproduction": reproduced,
    "reproduction live": lambda text: reproduced(text, asked_for=None, compared=compared(text, 2)),
    "case": lambda text: Shown(views.case_view([hostile_result(text, 1)], [hostile_result(text, 2)], link=text)),
    "bench": lambda text: Shown(block(views.report_table(hostile_report(text), None, None))),
}  # fmt: skip


@pytest.mark.parametrize("name", DISPLAYED)
@settings(max_examples=12, deadline=None)
@given(text=HOSTILE)
def test_whatever_is_displayed_shows_texts_as_text(name, text):
    """Script, handlers, Markdown, LaTeX, ANSI, NUL, directions: a browser meets the elements of poclab alone, a terminal no command."""
    shown = DISPLAYED[name](text)
    source = shown._repr_html_()
    page = Page(source)

    assert {tag for tag, _ in page.found} <= TAGS
    assert {attribute for _, given in page.found for attribute in given} <= ATTRIBUTES
    assert {given["class"] for _, given in page.found if "class" in given} == {"tex2jax_ignore mathjax_ignore"}
    assert [tag for tag, _ in page.outside] == ["div"] and page.outside[0][1]  # no formula anywhere
    assert page.open == []
    assert all(given["href"].startswith(("http://", "https://")) for _, given in page.found if "href" in given)
    assert all(given["src"].startswith("data:image/png;base64,") for _, given in page.found if "src" in given)
    assert all(re.fullmatch(r"[-a-z0-9.:;,%#() ]+", given["style"]) for _, given in page.found if "style" in given)
    assert not UNSEEN.search(re.sub("[\r\x0b\x0c\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]", "", source))
    source.encode()
    if not isinstance(shown, Shown):
        assert all(char.isprintable() for line in repr(shown).split("\n") for char in line)


def test_a_text_can_be_read_as_it_was_written():
    """Letters of any script, joined signs and lines stay; what nobody would see is an escape."""
    kept = "na\u00efve \u05d7\u05e1\u05d9\u05d3\u05d4 \U0001f469\u200d\U0001f467 a\nb\tc\u00a0d"

    assert escaped(kept) == kept
    assert escaped("\x1b[31m\x00\u202e\ud800\U000e0041<b>&'") == r"\x1b[31m\x00\u202e\ud800\U000e0041&lt;b&gt;&amp;&#x27;"


def test_columns_of_numbers_stand_on_the_right():
    """A column in which every number is one, heads too; words and intervals stay on the left."""
    table = html_table(["case", "n", "cost", "value"], [["q1", 8, "$0.0012", "0.4 (0.3 to 0.5)"], ["q2", 12, "unknown", "none"]])
    sides = [re.search("text-align:(left|right)", given["style"])[1] for tag, given in Page(table).found if tag in ("th", "td")]

    assert sides == ["left", "right", "right", "left"] * 3
    assert "tabular-nums" in table


def test_a_link_goes_to_the_web_or_nowhere():
    """An address that would run something is not offered."""
    assert anchor("look", "javascript:alert(1)") == anchor("look", "") == ""
    assert "href='https://127.0.0.1/?a=&#x27;' " in anchor("look", "https://127.0.0.1/?a='")


def test_a_table_stays_a_dataframe():
    """It is shown calmly as it is, also after a change; a part of it, a copy and what is read back are plain."""
    import pandas

    table = frame([{"accuracy": 0.5, "n": 8, "cost_usd": None}, {"accuracy": 0.25, "n": None, "cost_usd": None}])
    table["word"] = "<b>"

    assert repr(table).split("\n") == ["accuracy  n  cost_usd  word", "0.500     8  unknown   <b>", "0.250        unknown   <b>"]
    assert "&lt;b&gt;" in table._repr_html_()
    assert type(table.head()) is type(table.copy()) is type(pickle.loads(pickle.dumps(table))) is pandas.DataFrame
    assert repr(frame({"n": n} for n in range(203))).endswith("\n... and 3 more")


def test_a_set_tells_its_splits_and_hides_what_is_held_out():
    """A person sees what there is of each split and tag; the questions of held-out cases are not for reading."""
    cases = [Case(f"q{n}", {"question": f"asked {n}?"}, {"answers": ["yes"]}, {"kind": "odd" if n % 2 else "even"}) for n in range(4)]
    page = TestSet(tuple(dataclasses.replace(one, split="test" if one.id == "q3" else "dev") for one in cases))._repr_html_()
    text = Page(page).text

    assert "dev 3, test 1" in text and "even 2, odd 2" in text
    assert "asked 2?" in text and "asked 3?" not in text
    assert "1 more, of which 1 are held out" in text


def test_an_error_drives_no_terminal():
    """What a message quotes is printed as text in place of a traceback."""
    lines = InputError("a \x1b[2J\x00", fix="b \u202e")._render_traceback_()

    assert lines == [r"InputError: a \x1b[2J\x00", r"  fix: b \u202e"]
