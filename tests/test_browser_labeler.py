"""What a person sees and does in the form of the `Labeler`, in a real browser: by mouse, by keys, and with documents that are hostile.

Needs Debian's Chromium; where there is none, nothing here can be seen.
"""

import json
import shutil

import pytest

import browser
from conftest import invoke, notebook_of
from judged import poc_of, report_of
from poclab import judging, labels, rag
from poclab.cases import TestSet, fold
from poclab.system import Reply

pytestmark = browser.needed

ASKED = "Where do storks nest?\nWhen do owls hunt?\nWho composed Fidelio?\n"
#: Markup, a terminal's commands, half of what makes an emoji, letters that are composed, CRLF, and text from right to left.
HOSTILE = (
    "# Odd storks <img src=x onerror=alert(1)> <script>alert(2)</script> [z](javascript:alert(3)) **bold** $x^2$ \x1b[31m \x00\r\n\r\n"
    "Storks \U0001f469\u200d\U0001f469\u200d\U0001f467 nest e\u0301 on \U0001f3e0 roofs\r\nand \u05d4\u05d7\u05e1\u05d9\u05d3\u05d4 towers.\r\n"
)


@pytest.fixture(scope="module")
def chromium():
    with browser.launched() as found:
        yield found


@pytest.fixture
def open_labeler(chromium, lab):
    """Return a function that opens a labeller's own notebook on a page and in a workspace of its own."""
    address, root = lab
    pages = []

    def open_(poc, by, task="label"):
        name = f"{by}.ipynb"
        (root / name).write_text(json.dumps(notebook_of(f"import poclab\npoclab.Labeler({poc.name!r}, by={by!r}, task={task!r})")))
        context = browser.opened(chromium)
        page = context.__enter__()
        pages.append(context)
        browser.run_all(page, address.replace("/lab/", f"/lab/workspaces/{by}/").format(name))
        page.get_by_role("button", name="Save and next").wait_for()
        return page

    yield open_
    for context in pages:
        context.__exit__(None, None, None)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    root = tmp_path_factory.mktemp("lab")
    with browser.jupyterlab(root) as address:
        yield address, root


@pytest.fixture
def unlabelled(make_poc, lab):
    """A POC with its own Markdown, questions in a file, and no case."""
    poc = make_poc(lab[1] / "animals")
    for name in ("cases.jsonl", "cases.lock.json"):
        (poc / name).unlink()
    (poc / "asked.txt").write_text(ASKED)
    yield poc
    shutil.rmtree(poc)


def field(page, said):
    return page.locator(f".poclab-labeler [title^='{said}']")


def said(page, text):
    page.locator(".poclab-labeler").get_by_text(text).first.wait_for()


def keys(page, *names):
    for name in names:
        page.keyboard.press(name)


def drag(page, phrase):
    """Select a phrase of a passage with the mouse."""
    left, right, height = page.locator(".poclab-text span", has_text=phrase).evaluate(
        """({ firstChild: node }, phrase) => {
            const range = document.createRange();
            range.setStart(node, node.data.indexOf(phrase));
            range.setEnd(node, node.data.indexOf(phrase) + phrase.length);
            const { left, right, top, bottom } = range.getBoundingClientRect();
            return [left, right, (top + bottom) / 2];
        }""",
        phrase,
    )
    page.mouse.move(left, height)
    page.mouse.down()
    page.mouse.move(right, height, steps=5)
    page.mouse.up()


def test_from_questions_to_a_frozen_set_that_two_people_labelled(unlabelled, open_labeler):
    """Ada labels by mouse and by keys, Grace answers blind, Linus settles where they differ, and the command line freezes it."""
    ada = open_labeler(unlabelled, "Ada")
    field(ada, "a file or folder").fill("asked.txt")
    keys(ada, "Alt+i")
    said(ada, "3 new questions")
    ada.get_by_role("button", name="Search").click()
    drag(ada, "nest on chimneys")
    ada.get_by_role("button", name="Take selection as evidence").click()
    ada.locator("mark", has_text="nest on chimneys").wait_for()
    field(ada, "Accepted answers").fill("smokestacks")
    ada.get_by_role("button", name="Save and next").click()

    # From here on without the mouse, and at once: the second question is searched, its evidence is on the third line, and the third has no answer.
    keys(ada, "Alt+f", "Enter")
    ada.locator(".poclab-text:focus", has_text="Owls hunt at night").wait_for()
    keys(ada, "ArrowDown", "ArrowDown", *["ArrowRight"] * len("Owls "), *["Shift+ArrowRight"] * len("hunt at night"), "Alt+e")
    ada.locator("mark", has_text="hunt at night").wait_for()
    # She types on while each is being saved: what she types then is for the next.
    keys(ada, "Alt+l")
    ada.keyboard.type("night")
    keys(ada, "Alt+s", "Alt+u", "Alt+s")
    said(ada, "q003: saved")
    # A letter means nothing to the notebook, where B adds a cell, whatever of the form has the focus.
    for place in (".poclab-act-check", "select"):
        ada.locator(f".poclab-labeler {place}").focus()
        keys(ada, "b")
    said(ada, "(new question)")
    assert ada.locator(".jp-Cell").count() == 1

    grace = open_labeler(unlabelled, "Grace", "review")
    said(grace, "Where do storks nest?")
    field(grace, "search the documents").press("Enter")
    # The first search has to build the index; she writes her answer meanwhile.
    field(grace, "Accepted answers").focus()
    grace.keyboard.type("in Africa")
    grace.locator(".poclab-labeler[aria-busy=false] .poclab-text", has_text="Storks nest on chimneys").wait_for()
    assert field(grace, "Accepted answers").input_value() == "in Africa"
    drag(grace, "fly to Africa")
    keys(grace, "Alt+e")
    grace.locator("mark", has_text="fly to Africa").wait_for()
    assert grace.locator("mark").all_inner_texts() == ["fly to Africa"]
    # Nothing of the first label came to her browser: neither shown, nor in what the kernel sent, nor in the notebook.
    heard = "".join(one if isinstance(one, str) else one.decode("utf-8", "replace") for one in grace.heard)
    assert "Where do storks nest?" in heard
    assert not any("smokestacks" in one or "by Ada" in one for one in (heard, grace.content()))
    keys(grace, "Alt+s")
    said(grace, "First, Ada: smokestacks; evidence: nest on chimneys")
    assert sorted(grace.locator("mark").all_inner_texts()) == ["fly to Africa", "nest on chimneys"]
    keys(grace, "Alt+d")
    grace.keyboard.type("Knight")
    keys(grace, *["Backspace"] * len("Knight"))
    grace.keyboard.type("Night")
    keys(grace, "Alt+s", "Alt+u", "Alt+s")
    said(grace, "q003: agree; the first label: (abstain)")
    # Wilson's interval for 2 of 3; two say that q003 has no answer, and that the others have one.
    said(grace, "3 cases, 0 candidates, 1 to settle; agreement 0.667 (0.208 to 0.939, n = 3); kappa on answerable 1.000 (n = 3)")

    field(grace, "your name").fill("Linus")
    grace.get_by_role("button", name="Settle").click()
    said(grace, "Second, Grace: in Africa; evidence: fly to Africa")
    assert sorted(grace.locator("mark").all_inner_texts()) == ["fly to Africa", "nest on chimneys"]
    field(grace, "Note").fill("as the page says")
    keys(grace, "Alt+t")
    said(grace, "Nothing to do here.")

    assert browser.ours(ada.errors + grace.errors) == []
    done = invoke("freeze", unlabelled)
    assert done.returncode == 0, done.stderr
    cases = {one.id: one for one in TestSet.load(unlabelled)}
    assert cases["q001"].expected == {"answers": ["in Africa"], "evidence": ["fly to Africa"]}
    assert cases["q002"].expected == {"answers": ["night"], "evidence": ["hunt at night"]}
    assert cases["q003"].expected == {"abstain": True}
    assert [one.label["by"] for one in cases.values()] == ["Linus", "Ada", "Ada"]


def select(page, start, end):
    """Select from one character of the first passage to another, as the browser counts them."""
    units = [len(one.encode("utf-16-le")) // 2 for one in (HOSTILE[:start], HOSTILE[:end])]
    page.evaluate(
        """([start, end]) => {
            const text = document.querySelector('.poclab-text');
            text.focus();
            const range = document.createRange();
            let at = 0;
            for (const { firstChild: node } of text.children) {
                if (start >= at && start <= at + node.length) range.setStart(node, start - at);
                if (end >= at && end <= at + node.length) range.setEnd(node, end - at);
                at += node.length;
            }
            getSelection().removeAllRanges();
            getSelection().addRange(range);
        }""",
        units,
    )


def test_what_is_selected_in_a_hostile_document_is_what_stands_there(unlabelled, open_labeler):
    """A browser counts otherwise than Python, letters join, lines end in CRLF: evidence is the document's text, and text is never markup."""
    for path in (unlabelled / "docs").iterdir():
        path.unlink()
    (unlabelled / "docs" / "odd.md").write_bytes(HOSTILE.encode())
    (unlabelled / "asked.txt").write_text("Storks <img src=x onerror=alert(4)><script>alert(5)</script>?\n")
    labels.add_candidates(labels.load(unlabelled), "asked.txt")
    page = open_labeler(unlabelled, "Edsger")
    field(page, "search the documents").press("Enter")
    page.locator(".poclab-text:focus").wait_for()
    assert page.evaluate("document.querySelector('.poclab-text').textContent") == HOSTILE

    spans = [(0, 40), (80, 130), (120, len(HOSTILE)), *((HOSTILE.index(one), HOSTILE.index(one) + len(one)) for one in ("on \U0001f3e0 r", "e\u0301 on", "and \u05d4\u05d7", "roofs\r\nand"))]  # fmt: skip
    evidence, corpus = field(page, "Evidence"), rag.load_corpus(unlabelled)
    for start, end in spans:
        select(page, start, end)
        keys(page, "Alt+e")
        wanted = fold(HOSTILE[start:end])
        page.locator(".poclab-labeler[aria-busy=false]").wait_for()
        assert wanted in evidence.input_value().split("\n")
        assert corpus.find(wanted) == ["docs/odd.md"]
    page.keyboard.type("no letter of a document can be changed")
    keys(page, "Delete", "Control+x", "Enter")
    assert page.evaluate("document.querySelector('.poclab-text').textContent") == HOSTILE

    field(page, "Accepted answers").fill("<img src=x onerror=alert(6)>")
    field(page, "Tags").fill("<b>=<i>")
    keys(page, "Alt+s")
    said(page, "q001: saved")
    assert page.locator(".poclab-labeler").locator("img, script, a, b, [onerror]").count() == 0
    assert (page.dialogs, browser.ours(page.errors)) == ([], [])
    (case,) = labels.load(unlabelled).cases
    assert len(case.expected["evidence"]) == len(spans)
    assert labels.ready(unlabelled) == []


def test_replies_are_labelled_by_keys(chromium, lab):
    """From the field of the name and from anywhere in the form; a letter means nothing to the notebook there; the buttons stay in place."""
    address, root = lab
    poc, rubric = poc_of(root / "judged", 4), judging.Rubric.named("correctness")
    judging.draw(poc, rubric, report_of(poc, [Reply("long " * 200), "short", "short", "short"]), sample=4, seed=0)
    form = "from poclab import judging\njudging.ReplyLabeler('judged', judging.Rubric.named('correctness'))"
    (root / "replies.ipynb").write_text(json.dumps(notebook_of(form)))
    with browser.opened(chromium) as page:
        browser.run_all(page, address.replace("/lab/", "/lab/workspaces/replies/").format("replies.ipynb"))
        button, cells = page.get_by_role("button", name="cannot tell (Alt+0)"), page.locator(".jp-Cell")
        page.get_by_label("Your name").fill("Ada")
        places, before = [button.bounding_box()["y"]], cells.count()
        for number, key in enumerate("120"):
            page.keyboard.press(f"Alt+{key}")
            page.get_by_text(f"{number + 1} of 4 labelled").wait_for()
            places.append(button.bounding_box()["y"])
            page.get_by_text("Question", exact=True).click()
            page.keyboard.press("x")

        assert [one.label for one in judging.read_labels(poc, rubric).sample] == ["correct", "wrong", "unscored", None]
        assert len(set(places)) == 1
        assert cells.count() == before
        assert browser.ours(page.errors) == []
