"""The recorded runs of a POC, read back: which there are, what they hold, and what they tell beside their numbers.

What they tell: how many trials a sweep started, who looked at the held-out cases, and which criteria were edited. Runs
that failed, were killed or were deleted count there. A run in another store than the POC's is not seen.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poclab import tracking
from poclab.cases import TestSet, lock_path
from poclab.charter import Charter
from poclab.decision import Edit, Look
from poclab.errors import InputError, PocError
from poclab.files import require_poc
from poclab.redaction import shown
from poclab.report import Report
from poclab.tables import frame
from poclab.tracking import queries, routes, server

if TYPE_CHECKING:
    import pandas

#: The name that a sweep gives the run of its baseline.
BASELINE = "baseline"
#: MLflow knows no whole numbers.
COUNTS = ("cases", "failed", "tokens_in", "tokens_out")


@dataclass(frozen=True)
class Archive:
    """The runs of one POC in its store. Read once; what is recorded later is not in it."""

    poc: Path
    uri: str
    #: The runs, where somebody else has read them.
    rows: list[dict[str, Any]] | None = None

    @classmethod
    def open(cls, poc: Path | str | None = None) -> Archive:
        """Open the store of a POC; without its folder it is found as for the command line.

        Raises:
            StoreError: the store cannot be read.
        """
        folder = require_poc(poc)
        uri = tracking.tracking_uri(folder)
        tracking.check_store(uri)
        return cls(folder, uri)

    @classmethod
    def told(cls, poc: Path) -> Archive:
        """Have the runs of a POC read by the recorder, which has MLflow imported: seconds less for a process that has not."""
        uri = tracking.tracking_uri(poc)
        rows = tracking.recorder().send("runs", uri=uri, experiment=poc.name).result()
        return cls(poc, uri, [{**row, "started": datetime.datetime.fromisoformat(row["started"])} for row in rows])

    @cached_property
    def every(self) -> list[dict[str, Any]]:
        """Every evaluation that was ever begun, the oldest first."""
        if self.rows is not None:
            return self.rows
        rows = queries.runs(self.uri, self.poc.name, every=True)
        own = self.uri == f"{tracking.SQLITE}{self.poc.resolve() / tracking.DATABASE}"
        if rows or not own or not (self.poc / tracking.DATABASE).exists() or not lock_path(self.poc / "cases.jsonl").is_file():
            return rows
        # The folder was renamed: in its own database, the runs on its cases are its runs, whatever it was called then.
        return [row for row in queries.runs(self.uri, None, every=True) if row["tags"].get("lock") == self.lock]

    @cached_property
    def finished(self) -> list[dict[str, Any]]:
        """The evaluations that have a result, the oldest first; not those of trials that were only screened."""
        return [row for row in self.every if row["status"] == "FINISHED" and not row["deleted"] and not row["tags"].get("screen")]

    def find(self, run_id: str) -> Mapping[str, Any]:
        """Return the finished run whose id begins so.

        Raises:
            InputError: none does, or several do.
        """
        begun = [row for row in self.every if row["run_id"].startswith(run_id)]
        if len(begun) == 1 and (cases := begun[0]["tags"].get("screen")):
            raise InputError(f"run {begun[0]['run_id']} was only screened, on {cases} cases", fix="name a trial that has a rank")
        if len(begun) == 1 and begun[0]["status"] == "RUNNING":
            raise InputError(f"run {begun[0]['run_id']} has not ended", fix="wait for it")
        if len(begun) == 1 and begun[0]["status"] != "FINISHED":
            raise InputError(
                f"run {begun[0]['run_id']} has no whole result: it ended as {begun[0]['status']}",
                fix="evaluate it again; its answers are kept",
            )
        return queries.match(run_id, self.finished)

    def reports(self, rows: Sequence[Mapping[str, Any]]) -> list[Report]:
        """Return the brief reports of these runs."""
        return queries.briefs(self.uri, rows)

    def newest(self, split: str) -> str:
        """Return the id of the last finished run on a split of the cases as they are frozen now.

        Raises:
            InputError: there is none.
        """
        found = [row["run_id"] for row in self.finished if (row["tags"].get("lock"), row["tags"].get("split")) == (self.lock, split)]
        if not found:
            raise InputError(f"no finished run on the {split} cases as they are frozen now", fix="`poclab run`")
        return found[-1]

    def to_label(self) -> str:
        """Return the id of the run whose replies people label: the winner of the last sweep on dev, else the last run there.

        Raises:
            InputError: there is none.
        """
        swept = any(row["tags"].get("split") == "dev" for row in self.swept)
        return self.winner()["run_id"] if swept else self.newest("dev")

    @property
    def swept(self) -> list[Mapping[str, Any]]:
        """The trials of the last sweep, as far as they are on the cases as they are frozen now."""
        return [row for row in self.sweep() if row["tags"].get("lock") == self.lock]

    def last_of(self, tags: Mapping[str, str]) -> Report | None:
        """Return the newest report of the evaluation that these tags describe, one that was stopped or failed included."""
        names = ("lock", "split", "version", "code", "score", "repeats")
        same = [
            row for row in self.every if not row["deleted"] and all(row["tags"].get(name) == tags.get(f"poclab.{name}") for name in names)
        ]
        for row in reversed(same):
            with contextlib.suppress(PocError):  # one that was killed left no report
                return queries.report(self.uri, row["run_id"])
        return None

    def download(self, run_id: str, folder: Path) -> None:
        """Copy everything that a run holds into a folder."""
        queries.download(self.uri, run_id, folder)

    def comparisons(self, run_ids: Sequence[str]) -> int:
        """Return how many comparisons were begun to find these, the first being the baseline.

        Each trial with the baseline of its sweep; where the baseline is a trial that was picked itself, each with each.
        """
        trials = self.trials_started(run_ids)
        picked = any(row["run_id"] == run_ids[0] and row["parent"] and row["name"] != BASELINE for row in self.every)
        return trials * (trials - 1) // 2 if picked else max(trials - 1, 0)

    def others(self, reports: Sequence[Report]) -> int:
        """Return how many more versions were scored on these cases, outside of sweeps: whoever looks at many picks one."""
        place = (reports[0].lock_digest, reports[0].split or "all")
        seen = {
            row["tags"].get("version")
            for row in self.finished
            if not row["parent"] and (row["tags"].get("lock"), row["tags"].get("split")) == place
        }
        return len(seen - {one.version.digest for one in reports} - {None})

    def trials_started(self, run_ids: Iterable[str]) -> int:
        """Return how many trials the sweeps of these runs started on the same cases, deleted ones included.

        One that failed and was run again is one trial, and so is one that gave the same answers again, such as after an
        upgrade; one that never ended well counts too.
        """
        rows = {row["run_id"]: row for row in self.every}
        sweeps = {_sweep(rows[one]) for one in run_ids if one in rows and rows[one]["parent"]}
        begun = [row for row in self.every if row["parent"] and _sweep(row) in sweeps]
        whole = [row for row in begun if row["status"] == "FINISHED" and not row["tags"].get("screen")]
        ended = {row["tags"].get("content", row["run_id"]): row["name"] for row in whole}
        return len(ended) + len({row["name"] for row in begun} - set(ended.values()))

    def sweep(self) -> list[dict[str, Any]]:
        """Return the finished trials of the sweep that ended last, the newest run of each point, on the cases of its newest run.

        A run before a prompt, a document or the code was edited is of another version: what took its place stands for it. A point that
        the sweep file no longer has is left out, once what it has now has ended.
        """
        trials = [row for row in self.finished if row["parent"]]
        if not trials:
            return []
        listed = trials[-1]["tags"].get("listed")
        same = [row for row in trials if _sweep(row) == _sweep(trials[-1]) and listed in (None, row["tags"].get("listed"))]
        newest = {_point(row): row for row in same}
        return sorted(newest.values(), key=lambda row: row["started"])

    def unfinished(self) -> str:
        """Return how many trials of the last sweep have no result, in words; nothing when all have one."""
        trials = self.sweep()
        begun = [row for row in self.every if row["parent"] and trials and _sweep(row) == _sweep(trials[-1])]
        planned = int(begun[-1]["tags"].get("trials", 0)) if begun else 0
        screened = {row["name"] for row in begun if row["tags"].get("screen") and row["status"] == "FINISHED" and not row["deleted"]}
        missing = planned - len(trials) - len(screened - {row["name"] for row in trials})
        return f"{missing} of its {planned} trials have no result" if missing > 0 else ""

    def winner(self, metric: str | None = None, *, maximize: bool = True) -> Mapping[str, Any]:
        """Return the best trial of the sweep that ended last; of equal ones the one that started first.

        Without a metric it is the one that the sweep was started with.

        Raises:
            InputError: no sweep ended, or its runs do not have the metric.
        """
        trials = self.sweep()
        if metric is None and trials:
            metric, maximize = (trials[-1]["tags"].get(key, default) for key, default in (("metric", "accuracy"), ("goal", "maximize")))
            maximize = maximize == "maximize"
        ranked = sorted(
            (row for row in trials if metric in row["metrics"]),
            key=lambda row: -row["metrics"][metric] if maximize else row["metrics"][metric],
        )
        if not ranked:
            having = f" whose trials have the metric {metric!r}" if trials else ""
            raise InputError(f"no sweep has ended{having}", fix="`poclab sweep`, or name a run")
        return ranked[0]

    @property
    def baseline(self) -> Mapping[str, Any] | None:
        """The run of the last sweep's baseline, if it has a result."""
        return next((row for row in self.sweep() if row["name"] == BASELINE), None)

    def tied(self, winner: Mapping[str, Any], metric: str) -> int:
        """Return how many other trials of the last sweep have as much of a metric as its winner."""
        value = winner["metrics"].get(metric)
        return sum(row["metrics"].get(metric) == value for row in self.sweep() if row["run_id"] != winner["run_id"])

    @cached_property
    def lock(self) -> str:
        """The digest of the POC's cases as they are frozen now.

        Raises:
            FrozenError: they are not frozen, or not what their lock says.
        """
        return self.cases.digest

    @cached_property
    def cases(self) -> TestSet:
        """The POC's cases as they are frozen now."""
        return TestSet.load(self.poc / "cases.jsonl")

    def frozen(self, split: str) -> set[str]:
        """Return the ids of the cases of a split."""
        return {case.id for case in self.cases if case.split == split}

    def candidate(self) -> Mapping[str, Any]:
        """Return the run to decide on: the last one on held-out cases, else the winner of the last sweep, else the last one.

        Runs on other cases than those that are frozen now do not count.

        Raises:
            InputError: there is no finished run.
        """
        current = [row for row in self.finished if row["tags"].get("lock") == self.lock]
        if not current:
            where = ": the runs are on other cases than those that are frozen now" if self.finished else ""
            raise InputError(f"no finished run to decide on{where}", fix="`poclab run`, or `poclab sweep`")
        held_out = [row for row in current if row["tags"].get("split") == "test"]
        return held_out[-1] if held_out else self.winner() if self.swept else current[-1]

    def other_splits(self, reports: Sequence[Report]) -> list[Mapping[str, Any]]:
        """Return the newest run of the same version, code, cases, documents and score on each split that these reports are not of.

        One that was judged by the same rubrics comes before a newer one that was not.
        """
        judges = json.dumps(reports[0].judged)
        alike = [row for row in self.finished if _identity(row) == _identity_of(reports[0])]
        alike.sort(key=lambda row: row["tags"].get("judges") == judges)
        newest = {row["tags"].get("split"): row for row in alike}
        return [row for split, row in newest.items() if split in ("dev", "test") and split not in {one.split for one in reports}]

    def looks(self) -> list[Look]:
        """Return every scoring of held-out cases, of earlier editions too: a case keeps its split for ever."""
        return [
            Look(
                _when(row["started"]),
                row["by"] or "(not known)",
                _version(row),
                row["run_id"],
                "DELETED" if row["deleted"] else row["status"],
            )
            for row in self.every
            if _is_look(row)
        ]

    def edits(self, charter: Charter) -> list[Edit]:
        """Return each change of the criteria since the first run, the one that no run has seen yet included."""
        rows = list(enumerate(self.every))
        first_look = next((place for place, row in rows if _is_look(row)), len(rows))
        used = [(told, _when(row["started"]), place > first_look) for place, row in rows if (told := _criteria(row)) is not None]
        used.append((charter.criteria_texts, _when(datetime.datetime.now()), first_look < len(rows)))
        first_seen = [used[0], *(later for before, later in itertools.pairwise(used) if set(before[0]) != set(later[0]))]
        return [Edit(old[0], new[0], old[1], new[1], new[2]) for old, new in itertools.pairwise(first_seen)]

    def link(self, candidate: str | None, baseline: str | None) -> str:
        """Return the address at which MLflow shows two runs case by case; nothing for a report without a run here."""
        experiments = {row["run_id"]: row["experiment_id"] for row in self.every}
        if candidate not in experiments or baseline not in experiments:
            return ""
        return f"{server.base_of(self.uri)}/{routes.side_by_side(experiments[candidate], candidate, baseline)}"

    def links(self) -> dict[str, str]:
        """Return where to look in MLflow's UI, from the address's `#` on, by what is seen there."""
        if not self.finished:
            return {}
        newest, best, champion = self.finished[-1], self.best_of_each_version(), None
        place = newest["experiment_id"]
        found = {"runs": routes.runs(place), "charts of the trials" if self.sweep() else "charts": routes.charts(place)}
        with contextlib.suppress(InputError):  # no sweep has ended, or its trials do not have its metric
            champion = self.winner()
        if champion and self.baseline and champion is not self.baseline:
            found["baseline and champion, case by case"] = routes.side_by_side(place, champion["run_id"], self.baseline["run_id"])
        elif len(best) > 1:
            found["the two best, case by case"] = routes.side_by_side(place, best[0]["run_id"], best[1]["run_id"])
        of, row = ("the champion", champion) if champion else ("the last run", newest)
        return {**found, f"failing traces of {of}": routes.failing(place, row["run_id"])}

    def best_of_each_version(self) -> list[Mapping[str, Any]]:
        """Return the newest run of each version on the dev split of the newest lock, the highest accuracy first."""
        dev = [row for row in self.finished if row["tags"].get("split") == "dev" and "accuracy" in row["metrics"]]
        newest = {row["tags"].get("version"): row for row in dev if row["tags"].get("lock") == dev[-1]["tags"].get("lock")}
        return sorted(newest.values(), key=lambda row: -row["metrics"]["accuracy"])


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row["tags"].get(key) for key in ("version", "lock", "corpus", "code", "score"))


def _identity_of(report: Report) -> tuple[Any, ...]:
    return (report.version.digest, report.lock_digest, report.corpus_digest, report.code_digest, *report.score_names[:1])


def _is_look(row: Mapping[str, Any]) -> bool:
    return row["tags"].get("split") in ("test", "all")


def _criteria(row: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the criteria that a run was made under; None where it does not say, or not in our form."""
    try:
        told = json.loads(row["tags"].get("criteria", "null"))
    except ValueError:
        return None
    return tuple(map(str, told)) if isinstance(told, list) else None


def _sweep(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row["tags"].get(key) for key in ("sweep", "lock", "split"))


def _point(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a trial that is run again after an edit keeps. The baseline is the point that nothing changed at."""
    return (BASELINE,) if row["name"] == BASELINE else (row["name"], *sorted(row["params"].items()))


def _version(row: Mapping[str, Any]) -> str:
    digest = row["tags"].get("version")
    return f"{row['tags'].get('name') or row['name']} (version {digest[:8] if digest else 'not known'})"


def _when(time: datetime.datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"


def runs(poc: Path | str | None = None) -> pandas.DataFrame:
    """Return the finished evaluations of a POC, the oldest first: name, when, split, parameters, numbers, ids.

    `poc` is its folder; without one it is found as for the command line.
    """
    rows = [
        {
            "run": one["name"],
            "started": one["started"],
            **{key: one["tags"].get(key) for key in ("split", "edition", "score", "sweep")},
            **one["params"],
            **{key: int(value) if key in COUNTS else value for key, value in one["metrics"].items()},
            **{key: one["tags"].get(key) for key in ("lock", "corpus", "version", "content")},
            "run_id": one["run_id"],
        }
        for one in Archive.open(poc).finished
    ]
    return frame(rows)


def load_run(run_id: str, poc: Path | str | None = None) -> Report:
    """Return the report of a recorded run; the first characters of its id are enough, as tables show them.

    Raises:
        InputError: no such run, or it holds no report.
    """
    archive = Archive.open(poc)
    return queries.report(archive.uri, run_id if len(run_id) >= 32 else archive.find(run_id)["run_id"])


def show_ui(poc: Path, port: int, *, say: Callable[[str], None]) -> None:
    """Serve MLflow's UI for a POC on loopback until Ctrl-C, and say where to look.

    Raises:
        StoreError: the store cannot be read, or the port is taken.
    """
    archive = Archive.open(poc)
    folder, uri = archive.poc, archive.uri
    if uri.startswith("http"):
        raise InputError(f"the runs of this POC are at {shown(uri)}: its UI is served there already", fix=f"open {shown(uri)} in a browser")
    server.check_port(port)
    links = archive.links() or {"nothing is recorded yet": ""}
    with server.serve(uri, folder, port) as (base, process):
        for what, address in links.items():
            say(f"{what}: {base}/{address}")
        say("Ctrl-C ends it.")
        process.wait()
