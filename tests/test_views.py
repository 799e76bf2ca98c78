"""How one case and one attempt are shown in a notebook."""

import html
import re
from html.parser import HTMLParser

import pytest

from poclab.report import CaseResult
from poclab.scores import Score
from poclab.system import Call, Passage, Reply
from poclab.tables import paragraph
from poclab.views import case_view, edits, marked

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</div><b>",
    "[a](javascript:alert(1))",
    "\x1b[31mred",
    "'\" onclick='x",
)


class Seen(HTMLParser):
    """What a browser would take for markup."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes = set(), set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}


def result(**more):
    common = {
        "case_id": "q01",
        "case_digest": "d",
        "repeat": 0,
        "inputs": {"question": "How long do cats sleep?"},
        "tags": {"kind": "lookup"},
    }
    expected = {"answers": ["fifteen hours"], "evidence": ["sleep about fifteen hours"]}
    return CaseResult(
        **{
            **common,
            "expected": expected,
            "cluster": None,
            "reply": Reply("Fifteen hours.", contexts=[Passage("Cats sleep about\nfifteen hours a day.", "cats.md")]),
            "scores": {"contains": Score(True, "Fifteen hours.", "contains 'fifteen hours'")},
            "latency_s": 0.25,
            **more,
        }
    )


def test_evidence_is_marked_whatever_its_white_space():
    """Whoever reads a passage sees at once whether the evidence was in it, though a line was broken inside of it."""
    assert marked("Cats sleep about\nfifteen  hours a day.", ["sleep about fifteen hours"]) == (
        "Cats <mark>sleep about\nfifteen  hours</mark> a day."
    )


def test_an_edit_is_the_lines_that_were_lost_and_gained():
    """What a line of the history is about: what the prompt says now and did not before, or the other way."""
    assert edits("Be kind.\n\n{{question}}\n", "Be brief.\n\n{{question}}\n-- \n") == ["- Be kind.", "+ Be brief.", "+ -- "]
    assert edits("a", "a") == []
    assert len(edits("", "line\n" * 9)) == 5
    assert edits("a\n" * 30_000, "b\n" * 30_000) == []


def test_what_is_hidden_is_shown():
    """An answer cannot be turned around, or hide a part of itself; Arabic, a joined emoji and white space stay as they are."""
    assert paragraph("a\u202eb\x1b[31m\x00").partition(">")[2] == "a\\u202eb\\x1b[31m\\x00</p>"
    assert "\\u202e" in case_view([result(reply=Reply("\u202e"), scores={"contains": Score(True, "", "\u202e")})])
    for text in ("سلام", "👩\u200d💻", "a\r\n\tb\xa0c"):
        assert paragraph(text).endswith(f">{text}</p>")


def test_of_two_phrases_that_begin_alike_the_longer_one_is_marked():
    """A phrase that is part of another one does not cut it short."""
    assert marked("a b c", ["a b", "a b c", " "]) == "<mark>a b c</mark>"


def test_a_case_shows_what_one_asks_of_it():
    """Question, expected, both answers, passages, scores with reasons, tokens, cost and the trace stand in one place."""
    call = Call("m", "/chat/completions", 0.2, 200, tokens_in=90, tokens_out=10, cost_usd=0.002, replayed=True)
    after = result(calls=(call,))
    before = result(reply=Reply("Ten hours."), scores={"contains": Score(False, "", "does not contain 'fifteen hours'")}, outcome="wrong")
    shown = re.sub("<[^>]+>", " ", case_view([after], [before], link="http://127.0.0.1:5000/#/t?id=tr-1"))

    for text in (
        "How long do cats sleep?", "kind: lookup", "Fifteen hours.", "Ten hours.", "contains &#x27;fifteen hours&#x27;", "100 tokens",
        "$0.002", "1 of 1 answers from the ledger", "cats.md", "its trace in MLflow",
    ):  # fmt: skip
        assert text in shown


def test_a_case_of_an_agent_shows_what_it_did():
    """The expected changes in words, each call with what came of it, and what was changed."""
    one = result(
        inputs={"task": "Close ticket 3."},
        expected={"effects": [{"table": "tickets", "key": {"id": 3}, "changed": {"status": "closed"}}]},
        reply=Reply(
            "Done.",
            tools=[{"tool": "close", "arguments": {"id": 3}, "turn": 1, "result": "closed"}],
            effects=[{"table": "tickets", "key": {"id": 3}, "before": {"status": "open"}, "after": {"status": "closed"}}],
        ),
        scores={},
    )
    shown = html.unescape(re.sub("<[^>]+>", " ", case_view([one])))

    for text in ('tickets 3: status -> "closed"', 'turn 1  close({"id": 3})', "-> closed", 'tickets 3: status "open" -> "closed"'):
        assert text in shown
    assert "what it did" not in case_view([result()])
    assert "no change" in case_view([result(expected={"effects": []})])


def test_what_is_unknown_is_not_zero():
    """A call without usage or price reads so: nobody takes it for a free one."""
    shown = case_view([result(calls=(Call("m", "/chat/completions", 0.2, 200),))])

    assert "tokens unknown, unknown" in shown


def test_a_failed_case_shows_its_error():
    """There is no answer to read, so what went wrong stands in its place."""
    shown = case_view([result(reply=Reply(), failure="timeout", error="TimeoutError: took longer than 60 s", outcome="timeout")])

    assert "timeout" in shown and "took longer than 60 s" in shown


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_model_or_a_file_says_is_text(text):
    """Neither markup nor an attribute gets into the page, wherever it stands."""
    one = result(
        case_id=text,
        inputs={"question": text},
        tags={text: text},
        expected={"answers": [text], "evidence": [text]},
        reply=Reply(text, contexts=[Passage(text, text)]),
        scores={"contains": Score(True, text, text)},
    )
    shown = case_view([one], [one], link=f"http://127.0.0.1:5000/{text}")
    seen = Seen()
    seen.feed(shown)

    assert seen.tags <= {"div", "p", "b", "i", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "mark", "a"}
    assert seen.attributes <= {"class", "style", "href", "title", "target", "rel"}
