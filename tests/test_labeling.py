import datetime
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import poclab
from poclab import labels, rag
from poclab.cases import TestSet
from poclab.errors import InputError
from poclab.labeling import FOUND, Labeler
from poclab.labeling.form import ACTIONS, FIELDS, PLACES, TASKS
from poclab.reviews import Review

TODAY = datetime.date.today().isoformat()
HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m"


@pytest.fixture
def unlabelled(poc):
    """A POC with two candidates and no case."""
    (poc / "cases.jsonl").unlink()
    (poc / "cases.lock.json").unlink()
    (poc / "asked.txt").write_text("Where do storks nest?\nWho composed Fidelio?\n")
    labels.add_candidates(labels.load(poc), "asked.txt")
    return poc


@pytest.fixture
def labelled(poc):
    """The POC's cases, which are Ada's and not frozen."""
    (poc / "cases.lock.json").unlink()
    cases = [{**one.to_json(), "label": {"by": "Ada", "on": "2026-11-23"}} for one in TestSet.read(poc)]
    (poc / "cases.jsonl").write_text("".join(json.dumps(one) + "\n" for one in cases))
    return poc


def press(labeler, *names):
    for name in names:
        labeler.form.buttons[name].click()


def fill(labeler, **values):
    for name, value in values.items():
        labeler.form.fields[name].value = value


def listed(labeler):
    return [said for said, _ in labeler.form.items.options]


def texts(labeler):
    """Return everything that is shown, but what the fields hold."""
    form = labeler.form
    return " ".join(
        [form.about.value, form.sides.value, form.notice.value, form.state.value, json.dumps(form.passages.passages), *listed(labeler)]
    )


def marked(labeler):
    return [piece for one in labeler.form.passages.passages for piece, evidence in one["pieces"] if evidence]


def select(labeler, phrase):
    """Select a stretch of the first passage that holds it, as the browser tells it."""
    number, start = next((n, one.text.find(phrase)) for n, one in enumerate(labeler.found) if phrase in one.text)
    labeler.form.passages.selection = {"passage": number, "start": start, "end": start + len(phrase)}


# --- labelling


def test_a_candidate_becomes_a_case_with_evidence_that_was_selected(unlabelled):
    """Search, select, answer, save: what the second of two lines of a notebook is for."""
    labeler = Labeler(unlabelled, by="Ada")
    assert labeler.form.fields["question"].value == "Where do storks nest?"

    press(labeler, "search")
    select(labeler, "nest on chimneys")
    press(labeler, "evidence")
    fill(labeler, answers="chimneys\non chimneys\n", tags="kind=lookup", source="")
    press(labeler, "save")

    (case,) = labels.load(unlabelled).cases
    assert case.expected == {"answers": ["chimneys", "on chimneys"], "evidence": ["nest on chimneys"]}
    assert (case.tags, case.label) == ({"kind": "lookup"}, {"by": "Ada", "on": TODAY, "source": "docs/storks.md"})
    assert "q001: saved" in labeler.form.notice.value
    assert labeler.key == "q002"


def test_a_question_that_cannot_be_answered_is_a_case_too(unlabelled):
    """One key, and the next: after the last candidate comes an empty form, and not the label of some case."""
    labeler = Labeler(unlabelled, by="Ada")
    press(labeler, "next")
    labeler.form.press("unanswerable")
    press(labeler, "save")

    assert [(one.id, one.expected) for one in labels.load(unlabelled).cases] == [("q002", {"abstain": True})]
    press(labeler, "drop")
    assert labeler.key == ""
    assert labels.load(unlabelled).candidates == ()


def test_of_very_many_questions_the_first_are_listed(unlabelled):
    """A browser takes seconds for a list of thousands; the others move up, and the line below has their number."""
    (unlabelled / "many.txt").write_text("".join(f"Question {number}?\n" for number in range(1200)))
    labels.add_candidates(labels.load(unlabelled), "many.txt")
    labeler = Labeler(unlabelled, by="Ada")
    assert (len(listed(labeler)), listed(labeler)[-1]) == (1001, "+ q1000  Question 997?")
    press(labeler, "drop")

    assert (labeler.key, listed(labeler)[-1]) == ("q002", "+ q1001  Question 998?")
    assert "1201 candidates" in labeler.form.state.value


def test_a_drop_is_undone(unlabelled):
    """One key, and the question is open again; in a new notebook too."""
    press(Labeler(unlabelled, by="Ada"), "drop")
    labeler = Labeler(unlabelled, by="Ada")
    press(labeler, "restore")

    assert (labeler.key, listed(labeler)) == ("q001", ["(new question)", "+ q001  Where do storks nest?", "+ q002  Who composed Fidelio?"])
    assert "q001: a candidate again" in labeler.form.notice.value
    assert labeler.form.buttons["restore"].disabled


def test_what_was_typed_comes_back_with_a_drop_that_is_undone(unlabelled):
    """One key too many costs nothing; nothing is said to be unsaved where nothing was typed."""
    labeler = Labeler(unlabelled, by="Ada")
    fill(labeler, answers="chimneys")
    press(labeler, "drop", "drop", "restore")
    assert "typed and not saved" not in labeler.form.state.value
    press(labeler, "restore")

    assert (labeler.key, labeler.form.fields["answers"].value) == ("q001", "chimneys")
    assert "typed and not saved: q001" in labeler.form.state.value


def test_questions_are_written_one_after_the_other(unlabelled):
    """A new question gets an id of its own, and an empty form follows."""
    labeler = Labeler(unlabelled, by="Ada")
    press(labeler, "new")
    for question, answer in (("Do owls sing?", "no"), ("Do bats?", "no")):
        fill(labeler, question=question, answers=answer)
        press(labeler, "save")

    assert [(one.id, one.inputs["question"]) for one in labels.load(unlabelled).cases] == [("q003", "Do owls sing?"), ("q004", "Do bats?")]
    assert labeler.form.fields["answers"].value == ""


def test_questions_are_imported_from_the_form(unlabelled):
    """The count says how many are new; a path that leads nowhere is said, and stays to be mended."""
    (unlabelled / "more.csv").write_text("question\nDo owls sing?\nwhere do storks nest\n")
    labeler = Labeler(unlabelled, by="Ada")
    labeler.form.path.value = "more.cvs"
    press(labeler, "import")
    assert "cannot import a .cvs file" in labeler.form.notice.value
    assert labeler.form.path.value == "more.cvs"

    labeler.form.path.value = "more.csv"
    press(labeler, "import")
    assert "1 new question<" in labeler.form.notice.value
    assert listed(labeler)[3] == "+ q003  Do owls sing?"
    press(labeler, "drop")
    labeler.form.path.value = "more.csv"
    press(labeler, "import")
    assert "no new question: all are here already, or were dropped" in labeler.form.notice.value


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"answers": ""}, "no answer yet"),
        ({"answers": "a", "tags": "lookup"}, "&#x27;lookup&#x27; is not NAME=VALUE"),
        ({"answers": "a", "abstain": True}, "contradictory"),
        ({"answers": "a", "evidence": "nowhere"}, "not found in the corpus"),
        ({"answers": "a", "question": " "}, "no question yet"),
    ],
)
def test_what_is_refused_is_said_and_stays_typed(unlabelled, fields, words):
    """The reason stands below the buttons; nothing is written."""
    labeler = Labeler(unlabelled, by="Ada")
    fill(labeler, **fields)
    press(labeler, "save")

    assert words in labeler.form.notice.value
    assert labeler.key == "q001"
    assert {name: labeler.form.fields[name].value for name in fields} == fields
    assert not (unlabelled / "cases.jsonl").exists()


def test_nobody_labels_without_a_name(unlabelled):
    """The name is asked for, and what was typed waits for it."""
    labeler = Labeler(unlabelled)
    fill(labeler, answers="chimneys")
    press(labeler, "save")
    assert "no name: who says so?" in labeler.form.notice.value

    labeler.form.name.value = "Ada"
    press(labeler, "save")
    assert labels.load(unlabelled).cases[0].label["by"] == "Ada"


def test_what_was_typed_is_there_again(unlabelled):
    """Going on without saving loses nothing, and the line below says what is not saved; nor does another task."""
    labeler = Labeler(unlabelled, by="Ada")
    fill(labeler, answers="chimneys", evidence="nest on")
    press(labeler, "next")
    assert labeler.form.fields["answers"].value == ""
    assert "typed and not saved: q001" in labeler.form.state.value
    labeler.form.tasks.value = "settle"
    labeler.form.tasks.value = "label"

    assert (labeler.key, labeler.form.fields["answers"].value, labeler.form.fields["evidence"].value) == ("q001", "chimneys", "nest on")
    press(labeler, "save")
    assert "not saved" not in labeler.form.state.value


def test_leafing_through_the_cases_changes_none(labelled):
    """`save` on a case that nobody edited is no label."""
    before = (labelled / "cases.jsonl").read_bytes()
    labeler = Labeler(labelled, by="Grace")
    press(labeler, "next", "save", "save")

    assert "nothing was changed" in labeler.form.notice.value
    assert labeler.key == "q03"
    assert (labelled / "cases.jsonl").read_bytes() == before


def test_what_is_written_otherwise_in_the_file_stays_so(labelled):
    """Evidence over two lines, an answer with two spaces, a tag with a comma: shown on one line, and not edited by looking."""
    odd = {"answers": ["a  b"], "evidence": ["nest\non chimneys"], "data": {"x": 1}}
    case = {"id": "odd", "inputs": {"question": "Q?"}, "expected": odd, "tags": {"kind": "a, b"}}
    (labelled / "cases.jsonl").write_text(json.dumps(case) + "\n")
    labeler = Labeler(labelled, by="Ada")
    labeler.form.items.value = "odd"
    fill(labeler, question="Which?")
    press(labeler, "save")

    (saved,) = labels.load(labelled).cases
    assert (saved.expected, saved.tags, saved.inputs) == (odd, {"kind": "a, b"}, {"question": "Which?"})


def test_other_inputs_are_shown_and_stay(labelled):
    """Whoever labels has to see all that the system sees; a case without a question shows its inputs, which are edited in the file."""
    cases = [{"id": "a", "inputs": {"question": "Q?", "context": "two\nlines"}}, {"id": "b", "inputs": {"title": "T"}}]
    (labelled / "cases.jsonl").write_text("".join(json.dumps(one) + "\n" for one in cases))
    labeler = Labeler(labelled, by="Ada")
    labeler.form.items.value = "a"
    assert "context: two\nlines" in labeler.form.about.value
    labeler.form.items.value = "b"
    assert labeler.form.fields["question"].value == '{"title":"T"}'
    assert labeler.form.fields["question"].disabled
    fill(labeler, answers="x")
    press(labeler, "save")

    assert labels.load(labelled).case("b").inputs == {"title": "T"}


def test_what_is_missing_is_asked_for_from_the_form(unlabelled):
    """Before `poclab freeze`, in its words; or that it is ready."""
    labeler = Labeler(unlabelled, by="Ada")
    press(labeler, "check")
    assert "no cases yet" in labeler.form.notice.value
    fill(labeler, answers="chimneys")
    press(labeler, "save", "check")

    assert "ready: `poclab freeze`" in labeler.form.notice.value


# --- frozen and held-out cases


def test_a_frozen_case_says_so_and_is_edited_only_when_that_is_allowed(poc):
    """The note stands above the case, and the box has to be ticked; the lock is not touched."""
    lock = (poc / "cases.lock.json").read_bytes()
    labeler = Labeler(poc, by="Ada")
    assert "The cases are frozen (edition 1)" in labeler.form.about.value
    labeler.form.items.value = "q02"
    assert "q02 is frozen (edition 1): a change needs a new edition" in labeler.form.about.value
    fill(labeler, answers="roofs")
    press(labeler, "save")
    assert "is frozen as edition 1" in labeler.form.notice.value
    assert labels.load(poc).case("q02").expected["answers"] == ["chimneys"]

    labeler.form.new_edition.value = True
    press(labeler, "save")
    assert labels.load(poc).case("q02").expected["answers"] == ["roofs"]
    assert (poc / "cases.lock.json").read_bytes() == lock


def test_a_held_out_case_says_so(poc):
    """In each task; its label may be reviewed."""
    labeler = Labeler(poc, by="Grace")
    for task in ("label", "review"):
        labeler.form.tasks.value = task
        labeler.form.items.value = "q07"
        assert "q07 is held out (split test)" in labeler.form.about.value
    fill(labeler, answers="content")
    press(labeler, "save")

    assert labels.load(poc).review("q07", "Grace").mark == "agree"


# --- two who write at once


def test_somebody_elses_work_is_not_overwritten_and_mine_is_not_lost(unlabelled):
    """Refused with what to press; read again, what was typed is still there, and is saved."""
    mine, theirs = Labeler(unlabelled, by="Ada"), Labeler(unlabelled, by="Grace")
    press(theirs, "next")
    fill(theirs, answers="Beethoven")
    press(theirs, "save")
    fill(mine, answers="chimneys")
    press(mine, "save")
    assert "changed since it was read" in mine.form.notice.value

    press(mine, "reload", "save")
    assert [(one.id, one.expected["answers"]) for one in labels.load(unlabelled).cases] == [("q002", ["Beethoven"]), ("q001", ["chimneys"])]


def test_reading_again_says_what_the_case_is_now(unlabelled):
    """Somebody labelled the same question: their answer is shown before mine replaces it."""
    mine, theirs = Labeler(unlabelled, by="Ada"), Labeler(unlabelled, by="Grace")
    fill(theirs, answers="roofs")
    press(theirs, "save")
    fill(mine, answers="chimneys")
    press(mine, "save", "reload")

    assert "q001 was changed: roofs" in mine.form.notice.value
    assert mine.form.fields["answers"].value == "chimneys"


def test_what_was_typed_for_a_question_that_somebody_dropped_is_kept(unlabelled):
    """As a new question."""
    mine, theirs = Labeler(unlabelled, by="Ada"), Labeler(unlabelled, by="Grace")
    fill(mine, answers="chimneys")
    press(theirs, "drop")
    press(mine, "reload")

    assert (mine.key, mine.form.fields["question"].value, mine.form.fields["answers"].value) == ("", "Where do storks nest?", "chimneys")


# --- reviewing


def test_a_reviewer_sees_nothing_of_the_label_before_their_own(labelled):
    """Neither answers nor evidence, tags, source or who labelled; nor in the passages, nor when the form opens in its first task."""
    secret = {"answers": ["SECRET-1"], "evidence": ["nest on chimneys"]}
    label = {"by": "SECRET-2", "on": TODAY, "source": "SECRET-3"}
    case = {"id": "q1", "inputs": {"question": "Where do storks nest?"}, "expected": secret, "tags": {"kind": "SECRET-4"}, "label": label}
    (labelled / "cases.jsonl").write_text(json.dumps({**case, "rubric": "SECRET-5"}) + "\n")

    labeler = Labeler(labelled, by="Grace")
    for task in ("label", "review"):
        labeler.form.tasks.value = task
        if task == "review":
            press(labeler, "search")
        assert "SECRET" not in texts(labeler) + str(labeler.form.values)
    assert labeler.form.passages.passages and '"pieces": [["nest on chimneys", true]]' not in json.dumps(labeler.form.passages.passages)
    assert marked(labeler) == []

    fill(labeler, answers="on roofs")
    press(labeler, "save")
    assert "First, SECRET-2: SECRET-1" in labeler.form.sides.value
    assert "Second, Grace: on roofs" in labeler.form.sides.value


def test_an_answer_is_recorded_before_the_label_is_shown_and_final(labelled):
    """Then it can be compared, and not changed; agreeing goes on to the next."""
    labeler = Labeler(labelled, by="Grace", task="review")
    labeler.form.items.value = "q02"
    fill(labeler, answers="on chimneys", note="as I know")
    press(labeler, "save")
    assert labels.load(labelled).review("q02", "Grace").mark is None
    assert labeler.form.fields["answers"].disabled
    press(labeler, "save")  # not to be pressed any more
    press(labeler, "agree")

    assert [(one.mark, one.note) for one in labels.load(labelled).entries] == [(None, "as I know"), ("agree", "as I know")]
    assert labeler.key == "q03"
    assert not labeler.form.fields["answers"].disabled


def test_a_mark_that_follows_goes_on_to_the_next(labelled):
    """The keys a reviewer needs for a case that is clear: the answer, and Alt+S; what became of it is said."""
    labeler = Labeler(labelled, by="Grace", task="review")
    fill(labeler, answers="Fifteen")
    press(labeler, "save")
    assert "q01: agree; the first label: fifteen" in labeler.form.notice.value
    fill(labeler, abstain=True)
    press(labeler, "save")

    assert "q02: unanswerable; the first label: chimneys" in labeler.form.notice.value
    assert "11 cases, 0 candidates, 1 to settle; agreement 0.500" in labeler.form.state.value


def test_a_reviewer_marks_evidence_and_then_sees_that_of_the_first(labelled):
    """First the own alone; once the answer is recorded, both are marked in the passages that hold them, and the own is final."""
    labeler = Labeler(labelled, by="Grace", task="review")
    labeler.form.items.value = "q06"
    press(labeler, "search")
    select(labeler, "Storks nest on")
    press(labeler, "evidence")
    assert marked(labeler) == ["Storks nest on"]
    fill(labeler, answers="on chimneys")
    press(labeler, "save")

    assert marked(labeler) == ["Storks nest on", "fly to Africa"]
    assert "evidence: fly to Africa" in labeler.form.sides.value
    assert labeler.form.fields["evidence"].disabled and labeler.form.buttons["evidence"].disabled
    assert labels.load(labelled).review("q06", "Grace").evidence == ("Storks nest on",)


@pytest.mark.parametrize("fields", [{}, {"answers": "a", "abstain": True}])
def test_a_judgement_is_one_of_two_things(labelled, fields):
    """Saving an empty form is no `unanswerable`."""
    labeler = Labeler(labelled, by="Grace", task="review")
    fill(labeler, **fields)
    press(labeler, "save")

    assert "an answer or unanswerable" in labeler.form.notice.value
    assert labels.load(labelled).entries == ()


def test_a_reviewer_has_the_cases_of_others(labelled):
    """Whose name it is decides the list; without any left there is nothing to press."""
    labeler = Labeler(labelled, by="Grace", task="review")
    assert len(listed(labeler)) == 11
    labeler.form.name.value = "ada"

    assert listed(labeler) == []
    assert "Nothing to do here." in labeler.form.about.value
    press(labeler, *(name for name, (_, said, _) in ACTIONS.items() if said))
    assert labels.load(labelled).entries == ()


def test_a_label_that_changed_meanwhile_is_read_again_before_it_is_reviewed(labelled):
    """The own answer stays, and is compared with what is there now."""
    labeler, book = Labeler(labelled, by="Grace", task="review"), labels.load(labelled)
    case = labels.edited(book.case("q01"), question="How long?", answers=["SECRET", "15"], evidence=[], abstain=False, tags={})
    labels.save(book, case, by="Ada")
    fill(labeler, answers="15")
    press(labeler, "save")
    assert "changed since it was read" in labeler.form.notice.value
    press(labeler, "reload")
    assert (labeler.form.fields["question"].value, labeler.form.fields["answers"].value) == ("How long?", "15")
    assert "q01 was changed" in labeler.form.notice.value and "SECRET" not in texts(labeler)
    press(labeler, "save")

    assert "q01: agree" in labeler.form.notice.value


def test_without_a_name_there_is_a_list_to_look_at(poc):
    """Cases that nobody signed are not those of somebody without a name."""
    assert len(listed(Labeler(poc, task="review"))) == 11


# --- settling


@pytest.fixture
def disputed(labelled):
    book = labels.judge(labels.load(labelled), "q02", ["roofs"], by="Grace", note="I saw one")
    labels.judge(labels.pick(book, "q02", "disagree", by="Grace"), "q03", [], by="Grace")
    return labelled


def test_a_disagreement_shows_both_labels(disputed):
    """Who said what, and why."""
    labeler = Labeler(disputed, by="Linus", task="settle")

    assert listed(labeler) == ["q02 (Grace)  Where do storks nest?", "q03 (Grace)  When do owls hunt?"]
    assert [one in labeler.form.sides.value for one in ("First, Ada: chimneys", "Second, Grace: roofs", "Note: I saw one")] == [True] * 3


def test_a_disagreement_brings_the_passages_of_both_labels(labelled):
    """Nobody has to search for what the two read: no index is built for it."""
    book = labels.judge(labels.load(labelled), "q02", ["in caves"], by="Grace", evidence=["hang upside down"])
    labels.pick(book, "q02", "disagree", by="Grace")
    labeler = Labeler(labelled, by="Linus", task="settle")

    assert [one.document for one in labeler.found] == ["docs/storks.md", "docs/bats.md"]
    assert marked(labeler) == ["nest on chimneys", "hang upside down"]
    assert "retriever" not in vars(labeler)
    assert "Second, Grace: in caves; evidence: hang upside down" in labeler.form.sides.value


def test_documents_that_cannot_be_read_are_said_when_a_disagreement_is_opened(disputed):
    """The form is there all the same."""
    (disputed / "docs" / "owls.md").write_bytes(b"\xff")

    assert "owls.md, line 1: not UTF-8" in Labeler(disputed, by="Linus", task="settle").form.notice.value


def test_disagreements_are_settled_one_after_the_other(disputed):
    """Keep one, take the other; the queue is empty then."""
    labeler = Labeler(disputed, by="Linus", task="settle")
    press(labeler, "first", "second")

    book = labels.load(disputed)
    assert [one.settled for one in book.entries if not isinstance(one, Review)] == ["first", "second"]
    assert (book.case("q02").label["by"], book.case("q03").label["by"]) == ("Ada", "Linus")
    assert book.case("q03").expected == {"abstain": True}
    assert listed(labeler) == []


def test_a_disagreement_that_is_saved_as_it_stands_keeps_the_first(disputed):
    """Nothing was edited, so nobody is said to have edited."""
    before = (disputed / "cases.jsonl").read_bytes()
    press(Labeler(disputed, by="Linus", task="settle"), "save")

    assert labels.load(disputed).entries[-1].settled == "first"
    assert (disputed / "cases.jsonl").read_bytes() == before


def test_a_disagreement_is_settled_by_an_edit(disputed):
    """The form holds the first label to begin with; all but the question can be edited."""
    labeler = Labeler(disputed, by="Linus", task="settle")
    fill(labeler, answers="chimneys\nroofs", note="both are said")
    press(labeler, "save")

    book = labels.load(disputed)
    assert book.case("q02").expected == {"answers": ["chimneys", "roofs"], "evidence": ["nest on chimneys"]}
    assert (book.entries[-1].settled, book.entries[-1].note) == ("edit", "both are said")


# --- passages and keys


def test_evidence_is_what_the_document_holds_at_the_place_that_was_selected(unlabelled):
    """The browser sends numbers: whatever they are, evidence is a stretch of a passage that is shown, or it is refused."""
    labeler = Labeler(unlabelled, by="Ada")
    press(labeler, "search")
    for selection in ({}, {"passage": 0}, {"passage": 99, "start": 0, "end": 5}, {"passage": -1, "start": 0, "end": 5},
                      {"passage": "0", "start": 0, "end": 5}, {"passage": 0, "start": 5, "end": 5}, {"passage": 0, "start": 9, "end": 2}):  # fmt: skip
        labeler.form.passages.selection = selection
        press(labeler, "evidence")
        assert "no text is selected" in labeler.form.notice.value
    labeler.form.passages.selection = {"passage": 0, "start": 0, "end": 10**9}
    press(labeler, "evidence")

    phrase = labeler.form.fields["evidence"].value
    assert rag.load_corpus(unlabelled).find(phrase) == ["docs/storks.md"]
    assert labeler.form.passages.passages[0]["pieces"][0][1] is True


def test_what_the_browser_sends_acts_when_it_comes_back(unlabelled):
    """A key is sent, echoed and sent again: a field's last letters, which waited in the browser, have arrived by then."""
    labeler, echoes = Labeler(unlabelled, by="Ada"), []
    passages = labeler.form.passages
    passages.send = echoes.append
    asked = {"act": "save", "selection": {"passage": 0, "start": 0, "end": 1}, "view": "v1", "step": "ask"}
    passages._handle_custom_msg(asked, [])
    assert not (unlabelled / "cases.jsonl").exists()
    fill(labeler, answers="chimneys")
    passages._handle_custom_msg({**echoes[0], "step": "act"}, [])

    assert echoes == [{"act": "save", "selection": {"passage": 0, "start": 0, "end": 1}, "view": "v1"}, {"done": "v1"}]
    assert labels.load(unlabelled).cases[0].expected == {"answers": ["chimneys"]}


@pytest.mark.parametrize(
    "message", [{}, {"act": "rm"}, {"act": "agree", "step": "act"}, {"act": "evidence", "step": "act", "selection": None}]
)
def test_an_unknown_message_does_nothing(unlabelled, message):
    """Nor does an action of another task."""
    labeler = Labeler(unlabelled, by="Ada")
    labeler.form.passages._handle_custom_msg(message, [])

    assert labels.load(unlabelled).entries == ()


def test_every_action_can_be_done_and_every_key_is_shown():
    """No two actions of a task share a key; a key that no button shows is written at its field."""
    hints = [said for said, _, _ in FIELDS.values()] + ["search the documents (Alt+F)"]
    for task in TASKS:
        keys = [key for key, _, tasks in ACTIONS.values() if key and task in tasks.split()]
        assert len(keys) == len(set(keys))
    unsaid = [key for key, said, _ in ACTIONS.values() if not said]
    for key in (*unsaid, *PLACES):
        assert any(f"(Alt+{key.upper()})" in hint for hint in hints), key
    keys = [*PLACES, *(key for key, _, _ in ACTIONS.values() if key)]
    assert len(set(keys)) == len(keys)


def test_buttons_show_their_keys(unlabelled):
    """Keyboard first: what to press stands on the button."""
    labeler = Labeler(unlabelled, by="Ada")

    assert labeler.form.buttons["save"].description == "Save and next (Alt+S)"
    assert set(labeler._does) == set(ACTIONS)
    assert labeler.form.passages.shortcuts["e"] == "evidence"


def test_the_focus_stays_in_the_form(labelled, monkeypatch):
    """Keys are heard in there alone: after an action it goes to a field that takes it, and to the list when nothing is left to do."""
    labeler, asked = Labeler(labelled, by="Grace", task="review"), []
    named = {id(widget): name for name, widget in {**labeler.form.fields, "items": labeler.form.items}.items()}
    monkeypatch.setattr("ipywidgets.DOMWidget.focus", lambda self: asked.append(named[id(self)]))
    fill(labeler, answers="about fifteen")
    press(labeler, "save", "agree")
    while labeler.key is not None:
        fill(labeler, abstain=True)
        press(labeler, "save")

    assert asked == ["note", *["answers"] * 10, "items"]


def test_nothing_that_is_shown_is_markup(unlabelled):
    """A question, a document, an error: text everywhere, without control characters."""
    (unlabelled / "docs" / "bad.md").write_text(f"storks {HOSTILE} nest")
    (unlabelled / "bad.csv").write_text(f"question,tag:kind,input:more\n{HOSTILE},{HOSTILE},{HOSTILE}\n")
    labels.add_candidates(labels.load(unlabelled), "bad.csv")
    labeler = Labeler(unlabelled, by=HOSTILE)
    labeler.form.items.value = "q003"
    press(labeler, "search")
    labeler.form.fields["tags"].value = HOSTILE.replace("=", "")
    fill(labeler, answers="a")
    press(labeler, "save")

    shown = [getattr(labeler.form, name).value for name in ("about", "sides", "notice", "state")]
    assert not any("<img" in one or "\x1b" in one for one in shown)
    assert "&lt;img" in labeler.form.notice.value
    assert not any("\x1b" in one for one in listed(labeler))


def test_the_browsers_part_writes_text_only():
    """Documents are hostile: no way of the browser to make markup of a text is used."""
    source = Path(poclab.labeling.__file__).with_name("passages.js").read_text(encoding="utf-8")

    assert "textContent" in source
    assert not any(word in source for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "srcdoc"))


def test_without_documents_there_is_no_search(unlabelled):
    """It is said; questions can be labelled all the same."""
    (unlabelled / "corpus.yaml").unlink()
    labeler = Labeler(unlabelled, by="Ada")
    press(labeler, "search")
    assert "no corpus.yaml" in labeler.form.notice.value
    fill(labeler, answers="chimneys")
    press(labeler, "save")

    assert labels.load(unlabelled).cases[0].label == {"by": "Ada", "on": TODAY, "source": "asked.txt"}


def test_a_search_without_a_hit_says_so(unlabelled):
    """Finding nothing is how one learns that a question cannot be answered."""
    labeler = Labeler(unlabelled, by="Ada")
    labeler.form.query.value = "Mongolia"
    press(labeler, "search")

    assert "no passage holds any of these words" in labeler.form.notice.value
    assert labeler.form.passages.passages == []


def test_the_next_item_is_looked_up_once_somebody_searched(labelled):
    """The index is there then; before it, opening a form reads no document."""
    labeler = Labeler(labelled, by="Ada")
    press(labeler, "next")
    assert labeler.found == () and "corpus" not in vars(labeler)
    press(labeler, "search", "next")

    assert labeler.found[0].document == "docs/storks.md"
    assert ["nest on chimneys", True] in [list(piece) for piece in labeler.form.passages.passages[0]["pieces"]]


def test_a_search_in_half_a_megabyte_is_quick(tmp_path):
    """Once there is an index, whoever labels does not wait: 0.2 s for the language reference."""
    poc = tmp_path / "poc"
    poc.mkdir()
    (poc / "charter.yaml").write_text("decision: x\n")
    (poc / "corpus.yaml").write_text("source: pydoc\n")
    labeler = Labeler(poc, by="Ada")
    press(labeler, "search")
    labeler.form.query.value = "which exception does an assert statement raise"
    took_s = []
    for _ in range(3):  # whatever else this process is at
        began = time.process_time()
        press(labeler, "search")
        took_s.append(time.process_time() - began)

    assert min(took_s) < 0.2
    assert 1 < len(labeler.found) <= FOUND


# --- the whole


def test_the_labeler_is_a_name_of_poclab(unlabelled):
    """In a notebook its last line shows it; elsewhere it says what it holds."""
    labeler = poclab.Labeler(unlabelled)

    assert "application/vnd.jupyter.widget-view+json" in labeler._repr_mimebundle_()
    assert repr(labeler) == "Labeler(animals, 0 cases, 2 candidates)"


def test_a_wrong_task_or_folder_is_refused(poc, tmp_path):
    """Where it was typed."""
    with pytest.raises(InputError, match="Labeler: unknown task 'reviews'\n  fix: did you mean 'review'"):
        Labeler(poc, task="reviews")
    with pytest.raises(InputError, match="no POC at"):
        Labeler(tmp_path)


def test_naming_the_labeler_loads_no_widgets():
    """The name is had without ipywidgets; a form needs them."""
    code = "import poclab, sys; poclab.Labeler; print([name for name in ('ipywidgets', 'anywidget') if name in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
