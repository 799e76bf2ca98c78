"""Score a version on the held-out cases, once: the winner of a sweep, before it is decided on.

A version that was scored there on the same cases and documents is not scored again. What it takes to run it is read from
its recorded run; cases, a prompt file or a corpus that changed since are refused: that would be another version, or a number
without its like on dev.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from poclab import decision, drift, kernels, sweeps, trials
from poclab.archive import Archive
from poclab.charter import Charter
from poclab.errors import FrozenError, InputError
from poclab.report import Report
from poclab.system import Prompt

HELD_OUT = "test"


def confirm(poc: Path, run_id: str | None = None, *, say: Callable[[str], None] = lambda line: None) -> str:
    """Return the run of a version on the held-out cases; without one, it is made. `run_id` names the version's run on dev.

    Without `run_id` it is the best trial of the sweep that ended last, by the metric of the sweep file.

    Raises:
        InputError: the charter cannot decide yet, there is no such run, or its version cannot be run again as it was.
        FrozenError: the cases changed since that run.
    """
    decision.refuse_unfinished(Charter.load(poc))
    archive, sweep = Archive.open(poc), sweeps.load_sweep(poc)
    if run_id is None and (missing := archive.unfinished()):
        raise InputError(
            f"the last sweep has not ended: {missing}; its winner may be among those",
            fix="`poclab sweep` goes on from there; or name a RUN",
        )
    row = archive.find(run_id) if run_id else archive.winner(sweep.metric, maximize=sweep.maximize)
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
    tied = archive.tied(row) if run_id is None else 0
    first = f" (the first of {tied + 1} trials with this accuracy)" if tied else ""
    say(f"{report.version.name}{first} on {report.split}: {report.summary()}; now on the held-out cases, once")
    single = sweeps.single(poc, sweep.notebook, _parameters(report, sweep, poc), fixed=sweep.fixed)
    named = dataclasses.replace(single.trials[0], name=f"{report.version.name}, held-out cases")
    results = trials.run_sweep(dataclasses.replace(single, trials=(named,)))
    if results.errors:
        raise InputError(results.failures())
    (record,) = results.records
    if record.version != report.version.digest:
        raise InputError(
            f"the run on the held-out cases is of another version than run {row['run_id']}: the notebook changed since",
            fix="`poclab sweep`, and confirm its winner",
        )
    return record.run_id


def _parameters(report: Report, sweep: sweeps.Sweep, poc: Path) -> Mapping[str, Any]:
    """Return the parameters of the notebook that make this version again, on the held-out cases."""
    known = kernels.read_parameters(sweep.notebook)
    if "split" not in known:
        raise InputError(f"{sweep.notebook}: has no parameter `split`", fix='split: str = "dev"')
    for prompt in report.version.prompts.values():
        if Prompt.load(poc / prompt.name).text != prompt.text:
            raise InputError(
                f"{prompt.name} was edited since run {report.run_id}", fix="`poclab sweep`, and confirm its winner, or another RUN"
            )
    corpus = drift.corpus_digest(poc)
    if report.corpus_digest and corpus != report.corpus_digest:
        raise InputError(f"the documents changed since run {report.run_id}", fix="`poclab sweep`, and confirm its winner")
    used = {name: value for name, value in report.version.flat().items() if name in known}
    return {**used, "split": HELD_OUT, **({"repeats": report.repeats} if "repeats" in known else {})}
