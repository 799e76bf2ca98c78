"""The frozen test set: labelled cases, their split, and the lock that refuses any later change.

`cases.jsonl` is for people to write; `freeze` checks it, gives every case a split, and writes `cases.lock.json` with a
digest per case. From then on an edited case is an error that names it, until a new edition is frozen.
Reading foreign files is in `imports`; what makes a set fit to freeze is in `freezing`. Nothing here scores a case.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from poclab.changes import expectations
from poclab.errors import FrozenError, InputError, printable, refuse_unknown
from poclab.files import check_json, digest, find_poc, read_json, read_json_lines
from poclab.tables import block, counts_text, folded, html_table, paragraph

CASE_KEYS = ("id", "inputs", "expected", "tags", "split", "cluster", "rubric", "label")
EXPECTED_KEYS = ("answers", "evidence", "abstain", "data", "effects", "done")
SPLITS = ("dev", "test")
#: What a notebook shows of a set, and how many of many accepted answers a person is told.
CASES_SHOWN = 20
ANSWERS_SHOWN = 3
LINE = 'one JSON object a line: {"id": "q001", "inputs": {"question": "..."}, "expected": {"answers": ["..."]}}'


@dataclass(frozen=True)
class Case:
    """One labelled input. `cluster` names the group of paraphrases it belongs to; `label` says by whom, when, from what.

    Raises:
        InputError: a value of the wrong kind, or one that JSON does not have.
    """

    id: str
    inputs: Mapping[str, Any]
    expected: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    cluster: str | None = None
    rubric: str | None = None
    label: Mapping[str, str] | None = None

    def __hash__(self) -> int:
        return hash(self.id)

    def __post_init__(self) -> None:
        _check_case(self.to_json(), f"case {self.id!r}")

    @property
    def abstain(self) -> bool:
        """True when the right reply is to say that it cannot be answered."""
        return bool(self.expected.get("abstain"))

    @cached_property
    def digest(self) -> str:
        """The SHA-256 over everything in the case's line."""
        return digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        values = {key: getattr(self, key) for key in CASE_KEYS}
        return {key: value for key, value in values.items() if value is not None and (key != "tags" or value)}

    @classmethod
    def from_json(cls, data: Any, *, where: str) -> Case:
        """Return the case that one line describes.

        Raises:
            InputError: an unknown key, a missing one, or a value of the wrong kind; names `where`.
        """
        if not isinstance(data, dict):
            raise InputError(f"{where}: expected a JSON object, found {type(data).__name__}")
        refuse_unknown(data, CASE_KEYS, where=where)
        if not isinstance(data.get("id"), str) or not data["id"].strip():
            raise InputError(f"{where}: a case needs an id (a text), found {data.get('id')!r}", fix='add "id": "q001"')
        try:
            return cls(**{"inputs": {}, **{key: value for key, value in data.items() if value is not None}})
        except InputError as error:
            raise InputError(f"{where}, {error.message}", fix=error.fix) from None


def _check_case(data: Mapping[str, Any], where: str) -> None:
    def kind(key: str, expected: type, what: str) -> None:
        value = data.get(key)
        if value is not None and not isinstance(value, expected):
            raise InputError(f"{where}: {key!r} is {what}, found {value!r}")

    check_json(data, where=where)
    kind("id", str, "a text")
    kind("inputs", dict, 'an object such as {"question": "..."}')
    kind("expected", dict, 'an object such as {"answers": ["..."]}')
    for key in ("tags", "label"):
        kind(key, dict, "an object of texts")
    for key in ("split", "cluster", "rubric"):
        kind(key, str, "a text")
    if all(isinstance(value, str) and not value.strip() for value in (data.get("inputs") or {}).values()):
        raise InputError(f"{where}: no inputs", fix='add "inputs": {"question": "..."}')
    for key in ("tags", "label"):
        for name, value in (data.get(key) or {}).items():
            if not isinstance(value, str):
                raise InputError(f"{where}: {key}.{name} is a text, found {value!r}")
    if data.get("split") is not None and data["split"] not in SPLITS:
        raise InputError(f"{where}: split {data['split']!r}", fix="use 'dev' or 'test', or leave it out: freezing assigns it")
    expected = data.get("expected") or {}
    refuse_unknown(expected, EXPECTED_KEYS, where=f"{where}, expected")
    for key in ("answers", "evidence"):
        values = expected.get(key, [])
        if not isinstance(values, list) or not all(isinstance(one, str) and one.strip() for one in values):
            raise InputError(f"{where}: expected.{key} is a list of texts, none of them empty, found {values!r}")
    for key, wanted in (("abstain", bool), ("data", dict), ("effects", list), ("done", str)):
        if key in expected and not isinstance(expected[key], wanted):
            raise InputError(f"{where}: expected.{key} is a {wanted.__name__}, found {expected[key]!r}")
    expectations(expected.get("effects", ()), where=where)


@dataclass(frozen=True)
class Lock:
    """What was frozen: per case its digest, the digest of its inputs, and its split; `lineage` holds the editions before."""

    edition: int
    cases: Mapping[str, Mapping[str, str]]
    frozen_on: str
    corpus_digest: str | None = None
    lineage: tuple[Mapping[str, Any], ...] = ()

    @property
    def digest(self) -> str:
        """The SHA-256 over every case's id and digest, in the order of the ids."""
        return digest({case_id: entry["digest"] for case_id, entry in self.cases.items()})

    def to_json(self) -> dict[str, Any]:
        """Return what the lock file holds; its seal is the SHA-256 over all the rest of it."""
        data = {**self.summary(), "lineage": list(self.lineage)}
        return {**data, "seal": digest(data)}

    def summary(self) -> dict[str, Any]:
        """Return the entry that later editions keep of this one."""
        return {
            "edition": self.edition,
            "digest": self.digest,
            "frozen_on": self.frozen_on,
            "corpus_digest": self.corpus_digest,
            "cases": dict(self.cases),
        }

    def editions(self) -> dict[int, Mapping[str, Mapping[str, str]]]:
        """Return the entries of every case, by edition, the oldest first."""
        return {**{entry["edition"]: entry["cases"] for entry in self.lineage}, self.edition: self.cases}

    def since_first(self) -> str:
        """Return what became of the held-out cases since the first edition, in words; nothing when this is the first."""
        (first, old), *_, (last, new) = [*self.editions().items(), (self.edition, self.cases)]
        if first == last:
            return ""
        before, after = ({name: one["digest"] for name, one in entries.items() if one["split"] == "test"} for entries in (old, new))
        changes = difference(before, after)
        told = f"{len(changes.removed)} of {len(before)} held-out cases removed, {len(changes.changed)} changed, {len(changes.added)} added"
        return f"since edition {first}: {told}"

    @classmethod
    def load(cls, path: Path) -> Lock:
        """Read a lock.

        Raises:
            FrozenError: its seal does not fit what it says, or it is no lock.
        """
        try:
            data = read_json(path)
            lock = cls(data["edition"], data["cases"], data["frozen_on"], data["corpus_digest"], tuple(data["lineage"]))
            intact = lock.to_json() == data
        except (InputError, KeyError, TypeError, AttributeError, ValueError, RecursionError):
            intact = False
        if not intact:
            raise FrozenError(
                f"{path}: not a lock that poclab wrote, or edited since",
                fix=f"put the old file back (`git checkout {path}`)",
            )
        return lock


@dataclass(frozen=True)
class Difference:
    """Ids of the cases that were added, removed and changed between two sets or editions."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        parts = [(len(ids), word, ids) for word, ids in vars(self).items() if ids]
        listed = [f"{n} {word}: {', '.join(ids[:12])}{' ...' if n > 12 else ''}" for n, word, ids in parts]
        return printable("; ".join(listed)) or "no difference"


def difference(old: Mapping[str, str], new: Mapping[str, str]) -> Difference:
    """Compare two mappings of case id to digest."""
    added = tuple(sorted(set(new) - set(old)))
    removed = tuple(sorted(set(old) - set(new)))
    return Difference(added, removed, tuple(sorted(key for key in set(old) & set(new) if old[key] != new[key])))


@dataclass(frozen=True)
class TestSet:
    """Cases in order, with the lock they were frozen under (None: built in memory, not frozen)."""

    __test__ = False

    cases: tuple[Case, ...]
    lock: Lock | None = None
    path: Path | None = None
    part: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "cases", tuple(self.cases))
        # Wherever the process goes later, the set belongs to the POC that it was read from.
        object.__setattr__(self, "path", self.path and Path(self.path).absolute())
        seen: set[str] = set()
        for case in self.cases:
            if case.id in seen:
                raise InputError(f"{self.path or 'test set'}: two cases have the id {case.id!r}", fix="give each its own id")
            seen.add(case.id)

    @classmethod
    def load(cls, path: Path | str) -> TestSet:
        """Load a frozen set (`cases.jsonl`, when `path` is a folder) and verify every case against the lock beside it.

        Raises:
            FrozenError: no lock, or a case changed, was added or removed since it was frozen; names the ids.
            InputError: the file cannot be read as cases; names file and line.
        """
        test_set = cls.read(path)
        lock_file = lock_path(test_set.path)
        if not lock_file.is_file():
            back = f"if it was frozen, put {lock_file.name} back (`git checkout {lock_file}`); if it never was: "
            split = any(case.split for case in test_set)
            raise FrozenError(f"{path}: not frozen: there is no {lock_file.name}", fix=f"{back if split else ''}`poclab freeze`")
        frozen = cls(test_set.cases, Lock.load(lock_file), test_set.path)
        frozen.verify()
        return frozen

    @classmethod
    def read(cls, path: Path | str) -> TestSet:
        """Read a case file as it stands, frozen or not.

        Raises:
            InputError: missing, empty, a broken line (with its number), an unknown key, a duplicate id.
        """
        path = Path(path) / "cases.jsonl" if os.path.isdir(path) else Path(path)
        if not os.path.exists(path):  # also false of a name that no file can have
            raise InputError(f"{path}: no such file", fix=f"check the path, or write your cases there, {LINE}")
        cases = [Case.from_json(value, where=f"{path}, line {number}") for number, value in read_json_lines(path)]
        if not cases:
            raise InputError(f"{path}: no cases", fix=f"write {LINE}")
        return cls(tuple(cases), path=path)

    def verify(self) -> None:
        """Check every case against the lock; those of one split against its part of the lock.

        Raises:
            FrozenError: names the changed, added and removed ids and the two ways on.
        """
        if self.lock is None:
            raise FrozenError("this test set was never frozen", fix="`poclab freeze`")
        parts = (self.part,) if self.part in SPLITS else SPLITS
        frozen = {case_id: entry["digest"] for case_id, entry in self.lock.cases.items() if entry["split"] in parts}
        changes = difference(frozen, {case.id: case.digest for case in self.cases})
        if changes:
            raise FrozenError(
                f"{self.path}: changed after it was frozen as edition {self.lock.edition}: {changes}",
                fix=f"put the old lines back (`git checkout {self.path or 'cases.jsonl'}`), or `poclab freeze --new-edition` "
                f"to start edition {self.lock.edition + 1}",
            )

    def split(self, name: str) -> TestSet:
        """Return the cases of one split; `all` returns every case.

        Raises:
            InputError: no such split, or no case in it.
        """
        if name == "all":
            return TestSet(self.cases, self.lock, self.path, "all")
        if name not in SPLITS:
            raise InputError(f"unknown split {name!r}", fix="use 'dev', 'test' or 'all'")
        chosen = tuple(case for case in self.cases if case.split == name)
        if not chosen:
            raise InputError(f"{self.path or 'test set'}: no case has the split {name!r}", fix="`poclab freeze` assigns splits")
        return TestSet(chosen, self.lock, self.path, name)

    def difference(self, newer: TestSet) -> Difference:
        """Return what `newer` added, removed and changed."""
        return difference({case.id: case.digest for case in self.cases}, {case.id: case.digest for case in newer.cases})

    @property
    def digest(self) -> str:
        """The lock's digest: the identity of the whole frozen set, whichever split this is."""
        return self.lock.digest if self.lock else digest({case.id: case.digest for case in self.cases})

    @property
    def poc(self) -> Path | None:
        """The POC folder this set belongs to: the folder of its file."""
        return (find_poc(self.path) or self.path.resolve().parent) if self.path else None

    @property
    def name(self) -> str:
        return self.poc.name if self.poc else "in_memory"

    def rows(self) -> list[dict[str, Any]]:
        """Return one line per case for a table: id, inputs, what is expected, tags, split, cluster."""
        return [
            {
                "case": case.id,
                **case.inputs,
                "expected": expected_text(case.expected),
                **{f"tag:{name}": value for name, value in case.tags.items()},
                "split": case.split,
                "cluster": case.cluster,
            }
            for case in self.cases
        ]

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    @property
    def _edition(self) -> str:
        return f"edition {self.lock.edition}, {self.digest[:12]}" if self.lock else "not frozen"

    def __repr__(self) -> str:
        return printable(f"TestSet({self.name}, {len(self)} cases{f', {self.part}' if self.part else ''}, {self._edition})")

    def _repr_html_(self) -> str:
        head = f"{len(self)} cases{f' of {self.part}' if self.part else ''}, {self._edition}"
        return block(paragraph(head, name=self.name), html_table([], self._counts()), folded("cases", self._cases_html()))

    def _counts(self) -> Iterator[tuple[str, str]]:
        """Yield how many cases there are of each split, and of each value of each tag."""
        yield "split", counts_text(Counter(case.split or "none yet" for case in self.cases))
        for name in dict.fromkeys(name for case in self.cases for name in case.tags):
            yield name, counts_text(Counter(case.tags[name] for case in self.cases if name in case.tags))

    def _cases_html(self) -> str:
        seen = [case for case in self.cases if case.split != "test"]  # those that are held out are not for reading
        rows = [
            (case.id, case.split or "", first_input(case.inputs), expected_text(case.expected, brief=True)) for case in seen[:CASES_SHOWN]
        ]
        hidden = len(self) - len(rows)
        more = paragraph(f"{hidden} more, of which {len(self) - len(seen)} are held out" if hidden else "")
        return html_table(["case", "split", "input", "expected"], rows) + more


def first_input(inputs: Mapping[str, Any]) -> str:
    """Return the question of a case, else its first input, as text."""
    return str(inputs.get("question") or next(iter(inputs.values()), ""))


def expected_text(expected: Mapping[str, Any], *, brief: bool = False) -> str:
    """Return what a case expects, in words; `brief` names the first of many accepted answers, and how many there are."""
    if expected.get("abstain"):
        return "(abstain)"
    answers = list(expected.get("answers", ()))
    if brief and len(answers) > ANSWERS_SHOWN:
        answers[ANSWERS_SHOWN:] = [f"... ({len(answers)} accepted)"]
    words = " | ".join(answers) or (json.dumps(expected["data"], ensure_ascii=False) if expected.get("data") else "")
    if "effects" not in expected:
        return words or expected.get("done", "")
    changes = "; ".join(map(str, expectations(expected["effects"], where="expected"))) or "(no change)"
    return f"{changes}; says {words}" if words else changes


def fold(text: str) -> str:
    """Return the text as evidence is compared, when a set is frozen and when it is scored: any white space is one space."""
    return " ".join(text.split())


def lock_path(cases_path: Path) -> Path:
    return cases_path.with_name(f"{cases_path.stem}.lock.json")


def lines(cases: Iterable[Case]) -> str:
    """Return the cases as the text of a `cases.jsonl`, keys in the order of `CASE_KEYS`."""
    return "".join(json.dumps(case.to_json(), ensure_ascii=False) + "\n" for case in cases)
