"""What the end of a sweep adds to its runs in MLflow: the verdict in the description of each trial, ranked table and forest chart on
the sweep's own run, and which prompts are those of the baseline and of the champion.

The trials and the verdicts are those of `poclab compare` when the sweep ends; a later sweep of more trials may soften them.
What the store refuses is told, and fails no sweep: its results stand in the journal.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from poclab import charts, comparison, tracking
from poclab.archive import Archive
from poclab.comparison import Candidate, Comparison
from poclab.errors import PocError, StoreError
from poclab.files import WORK, write_atomic, write_bytes
from poclab.recording import BRIEF
from poclab.report import Report
from poclab.results import Results
from poclab.tracking import notes, routes
from poclab.tracking.notes import NOTE, plain
from poclab.tracking.store import NOT_MIRRORED, PROMPTS

Row = Mapping[str, Any]


def conclude(results: Results, folder: Path, *, say: Callable[[str], None]) -> None:
    """Write into MLflow what a sweep found; the files that it takes are made in `folder`."""
    told, send = partial(_told, say), partial(tracking.recorder().send, uri=tracking.tracking_uri(results.sweep.poc))
    keep, describe = (partial(send, command, run_id=results.parent_run_id) for command in ("artifacts", "annotate"))
    with told("the ranked table"):
        keep(files={str(write_atomic(folder / "ranking.txt", f"{results}\n")): ""}).result()
    end = None
    with told("the verdicts"):
        if not results.sweep.whole:
            for record in results.ranked():
                send("annotate", run_id=record.run_id, tags={"poclab.listed": results.parent_run_id}).result()
        end = _End.read(results)
        for row in end.trials:  # one after the other: a store that refuses one takes its time over it
            send("annotate", run_id=row["run_id"], tags=end.tags(row)).result()
    with told("the description of the sweep"):
        overview = end.overview() if end else []
        describe(tags={NOTE: "\n\n".join([*overview, notes.table(list(results.rows())) or str(results)])}).result()
    if end and end.trials:
        with told("the aliases of the prompts"):
            names = {name for row in end.archive.every for name, _ in _prompts(row)}
            send("alias", names=sorted(names), aliases=end.aliases()).result()
        with told("the frozen set as a dataset"):
            _refuse_unmirrored(end.trials)
    if end and end.comparison:
        with told("the forest chart"):
            keep(files={str(write_bytes(folder / "forest.png", charts.png(charts.forest(end.comparison)))): ""}).result()


@contextlib.contextmanager
def _told(say: Callable[[str], None], what: str) -> Iterator[None]:
    try:
        yield
    except PocError as problem:
        say(f"MLflow does not hold {what}: {problem.message}")


@dataclass(frozen=True)
class _End:
    """The trials of a sweep as they stand in the store, none when all failed; the comparison is None with nothing to compare."""

    archive: Archive
    metric: str
    trials: list[Row]
    reports: dict[str, Report]
    baseline: Row | None = None
    champion: Row | None = None
    comparison: Comparison | None = None

    @classmethod
    def read(cls, results: Results) -> _End:
        sweep, archive = results.sweep, Archive.told(results.sweep.poc)
        ours = (sweep.name, results.lock_digest)
        trials = [row for row in archive.sweep() if (row["tags"].get("sweep"), row["tags"].get("lock")) == ours]
        reports = {row["run_id"]: _report(archive, row) for row in trials}
        if not trials:
            return cls(archive, sweep.metric, trials, reports)
        baseline, champion = archive.baseline, archive.winner(sweep.metric, maximize=sweep.maximize)
        others, found = [row for row in trials if row is not baseline], None
        if baseline and others:
            ids = [row["run_id"] for row in (baseline, *others)]
            found = comparison.compare(*(reports[one] for one in ids), comparisons=archive.comparisons(ids), first=sweep.metric)
        return cls(archive, sweep.metric, trials, reports, baseline, champion, found)

    def tags(self, row: Row) -> dict[str, str]:
        """Return the description of a trial; where there is one, its word stands in a tag to filter by."""
        place, run_id = row["experiment_id"], row["run_id"]
        parts = [f"**champion**: the best of {len(self.trials)} trials by {plain(self.metric)}"] if row is self.champion else []
        word, beside, one = "", {}, self._candidate(row)
        if one:
            word = one.scores[0].word.partition(" (")[0]
            moved = (
                f"{len(one.fixed)} cases fixed, {len(one.broken)} broken; {one.price}; Holm over {self.comparison.comparisons} comparisons"
            )
            parts += [f"**{plain(one.verdict)}**", f"{plain(one.name)}: {plain(moved)}"]
            beside = {"beside the baseline, case by case": routes.side_by_side(place, run_id, self.baseline["run_id"])}
        elif row is self.baseline:
            word, parts = "baseline", [*parts, "**baseline** of the sweep"]
        parts.append(notes.of_report(self.reports[run_id], place, run_id, beside=beside))
        return {NOTE: "\n\n".join(parts), **({"poclab.verdict": word} if word else {})}

    def _candidate(self, row: Row) -> Candidate | None:
        found = self.comparison.candidates if self.comparison else ()
        return next((one for one in found if one.report.run_id == row["run_id"]), None)

    def overview(self) -> list[str]:
        """Return what the description of the sweep says above its table."""
        if not self.trials:
            return []
        best, one = self.champion, self._candidate(self.champion)
        named = f"**champion**: {notes.link(best['name'], routes.run(best['experiment_id'], best['run_id']))}"
        return [named, *([f"**{plain(one.verdict)}**"] if one else []), notes.links(self.archive.links())]

    def aliases(self) -> dict[str, list[str]]:
        """Return the prompts of the baseline and of the champion, as far as they have a result."""
        named = {"baseline": self.baseline, "champion": self.champion}
        return {alias: [f"{PROMPTS}{name}/{version}" for name, version in _prompts(row)] for alias, row in named.items() if row}


def _report(archive: Archive, row: Row) -> Report:
    """Return the brief report of a trial: from the work folder, where the store is a server that would have to send it."""
    kept = archive.poc / WORK / "sweeps" / row["tags"]["sweep"] / row["tags"]["trial"] / "artifacts" / BRIEF
    found = Report.load(kept) if kept.is_file() else None
    return found if found and found.run_id == row["run_id"] else archive.reports([row])[0]


def _prompts(row: Row) -> Iterator[tuple[str, str]]:
    """Yield name and version of each registered prompt of a run."""
    for key, value in row["tags"].items():
        if key.startswith("prompt.") and value.startswith(PROMPTS):
            name, _, version = value.removeprefix(PROMPTS).rpartition("/")
            yield name, version


def _refuse_unmirrored(trials: list[Row]) -> None:
    if problem := next((told for row in trials if (told := row["tags"].get("dataset", "")).startswith(NOT_MIRRORED)), None):
        raise StoreError(problem)
