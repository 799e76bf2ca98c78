"""One request to a model and its answer: recorded once, paid once, asked again when that can help.

`answer` is a generator: it yields what is to be done (`Send`, `Read`, `Wait`) and is told what came of it, so that the same logic
carries threads and event loops, and knows no HTTP library. In this order: the ledger (an answer that is there is not asked again; one
that somebody else asks for now is waited for), the gate of the endpoint, the budget, the network or the offline model, and the ledger
again, before anybody sees the answer.

- A plain answer is read whole here; one whose body was cut short counts as no answer. Of a stream, pieces pass as they come; it is
  recorded before its last event passes, and not at all when it was cut.
- While a case is answered, each request becomes a `Call` and a step of the case. Headers are never recorded, nor embedding vectors.
- Two cases share no answer. What is asked outside of cases (an index, a prompt tried in a notebook) has no case and is shared by all.

Not covered: a stream that breaks off half way is not asked again, since its reader has the first half.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import logging
import math
import random
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from poclab import answers, limits, offline, prices, redaction
from poclab.answers import Answer, Arrival
from poclab.errors import EndpointError, InputError, PocError, StoreError, printable
from poclab.files import canonical
from poclab.ledger import BudgetError
from poclab.limits import Trouble
from poclab.purchases import Purchase
from poclab.requests import LONGEST_CLAIM_S, RECORDED, OutOfTime, Request, not_an_api
from poclab.system import Call, close_step, open_step

#: How often, in seconds, somebody looks again for an answer, or for room in a budget, that another process has in hand.
LOOK_AGAIN = 0.02
#: What an answer says of itself, and under which name, and how much of it is kept.
TOLD = {"answered_id": "id", "answered_model": "model", "fingerprint": "system_fingerprint"}
LONGEST_NAME = 200
#: How long, in seconds, a request waits for room before it looks whether others hang.
PATIENCE_S = 0.25

log = logging.getLogger("poclab")


@dataclass(frozen=True)
class Send:
    """Send the request, with at most so many seconds for each of its waits; the answer is a response of the HTTP library."""

    timeout_s: float | None


@dataclass(frozen=True)
class Read:
    """Read a response whole, before a moment of `time.monotonic`; the answer is its bytes, decoded."""

    response: Any
    deadline: float | None = None


@dataclass(frozen=True)
class Wait:
    """Wait so many seconds, or until there is a ticket, which is the answer; None if there was none in time."""

    seconds: float
    ticket: Future[Any] | None = None


class CutShort(Exception):
    """The answer broke off."""


class Exchange:
    """One request and its answer.

    Raises:
        EndpointError: it is not in the ledger, and nothing is to be asked.
        BudgetError: there is no money left for it.
        StoreError: the ledger cannot be used.
    """

    def __init__(self, asked: Request) -> None:
        self.asked, self.context, self.model, self.path = asked, asked.context, asked.model, asked.path
        self.gate = limits.gate(asked.endpoint)
        self.come = Arrival()
        self.ticket: Any = None
        self.trouble: Trouble | None = None
        self.attempts = self.lost = 0
        #: Whether the attempt that is under way was sent, and whether its stream was handed to its reader.
        self.sent = self.handed = False
        self.open = False

    @property
    def at_risk(self) -> int:
        """How many attempts may be billed although no answer came of them; the one that is under way is among them."""
        return self.lost + (self.sent and self.trouble is None)

    def answer(self) -> Generator[Any, Any, Answer]:
        """Yield what is to be done, and return the answer."""
        if not self.asked.recorded:
            return (yield from self._passed_on())
        self._begin()
        fault = self.context.fault
        with self.failing():
            try:
                answer = (yield from self._drilled(fault)) if fault else (yield from self._found_or_asked())
            except GeneratorExit as error:
                self._note(error)
                raise
            if not answer.response:
                self._note()
        return fault.change(answer) if fault else answer

    def _found_or_asked(self) -> Generator[Any, Any, Answer]:
        until = time.monotonic() + LONGEST_CLAIM_S
        if not self.purchase.find():
            while not self.purchase.take():
                if self.context.deadline is None and time.monotonic() > until:
                    raise EndpointError(
                        f"the same request to {self.model!r} has been under way for {LONGEST_CLAIM_S:g} s",
                        fix="read its stream, or close it",
                    )
                yield Wait(min(LOOK_AGAIN, self.asked.time_left()))
        if (entry := self.purchase.entry) is not None:
            yield Wait(0)  # what is asked side by side with this begins now, and is not delayed by it
            self.context.replay(entry.latency_s, self.asked.delay_s)
            return self._given(entry.status, dict(entry.headers), entry.content)
        if self.asked.offline:
            self.attempts, self.started = 1, time.perf_counter()
            answer = self._answered_offline()
            self._record()
            return answer
        return (yield from self._attempts_until_answered())

    def _passed_on(self) -> Generator[Any, Any, Answer]:
        """Answer what is no model call: the list of models, a file."""
        if self.asked.offline:
            return self._answered_offline()
        if self.asked.budget and self.asked.paying:
            raise InputError(f"a budget cannot bound a call to {self.path}", fix="run it without max_cost_usd")
        response = yield Send(None)
        self._refuse_page(response)
        if self.come.ok:
            return Answer(response.status_code, response.headers, response=response)
        self.come = self._arrival(response.status_code, dict(response.headers.items()))
        self._keep((yield Read(response)))  # whole, since it may repeat a key
        return self.come.answer(self.context.request_id)

    # --- what the case sees

    def _begin(self) -> None:
        self.purchase = Purchase(self.asked)
        self.step = open_step(self.path[1:], RECORDED[self.path], self.asked.body)
        # A stream may be read, or closed, where another case or none is current.
        self.where = contextvars.copy_context()
        self.started = self.last = time.perf_counter()
        self.context.waiting.append(self)
        self.open = True

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Note what goes wrong inside. A stream that its reader leaves early has not failed."""
        try:
            yield
        except GeneratorExit:
            raise
        except BaseException as error:
            self.last = time.perf_counter()
            if isinstance(error, InputError | EndpointError):  # every further case will meet it, too
                self.context.fatal = error.message, error.fix
            if isinstance(error, BudgetError | StoreError) or self.context.missed:
                self.context.stop = self.context.stop or error
            if not isinstance(error, PocError):
                if self.trouble is None:  # a stream that broke off; what an attempt met is counted there
                    self.trouble = limits.of_error(error)
                    self.lost += self.sent and self.trouble.billed
                error.poclab_trouble = self.trouble.kind  # whoever classifies the failure of the case finds it here
            self._note(error)
            raise

    def finish(self) -> None:
        """End a stream: all of it came, or its reader left.

        Raises:
            CutShort: the endpoint left.
        """
        if self.open:
            with self.failing():
                self._keep_stream()
                self._note()

    def leave(self) -> None:
        """Note a stream that its reader left; the last event may be all that it did not wait for.

        Raises:
            StoreError: it came whole, and could not be kept.
        """
        if self.handed and self.open:
            with self.failing():
                if self.come.ok and self.come.finished(self.asked.choices):
                    self._keep_stream()
                elif self.come.garbled:  # the SDK cannot read it, and leaves
                    self.trouble = limits.of_error(CutShort())
                    self.lost += self.trouble.billed
                self._note()

    def _note(self, error: BaseException | None = None) -> None:
        """Note the exchange in the case, once: at the end of the answer, when its reader left, or at an error."""
        if not self.open:
            return
        self.open = False
        try:
            self._note_call(error)
        finally:
            with contextlib.suppress(StoreError) if error else contextlib.nullcontext():  # what went wrong first is the error to show
                self._leave_gate(answered=self.come.ok)
                self.purchase.release(billed=self.sent and not self._redirected and (self.trouble is None or self.trouble.billed))

    def _note_call(self, error: BaseException | None) -> None:
        if self._redirected:  # another request follows, and that one's answer counts
            self.context.end(self, None)
            self.purchase.give_up()
            return
        if self.handed and error is None and self.trouble is None:  # an error that stands inside of a stream
            self.trouble = self.come.trouble()
        reading = self.come.reading if error is None else answers.Reading(None, f"{type(error).__name__}: {error}")
        if self.purchase.entry is None:
            self.purchase.give_up()
        call = self._call(reading.answer)
        self._note_step(reading, call)
        if self.trouble and self.trouble.fatal:
            self.context.fatal = self.trouble.fatal, self.trouble.fix
        elif reading.answer is not None:
            self.context.fatal = None
        self.context.end(self, call)
        if self.asked.case is not None:
            self.where.run(close_step, self.step)
        self._log(
            "status=%d attempts=%d %s tokens=%s+%s cost_usd=%s %.3f s%s",
            *(call.status, call.attempts, "replayed" if call.replayed else "live", call.tokens_in, call.tokens_out, call.cost_usd),
            *(call.latency_s, f" {printable(redaction.conceal(reading.problem))}" if reading.problem else ""),
        )

    def _call(self, answer: dict[str, Any] | None) -> Call:
        entry = self.purchase.entry
        replayed = entry is not None and self.attempts == 0
        usage = entry.usage if entry is not None else prices.usage_of(answer, self.path)
        paid = entry is not None and entry.cost_usd is not None
        # One that was paid before anybody knew its price costs what it would by the price of now.
        cost = self.purchase.cost(usage) if answer is not None and not paid else None
        return Call(
            model=self.model,
            path=self.path,
            latency_s=entry.latency_s if replayed else self._latency_s,
            status=self.come.status,
            cost_usd=entry.cost_usd if paid else cost.usd if cost else None,
            priced_on=entry.priced_on if paid else cost.priced_on if cost else None,
            **{name: str(answer[key])[:LONGEST_NAME] if answer and answer.get(key) else None for name, key in TOLD.items()},
            entry=entry.name if entry else None,
            replayed=replayed,
            attempts=self.attempts,
            lost=self.lost,
            trouble=self.trouble.kind if self.trouble else "",
            stopped=answers.stop_reason(answer) or "",
            **vars(usage),
        )

    def _note_step(self, reading: answers.Reading, call: Call) -> None:
        self.step.outputs = reading.answer
        if reading.answer and self.path == "/embeddings" and isinstance(reading.answer.get("data"), list):
            self.step.outputs = {**reading.answer, "data": f"{len(reading.answer['data'])} vectors"}
        names = ("model", "tokens_in", "tokens_out", "cost_usd")
        more = {"attempts": call.attempts} if call.attempts > 1 else {}
        more |= {"replayed": True, "entry": call.entry} if call.replayed else {"entry": call.entry} if call.entry else {}
        self.step.attributes = {**{name: getattr(call, name) for name in names}, **more}
        self.step.error = redaction.conceal(reading.problem) if reading.problem else ""

    # --- the endpoint

    def _attempts_until_answered(self) -> Generator[Any, Any, Answer]:
        while True:
            answer, error = yield from self._attempt()
            if self.trouble is None:
                return answer
            self.lost += self.trouble.billed
            if not (yield from self._paused(self.attempts, self.gate.answered)):
                if error is not None:
                    raise error
                return answer

    def _paused(self, attempt: int, answered: bool) -> Generator[Any, Any, bool]:
        """Wait as the trouble asks for, and tell whether to ask again: not where that cannot help, or the case's time is up before."""
        pause_s = limits.pause_s(attempt, self.trouble, random.random)
        if not limits.may_retry(self.trouble, attempt, answered) or pause_s >= self.asked.left_s:
            return False
        self._log("%s: asking again in %.1f s", self.trouble.kind, pause_s)
        if self.trouble.billed:
            self.purchase.write_off()
        yield Wait(pause_s)
        return True

    def _attempt(self) -> Generator[Any, Any, tuple[Answer | None, BaseException | None]]:
        """Ask once: return the answer or the error, and leave in `trouble` what is wrong with it."""
        self.come, self.sent = Arrival(), False
        try:
            yield from self._enter()
            # Outside of a case the client's own limit holds.
            left = None if self.context.deadline is None else self.asked.time_left()
        except OutOfTime:
            if self.gate.limited:
                self.trouble = self.trouble or Trouble("rate_limited", False)
            raise
        self.trouble, self.sent = None, True  # until here, what the last attempt met is what the request failed by
        self.attempts += 1
        self.started = time.perf_counter()
        try:
            response = yield Send(left)
            self._refuse_page(response)
            self.come = self._arrival(response.status_code, dict(response.headers.items()))  # read often, and slow there
            if self.come.passes:
                self.handed = True
                return Answer(self.come.status, self.come.headers, response=response), None
            self._keep((yield Read(response, self.context.deadline)))
            error = None
        except (EndpointError, OutOfTime, GeneratorExit):
            raise
        except Exception as raised:
            self.trouble, error = limits.of_error(raised), raised
        if error is None:
            error = self._judge_whole()
        self.gate.answered |= self.come.status > 0
        limited = self.trouble is not None and self.trouble.kind == "rate_limited"
        self._leave_gate(limited=limited, answered=self.trouble is None)
        return self.come.answer(self.context.request_id), error

    def _judge_whole(self) -> CutShort | None:
        """Record what came whole, or leave in `trouble` what is wrong with it; return the error that its reader is to meet."""
        self.trouble = self.come.trouble()
        if self.come.ok and self.come.is_stream and not self.come.whole(self.asked.choices):
            self.trouble = self.trouble or limits.of_error(CutShort())
        if self.trouble is None:
            self._record()
        elif self.come.ok and (code := self.come.error_code):
            self.come.status = code  # the SDK raises what it means, with its words
        return CutShort("the answer broke off") if self.trouble and self.come.ok else None

    def _enter(self) -> Generator[Any, Any, None]:
        """Wait for room at the endpoint and in the budget."""
        while not self.purchase.reserve():
            try:
                yield Wait(min(LOOK_AGAIN, self.asked.time_left()))
            except OutOfTime:
                raise BudgetError(
                    "the budget has no room for this call beside those under way", fix="raise max_cost_usd, or lower workers"
                ) from None
        place = self.gate.enter()
        self.ticket = (yield from self._admitted(place)) if isinstance(place, Future) else place

    def _admitted(self, place: Future[Any]) -> Generator[Any, Any, Any]:
        try:
            while (ticket := (yield Wait(min(PATIENCE_S, self.asked.time_left()), place))) is None:
                self.gate.give_away()
            return ticket
        except BaseException:
            if not place.cancel():  # it was given at the same moment
                self.ticket = place.result()
            raise

    def _leave_gate(self, **how: bool) -> None:
        if self.ticket is not None:
            self.gate.leave(self.ticket, **how)
            self.ticket = None

    def _answered_offline(self) -> Answer:
        status, answer = offline.answer(self.path, self.asked.body)
        if status == 200 and self.path == "/chat/completions" and self.asked.streams:
            events = "".join(offline.stream_events(self.asked.body, answer)).encode()
            return self._given(status, {"content-type": "text/event-stream"}, events)
        return self._given(status, {"content-type": "application/json"}, canonical(answer).encode("utf-8", "surrogatepass"))

    def _refuse_page(self, response: Any) -> None:
        """Refuse a web page in place of an answer, which the SDK would hand to the caller as a str."""
        self.come = self._arrival(response.status_code, {})
        if self.come.ok and response.headers.get("content-type", "").lower().startswith("text/html"):
            response.close()
            raise not_an_api(self.asked.endpoint)

    # --- in a drill

    def _drilled(self, fault: Any) -> Generator[Any, Any, Answer]:
        """Play the attempts that a fault spoils, by the rules of real ones; then the answer comes as always, a stream at once."""
        for attempt, (seconds, met) in enumerate(fault.attempts(), start=1):
            patience_s = self.asked.patience_s
            longest_s = min(self.asked.time_left(), math.inf if patience_s is None else patience_s)
            yield Wait(min(seconds, longest_s))
            if seconds > longest_s:
                met = OutOfTime("no answer in time")
            if met is None:
                break
            failed = isinstance(met, Exception)
            now = datetime.datetime.now(datetime.UTC)
            self.trouble = limits.of_error(met) if failed else limits.of_status(met.status, met.headers, None, now)
            if not (yield from self._paused(attempt, answered=True)):
                self.attempts = attempt
                if failed:
                    raise met
                return self._given(met.status, met.headers, met.content)
        self.trouble = None
        answer = yield from self._found_or_asked()
        if answer.response:
            self.take((yield Read(answer.response)))
            self._keep_stream()
        return self.come.answer(self.context.request_id)

    # --- what has come

    def _log(self, text: str, *values: Any) -> None:
        if log.isEnabledFor(logging.INFO):
            named = (printable(redaction.conceal(one)) for one in (self.context.case_id or "-", self.model))
            log.info(f"%s case=%s model=%s {text}", self.context.request_id, *named, *values)

    @property
    def _redirected(self) -> bool:
        return self.come.status // 100 == 3

    @property
    def _latency_s(self) -> float:
        return round(self.last - self.started, 6)

    def _arrival(self, status: int, headers: dict[str, str]) -> Arrival:
        return Arrival(status, headers, streams=self.asked.streams)

    def _given(self, status: int, headers: dict[str, str], content: bytes) -> Answer:
        """Take an answer that did not come over the network."""
        self.come = self._arrival(status, headers)
        self._keep(content)
        return self.come.answer(self.context.request_id)

    def _keep(self, chunk: bytes) -> None:
        self.last = time.perf_counter()
        self.come.chunks.append(chunk)

    def take(self, chunk: bytes) -> None:
        """Take a piece of a stream; when it holds the last event, the whole is recorded before it goes on to its reader."""
        self._keep(chunk)
        if self.come.ended_by(chunk) and self.purchase.entry is None:
            self._record()

    def _keep_stream(self) -> None:
        if self.purchase.entry is not None or not self.come.ok:
            return
        if not self.come.whole(self.asked.choices):
            raise CutShort("the stream broke off")
        self._record()

    def _record(self) -> None:
        self.last = time.perf_counter()
        self.purchase.record(self.come, self._latency_s)
