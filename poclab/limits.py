"""How fast an endpoint is asked, and what is asked again: adaptive concurrency, retries, and the breaker of a run.

Logic alone: nothing here sleeps, starts a thread, or knows an HTTP library; who must wait is given a future. The clock tells what hangs.

- A gate per endpoint, shared by the process. Its limit grows by one for each answer until the first 429, which halves it; once per
  episode, since refusals of requests that were under way then say nothing new. Afterwards it grows quickly to the number that the
  endpoint took before it refused, then by one per round of answers; and only while it is full. One 429 below that number moves it
  little, and while few are refused the growth stays quick, since they may have nothing to do with how many are under way. Sources: additive increase, multiplicative decrease, and the
  slow start threshold of TCP (RFC 5681, section 3.1); quick up to the last known size, then slow (RFC 9438, section 3.1); once per
  episode, and not while underused (RFC 9002, sections 7.3.2 and 7.8). Unlike there, answers to requests from before the backing off
  count: a refusal costs little here, and without them an endpoint that takes 8 at a time stood idle for a quarter of its time.
- Asked again: 408, 409, 425, 429, 5xx, connection errors, and a 200 whose body is cut short; `x-should-retry` decides if it is there.
- Not covered: limits in tokens per minute, and limits that several processes share.
"""

from __future__ import annotations

import datetime
import email.utils
import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

#: Where a gate begins: more than most runs have workers, so that nobody is slowed down before the endpoint has said so.
FIRST_LIMIT = 64
#: A request under way for longer than this, and than so many times the slowest answer of late, hangs: its place is given away.
HANGING_S, TIMES_SLOWEST = 1.0, 4
#: The same before any answer has shown how long one takes.
HANGING_AT_FIRST_S = 15.0
#: Slow growth is never faster than by one per so many answers: an endpoint that takes one at a time would refuse every second request,
#: and some request at all of its attempts.
FEW = 4
#: How far a refusal below what was taken before moves the memory of that: the weight by which TCP smooths what it measures (RFC 6298).
#: With 1, a run of 16 workers with a tenth of its requests refused by chance took 1.7 times as long (the simulation of the tests).
SMOOTHING = 1 / 8
#: Fewer refusals than this share, over about so many answers, may be by chance.
BY_CHANCE, REMEMBERED = 0.1, 32
MOST_ATTEMPTS = 8
#: Seconds before the second attempt, and at most before any.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
RETRIED = (408, 409, 425, 429)
#: By the names of the classes, since two HTTP libraries have them.
TIMEOUTS = ("ConnectTimeout", "ReadTimeout", "WriteTimeout", "PoolTimeout", "TimeoutException", "Timeout", "OutOfTime")
NOT_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol", "LocalProtocolError", "OutOfTime")
#: `DecodingError`: a compressed body that is not whole.
CONNECTION = ("TransportError", "DecodingError", "CutShort", "ConnectionError", "ClientConnectionError", "HTTPException")
#: What a system may ask a service of its own with: the first part of the module that their errors are of.
HTTP_LIBRARIES = ("httpx", "httpx2", "requests", "urllib3", "aiohttp", "urllib", "http", "socket")


@dataclass(frozen=True)
class Ticket:
    """A place among the requests that are under way; `number` orders them by when they were let in."""

    number: int


class Gate:
    """How many requests to one endpoint may be under way at once. It may be used from threads and from event loops."""

    def __init__(self) -> None:
        self.limit = float(FIRST_LIMIT)
        self.under_way = 0
        #: Whether the endpoint has answered anything yet.
        self.answered = False
        self._lock = threading.Lock()
        self._waiting: deque[Future[Ticket]] = deque()
        #: When each request that is counted was let in, by its number; and how long answers took of late, at most.
        self._since: dict[int, float] = {}
        self._slowest_s = 0.0
        self._numbers = 0
        #: Requests up to this number were let in before the last backing off.
        self._backed_off_at = 0
        #: How many the endpoint takes, as far as is known: up to here the limit grows quickly. Infinite before the first 429.
        self._threshold = math.inf
        #: The share of refusals among the last answers, smoothed.
        self._refused = 0.0

    @property
    def limited(self) -> bool:
        """Whether the endpoint has refused for its limit."""
        return self._threshold < math.inf

    def enter(self) -> Ticket | Future[Ticket]:
        """Return a ticket when there is room, else a future that will hold one.

        Who gives up cancels the future. Where that fails, it was given its ticket at the same moment, which is then to be given back.
        """
        with self._lock:
            if self.under_way < int(self.limit) and not self._waiting:
                return self._ticket()
            future: Future[Ticket] = Future()
            self._waiting.append(future)
        return future

    def leave(self, ticket: Ticket, *, limited: bool = False, answered: bool = True) -> None:
        """Give a ticket back, and say whether the endpoint refused for its limit, or answered."""
        with self._lock:
            self.answered |= limited or answered
            if limited or answered:
                self._refused += (limited - self._refused) / REMEMBERED
            if limited:
                self._back_off(ticket)
            elif answered:
                self._grow()
            if (since := self._since.pop(ticket.number, None)) is not None:  # else its place was given away
                self.under_way -= 1
                if answered and not limited:
                    self._slowest_s = max(0.9 * self._slowest_s, time.monotonic() - since)
            granted = list(self._admit())
        for future, one in granted:
            future.set_result(one)

    def give_away(self) -> None:
        """Let somebody else in for each request that hangs: at a low limit a few of them would hold up all others.

        Whoever has waited for a while calls it.
        """
        with self._lock:
            patience_s = max(HANGING_S, TIMES_SLOWEST * self._slowest_s) if self._slowest_s else HANGING_AT_FIRST_S
            now = time.monotonic()
            for number in [number for number, since in self._since.items() if now - since > patience_s]:
                del self._since[number]
                self.under_way -= 1
            granted = list(self._admit())
        for future, one in granted:
            future.set_result(one)

    def _admit(self) -> Iterator[tuple[Future[Ticket], Ticket]]:
        while self._waiting and self.under_way < int(self.limit):
            future = self._waiting.popleft()
            if future.set_running_or_notify_cancel():  # from here on it cannot be cancelled
                yield future, self._ticket()

    def _ticket(self) -> Ticket:
        self.under_way += 1
        self._numbers += 1
        self._since[self._numbers] = time.monotonic()
        return Ticket(self._numbers)

    def _back_off(self, ticket: Ticket) -> None:
        if ticket.number <= self._backed_off_at:
            return
        self._backed_off_at = self._numbers
        self.limit = float(max(1, self.under_way // 2))
        taken = max(1, self.under_way - 1)
        less = self._threshold - taken
        self._threshold = self._threshold - SMOOTHING * less if 0 < less < math.inf else float(taken)

    def _grow(self) -> None:
        # A limit that nobody reaches has not been tried, and says nothing about a higher one.
        if self.under_way >= int(self.limit):
            quick = self.limit + 1 <= self._threshold or self._refused < BY_CHANCE
            self.limit += 1 if quick else 1 / max(self.limit, FEW)


def gate(endpoint: str) -> Gate:
    """Return the gate of this process for an endpoint; a process that was forked has its own."""
    # Not functools.cache: two threads that come first at the same moment would get two gates.
    key = os.getpid(), endpoint
    return _gates.get(key) or _gates.setdefault(key, Gate())


_gates: dict[tuple[int, str], Gate] = {}


@dataclass(frozen=True)
class Trouble:
    """What was wrong with one attempt.

    `kind` is a class of failure; `retried` says whether asking again can help, `wait_s` what the endpoint asked for, `billed` whether
    it may bill the attempt. `fatal` names what every further request would meet too, and `fix` the way out.
    """

    kind: str
    retried: bool
    wait_s: float | None = None
    billed: bool = False
    fatal: str = ""
    fix: str = ""


def of_status(status: int, headers: Mapping[str, str], answer: Any, now: datetime.datetime) -> Trouble | None:
    """Return what is wrong with a response; None when it is an answer, or leads to one."""
    if status < 400:
        return None
    wait_s = retry_after_s(headers, now)
    code = _code(answer)
    limited = status == 429 or (status in (503, 529) and wait_s is not None)
    if code == "content_filter":
        return Trouble("refused", False)
    kind = "rate_limited" if limited else "server_error" if status >= 500 or status in RETRIED else "crashed"
    said = headers.get("x-should-retry", "").strip().lower()
    retried = said == "true" if said in ("true", "false") else status >= 500 or status in RETRIED
    if fatal := _fatal(status, code):
        return Trouble(kind, False, None, False, *fatal)
    # What stands before the endpoint gave up on it: the endpoint itself may go on, and bill it.
    return Trouble(kind, retried, wait_s, billed=status in (502, 504, 524))


def _fatal(status: int, code: str) -> tuple[str, str] | None:
    if code == "insufficient_quota":
        return f"HTTP {status}: the account has no credit left (insufficient_quota)", "add credit, or use the key of another account"
    if status in (401, 403):
        return f"HTTP {status}: the endpoint refuses the API key", "export OPENAI_API_KEY=... with a key of this endpoint"
    if status == 404:
        what = "the endpoint does not have the model" if code == "model_not_found" else "the endpoint has no such model or path"
        return f"HTTP 404: {what}", "check the model's name, and OPENAI_BASE_URL, which often ends in /v1"
    return None


def _code(answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else ""


def of_error(error: BaseException) -> Trouble:
    """Return what is wrong when there was no whole response."""
    names = {kind.__name__ for kind in type(error).__mro__}
    not_sent = bool(names & set(NOT_SENT))
    if unreachable := next(filter(None, map(_unreachable, causes(error))), None) if not_sent else None:
        return Trouble("connection", True, None, False, *unreachable)
    if "UnsupportedProtocol" in names:
        fix = "export OPENAI_BASE_URL=https://... with the whole address"
        return Trouble("connection", False, None, False, "the endpoint's address is neither http:// nor https://", fix)
    if "LocalProtocolError" in names:  # such as an API key with a line break: no attempt will be sent
        return Trouble("crashed", False)
    if "CancelledError" in names:  # by a time limit of the caller's own, such as asyncio.timeout
        return Trouble("timeout", False, billed=True)
    if names & set(TIMEOUTS) or isinstance(error, TimeoutError):
        return Trouble("timeout", "ReadTimeout" not in names and "OutOfTime" not in names, billed=not not_sent)
    if names & set(CONNECTION) or isinstance(error, OSError):
        return Trouble("connection", True, billed=not not_sent)
    return Trouble("crashed", False, billed=True)


def of_service(error: BaseException) -> str:
    """Return the class of what a service of the system's own did; "" for an error that is none of an HTTP library or a socket."""
    library = type(error).__module__.split(".")[0]
    if library not in HTTP_LIBRARIES and not isinstance(error, (ConnectionError, TimeoutError)):
        return ""
    answer = error if getattr(error, "response", None) is None else error.response
    status = next((found for name in ("status_code", "status", "code") if type(found := getattr(answer, name, None)) is int), 0)
    if trouble := of_status(status, {}, None, datetime.datetime.now(datetime.UTC)):
        return trouble.kind
    return "" if isinstance(error, ValueError) else of_error(error).kind  # a URL, or an answer, that cannot be read


def _unreachable(error: BaseException) -> tuple[str, str] | None:
    fix, text = "start the endpoint, or export OPENAI_BASE_URL=... with its address", str(error).lower()
    if isinstance(error, ConnectionRefusedError) or "connection refused" in text:
        return "the connection is refused: nothing listens at the endpoint's address", fix
    if type(error).__name__ == "gaierror" or "name or service not known" in text:
        return "the endpoint's host is not known", fix
    if type(error).__name__ == "SSLCertVerificationError":
        return "the endpoint's certificate is not trusted", "export SSL_CERT_FILE=... with the certificate of whoever signed it"
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it; a host with several addresses has a group of errors, one for each."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [one.__context__, one.__cause__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ())]


def may_retry(trouble: Trouble, attempt: int, answered: bool) -> bool:
    """Tell whether to ask again after so many attempts; an endpoint that never `answered` and cannot be reached is asked twice."""
    if not trouble.retried or attempt >= MOST_ATTEMPTS:
        return False
    return not trouble.fatal or answered or attempt < 2


def pause_s(attempt: int, trouble: Trouble, random: Callable[[], float]) -> float:
    """Return the seconds before the next attempt: what the endpoint asked for and up to a tenth more, else exponential with jitter.

    Who asks for 0 seconds, or for a time that has passed on this machine's clock, has not said how long: all attempts would be over at once.
    Source: M. Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015 ("equal jitter").
    """
    if trouble.wait_s:
        return trouble.wait_s * (1 + random() / 10) + random() / 100
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1))
    return longest * (1 + random()) / 2


def retry_after_s(headers: Mapping[str, str], now: datetime.datetime) -> float | None:
    """Return the seconds that the endpoint asks to wait: `retry-after-ms`, else `retry-after` in seconds or as a date (RFC 9110, 10.2.3).

    A date that has passed is 0. None when neither is there, or what is there is no such thing.
    """
    for name, scale in (("retry-after-ms", 1000), ("retry-after", 1)):
        text = headers.get(name, "").strip()
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text):
            return float(text) / scale
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return max(0.0, (date - now).total_seconds())


class Breaker:
    """The same fatal trouble on the first cases stops a run: every further one would meet it."""

    def __init__(self, of: int) -> None:
        self.of = of
        self.tripped: tuple[str, str] | None = None
        self._first: list[tuple[str, str]] = []

    def take(self, fatal: str, fix: str) -> None:
        """Count a case with the fatal trouble that it met, or an empty text."""
        if len(self._first) < self.of:
            self._first.append((fatal, fix))
            if len(self._first) == self.of and len(set(self._first)) == 1 and fatal:
                self.tripped = self._first[0]
