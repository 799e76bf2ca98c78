"""What an evaluation leaves behind: a folder while it runs, and the MLflow run that the recorder makes of it.

In a trial of a sweep the folder is the driver's, and so is the run; otherwise both are made here. A set in memory without
a store leaves nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TextIO

from poclab import tracking
from poclab.cases import lines
from poclab.errors import PocError, StoreError
from poclab.evaluation import Plan
from poclab.files import CHARTER, WORK, digest, read_json_lines, read_text, unwritable, work_folder, write_atomic
from poclab.redaction import conceal, conceal_json, secrets, shown
from poclab.report import DRILL_FILE, Report
from poclab.system import Prompt
from poclab.tracking import notes

#: A parameter longer than this is logged by its digest; the whole stands in `version.json`.
LONGEST_PARAM = 500
#: The artifact that comparisons read.
BRIEF = "brief.json"
#: Set by a sweep for the kernel of a trial: the folder that the report belongs in, and the run that it makes.
TRIAL_FOLDER, TRIAL_RUN = "POCLAB_TRIAL", "POCLAB_RUN_ID"


class Recording:
    """The folder of an evaluation, and the run that is made of it. Without a store it keeps nothing."""

    def __init__(self, plan: Plan, folder: Path | None, uri: str | None) -> None:
        self.plan, self.folder, self.uri = plan, folder, uri
        self.trial = os.environ.get(TRIAL_RUN) if folder and not uri else None
        #: Ctrl-C came: while cases were answered, or since.
        self.stopped = False
        self.records: TextIO | None = None
        self.begun: Any = None
        if not folder:
            return
        if uri:
            self.recorder = tracking.recorder()  # before anything else: it has MLflow to import
        self._artifacts(folder / "artifacts")
        # A lone surrogate, such as Python puts into the name of a file, is in no database: a question mark stands for it.
        self.records = (folder / "records.jsonl").open("w", encoding="utf-8", errors="replace")
        begin = self._begin()
        if not uri:
            write_atomic(folder / "begin.json", json.dumps(begin, ensure_ascii=False))  # for the sweep, which owns the run
        else:
            self.begun = self.recorder.send("begin", uri=uri, folder=str(folder), poc=plan.poc and str(plan.poc), run=begin)

    @classmethod
    def open(cls, plan: Plan) -> Recording:
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
        prompts = [{"key": key, **_registered(plan.test_set.name, one)} for key, one in plan.version.prompts.items() if one.text]
        dataset = {"name": plan.test_set.name, "digest": plan.test_set.digest[:32], "source": json.dumps({"lock": plan.test_set.digest})}
        return {
            **run_place(plan.poc, self.uri),
            "run_id": None,
            "name": plan.version.name,
            "tags": plan.tags(),
            "params": {key: value if len(value) <= LONGEST_PARAM else f"sha256 {digest(value)}" for key, value in flat.items()},
            "prompts": prompts,
            "dataset": dataset,
            "mirror": self._mirror(),
        }

    def _mirror(self) -> dict[str, str] | None:
        """Return what is shown of a frozen set as a dataset; nothing where texts are redacted, since those of the cases are not."""
        lock = self.plan.test_set.lock
        if lock is None or self.plan.redact:
            return None
        cases = str(self.folder / "artifacts/cases.jsonl")
        return {"name": self.plan.test_set.name, "lock": lock.digest, "edition": str(lock.edition), "cases": cases}

    def add(self, record: dict[str, Any]) -> None:
        if self.records:
            try:
                plain = conceal_json(json.loads(_line(record)))
            except RecursionError:  # an answer may be nested as deeply as its sender likes
                plain = conceal_json(_each_step(record, _told))
            kept = _redacted(plain, self.plan.redact) if self.plan.redact else plain
            try:
                self.records.write(json.dumps(kept, ensure_ascii=False) + "\n")
                self.records.flush()
            except OSError as error:
                raise unwritable(self.folder, error, "make it writable, and run it again") from None

    def finish(self, report: Report) -> tuple[Report, Path | None]:
        """Save the report, have it recorded, and return it with its run; the path tells where it is kept if Ctrl-C stopped it."""
        if not self.folder:
            return report, None
        self.records.close()
        if stopped := self.stopped:
            report = self._without_lost_traces(report)
        report = self._with_drill(report)
        end = run_end(report)  # before the wait: numbers can be worked out while the recorder still opens the store
        problem, run_id = None, self.trial
        if self.uri:
            if not self.begun.done():
                self._save(report)  # whatever becomes of the wait: the answers may have been paid for
            try:
                run_id = self._wait(self.begun)["run_id"]
            except StoreError as error:
                problem = error
        report = dataclasses.replace(report, run_id=run_id, link=_link(self.uri, run_id))
        path = self._save(report)
        if problem is None and self.uri:
            end["tags"][notes.NOTE] = notes.of_report(report, **self.begun.result())
            try:
                self._wait(self.recorder.send("finish", run_id=run_id, folder=str(self.folder), end=end, secrets=secrets()))
            except StoreError as error:
                problem = error
                self._close()
        if problem is not None:
            raise StoreError(f"{problem.message}; the report is kept in {path}", fix=problem.fix or f"poclab.Report.load({str(path)!r})")
        if self.uri and not stopped:
            shutil.rmtree(self.folder, ignore_errors=True)
        return report, path if stopped else None

    def _with_drill(self, report: Report) -> Report:
        """Keep the last drill of this version on these cases beside the report."""
        drills = self.plan.poc / WORK / "drills" if self.plan.poc else None
        for kept in sorted(drills.glob(f"{report.version.digest[:12]}-*/{DRILL_FILE}"), key=os.path.getmtime) if drills else ():
            if (drilled := report.drilled(kept.parent)) is not report:
                shutil.copyfile(kept, self.folder / "artifacts" / DRILL_FILE)
                report = drilled
        return report

    def _save(self, report: Report) -> Path:
        report.shortened().save(self.folder / "artifacts" / BRIEF, sync=False)
        return report.save(self.folder / "artifacts" / "report.json")

    def _wait(self, answer: Future[Any]) -> Any:
        """Wait for the recorder. The first Ctrl-C is remembered, since what is recorded may have been paid for; the next one leaves."""
        while True:
            try:
                return answer.result()
            except KeyboardInterrupt:
                if self.stopped:
                    raise
                self.stopped = True

    def leave(self, report: Report) -> Path | None:
        """Save the report and go, at a second Ctrl-C; the run is closed when the recorder comes to it."""
        if not self.folder:
            return None
        if self.begun is not None:
            self.begun.add_done_callback(self._kill)
        return self._save(report)

    def _kill(self, begun: Future[Any]) -> None:
        if not begun.exception():
            self.recorder.send("kill", run_id=begun.result()["run_id"])

    def _without_lost_traces(self, report: Report) -> Report:
        """Ctrl-C may come after a case was settled and before its record was written: that case has no trace."""
        written = {record["trace_id"] for _, record in read_json_lines(self.folder / "records.jsonl")}
        results = (one if one.trace_id in written else dataclasses.replace(one, trace_id=None) for one in report.results)
        return dataclasses.replace(report, results=tuple(results))

    def fail(self) -> None:
        if self.records:
            with contextlib.suppress(OSError):  # what it could not write, it tries again
                self.records.close()
        if self.begun is not None:
            self._close()

    def _close(self) -> None:
        with contextlib.suppress(PocError):  # the error that stopped the evaluation is the one to show
            tracking.recorder().send("end", uri=self.uri, run_id=self.begun.result()["run_id"], status="FAILED").result()

    def _artifacts(self, folder: Path) -> None:
        """Write what is known of the run before its first answer; not synced, since all of it stands elsewhere too."""
        plan, write = self.plan, functools.partial(write_atomic, sync=False)
        write(folder / "version.json", json.dumps(plan.version.to_json(), ensure_ascii=False, indent=1))
        # The whole frozen set, of which this may be a split: its lock holds for all of it.
        whole = plan.test_set.lock and plan.test_set.path
        write(folder / "cases.jsonl", read_text(plan.test_set.path) if whole else lines(plan.test_set))
        if plan.test_set.lock:
            write(folder / "cases.lock.json", json.dumps(plan.test_set.lock.to_json(), ensure_ascii=False, indent=1))
        if plan.charter and plan.charter.path:
            write(folder / CHARTER, conceal(read_text(plan.charter.path)))
        for key, prompt in plan.version.prompts.items():
            write(folder / "prompts" / Path(key).name / Path(prompt.name).name, prompt.text)


def _registered(poc: str, prompt: Prompt) -> dict[str, str]:
    """Return what a prompt of a POC is in the registry."""
    return {"name": f"{poc}-{Path(prompt.name).stem}", "file": prompt.name, "text": prompt.text}


def register(poc: Path, prompt: Prompt) -> str:
    """Register a prompt in the store of a POC; return what it is called there, or why it is not there.

    Raises:
        StoreError: the store cannot be used.
    """
    uri = tracking.tracking_uri(poc)
    tracking.check_store(uri)
    return tracking.recorder().send("register", uri=uri, prompt=_registered(poc.name, prompt)).result()


def run_place(poc: Path | None, uri: str | None) -> dict[str, Any]:
    """Return the experiment of a POC, and where its artifacts go: inside the POC when the store is a local database."""
    local = (poc.resolve() / "mlartifacts").as_uri() if poc and uri and uri.startswith(tracking.SQLITE) else None
    return {"experiment": poc.name if poc else "in_memory", "artifact_location": local}


def run_end(report: Report) -> dict[str, Any]:
    """Return what is known of a run when its report is there: status, numbers and tags."""
    tags = {
        "poclab.content": report.content_digest(),
        "poclab.partial": str(report.partial).lower(),
        "poclab.score": report.score_names[0],
        "poclab.judges": json.dumps(report.judged),
        "poclab.models": ", ".join(report.models)[:LONGEST_PARAM],
    }
    traced = sum(result.trace_id is not None for result in report.results)
    # An endpoint that was down is no result: such a run is neither drawn nor ranked.
    status = "KILLED" if report.partial else "FAILED" if report.failed == len(report.results) else "FINISHED"
    return {"status": status, "metrics": report.metrics(), "tags": tags, "traces": traced}


def _line(record: Mapping[str, Any]) -> str:
    record = _each_step(record, lambda step: _sound(step, record["start_ns"]))
    try:
        return json.dumps(record, ensure_ascii=False, default=_safe_repr)
    except (TypeError, ValueError, RecursionError):  # a system may put anything into its steps: a tuple as a key, a list that holds itself
        return json.dumps(_each_step(record, _told), ensure_ascii=False, default=_safe_repr)


def _each_step(record: Mapping[str, Any], function: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any]:
    """Return a record with what a function makes of each step, those of the scorers included."""
    found = {**record, "steps": [function(step) for step in record["steps"]]}
    if judging := record.get("judging"):
        found["judging"] = {**judging, "steps": [function(step) for step in judging["steps"]]}
    return found


def _sound(step: Mapping[str, Any], start_ns: int) -> Mapping[str, Any]:
    """Return a step whose times, attributes and ids are what a trace can hold: a system may have set them to anything."""
    if not all(isinstance(step[name], int) for name in ("start_ns", "end_ns")):
        step = {**step, "start_ns": start_ns, "end_ns": start_ns}
    given = step["attributes"]
    numbers = {name: given[name] for name in ("tokens_in", "tokens_out", "cost_usd") if name in given} if isinstance(given, dict) else None
    strange = numbers is None or any(isinstance(one, bool) or not isinstance(one, int | float | None) for one in numbers.values())
    ids = {name: step[name] for name in ("id", "parent") if step[name] is not None}
    if strange or not all(isinstance(one, str) and re.fullmatch("[0-9a-f]{16}", one) for one in ids.values()):
        ids = {name: digest(_safe_repr(one))[:16] for name, one in ids.items()}
        return {**step, **ids, "attributes": {"attributes": _safe_repr(given)} if strange else given}
    return step


def _safe_repr(value: Any) -> str:
    """Return a value as Python shows it, whatever it does when it is asked."""
    try:
        return repr(value)
    except Exception:
        return f"({type(value).__name__})"


def _redacted(record: dict[str, Any], redact: Callable[[str], str]) -> dict[str, Any]:
    """Return a record with every text that came from a case, the system or an endpoint as the user's function leaves it."""

    def one(value: Any) -> Any:
        if isinstance(value, str):
            try:
                found = redact(value)
            except Exception as error:  # what cannot be redacted must not be kept
                return f"(not kept: the redaction raised {type(error).__name__})"
            return found if isinstance(found, str) else f"(not kept: the redaction returned {type(found).__name__})"
        if isinstance(value, dict):
            return {key: one(item) for key, item in value.items()}
        return [one(item) for item in value] if isinstance(value, list) else value

    texts = {name: one(record[name]) for name in ("error", "inputs", "expected", "outputs")}
    scores = {name: {**score, "answer": one(score["answer"]), "reason": one(score["reason"])} for name, score in record["scores"].items()}
    told = ("name", "inputs", "outputs", "attributes", "error")
    record = _each_step(record, lambda step: {**step, **{name: one(step[name]) for name in told}})
    return {**record, **texts, "scores": scores}


def _told(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return a step with its inputs and outputs as Python shows them, and of its attributes the texts and numbers."""
    attributes = {str(key): value for key, value in step["attributes"].items() if isinstance(value, (str, int, float))}
    return {**step, "inputs": _safe_repr(step["inputs"]), "outputs": _safe_repr(step["outputs"]), "attributes": attributes}


def _link(uri: str | None, run_id: str | None) -> str | None:
    return f"{shown(uri).rstrip('/')}/#/runs/{run_id}" if uri and run_id and uri.startswith("http") else None
