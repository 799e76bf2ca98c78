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
import functools
import logging
import math
import os
import random
import re
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poclab import answers, limits, offline, prices, redaction
from poclab.charter import Charter
from poclab.errors import EndpointError, InputError, PocError, StoreError, printable
from poclab.files import CHARTER, canonical, digest, find_poc
from poclab.ledger import LEDGER, BudgetError, Claim, Entry, Ledger, Reservation
from poclab.limits import Trouble
from poclab.system import Call, CaseContext, close_step, current_case, open_step

#: Stands where a key would, in the Authorization header of a client that has none: requests that carry it stay on this machine.
NO_KEY = "no-api-key-was-given"
#: The paths that are recorded, with the kind of step; the first that the request's path ends with counts.
RECORDED = {"/chat/completions": "CHAT_MODEL", "/responses": "CHAT_MODEL", "/completions": "CHAT_MODEL", "/embeddings": "EMBEDDING"}
FIX_KEY = "export OPENAI_API_KEY=..., or use the model 'offline/extractive', which needs none"
FIX_URL = "export OPENAI_BASE_URL=... with the address of an OpenAI-compatible API; it often ends in /v1"
#: How answers come about: `live` always asks, `replay` never does, `auto` asks for what was not answered yet.
MODES = ("auto", "live", "replay")
#: Set by a sweep or a command for all that runs below it.
MODE, BUDGET = "POCLAB_MODE", "POCLAB_BUDGET"
#: The headers of an answer that are kept.
KEPT = ("content-type", "x-request-id")
#: The headers of a request that hold no secret: the HTTP library's and the SDK's own, and ids, of which each request has another.
ORDINARY = re.compile(
    r"accept|content-|host$|user-agent$|connection$|transfer-|x-stainless|openai-|idempotency|.*(request|trace|span|correlation)"
)
#: How often, in seconds, somebody looks again for an answer, or for room in a budget, that another process has in hand.
LOOK_AGAIN = 0.02
#: How long, in seconds, somebody outside of a case waits for an answer that another asks for, or as `Retry-After` says.
LONGEST_CLAIM_S = 60.0
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


@dataclass(frozen=True)
class Answer:
    """What the SDK is given: bytes, or a `response` of the HTTP library that streams."""

    status: int
    headers: Mapping[str, str]
    content: bytes = b""
    response: Any = None
    #: The connection breaks after the content.
    broken: bool = False


#: The mode and the budget of each evaluation of this process that is under way.
_ruling: list[tuple[str | None, str | None]] = []


@contextlib.contextmanager
def ruling(mode: str | None, budget: str | None) -> Iterator[None]:
    """Let what is asked outside of cases within obey an evaluation's mode and budget."""
    rule = mode, budget
    _ruling.append(rule)
    try:
        yield
    finally:
        _ruling.remove(rule)


class CutShort(Exception):
    """The answer broke off."""


class OutOfTime(Exception):
    """The case had no time left to ask."""


class Exchange:
    """One request and its answer.

    Raises:
        EndpointError: the request needs a key and has none; or it is not in the ledger, and nothing is to be asked.
        BudgetError: there is no money left for it.
        StoreError: the ledger cannot be used.
    """

    def __init__(self, request: Any, mode: str | None = None) -> None:
        path = request.url.path
        is_json = request.headers.get("content-type", "").startswith("application/json")
        self.body = answers.parsed(request.content) if is_json and request.method == "POST" else None
        self.model = str(self.body.get("model") or "") if isinstance(self.body, dict) else ""
        self.path = next((known for known in RECORDED if path.endswith(known)), path)
        self.endpoint = _endpoint(request.url, self.path)
        without_key = request.headers.get("authorization") == f"Bearer {NO_KEY}"
        listing = without_key and request.method == "GET" and path.endswith("/models")
        self.offline = listing or self.model.startswith(offline.PREFIX)
        _remember_secrets(request.headers)
        self.case = current_case.get()
        self.context = self.case or CaseContext()
        if without_key and not self.offline:
            self.context.fatal = f"no API key for {f'model {self.model!r}' if self.model else path}", FIX_KEY
            raise EndpointError(self.context.fatal[0], fix=FIX_KEY)
        if listing:
            self.path = "/models"
        self.paying = request.method == "POST"
        self.recorded = self.path in RECORDED and isinstance(self.body, dict)
        self.streams = self.recorded and bool(self.body.get("stream"))
        # A thread that the system started itself has no case: what it asks is paid from the same budget all the same.
        ruling_mode, ruling_budget = (None, None) if self.case or not _ruling else _ruling[-1]
        self.mode = mode or self.context.mode or ruling_mode or os.environ.get(MODE) or "auto"
        if self.mode not in MODES:
            raise InputError(f"{MODE} is {self.mode!r}", fix=f"use one of: {', '.join(MODES)}")
        self.poc = self.context.poc or find_poc()
        self.budget = self.context.budget or ruling_budget or os.environ.get(BUDGET)
        self.sent = False
        self.ledger: Ledger | None = None
        self.prices: Mapping[str, Any] = {}
        self.claim: Claim | None = None
        self.entry: Entry | None = None
        self.reservation: Reservation | None = None
        self.ticket: Any = None
        self.trouble: Trouble | None = None
        self.status, self.headers, self.chunks = 0, {}, []
        #: What was read, and of how much.
        self.read: tuple[Any, answers.Reading] | None = None
        #: What has come of a stream's latest event.
        self.tail = b""
        self.attempts = self.lost = 0
        self.open = False
        #: How long the client waits for something to come, in seconds.
        self.patience_s = (request.extensions.get("timeout") or {}).get("read")

    def answer(self) -> Generator[Any, Any, Answer]:
        """Yield what is to be done, and return the answer."""
        if not self.recorded:
            return (yield from self._passed_on())
        self._begin()
        with self.failing():
            try:
                answer = (yield from self._drilled()) if self.context.fault else (yield from self._found_or_asked())
            except GeneratorExit as error:
                self._note(error)
                raise
            if not answer.response:
                self._note()
        return self.context.fault.change(answer) if self.context.fault else answer

    def _found_or_asked(self) -> Generator[Any, Any, Answer]:
        entry = yield from self._recorded_answer()
        return self._replayed(entry) if entry else (yield from self._attempts_until_answered())

    def _passed_on(self) -> Generator[Any, Any, Answer]:
        """Answer what is no model call: the list of models, a file."""
        if self.offline:
            return self._answered_offline()
        if self.budget and self.paying:
            raise InputError(f"a budget cannot bound a call to {self.path}", fix="run it without max_cost_usd")
        response = yield Send(None)
        self._refuse_page(response)
        return Answer(response.status_code, response.headers, response=response)

    # --- what the case sees

    def _begin(self) -> None:
        self.delay_s = self.context.delay_s
        identity = [self.endpoint, self.path, self.body, self.context.case_id, self.context.repeat, self.context.purpose]
        self.request = digest([*identity, offline.fingerprint() if self.offline else ""])
        # Outside of a case there is nothing to count in: the same prompt has the same answer there.
        self.occurrence = self.context.occurrence(self.request)
        self.key = digest([self.request, self.occurrence])
        self.step = open_step(self.path[1:], RECORDED[self.path], self.body)
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
                    self.lost += self.trouble.billed
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
        """Note a stream that its reader left; the last event may be all that it did not wait for."""
        if self.open and self.status // 100 == 2 and answers.finished(self._read().answer, self.body.get("n") or 1):
            self._keep_stream()
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
                self._release()

    def _note_call(self, error: BaseException | None) -> None:
        if self.status // 100 == 3:  # another request follows, and that one's answer counts
            self.context.end(self, None)
            self.context.give_up(self.request, self.occurrence)
            return
        reading = self._read() if error is None else answers.Reading(None, f"{type(error).__name__}: {error}")
        if reading.answer is None and self.entry is None:
            self.context.give_up(self.request, self.occurrence)
        call = self._call(reading.answer)
        self._note_step(reading, call)
        if self.trouble and self.trouble.fatal:
            self.context.fatal = self.trouble.fatal, self.trouble.fix
        elif reading.answer is not None:
            self.context.fatal = None
        self.context.end(self, call)
        if self.case is not None:
            self.where.run(close_step, self.step)
        log.info(
            "%s case=%s model=%s status=%d attempts=%d %s tokens=%s+%s cost_usd=%s %.3f s%s",
            *(self.context.request_id, self.context.case_id or "-", printable(self.model), call.status, call.attempts),
            *("replayed" if call.replayed else "live", call.tokens_in, call.tokens_out, call.cost_usd, call.latency_s),
            f" {printable(redaction.conceal(reading.problem))}" if reading.problem else "",
        )

    def _call(self, answer: dict[str, Any] | None) -> Call:
        entry = self.entry
        usage = prices.usage_of(answer, self.path)
        cost = self._cost(usage) if answer is not None and entry is None else None
        return Call(
            model=self.model,
            path=self.path,
            latency_s=entry.latency_s if self.replayed else round(self.last - self.started, 6),
            status=self.status,
            cost_usd=entry.cost_usd if entry else cost.usd if cost else None,
            priced_on=entry.priced_on if entry else cost.priced_on if cost else None,
            answered_id=str(answer["id"]) if answer and answer.get("id") else None,
            entry=entry.name if entry else None,
            replayed=self.replayed,
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

    # --- the ledger

    @property
    def replayed(self) -> bool:
        return self.entry is not None and self.attempts == 0

    def _recorded_answer(self) -> Generator[Any, Any, Entry | None]:
        """Return the answer that the ledger has; otherwise nobody else asks this now."""
        if self.poc is None:
            if self.mode == "replay":
                raise EndpointError("nothing can be replayed: there is no POC here", fix="export POCLAB_POC=... with the POC's folder")
            return None
        self.ledger = Ledger.open(self.poc / LEDGER)
        if self.mode != "live" and (entry := self.ledger.find(self.key)):
            return entry
        if self.mode == "replay":
            self.context.missed += 1
            raise EndpointError(
                f"{self.poc / LEDGER}: no answer to this request to {self.model!r} is recorded",
                fix="use mode auto, which asks for it",
            )
        self.prices = _own_prices(self.poc)  # read before anything is paid
        until = time.monotonic() + LONGEST_CLAIM_S
        while True:
            if self.context.deadline is None and time.monotonic() > until:
                raise EndpointError(
                    f"the same request to {self.model!r} has been under way for {LONGEST_CLAIM_S:g} s", fix="read its stream, or close it"
                )
            found = self.ledger.claim(self.key, again=self.mode == "live")
            if isinstance(found, Entry):
                return found
            if found is not None:
                self.claim = found
                return None
            yield Wait(min(LOOK_AGAIN, self._time_left()))

    def _replayed(self, entry: Entry) -> Answer:
        self.entry, self.status, self.headers = entry, entry.status, dict(entry.headers)
        self._keep(entry.content)
        self.context.replay(entry.latency_s, self.delay_s)
        return self._whole()

    def _record(self) -> None:
        """Make the answer durable; it may be used from then on."""
        self.last = time.perf_counter()
        reading = self._read()
        unread = reading.answer is None and not self.is_stream
        unread |= bool(reading.answer) and reading.answer.get("status") in ("queued", "in_progress")  # an answer is still to come
        if self.ledger is None or self.claim is None or self.status // 100 != 2 or unread or (reading.problem and reading.answer):
            return
        usage = prices.usage_of(reading.answer, self.path)
        cost = self._cost(usage)
        entry = Entry(
            key=self.key,
            endpoint=self.endpoint,
            path=self.path,
            model=self.model,
            body=self.body,
            status=self.status,
            headers={name: self.headers[name] for name in KEPT if name in self.headers},
            content=self.content,
            latency_s=round(self.last - self.started, 6),
            at=_now().isoformat(timespec="seconds"),
            cost_usd=cost.usd if cost else None,
            priced_on=cost.priced_on if cost else None,
            case_id=self.context.case_id,
            repeat=self.context.repeat,
            occurrence=self.occurrence,
            request_id=self.context.request_id,
            purpose=self.context.purpose,
            **vars(usage),
        )
        self.entry = self.ledger.record(self.claim, entry, self.reservation)
        self.claim = self.reservation = None

    def _release(self) -> None:
        """Give back what is held: nothing was recorded."""
        if self.ticket is not None:
            limits.gate(self.endpoint).leave(self.ticket, answered=self.status // 100 == 2)
            self.ticket = None
        if self.ledger is not None and self.claim is not None:
            self.ledger.release(
                self.claim, self.reservation, billed=self.status // 100 != 3 and (self.trouble is None or self.trouble.billed)
            )
            self.claim = self.reservation = None

    def _cost(self, usage: prices.Usage) -> prices.Cost | None:
        return prices.cost_of(self.model, self.endpoint, usage, self.prices)

    # --- the endpoint

    def _attempts_until_answered(self) -> Generator[Any, Any, Answer]:
        while True:
            self.attempts += 1
            answer, error = yield from self._attempt()
            if self.trouble is None:
                return answer
            self.lost += self.trouble.billed
            if not (yield from self._paused(self.attempts, limits.gate(self.endpoint).answered)):
                if error is not None:
                    raise error
                return answer

    def _paused(self, attempt: int, answered: bool) -> Generator[Any, Any, bool]:
        """Wait as the trouble asks for, and tell whether to ask again; False at once where that cannot help, or the time is up before."""
        pause_s = limits.pause_s(attempt, self.trouble, random.random)
        if not limits.may_retry(self.trouble, attempt, answered) or pause_s >= self._left_s:
            return False
        log.info(
            "%s case=%s model=%s %s: asking again in %.1f s",
            *(self.context.request_id, self.context.case_id or "-", self.model, self.trouble.kind, pause_s),
        )
        if self.reservation is not None and self.trouble.billed:
            # An attempt that may be billed keeps its reservation for good, and the next one needs its own.
            self.ledger.write_off(self.reservation)
            self.reservation = None
        yield Wait(pause_s)
        return True

    def _attempt(self) -> Generator[Any, Any, tuple[Answer | None, BaseException | None]]:
        """Ask once: return the answer or the error, and leave in `trouble` what is wrong with it."""
        self.trouble, self.status, self.chunks, self.read = None, 0, [], None
        if self.offline:
            self.started = time.perf_counter()
            answer = self._answered_offline()
            self._record()
            return answer, None
        yield from self._enter()
        self.started = time.perf_counter()
        try:
            # Outside of a case the client's own limit holds.
            left = None if self.context.deadline is None else self._time_left()
            self.sent = True
            response = yield Send(left)
            self._refuse_page(response)
            self.status, self.headers = response.status_code, dict(response.headers.items())  # read often, and slow there
            if self.is_stream and self.status // 100 == 2:
                return Answer(self.status, self.headers, response=response), None
            self._keep((yield Read(response, self.context.deadline)))
            self.trouble = self._trouble()
            error = None if self.trouble is None or self.status >= 400 else CutShort("the answer broke off")
        except (EndpointError, OutOfTime, GeneratorExit):
            raise
        except Exception as raised:
            self.trouble, error = limits.of_error(raised), raised
        if self.trouble is None:
            self._record()
        self._exit()
        return self._whole(), error

    def _trouble(self) -> Trouble | None:
        if self.status // 100 == 2:
            reading = self._read()
            if reading.answer is not None:  # some endpoints put the status of another one behind theirs into the answer
                code = answers.error_code(reading.answer)
                return limits.of_status(code, self.headers, reading.answer, _now()) if code else None
            is_json = "json" in self.headers.get("content-type", "json")
            nothing = self.content.strip() in (b"", b"null")
            cut = is_json and not nothing and answers.parsed(self.content) is None
            return limits.of_error(CutShort()) if cut else None
        return limits.of_status(self.status, self.headers, answers.parsed(self.content), _now())

    def _enter(self) -> Generator[Any, Any, None]:
        """Wait for room at the endpoint and in the budget."""
        if self.budget and self.ledger is not None and self.reservation is None:
            most_usd = prices.bound_usd(self.model, self.endpoint, self.path, self.body, self.prices)
            while (reservation := self.ledger.reserve(self.budget, most_usd)) is None:
                try:
                    yield Wait(min(LOOK_AGAIN, self._time_left()))
                except OutOfTime:
                    raise BudgetError(
                        "the budget has no room for this call beside those under way", fix="raise max_cost_usd, or lower workers"
                    ) from None
            self.reservation = reservation
        place = limits.gate(self.endpoint).enter()
        self.ticket = (yield from self._admitted(place)) if isinstance(place, Future) else place

    def _admitted(self, place: Future[Any]) -> Generator[Any, Any, Any]:
        try:
            while (ticket := (yield Wait(min(PATIENCE_S, self._time_left()), place))) is None:
                limits.gate(self.endpoint).give_away()
            return ticket
        except BaseException:
            if not place.cancel():  # it was given at the same moment
                self.ticket = place.result()
            raise

    def _exit(self) -> None:
        gate = limits.gate(self.endpoint)
        gate.answered |= self.status > 0
        limited = self.trouble is not None and self.trouble.kind == "rate_limited"
        gate.leave(self.ticket, limited=limited, answered=self.trouble is None)
        self.ticket = None

    @property
    def _left_s(self) -> float:
        """The seconds until the case's deadline, outside of a case a minute."""
        return LONGEST_CLAIM_S if self.context.deadline is None else self.context.deadline - time.monotonic()

    def _time_left(self) -> float:
        if (left_s := self._left_s) <= 0:
            raise OutOfTime("the case has no time left")
        return left_s

    def _answered_offline(self) -> Answer:
        status, answer = offline.answer(self.path, self.body)
        self.status, self.headers = status, {"content-type": "application/json"}
        if status == 200 and self.path == "/chat/completions" and self.body.get("stream"):
            self.headers = {"content-type": "text/event-stream"}
            self._keep("".join(offline.stream_events(self.body, answer)).encode())
        else:
            self._keep(canonical(answer).encode("utf-8", "surrogatepass"))
        return self._whole()

    def _refuse_page(self, response: Any) -> None:
        """Refuse a web page in place of an answer, which the SDK would hand to the caller as a str."""
        self.status = response.status_code
        if self.status // 100 == 2 and response.headers.get("content-type", "").lower().startswith("text/html"):
            response.close()
            raise not_an_api(self.endpoint)

    # --- in a drill

    def _drilled(self) -> Generator[Any, Any, Answer]:
        """Play the attempts that the case's fault spoils, by the rules of real ones; then the answer comes as always, a stream at once."""
        for attempt, (seconds, met) in enumerate(self.context.fault.attempts(), start=1):
            longest_s = min(self._time_left(), math.inf if self.patience_s is None else self.patience_s)
            yield Wait(min(seconds, longest_s))
            if seconds > longest_s:
                met = OutOfTime("no answer in time")
            if met is None:
                break
            failed = isinstance(met, Exception)
            self.trouble = limits.of_error(met) if failed else limits.of_status(met.status, met.headers, None, _now())
            if not (yield from self._paused(attempt, answered=True)):
                self.attempts = attempt
                if failed:
                    raise met
                self.status, self.headers = met.status, met.headers
                self._keep(met.content)
                return self._whole()
        self.trouble = None
        answer = yield from self._found_or_asked()
        if answer.response:
            self.take((yield Read(answer.response)))
            self._keep_stream()
        return self._whole()

    # --- what has come

    @property
    def content(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def is_stream(self) -> bool:
        return answers.is_stream(self.headers)

    def _read(self) -> answers.Reading:
        """Return what has come, read once: an answer with vectors is large."""
        come = len(self.chunks), self.status
        if self.read is None or self.read[0] != come:
            self.read = come, answers.read(self.status, self.headers, self.content)
        return self.read[1]

    def _keep(self, chunk: bytes) -> None:
        self.last = time.perf_counter()
        self.chunks.append(chunk)

    def take(self, chunk: bytes) -> None:
        """Take a piece of a stream; when it holds the last event, the whole is recorded before it goes on to its reader."""
        self._keep(chunk)
        self.tail += chunk
        if self.entry is None and answers.may_end(self.tail) and answers.ends(self.tail):
            self._record()
        self.tail = self.tail.rpartition(b"\n\n")[2]

    def _keep_stream(self) -> None:
        if self.entry is not None or self.status // 100 != 2:
            return
        content = self.content
        whole = answers.ends(content) or answers.finished(self._read().answer, self.body.get("n") or 1)
        if not whole:
            raise CutShort("the stream broke off")
        self._record()

    def _whole(self) -> Answer:
        kept = {
            name: self.headers[name]
            for name in self.headers
            if name.lower() not in ("content-encoding", "content-length", "transfer-encoding")
        }
        return Answer(self.status, kept | {"x-poclab-request-id": self.context.request_id}, self.content)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _remember_secrets(headers: Any) -> None:
    """Conceal from now on what the request's headers say: endpoints echo keys in their answers."""
    for name, value in headers.items():
        if name == "authorization":
            value = value.partition(" ")[2]
        elif ORDINARY.match(name):
            continue
        if value not in (NO_KEY, "none") and not redaction.WORD.fullmatch(value):
            redaction.remember(value)


def _endpoint(url: Any, path: str) -> str:
    """Return the base URL of a request, without user, password and query."""
    port = f":{url.port}" if url.port else ""
    return f"{url.scheme}://{url.host}{port}{url.path.removesuffix(path)}"


def _own_prices(poc: Path | None) -> Mapping[str, Any]:
    try:
        changed_ns = os.stat(f"{poc}/{CHARTER}").st_mtime_ns if poc else None
    except (FileNotFoundError, NotADirectoryError):
        changed_ns = None
    return {} if changed_ns is None else _charter_prices(poc / CHARTER, changed_ns)


@functools.lru_cache(maxsize=8)
def _charter_prices(path: Path, changed_ns: int) -> Mapping[str, Any]:
    return Charter.load(path).prices


def not_an_api(url: str, content: bytes = b"") -> EndpointError:
    kind = "HTML" if not content or content.lstrip()[:1] == b"<" else "something that is not JSON"
    return EndpointError(f"{redaction.shown(url)} answers {kind}, not an OpenAI-compatible API", fix=FIX_URL)
