"""Run a recorded run again: its notebook with its parameters, prompts, rubrics, cases, lock and charter, in a folder of its own.

They come from the store alone. Documents and code are those of now: what is not what it was then is named, since it may be why another
result comes out. By default the run's own answers are served again, from the ledger, and nothing else: then the result must be equal,
and every answer that was recorded must be asked for. Live, the model is asked again, and the two results are compared.

Only a run that a notebook made headlessly can be run again. The store is not touched.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poclab import comparison, drift, rag, rehearsals, tracking
from poclab.archive import Archive
from poclab.cases import lock_path
from poclab.comparison import Comparison
from poclab.comparison.result import BETTER, WORSE
from poclab.drift import State
from poclab.errors import InputError, printable
from poclab.files import CHARTER, HANDOFF, canonical, read_json, read_text, require_poc, work_folder, write_atomic
from poclab.ledger import LEDGER, Ledger, transfer
from poclab.recording import TRIAL_FOLDER, TRIAL_RUN
from poclab.redaction import CONCEALED, conceal, conceal_json
from poclab.report import CaseResult, Report
from poclab.requests import BUDGET, FORCED_MODE, RETRY
from poclab.sweeps import content_digest
from poclab.tables import block, cut, html_table, paragraph, text_table
from poclab.trials import TRIAL_FILE

#: What of a POC's folder stays where it is: the store, what was made of it, and the ledger.
LEFT = ("mlflow.db*", "mlartifacts", f"{LEDGER}*", HANDOFF, ".*", "__pycache__")
SHOWN = 20
COLUMNS = ("case", "recorded", "now")


@dataclass(frozen=True)
class Reproduction:
    """A run that was run again. `found` is the report of now; None if the notebook did not get there, and `problem` says why.

    `causes` are what is not as it was then; `restored` what is not either, where the run's own was used. Of the run's `recorded_answers`,
    `asked_for` were asked for again; None live. `compared` is there live alone. `folder` holds the executed notebook.
    """

    run_id: str
    recorded: Report
    found: Report | None
    problem: str
    causes: tuple[str, ...]
    restored: tuple[str, ...]
    folder: Path
    recorded_answers: int = 0
    asked_for: int | None = None
    compared: Comparison | None = None

    @property
    def live(self) -> bool:
        return self.asked_for is None

    @property
    def holds(self) -> bool:
        """Whether the result is equal; live, whether no difference can be told."""
        if self.found is None or self.problem:
            return False
        if self.live:
            changes = self.compared.candidates[0].scores if self.compared else ()
            return bool(changes) and changes[0].paired is not None and not {one.word for one in changes} & {BETTER, WORSE}
        return self.found.content_digest() == self.recorded.content_digest() and self.asked_for == self.recorded_answers

    def differences(self) -> list[tuple[str, str, str]]:
        """Return the cases that differ: what was recorded, and what came now."""
        then, now = ({(one.case_id, one.repeat): one for one in report.results} for report in (self.recorded, self.found or self.recorded))
        places = dict.fromkeys([*then, *now])
        told = (
            (_name(place), _told(then.get(place)), _told(now.get(place)))
            for place in places
            if _content(then, place) != _content(now, place)
        )
        return list(told)

    def _made_with(self) -> Iterator[str]:
        """Yield what differs in a report besides its results, as `Report.content_digest` takes it."""
        names = ("lock_digest", "split", "repeats", "corpus_digest", "score_names", "planned")
        then, now = ({**one.version.flat(), **{name: getattr(one, name) for name in names}} for one in (self.recorded, self.found))
        for name in dict.fromkeys([*then, *now]):
            if then.get(name) != now.get(name):
                yield f"{name} {cut(str(then.get(name)), 20)} -> {cut(str(now.get(name)), 20)}"

    def _lines(self) -> Iterator[str]:
        how = "asked again" if self.live else "replayed"
        head = f"run {self.run_id} ({self.recorded.version.name}) {how}: "
        if self.problem:
            yield f"{head}it did not get to a result: {self.problem}"
        elif self.live:
            yield head + ("no difference can be told" if self.holds else "the results differ")
            yield f"answered by {_models(self.recorded)} then, by {_models(self.found)} now"
        elif self.holds:
            yield f"{head}equal, content {self.recorded.content_digest()[:12]}"
            yield f"{len(self.recorded.results)} results; {self.asked_for} answers were asked for, all of those that were recorded"
        else:
            differ, of = len(self.differences()), len(self.recorded.results)
            if other := "" if differ else ", ".join(self._made_with()):
                yield f"{head}all {of} results are equal, but not what they were made with: {other}"
            else:
                yield f"{head}NOT equal: {differ} of {of} results differ" if differ else f"{head}NOT equal"
            if self.asked_for != self.recorded_answers:
                yield f"{self.asked_for} of the {self.recorded_answers} recorded answers were asked for"
        yield from (f"not as it was then: {one}" for one in self.causes)
        if not (self.holds or self.causes or self.problem or self.live):
            yield "code, packages, Python and documents are what they were: the notebook or the system depends on something else"
        if not self.holds:
            yield f"the executed notebook: {self.folder / 'trial' / 'executed.ipynb'}"
        if self.restored:
            yield f"restored from the run, since it is another one here: {', '.join(self.restored)}"

    def __repr__(self) -> str:
        lines = [printable(line) for line in self._lines()]
        if self.live and self.compared:
            return "\n".join([*lines, "", repr(self.compared)])
        rows = [] if self.problem or self.holds else self.differences()
        more = [f"... and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
        return "\n".join([*lines, *(["", text_table(COLUMNS, rows[:SHOWN])] if rows else []), *more])

    def _repr_html_(self) -> str:
        differences = html_table(COLUMNS, self.differences()) if not (self.live or self.problem or self.holds) else ""
        compared = self.compared._repr_html_() if self.live and self.compared else ""
        return block(*map(paragraph, self._lines()), differences, compared)

    def to_json(self) -> dict[str, Any]:
        plain = {
            name: getattr(self, name) for name in ("run_id", "problem", "causes", "restored", "recorded_answers", "asked_for", "holds")
        }
        digests = {"recorded": self.recorded.content_digest(), "found": self.found and self.found.content_digest()}
        compared = {"comparison": self.compared.to_json()} if self.compared else {}
        return {**plain, **digests, "differences": [] if self.live or self.problem else self.differences(), **compared}


def reproduce(run_id: str, poc: Path | str | None = None, *, live: bool = False, max_cost_usd: float | None = None) -> Reproduction:
    """Run a recorded run again, from its own answers or `live`, and tell whether the same comes out.

    `run_id` is an id, or how it begins; `max_cost_usd` bounds what is asked live.

    Raises:
        InputError: there is no such run, or no notebook made it.
        StoreError: the store or the ledger cannot be used.
    """
    folder = require_poc(poc)
    archive = Archive.open(folder)
    run_id = archive.find(run_id)["run_id"]
    home = Path(tempfile.mkdtemp(prefix=f"{run_id[:8]}-", dir=work_folder(folder, "reproductions")))
    try:
        return _reproduce(folder, archive, run_id, home, live, max_cost_usd)
    except BaseException:  # there is nothing in it to look at
        shutil.rmtree(home, ignore_errors=True)
        raise


def _reproduce(folder: Path, archive: Archive, run_id: str, home: Path, live: bool, max_cost_usd: float | None) -> Reproduction:
    recorded = home / "recorded"
    archive.download(run_id, recorded)
    if not (recorded / TRIAL_FILE).is_file():
        raise InputError(
            f"run {run_id} was made by Python code, or by an older poclab: it holds no notebook to execute",
            fix="`poclab run` makes one that does",
        )
    report, trial = Report.load(recorded / "report.json"), read_json(recorded / TRIAL_FILE)
    copy = _copy(folder, home / "poc")
    restored = tuple(_restore(folder, recorded, copy, report, trial))
    causes = [*_keys(report, trial, restored)]
    causes += list(
        _then(recorded, trial, report).changes(
            State(drift.code_digests(folder), "", drift.corpus_digest(copy), *drift.environment(), files=_files(trial, copy))
        )
    )
    names = _answers(report)
    budget = f"reproduction {home.name}" if live and max_cost_usd is not None else ""
    if live:  # what is paid for is kept where all answers are, whatever becomes of this process
        ledger = Ledger.open(folder / LEDGER)
        (copy / LEDGER).symlink_to(ledger.path)
        if budget:
            ledger.open_budget(budget, max_cost_usd)
    else:
        causes += _serve(folder, copy, names)
    try:
        found, problem = _execute(recorded, copy, home / "trial", trial, _env(trial, copy, home, run_id, live, budget))
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    problem = problem.partition("\n  fix: ")[0].replace(str(copy), str(folder))  # what to do is told by the causes
    # The file of an agent's tools is code and a file that a parameter names.
    told = Reproduction(run_id, report, found, problem, tuple(dict.fromkeys(causes)), restored, home, len(names))
    if not live:
        # Of the key alone: in the ledger that served them all are of generation 0.
        same = Counter(map(_key, names)) & Counter(map(_key, _answers(found)))
        return dataclasses.replace(told, asked_for=same.total())
    if found is None or problem:
        return told
    return dataclasses.replace(told, compared=comparison.compare(report, dataclasses.replace(found, run_id=None)))


def _answers(report: Report | None) -> list[str]:
    """Return the names of the answers that a report's calls got."""
    results = report.results if report else ()
    return [call.entry for one in results for call in (*one.calls, *one.judge_calls) if call.entry]


def _copy(folder: Path, within: Path) -> Path:
    """Copy the files of a POC, and return where to; documents that lie outside of it are linked at the same distance.

    A link becomes one to the same place, and what is neither file nor folder stays behind.
    """
    documents = rag.load_corpus(folder).documents if (folder / "corpus.yaml").is_file() else ()
    outside = [name for one in documents if (name := os.path.normpath(one.id)).startswith("..")]
    levels = max((Path(name).parts.count("..") for name in outside), default=1)
    copy = within.joinpath(*folder.parts[-levels:])

    def left(path: str, names: list[str]) -> set[str]:
        modes = {name: os.lstat(os.path.join(path, name)).st_mode for name in names}
        special = {name for name, mode in modes.items() if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))}
        return special | shutil.ignore_patterns(*LEFT)(path, names)

    try:
        shutil.copytree(folder, copy, ignore=left, symlinks=True)
        for path in [path for path in copy.rglob("*") if path.is_symlink()]:
            target = (folder / path.relative_to(copy)).parent / path.readlink()
            path.unlink()
            path.symlink_to(os.path.abspath(target))
        for name in outside:
            path = Path(os.path.abspath(copy / name))
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():  # a document of the POC's own has been copied, whatever way leads to it
                path.symlink_to(os.path.realpath(folder / name))
    except (OSError, shutil.Error) as error:
        raise InputError(f"{folder}: cannot be copied: {str(error)[:500]}", fix="let its files be read") from None
    return copy


def _keys(report: Report, trial: Mapping[str, Any], restored: Sequence[str]) -> Iterator[str]:
    """Yield what held a key, which is kept nowhere: the requests of now are others."""
    texts = {one.name: one.text for one in report.version.prompts.values() if one.name in restored}
    texts |= {f"the parameter {name}": canonical(value) for name, value in trial["parameters"].items()}
    yield from (
        f"{name} held a key, which is kept nowhere: its requests cannot be made again" for name, text in texts.items() if CONCEALED in text
    )


def _restore(folder: Path, recorded: Path, copy: Path, report: Report, trial: Mapping[str, Any]) -> Iterator[str]:
    """Put into the copy what the run holds in place of what there is now; yield what is another one now."""
    texts = {name: recorded / name for name in (CHARTER, "cases.jsonl", lock_path(Path("cases.jsonl")).name) if (recorded / name).is_file()}
    own = {name: read_text(path) for name, path in texts.items()} | {one.name: one.text for one in report.version.prompts.values()}
    if (rubrics := trial.get("rubrics")) is not None:  # an older poclab kept none
        own |= rubrics
        for name in drift.rubric_texts(copy).keys() - rubrics:  # there was none, or the one that comes along
            _detach(copy, copy / name)
            (copy / name).unlink()
            yield name
    for name, text in own.items():
        path = copy / name
        if not Path(os.path.abspath(path)).is_relative_to(copy):
            raise InputError(f"run {report.run_id}: names a file outside of the POC: {name!r}")
        if path.is_file() and _plain(conceal(read_text(path)), name) == _plain(text, name):
            continue  # also of one that holds a key, which the run does not
        yield name
        _detach(copy, path)
        path.unlink(missing_ok=True)
        write_atomic(path, text, sync=False)
    here = folder / trial["path"]
    if not here.is_file() or drift.notebook_digest(here) != drift.notebook_digest(_source(recorded, trial)):
        yield trial["path"]


def _detach(copy: Path, path: Path) -> None:
    """Put copies in the place of linked folders above a path: what a link leads to is not written to."""
    for above in reversed(path.relative_to(copy).parents[:-1]):
        if (linked := copy / above).is_symlink():
            target = linked.resolve()
            linked.unlink()
            shutil.copytree(target, linked, symlinks=True)


def _source(recorded: Path, trial: Mapping[str, Any]) -> Path:
    return recorded / "notebook" / "source" / trial["notebook"]


def _plain(text: str, name: str) -> Any:
    """Return what a file says; of JSON, however it is laid out."""
    with contextlib.suppress(ValueError):
        return json.loads(text) if name.endswith(".json") else text
    return text


def _then(recorded: Path, trial: Mapping[str, Any], report: Report) -> State:
    """Return what the run says of what cannot be restored."""
    environment = read_json(recorded / "environment.json")
    return State(trial["code"], "", report.corpus_digest, environment["python"], environment["packages"], files=trial.get("files", {}))


def _files(trial: Mapping[str, Any], copy: Path) -> dict[str, str]:
    """Return the digests of the files that the run's parameters named as they are in the copy, its prompts restored."""
    return {name: content_digest(copy / name) for name in trial.get("files", {}) if os.path.exists(copy / name)}


def _serve(folder: Path, copy: Path, names: list[str]) -> list[str]:
    """Put the run's own answers into the ledger of the copy, with those that no case asked; tell how many there are not."""
    ledger = Ledger.open(folder / LEDGER) if (folder / LEDGER).is_file() else None
    found = [ledger.named(name) if ledger else None for name in names]
    transfer([*(one for one in found if one), *(ledger.of_case("") if ledger else [])], copy / LEDGER)
    told = f"{found.count(None)} of the run's {len(names)} answers are not in {folder / LEDGER}"
    return [f"{told}: `poclab ledger --import` adds those of another machine"] if None in found else []


def _env(trial: Mapping[str, Any], copy: Path, home: Path, run_id: str, live: bool, budget: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in (BUDGET, RETRY)}
    own = {
        "POCLAB_POC": str(copy),
        "MLFLOW_TRACKING_URI": f"{tracking.SQLITE}{copy / tracking.DATABASE}",  # a second evaluation of the notebook leaves its run here
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        FORCED_MODE: "live" if live else "replay",
        TRIAL_FOLDER: str(home / "trial"),
        TRIAL_RUN: run_id,
    }
    own |= {BUDGET: budget} if budget else {}
    own |= {"OPENAI_BASE_URL": trial["endpoint"]} if trial["endpoint"] and not live else {}
    return {**inherited, **own}


def _execute(recorded: Path, copy: Path, folder: Path, trial: Mapping[str, Any], env: Mapping[str, str]) -> tuple[Report | None, str]:
    """Execute the run's notebook in the copy; return its report, None if there is none, and what went wrong."""
    (folder / "artifacts").mkdir(parents=True)
    problem = rehearsals.execute(_source(recorded, trial), folder / "executed.ipynb", trial["parameters"], env=env, cwd=copy)
    path = folder / "artifacts" / "report.json"
    if not path.is_file():
        return None, problem or "the notebook ended without a report"
    found = Report.load(path)
    return found, problem or found.stopped


def _key(entry: str) -> str:
    return entry.partition("/")[0]


def _models(report: Report | None) -> str:
    return ", ".join(report.models) or "nobody knows whom" if report else "nobody"


def _name(place: tuple[str, int]) -> str:
    return place[0] if not place[1] else f"{place[0]} (repeat {place[1] + 1})"


def _content(results: Mapping[tuple[str, int], CaseResult], place: tuple[str, int]) -> str | None:
    """Return what must be equal, as `Report.content_digest` takes it."""
    one = results.get(place)
    return one and canonical(conceal_json(one.content()))


def _told(one: CaseResult | None) -> str:
    if one is None:
        return "(not asked)"
    scores = ", ".join(f"{name} {score.value:g}" if score.value is not None else f"{name} none" for name, score in one.scores.items())
    said = one.failure or cut(one.reply.text or canonical(one.reply.data), 60)
    return f"{said} ({scores})"
