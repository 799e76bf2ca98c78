"""Label cases and review labels: the work of the `Labeler`, on the files of a POC, without widgets.

    candidates.jsonl   questions without a label, each a case; one leaves when it is saved as a case, or dropped
    dropped.jsonl      the candidates that were dropped, the last one last; each can be had back
    cases.jsonl        the cases; `label` says who saved one, when, and from what
    reviews.jsonl      only ever added to: what second labellers said, and how disagreements were settled (see `reviews`)

A file is written whole or not at all, by one process at a time, and never when it changed since it was read. The lock of a frozen set is
not touched: what changes its cases has to be allowed each time, since evaluations refuse them until there is a new edition.
Not covered: who really typed a name.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from poclab import freezing
from poclab.cases import Case, Lock, TestSet, fold, lines, lock_path
from poclab.errors import FrozenError, InputError, StoreError, refuse_unknown
from poclab.files import check_json, digest, plain, read_json_lines, read_text, require_poc, work_folder, write_atomic
from poclab.imports import import_questions
from poclab.rag import Corpus, load_corpus
from poclab.reviews import FILE as REVIEWS
from poclab.reviews import (
    PICKED,
    WAYS,
    Agreement,
    Entry,
    Review,
    Settlement,
    agreement,
    counted,
    disagreements,
    follows,
    is_first,
    label_digest,
    read_entries,
    same_name,
)

CASES, CANDIDATES, DROPPED = "cases.jsonl", "candidates.jsonl", "dropped.jsonl"
#: How long another process may write before it is said to hang.
PATIENCE_S = 10

#: Returns the documents that hold a phrase of evidence; None where there is no corpus to look in.
Find = Callable[[str], Sequence[str]] | None


@dataclass(frozen=True)
class Book:
    """The labels of a POC as they were read; `read` has the digests of the files. What changes them returns the book as it is then."""

    poc: Path
    cases: tuple[Case, ...]
    candidates: tuple[Case, ...]
    dropped: tuple[Case, ...]
    entries: tuple[Entry, ...]
    lock: Lock | None
    read: Mapping[str, str]

    def case(self, case_id: str) -> Case:
        """Return the case or candidate of this id.

        Raises:
            InputError: there is none.
        """
        for case in (*self.cases, *self.candidates):
            if case.id == case_id:
                return case
        raise InputError(f"{self.poc / CASES}: no case {case_id!r}", fix="read the files again: `labels.load(poc)`")

    @cached_property
    def reviews(self) -> tuple[Review, ...]:
        """The reviews that count."""
        return counted(self.cases, self.entries)

    @cached_property
    def disagreements(self) -> tuple[Review, ...]:
        """The reviews that differ from the label and are not settled, the oldest first."""
        return disagreements(self.cases, self.entries)

    @property
    def agreement(self) -> Agreement:
        return agreement(self.reviews)

    def review(self, case_id: str, by: str) -> Review | None:
        """Return what this labeller said of a case, as it is or was before it was settled."""
        return next((one for one in self.reviews if one.case == case_id and same_name(one.by, by)), None)

    def to_review(self, by: str) -> tuple[Case, ...]:
        """Return the cases that others labelled, and that this labeller has not marked yet."""
        done = {one.case for one in self.reviews if one.mark and same_name(one.by, by)}
        return tuple(one for one in self.cases if one.id not in done and not is_first(one, by))

    @cached_property
    def ids(self) -> frozenset[str]:
        """All ids that a case has or had: an id decides the split in every edition, so none is given twice."""
        editions = self.lock.editions().values() if self.lock else ()
        there = (one.id for one in (*self.cases, *self.candidates, *self.dropped))
        return frozenset(itertools.chain(*editions, there, (one.case for one in self.entries)))

    def new_ids(self) -> Iterator[str]:
        """Yield ids that no case has or had."""
        highest = max((int(name[1:]) for name in self.ids if re.fullmatch(r"q[0-9]{1,9}", name)), default=0)
        return (f"q{number:03d}" for number in itertools.count(highest + 1))


def load(poc: Path | str | None = None) -> Book:
    """Read the labels of a POC; a file that is not there yet holds nothing.

    Raises:
        InputError: no POC there, or a line that cannot be understood (with its number).
        FrozenError: the lock was edited.
    """
    poc = require_poc(poc)
    # Taken first: what is written between this and the reading is then refused, and not overwritten.
    read = {name: _digest(poc / name) for name in (CASES, CANDIDATES, DROPPED)}
    cases = TestSet.read(poc / CASES).cases if _text(poc / CASES).strip() else ()
    # What was on its way from one file to another when the process was killed is in both: it is a case before it is a candidate.
    candidates = _questions(poc / CANDIDATES, but=cases)
    dropped = _questions(poc / DROPPED, but=(*cases, *candidates))
    lock = lock_path(poc / CASES)
    return Book(poc, cases, candidates, dropped, read_entries(poc), Lock.load(lock) if lock.is_file() else None, read)


def documents(poc: Path) -> Corpus | None:
    """Return the corpus of a POC; None when it has no `corpus.yaml`."""
    return load_corpus(poc) if (poc / "corpus.yaml").is_file() else None


def ready(poc: Path | str | None = None) -> list[str]:
    """Return what `poclab freeze` would still refuse, all of it; nothing when the cases are ready.

    Raises:
        InputError, FrozenError: as `load`.
    """
    book = load(poc)
    if not book.cases:
        return [f"{book.poc / CASES}: no cases yet"]
    corpus = documents(book.poc)
    found = list(freezing.problems(TestSet(book.cases, path=book.poc / CASES), corpus and corpus.find))
    try:
        freezing.assign_splits(book.cases, freezing.known_splits(book.lock), test_share=1 / 3, seed=0)
    except InputError as error:
        found.append(error)
    return [str(one) for one in found]


# --- questions and labels


def add_candidates(book: Book, path: Path | str) -> Book:
    """Add the questions of a file or a folder (see `imports`), those that are not there yet, and were not dropped.

    Labels that a file has are there to be looked at; they count when somebody saves them. `path` is looked for here, then in
    the POC's folder.

    Raises:
        InputError: nothing there, or it cannot be read as questions.
        StoreError: the candidates changed since they were read, or cannot be written.
    """
    path = Path(os.path.expanduser(path))
    found = import_questions(path if os.path.exists(path) else book.poc / path)
    asked = {freezing.folded(one.inputs) for one in (*book.cases, *book.candidates, *book.dropped)}
    taken, fresh, new = set(book.ids), book.new_ids(), []
    for case in found:
        if (question := freezing.folded(case.inputs)) not in asked:
            case_id = case.id if case.id and case.id not in taken else next(one for one in fresh if one not in taken)
            new.append(replace(case, id=case_id, label={"source": (case.label or {}).get("source", path.name)}))
            asked.add(question)
            taken.add(case_id)
    return _write(book, {CANDIDATES: (*book.candidates, *new)}) if new else book


def edited(case: Case, *, question: str, answers: Sequence[str], evidence: Sequence[str], abstain: bool, tags: Mapping[str, str]) -> Case:
    """Return a case with what a labeller typed; its other inputs and expected values stay.

    Raises:
        InputError: no question, neither an answer nor `abstain`, or both.
    """
    rest = {key: value for key, value in case.expected.items() if key not in ("answers", "evidence", "abstain")}
    if abstain and (answers or any(rest.values())):
        raise InputError("an answer, and that there is none: contradictory", fix="remove the answers, or the tick at unanswerable")
    if not (answers or abstain or any(rest.values()) or case.rubric):
        raise InputError("no answer yet", fix="write an accepted answer, or tick unanswerable")
    if "question" in case.inputs and not question.strip():
        raise InputError("no question yet", fix="write the question")
    given = {"answers": list(answers), "evidence": list(evidence), "abstain": abstain}
    inputs = {**case.inputs, "question": question} if "question" in case.inputs else case.inputs
    return replace(case, inputs=inputs, expected={**{key: value for key, value in given.items() if value}, **rest}, tags=dict(tags))


def save(book: Book, case: Case, *, by: str, source: str = "", new_edition: bool = False, find: Find = None) -> Book:
    """Write a case with who labelled it, today, from `source` (else: the documents of its evidence); it is no candidate any more.

    A case that nobody edited keeps its label; a `source` that is the documents of evidence which was edited is not kept.
    `find` returns the documents that hold a phrase of evidence.

    Raises:
        InputError: no name, or a case that could not be frozen: says what is missing.
        FrozenError: the cases are frozen, and it is not allowed (`new_edition`) that they need a new edition.
        StoreError: the files changed since they were read, or cannot be written.
    """
    old = next((one for one in book.cases if one.id == case.id), None)
    if old and replace(case, label=old.label) == old and source.strip() in ("", (old.label or {}).get("source")):
        return book
    candidates = tuple(one for one in book.candidates if one.id != case.id)
    cases = _with(book, _labelled(case, old, by=by, source=source, find=find), new_edition=new_edition, find=find)
    return _write(book, {CASES: cases, **({CANDIDATES: candidates} if candidates != book.candidates else {})})


def drop(book: Book, case_id: str) -> Book:
    """Take a question off the candidates; `restore` brings it back.

    Raises:
        InputError: it is no candidate. StoreError: as `save`.
    """
    if case_id not in {one.id for one in book.candidates}:
        raise InputError(f"{case_id!r} is not a candidate", fix=f"to leave a case out, remove its line in {CASES}")
    left = tuple(one for one in book.candidates if one.id != case_id)
    return _write(book, {DROPPED: (*book.dropped, book.case(case_id)), CANDIDATES: left})


def restore(book: Book) -> Book:
    """Make the question that was dropped last a candidate again, the first one.

    Raises:
        InputError: none was dropped. StoreError: as `save`.
    """
    if not book.dropped:
        raise InputError("no question was dropped")
    return _write(book, {CANDIDATES: (book.dropped[-1], *book.candidates), DROPPED: book.dropped[:-1]})


# --- reviews


def judge(
    book: Book, case_id: str, answers: Sequence[str], *, by: str, note: str = "", evidence: Sequence[str] = (), find: Find = None
) -> Book:
    """Record what a second labeller answers (nothing: unanswerable) before the first label is shown, and the mark if it follows.

    Raises:
        InputError: no name, no such case, an own label, a judgement that was given already, or evidence that no document holds.
    """
    case, name = book.case(case_id), _name(by)
    if is_first(case, name):
        raise InputError(f"case {case_id!r} was labelled by {name!r}", fix="somebody else reviews it: change the name")
    if book.review(case_id, name):
        raise InputError(f"{name!r} has judged case {case_id!r} already", fix="a judgement is final: it was given without the first label")
    said = (tuple(answers), follows(case, answers), note.strip(), tuple(evidence))
    review = Review(case_id, label_digest(case), name, _today(), not case.abstain, *said)
    _refuse_unfit(book, [second(case, review)], find)
    return _write(book, entry=review)


def pick(book: Book, case_id: str, mark: str, *, by: str, note: str = "") -> Book:
    """Record the mark of who sees the first label, where it did not follow from their own answer.

    Raises:
        InputError: another word than agree or disagree, or there is no judgement that waits for one.
    """
    refuse_unknown([mark], PICKED, where=f"case {case_id!r}", what="mark")
    review, case = book.review(case_id, by), book.case(case_id)
    if review is None or review.mark:
        raise InputError(f"case {case_id!r}: nothing of {by!r} waits for a mark", fix="answer it first, without the label")
    # The label that is seen now, and marked, may be a settled one.
    seen = {"digest": label_digest(case), "answerable": not case.abstain}
    return _write(book, entry=replace(review, **seen, mark=mark, on=_today(), note=note.strip() or review.note))


def settle(
    book: Book,
    review: Review,
    way: str,
    *,
    by: str,
    case: Case | None = None,
    note: str = "",
    new_edition: bool = False,
    find: Find = None,
) -> Book:
    """Settle the disagreements on a case: keep the `first` label, take the `second`, or `edit`: the `case` given. Record who did.

    A label that is kept stays as it is, and so does a frozen set; one that is changed is by whoever settled it.

    Raises:
        InputError: no name, nothing to settle, or a case that could not be frozen.
        FrozenError, StoreError: as `save`.
    """
    refuse_unknown([way], WAYS, where=f"case {review.case!r}", what="way to settle")
    if review not in book.disagreements:
        raise InputError(f"case {review.case!r}: this disagreement is settled", fix="read the files again: `labels.load(poc)`")
    old = book.case(review.case)
    new = {"first": old, "second": second(old, review), "edit": case or old}[way]
    way = "first" if new == old else way  # saved without an edit
    entry = Settlement(old.id, label_digest(old), _name(by), _today(), way, label_digest(new), note.strip())
    if new == old:
        return _write(book, entry=entry)
    labelled = _labelled(new, old, by=by, source=(old.label or {}).get("source", ""), find=find)
    return _write(book, {CASES: _with(book, labelled, new_edition=new_edition, find=find)}, entry=entry)


def second(case: Case, review: Review) -> Case:
    """Return the case as the second labeller has it, with their evidence."""
    evidence = {"evidence": list(review.evidence)} if review.evidence else {}
    if not review.answers:
        return replace(case, expected={"abstain": True, **evidence})
    rest = {key: value for key, value in case.expected.items() if key in ("data", "effects")}
    return replace(case, expected={"answers": list(review.answers), **evidence, **rest})


# --- files


def _write(book: Book, changed: Mapping[str, Sequence[Case]] | None = None, *, entry: Entry | None = None) -> Book:
    """Write a review, which says what becomes of the case, then the files that are given, in that order; return the book read again."""
    changed = changed or {}
    with _alone(book.poc):
        stale = [name for name in changed if _digest(book.poc / name) != book.read[name]]
        if entry and label_digest(load(book.poc).case(entry.case)) != entry.digest:
            stale.append(CASES)  # other cases may change while one is reviewed
        if stale:
            raise StoreError(
                f"{book.poc / stale[0]} changed since it was read: somebody else wrote to it",
                fix="read it again, and save once more: `labels.load(poc)`; a Labeler's `Read again` keeps what you typed",
            )
        if entry:
            line = {key: value for key, value in plain(entry).items() if key == "answers" or value not in (None, "", [])}
            old = _text(book.poc / REVIEWS)
            between = "\n" if old and not old.endswith("\n") else ""
            write_atomic(book.poc / REVIEWS, f"{old}{between}{json.dumps(line, ensure_ascii=False)}\n")
        for name, new in changed.items():
            write_atomic(book.poc / name, lines(new))
    return load(book.poc)


@contextlib.contextmanager
def _alone(poc: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(work_folder(poc) / "labels.lock")
    try:
        lock.acquire(timeout=PATIENCE_S)
    except Timeout:
        raise StoreError(f"{poc}: another process has been writing labels for {PATIENCE_S} s", fix="end it, and save again") from None
    try:
        yield
    finally:
        lock.release()


def _text(path: Path) -> str:
    return read_text(path) if path.exists() else ""


def _digest(path: Path) -> str:
    return digest(path.read_bytes() if path.exists() else b"")


def _questions(path: Path, *, but: Iterable[Case]) -> tuple[Case, ...]:
    """Return the cases of a file, without those that are elsewhere; nothing without the file."""
    known = {one.id for one in but}
    found = (Case.from_json(value, where=f"{path}, line {number}") for number, value in (read_json_lines(path) if path.exists() else ()))
    return TestSet(tuple(one for one in found if one.id not in known), path=path).cases


def _labelled(case: Case, old: Case | None, *, by: str, source: str, find: Find) -> Case:
    """Return a case with its label; of a source that is the documents of the old evidence, with those of the new."""

    def documents(case: Case) -> str:
        evidence = case.expected.get("evidence", ()) if find else ()
        return ", ".join(dict.fromkeys(name for text in evidence for name in find(text)[:1]))

    said = source.strip()
    source = documents(case) if not said or (old and said == documents(old)) else said
    return replace(case, label={"by": _name(by), "on": _today(), **({"source": source} if source else {})})


def _with(book: Book, case: Case, *, new_edition: bool, find: Find) -> tuple[Case, ...]:
    """Return the cases with this one in its place, or at the end, unless it could not be frozen with them."""
    if book.lock and not new_edition:
        raise FrozenError(
            f"{book.poc / CASES} is frozen as edition {book.lock.edition}: with this, evaluations refuse it until there is a new edition",
            fix="allow it (`new_edition=True`; a box to tick in a Labeler), and `poclab freeze --new-edition` when all is labelled",
        )
    others = [one for one in book.cases if one.id != case.id]
    same = [one for one in others if freezing.folded(one.inputs) == freezing.folded(case.inputs)]
    _refuse_unfit(book, (*same, case), find)
    return (*others, case) if len(others) == len(book.cases) else tuple(case if one.id == case.id else one for one in book.cases)


def _refuse_unfit(book: Book, cases: Sequence[Case], find: Find) -> None:
    for problem in freezing.problems(TestSet(tuple(cases), path=book.poc / CASES), find):
        raise problem


def _name(by: str) -> str:
    check_json(by, where="the name")
    if not by.strip():
        raise InputError("no name: who says so?", fix='write it: `Labeler(poc, by="Ada")`, or the box above the list')
    return fold(by)


def _today() -> str:
    return datetime.date.today().isoformat()
