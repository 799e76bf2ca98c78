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
from poclab.errors import InputError, printable
from poclab.evaluation import Plan, Task
from poclab.files import require_poc
from poclab.recording import TRIAL_RUN, Recording
from poclab.redaction import shown
from poclab.report import CaseResult, Report
from poclab.scores import Scorer, as_scorer
from poclab.system import Version
from poclab.tables import frame
from poclab.tracking import queries

if TYPE_CHECKING:
    import pandas

TRACES = ("all", "failed", "none")
#: MLflow knows no whole numbers.
COUNTS = ("cases", "failed", "tokens_in", "tokens_out")


def runs(poc: Path | str | None = None) -> pandas.DataFrame:
    """Return the finished evaluations of a POC, the oldest first: name, when, split, parameters, numbers, ids.

    `poc` is its folder; without one it is found as for the command line.
    """
    folder, uri = _store_of(poc)
    rows = [
        {
            "run": one["name"],
            "started": datetime.datetime.fromtimestamp(one["started_ms"] / 1000),
            **{key: one["tags"].get(key) for key in ("split", "edition", "score", "sweep")},
            **one["params"],
            **{key: int(value) if key in COUNTS else value for key, value in one["metrics"].items()},
            **{key: one["tags"].get(key) for key in ("lock", "corpus", "version", "content")},
            "run_id": one["run_id"],
        }
        for one in queries.runs(uri, folder.name)
    ]
    return frame(rows)


def load_run(run_id: str, poc: Path | str | None = None) -> Report:
    """Return the report of a recorded run; the first characters of its id are enough, as tables show them.

    Raises:
        InputError: no such run, or it holds no report.
    """
    folder, uri = _store_of(poc)
    return queries.report(uri, run_id, folder.name)


def show_ui(poc: Path, port: int, *, say: Callable[[str], None]) -> None:
    """Serve MLflow's UI for a POC on loopback until Ctrl-C, and say where to look.

    Raises:
        StoreError: the store cannot be read, or the port is taken.
    """
    from poclab.tracking import server

    folder, uri = _store_of(poc)
    if uri.startswith("http"):
        raise InputError(f"the runs of this POC are at {shown(uri)}: its UI is served there already", fix=f"open {shown(uri)} in a browser")
    server.check_port(port)
    found = queries.runs(uri, folder.name)
    with server.serve(uri, folder, port) as (base, process):
        ranked = server.best_of_each_version(found)
        links = server.links(base, found[0]["experiment_id"], ranked) if found else {"nothing is recorded yet": base}
        for what, address in links.items():
            say(f"{what}: {address}")
        say("Ctrl-C ends it.")
        process.wait()


def _store_of(poc: Path | str | None) -> tuple[Path, str]:
    folder = require_poc(poc)
    uri = tracking.tracking_uri(folder)
    tracking.check_store(uri)
    return folder, uri


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during an evaluation: `report` holds the cases that were answered, and says when it is partial."""

    def __init__(self, report: Report, path: Path | None) -> None:
        self.report = report
        kept = f"; the {'partial ' if report.partial else ''}report is in {path}" if path else ""
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
    counts as wrong; scoring has as much time of its own. A run in which every case failed is marked as failed. `workers`
    cases are answered side by side; coroutines are awaited in one event loop. `traces` keeps `all` traces, those of
    `failed` or wrong cases, or `none`. A set with a file is recorded in its POC's store; one built in memory only where
    `MLFLOW_TRACKING_URI` is set.

    Raises:
        InputError: something about the arguments, before any case is asked.
        StoreError: the store cannot be used (before any case is asked), or lost something (the report is kept in a file).
        Interrupted: Ctrl-C; it carries the partial report.
    """
    _check_kinds(system, cases, scores, version)
    test_set = cases if isinstance(cases, TestSet) else TestSet(tuple(cases))
    scorers = [as_scorer(one) for one in scores]
    version = _version(system, version)
    _check(test_set, scorers, repeats=repeats, timeout_s=timeout_s, workers=workers, traces=traces)
    plan = Plan(system, test_set, scorers, version, repeats, traces)
    recording = Recording.open(plan)
    results: dict[int, CaseResult] = {}
    started, started_at = time.monotonic(), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    run = runner.run(plan.tasks, plan.ask, then=plan.score, workers=workers, timeout_s=timeout_s)

    def keep(outcome: runner.Outcome[Task]) -> None:
        results[outcome.index], record = plan.settle(outcome)
        if record is not None:
            recording.add(record)

    try:
        for outcome in _progress(iter(run), len(plan.tasks), version.name):
            keep(outcome)
    except KeyboardInterrupt:
        recording.stopped = True
        for outcome in run.close():
            keep(outcome)
    except BaseException:
        run.close()
        recording.fail()
        raise
    report = plan.report(results, started_at, time.monotonic() - started)
    try:
        report, path = recording.finish(report)
    except KeyboardInterrupt:
        raise Interrupted(report, recording.leave(report)) from None
    if recording.stopped:
        raise Interrupted(report, path)
    return report


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


def _check_kinds(system: Any, cases: Any, scores: Any, version: Any) -> None:
    if not callable(system):
        raise InputError(f"the system is a {type(system).__name__}, which cannot be called", fix="def answer(inputs): return ...")
    if isinstance(cases, (str, os.PathLike)):
        raise InputError(f"cases={str(cases)!r} is a path", fix=f"poclab.TestSet.load({str(cases)!r})")
    if isinstance(scores, (str, Scorer)) or not isinstance(scores, Iterable):
        raise InputError("scores is a list, also of one", fix="[scores.contains()]")
    if version is not None and not isinstance(version, Version):
        raise InputError(f"version={version!r} is a {type(version).__name__}", fix=f"poclab.Version({str(version)!r}, model=...)")


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
    return iter(
        tqdm(outcomes, total=total, desc=printable(name), unit="case", leave=False, disable=False if "ipykernel" in sys.modules else None)
    )
