"""What a notebook calls: evaluate a system as one MLflow run, compare runs, look back at them, decide, draw replies to label.

All but the first find the runs and leave the thinking to `comparison`, `timeline`, `decision` and `judging`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import gc
import inspect
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from poclab import arguments, charts, comparison, decision, drills, projection, runner, sizing, timeline, tracking
from poclab.archive import BASELINE, Archive, load_run
from poclab.cases import SPLITS, Case, TestSet
from poclab.charter import Charter, Criterion
from poclab.comparison import Comparison
from poclab.decision import Decision
from poclab.errors import FrozenError, InputError, Stopped
from poclab.evaluation import Plan, Rehearsed, Task, Watch
from poclab.files import find_poc, require_poc, work_folder, write_bytes
from poclab.judging import Rubric, draw, labels_path, read_labels
from poclab.judging.gate import gate
from poclab.judging.labels import Labels
from poclab.ledger import Ledger
from poclab.recording import Recording
from poclab.report import DRILL_FILE, RETRIED, CaseResult, Report
from poclab.requests import RETRY, ruling
from poclab.sizing import Sizing
from poclab.system import Version
from poclab.timeline import History

NOT_CORRECTED = "{} other version(s) were run on these cases one by one: nothing here is corrected for having picked among them"


class Interrupted(Stopped):
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
    max_cost_usd: float | None = None,
    mode: str | None = None,
    retry_failed: bool = False,
    redact: Callable[[str], str] | None = None,
) -> Report:
    """Ask a system every case, score the replies, and record the whole as one MLflow run.

    The first score is the accuracy. A case whose system raises, returns nothing or takes longer than `timeout_s`
    counts as wrong; scoring has as much time of its own. A run in which every case failed is marked as failed. `workers`
    cases are answered side by side; coroutines are awaited in one event loop. `traces` keeps `all` traces, those of
    `failed` or wrong cases, or `none`. A set with a file is recorded in its POC's store; one built in memory only where
    `MLFLOW_TRACKING_URI` is set.

    What was answered before is replayed from the POC's ledger: `mode` is `auto`, `live` (ask all again) or `replay` (ask nothing).
    With `max_cost_usd` no call begins that could pass it; then the report is partial, and the same call goes on from there.
    `retry_failed` takes the results of this version's last run, and asks only for what was not asked or what the endpoint failed
    (`rate_limited`, `connection`, `server_error`, `budget`). `redact` is applied to every text of the traces that are stored, such
    as to take personal data out of them; replies in the report and answers in the ledger stay as they are.

    Raises:
        InputError: something about the arguments, before any case is asked.
        FrozenError: the cases are not the whole split as it was frozen.
        EndpointError: the first five cases all met what every case would meet, such as a refused key.
        StoreError: the store or the ledger cannot be used (before any case is asked), or lost something (the report is kept in a file).
        Interrupted: Ctrl-C; it carries the partial report.
    """
    if redact is not None and (not callable(redact) or inspect.iscoroutinefunction(redact)):
        raise InputError(f"redact={redact!r}: expected a function of one text", fix="def redact(text): return text.replace(...)")
    limits = {"repeats": repeats, "timeout_s": timeout_s}
    test_set, *rest = arguments.checked(system, cases, scores, version, **limits, workers=workers, traces=traces, mode=mode)
    given = (arguments.screened(test_set), *rest)
    make_plan = functools.partial(Plan, system, *given, **limits)
    if folder := os.environ.get(projection.PROJECT):
        projection.project(make_plan, workers=workers, max_cost_usd=max_cost_usd).save(Path(folder))
        raise Rehearsed
    if asked := os.environ.get(drills.DRILL):
        _drill(system, given, workers, json.loads(asked))
        raise Rehearsed
    test_set = given[0]
    plan = make_plan(traces=traces, mode=mode, budget=arguments.open_budget(test_set.poc, max_cost_usd), redact=redact)
    if (retry_failed or os.environ.get(RETRY)) and (earlier := _earlier(plan, required=retry_failed)):
        plan.keep(earlier.results, lambda one: one.outcome in RETRIED)
    if test_set.poc:
        Ledger.of(test_set.poc)  # an answer that cannot be kept is not asked for
    return carry_out(plan, Recording.open(plan), workers)


Through = Callable[[runner.Run[Task], int, str], Iterator[runner.Outcome[Task]]]


def carry_out(plan: Plan, recording: Recording, workers: int, *, through: Through = arguments.progress) -> Report:
    """Ask what is planned, and return the report; `through` passes the outcomes on, and may show how many there are.

    Raises:
        EndpointError, StoreError, Interrupted: as `evaluate`.
    """
    results: dict[int, CaseResult] = {}
    started, started_at = time.monotonic(), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    watch = _ask_all(plan, results, recording, workers, through)
    report = plan.report(results, started_at, time.monotonic() - started, stopped=watch.stopped)
    try:
        report, path = recording.finish(report)
    except KeyboardInterrupt:
        raise Interrupted(report, recording.leave(report)) from None
    if recording.stopped:
        raise Interrupted(report, path)
    if watch.error:
        raise watch.error
    return report


def _drill(system: Any, given: tuple[TestSet, Sequence[Any], Version], workers: int, options: dict[str, Any]) -> None:
    """Drill in place of an evaluation, as a rehearsed notebook is asked to; `options` are those of `drill`, and the folder of its file."""
    folder = Path(options.pop("folder"))
    test_set, scorers, version = given
    drills.drill(system, test_set, scorers, version=version, workers=workers, keep=False, **options).save(folder / DRILL_FILE)


def _ask_all(plan: Plan, results: dict[int, CaseResult], recording: Recording, workers: int, through: Through) -> Watch:
    """Ask what is planned, keep each result as it comes, and return what says whether all of it was asked."""
    watch = Watch(sum(task.kept is None for task in plan.tasks), plan.outside)
    run = runner.run(plan.tasks, plan.ask, then=plan.score, workers=workers, timeout_s=plan.timeout_s)

    def keep(outcome: runner.Outcome[Task]) -> None:
        result, record = plan.settle(outcome)
        results[outcome.task.place] = result
        if record is not None:
            recording.add(record)
        watch.take(outcome, result)

    try:
        with ruling(plan.outside):
            for outcome in through(run, len(plan.tasks), plan.version.name):
                keep(outcome)
                if watch.error:
                    break
                if watch.stopped:
                    run.drain()
    except KeyboardInterrupt:
        recording.stopped = True
    except BaseException:
        run.close()
        recording.fail()
        raise
    for outcome in run.close():
        keep(outcome)
    return watch


def compare(*runs: Any, poc: Path | str | None = None) -> Comparison:
    """Compare versions on the same frozen cases, the first one being the baseline.

    Each is a report, the id of a recorded run (its first characters will do), or an MLflow run. Without any, the trials of
    the sweep that ended last are compared with its baseline, by its metric. `poc` is the folder whose runs are meant; it is found as for
    the command line. Where the runs are trials of sweeps, all trials that were started count.

    Raises:
        InputError: no such run, or reports that cannot be compared (partial, of other splits, without a common score).
        FrozenError: reports of different frozen sets.
    """
    for one in runs:
        if poc is None and isinstance(one, str) and os.path.isdir(one):
            raise InputError(f"{one!r} is a folder, no run", fix=f"compare(..., poc={one!r})")
    archive, first = _archive(poc, runs), None
    if not runs:
        trials = archive.sweep()
        if len(trials) < 2:
            raise InputError("no sweep with two trials to compare", fix="`poclab sweep`, or name two runs")
        if all(row["name"] != BASELINE for row in trials):
            raise InputError("the baseline of the last sweep has no result", fix="`poclab sweep` runs it again; or name two runs")
        first = trials[-1]["tags"].get("metric")
        runs = tuple(row["run_id"] for row in sorted(trials, key=lambda row: row["name"] != BASELINE))
    with _uncollected():
        reports = _reports(runs, archive)
    ids = [one.run_id for one in reports if one.run_id]
    links = [archive.link(one.run_id, reports[0].run_id) if archive else "" for one in reports[1:]]
    known = archive.comparisons(ids) if archive and ids else None
    with _uncollected():
        found = comparison.compare(*reports, comparisons=known, links=links, first=first)
    others = archive.others(reports) if archive else 0
    missing = archive.unfinished() if archive and any(row["run_id"] in ids for row in archive.sweep()) else ""
    notes = [NOT_CORRECTED.format(others)] if others else []
    notes += [f"the sweep has not ended: {missing}"] if missing else []
    return dataclasses.replace(found, notes=(*found.notes, *notes))


def history(poc: Path | str | None = None) -> History:
    """Return the accuracy of a POC's runs over time, and what changed at each; the chart is kept with the newest run.

    Raises:
        InputError: no POC there, or no finished run in it.
    """
    archive = Archive.open(poc)
    charter = Charter.load(archive.poc)
    found = timeline.of_runs(archive.finished, charter)
    if found.drawable:
        picture = write_bytes(history_chart(archive.poc), charts.png(found.figure()))
        sent = {"run_id": found.rows[-1]["run_id"], "files": {str(picture): "charts"}}
        tracking.recorder().send("artifacts", uri=archive.uri, **sent).result()
    return found


def history_chart(poc: Path) -> Path:
    """Return the file that `history` draws its chart into."""
    return work_folder(poc, "charts") / "history.png"


def decide(charter: Charter | Path | str | None = None, *runs: Any, today: datetime.date | None = None) -> Decision:
    """Hold a charter's criteria against the runs of one version: go, no-go or not yet.

    `charter` is one, its file or its POC folder; each run is given as for `compare`. Without any, it is the version that was
    scored last on the held-out cases, else the best one of the last sweep. The run of the same version on the other split
    is found by itself.

    Raises:
        InputError: the charter cannot decide yet (with the questions to answer), or there is nothing to decide on.
        FrozenError: runs on other cases than the frozen ones.
    """
    if not isinstance(charter, Charter):
        charter = Charter.load(charter if charter and os.path.isfile(charter) else require_poc(charter))
    decision.refuse_unfinished(charter)
    archive = _archive(charter.path and charter.path.parent, runs)
    if not runs:
        runs = (archive.candidate()["run_id"],)
    reports = _reports(runs, archive)
    judged = gate(charter.path.parent, charter) if charter.path else None
    if archive is None:
        return decision.weigh(charter, reports, today=today, judged=judged)
    for one in reports:
        if one.lock_digest != archive.lock:
            raise FrozenError(
                f"run {one.run_id} is on other cases than those that are frozen now (lock {one.lock_digest[:12]}, now {archive.lock[:12]})",
                fix="`poclab sweep`, then `poclab decide --confirm`",
            )
        if one.split in SPLITS and {result.case_id for result in one.results} != archive.frozen(one.split):
            raise FrozenError(
                f"run {one.run_id} is on {one.n} of the {len(archive.frozen(one.split))} cases of {one.split}",
                fix="evaluate the whole split",
            )
    for other in archive.other_splits(reports):
        reports += archive.reports([other])
    told = {"looks": archive.looks(), "edits": archive.edits(charter), "lineage": archive.cases.lock.since_first()}
    return decision.weigh(charter, reports, **told, today=today, judged=judged)


def sampled(poc: Path | str | None, rubric: Rubric, *, sample: int = 60, seed: int = 0) -> Labels:
    """Return the replies of a POC that people label for a rubric; where none were drawn yet, draw them from the winner of the last sweep, or the last run on dev.

    Raises:
        InputError: there is no run to draw from, or the labels cannot be read.
    """
    folder = require_poc(poc)
    if labels_path(folder, rubric).is_file():
        return read_labels(folder, rubric)
    report = load_run(Archive.open(folder).to_label(), folder)
    return draw(folder, rubric, report, sample=sample, seed=seed, fewer=True)


def plan(
    poc: Path | str | None = None, *, criteria: Sequence[Criterion] | None = None, expected: float | None = None, power: float = 0.8
) -> Sizing:
    """Say how many cases the criteria of a charter take, and what the cases at hand can show.

    `criteria` come before those of the charter; with them no POC is needed. `expected` is what the first one is in truth.

    Raises:
        InputError: no criterion, or an expectation that no number of cases would show.
    """
    folder = require_poc(poc) if criteria is None or poc is not None else find_poc()
    at_hand: dict[str, int] = {}
    if folder and (folder / "cases.jsonl").is_file():
        # Cases of one cluster count once: they resemble each other.
        splits = list({case.cluster or ("", case.id): case.split for case in TestSet.read(folder)}.values())
        held_out = splits.count(None) // 3  # of new cases, freezing holds out a third
        at_hand = {"dev": splits.count("dev") + splits.count(None) - held_out, "test": splits.count("test") + held_out}
    chosen = Charter.load(folder).criteria if criteria is None else criteria
    return sizing.plan(chosen, at_hand, expected=expected, power=power)


def _earlier(plan: Plan, *, required: bool) -> Report | None:
    """Return the report of the last run of the same version on the same cases; where it is `required`, there must be something to retry."""
    found = Archive.open(plan.poc).last_of(plan.tags()) if plan.poc else None
    if not required:  # a notebook may evaluate more than what failed
        return found
    if found is None:
        raise InputError(f"version {plan.version.name!r} has no run on these cases to retry", fix="evaluate it first, without retry_failed")
    if not found.partial and not any(one.outcome in RETRIED for one in found.results):
        raise InputError(f"run {found.run_id}: the endpoint failed no case, so there is nothing to retry", fix="leave retry_failed away")
    return found


def _archive(poc: Path | str | None, runs: Sequence[Any]) -> Archive | None:
    """Return the store of runs; None when only reports are given and no store is theirs."""
    if any(not isinstance(one, Report) for one in runs) or not runs:
        return Archive.open(poc)
    folder = find_poc(poc)
    if folder is None or folder.name != runs[0].test_set or not any(one.run_id for one in runs):
        return None
    return Archive.open(folder)


def _reports(runs: Sequence[Any], archive: Archive | None) -> list[Report]:
    """Return a report for each report, run id or MLflow run."""
    return [one if isinstance(one, Report) else archive.reports([archive.find(_run_id(one))])[0] for one in runs]


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Collect no garbage within: two hundred reports are a hundred thousand objects, all in use, and looking through them takes a second."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _run_id(one: Any) -> str:
    found = one if isinstance(one, str) else getattr(getattr(one, "info", None), "run_id", None)
    if not isinstance(found, str):
        raise InputError(f"{one!r} is no report and no run", fix="give reports, or ids of runs as `poclab history` shows them")
    return found
