"""An endpoint is asked as fast as it answers, and again when that can help; what every request would meet stops the run."""

import asyncio
import datetime
import heapq
import itertools
import math
import multiprocessing
import random
import socket
import ssl
import sys
import threading
from concurrent.futures import Future

import httpx
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poclab import limits
from poclab.limits import FIRST_LIMIT, MOST_ATTEMPTS, Breaker, Gate, Ticket, Trouble, may_retry, pause_s, retry_after_s

NOW = datetime.datetime(2026, 11, 25, 12, 0, 0, tzinfo=datetime.UTC)
LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])


def full(limit=4, **more):
    """Return a gate of a low limit, and its tickets, which are all given out."""
    gate = Gate()
    gate.limit = float(limit)
    vars(gate).update(more)
    return gate, [gate.enter() for _ in range(limit)]


def of_status(status, headers=None, answer=None):
    return limits.of_status(status, headers or {}, answer, NOW)


# --- the gate


def test_nobody_waits_before_the_endpoint_has_refused():
    """64 requests get their tickets at once; each answer of a full gate makes room for one more, without an end."""
    gate, tickets = full(FIRST_LIMIT)
    waiting = gate.enter()

    assert all(isinstance(one, Ticket) for one in tickets)
    assert isinstance(waiting, Future) and not waiting.done()
    gate.leave(tickets[0])
    assert (gate.limit, gate.under_way, waiting.result(timeout=0)) == (65, 64, Ticket(65))


def test_a_gate_that_is_not_full_does_not_grow():
    """What has not been tried says nothing about more; nor does what was not answered."""
    gate, tickets = full(4)
    gate.leave(tickets[0], answered=False)
    for one in tickets[1:]:
        gate.leave(one)

    assert (gate.limit, gate.under_way) == (4, 0)


def test_a_refusal_halves_what_is_under_way_once_per_episode():
    """Of 10 under way all are refused: the first one halves 10, the others were sent before that. A later one halves again."""
    gate, tickets = full(10)
    for one in tickets:
        gate.leave(one, limited=True)
    assert gate.limit == 5

    later = [gate.enter() for _ in range(5)]
    gate.leave(later[4], limited=True)
    assert gate.limit == 2
    gate.leave(later[0], limited=True)
    assert gate.limit == 2


def test_one_request_is_always_let_in():
    """However often an endpoint refuses, the next one can ask."""
    gate, (ticket,) = full(1)
    for _ in range(5):
        gate.leave(ticket, limited=True)
        ticket = gate.enter()
        assert isinstance(ticket, Ticket)

    assert (gate.limit, gate.under_way) == (1, 1)


def answered_when_full(gate):
    """Answer one request of a gate that is kept full, and return the new limit."""
    tickets = list(itertools.takewhile(lambda one: isinstance(one, Ticket), iter(gate.enter, None)))
    gate._waiting.pop().cancel()
    gate.leave(tickets[0])
    for one in tickets[1:]:
        gate.leave(one, answered=False)
    return gate.limit


def test_a_limit_grows_back_quickly_and_then_slowly():
    """Refused at 8, so 7 were taken: from 4 one per answer up to 7, and from there one per round of answers."""
    gate, tickets = full(8)
    for one in tickets:
        gate.leave(one, limited=True)

    assert [answered_when_full(gate) for _ in range(4)] == pytest.approx([5, 6, 7, 7 + 1 / 7])
    assert [int(answered_when_full(gate)) for _ in range(7)] == [7] * 6 + [8]


@pytest.mark.parametrize(
    ("refused_at", "quickly_to"),
    # 7 taken where 16 were: 16 - (16 - 7) / 8 = 14.875. 15 taken: 16 - 1 / 8. 19 taken are more than was known.
    [(8, 14), (16, 15), (20, 19)],
)
def test_one_refusal_does_not_undo_what_is_known(refused_at, quickly_to):
    """An endpoint that took 16 and refuses once at 8 is soon asked for nearly as many again; what it takes beyond is learned at once."""
    gate, tickets = full(refused_at, _threshold=16.0)
    for one in tickets:
        gate.leave(one, limited=True)

    reached = refused_at // 2
    assert [answered_when_full(gate) for _ in range(quickly_to - reached)] == [*range(reached + 1, quickly_to + 1)]
    assert answered_when_full(gate) == pytest.approx(quickly_to + 1 / quickly_to)


def test_an_endpoint_that_takes_one_at_a_time_is_rarely_asked_for_two():
    """Refused at 2, so 1 was taken: after four answers two are tried again."""
    gate, tickets = full(2)
    gate._refused = 0.5  # it refuses often
    for one in tickets:
        gate.leave(one, limited=True)

    assert [answered_when_full(gate) for _ in range(4)] == [1.25, 1.5, 1.75, 2]


def test_who_waits_is_let_in_by_turn_and_who_gives_up_is_passed_over():
    """A future that is cancelled takes no place; one that has its ticket cannot be cancelled any more."""
    gate, tickets = full(1)
    first, second, third = (gate.enter() for _ in range(3))
    assert second.cancel()
    gate.leave(tickets[0], answered=False)

    assert first.result(timeout=0) == Ticket(2)
    assert not first.cancel() and not third.done()
    gate.leave(first.result(), answered=False)
    assert third.result(timeout=0) == Ticket(3)
    gate.leave(third.result(), answered=False)
    assert gate.under_way == 0


def test_an_endpoint_that_refuses_for_its_limit_is_there():
    """What has answered anything can be reached: a later refused connection is worth more attempts. A connection error is no answer."""
    silent, (ticket,) = full(1)
    silent.leave(ticket, answered=False)
    refusing, (ticket,) = full(1)
    refusing.leave(ticket, limited=True, answered=False)

    assert (silent.answered, refusing.answered) == (False, True)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5), st.lists(st.tuples(st.sampled_from(["enter", "answered", "limited", "failed", "cancel"]), st.integers(0, 9))))
def test_no_slot_is_lost_and_nobody_waits_while_there_is_room(limit, steps):
    """Whatever the order of entering, leaving and giving up: the tickets out are those under way, each is given below the limit."""
    gate = Gate()
    gate.limit = float(limit)
    out, waiting, numbers = [], [], set()
    for what, which in steps:
        before = len(out)
        if what == "enter":
            entered = gate.enter()
            (out if isinstance(entered, Ticket) else waiting).append(entered)
        elif what == "cancel" and waiting:
            assert waiting.pop(which % len(waiting)).cancel()
        elif what != "cancel" and out:
            gate.leave(out.pop(which % len(out)), limited=what == "limited", answered=what == "answered")
        given_now = [one for one in waiting if one.done()]
        assert given_now == waiting[: len(given_now)]  # by turn
        waiting = waiting[len(given_now) :]
        out += [one.result() for one in given_now]
        assert gate.under_way == len(out)
        assert len(out) <= max(before, int(gate.limit))
        assert not waiting or gate.under_way >= int(gate.limit) >= 1
        numbers |= {one.number for one in out}
    while out:
        gate.leave(out.pop(), answered=False)
        out += [future.result() for future in waiting if future.done()]
        waiting = [future for future in waiting if not future.done()]

    assert (gate.under_way, waiting) == (0, [])


def test_threads_share_a_gate():
    """32 threads of 200 requests each, many refused and many given up: never more than the limit at once, and every slot comes back."""
    gate = Gate()
    gate.limit, gate._threshold = 8.0, 8
    lost = []

    def work(seed):
        chance = random.Random(seed)
        for _ in range(200):
            entered = gate.enter()
            if isinstance(entered, Future) and not (chance.random() < 0.3 and entered.cancel()):
                entered = entered.result(timeout=30)
            if isinstance(entered, Ticket):
                done.append(entered.number)
                gate.leave(entered, limited=chance.random() < 0.1)
            else:
                lost.append(entered)

    done, before = [], sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(32)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    finally:
        sys.setswitchinterval(before)

    assert len(done) + len(lost) == 32 * 200
    assert len(set(done)) == len(done)
    assert (gate.under_way, any(not one.cancelled() for one in gate._waiting)) == (0, False)


def test_tasks_that_are_cancelled_give_their_places_up():
    """Of 200 tasks every third is cancelled while it waits, some at the moment of their turn: the others get through, no place is lost."""
    gate = Gate()
    gate.limit, gate._threshold = 4.0, 4
    most, raced = 0, []

    async def ask():
        nonlocal most
        entered = gate.enter()
        try:
            ticket = entered if isinstance(entered, Ticket) else await asyncio.wrap_future(entered)
        except asyncio.CancelledError:
            if not entered.cancel():  # it was given at the same moment
                raced.append(entered)
                gate.leave(entered.result(), answered=False)
            raise
        most = max(most, gate.under_way)
        await asyncio.sleep(0)
        gate.leave(ticket, answered=False)

    async def main():
        tasks = [asyncio.create_task(ask()) for _ in range(200)]
        await asyncio.sleep(0)
        for one in tasks[5::3]:
            one.cancel()
        done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=30)
        return [type(one) for one in done if one is not None]

    assert asyncio.run(main()) == [asyncio.CancelledError] * 65
    assert (gate.under_way, most, bool(raced)) == (0, 4, True)


def test_threads_that_come_first_at_the_same_moment_get_one_gate():
    """A ticket of one gate that is handed back at another would leave a place taken for good."""
    before, switch = sys.getswitchinterval(), threading.Barrier(8)
    found = []

    def first(number):
        switch.wait()
        found.append((number, limits.gate(f"http://first-{number}")))

    sys.setswitchinterval(1e-6)
    try:
        for number in range(50):
            threads = [threading.Thread(target=first, args=(number,)) for _ in range(8)]
            for one in threads:
                one.start()
            for one in threads:
                one.join()
    finally:
        sys.setswitchinterval(before)

    assert len({id(gate) for _, gate in found}) == 50
    assert limits.gate("http://first-1") is not limits.gate("http://first-2")


def _say_limit(pipe):
    pipe.send((limits.gate("http://forked").under_way, limits.gate("http://forked") is limits.gate("http://forked")))


def test_a_forked_process_has_gates_of_its_own():
    """Nobody would give back there what is under way here."""
    limits.gate("http://forked").enter()
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_say_limit, args=(there,))
    child.start()
    assert here.poll(30)

    assert here.recv() == (0, True)
    child.join()
    assert limits.gate("http://forked").under_way == 1


# --- a simulated endpoint


class Endpoint:
    """An endpoint and its workers, in virtual time.

    It answers `takes` requests at a time within about a second, and refuses others; and each with a chance of `refuses`.
    """

    def __init__(self, takes, workers, requests, seed, refuses=0.0):
        self.takes, self.left, self.refuses, self.chance = takes, requests, refuses, random.Random(seed)
        self.gate, self.now, self.busy, self.area = Gate(), 0.0, 0, 0.0
        self.answered = self.refused = self.refused_at_first = self.attempts = 0
        self.events, self.order = [], itertools.count()
        for _ in range(workers):
            self.start()
        while self.events:
            at, _, event, *about = heapq.heappop(self.events)
            self.area, self.now = self.area + self.busy * (at - self.now), at
            event(*about)

    def at(self, delay_s, event, *about):
        heapq.heappush(self.events, (self.now + delay_s, next(self.order), event, *about))

    def start(self):
        if self.left:
            self.left -= 1
            self.ask(1)

    def ask(self, attempt):
        self.attempts = max(self.attempts, attempt)
        entered = self.gate.enter()
        if isinstance(entered, Ticket):
            self.arrive(attempt, entered)
        else:
            entered.add_done_callback(lambda future: self.arrive(attempt, future.result()))

    def arrive(self, attempt, ticket):
        if self.busy < self.takes and self.chance.random() >= self.refuses:
            self.busy += 1
            self.at(self.chance.uniform(0.5, 1.5), self.answer, ticket)
        else:
            self.at(0.02, self.refuse, attempt, ticket)

    def answer(self, ticket):
        self.busy, self.answered = self.busy - 1, self.answered + 1
        self.gate.leave(ticket)
        self.start()

    def refuse(self, attempt, ticket):
        self.refused, self.refused_at_first = self.refused + 1, self.refused_at_first + (self.now < 10)
        self.gate.leave(ticket, limited=True)
        self.at(pause_s(attempt, of_status(429), self.chance.random), self.ask, attempt + 1)


@pytest.mark.parametrize(
    ("takes", "busy", "refused", "attempts"),
    # Seen: busy 7.6, 1.0, 3.0 on average; 0.11, 0.23, 0.20 of all attempts refused; at most 4, 5 and 6 attempts for one request.
    [(8, 7.2, 0.18, 6), (1, 0.97, 0.25, 6), (3, 2.85, 0.22, 6)],
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_gate_settles_where_the_endpoint_is(takes, busy, refused, attempts, seed):
    """32 workers at an endpoint that takes 8 (1, 3) at a time keep it busy; few requests are refused, and each gets its answer."""
    seen = Endpoint(takes, workers=32, requests=1000, seed=seed)

    assert seen.answered == 1000
    assert busy <= seen.area / seen.now <= takes
    assert seen.refused / (1000 + seen.refused) <= refused
    assert seen.refused_at_first <= 60
    assert seen.attempts <= attempts < MOST_ATTEMPTS
    assert seen.gate.under_way == 0


@pytest.mark.parametrize(("refuses", "times_longer"), [(0.03, 1.3), (0.1, 1.5)])
def test_refusals_by_chance_do_not_strangle_a_run(refuses, times_longer):
    """An endpoint refuses 3% (10%) whatever is under way: 500 requests of 16 workers, 31 s at best, take little more (1.5 times as long).

    Halving is for an endpoint that is full; this is its price where it is not.
    """
    runs = [Endpoint(math.inf, workers=16, requests=500, seed=seed, refuses=refuses) for seed in range(10)]

    assert all(one.answered == 500 and one.attempts < MOST_ATTEMPTS for one in runs)
    assert sum(one.now for one in runs) / 10 <= times_longer * 500 / 16


# --- what is wrong


@pytest.mark.parametrize(
    ("status", "headers", "kind", "retried", "wait_s"),
    [
        (400, {}, "crashed", False, None),
        (408, {}, "server_error", True, None),
        (409, {}, "server_error", True, None),
        (422, {}, "crashed", False, None),
        (425, {}, "server_error", True, None),
        (429, {}, "rate_limited", True, None),
        (429, {"retry-after": "7"}, "rate_limited", True, 7),
        (500, {}, "server_error", True, None),
        (503, {}, "server_error", True, None),
        (503, {"retry-after": "2"}, "rate_limited", True, 2),
        (529, {"retry-after-ms": "250"}, "rate_limited", True, 0.25),
        (500, {"retry-after": "2"}, "server_error", True, 2),
        (500, {"x-should-retry": "false"}, "server_error", False, None),
        (429, {"x-should-retry": "False "}, "rate_limited", False, None),
        (400, {"x-should-retry": "true"}, "crashed", True, None),
        (500, {"x-should-retry": "perhaps"}, "server_error", True, None),
    ],
)
def test_a_status_says_whether_to_ask_again(status, headers, kind, retried, wait_s):
    """No refusal is billed, and none of these stops a run."""
    assert of_status(status, headers, {"error": {"code": None}}) == Trouble(kind, retried, wait_s)


@pytest.mark.parametrize("status", [200, 201, 204, 302, 304])
def test_an_answer_is_no_trouble(status):
    """Nor is what leads to one."""
    assert of_status(status, {"x-should-retry": "true"}) is None


@pytest.mark.parametrize(
    ("status", "code", "kind", "fatal", "fix"),
    [
        (401, "invalid_api_key", "crashed", "HTTP 401: the endpoint refuses the API key", "export OPENAI_API_KEY="),
        (403, None, "crashed", "HTTP 403: the endpoint refuses the API key", "export OPENAI_API_KEY="),
        (404, "model_not_found", "crashed", "HTTP 404: the endpoint does not have the model", "check the model's name"),
        (404, None, "crashed", "HTTP 404: the endpoint has no such model or path", "OPENAI_BASE_URL, which often ends in /v1"),
        (429, "insufficient_quota", "rate_limited", "HTTP 429: the account has no credit left (insufficient_quota)", "add credit"),
        (403, "insufficient_quota", "crashed", "HTTP 403: the account has no credit left (insufficient_quota)", "add credit"),
    ],
)
def test_what_every_request_would_meet_is_fatal(status, code, kind, fatal, fix):
    """It is not asked again, whatever the endpoint says of that, and says what to do; no text of the endpoint is in it."""
    found = of_status(status, {"x-should-retry": "true"}, {"error": {"code": code, "message": "sk-secret"}})

    assert (found.kind, found.retried, found.billed, found.fatal) == (kind, False, False, fatal)
    assert fix in found.fix and "sk-secret" not in found.fix


@pytest.mark.parametrize("answer", [None, [], "no", 3, {"error": "no"}, {"error": [1]}, {"error": {"code": ["insufficient_quota"]}}])
def test_an_answer_of_any_shape_is_read(answer):
    """An endpoint can send what it likes."""
    assert of_status(429, {}, answer) == Trouble("rate_limited", True)


@LIBRARIES
@pytest.mark.parametrize(
    ("name", "kind", "retried", "billed"),
    [
        ("ConnectTimeout", "timeout", True, False),
        ("PoolTimeout", "timeout", True, False),
        ("WriteTimeout", "timeout", True, True),
        ("ReadTimeout", "timeout", False, True),
        ("ConnectError", "connection", True, False),
        ("ProxyError", "connection", True, False),
        ("ReadError", "connection", True, True),
        ("WriteError", "connection", True, True),
        ("CloseError", "connection", True, True),
        ("RemoteProtocolError", "connection", True, True),
        ("DecodingError", "connection", True, True),
        ("UnsupportedProtocol", "connection", False, False),
        ("LocalProtocolError", "crashed", False, False),
        ("TooManyRedirects", "crashed", False, True),
    ],
)
def test_errors_of_both_libraries_are_told_apart(library, name, kind, retried, billed):
    """What may have reached the endpoint may be billed; what cannot be sent at all is not tried again."""
    found = limits.of_error(getattr(library, name)("text of the endpoint"))

    assert (found.kind, found.retried, found.billed) == (kind, retried, billed)
    assert "text of" not in found.fatal + found.fix


@LIBRARIES
def test_every_error_of_a_transport_has_a_class(library):
    """A class that a new version adds is at least an error of the connection."""

    def below(kind):
        return {kind}.union(*map(below, kind.__subclasses__()))

    kinds = below(library.TransportError)
    found = {one.__name__: limits.of_error(one("")).kind for one in kinds}

    assert len(kinds) >= 14
    assert {name for name, kind in found.items() if kind == "crashed"} == {"LocalProtocolError"}
    assert {name for name, kind in found.items() if kind == "timeout"} == {name for name in found if "Timeout" in name}


@pytest.mark.parametrize(
    ("error", "kind", "billed"),
    [
        (TimeoutError(), "timeout", True),
        (ConnectionResetError(), "connection", True),
        (OSError("no route"), "connection", True),
        (KeyError("x"), "crashed", True),
        (type("CutShort", (Exception,), {})(), "connection", True),
    ],
)
def test_other_errors_have_a_class(error, kind, billed):
    """A library below may let its own through."""
    found = limits.of_error(error)

    assert (found.kind, found.billed) == (kind, billed)


@pytest.fixture(scope="module")
def closed():
    """An address at which nothing listens: its port is taken, but not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def raised(call):
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


@LIBRARIES
def test_a_real_refused_connection_is_fatal_until_the_endpoint_has_answered(library, closed):
    """Nobody listens: it is asked once more; an endpoint that answered before has perhaps been started again."""

    async def ask():
        async with library.AsyncClient(trust_env=False) as client:
            await client.post(closed)

    with library.Client(trust_env=False) as client:
        errors = [raised(lambda: client.post(closed)), raised(lambda: asyncio.run(ask()))]
    for error in errors:
        found = limits.of_error(error)
        assert (found.kind, found.retried, found.billed) == ("connection", True, False)
        assert found.fatal == "the connection is refused: nothing listens at the endpoint's address"
        assert "OPENAI_BASE_URL" in found.fix
        assert [may_retry(found, attempt, False) for attempt in (1, 2)] == [True, False]
        assert [may_retry(found, attempt, True) for attempt in (1, 7, 8)] == [True, True, False]


@LIBRARIES
def test_a_real_wrong_address_is_fatal(library):
    """A scheme that is none is not tried again; nor is a key that has a line break, which no header can hold."""
    with library.Client(trust_env=False) as client:
        scheme = limits.of_error(raised(lambda: client.get("htp://127.0.0.1/v1")))
    assert (scheme.fatal, scheme.retried) == ("the endpoint's address is neither http:// nor https://", False)
    assert scheme.fix == "export OPENAI_BASE_URL=https://... with the whole address"

    with socket.create_server(("127.0.0.1", 0)) as server, library.Client(trust_env=False) as client:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        key = limits.of_error(raised(lambda: client.get(url, headers={"authorization": "Bearer a\nb"})))
    assert key == Trouble("crashed", False)


def caused(error, by):
    error.__cause__ = by
    return error


@LIBRARIES
@pytest.mark.parametrize(
    ("cause", "fatal"),
    [
        (socket.gaierror(-2, "Name or service not known"), "the endpoint's host is not known"),
        (socket.gaierror(8, "nodename nor servname provided"), "the endpoint's host is not known"),
        (ExceptionGroup("several", [OSError("v6"), ConnectionRefusedError(111, "")]), "the connection is refused: "),
        (ssl.SSLCertVerificationError(1, "self-signed"), "the endpoint's certificate is not trusted"),
        (ssl.SSLError(1, "wrong version number"), ""),
        (OSError(113, "No route to host"), ""),
    ],
)
def test_the_cause_of_a_failed_connection_is_found(library, cause, fatal):
    """However deep it lies; a host with several addresses fails with a group of errors."""
    found = limits.of_error(caused(library.ConnectError("failed"), caused(OSError("All connection attempts failed"), cause)))

    assert found.fatal.startswith(fatal) and bool(found.fatal) == bool(fatal)
    assert bool(found.fix) == bool(fatal)
    assert (found.kind, found.billed) == ("connection", False)


def test_causes_that_go_round_end():
    """A chain of errors can close on itself."""
    error = httpx.ConnectError("a")
    error.__cause__ = other = OSError("b")
    other.__context__ = error

    assert limits.of_error(error).kind == "connection"


def test_a_body_that_is_cut_is_asked_for_again():
    """It may be billed, and the next one may be whole."""
    assert limits.of_error(type("CutShort", (Exception,), {})()) == Trouble("connection", True, billed=True)


# --- when to ask again


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "120"}, 120),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "12.5", "retry-after": "9"}, 0.0125),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        # RFC 9110, 5.6.7: the preferred form, then the obsolete ones of RFC 850 and of C's asctime; 60 s from now
        ({"retry-after": "Wed, 25 Nov 2026 12:01:00 GMT"}, 60),
        ({"retry-after": "Wednesday, 25-Nov-26 12:01:00 GMT"}, 60),
        ({"retry-after": "Wed Nov 25 12:01:00 2026"}, 60),
        ({"retry-after": "Sun Dec  6 12:00:00 2026"}, 11 * 86400),
        ({"retry-after": "Wed, 25 Nov 2026 13:01:00 +0100"}, 60),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0),
        ({"retry-after": "Sunday, 06-Nov-94 08:49:37 GMT"}, 0),
        ({"retry-after-ms": "x", "retry-after": "Wed, 25 Nov 2026 12:00:00 GMT"}, 0),
    ],
)
def test_what_an_endpoint_asks_for_is_read(headers, seconds):
    """Milliseconds before seconds before a date, in each of its three forms; a date that has passed is 0."""
    assert retry_after_s(headers, NOW) == seconds


HOSTILE = [
    "",
    "-1",
    "+1",
    "inf",
    "nan",
    "1e3",
    "1" + "0" * 400,
    "٣",
    "²",
    "0x10",
    "1, 2",
    "1 s",
    "soon",
    "\x00",
    "Wed, 99 Nov 2026 12:01:00 GMT",
]


@pytest.mark.parametrize("name", ["retry-after", "retry-after-ms"])
@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_no_time_is_none(name, text):
    """Nothing is waited for, and nothing crashes."""
    assert retry_after_s({name: text}, NOW) is None


@settings(max_examples=500)
@given(
    st.text(max_size=40) | st.lists(st.sampled_from("Sun Nov 6 94 08:49:37 GMT , - +9999 99999 ( 24:61:61 EST 1e9".split())).map(" ".join)
)
def test_any_text_is_a_time_or_none(text):
    """A header holds whatever the endpoint likes."""
    found = retry_after_s({"retry-after": text}, NOW)

    assert found is None or 0 <= found < 1e12


@pytest.mark.parametrize(
    ("attempt", "wait_s", "least", "most"),
    [
        (1, None, 0.25, 0.5),
        (2, None, 0.5, 1),
        (6, None, 8, 16),
        (7, None, 15, 30),
        (8, None, 15, 30),
        (1, 10.0, 10, 11.01),
        (8, 0.25, 0.25, 0.285),
        (3, 0.0, 1, 2),
    ],
)
def test_a_pause_is_what_was_asked_for_or_doubles(attempt, wait_s, least, most):
    """Never less than was asked, and not all at once; 0 seconds are no reason to spend eight attempts within a blink."""
    trouble = Trouble("rate_limited", True, wait_s)

    assert pause_s(attempt, trouble, lambda: 0.0) == pytest.approx(least)
    assert pause_s(attempt, trouble, lambda: 1.0) == pytest.approx(most)


def test_eight_attempts_are_enough():
    """What can help is tried; what cannot, never."""
    assert [may_retry(Trouble("server_error", True), attempt, False) for attempt in (1, 2, 7, 8)] == [True, True, True, False]
    assert not may_retry(Trouble("crashed", False), 1, True)


# --- the breaker


@pytest.mark.parametrize(
    ("settled", "tripped"),
    [
        ("aaaaa", ("a", "fix a")),
        ("aaaaab", ("a", "fix a")),
        ("aaaaa    ", ("a", "fix a")),
        ("aaaa", None),
        ("aaaab", None),
        ("aaaa ", None),
        ("aaaa aaaaaaaa", None),
        (" aaaaaaaaaa", None),
        ("     ", None),
        ("ababa", None),
    ],
)
def test_the_same_fatal_trouble_on_the_first_five_cases_stops_a_run(settled, tripped):
    """Any other outcome among them, also a case that met none (a space), keeps it going for good."""
    breaker = Breaker(5)
    for one in settled:
        breaker.take(one.strip(), f"fix {one}" if one.strip() else "")

    assert breaker.tripped == tripped


@pytest.mark.parametrize("cases", [1, 3])
def test_a_run_of_fewer_cases_stops_after_these(cases):
    """With three cases the third one decides."""
    breaker = Breaker(cases)
    for _ in range(cases):
        assert breaker.tripped is None
        breaker.take("a", "b")

    assert breaker.tripped == ("a", "b")


def test_requests_that_hang_do_not_hold_up_the_others(monkeypatch):
    """At a limit of 1, one hangs: after a second its place is given away, and when it ends after all, nothing is counted twice."""
    moment = [100.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: moment[0])
    gate, (answered,) = full(1)
    moment[0] += 0.1
    gate.leave(answered)
    gate.leave(gate.enter(), limited=True)
    hanging, waiting = gate.enter(), gate.enter()

    moment[0] += 0.9
    gate.give_away()
    assert not waiting.done()
    moment[0] += 0.2
    gate.give_away()
    assert waiting.done()
    gate.leave(hanging, answered=False)
    assert gate.under_way == 1
    gate.leave(waiting.result())
    assert gate.under_way == 0


def test_a_slow_endpoint_is_not_taken_for_a_hanging_one(monkeypatch):
    """An answer took 10 seconds: only what takes four times as long hangs."""
    moment = [100.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: moment[0])
    gate, (ticket,) = full(1)
    moment[0] += 10
    gate.leave(ticket)
    gate.limit = 1.0
    gate.enter()
    waiting = gate.enter()

    moment[0] += 39
    gate.give_away()
    assert not waiting.done()
    moment[0] += 2
    gate.give_away()
    assert waiting.done()
