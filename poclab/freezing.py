"""Freeze a test set: validate it, give every case a split for ever, write the lock.

What is refused stops the freeze; what is only likely to be a mistake is returned as a warning to read.
Personal data and secrets are looked for by pattern: a hit is a hint, and no hit is no proof.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from poclab.cases import SPLITS, Case, Difference, Lock, TestSet, difference, lines, lock_path
from poclab.errors import InputError
from poclab.files import canonical, digest, read_text, write_atomic
from poclab.imports import import_cases

FEW = 50
#: How many cases a warning names.
NAMED = 8
PERSONAL = {
    "an e-mail address": re.compile(r"[\w.+-]+@[\w-]+\.[a-z]{2,}", re.I),
    "a phone number": re.compile(
        r"(?<![\w.])(?:\+?\d{1,3}[ -]\(?\d{2,4}\)?[ -]\d{3,4}[ -]?\d{2,4}|\(?\d{3}\)?[ -]\d{3}[ -]\d{4})(?!\w|\.\d)"
    ),
    "a bank account number": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "a key or token": re.compile(r"\b(?:sk-|ghp_|AKIA|xox[bp]-|eyJhbGci)[\w-]{8,}"),
}


@dataclass(frozen=True)
class Frozen:
    """What `freeze` did: the set under its new lock, what changed since the edition before, and what to look at."""

    test_set: TestSet
    changes: Difference
    warnings: tuple[str, ...]


def freeze(
    path: Path | str,
    *,
    find: Callable[[str], Sequence[str]] | None = None,
    corpus_digest: str | None = None,
    test_share: float = 1 / 3,
    new_edition: bool = False,
    seed: int = 0,
) -> Frozen:
    """Validate the cases, assign splits, and write `cases.jsonl` and its lock.

    `find` returns the documents that hold an evidence phrase; without it evidence is not checked, and a warning says so.
    A frozen set that did not change stays as it is. A case keeps its split in every later edition, by its id and by
    its inputs; all cases of a cluster lie in one split.

    Raises:
        FrozenError: the set changed since it was frozen and `new_edition` is not given; names the ids.
        InputError: the set is not fit to freeze; names the case and what to write.
    """
    test_set = TestSet.read(path)
    path = test_set.path
    if not 0 < test_share < 1:
        raise InputError(f"test share {test_share}: expected a number between 0 and 1", fix="`--test-share 0.33`")
    old = Lock.load(lock_path(path)) if lock_path(path).is_file() else None
    warnings = validate(test_set, find)
    held = TestSet(test_set.cases, old, path)
    if old and not (changes := _since(old, test_set)):
        return Frozen(held, changes, tuple(warnings))
    if old and not new_edition:
        held.verify()  # raises, and names what changed
    cases = assign_splits(test_set.cases, known_splits(old), test_share=test_share, seed=seed)
    lock = Lock(
        edition=old.edition + 1 if old else 1,
        cases={case.id: {"digest": case.digest, "inputs": digest(dict(case.inputs)), "split": str(case.split)} for case in cases},
        frozen_on=datetime.date.today().isoformat(),
        corpus_digest=corpus_digest,
        lineage=(*old.lineage, old.summary()) if old else (),
    )
    warnings += [f"no case has the split {name!r}" for name in SPLITS if not any(case.split == name for case in cases)]
    write_atomic(path, lines(cases))
    write_atomic(lock_path(path), _pretty(lock))
    frozen = TestSet(cases, lock, path)
    return Frozen(frozen, _since(old, frozen) if old else Difference(added=tuple(sorted(lock.cases))), tuple(warnings))


def validate(test_set: TestSet, find: Callable[[str], Sequence[str]] | None) -> list[str]:
    """Return the warnings; raise an `InputError` for the first thing that makes the set unfit to freeze."""
    for problem in problems(test_set, find):
        raise problem
    warnings = []
    if len(test_set) < FEW:
        warnings.append(f"{len(test_set)} cases: under {FEW} an interval is so wide that few changes can be told apart")
    if find is None and any(case.expected.get("evidence") for case in test_set):
        warnings.append("the evidence was not looked up: there is no corpus.yaml")
    return warnings + _of_agents(test_set) + may_hold(test_set)


def _of_agents(test_set: TestSet) -> list[str]:
    """Say which cases let an agent pass that claims what it did not do, and which the reference agent does not take."""
    wordless = [one for one in test_set if one.expected.get("effects") == [] and not one.rubric]
    silent = [one.id for one in wordless if not any(one.expected.get(key) for key in ("answers", "data", "done"))]
    acting = [one for one in test_set if "effects" in one.expected or one.expected.get("done")]
    other = [one.id for one in acting if set(one.inputs) != {"task"} or not isinstance(one.inputs["task"], str)]
    found = {
        'expect no change, and nothing that says that the task was refused: "Done." is right there; write "answers": ["more than 30 days", ...], '
        "words of the reason that no claim of having done it would have": silent,
        'are no {"task": "..."}: the agent of notebook 06 takes that input alone': other,
    }
    return [f"case(s) {_listed(ids)} {told}" for told, ids in found.items() if ids]


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return ", ".join(map(repr, ids[:NAMED])) + more


def may_hold(test_set: TestSet) -> list[str]:
    """Say of each case what personal data and secrets it may hold, by the look of them."""
    texts = [(case.id, canonical(case.to_json())) for case in test_set]
    return [f"case {name!r} may hold {what}" for name, text in texts for what, pattern in PERSONAL.items() if pattern.search(text)]


def problems(test_set: TestSet, find: Callable[[str], Sequence[str]] | None) -> Iterator[InputError]:
    """Yield everything that makes the set unfit to freeze."""
    where = str(test_set.path or "test set")
    yield from _duplicates(test_set, where)
    for case in test_set:
        yield from _poor_labels(case, where)
    if find is not None:
        yield from _lost_evidence(test_set, where, find)


def _duplicates(test_set: TestSet, where: str) -> Iterator[InputError]:
    seen: dict[str, Case] = {}
    for case in test_set:
        other = seen.setdefault(folded(case.inputs), case)
        if other is not case:
            same = canonical(dict(other.expected)) == canonical(dict(case.expected))
            what = "ask the same" if same else "ask the same and expect different things: contradictory labels"
            yield InputError(
                f"{where}: cases {other.id!r} and {case.id!r} {what}", fix="remove one, or reword it and give both one `cluster`"
            )


def _poor_labels(case: Case, where: str) -> Iterator[InputError]:
    expected = case.expected
    if expected.get("abstain") and any(expected.get(key) for key in ("answers", "data", "effects")):
        yield InputError(
            f"{where}: case {case.id!r} expects an answer and to abstain: contradictory labels", fix="remove `abstain`, or the answers"
        )
    # An empty list of effects expects something: that nothing is changed.
    if not any(expected.get(key) for key in ("answers", "abstain", "data", "done")) and "effects" not in expected and not case.rubric:
        yield InputError(
            f"{where}: case {case.id!r} expects nothing",
            fix='add "expected": {"answers": ["..."]} or {"abstain": true}; {"effects": []} where nothing may change',
        )


def _lost_evidence(test_set: TestSet, where: str, find: Callable[[str], Sequence[str]]) -> Iterator[InputError]:
    lost = [(case.id, phrase) for case in test_set for phrase in case.expected.get("evidence", ()) if not find(phrase)]
    if lost:
        listed = "; ".join(f"case {case_id!r}: {phrase!r}" for case_id, phrase in lost[:8])
        yield InputError(
            f"{where}: {len(lost)} evidence phrase(s) not found in the corpus: {listed}",
            fix="copy a few words of the source as they stand (white space is folded, the rest counts)",
        )


def assign_splits(cases: Sequence[Case], known: Mapping[str, str], *, test_share: float, seed: int) -> tuple[Case, ...]:
    """Return the cases with a split each: the known ones keep theirs, the others are drawn evenly from every stratum.

    A stratum is a combination of tags and of whether abstention is expected. Drawn systematically from the strata laid
    end to end, in an order given by the seed, so that both the total and each stratum keep their share within one case.
    """
    splits: dict[str, str] = {}
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(f"cluster {case.cluster}" if case.cluster else f"case {case.id}", []).append(case)
    fresh = []
    for group in groups.values():
        found = {known.get(key) for case in group for key in (case.id, digest(dict(case.inputs)))} | {case.split for case in group}
        found -= {None}
        if len(found) > 1:
            raise InputError(
                f"cluster {group[0].cluster!r}: its cases lie in both splits: {', '.join(case.id for case in group)}"
                if group[0].cluster
                else f"case {group[0].id!r}: its mark, and what was frozen under its id or with its inputs, lie in both splits",
                fix="a case keeps its split for ever: put the old mark or id back, or take the new cases out of the cluster",
            )
        if found:
            splits.update({case.id: str(next(iter(found))) for case in group})
        else:
            fresh.append(group)
    fresh.sort(key=lambda group: (canonical([dict(group[0].tags), group[0].abstain]), digest(f"{seed} {group[0].id}")))
    # The drawing goes on where that of the earlier cases ended, so that cases added one at a time reach the share as well;
    # what they hold out too many or too few (some have left) is made up for evenly by the new ones.
    known_cases = position = len(splits)
    taken = list(splits.values()).count("test")
    surplus = taken - int(position * test_share + 0.5)
    for group in fresh:
        position += len(group)
        left = (len(cases) - position) / (len(cases) - known_cases)
        held_out = int(position * test_share + surplus * left + 0.5) > taken
        taken += len(group) if held_out else 0
        splits.update({case.id: "test" if held_out else "dev" for case in group})
    return tuple(replace(case, split=splits[case.id]) for case in cases)


def known_splits(lock: Lock | None) -> dict[str, str]:
    """Return the split of every case ever frozen, by id and by the digest of its inputs; the newest edition counts."""
    known: dict[str, str] = {}
    for entries in lock.editions().values() if lock else ():
        for case_id, entry in entries.items():
            known[entry["inputs"]] = known[case_id] = entry["split"]
    return known


def _since(lock: Lock, test_set: TestSet) -> Difference:
    return difference({key: entry["digest"] for key, entry in lock.cases.items()}, {case.id: case.digest for case in test_set})


def folded(inputs: Mapping[str, object]) -> str:
    """Return the inputs as two people would call them the same: without case, white space and closing marks."""
    return canonical(
        {key: " ".join(value.split()).rstrip("?.! ").casefold() if isinstance(value, str) else value for key, value in inputs.items()}
    )


def _pretty(lock: Lock) -> str:
    import json

    return json.dumps(lock.to_json(), indent=1, ensure_ascii=False) + "\n"


def take_over(source: Path, path: Path, *, find: Callable[[str], Sequence[str]] | None = None, add: bool = False) -> None:
    """Write the cases of a foreign file that are fit to freeze as `path`; with `add`, behind those that are there.

    Labels that are there are never overwritten.

    Raises:
        InputError: `path` holds something else, or `source` cannot be imported or is not fit to freeze.
    """
    imported = import_cases(source)
    if path.exists() and not add and read_text(path) != lines(imported):
        raise InputError(f"{path}: exists already", fix="--new-edition, which adds the new cases to it; or move it away")
    there = {case.id: case for case in TestSet.read(path)} if path.exists() and add else {}
    if changed := [case.id for case in imported if case.id in there and replace(case, split=there[case.id].split) != there[case.id]]:
        raise InputError(
            f"{path}: has other cases of the ids {', '.join(changed[:NAMED])}",
            fix="give the new ones other ids, or edit the old ones there",
        )
    validate(imported, find)
    together = TestSet((*there.values(), *(case for case in imported if case.id not in there)), path=path)
    if there:  # what one of each has in common is said of the file that they go to
        validate(together, find)
    assign_splits(together.cases, {}, test_share=0.5, seed=0)  # refuses a cluster whose marks lie in both splits
    write_atomic(path, lines(together))
