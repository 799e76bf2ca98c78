"""The evidence of a handoff: what the runs and the files of a POC say, in a folder that stands for itself.

    charter.yaml cases.jsonl cases.lock.json LOG.md     the POC's files
    rubrics/                                            of each judge the rubric, the labels and the calibration
    reviews.jsonl                                       what second labellers said of the cases, and how disagreements were settled
    test/ dev/                                          what the run on each split holds: report, version, prompts, notebook, packages, git
    files/                                              what the runs' parameters name besides prompts: the world and the tools of an agent
    trials/                                             the results of each trial of the sweep, case by case, replies cut
    decision.json history.json comparison.json facts.json     what was worked out from them
    history.png forest.png                              charts

The documents are made from this folder alone, so that anyone can make them again and compare.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from poclab import charts, reviews, timeline
from poclab.archive import Archive
from poclab.cases import TestSet
from poclab.charter import Charter
from poclab.comparison import Comparison, compare
from poclab.decision import Decision, Edit, Look, weigh
from poclab.errors import InputError
from poclab.files import CHARTER, RUBRICS, read_json, read_text
from poclab.judging import Rubric
from poclab.judging.gate import gate
from poclab.judging.rubric import TEMPLATES
from poclab.redaction import conceal, conceal_json
from poclab.report import Report
from poclab.scores import NO_RUBRIC
from poclab.sweeps import content_digest
from poclab.system import Version
from poclab.trials import TRIAL_FILE

#: A run's artifacts that say nothing that the others do not.
LEFT_OUT = ("brief.json",)
POC_FILES = (CHARTER, "cases.jsonl", "cases.lock.json", reviews.FILE, "LOG.md", "corpus.yaml", "sweep.yaml")


@dataclass(frozen=True)
class Evidence:
    """The evidence folder of a handoff, read."""

    folder: Path

    def _json(self, name: str) -> Any:
        return read_json(self.folder / name)

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        return self._json("facts.json")

    @cached_property
    def reports(self) -> dict[str, Report]:
        """The whole reports by split, the one on the held-out cases first."""
        return {name: Report.load(self.folder / name / "report.json").drilled(self.folder / name) for name in self.facts["splits"]}

    @property
    def report(self) -> Report:
        return next(iter(self.reports.values()))

    @cached_property
    def charter(self) -> Charter:
        return Charter.load(self.folder / CHARTER)

    @cached_property
    def cases(self) -> TestSet:
        return TestSet.load(self.folder / "cases.jsonl")

    @cached_property
    def entries(self) -> tuple[reviews.Entry, ...]:
        return reviews.read_entries(self.folder)

    @cached_property
    def version(self) -> Version:
        return Version.from_json(self._json(f"{self.facts['splits'][0]}/version.json"))

    @cached_property
    def recorded_decision(self) -> Mapping[str, Any]:
        return self._json("decision.json")

    @cached_property
    def decision(self) -> Decision:
        """The decision, worked out again from charter and reports; looks and edits are those that were recorded."""
        said = self.recorded_decision
        looks = None if said["looks"] is None else [Look(**one) for one in said["looks"]]
        edits = (
            None
            if said["edits"] is None
            else [Edit(**{**one, **{key: tuple(one[key]) for key in ("before", "after")}}) for one in said["edits"]]
        )
        today = datetime.date.fromisoformat(said["on"])
        lineage = self.cases.lock.since_first()
        told = {"looks": looks, "edits": edits, "lineage": lineage, "today": today}
        return weigh(self.charter, list(self.reports.values()), **told, judged=gate(self.folder, self.charter, named=self.facts["poc"]))

    @cached_property
    def history(self) -> list[Mapping[str, Any]]:
        return self._json("history.json")

    @cached_property
    def recorded_comparison(self) -> Mapping[str, Any] | None:
        return self._json("comparison.json") if self.has("comparison.json") else None

    @cached_property
    def comparison(self) -> Comparison | None:
        """The comparison of the sweep's trials, worked out again from their results; None without a sweep."""
        said = self.recorded_comparison
        if said is None:
            return None
        runs = [said["baseline"]["run"], *(one["run"] for one in said["candidates"])]
        reports = [Report.load(self.folder / "trials" / f"{Path(run).name}.json").afresh() for run in runs]
        first, links = said["candidates"][0]["scores"][0]["score"], [one["link"] for one in said["candidates"]]
        found = compare(*reports, comparisons=said["comparisons"], links=links, first=first)
        # Some notes are of what else is in the store.
        return dataclasses.replace(found, notes=(*found.notes, *[note for note in said["notes"] if note not in found.notes]))

    def judges(self, report: Report) -> Iterator[tuple[str, str, Rubric | None]]:
        """Yield each score of a report that a judge gave, with the digest of the rubric that it went by, and that rubric where it is here."""
        known = _by_digest((self.folder / RUBRICS).glob("*.yaml"), report)
        for score in report.score_names:
            for scored in sorted(report.judged_by(score) - {NO_RUBRIC}):
                yield score, scored, known.get(scored)

    @property
    def inputs(self) -> list[str]:
        """What was copied of the files that the runs' parameters name."""
        files = self.folder / "files"
        return sorted(path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file())

    def of_run(self, name: str) -> Mapping[str, Any] | None:
        """Return a JSON artifact of the run on the first split, where it has one."""
        path = f"{self.facts['splits'][0]}/{name}"
        return self._json(path) if self.has(path) else None

    def text(self, name: str) -> str:
        return read_text(self.folder / name) if self.has(name) else ""

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()


def collect(folder: Path, decision: Decision, archive: Archive, comparison: Comparison | None) -> Evidence:
    """Write the evidence for a decision, on the cases that are frozen now, into an empty folder."""
    poc = archive.poc
    reviews.read_entries(poc)  # what is wrong with them is said of the file that can be mended
    judges = sorted(path.relative_to(poc).as_posix() for path in (poc / RUBRICS).glob("*.*") if path.is_file())
    (folder / RUBRICS).mkdir()
    for name in (*POC_FILES, *judges):
        if (poc / name).is_file():
            # Frozen cases were written without keys, and must stay what their lock says, to the letter.
            text = read_text(poc / name)
            (folder / name).write_text(text if name.startswith("cases") else conceal(text), encoding="utf-8")
    runs = {one.split or "all": one.run_id for one in sorted(decision.reports, key=lambda one: one.split != "test")}
    for split, run_id in runs.items():
        archive.download(run_id, folder / split)
        for name in LEFT_OUT:
            (folder / split / name).unlink(missing_ok=True)
        _copy_inputs(folder, split, poc)
        if (kept := folder / split / CHARTER).is_file():  # a run keeps it as it was written
            kept.write_text(conceal(read_text(kept)), encoding="utf-8")
    history = timeline.of_runs(archive.finished, decision.charter)
    rows = [{**row, "started": f"{row['started']:%Y-%m-%d %H:%M}"} for row in history.rows]
    facts = {"poc": poc.name, "splits": list(runs), "runs": runs, "compared": comparison is not None}
    _write(folder, "facts.json", facts)
    _write(folder, "history.json", rows)
    if history.drawable:
        (folder / "history.png").write_bytes(charts.png(history.figure()))
    if comparison:
        (folder / "trials").mkdir()
        for report in (comparison.baseline, *(one.report for one in comparison.candidates)):
            report.shortened().save(folder / "trials" / f"{report.run_id}.json", sync=False)
        _write(folder, "comparison.json", comparison.to_json())
        with contextlib.suppress(InputError):  # no candidate has a number
            (folder / "forest.png").write_bytes(charts.png(charts.forest(comparison)))
    # From the whole reports: a brief one says the same, but what is verified later is this.
    found = Evidence(folder)
    for split, report in found.reports.items():
        _check_rubrics(found, split, report, poc)
    _keep_judges(found)
    told = {"looks": decision.looks, "edits": decision.edits, "lineage": decision.lineage, "today": decision.today}
    whole = weigh(found.charter, list(found.reports.values()), **told, judged=gate(folder, found.charter, named=poc.name))
    _write(folder, "decision.json", whole.to_json())
    return Evidence(folder)


def _copy_inputs(folder: Path, split: str, poc: Path) -> None:
    """Copy the files and folders that a run's parameters name, but for its prompts, which the run holds, and for links.

    Raises:
        InputError: one of them is no longer what the run found.
    """
    version = Version.from_json(read_json(folder / split / "version.json"))
    trial = read_json(folder / split / TRIAL_FILE) if (folder / split / TRIAL_FILE).is_file() else {}
    for name, then in trial.get("files", {}).items():
        if name in {one.name for one in version.prompts.values()}:
            continue
        if not (poc / name).exists() or content_digest(poc / name) != then:
            raise InputError(f"{name} is not what the run on {split} found there", fix="put it back, or run again")
        for path in (poc / name).rglob("*") if (poc / name).is_dir() else (poc / name, poc / f"{name}-wal"):
            if path.is_file() and not path.is_symlink():
                target = folder / "files" / path.relative_to(poc)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def _check_rubrics(found: Evidence, split: str, report: Report, poc: Path) -> None:
    """Hold the rubrics in the evidence against those that scored a run; one that came with poclab is taken from there.

    Raises:
        InputError: a rubric of the POC is no longer what it was.
    """
    along = _by_digest(TEMPLATES.glob("*.yaml"), report)
    for score, scored, rubric in found.judges(report):
        if rubric is None and (poc / RUBRICS / f"{score}.yaml").is_file():
            raise InputError(
                f"{RUBRICS}/{score}.yaml is not the rubric that scored the run on {split}: digest {scored[:12]} then",
                fix="put that one back; or score both splits with this one: `poclab sweep`, then `poclab decide --confirm`",
            )
        if rubric is None and scored in along:
            shutil.copyfile(along[scored].path, found.folder / RUBRICS / along[scored].path.name)


def _keep_judges(found: Evidence) -> None:
    """Remove from the evidence what belongs to rubrics by which none of its runs was scored, and the folder where none is left."""
    told = [one for report in found.reports.values() for one in found.judges(report)]
    rubrics = {rubric.path: rubric.name for *_, rubric in told if rubric}  # a file may be called otherwise
    names = {*(score for score, *_ in told), *rubrics.values()}
    for path in (found.folder / RUBRICS).iterdir():
        if path not in rubrics and path.name.partition(".")[0] not in names:
            path.unlink()
    with contextlib.suppress(OSError):  # there are judges
        (found.folder / RUBRICS).rmdir()


def _by_digest(paths: Iterable[Path], report: Report) -> dict[str, Rubric]:
    """Return rubrics by their digests, also with the models in place of their own that judged in a report."""
    rubrics, models = [Rubric.load(path) for path in sorted(paths)], sorted({asked for asked, _ in report.judges})
    found = [*rubrics, *(dataclasses.replace(one, model=model) for one in rubrics for model in models)]
    return {one.digest: one for one in found}


def _write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(conceal_json(value), ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")
