"""What a notebook calls: evaluate a system against a frozen set, as one MLflow run."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poclab import runner, tracking
from poclab.cases import Case, TestSet
from poclab.errors import InputError
from poclab.evaluation import Plan, Task
from poclab.files import require_poc
from poclab.recording import TRIAL_RUN, Recording
from poclab.report import CaseResult, Report
from poclab.scores import Scorer, as_scorer
from poclab.system import Version
from poclab.tables import frame
from poclab.tracking import queries

if TYPE_CHECKING:
    import pandas

TRACES = ("all", "failed", "none")


def runs(poc: Path | str | None = None) -> pandas.DataFrame:
    """Return the finished evaluations of a POC, the oldest first: name, when, split, parameters, numbers, ids.

    `poc` is its folder; without one it is found as for the command line.
    """
    folder, uri = _store_of(poc)
    rows = [
        {
            "run": one["name"],
            "started": datetime.datetime.fromtimestamp(one["started_ms"] / 1000),
            **{key: one["tags"].get(key) for key in ("split", "sweep")},
            **one["params"],
            **one["metrics"],
            **{key: one["tags"].get(key) for key in ("lock", "corpus", "version", "content")},
            "run_id": one["run_id"],
        }
        for one in queries.runs(uri, folder.name)
    ]
    return frame(rows)


def load_run(run_id: str, poc: Path | str | None = None) -> Report:
    """Return the report of a recorded run.

    Raises:
        InputError: no such run, or it holds no report.
    """
    return queries.report(_store_of(poc)[1], run_id)


def show_ui(poc: Path, port: int, *, say: Callable[[str], None]) -> None:
    """Serve MLflow's UI for a POC on loopback until Ctrl-C, and say where to look.

    Raises:
        StoreError: the store cannot be read, or the port is taken.
    """
    from poclab.tracking import server

    folder, uri = _store_of(poc)
    if uri.startswith("http"):
        raise InputError(f"the runs of this POC are at {uri}: its UI is served there already", fix=f"open {uri} in a browser")
    server.check_port(port)
    found = queries.runs(uri, folder.name)
    with server.serve(uri, folder, port) as (base, process):
        ranked = server.best_of_each_version(found)
        shown = server.links(base, found[0]["experiment_id"], ranked) if found else {"nothing is recorded yet": base}
        for what, address in shown.items():
            say(f"{what}: {address}")
        say("Ctrl-C ends it.")
        process.wait()


def _store_of(poc: Path | str | None) -> tuple[Path, str]:
    folder = require_poc(poc)
    uri = tracking.tracking_uri(folder)
    tracking.check_store(uri)
    return folder, uri


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during an evaluation: `report` holds the cases that were answered, and says that it is partial."""

    def __init__(self, report: Report, path: Path | None) -> None:
        self.report = report
        kept = f"; the partial report is in {path}" if path else ""
        super().__init__(f"stopped after {len(report.results)} of {report.planned} cases{kept}")


def evaluate(
    system: Callable[[dict[str, Any]], Any],
    cases: TestSet | Iterable[Case],
    scores: Sequence[Any],
    *,
    version: Version | None = None,
    repeats: int = 1,
    timeout_s: float = 60.0,
    workers: int = 8,
    traces: str = "all",
) -> Report:
    """Ask a system every case, score the replies, and record the whole as one MLflow run.

    The first score is the accuracy. A case whose system raises, returns nothing or takes longer than `timeout_s`
    counts as wrong. `workers` cases are answered side by side; a coroutine function is awaited. `traces` keeps `all`
    traces, those of `failed` or wrong cases, or `none`. A set with a file is recorded in its POC's store; one built in
    memory only where `MLFLOW_TRACKING_URI` is set.

    Raises:
        InputError: something about the arguments, before any case is asked.
        StoreError: the store cannot be used (before any case is asked), or lost something (the report is kept in a file).
        Interrupted: Ctrl-C; it carries the partial report.
    """
    test_set = cases if isinstance(cases, TestSet) else TestSet(tuple(cases))
    scorers = [as_scorer(one) for one in scores]
    version = _version(system, version)
    _check(test_set, scorers, repeats=repeats, timeout_s=timeout_s, workers=workers, traces=traces)
    plan = Plan(system, test_set, scorers, version, repeats, traces)
    recording = Recording.open(plan)
    results: dict[int, CaseResult] = {}
    started, started_at = time.monotonic(), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    run = runner.run(plan.tasks, plan.answer, workers=workers, timeout_s=timeout_s)

    def keep(outcome: runner.Outcome[Task]) -> None:
        results[outcome.index], record = plan.settle(outcome)
        if record is not None:
            recording.add(record)

    try:
        for outcome in _progress(iter(run), len(plan.tasks), version.name):
            keep(outcome)
    except KeyboardInterrupt:
        for outcome in run.close():
            keep(outcome)
        report = plan.report(results, started_at, time.monotonic() - started)
        report, path = recording.finish(report, stopped=True)
        raise Interrupted(report, path) from None
    except BaseException:
        run.close()
        recording.fail()
        raise
    return recording.finish(plan.report(results, started_at, time.monotonic() - started))[0]


def _version(system: Any, version: Version | None) -> Version:
    """Return the version as the system uses it; refuse one that the system was not built from."""
    used = getattr(system, "version", None)
    if not isinstance(used, Version):
        return version or Version(getattr(system, "__name__", type(system).__name__))
    for key, value in (version.parameters if version else {}).items():
        if used.parameters.get(key) != value:
            raise InputError(
                f"version {version.name!r} says {key} = {value!r}, but the system uses {used.parameters.get(key)!r}",
                fix="build the system from the version that is evaluated",
            )
    return Version(version.name if version else used.name, **used.parameters)


def _check(test_set: TestSet, scorers: Sequence[Scorer], *, repeats: int, timeout_s: float, workers: int, traces: str) -> None:
    if not test_set.cases:
        raise InputError("no cases to evaluate", fix='poclab.TestSet.load("cases.jsonl").split("dev")')
    if not scorers:
        raise InputError("no scores: the first one is the accuracy", fix="[scores.contains(), scores.evidence_recall()]")
    names = [scorer.name for scorer in scorers]
    if len(set(names)) < len(names):
        raise InputError(f"two scores have one name: {', '.join(names)}", fix="rename one: dataclasses.replace(scorer, name=...)")
    for name, value, kind, least in (("repeats", repeats, int, 1), ("workers", workers, int, 1), ("timeout_s", timeout_s, float, 0.001)):
        if isinstance(value, bool) or not isinstance(value, (int, kind)) or not value >= least:
            raise InputError(f"{name}={value!r}: expected {'a whole' if kind is int else 'a'} number of at least {least:g}")
    if traces not in TRACES:
        raise InputError(f"traces={traces!r}", fix=f"use one of: {', '.join(TRACES)}")


def _progress(outcomes: Iterator[Any], total: int, name: str) -> Iterator[Any]:
    """Show a progress bar in a terminal or a notebook; none where nobody looks."""
    if os.environ.get(TRIAL_RUN):
        return outcomes
    from tqdm.auto import tqdm

    # None: only on a terminal. A notebook's output is no terminal, but somebody looks.
    return iter(tqdm(outcomes, total=total, desc=name, unit="case", leave=False, disable=False if "ipykernel" in sys.modules else None))
