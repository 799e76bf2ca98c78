"""What `evaluate` and `drill` are given, checked before anything is asked, and the progress that they show."""

from __future__ import annotations

import dataclasses
import os
import random
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from poclab.bars import bar
from poclab.cases import TestSet
from poclab.errors import InputError, printable
from poclab.ledger import Ledger
from poclab.recording import TRIAL_RUN
from poclab.requests import BUDGET, MODE, MODES, SCREEN
from poclab.scores import Scorer, as_scorer
from poclab.system import Prompt, Version

#: Of repeats, workers, seconds and dollars: more than anybody means.
MOST = 1e6
TRACES = ("all", "failed", "none")


def checked(
    system: Any, cases: Any, scores: Any, version: Any, *, traces: str = "none", mode: str | None = None, repeats: int = 1, **numbers: Any
) -> tuple[TestSet, list[Scorer], Version]:
    """Return the test set, the scorers and the version that are meant.

    Raises:
        InputError: something is not what it should be; FrozenError: the cases are not the whole split as it was frozen.
    """
    _check_kinds(system, cases, scores, version)
    if (set_mode := os.environ.get(MODE) or "auto") not in MODES:  # before every case says so
        raise InputError(f"{MODE} is {set_mode!r}", fix=f"use one of: {', '.join(MODES)}")
    test_set = cases if isinstance(cases, TestSet) else TestSet(tuple(cases))
    scorers = [as_scorer(one) for one in scores]
    used = _used_version(system, version)
    _verify(test_set)
    _check(test_set, scorers, traces=traces, mode=mode, repeats=repeats, **numbers)
    return test_set, scorers, used


def _check_kinds(system: Any, cases: Any, scores: Any, version: Any) -> None:
    if not callable(system):
        raise InputError(f"the system is a {type(system).__name__}, which cannot be called", fix="def answer(inputs): return ...")
    if isinstance(cases, (str, os.PathLike)):
        raise InputError(f"cases={str(cases)!r} is a path", fix=f"poclab.TestSet.load({str(cases)!r})")
    if isinstance(scores, (str, Scorer)) or not isinstance(scores, Iterable):
        raise InputError("scores is a list, also of one", fix="[scores.contains()]")
    if version is not None and not isinstance(version, Version):
        raise InputError(f"version={version!r} is a {type(version).__name__}", fix=f"poclab.Version({str(version)!r}, model=...)")


def _used_version(system: Any, version: Version | None) -> Version:
    """Return the version as the system uses it; refuse one that the system was not built from."""
    used = getattr(system, "version", None)
    if not isinstance(used, Version):
        return version or Version(getattr(system, "__name__", type(system).__name__))
    if not version:
        return used
    for key, value in version.parameters.items():
        if not _same(used.parameters.get(key), value):
            raise InputError(
                f"version {version.name!r} says {key} = {value!r}, but the system uses {used.parameters.get(key)!r}",
                fix="build the system from the version that is evaluated",
            )
    return Version(version.name, **{**used.parameters, **version.prompts})


def _same(used: Any, said: Any) -> bool:
    """A prompt counts by its text: one that was kept in a file is called otherwise than before."""
    return used.text == said.text if isinstance(used, Prompt) and isinstance(said, Prompt) else used == said


def _check(
    test_set: TestSet, scorers: Sequence[Scorer], *, repeats: int, timeout_s: float, workers: int, traces: str, mode: str | None
) -> None:
    if not test_set.cases:
        raise InputError("no cases to evaluate", fix='poclab.TestSet.load("cases.jsonl").split("dev")')
    if not scorers:
        raise InputError("no scores: the first one is the accuracy", fix="[scores.contains(), scores.evidence_recall()]")
    names = [scorer.name for scorer in scorers]
    if len(set(names)) < len(names):
        raise InputError(f"two scores have one name: {', '.join(names)}", fix="rename one: dataclasses.replace(scorer, name=...)")
    for name, value, kind, least in (("repeats", repeats, int, 1), ("workers", workers, int, 1), ("timeout_s", timeout_s, float, 0.001)):
        if isinstance(value, bool) or not isinstance(value, (int, kind)) or not least <= value <= MOST:
            raise InputError(f"{name}={value!r}: expected {'a whole' if kind is int else 'a'} number from {least:g} to {MOST:g}")
    if mode not in (None, *MODES):
        raise InputError(f"mode={mode!r}", fix=f"use one of: {', '.join(MODES)}")
    if traces not in TRACES:
        raise InputError(f"traces={traces!r}", fix=f"use one of: {', '.join(TRACES)}")


def _verify(test_set: TestSet) -> None:
    """Hold what was frozen against what the cases say now, and against all of the split: copies have no digest of their own yet.

    Raises:
        FrozenError: a label was changed in memory, or cases are missing.
    """
    if test_set.lock:
        dataclasses.replace(test_set, cases=tuple(dataclasses.replace(case) for case in test_set)).verify()


def screened(test_set: TestSet) -> TestSet:
    """Return the part of a frozen split that the trial of a sweep is screened on, where it is."""
    count = int(os.environ.get(SCREEN) or 0)
    return sampled(test_set, count) if count and test_set.lock else test_set


def sampled(test_set: TestSet, count: int) -> TestSet:
    """Return so many of the cases, always the same ones of a lock."""
    if not 0 < count < len(test_set):
        return test_set
    places = random.Random(test_set.digest).sample(range(len(test_set)), count)
    return dataclasses.replace(test_set, cases=tuple(test_set.cases[place] for place in sorted(places)))


def is_budget(value: Any) -> bool:
    """Tell whether this is an amount of dollars that may be spent."""
    return not isinstance(value, bool) and isinstance(value, (int, float)) and 0 < value <= MOST


def open_budget(poc: Path | None, max_cost_usd: float | None) -> str | None:
    """Return the name of the evaluation's own budget, which lies in the ledger; None without one."""
    if max_cost_usd is None:
        return None
    if not is_budget(max_cost_usd):
        raise InputError(f"max_cost_usd={max_cost_usd!r}: expected a number of dollars above 0", fix="max_cost_usd=5.0")
    if os.environ.get(BUDGET):
        raise InputError(
            "max_cost_usd is set here, and the sweep has a budget already", fix="leave it to limits.max_cost_usd of the sweep file"
        )
    if poc is None:
        raise InputError(
            "a budget is kept in a POC's ledger, and these cases are of no POC", fix="`poclab new DIR`, and load its cases.jsonl"
        )
    name = f"evaluation {uuid.uuid4().hex[:12]}"
    Ledger.of(poc).open_budget(name, float(max_cost_usd))
    return name


def progress(outcomes: Iterable[Any], total: int, name: str) -> Iterator[Any]:
    """Show a progress bar in a terminal or a notebook; none where nobody looks."""
    return iter(outcomes if os.environ.get(TRIAL_RUN) else bar(outcomes, total=total, desc=printable(name), unit="case"))
