import json
import math
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poclab.cases import Case, Difference, Lock, TestSet, lock_path
from poclab.errors import FrozenError, InputError, StoreError
from poclab.freezing import assign_splits, freeze, take_over, validate
from poclab.rag import Corpus, Document

CORPUS = Corpus((Document("a", "The engine was written\nby Ada Lovelace."), Document("b", "Nothing else.")))
# Kills the process at the given rename: write_atomic puts a file in its place by one rename.
CRASH = """
import os, sys
renames = 0
def count(event, _):
    global renames
    renames += event == "os.rename"
    if event == "os.rename" and renames == int(sys.argv[2]):
        os._exit(9)
sys.addaudithook(count)
from poclab.freezing import freeze
freeze(sys.argv[1], new_edition=True)
"""


def case(number, **more):
    return {"id": f"q{number:03d}", "inputs": {"question": f"Question {number}?"}, "expected": {"answers": [f"answer {number}"]}, **more}


def write(path, cases):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in cases), encoding="utf-8")
    return path


def splits(path):
    return {one.id: one.split for one in TestSet.load(path)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cases.jsonl"


# --- what is fit to freeze


def refused(cases, find=None):
    with pytest.raises(InputError) as caught:
        validate(TestSet([Case.from_json(one, where="x") for one in cases]), find)
    return str(caught.value)


@pytest.mark.parametrize("other", ["Question 1?", "question 1", " QUESTION  1 ?! ", "Question\n1?", "Question\u00a01?", "question\t1."])
def test_a_question_that_is_asked_twice_is_refused(other):
    """It would count double. Case, white space and closing marks make no other question."""
    assert refused([case(1), case(2), case(3, inputs={"question": other}, expected=case(1)["expected"])]) == (
        "test set: cases 'q001' and 'q003' ask the same\n  fix: remove one, or reword it and give both one `cluster`"
    )


def test_two_answers_to_one_question_are_contradictory():
    """No system could get both right."""
    assert "cases 'q001' and 'q002' ask the same and expect different things: contradictory labels" in refused(
        [case(1), case(2, inputs={"question": "question 1"})]
    )


@pytest.mark.parametrize("other", [{"question": "Question 1?", "context": "x"}, {"question": "Question 12?"}, {"q": "Question 1?"}])
def test_another_input_makes_another_question(other):
    """The same question about another paragraph is another case."""
    validate(TestSet([Case.from_json(one, where="x") for one in (case(1), case(2, inputs=other))]), None)


ADDED = {"table": "mails", "added": {"to": "Ada"}}


@pytest.mark.parametrize("also", [{"answers": ["x"]}, {"data": {"n": 1}}, {"effects": [ADDED]}])
def test_a_case_that_expects_an_answer_and_to_abstain_is_contradictory(also):
    """One of the two is a mistake; which, only a person knows."""
    assert refused([case(1, expected={"abstain": True, **also})]) == (
        "test set: case 'q001' expects an answer and to abstain: contradictory labels\n  fix: remove `abstain`, or the answers"
    )


@pytest.mark.parametrize("expected", [{}, None, {"answers": []}, {"abstain": False}, {"data": {}}, {"evidence": ["a phrase"]}])
def test_a_case_that_expects_nothing_is_refused(expected):
    """Every reply would be as good as any other. Evidence alone says where to look, not what is right."""
    assert refused([case(1, expected=expected)]) == (
        'test set: case \'q001\' expects nothing\n  fix: add "expected": {"answers": ["..."]} or {"abstain": true}; '
        '{"effects": []} where nothing may change'
    )


@pytest.mark.parametrize(
    "more",
    [
        {"expected": {"abstain": True}},
        {"expected": {"data": {"n": 0}}},
        {"expected": {"effects": [ADDED]}},
        {"expected": {"effects": []}},
        {"expected": {"done": "SELECT 1"}},
        {"expected": {}, "rubric": "kind"},
    ],
)
def test_every_way_to_say_what_is_right_is_enough(more):
    """A rubric is for a judge; it stands in for expected values."""
    validate(TestSet([Case.from_json(case(1, **more), where="x")]), None)


def test_evidence_that_the_corpus_does_not_hold_is_refused_by_case():
    """A misspelt phrase would count as a failure of retrieval for ever. White space is folded, capitals are not."""
    found = case(1, expected={"answers": ["Ada"], "evidence": ["written by Ada"]})
    lost = case(2, expected={"answers": ["Ada"], "evidence": ["by Ada", "By Ada"]})

    validate(TestSet([Case.from_json(found, where="x")]), CORPUS.find)
    assert refused([found, lost], CORPUS.find).startswith("test set: 1 evidence phrase(s) not found in the corpus: case 'q002': 'By Ada'\n")


def test_a_refused_set_is_left_as_it_was(path):
    """Nothing is written before everything was checked."""
    write(path, [case(1), case(2, expected={})])
    before = path.read_bytes()
    with pytest.raises(InputError, match="cases.jsonl: case 'q002' expects nothing"):
        freeze(path)

    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# --- what is only likely to be a mistake


def test_few_cases_and_unchecked_evidence_are_warnings(path):
    """49 cases are few, 50 are not; evidence that nobody looked up is said so."""
    with_evidence = case(1, expected={"answers": ["Ada"], "evidence": ["by Ada"]})
    few = validate(TestSet([Case.from_json(one, where="x") for one in [with_evidence, *map(case, range(2, 50))]]), None)
    enough = validate(TestSet([Case.from_json(one, where="x") for one in map(case, range(50))]), CORPUS.find)

    assert [one.split(":")[0] for one in few] == ["49 cases", "the evidence was not looked up"]
    assert enough == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("write to ada.l@example.org", "an e-mail address"),
        ("call +49 30 1234567", "a phone number"),
        ("call (030) 555-0199.", "a phone number"),
        ("pay to DE89 3704 0044 0532 0130 00", "a bank account number"),
        ("pay to GB29NWBK60161331926819", "a bank account number"),
        ("use sk-proj-abcdefgh1234", "a key or token"),
        ("use AKIAIOSFODNN7EXAMPLE", "a key or token"),
    ],
)
@pytest.mark.parametrize("place", ["inputs", "expected", "label"])
def test_likely_personal_data_and_secrets_are_listed_by_case(text, what, place):
    """The set will be copied into a store and a report: a person should look first, wherever in the line it stands."""
    where = {"inputs": {"question": text}, "expected": {"answers": [text]}, "label": {"source": text}}
    warnings = validate(TestSet([Case.from_json(case(1, **{place: where[place]}), where="x")]), None)

    assert warnings[1:] == [f"case 'q001' may hold {what}"]


@pytest.mark.parametrize(
    "text",
    [
        "on 2026-11-23",
        "on 23-11-2026",
        "0.5 100 200",
        "Python 3.11.7",
        "x = a[1:10] @ b",
        "see q-001 and 1-2-3",
        "the task-list is skipped",
    ],
)
def test_ordinary_text_is_not_taken_for_personal_data(text):
    """A warning that is always there is not read."""
    assert len(validate(TestSet([Case.from_json(case(1, inputs={"question": text}), where="x")]), None)) == 1


# --- splits


def test_120_cases_are_split_80_to_40(path):
    """The default holds out one third, exactly."""
    write(path, [case(n, tags={"kind": "abc"[n % 3], "level": "de"[n % 2]}) for n in range(120)])
    frozen = freeze(path)

    assert Counter(splits(path).values()) == {"dev": 80, "test": 40}
    assert Counter(one.split for one in frozen.test_set) == {"dev": 80, "test": 40}
    assert not frozen.changes.removed and not frozen.changes.changed and len(frozen.changes.added) == 120


TAGS = st.dictionaries(st.sampled_from(["kind", "level"]), st.sampled_from(["a", "b", "c"]))


@given(st.lists(st.tuples(TAGS, st.booleans()), max_size=60), st.sampled_from([1 / 3, 0.1, 0.5, 0.62]), st.integers(0, 5))
def test_every_stratum_and_the_whole_keep_their_share_within_one_case(drawn, share, seed):
    """Whatever tags people use: no kind of question is missing from the held-out cases by bad luck."""
    cases = [Case(f"q{n}", {"x": n}, {"abstain": True} if abstain else {"answers": ["a"]}, tags) for n, (tags, abstain) in enumerate(drawn)]
    done = assign_splits(cases, {}, test_share=share, seed=seed)
    strata = {}
    for one in done:
        strata.setdefault((tuple(sorted(one.tags.items())), one.abstain), []).append(one.split == "test")

    assert [one.id for one in done] == [one.id for one in cases]
    assert sum(one.split == "test" for one in done) == math.floor(len(cases) * share + 0.5)
    for held_out in strata.values():
        assert abs(sum(held_out) - share * len(held_out)) < 1 + 1e-9


def test_cases_that_expect_to_abstain_are_held_out_like_the_others():
    """24 of 120 under the same tags: 8 of them are held out, exactly, whatever the seed."""
    cases = [Case(f"q{n}", {"x": n}, {"abstain": True} if n % 5 == 0 else {"answers": ["a"]}, {"kind": "a"}) for n in range(120)]

    for seed in range(5):
        held_out = [one for one in assign_splits(cases, {}, test_share=1 / 3, seed=seed) if one.split == "test"]
        assert (len(held_out), sum(one.abstain for one in held_out)) == (40, 8)


@given(st.permutations(range(30)))
def test_the_order_of_the_lines_does_not_decide_a_split(order):
    """Sorting the file before freezing holds out the same cases."""
    cases = [Case(f"q{n}", {"x": n}, {"answers": ["a"]}, {"kind": "ab"[n % 2]}) for n in range(30)]
    one = assign_splits(cases, {}, test_share=1 / 3, seed=0)
    other = assign_splits([cases[n] for n in order], {}, test_share=1 / 3, seed=0)

    assert {case.id: case.split for case in one} == {case.id: case.split for case in other}


def test_another_seed_holds_out_other_cases():
    """The draw is by chance, and repeatable."""
    cases = [Case(f"q{n}", {"x": n}, {"answers": ["a"]}) for n in range(60)]
    draws = {tuple(one.split for one in assign_splits(cases, {}, test_share=1 / 3, seed=seed)) for seed in (0, 0, 1, 2)}

    assert len(draws) == 3


@given(st.lists(st.sampled_from(["a", "b", "c", None, None, None]), min_size=1, max_size=40))
def test_all_cases_of_a_cluster_lie_in_one_split(clusters):
    """A paraphrase in dev would give its held-out twin away. The total is missed by less than the largest cluster."""
    cases = [Case(f"q{n:02d}", {"x": n}, {"answers": ["a"]}, {"kind": "xy"[n % 2]}, cluster=one) for n, one in enumerate(clusters)]
    done = assign_splits(cases, {}, test_share=1 / 3, seed=0)
    by_cluster = {}
    for one in done:
        by_cluster.setdefault(one.cluster or one.id, set()).add(one.split)
    largest = max(1, *(clusters.count(name) for name in "abc"))

    assert all(len(found) == 1 for found in by_cluster.values())
    assert abs(sum(one.split == "test" for one in done) - len(cases) / 3) < largest + 0.5


def test_a_split_that_a_person_marked_is_kept(path):
    """Somebody may know which cases the sponsor has seen."""
    write(path, [case(1, split="test"), case(2, split="dev"), case(3, split="test"), case(4, split="test")])
    freeze(path)

    assert splits(path) == {"q001": "test", "q002": "dev", "q003": "test", "q004": "test"}


@pytest.mark.parametrize("share", [0, 1, -0.5, 80, float("nan")])
def test_a_share_that_is_no_share_is_refused(path, share):
    """Percent, nothing and all are mistakes."""
    with pytest.raises(InputError, match="expected a number between 0 and 1"):
        freeze(write(path, [case(1)]), test_share=share)


# --- editions


def test_freezing_twice_changes_nothing(path):
    """Not a byte, not a date, whether or not a new edition was asked for."""
    write(path, [case(n) for n in range(9)])
    freeze(path, seed=1)
    before = path.read_bytes(), lock_path(path).read_bytes()
    for again in (freeze(path), freeze(path, new_edition=True, seed=2, test_share=0.9)):
        assert again.changes == Difference()
        assert again.test_set.lock.edition == 1

    assert (path.read_bytes(), lock_path(path).read_bytes()) == before


def test_a_changed_set_is_frozen_again_only_when_asked(path):
    """The two ways on are named, and nothing is written before one is taken."""
    write(path, [case(n) for n in range(9)])
    freeze(path)
    lock = lock_path(path).read_bytes()
    write(path, [case(n) for n in range(1, 10)])

    with pytest.raises(FrozenError, match="edition 1: 1 added: q009; 1 removed: q000; 8 changed: q001, .*\n  fix: put the old lines back"):
        freeze(path)
    assert lock_path(path).read_bytes() == lock


def test_a_new_edition_keeps_lineage_splits_and_says_what_changed(path):
    """The old entries stay readable under their edition; only what is new is drawn."""
    freeze(write(path, [case(n) for n in range(30)]), corpus_digest="c1")
    first, old = splits(path), Lock.load(lock_path(path))
    changed = [case(0, expected={"answers": ["corrected"]}), *(case(n) for n in range(1, 29)), *(case(n) for n in range(30, 45))]
    for one in changed:  # the splits that freezing wrote into the file are still there
        if one["id"] in first:
            one["split"] = first[one["id"]]
    frozen = freeze(write(path, changed), new_edition=True, corpus_digest="c2")
    lock = Lock.load(lock_path(path))

    assert frozen.changes == Difference(added=tuple(f"q{n:03d}" for n in range(30, 45)), removed=("q029",), changed=("q000",))
    assert {key: value for key, value in splits(path).items() if key in first} == {key: first[key] for key in first if key != "q029"}
    assert (lock.edition, lock.corpus_digest) == (2, "c2")
    assert lock.lineage == (old.summary(),)
    assert lock.lineage[0]["digest"] == old.digest != lock.digest
    assert lock.editions() == {1: old.cases, 2: lock.cases}
    assert Counter(splits(path).values()) == {"dev": 29, "test": 15}  # a third of 44


@pytest.mark.parametrize(("renamed", "reworded"), [(False, False), (True, False), (False, True)])
def test_a_case_that_left_and_came_back_has_its_old_split(path, renamed, reworded):
    """Known by its id or by its inputs, across three editions and without any mark in the file: held out once is held out for ever."""
    freeze(write(path, [case(n) for n in range(12)]))
    first = splits(path)
    back = [n for n in range(12) if n % 2]
    freeze(write(path, [case(n) for n in range(0, 12, 2)]), new_edition=True)
    freeze(write(path, [case(n) for n in (0, 2, 99)]), new_edition=True)
    returned = [
        case(n, inputs={"question": f"Other words {n}?" if reworded else f"Question {n}?"}, id=f"new{n}" if renamed else f"q{n:03d}")
        for n in back
    ]
    freeze(write(path, [case(0), *returned]), new_edition=True)

    assert [splits(path)[one["id"]] for one in returned] == [first[f"q{n:03d}"] for n in back]
    assert Lock.load(lock_path(path)).edition == 4


@given(st.integers(1, 20), st.lists(st.integers(1, 4), min_size=1, max_size=12))
def test_cases_that_are_added_a_few_at_a_time_reach_the_share_as_well(start, added):
    """One case an edition: without memory each would round to dev, and the held-out part would never grow."""
    cases, known = [], {}
    for size in (start, *added):
        cases += [Case(f"q{len(cases) + n}", {"x": len(cases) + n}, {"answers": ["a"]}) for n in range(size)]
        known |= {one.id: one.split for one in assign_splits(cases, known, test_share=1 / 3, seed=0)}

    assert list(known.values()).count("test") == math.floor(len(cases) / 3 + 0.5)


@given(st.integers(6, 40), st.lists(st.integers(0, 39), min_size=1, max_size=40))
def test_cases_that_are_replaced_leave_the_share_as_it_was(n, leaving):
    """One case leaves and one comes, edition after edition: whichever they are, the held-out part neither runs dry nor grows."""
    cases = assign_splits([Case(f"q{index}", {"x": index}, {"answers": ["a"]}) for index in range(n)], {}, test_share=1 / 3, seed=0)
    for edition, place in enumerate(leaving):
        kept = [one for index, one in enumerate(cases) if index != place % n]
        cases = assign_splits([*kept, Case(f"new{edition}", {"new": edition}, {"answers": ["a"]})], {}, test_share=1 / 3, seed=0)

        assert [one.split for one in cases].count("test") == math.floor(n / 3 + 0.5)


def test_what_old_cases_held_out_too_little_is_made_up_for_evenly():
    """30 dev cases and 30 new ones of two kinds: 20 of 60 are to be held out, 10 of either kind, not all of the first."""
    old = [Case(f"old{n}", {"x": n}, {"answers": ["a"]}, split="dev") for n in range(30)]
    new = [Case(f"new{n}", {"y": n}, {"answers": ["a"]}, {"kind": "ab"[n % 2]}) for n in range(30)]
    held_out = [one for one in assign_splits([*old, *new], {}, test_share=1 / 3, seed=0) if one.split == "test"]

    assert Counter(one.tags["kind"] for one in held_out) == {"a": 10, "b": 10}


REMOVED = {"table": "tickets", "removed": {"id": 6}}


def of_agent(number, inputs="task", **expected):
    return Case.from_json({"id": f"t{number}", "inputs": {inputs: f"Task {number}."}, "expected": expected}, where="x")


def test_a_task_that_nobody_has_to_refuse_in_words_is_a_warning():
    """Where nothing may change, "Done, I refunded it all." is right as long as no words are expected: what to write is said."""
    cases = [of_agent(1, effects=[]), of_agent(2, effects=[], answers=["30 days"]), of_agent(3, effects=[REMOVED]), of_agent(4, effects=[])]
    warnings = validate(TestSet(cases), None)

    assert len(warnings) == 2
    assert warnings[1].startswith("case(s) 't1', 't4' expect no change, and nothing that says that the task was refused")
    assert 'write "answers": ["more than 30 days", ...]' in warnings[1]


def test_a_task_under_another_name_is_a_warning():
    """Frozen as a `question`, or as a list, it could not be asked by notebook 06; another agent may take it."""
    cases = [of_agent(1, effects=[REMOVED]), of_agent(2, "question", effects=[REMOVED]), of_agent(3, "question", answers=["x"])]
    warnings = validate(TestSet([*cases, Case("t4", {"task": ["x"]}, {"effects": [REMOVED]})]), None)

    assert warnings[1:] == ["case(s) 't2', 't4' are no {\"task\": \"...\"}: the agent of notebook 06 takes that input alone"]


def test_a_split_without_cases_is_a_warning(path):
    """There would be nothing to decide by, and nobody would see it before the day of the decision."""
    assert freeze(write(path, [case(1)])).warnings[1:] == ("no case has the split 'test'",)


def test_a_mark_that_moves_a_case_to_the_other_split_is_refused(path):
    """Held-out cases do not become dev cases by editing a word."""
    freeze(write(path, [case(n) for n in range(3)]))
    moved = [{**case(n), "split": {"dev": "test", "test": "dev"}[one]} for n, one in enumerate(splits(path).values())]

    with pytest.raises(InputError, match="case 'q000': its mark, and what was frozen under its id or with its inputs, lie in both splits"):
        freeze(write(path, moved), new_edition=True)


def test_a_paraphrase_of_a_known_case_joins_its_split(path):
    """Whichever it is, the twin goes there; twins from both splits cannot be joined."""
    freeze(write(path, [case(n) for n in range(6)]))
    first = splits(path)
    dev, test = (next(key for key, value in first.items() if value == name) for name in ("dev", "test"))
    clustered = [case(n, cluster={dev: "d", test: "t"}.get(f"q{n:03d}")) for n in range(6)]
    twins = [case(10 + n, cluster="dt"[n % 2]) for n in range(6)]
    freeze(write(path, clustered + twins), new_edition=True)

    assert [splits(path)[f"q{10 + n:03d}"] for n in range(6)] == ["dev", "test"] * 3
    with pytest.raises(InputError, match="cluster 'd': its cases lie in both splits: "):
        freeze(write(path, [case(n, cluster="d") for n in range(6)]), new_edition=True)


# --- crashes and folders


@pytest.mark.parametrize("editions", [1, 2])
@pytest.mark.parametrize("rename", [1, 2])
def test_freezing_goes_on_after_a_crash(tmp_path, editions, rename):
    """Killed before the cases or between cases and lock: the same command ends where it would have ended, and never loads half frozen."""
    crashed, whole = (write(tmp_path / name / "cases.jsonl", [case(n) for n in range(9)]) for name in ("crashed", "whole"))
    for path in (crashed, whole):
        if editions == 2:
            freeze(path)
            write(path, [case(n) for n in range(1, 12)])
    ended = subprocess.run([sys.executable, "-c", CRASH, str(crashed), str(rename)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (9, "")
    with pytest.raises(FrozenError):
        TestSet.load(crashed)
    assert len(TestSet.read(crashed)) == {1: 9, 2: 11}[editions]
    for path in (crashed, whole):
        freeze(path, new_edition=True)

    assert crashed.read_bytes() == whole.read_bytes()
    assert lock_path(crashed).read_bytes() == lock_path(whole).read_bytes()


def test_a_lock_that_cannot_be_written_is_a_clear_error(path):
    """A folder stands where the lock should be: the cases are still there, with splits, and freezing goes on when it is gone."""
    write(path, [case(n) for n in range(9)])
    lock_path(path).mkdir()
    with pytest.raises(StoreError, match="cases.lock.json: cannot be written: Is a directory\n  fix: make .* writable"):
        freeze(path)
    half = [one.split for one in TestSet.read(path)]
    lock_path(path).rmdir()
    freeze(path)

    assert [one.split for one in TestSet.load(path)] == half


def test_freezing_keeps_every_character_of_a_file_from_another_editor(path):
    """CRLF, byte order mark and blank lines go; the texts stay, line separators of other alphabets included."""
    texts = ["a\u2028b", "c\x85d", "e\r\nf", "\u00e9\U0001f600", "g\x0bh\x1ei"]
    lines = [json.dumps(case(n, inputs={"question": text}), ensure_ascii=False) for n, text in enumerate(texts)]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode() + b"\r\n")
    freeze(path)

    assert [one.inputs["question"] for one in TestSet.load(path)] == texts
    assert path.read_bytes().count(b"\n") == 5


# --- importing


def test_an_import_never_overwrites_labels(path):
    """Labels are the expensive part of a POC."""
    source = path.with_name("x.csv")
    source.write_text("id,question,answers\na,A?,b\n")
    take_over(source, path)

    assert [one.id for one in TestSet.read(path)] == ["a"]
    take_over(source, path)  # the same cases once more: the command may be repeated
    source.write_text("id,question,answers\na,A?,c\n")
    with pytest.raises(InputError, match="cases.jsonl: exists already\n  fix: --new-edition, which adds"):
        take_over(source, path)


def test_a_second_import_is_added_to_the_first(path):
    """Cases come in batches: what was frozen keeps its split, and a case of an id that is there is not replaced."""
    source = path.with_name("x.csv")
    source.write_text("id,question,answers,by\na,A?,b,Eve\nb,B?,b,Eve\n")
    take_over(source, path)
    splits = [one.split for one in freeze(path, test_share=0.5).test_set]
    source.write_text("id,question,answers,by\nb,B?,b,Eve\nc,C?,c,Ada\n")
    take_over(source, path, add=True)
    second = freeze(path, new_edition=True)

    assert [(one.id, one.label["by"]) for one in second.test_set] == [("a", "Eve"), ("b", "Eve"), ("c", "Ada")]
    assert [one.split for one in second.test_set][:2] == splits
    source.write_text("id,question,answers,by\nb,B?,other,Eve\n")
    with pytest.raises(InputError, match="has other cases of the ids b\n  fix: give the new ones other ids"):
        take_over(source, path, add=True)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("a,A?", "2 cells under 7 columns"),
        ("a,A?,b,,,,\nc,a,b,,,,", "cases 'a' and 'c' ask the same"),
        ("a,A?,b,,x,,", "case 'a' expects an answer and to abstain"),
        ("a,A?,b,by Eve,,,", "not found in the corpus: case 'a': 'by Eve'"),
        ("a,A?,b,,,c,dev\nb,B?,b,,,c,test", "cluster 'c': its cases lie in both splits"),
    ],
)
def test_an_import_that_cannot_be_frozen_writes_nothing(path, lines, words):
    """The next try, with the file mended, finds the place free."""
    source = path.with_name("x.csv")
    source.write_text(f"id,question,answers,evidence,abstain,cluster,split\n{lines}\n")
    with pytest.raises(InputError, match=words):
        take_over(source, path, find=CORPUS.find)

    assert not path.exists()
