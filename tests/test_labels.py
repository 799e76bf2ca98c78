import datetime
import json
import threading
from dataclasses import replace

import pytest
from filelock import FileLock

from poclab import freezing, labels, rag
from poclab.cases import Case, TestSet, lines
from poclab.errors import FrozenError, InputError, StoreError
from poclab.files import read_json_lines
from poclab.reviews import Review

TODAY = datetime.date.today().isoformat()


@pytest.fixture
def fresh(poc):
    """The POC without a case and a lock: nothing was labelled yet."""
    (poc / "cases.jsonl").unlink()
    (poc / "cases.lock.json").unlink()
    return poc


@pytest.fixture
def thawed(poc):
    """The POC with its cases, which Ada labelled, and without a lock."""
    (poc / "cases.lock.json").unlink()
    cases = [{**one.to_json(), "label": {"by": "Ada", "on": "2026-11-23"}} for one in TestSet.read(poc)]
    (poc / "cases.jsonl").write_text("".join(json.dumps(one) + "\n" for one in cases))
    return poc


def question(text, case_id="q001"):
    return Case(case_id, {"question": text})


def answered(case, *answers, evidence=(), abstain=False, tags=None):
    return labels.edited(case, question=case.inputs["question"], answers=answers, evidence=evidence, abstain=abstain, tags=tags or {})


def find(poc):
    return rag.load_corpus(poc).find


def on_disk(path):
    return [value for _, value in read_json_lines(path)]


# --- questions


def test_questions_come_from_a_csv_file(fresh, tmp_path):
    """They keep their ids and tags, and the file they came from; a label in it is somebody's word, not yet one of this POC."""
    (tmp_path / "users.csv").write_text("id,question,answers,tag:kind,by\nu1,Do cats purr?,yes,lookup,Bob\n,Do owls sing?,,,\n")
    book = labels.add_candidates(labels.load(fresh), tmp_path / "users.csv")

    assert book.candidates == (
        Case("u1", {"question": "Do cats purr?"}, {"answers": ["yes"]}, {"kind": "lookup"}, label={"source": "users.csv"}),
        Case("q002", {"question": "Do owls sing?"}, label={"source": "users.csv"}),
    )
    assert book == labels.load(fresh)
    assert book.cases == ()


def test_questions_come_from_a_folder_below_the_poc(fresh):
    """A path is looked for where one is, then in the POC's folder."""
    (fresh / "asked").mkdir()
    (fresh / "asked" / "a.txt").write_text("Do cats purr?\n\n  Do owls sing?  \n")
    book = labels.add_candidates(labels.load(fresh), "asked")

    assert [(one.id, one.inputs["question"], one.label) for one in book.candidates] == [
        ("q001", "Do cats purr?", {"source": "a.txt"}),
        ("q002", "Do owls sing?", {"source": "a.txt"}),
    ]


def test_a_folder_of_questions_may_hold_csv_files_and_anything_else(fresh):
    """At any depth: each question is from its file; two files that name their questions alike do not collide; pictures are no questions."""
    deep = fresh / "asked" / "may" / "users"
    deep.mkdir(parents=True)
    (deep / "b.csv").write_text("id,question,source\nu1,Do owls sing?,the hotline\n")
    (deep / "c.CSV").write_text("id,question\nu1,Do bats?\n")
    (fresh / "asked" / "a.md").write_text("# Do cats purr?\n\nMine does.\n")
    (deep / "owl.png").write_bytes(b"\x89PNG\x00\xff")
    (fresh / "asked" / ".a.md.txt").write_text("an editor's copy")
    book = labels.add_candidates(labels.load(fresh), "asked")

    assert [(one.id, one.inputs["question"], one.label) for one in book.candidates] == [
        ("q001", "# Do cats purr?\n\nMine does.", {"source": "a.md"}),
        ("u1", "Do owls sing?", {"source": "the hotline"}),
        ("q002", "Do bats?", {"source": "c.CSV"}),
    ]


@pytest.mark.parametrize("name", ["a\0.csv", "a" * 5000 + ".txt", "a" * 5000])
def test_a_path_that_no_file_can_have_is_refused(fresh, name):
    """Whatever is pasted into the field, the answer is a sentence."""
    with pytest.raises(InputError):
        labels.add_candidates(labels.load(fresh), name)


def test_questions_come_from_the_home_folder(fresh, tmp_path, monkeypatch):
    """As a shell reads the path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "asked.txt").write_text("Do owls sing?\n")

    assert len(labels.add_candidates(labels.load(fresh), "~/asked.txt").candidates) == 1


def test_a_question_that_is_there_is_not_asked_twice(thawed):
    """In whatever words of case, white space and closing marks; among the cases, the candidates, or in the file itself."""
    (thawed / "more.txt").write_text("where do STORKS  nest\nDo owls sing?\ndo owls sing\n")
    book = labels.add_candidates(labels.load(thawed), "more.txt")

    assert [one.inputs["question"] for one in book.candidates] == ["Do owls sing?"]
    assert labels.add_candidates(book, "more.txt") is book


def test_an_id_is_not_given_twice(poc):
    """An id decides the split for ever: neither that of a case, nor one that only an earlier edition had, is given to a new question."""
    last = (poc / "cases.jsonl").read_text().splitlines()[:-1]
    (poc / "cases.jsonl").write_text("\n".join(last) + "\n")
    freezing.freeze(poc, new_edition=True)
    (poc / "more.jsonl").write_text('{"id": "q11", "question": "Do owls sing?"}\n{"id": "q01", "question": "Do bats sing?"}\n')
    book = labels.add_candidates(labels.load(poc), "more.jsonl")

    assert [one.id for one in book.candidates] == ["q012", "q013"]


def test_what_is_no_question_file_is_refused(fresh):
    """Nothing is written then."""
    (fresh / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no question in it\n  fix: write one question a line"):
        labels.add_candidates(labels.load(fresh), "empty")
    with pytest.raises(InputError, match="cannot import a .pdf file"):
        labels.add_candidates(labels.load(fresh), "x.pdf")
    with pytest.raises(InputError, match="gone.csv: no such file"):
        labels.add_candidates(labels.load(fresh), "gone.csv")

    assert not (fresh / "candidates.jsonl").exists()


def test_a_dropped_question_is_no_candidate(fresh):
    """The others stay; a case cannot be dropped like that."""
    (fresh / "a.txt").write_text("Do cats purr?\nDo owls sing?\n")
    book = labels.drop(labels.add_candidates(labels.load(fresh), "a.txt"), "q001")

    assert [one["id"] for one in on_disk(fresh / "candidates.jsonl")] == ["q002"]
    with pytest.raises(InputError, match="'q001' is not a candidate"):
        labels.drop(book, "q001")


def test_a_dropped_question_can_be_had_back(fresh):
    """The last one first, under its id, also when the files are read anew; an import does not bring it back, nor takes its id."""
    (fresh / "a.txt").write_text("Do cats purr?\nDo owls sing?\nDo bats?\n")
    book = labels.add_candidates(labels.load(fresh), "a.txt")
    for case_id in ("q003", "q001"):
        book = labels.drop(book, case_id)
    (fresh / "b.txt").write_text("do cats purr\nDo storks?\n")
    labels.add_candidates(book, "b.txt")

    book = labels.restore(labels.load(fresh))
    assert [(one.id, one.inputs["question"]) for one in book.candidates] == [
        ("q001", "Do cats purr?"),
        ("q002", "Do owls sing?"),
        ("q004", "Do storks?"),
    ]
    book = labels.restore(book)
    assert (book.candidates[0].id, book.dropped) == ("q003", ())
    with pytest.raises(InputError, match="no question was dropped"):
        labels.restore(book)


def test_a_question_that_was_dropped_when_the_process_died_is_still_a_candidate(fresh):
    """It is written where it can be had back before it is taken away; in both files it is not asked twice."""
    (fresh / "a.txt").write_text("A?\n")
    labels.add_candidates(labels.load(fresh), "a.txt")
    (fresh / "dropped.jsonl").write_text((fresh / "candidates.jsonl").read_text())
    book = labels.load(fresh)

    assert ([one.id for one in book.candidates], book.dropped) == (["q001"], ())
    assert len(labels.drop(book, "q001").dropped) == 1


# --- labels


def test_a_saved_question_is_a_case_with_who_when_and_from_what(fresh):
    """It leaves the candidates, and is labelled from the documents that hold its evidence."""
    (fresh / "a.txt").write_text("Where do storks nest?\nDo owls sing?\n")
    book = labels.add_candidates(labels.load(fresh), "a.txt")
    case = answered(book.candidates[0], "chimneys", "roofs", evidence=["nest on chimneys"], tags={"kind": "lookup"})
    saved = labels.save(book, case, by=" Ada ", find=find(fresh))

    assert on_disk(fresh / "cases.jsonl") == [
        {
            "id": "q001",
            "inputs": {"question": "Where do storks nest?"},
            "expected": {"answers": ["chimneys", "roofs"], "evidence": ["nest on chimneys"]},
            "tags": {"kind": "lookup"},
            "label": {"by": "Ada", "on": TODAY, "source": "docs/storks.md"},
        }
    ]
    assert [one.id for one in saved.candidates] == ["q002"]
    assert saved == labels.load(fresh)


def test_what_it_is_labelled_from_can_be_said(fresh):
    """What was typed comes before what the evidence says; without either, nothing is said."""
    book = labels.save(labels.load(fresh), answered(question("A?"), "a"), by="Ada", source="minutes of May", find=find(fresh))
    book = labels.save(book, answered(question("B?", "q002"), abstain=True), by="Ada", find=find(fresh))

    assert [one.label for one in book.cases] == [{"by": "Ada", "on": TODAY, "source": "minutes of May"}, {"by": "Ada", "on": TODAY}]


def test_a_source_goes_with_the_evidence_that_it_named(fresh):
    """Other evidence is from another document; what somebody wrote stays."""
    book = labels.save(labels.load(fresh), answered(question("A?"), "a", evidence=["nest on chimneys"]), by="Ada", find=find(fresh))
    edit = answered(book.case("q001"), "a", evidence=["hunt at night"])
    book = labels.save(book, edit, by="Ada", source="docs/storks.md", find=find(fresh))
    assert book.case("q001").label["source"] == "docs/owls.md"

    book = labels.save(book, answered(book.case("q001"), "b"), by="Ada", source="minutes of May", find=find(fresh))
    book = labels.save(book, answered(book.case("q001"), "c"), by="Ada", source="minutes of May", find=find(fresh))
    assert book.case("q001").label["source"] == "minutes of May"


def test_a_name_is_one_line(fresh):
    """As it is compared, so it is written."""
    book = labels.save(labels.load(fresh), answered(question("A?"), "a"), by=" Ada\n  Example\t")

    assert book.case("q001").label["by"] == "Ada Example"


def test_saved_cases_can_be_frozen(fresh):
    """That is what they are written for."""
    book = labels.load(fresh)
    for number, animal in enumerate(("cats", "storks", "owls"), start=1):
        book = labels.save(book, answered(question(f"What of {animal}?", f"q00{number}"), animal), by="Ada", find=find(fresh))

    assert labels.ready(fresh) == []
    assert len(freezing.freeze(fresh, find=find(fresh)).test_set) == 3


def test_an_edited_case_stays_in_its_place_with_a_new_label(thawed):
    """Who edits it answers for it; all that a form does not show stays."""
    case = Case("q02", {"question": "Where do storks nest?", "user": "u7"}, {"data": {"a": 1}}, {}, "dev", "c1", "be kind", {"by": "Ada"})
    lines = (thawed / "cases.jsonl").read_text().splitlines()
    (thawed / "cases.jsonl").write_text("\n".join([lines[0], json.dumps(case.to_json()), *lines[2:]]))
    book = labels.save(labels.load(thawed), answered(case, "roofs", tags={"kind": "lookup"}), by="Grace")

    assert book.cases[1] == Case(
        "q02",
        {"question": "Where do storks nest?", "user": "u7"},
        {"answers": ["roofs"], "data": {"a": 1}},
        {"kind": "lookup"},
        "dev",
        "c1",
        "be kind",
        {"by": "Grace", "on": TODAY},
    )
    assert len(book.cases) == len(lines)


def test_a_case_that_nobody_edited_keeps_its_label(thawed):
    """To leaf through the cases with `save` is no new label, and writes nothing."""
    book, before = labels.load(thawed), (thawed / "cases.jsonl").read_bytes()

    assert labels.save(book, book.cases[0], by="Grace") is book
    assert (thawed / "cases.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"answers": []}, "no answer yet"),
        ({"answers": ["a"], "abstain": True}, "an answer, and that there is none: contradictory"),
        ({"answers": ["a"], "question": " "}, "no question yet"),
    ],
)
def test_a_label_needs_a_question_and_one_of_two_things(fields, words):
    """An accepted answer, or that there is none."""
    given = {"question": "A?", "answers": [], "evidence": [], "abstain": False, "tags": {}, **fields}
    with pytest.raises(InputError, match=words):
        labels.edited(question("A?"), **given)


def test_what_could_not_be_frozen_is_not_saved(thawed):
    """Evidence that no document holds, a question that another case asks, a label without a name."""
    book, before = labels.load(thawed), (thawed / "cases.jsonl").read_bytes()
    fine = answered(question("Do owls sing?", "q12"), "no")

    with pytest.raises(InputError, match=r"1 evidence phrase\(s\) not found in the corpus: case 'q12': 'owls sing'"):
        labels.save(book, answered(fine, "no", evidence=["owls sing"]), by="Ada", find=find(thawed))
    with pytest.raises(InputError, match="cases 'q02' and 'q12' ask the same and expect different things"):
        labels.save(book, answered(question("Where do storks nest", "q12"), "trees"), by="Ada")
    with pytest.raises(InputError, match=r"no name: who says so\?"):
        labels.save(book, fine, by="  ")
    with pytest.raises(InputError, match="the name: half a character"):
        labels.save(book, fine, by="\ud800")

    assert (thawed / "cases.jsonl").read_bytes() == before


# --- frozen cases


def test_frozen_cases_change_only_when_that_is_allowed(poc):
    """Each change of a frozen set stops its evaluations: an edit, a new case, and a label that was settled otherwise."""
    book, before = labels.load(poc), (poc / "cases.jsonl").read_bytes()
    edit, new = answered(book.cases[1], "roofs"), answered(question("Do owls sing?", "q12"), "no")

    for case in (edit, new):
        with pytest.raises(FrozenError, match=r"frozen as edition 1: .* until there is a new edition\n  fix: allow it"):
            labels.save(book, case, by="Ada")
    assert (poc / "cases.jsonl").read_bytes() == before


def test_the_lock_is_never_touched(poc):
    """With the change allowed, evaluations name it, and a new edition takes it over; the case keeps its split."""
    book, lock = labels.load(poc), (poc / "cases.lock.json").read_bytes()
    labels.save(book, answered(book.cases[1], "roofs", evidence=["nest on chimneys"]), by="Ada", new_edition=True, find=find(poc))

    assert (poc / "cases.lock.json").read_bytes() == lock
    with pytest.raises(FrozenError, match="1 changed: q02"):
        TestSet.load(poc)
    assert freezing.freeze(poc, find=find(poc), new_edition=True).test_set.lock.edition == 2


# --- two who write at once


def test_a_file_that_changed_since_it_was_read_is_not_overwritten(fresh):
    """Another kernel, or an editor, wrote to it: their work stays, and after reading again the same case is saved."""
    mine = theirs = labels.load(fresh)
    labels.save(theirs, answered(question("A?", "q001"), "a"), by="Grace")
    case = answered(question("B?", "q002"), "b")

    with pytest.raises(StoreError, match=r"cases.jsonl changed since it was read: .*\n  fix: read it again, and save once more"):
        labels.save(mine, case, by="Ada")
    saved = labels.save(labels.load(fresh), case, by="Ada")
    assert [one.id for one in saved.cases] == ["q001", "q002"]


def test_candidates_that_changed_are_not_overwritten(fresh):
    """Two imports at once would lose one of them."""
    (fresh / "a.txt").write_text("A?\n")
    (fresh / "b.txt").write_text("B?\n")
    book = labels.load(fresh)
    labels.add_candidates(book, "a.txt")

    with pytest.raises(StoreError, match=r"candidates.jsonl changed since it was read"):
        labels.add_candidates(book, "b.txt")


def test_of_many_who_save_at_once_nobody_loses_a_case(fresh):
    """One process writes at a time; whoever comes second reads again."""

    def label(number):
        while True:
            try:
                labels.save(labels.load(fresh), answered(question(f"Question {number}?", f"x{number}"), "a"), by="Ada")
                return
            except StoreError:
                pass

    threads = [threading.Thread(target=label, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(one.id for one in labels.load(fresh).cases) == [f"x{number}" for number in range(8)]


def test_a_writer_that_hangs_is_waited_for_a_while(fresh, monkeypatch):
    """It is said, and nothing is written."""
    monkeypatch.setattr(labels, "PATIENCE_S", 0)
    book = labels.load(fresh)
    (fresh / ".poclab").mkdir(exist_ok=True)
    with FileLock(fresh / ".poclab" / "labels.lock"), pytest.raises(StoreError, match="another process has been writing labels"):
        labels.save(book, answered(question("A?"), "a"), by="Ada")


def test_a_case_that_was_saved_when_the_process_died_is_no_candidate(fresh):
    """The case is written before the candidate is taken away; in between it is in both files, and counts as a case."""
    (fresh / "a.txt").write_text("A?\nB?\n")
    book = labels.add_candidates(labels.load(fresh), "a.txt")
    (fresh / "cases.jsonl").write_text(json.dumps(answered(book.candidates[0], "a").to_json()) + "\n")
    book = labels.load(fresh)

    assert [one.id for one in book.candidates] == ["q002"]
    labels.drop(book, "q002")
    assert (fresh / "candidates.jsonl").read_text() == ""


def test_the_files_of_labelling_are_read_with_their_lines(thawed):
    """Somebody edits them by hand: what cannot be understood is named."""
    (thawed / "candidates.jsonl").write_text('\n{"id": "q12", "inputs": {"question": "A?"}, "answer": "a"}\n')
    with pytest.raises(InputError, match="candidates.jsonl, line 2: unknown key 'answer'"):
        labels.load(thawed)
    (thawed / "candidates.jsonl").unlink()
    (thawed / "reviews.jsonl").write_text('{"case": "q01"}\n')
    with pytest.raises(InputError, match="reviews.jsonl, line 1: 'digest' is None"):
        labels.load(thawed)


# --- reviews


def test_a_judgement_is_recorded_with_the_mark_that_follows(thawed):
    """One line: who, when, of which label, the own answers, and the mark."""
    book = labels.judge(labels.load(thawed), "q02", ["Chimneys"], by="Grace", note="clear")
    (line,) = on_disk(thawed / "reviews.jsonl")

    assert line.pop("digest") == labels.label_digest(book.case("q02"))
    assert line == {
        "case": "q02",
        "by": "Grace",
        "on": TODAY,
        "answerable": True,
        "answers": ["Chimneys"],
        "mark": "agree",
        "note": "clear",
    }
    assert "q02" not in [one.id for one in book.to_review("Grace")]


def test_a_mark_that_does_not_follow_is_picked_afterwards(thawed):
    """The own answer is on the disk first, without a mark; picking adds a line, and what was answered stays."""
    book = labels.judge(labels.load(thawed), "q02", ["on roofs"], by="Grace")
    assert "mark" not in on_disk(thawed / "reviews.jsonl")[0]
    assert "q02" in [one.id for one in book.to_review("grace")]

    book = labels.pick(book, "q02", "disagree", by="grace", note="roofs are no chimneys")
    assert [one.get("mark") for one in on_disk(thawed / "reviews.jsonl")] == [None, "disagree"]
    assert [(one.answers, one.mark) for one in book.disagreements] == [(("on roofs",), "disagree")]


def test_a_second_label_has_evidence_of_its_own(thawed):
    """Which a document holds, as that of the first; it decides no mark, and stays when one is picked."""
    book = labels.load(thawed)
    with pytest.raises(InputError, match="1 evidence phrase\\(s\\) not found in the corpus: case 'q02': 'on roofs'"):
        labels.judge(book, "q02", ["roofs"], by="Grace", evidence=["on roofs"], find=find(thawed))
    book = labels.judge(book, "q02", ["Africa"], by="Grace", evidence=["fly to Africa"], find=find(thawed))
    labels.pick(book, "q02", "disagree", by="Grace")

    assert [one["evidence"] for one in on_disk(thawed / "reviews.jsonl")] == [["fly to Africa"]] * 2


def test_a_judgement_is_blind_and_final(thawed):
    """Nobody reviews an own label, judges a case twice, or marks what they have not judged; after seeing it, unanswerable is no mark."""
    book = labels.judge(labels.load(thawed), "q02", ["on roofs"], by="Grace")

    with pytest.raises(InputError, match="case 'q02' was labelled by 'ada'"):
        labels.judge(book, "q02", [], by="ada")
    with pytest.raises(InputError, match="'Grace' has judged case 'q02' already"):
        labels.judge(book, "q02", [], by="Grace")
    with pytest.raises(InputError, match="nothing of 'Grace' waits for a mark"):
        labels.pick(book, "q03", "agree", by="Grace")
    with pytest.raises(InputError, match="unknown mark 'unanswerable'"):
        labels.pick(book, "q02", "unanswerable", by="Grace")
    with pytest.raises(InputError, match="no case 'q99'"):
        labels.judge(book, "q99", [], by="Grace")
    assert len(on_disk(thawed / "reviews.jsonl")) == 1


def test_a_label_that_changed_since_it_was_read_is_not_reviewed(thawed):
    """What would be compared, and shown, is not what is there; while other cases change, one may be reviewed."""
    book = labels.load(thawed)
    labels.save(book, answered(book.case("q02"), "roofs"), by="Ada")

    with pytest.raises(StoreError, match=r"cases.jsonl changed since it was read"):
        labels.judge(book, "q02", ["roofs"], by="Grace")
    assert labels.judge(book, "q03", ["night"], by="Grace").review("q03", "Grace").mark == "agree"


def test_reviewing_changes_no_case(poc):
    """A frozen set may be reviewed: only `reviews.jsonl` is written."""
    before = (poc / "cases.jsonl").read_bytes()
    labels.judge(labels.load(poc), "q07", [], by="Grace")

    assert (poc / "cases.jsonl").read_bytes() == before
    assert TestSet.load(poc)


def test_a_line_is_added_after_a_last_line_without_an_end(thawed):
    """As an editor leaves it."""
    labels.judge(labels.load(thawed), "q02", [], by="Grace")
    path = thawed / "reviews.jsonl"
    path.write_text(path.read_text().rstrip("\n"))
    labels.judge(labels.load(thawed), "q03", [], by="Grace")

    assert [one["case"] for one in on_disk(path)] == ["q02", "q03"]


# --- settling


@pytest.fixture
def disputed(thawed):
    """Grace says roofs where Ada says chimneys."""
    book = labels.judge(labels.load(thawed), "q02", ["roofs"], by="Grace")
    return labels.pick(book, "q02", "disagree", by="Grace")


def test_keeping_the_first_label_leaves_the_case_alone(disputed):
    """A frozen set stays frozen; that it was settled, and by whom, is on record."""
    before = (disputed.poc / "cases.jsonl").read_bytes()
    book = labels.settle(disputed, disputed.disagreements[0], "first", by="Linus", note="see the page")

    assert (disputed.poc / "cases.jsonl").read_bytes() == before
    assert book.disagreements == ()
    assert book.agreement.share.value == 0.0
    line = on_disk(disputed.poc / "reviews.jsonl")[-1]
    assert (line["case"], line["by"], line["on"], line["settled"], line["note"]) == ("q02", "Linus", TODAY, "first", "see the page")


def test_taking_the_second_label_makes_it_the_case(disputed):
    """It is by whoever settled; the evidence was that of the other answer. The next review is of the new label, and not asked of Grace."""
    book = labels.settle(disputed, disputed.disagreements[0], "second", by="Linus")

    assert book.case("q02").expected == {"answers": ["roofs"]}
    assert book.case("q02").label == {"by": "Linus", "on": TODAY}
    assert book.disagreements == ()
    assert "q02" not in [one.id for one in book.to_review("Grace")]
    assert "q02" in [one.id for one in book.to_review("Barbara")]


def test_a_second_label_that_is_taken_brings_its_evidence(thawed):
    """And is from the document of that, where the first was from that of its own."""
    cases = [replace(one, label={"by": "Ada", "source": "docs/storks.md"}) for one in labels.load(thawed).cases]
    (thawed / "cases.jsonl").write_text(lines(cases))
    book = labels.judge(labels.load(thawed), "q02", ["in caves"], by="Grace", evidence=["hang upside down"])
    book = labels.pick(book, "q02", "disagree", by="Grace")
    book = labels.settle(book, book.disagreements[0], "second", by="Linus", find=find(thawed))

    assert book.case("q02").expected == {"answers": ["in caves"], "evidence": ["hang upside down"]}
    assert book.case("q02").label == {"by": "Linus", "on": TODAY, "source": "docs/bats.md"}


def test_a_second_label_that_says_unanswerable_leaves_nothing_of_the_first(thawed):
    """An abstention beside an answer could not be frozen."""
    book = labels.judge(labels.load(thawed), "q02", [], by="Grace")
    book = labels.settle(book, book.disagreements[0], "second", by="Linus", find=find(thawed))

    assert book.case("q02").expected == {"abstain": True}


def test_neither_label_may_be_right(disputed):
    """The case is edited, as in labelling, and checked as there; who settled it labelled it."""
    case = answered(disputed.case("q02"), "chimneys", "roofs", evidence=["nest on chimneys"])
    with pytest.raises(InputError, match="not found in the corpus"):
        lost = answered(case, "x", evidence=["nowhere"])
        labels.settle(disputed, disputed.disagreements[0], "edit", by="Linus", case=lost, find=find(disputed.poc))
    book = labels.settle(disputed, disputed.disagreements[0], "edit", by="Linus", case=case, find=find(disputed.poc))

    assert book.case("q02").expected["answers"] == ["chimneys", "roofs"]
    assert on_disk(disputed.poc / "reviews.jsonl")[-1]["settled"] == "edit"


def test_a_disagreement_is_settled_once(disputed):
    """And in one of three ways."""
    (review,) = disputed.disagreements
    with pytest.raises(InputError, match="unknown way to settle 'third'"):
        labels.settle(disputed, review, "third", by="Linus")
    book = labels.settle(disputed, review, "first", by="Linus")
    with pytest.raises(InputError, match="this disagreement is settled"):
        labels.settle(book, review, "first", by="Linus")


def test_a_disagreement_whose_settling_was_killed_is_still_there(disputed):
    """The settlement is on the disk first; the case that it did not reach is settled again."""
    book = labels.settle(disputed, disputed.disagreements[0], "second", by="Linus")
    (disputed.poc / "cases.jsonl").write_text(lines(disputed.cases))  # as it was before the second file was written
    book = labels.load(disputed.poc)
    assert [(one.case, one.by) for one in book.disagreements] == [("q02", "Grace")]
    book = labels.settle(book, book.disagreements[0], "second", by="Linus")

    assert (book.disagreements, book.agreement.share.value, book.case("q02").expected) == ((), 0.0, {"answers": ["roofs"]})


def test_settling_a_frozen_case_otherwise_has_to_be_allowed(poc):
    """As editing it has; refused, nothing is on record."""
    book = labels.judge(labels.load(poc), "q02", [], by="Grace")
    with pytest.raises(FrozenError, match="frozen as edition 1"):
        labels.settle(book, book.disagreements[0], "second", by="Linus")

    assert len(on_disk(poc / "reviews.jsonl")) == 1
    assert labels.settle(book, book.disagreements[0], "first", by="Linus").disagreements == ()


def test_a_mark_is_of_the_label_that_is_seen(disputed):
    """Barbara answered before the case was settled, and looks at the settled label: she agrees with that one."""
    book = labels.judge(disputed, "q02", ["on a roof"], by="Barbara")
    book = labels.settle(book, disputed.disagreements[0], "second", by="Linus")
    book = labels.pick(book, "q02", "agree", by="Barbara")

    assert [(one.by, one.mark) for one in book.reviews] == [("Grace", "disagree"), ("Barbara", "agree")]
    assert book.review("q02", "Barbara").digest == labels.label_digest(book.case("q02"))
    assert isinstance(book.entries[0], Review)


# --- ready


def test_what_is_missing_is_listed_all_at_once(poc):
    """`poclab freeze` stops at the first thing; here are all of them, in its words."""
    (poc / "cases.lock.json").unlink()
    expects = [{"abstain": True}, {"abstain": True}, {}, {"answers": ["a"], "abstain": True}, {"answers": ["a"], "evidence": ["nowhere"]}]
    cases = [Case(f"q{n}", {"question": "Same?" if n < 2 else f"Case {n}?"}, one) for n, one in enumerate(expects)]
    cases += [Case(f"c{split}", {"question": split}, {"abstain": True}, split=split, cluster="c") for split in ("dev", "test")]
    (poc / "cases.jsonl").write_text("".join(json.dumps(one.to_json()) + "\n" for one in cases))

    assert [one.split(f"{poc / 'cases.jsonl'}: ")[-1].splitlines()[0] for one in labels.ready(poc)] == [
        "cases 'q0' and 'q1' ask the same",
        "case 'q2' expects nothing",
        "case 'q3' expects an answer and to abstain: contradictory labels",
        "1 evidence phrase(s) not found in the corpus: case 'q4': 'nowhere'",
        "cluster 'c': its cases lie in both splits: cdev, ctest",
    ]


def test_without_cases_nothing_is_ready(fresh):
    """Candidates are no cases."""
    (fresh / "a.txt").write_text("A?\n")
    labels.add_candidates(labels.load(fresh), "a.txt")

    assert labels.ready(fresh) == [f"{fresh / 'cases.jsonl'}: no cases yet"]


def test_without_a_corpus_evidence_is_not_looked_up(thawed):
    """As when freezing."""
    (thawed / "corpus.yaml").unlink()

    assert labels.documents(thawed) is None
    assert labels.ready(thawed) == []
