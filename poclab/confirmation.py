"""The winner of a sweep, run again as it was: scored on the held-out cases, once, before it is decided on; or drilled on dev.

A version that was scored there on the same cases and documents is not scored again. What it takes to run it is read from
its recorded run; cases, a prompt file or a corpus that changed since are refused: that would be another version, or a number
without its like on dev.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from poclab import decision, drift, kernels, sweeps, trials
from poclab.archive import Archive
from poclab.charter import Charter
from poclab.errors import FrozenError, InputError
from poclab.files import read_json
from poclab.judging.gate import gate
from poclab.report import Report
from poclab.system import Prompt

HELD_OUT = "test"
ANOTHER = "name another version: by RUN, in a drill by -p NAME=VALUE"


def confirm(poc: Path, run_id: str | None = None, *, say: Callable[[str], None] = lambda line: None) -> str:
    """Return the run of a version on the held-out cases; without one, it is made. `run_id` names the version's run on dev.

    Without `run_id` it is the best trial of the sweep that ended last, by the metric of the sweep file.

    Raises:
        InputError: the charter cannot decide yet, there is no such run, or its version cannot be run again as it was.
        FrozenError: the cases changed since that run.
    """
    charter = Charter.load(poc)
    decision.refuse_unfinished(charter)
    archive, sweep = Archive.open(poc), sweeps.load_sweep(poc)
    row, first = (archive.find(run_id), "") if run_id else _winner(archive, sweep)
    (report,) = archive.reports([row])
    if archive.lock != report.lock_digest:
        raise FrozenError(
            f"the cases are of another edition since run {report.run_id} (lock {report.lock_digest[:12]})",
            fix="`poclab sweep`, and confirm its winner",
        )
    if report.split == HELD_OUT:
        return row["run_id"]
    done = next((one for one in archive.other_splits([report]) if one["tags"]["split"] == HELD_OUT), None)
    if done:
        say(f"{report.version.name} was scored on the held-out cases on {done['started']:%Y-%m-%d}: run {done['run_id']}; not again")
        return done["run_id"]
    if problems := decision.unready(charter, report, gate(poc, charter), HELD_OUT):
        raise InputError(
            f"held-out cases are looked at once, and that would decide nothing: {'; '.join(problems)}",
            fix="mend that on dev, then confirm: with `poclab sweep` what no run has (a judge, or `repeats`, under `fixed` in sweep.yaml); "
            "with `poclab calibrate` a judge that agrees too little (more labels, or another rubric)",
        )
    say(f"{report.version.name}{first} on {report.split}: {report.summary()}; now on the held-out cases, once")
    return _scored(archive, report, sweep)


def _scored(archive: Archive, report: Report, sweep: sweeps.Sweep) -> str:
    """Return the run on the held-out cases of the version of a report, which it makes."""
    single = _again(archive, report, sweep, HELD_OUT)
    named = dataclasses.replace(single.trials[0], name=f"{report.version.name}, held-out cases")
    results = trials.run_sweep(dataclasses.replace(single, trials=(named,)))
    if results.errors:
        raise InputError(results.failures())
    (record,) = results.records
    if record.version != report.version.digest:
        raise InputError(
            f"the run on the held-out cases is of another version than run {report.run_id}: the notebook changed since",
            fix="`poclab sweep`, and confirm its winner",
        )
    return record.run_id


def drillable(poc: Path, *, say: Callable[[str], None]) -> tuple[sweeps.Sweep, Report] | None:
    """Return the sweep of one trial that makes the winner again on dev, which `confirm` would take, and its report.

    None where no sweep was recorded on the cases as they are frozen now.

    Raises:
        InputError: the sweep has not ended, or its winner cannot be run again as it was.
    """
    archive, sweep = Archive.open(poc), sweeps.load_sweep(poc)
    if not archive.swept:
        return None
    row, first = _winner(archive, sweep)
    (report,) = archive.reports([row])
    single = _again(archive, report, sweep, "dev")
    say(f"the winner of the last sweep is drilled: {report.version.name}{first}, run {row['run_id']}; another version: -p NAME=VALUE")
    return single, report


def _winner(archive: Archive, sweep: sweeps.Sweep) -> tuple[Mapping[str, Any], str]:
    """Return the best trial of the sweep that ended last, by the metric of the sweep file, and whether it is so by its place alone."""
    if missing := archive.unfinished():
        raise InputError(
            f"the last sweep has not ended: {missing}; its winner may be among those",
            fix=f"`poclab sweep` goes on from there; or {ANOTHER}",
        )
    row = archive.winner(sweep.metric, maximize=sweep.maximize)
    tied = archive.tied(row, sweep.metric)
    return row, f" (the first of {tied + 1} trials with this {sweep.metric})" if tied else ""


def _again(archive: Archive, report: Report, sweep: sweeps.Sweep, split: str) -> sweeps.Sweep:
    """Return the sweep of one trial that makes a version again, scored as it was, on a split."""
    return sweeps.single(sweep.poc, sweep.notebook, _parameters(archive, report, sweep, split), fixed=sweep.fixed)


def _parameters(archive: Archive, report: Report, sweep: sweeps.Sweep, split: str) -> Mapping[str, Any]:
    known, poc = kernels.read_parameters(sweep.notebook), sweep.poc
    if split == HELD_OUT and "split" not in known:
        raise InputError(f"{sweep.notebook}: has no parameter `split`", fix='split: str = "dev"')
    for prompt in report.version.prompts.values():
        if Prompt.load(poc / prompt.name).text != prompt.text:
            raise InputError(
                f"{prompt.name} was edited since run {report.run_id}", fix=f"`poclab sweep`, and take its winner; or {ANOTHER}"
            )
    corpus = drift.corpus_digest(poc)
    if report.corpus_digest and corpus != report.corpus_digest:
        raise InputError(f"the documents changed since run {report.run_id}", fix=f"`poclab sweep`, and take its winner; or {ANOTHER}")
    with tempfile.TemporaryDirectory() as folder:
        archive.download(report.run_id, recorded := Path(folder, "run"))
        trial = recorded / trials.TRIAL_FILE
        given = read_json(trial)["parameters"] if trial.is_file() else {}
    used = {**given, **report.version.flat(), "split": split, "repeats": report.repeats}
    return {name: value for name, value in used.items() if name in known and name != "poc"}
