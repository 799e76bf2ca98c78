"""One evaluation in the making: what is asked, how a reply becomes a result, and what a trace is made of.

No store here: `runner` calls `ask` and `score` in its workers, `recording` keeps what `settle` returns.
"""

from __future__ import annotations

import contextlib
import copy
import getpass
import inspect
import json
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from poclab import runner
from poclab.cases import Case, TestSet
from poclab.charter import Charter
from poclab.errors import EndpointError, InputError, PocError, told
from poclab.files import CHARTER, digest
from poclab.ledger import BudgetError
from poclab.limits import Breaker, causes, of_service
from poclab.redaction import conceal, conceal_json
from poclab.report import CaseResult, Report
from poclab.scores import NO_RUBRIC, Score, Scorer, abstained
from poclab.system import CaseContext, Reply, Version, current_case

LONGEST_ERROR = 4000
#: When so many cases, the first ones, all meet what every further one would meet too, nothing more is asked.
FIRST_CASES = 5
#: The share of a case's time that its model calls may take: the rest is the system's, to say what went wrong.
FOR_CALLS = 0.95
#: What is raised by code that cannot read an answer: the json module, pydantic, and the SDK's own parsing.
UNREAD = ("JSONDecodeError", "ValidationError", "LengthFinishReasonError", "ContentFilterFinishReasonError")
#: Replies to find out by whether a score applies to a case or to a reply.
PROBES = (Reply(""), Reply("?"), Reply("?", data={}))
DEPENDS = "the score was left out on this reply and is given on others: let it apply by the case alone, Scorer(name, function, applies=...)"


@dataclass(frozen=True)
class Task:
    case: Case
    repeat: int
    context: CaseContext
    #: What the scorers ask: a judge's calls are paid for too, and are none of the system's.
    judging: CaseContext
    #: Where its result stands in the report.
    place: int = 0
    started_ns: list[int] = field(default_factory=list)
    #: What came of it in an earlier run; it is not asked again, only scored.
    kept: CaseResult | None = None
    #: Whether the endpoint failed it in an earlier run.
    retried: bool = False

    @property
    def stop(self) -> Exception | None:
        """Why a call of the system or of a scorer was not made, or its answer not kept."""
        return self.context.stop or self.judging.stop

    @property
    def start_ns(self) -> int:
        # A very short timeout can end before the worker has looked at the clock.
        return self.started_ns[0] if self.started_ns else time.time_ns()


@dataclass(frozen=True)
class _Answer:
    """A reply as it was `given`, and as it is kept: a copy without keys. `scores` is None until it is scored."""

    task: Task
    given: Reply
    kept: Reply
    latency_s: float
    ended_ns: int
    scores: dict[str, Score | None] | None = None


class Malformed(Exception):
    """A system returned something that is no reply."""


class _Kept(Exception):
    """A case failed in an earlier run, and is not asked again."""


class Rehearsed(Exception):
    """Ends a notebook whose evaluation was not made: it was drilled, or its cost foreseen."""


class Plan:
    """One evaluation: what is asked, how a reply becomes a result, and what is known before the first case."""

    def __init__(
        self,
        system: Any,
        test_set: TestSet,
        scorers: Sequence[Scorer],
        version: Version,
        *,
        repeats: int = 1,
        traces: str = "all",
        timeout_s: float = 60.0,
        mode: str | None = None,
        budget: str | None = None,
        redact: Callable[[str], str] | None = None,
    ) -> None:
        self.system, self.test_set, self.scorers, self.repeats, self.traces = system, test_set, scorers, repeats, traces
        self.timeout_s, self.redact, self.mode, self.budget = timeout_s, redact, mode, budget
        self.version = Version.from_json(conceal_json(version.to_json()))
        self.poc = test_set.poc
        charter = self.poc / CHARTER if self.poc else None
        self.charter = Charter.load(charter) if charter and charter.is_file() else None
        self.corpus_digest = getattr(system, "corpus_digest", None)
        self.code_digest = _code(system)

        asked = ((case, repeat) for case in test_set for repeat in range(repeats))
        self.tasks = [self.task(*one, place) for place, one in enumerate(asked)]
        self.planned = len(self.tasks)
        #: Takes the calls of threads that know of no case.
        self.outside = CaseContext(poc=self.poc, mode=mode, budget=budget)

    def task(self, case: Case, repeat: int = 0, place: int = 0, **more: Any) -> Task:
        """Return the task of asking a case; `more` goes into the context of the system."""
        common = {"case_id": case.id, "repeat": repeat, "poc": self.poc, "mode": self.mode, "budget": self.budget}
        common |= {"request_id": uuid.uuid4().hex, "worlds": []}
        return Task(case, repeat, CaseContext(**common, **more), CaseContext(**common, purpose="judge"), place)

    def ask(self, task: Task) -> _Answer:
        """Ask the system one case. Runs in a worker, on the case's time."""
        if kept := task.kept:
            if kept.failure:
                raise _Kept
            return _Answer(task, kept.reply, kept.reply, kept.latency_s, task.start_ns + int(kept.latency_s * 1e9))
        token = current_case.set(task.context)
        task.started_ns.append(time.time_ns())
        begun = time.monotonic()
        task.context.deadline = begun + FOR_CALLS * self.timeout_s
        try:
            value = self.system(copy.deepcopy(dict(task.case.inputs)))
            if inspect.isawaitable(value):
                value = runner.result_of(value)
        finally:
            current_case.reset(token)
        latency_s, ended_ns = time.monotonic() - begun + task.context.delay_s, time.time_ns()
        try:
            reply = Reply.of(value)
            for one in self.scorers:
                if one.reads:
                    one.reads(reply)
        except (TypeError, InputError) as error:
            raise Malformed(str(error)) from None
        return _Answer(task, reply, Reply.from_json(conceal_json(reply.to_json())), latency_s, ended_ns)

    def score(self, answer: _Answer) -> _Answer:
        """Score a reply. Runs in the same worker, on time of its own: a slow judge must not make a right answer late."""
        judging = answer.task.judging
        judging.deadline = time.monotonic() + FOR_CALLS * self.timeout_s
        token = current_case.set(judging)
        try:
            return replace(answer, scores={one.name: _score(one, answer.task.case, answer.given, judging) for one in self.scorers})
        finally:
            current_case.reset(token)

    def settle(self, outcome: runner.Outcome[Task]) -> tuple[CaseResult, dict[str, Any] | None]:
        """Return the result of a case, and the record its trace is made of (None when none is kept)."""
        task = outcome.task
        if not outcome.timed_out:
            task.context.leave_streams()
        task.context.close()
        task.judging.close()
        answer: _Answer | None = outcome.value
        failure, text = (None, "") if answer else _failure(outcome)
        if task.stop is not None:  # a system may have caught it, and made up an answer that nobody gave
            answer, failure, text = None, "budget" if isinstance(task.stop, BudgetError) else "crashed", conceal(str(task.stop))
        if failure == "crashed" and isinstance(self.outside.stop, BudgetError):
            failure = "budget"
        answer = answer or self._no_answer(task, failure)
        given = answer.scores or {one.name: Score(None, "", conceal(f"the scorers failed: {told(outcome.error)}")) for one in self.scorers}
        scores = {name: score for name, score in given.items() if score is not None}
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
            reply=answer.kept,
            scores=scores,
            latency_s=round(answer.latency_s, 6),
            failure=failure,
            error=text,
            calls=tuple(task.context.calls),
            judge_calls=tuple(task.judging.calls),
            outcome=_outcome(failure, task, answer.given, first),
            request_id=task.context.request_id,
            trace_id=f"tr-{uuid.uuid4().hex}" if wanted else None,
            retried=task.retried,
        )
        return result, self._record(result, task, answer.ended_ns) if wanted else None

    def _no_answer(self, task: Task, failure: str | None) -> _Answer:
        ended_ns = time.time_ns()
        scores = {one.name: one.failed(task.case, f"failed: {failure}") for one in self.scorers}
        latency_s = task.kept.latency_s if task.kept else max(0.0, (ended_ns - task.start_ns) / 1e9)
        return _Answer(task, Reply(), Reply(), latency_s, ended_ns, scores)

    def _record(self, result: CaseResult, task: Task, ended_ns: int) -> dict[str, Any]:
        names = ("trace_id", "request_id", "case_id", "repeat", "failure", "outcome", "error", "inputs", "expected")
        return {
            **{name: getattr(result, name) for name in names},
            "name": self.version.name,
            "start_ns": task.start_ns,
            "end_ns": ended_ns,
            "outputs": result.reply.text or result.reply.data,
            "scores": {name: vars(score) for name, score in result.scores.items()},
            "steps": [vars(step) for step in task.context.steps],
            "judging": self._judging(result, task),
            "kept_from": task.kept and (task.kept.trace_id or "no trace"),
        }

    def _judging(self, result: CaseResult, task: Task) -> dict[str, Any] | None:
        """Return what the trace of the scorers' own calls is made of, apart from that of the case: MLflow sums a trace's tokens."""
        steps = [step for step in task.judging.steps if isinstance(step.start_ns, int) and isinstance(step.end_ns, int)]
        if not steps or not any(score.source for score in result.scores.values()):
            return None
        return {
            "trace_id": f"tr-{uuid.uuid4().hex}",
            "start_ns": min(step.start_ns for step in steps),
            "end_ns": max(step.end_ns for step in steps),
            "steps": [vars(step) for step in steps],
        }

    def keep(self, earlier: Iterable[CaseResult], again: Callable[[CaseResult], bool]) -> None:
        """Plan to ask only what is not in `earlier`, or is to be asked `again`. What is kept is scored anew, by the scorers of now."""
        known = {(one.case_id, one.repeat): one for one in earlier}

        def planned(task: Task) -> Task:
            found = known.get((task.case.id, task.repeat))
            if found is None or again(found):
                return replace(task, retried=found is not None)
            task.context.request_id, task.judging.worlds = found.request_id, None
            task.context.calls += [replace(call, replayed=True) for call in found.calls]
            return replace(task, kept=found, retried=found.retried, started_ns=[time.time_ns()])

        self.tasks = [planned(task) for task in self.tasks]

    def report(self, results: Mapping[int, CaseResult], started_at: str, wall_s: float, **more: Any) -> Report:
        """Return the report of the results that there are, by the place of their task."""
        lock = self.test_set.lock
        warnings = [] if lock else ["the set is not frozen: its numbers cannot be held against later ones"]
        if self.test_set.part != "test" and any(case.split == "test" for case in self.test_set):
            warnings.append(
                "held-out cases are among these: each look at them makes their number worth less, and this one may not be counted"
            )
        if calls := len(self.outside.calls):
            warnings.append(
                f"{calls} model call(s) were asked by threads that know of no case: what they cost is in no case's cost, which is unknown; "
                "start such a thread by contextvars.copy_context().run"
            )
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
            planned=self.planned,
            repeats=self.repeats,
            corpus_digest=self.corpus_digest,
            charter_digest=self.charter.digest if self.charter else None,
            code_digest=self.code_digest,
            started_at=started_at,
            wall_s=round(wall_s, 3),
            warnings=tuple(warnings),
            calls_outside=calls,
            retried=sum(one.retried for one in results.values()),
            **more,
        )

    def tags(self) -> dict[str, str]:
        values = {
            "lock": self.test_set.digest,
            "edition": self.test_set.lock.edition if self.test_set.lock else "not frozen",
            "split": self.test_set.part or "all",
            "version": self.version.digest,
            "name": self.version.name,
            "charter": self.charter.digest if self.charter else None,
            "corpus": self.corpus_digest,
            "code": self.code_digest,
            "score": self.scorers[0].name,
            "repeats": self.repeats,
            "criteria": json.dumps(self.charter.criteria_texts, ensure_ascii=False) if self.charter else None,
        }
        return {"mlflow.user": user(), **{f"poclab.{key}": str(value) for key, value in values.items() if value is not None}}


def _code(system: Any) -> str:
    """Return the digest of a system's own source: of a function what it says, of an object its class; not what these call.

    A system that is made of other code, such as tools, says so by its `code_digest`.
    """
    if isinstance(told_by_itself := getattr(system, "code_digest", None), str):
        return told_by_itself
    source = system if inspect.isroutine(system) else type(system)
    try:
        return digest(inspect.getsource(source))
    except (OSError, TypeError):  # typed into a prompt, or built in
        return digest(f"{source.__module__}.{source.__qualname__}")


def user() -> str:
    """Return who evaluates, as the machine knows them: held-out cases are looked at by somebody."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "(not known)"


def _score(scorer: Scorer, case: Case, reply: Reply, judging: CaseContext) -> Score | None:
    asked = len(judging.calls)
    try:
        # A copy: a scorer that changes a label by mistake changes it for nobody else.
        score = scorer(copy.deepcopy(case), reply)
        if score is None and _depends_on_the_reply(scorer, case):
            return Score(None, "", DEPENDS)
        if score and not score.source and len(judging.calls) > asked:
            score = replace(score, source=NO_RUBRIC)
        return score and Score(**conceal_json(vars(score)))
    except Exception as error:  # a scorer that fails leaves its score incomplete; it must not make the case right or wrong
        return Score(None, "", conceal(f"the scorer failed: {told(error)}"))


def _depends_on_the_reply(scorer: Scorer, case: Case) -> bool:
    """Tell whether a score that is left out on a reply is given on others: then a reply could take its case out of the mean."""
    for probe in PROBES:
        with contextlib.suppress(Exception):  # it may expect more of a reply than these have
            if scorer(copy.deepcopy(case), probe) is not None:
                return True
    return False


class Watch:
    """Looks at each result as it comes, and says when the rest should not be asked: `stopped` tells why, `error` is what to raise."""

    def __init__(self, cases: int, outside: CaseContext) -> None:
        self.breaker = Breaker(min(FIRST_CASES, cases))
        self.outside = outside
        self.stopped = ""
        self.error: PocError | None = None

    def take(self, outcome: runner.Outcome[Task], result: CaseResult) -> None:
        task = outcome.task
        if task.kept and not task.stop:
            return
        stop = task.stop or self.outside.stop
        if not self.stopped and isinstance(stop, BudgetError):
            self.stopped = stop.message
        # A system may have made an answer up; what a later answer has mended is no longer there.
        fatal = task.context.fatal or (None if result.failure else task.judging.fatal)
        self.breaker.take(*(fatal or ("", "")))
        if self.error is None and self.breaker.tripped:
            fatal, fix = self.breaker.tripped
            self.error = EndpointError(f"all of the first {self.breaker.of} case(s) failed by the same: {fatal}", fix=fix)
        # Nothing can be kept, or this one not be replayed, or nobody knows who pays for it.
        if self.error is None and isinstance(stop, PocError) and not isinstance(stop, BudgetError):
            self.error = stop
        self.stopped = self.stopped or (self.error.message if self.error else "")


def _unjudged(first: Score | None, judging: CaseContext) -> str:
    """Return what the endpoint did when the first score is missing because its judge was not answered."""
    last = judging.calls[-1] if judging.calls else None
    return last.trouble if first is not None and first.value is None and last else ""


def _outcome(failure: str | None, task: Task, reply: Reply, first: Score | None) -> str:
    if failure and task.kept:
        return task.kept.outcome
    found = failure or _unjudged(first, task.judging) or outcome_of(reply, first, task.context)
    return "empty_retrieval" if task.kept and task.kept.outcome == "empty_retrieval" and found in ("wrong", "abstained") else found


def outcome_of(reply: Reply, first: Score | None, context: CaseContext) -> str:
    """Return `ok`, or why a reply that came is not: the most telling of what is known, else `wrong`.

    A score of one half or more is `ok`, and so is a reply that the first score does not apply to.
    """
    if first is None or first.right:
        return "ok"
    if stopped := next((call.stopped for call in reversed(context.calls) if call.stopped), ""):
        return stopped
    if any(step.kind == "RETRIEVER" and _is_empty(step.outputs) for step in context.steps):
        return "empty_retrieval"
    return "abstained" if abstained(reply) else "wrong"


def _is_empty(outputs: Any) -> bool:
    try:
        return outputs is not None and len(outputs) == 0
    except TypeError:
        return False


def _failure(outcome: runner.Outcome[Task]) -> tuple[str, str]:
    """Return the class of a failed case and what to read about it."""
    error, kept = outcome.error, outcome.task.kept
    if outcome.timed_out:
        return "timeout", str(error)
    if isinstance(error, _Kept):
        return kept.failure, kept.error
    context = outcome.task.context
    if isinstance(error, Malformed):
        return _malformed(context), conceal(str(error))
    try:
        text = conceal("".join(traceback.format_exception(error)))[-LONGEST_ERROR:]
        of_own = next(filter(None, map(of_service, causes(error))), "crashed")
        return _endpoint_failure(error, context) or _unread(error, context) or of_own, text
    except Exception:  # an error of the system's own kind may fail even at being looked at
        return "crashed", type(error).__name__


def _unread(error: BaseException, context: CaseContext) -> str:
    """Return why the last answer could not be read, if that is what the system failed by."""
    if context.calls and any(type(cause).__name__ in UNREAD for cause in causes(error)):
        return _malformed(context)
    # Of a refusal there is no text to read.
    of_nothing = isinstance(error, (TypeError, AttributeError)) and "NoneType" in str(error)
    return "refused" if of_nothing and context.calls and context.calls[-1].stopped == "refused" else ""


def _malformed(context: CaseContext) -> str:
    """Return why there is no reply in an answer: a refusal has no content, and half an answer is no JSON."""
    return next((call.stopped for call in context.calls[-1:]), "") or "malformed_output"


def _endpoint_failure(error: BaseException, context: CaseContext) -> str | None:
    """Return what the endpoint did if the system failed by it: the error, or what it was raised from, is that of a call."""
    troubled = [call for call in reversed(context.calls) if call.trouble]
    for cause in causes(error):
        if isinstance(cause, BudgetError):
            return "budget"
        if kind := getattr(cause, "poclab_trouble", None):
            return kind
        for call in troubled:
            status = getattr(cause, "status_code", None)
            in_a_stream = not status and type(cause).__name__ == "APIError"  # the SDK's error for one that stands inside of it
            late = isinstance(cause, TimeoutError) and context.calls[-1].trouble == "timeout"  # by a limit of the system's own
            garbled = isinstance(cause, json.JSONDecodeError) and context.calls[-1].trouble == "connection"  # an event of a stream
            if in_a_stream or late or garbled or (status and status == call.status):
                return call.trouble
    return None
