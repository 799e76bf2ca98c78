"""What a notebook calls: evaluate a system against a frozen set, as one MLflow run."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import datetime
import inspect
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from poclab import runner, tracking
from poclab.cases import Case, TestSet, lines
from poclab.charter import Charter
from poclab.errors import InputError, PocError, StoreError
from poclab.files import CHARTER, digest, find_poc, work_folder, write_atomic
from poclab.redaction import conceal, secrets
from poclab.report import CaseResult, Report, frame
from poclab.scores import Score, Scorer, as_scorer
from poclab.system import CaseContext, Reply, Version, current_case

if TYPE_CHECKING:
    import pandas

TRACES = ("all", "failed", "none")
#: A parameter longer than this is logged by its digest; the whole stands in `version.json`.
LONGEST_PARAM = 500
LONGEST_ERROR = 4000
#: Set by a sweep for the kernel of a trial: the folder that the report belongs in, and the run that it makes.
TRIAL_FOLDER, TRIAL_RUN = "POCLAB_TRIAL", "POCLAB_RUN_ID"


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
        for one in _queries().runs(uri, folder.name)
    ]
    return frame(rows)


def load_run(run_id: str, poc: Path | str | None = None) -> Report:
    """Return the report of a recorded run.

    Raises:
        InputError: no such run, or it holds no report.
    """
    return _queries().report(_store_of(poc)[1], run_id)


def show_ui(poc: Path, port: int, *, say: Callable[[str], None]) -> None:
    """Serve MLflow's UI for a POC on loopback until Ctrl-C, and say where to look.

    Raises:
        StoreError: the store cannot be read, or the port is taken.
    """
    from poclab.tracking import server

    folder, uri = _store_of(poc)
    found = _queries().runs(uri, folder.name)
    with server.serve(uri, folder, port) as (base, process):
        ranked = server.best_of_each_version(found)
        shown = server.links(base, found[0]["experiment_id"], ranked) if found else {"nothing is recorded yet": base}
        for what, address in shown.items():
            say(f"{what}: {address}")
        say("Ctrl-C ends it.")
        process.wait()


def _store_of(poc: Path | str | None) -> tuple[Path, str]:
    folder = find_poc(poc)
    if folder is None:
        raise InputError(
            f"no POC at {Path(poc or '.').resolve()} or above: there is no {CHARTER}", fix="`poclab new DIR`, or name the POC's folder"
        )
    uri = tracking.tracking_uri(folder)
    tracking.check_store(uri)
    return folder, uri


def _queries() -> Any:
    # Reading needs MLflow in this process; evaluating does not.
    from poclab.tracking import queries

    return queries


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
    plan = _Plan(system, test_set, scorers, version, repeats, traces)
    recording = _Recording.open(plan)
    results: dict[int, CaseResult] = {}
    started, started_at = time.monotonic(), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    run = runner.run(plan.tasks, plan.answer, workers=workers, timeout_s=timeout_s)

    def keep(outcome: runner.Outcome[_Task]) -> None:
        results[outcome.index], record = plan.settle(outcome)
        if record is not None:
            recording.add(record)

    try:
        for outcome in _progress(iter(run), len(plan.tasks), version.name):
            keep(outcome)
    except KeyboardInterrupt:
        for outcome in run.close():
            keep(outcome)
        report = plan.report(results, started_at, time.monotonic() - started, recording)
        report, path = recording.finish(report)
        raise Interrupted(report, path) from None
    except BaseException:
        run.close()
        recording.fail()
        raise
    return recording.finish(plan.report(results, started_at, time.monotonic() - started, recording))[0]


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


@dataclass(frozen=True)
class _Task:
    case: Case
    repeat: int
    context: CaseContext
    started_ns: list[int] = field(default_factory=list)

    @property
    def start_ns(self) -> int:
        # A very short timeout can end before the worker has looked at the clock.
        return self.started_ns[0] if self.started_ns else time.time_ns()


@dataclass(frozen=True)
class _Answer:
    reply: Reply
    scores: dict[str, Score | None]
    latency_s: float
    ended_ns: int


class _Malformed(Exception):
    """A system returned something that is no reply."""


class _Plan:
    """One evaluation: what is asked, how a reply becomes a result, and what is known before the first case."""

    def __init__(self, system: Any, test_set: TestSet, scorers: Sequence[Scorer], version: Version, repeats: int, traces: str) -> None:
        self.system, self.test_set, self.scorers, self.version, self.repeats, self.traces = (
            system,
            test_set,
            scorers,
            Version.from_json(_concealed(version.to_json())),
            repeats,
            traces,
        )
        self.poc = test_set.poc
        charter = self.poc / CHARTER if self.poc else None
        self.charter = Charter.load(charter) if charter and charter.is_file() else None
        self.corpus_digest = getattr(system, "corpus_digest", None)
        self.tasks = [
            _Task(case, repeat, CaseContext(case_id=case.id, repeat=repeat, poc=self.poc)) for case in test_set for repeat in range(repeats)
        ]

    def answer(self, task: _Task) -> _Answer:
        """Ask the system one case and score its reply. Runs in a worker."""
        token = current_case.set(task.context)
        task.started_ns.append(time.time_ns())
        begun = time.monotonic()
        try:
            value = self.system(copy.deepcopy(dict(task.case.inputs)))
            if inspect.isawaitable(value):
                value = asyncio.run(_awaited(value))
        finally:
            current_case.reset(token)
        latency_s, ended_ns = time.monotonic() - begun, time.time_ns()
        try:
            reply = Reply.of(value)
        except (TypeError, InputError) as error:
            raise _Malformed(str(error)) from None
        scores = {one.name: _score(one, task.case, reply) for one in self.scorers}
        return _Answer(Reply.from_json(_concealed(reply.to_json())), scores, latency_s, ended_ns)

    def settle(self, outcome: runner.Outcome[_Task]) -> tuple[CaseResult, dict[str, Any] | None]:
        """Return the result of a case, and the record its trace is made of (None when none is kept)."""
        task = outcome.task
        task.context.closed = True
        failure, text = _failure(outcome)
        answer: _Answer = outcome.value or self._no_answer(task, failure)
        scores = {name: score for name, score in answer.scores.items() if score is not None}
        first = scores.get(self.scorers[0].name)
        wanted = self.traces == "all" or (self.traces == "failed" and (failure is not None or (first is not None and first.value != 1)))
        result = CaseResult(
            case_id=task.case.id,
            case_digest=task.case.digest,
            repeat=task.repeat,
            inputs=task.case.inputs,
            expected=task.case.expected,
            tags=task.case.tags,
            cluster=task.case.cluster,
            reply=answer.reply,
            scores=scores,
            latency_s=round(answer.latency_s, 6),
            failure=failure,
            error=text,
            calls=tuple(task.context.calls),
            request_id=task.context.request_id,
            trace_id=f"tr-{uuid.uuid4().hex}" if wanted else None,
        )
        return result, self._record(result, task, answer.ended_ns) if wanted else None

    def _no_answer(self, task: _Task, failure: str | None) -> _Answer:
        ended_ns = time.time_ns()
        scores = {one.name: one.failed(task.case, f"failed: {failure}") for one in self.scorers}
        return _Answer(Reply(), scores, (ended_ns - task.start_ns) / 1e9, ended_ns)

    def _record(self, result: CaseResult, task: _Task, ended_ns: int) -> dict[str, Any]:
        names = ("trace_id", "request_id", "case_id", "repeat", "failure", "error", "inputs", "expected")
        return {
            **{name: getattr(result, name) for name in names},
            "name": self.version.name,
            "start_ns": task.start_ns,
            "end_ns": ended_ns,
            "outputs": result.reply.text or result.reply.data,
            "scores": {name: dataclasses.asdict(score) for name, score in result.scores.items()},
            "steps": [vars(step) for step in task.context.steps],
        }

    def report(self, results: dict[int, CaseResult], started_at: str, wall_s: float, recording: _Recording) -> Report:
        lock = self.test_set.lock
        warnings = [] if lock else ["the set is not frozen: its numbers cannot be held against later ones"]
        if lock and lock.corpus_digest and self.corpus_digest and lock.corpus_digest != self.corpus_digest:
            warnings.append("the corpus is not the one that the evidence was checked against when the set was frozen")
        return Report(
            version=self.version,
            test_set=self.test_set.name,
            lock_digest=self.test_set.digest,
            edition=lock.edition if lock else None,
            split=self.test_set.part,
            score_names=tuple(scorer.name for scorer in self.scorers),
            results=tuple(results[index] for index in sorted(results)),
            planned=len(self.tasks),
            repeats=self.repeats,
            corpus_digest=self.corpus_digest,
            charter_digest=self.charter.digest if self.charter else None,
            started_at=started_at,
            wall_s=round(wall_s, 3),
            warnings=tuple(warnings),
        )

    def tags(self) -> dict[str, str]:
        values = {
            "lock": self.test_set.digest,
            "edition": self.test_set.lock.edition if self.test_set.lock else "not frozen",
            "split": self.test_set.part or "all",
            "version": self.version.digest,
            "charter": self.charter.digest if self.charter else None,
            "corpus": self.corpus_digest,
            "repeats": self.repeats,
        }
        return {f"poclab.{key}": str(value) for key, value in values.items() if value is not None}


class _Recording:
    """The folder of an evaluation, and the run that is made of it. Without a store it keeps nothing."""

    def __init__(self, plan: _Plan, folder: Path | None, uri: str | None) -> None:
        self.plan, self.folder, self.uri = plan, folder, uri
        self.trial = os.environ.get(TRIAL_RUN) if folder and not uri else None
        self.records: TextIO | None = None
        self.begun: Any = None
        if folder:
            (folder / "artifacts").mkdir(parents=True, exist_ok=True)
            self.records = (folder / "records.jsonl").open("w", encoding="utf-8")
            begin = self._begin()
            write_atomic(folder / "begin.json", json.dumps(begin, ensure_ascii=False))
            if uri:
                self.recorder = tracking.recorder()
                self.begun = self.recorder.send("begin", uri=uri, folder=str(folder), run=begin)

    @classmethod
    def open(cls, plan: _Plan) -> _Recording:
        trial = os.environ.pop(TRIAL_FOLDER, None)
        if trial:  # taken once: a second evaluation of the same notebook makes a run of its own
            return cls(plan, Path(trial), None)
        uri = tracking.tracking_uri(plan.poc)
        if uri is None:
            return cls(plan, None, None)
        tracking.check_store(uri)
        name = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
        folder = work_folder(plan.poc, "evaluations") / name if plan.poc else Path(tempfile.mkdtemp(prefix="poclab-"))
        return cls(plan, folder, uri)

    def _begin(self) -> dict[str, Any]:
        plan = self.plan
        flat = {key: value if isinstance(value, str) else json.dumps(value) for key, value in plan.version.flat().items()}
        prompts = [
            {"key": key, "name": f"{plan.test_set.name}-{Path(prompt.name).stem}", "file": prompt.name, "text": prompt.text}
            for key, prompt in plan.version.prompts.items()
            if prompt.text
        ]
        dataset = {"name": plan.test_set.name, "digest": plan.test_set.digest[:32], "source": json.dumps({"lock": plan.test_set.digest})}
        return {
            **run_place(plan.poc, self.uri),
            "run_id": None,
            "name": plan.version.name,
            "tags": plan.tags(),
            "params": {key: value if len(value) <= LONGEST_PARAM else f"sha256 {digest(value)}" for key, value in flat.items()},
            "prompts": prompts,
            "dataset": dataset,
        }

    def add(self, record: dict[str, Any]) -> None:
        if self.records:
            self.records.write(conceal(json.dumps(record, ensure_ascii=False, default=repr)) + "\n")
            self.records.flush()

    def finish(self, report: Report) -> tuple[Report, Path | None]:
        """Save the report, have it recorded, and return it with its run; the path tells where a partial one is kept."""
        if not self.folder:
            return report, None
        self.records.close()
        end = run_end(report)  # before the wait: numbers can be worked out while the recorder still opens the store
        problem = None
        if self.uri:
            try:
                run_id = self.begun.result()["run_id"]
            except StoreError as error:
                problem, run_id = error, None
        else:
            run_id = self.trial
        report = dataclasses.replace(report, run_id=run_id, link=_link(self.uri, run_id))
        path = report.save(self.folder / "artifacts" / "report.json")
        self._artifacts()
        write_atomic(self.folder / "end.json", json.dumps(end))
        if problem is None and self.uri:
            try:
                poc = str(self.plan.poc) if self.plan.poc else None
                told = {"folder": str(self.folder), "poc": poc, "end": end, "secrets": secrets()}
                self.recorder.send("finish", run_id=run_id, **told).result()
            except StoreError as error:
                problem = error
                self._close()
        if problem is not None:
            raise StoreError(f"{problem.message}; the report is kept in {path}", fix=problem.fix or f"poclab.Report.load({str(path)!r})")
        if self.uri and not report.partial:
            shutil.rmtree(self.folder, ignore_errors=True)
        return report, path

    def fail(self) -> None:
        if self.records:
            self.records.close()
        if self.begun is not None:
            self._close()

    def _close(self) -> None:
        with contextlib.suppress(PocError):  # the error that stopped the evaluation is the one to show
            tracking.recorder().send("end", uri=self.uri, run_id=self.begun.result()["run_id"], status="FAILED").result()

    def _artifacts(self) -> None:
        plan, folder = self.plan, self.folder / "artifacts"
        write_atomic(folder / "version.json", json.dumps(plan.version.to_json(), ensure_ascii=False, indent=1))
        write_atomic(folder / "cases.jsonl", lines(plan.test_set))
        if plan.test_set.lock:
            write_atomic(folder / "cases.lock.json", json.dumps(plan.test_set.lock.to_json(), ensure_ascii=False, indent=1))
        if plan.charter and plan.charter.path:
            shutil.copyfile(plan.charter.path, folder / CHARTER)
        for prompt in plan.version.prompts.values():
            write_atomic(folder / "prompts" / Path(prompt.name).name, prompt.text)


def run_place(poc: Path | None, uri: str | None) -> dict[str, Any]:
    """Return the experiment of a POC, and where its artifacts go: inside the POC when the store is a local database."""
    local = (poc.resolve() / "mlartifacts").as_uri() if poc and uri and uri.startswith(tracking.SQLITE) else None
    return {"experiment": poc.name if poc else "in_memory", "artifact_location": local}


def run_end(report: Report) -> dict[str, Any]:
    """Return what is known of a run when its report is there: status, numbers and tags."""
    tags = {
        "poclab.content": report.content_digest(),
        "poclab.partial": str(report.partial).lower(),
        "mlflow.note.content": report.summary(),
    }
    traced = sum(result.trace_id is not None for result in report.results)
    return {"status": "KILLED" if report.partial else "FINISHED", "metrics": report.metrics(), "tags": tags, "traces": traced}


def _link(uri: str | None, run_id: str | None) -> str | None:
    return f"{uri.rstrip('/')}/#/runs/{run_id}" if uri and run_id and uri.startswith("http") else None


async def _awaited(value: Any) -> Any:
    return await value


def _concealed(data: Any) -> Any:
    """Return JSON data without any key value that is known. Digests are taken of this, so that what is stored fits them."""
    text = json.dumps(data)
    hidden = conceal(text)
    return data if hidden == text else json.loads(hidden)


def _score(scorer: Scorer, case: Case, reply: Reply) -> Score | None:
    try:
        score = scorer(case, reply)
        return score and Score(**_concealed(dataclasses.asdict(score)))
    except Exception as error:  # a scorer that fails leaves its score incomplete; it must not make the case right or wrong
        return Score(None, "", conceal(f"the scorer failed: {type(error).__name__}: {error}"))


def _failure(outcome: runner.Outcome[_Task]) -> tuple[str | None, str]:
    """Return the class of a failed case and what to read about it."""
    error = outcome.error
    if error is None:
        return None, ""
    if outcome.timed_out:
        return "timeout", str(error)
    if isinstance(error, _Malformed):
        return "malformed_output", str(error)
    return "crashed", conceal("".join(traceback.format_exception(error))[-LONGEST_ERROR:])


def _progress(outcomes: Iterator[Any], total: int, name: str) -> Iterator[Any]:
    """Show a progress bar in a terminal or a notebook; none where nobody looks."""
    if os.environ.get(TRIAL_RUN):
        return outcomes
    from tqdm.auto import tqdm

    # None: only on a terminal. A notebook's output is no terminal, but somebody looks.
    return iter(tqdm(outcomes, total=total, desc=name, unit="case", leave=False, disable=False if "ipykernel" in sys.modules else None))
