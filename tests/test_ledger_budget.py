"""A budget is a promise: whatever threads, processes and deaths there are, no more is spent than was allowed."""

import signal
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poclab.errors import InputError
from poclab.ledger import LEDGER, BudgetError, Entry, Ledger

KEY = "a1" * 32
ENTRY = Entry(KEY, "http://e", "/responses", "m", {}, 200, {}, b"x", 0.1, "2026-11-25T18:00:00+00:00")
#: Each worker pays 0.03 for calls that it reserves 0.05 for, gives back every third, and leaves every seventh unanswered.
WORKER = """
import sys, threading
from dataclasses import replace
from poclab.ledger import BudgetError, Entry, Ledger
ledger = Ledger.open(sys.argv[1])
bill = []
def work(name):
    entry = Entry("0" * 64, "http://e", "/responses", "m", {}, 200, {}, b"x", 0.1, "2026-11-25T18:00:00+00:00", cost_usd=0.03)
    number = 0
    while True:
        try:
            reservation = ledger.reserve("b", 0.05)
        except BudgetError:
            return
        if reservation is None:
            continue
        number += 1
        spent = ledger.spent("b")
        assert round(spent.used_usd * 1e9) <= 2_000_000_000, spent
        key = f"{sys.argv[2]}{name}{number:02d}".ljust(64, "0")
        claim = ledger.claim(key)
        if number % 3 == 0:
            ledger.release(claim, reservation, billed=False)
        elif number % 7 == 0:
            ledger.release(claim, reservation, billed=True)
            bill.append(5)
        else:
            ledger.record(claim, replace(entry, key=key), reservation)
            bill.append(3)
sys.stdin.readline()
threads = [threading.Thread(target=work, args=[name]) for name in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(sum(bill), bill.count(5))
"""


def worker(code, *arguments):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], **pipes)


def paid(ledger, reservation, cost_usd):
    return ledger.record(ledger.claim(KEY, again=True), Entry(**{**vars(ENTRY), "cost_usd": cost_usd}), reservation)


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger.open(tmp_path / LEDGER)
    ledger.open_budget("b", 1.0)
    return ledger


def test_what_is_answered_is_settled_at_its_cost(ledger):
    """The room that a cheap answer leaves is there for the next call."""
    reservation = ledger.reserve("b", 0.9)
    during = ledger.spent("b")
    paid(ledger, reservation, 0.25)
    after = ledger.spent("b")

    assert (during.settled_usd, during.in_flight_usd, during.used_usd) == (0, 0.9, 0.9)
    assert (after.limit_usd, after.settled_usd, after.in_flight_usd, after.unanswered_usd) == (1, 0.25, 0, 0)
    assert ledger.reserve("b", 0.75)


def test_what_was_refused_is_given_back(ledger):
    """An endpoint that says 429 bills nothing."""
    ledger.release(ledger.claim(KEY), ledger.reserve("b", 1.0), billed=False)

    assert ledger.spent("b").used_usd == 0


def test_what_nobody_answered_stays_used_in_full(ledger):
    """A timeout, an answer of unknown cost and an attempt before a retry may each be on the bill."""
    ledger.release(ledger.claim(KEY), ledger.reserve("b", 0.2), billed=True)
    paid(ledger, ledger.reserve("b", 0.3), None)
    ledger.write_off(ledger.reserve("b", 0.4))
    spent = ledger.spent("b")

    assert (spent.settled_usd, spent.in_flight_usd, spent.unanswered_usd) == (0, 0, 0.9)
    assert str(spent) == "budget: $0.0000 of $1.00 spent, and up to $0.9000 for calls without an answer"


def test_a_budget_ends_only_when_nothing_is_under_way(ledger):
    """While a call may give money back one waits; then the message says what was spent and what to do."""
    reservation = ledger.reserve("b", 0.98)
    waiting = ledger.reserve("b", 0.03)
    paid(ledger, reservation, 0.98)

    assert waiting is None
    with pytest.raises(BudgetError) as caught:
        ledger.reserve("b", 0.03)
    assert caught.value.message == "the budget of $1.00 is used up: $0.98 was spent or is reserved, and this call may cost up to $0.03"
    assert caught.value.fix == "raise max_cost_usd and run it again: what was answered is not paid again"
    assert ledger.reserve("b", 0.02)


def test_a_raised_limit_keeps_what_was_spent(ledger):
    """A sweep that is resumed with more money goes on from where it was."""
    paid(ledger, ledger.reserve("b", 1.0), 1.0)
    ledger.open_budget("b", 1.5)

    assert ledger.spent("b").settled_usd == 1.0
    with pytest.raises(BudgetError):
        ledger.reserve("b", 0.51)
    assert ledger.reserve("b", 0.5)


def test_what_costs_nothing_is_always_allowed(ledger):
    """An offline model goes on when the money is gone, and when the limit was lowered below what was spent."""
    paid(ledger, ledger.reserve("b", 1.0), 1.0)
    ledger.open_budget("b", 0.5)

    assert ledger.reserve("b", 0)


def test_an_answer_dearer_than_reserved_counts_in_full(ledger):
    """The bill is what it is; nothing more is asked then."""
    paid(ledger, ledger.reserve("b", 0.5), 1.25)

    assert ledger.spent("b").settled_usd == 1.25
    with pytest.raises(BudgetError, match=r"\$1\.25 was spent"):
        ledger.reserve("b", 0.000000001)


def test_sums_are_exact(ledger):
    """A hundred times seven tenths of a cent is seventy cents, and one billionth more is too much."""
    ledger.open_budget("b", 0.7)
    for _ in range(100):
        assert ledger.reserve("b", 0.007)

    assert ledger.reserve("b", 0.000000001) is None
    assert ledger.spent("b").used_usd == 0.7


def test_less_than_a_billionth_is_rounded_against_the_user(ledger):
    """A reservation and a cost are rounded up, so that no number of small calls costs more than the limit."""
    reservation = ledger.reserve("b", 1e-12)
    reserved = ledger.spent("b").in_flight_usd
    paid(ledger, reservation, 1e-12)
    ledger.open_budget("small", 1.9e-9)

    assert reserved == 1e-9
    assert ledger.spent("b").settled_usd == 1e-9
    assert ledger.spent("small").limit_usd == 1e-9


def test_a_call_is_settled_once(ledger):
    """Whatever is said of a reservation after its end adds nothing to the bill, and gives nothing back."""
    answered, lost = ledger.reserve("b", 0.3), ledger.reserve("b", 0.2)
    paid(ledger, answered, 0.25)
    paid(ledger, answered, 0.25)
    ledger.write_off(lost)
    ledger.release(ledger.claim("b2" * 32), lost, billed=False)

    assert (ledger.spent("b").settled_usd, ledger.spent("b").unanswered_usd) == (0.25, 0.2)


@pytest.mark.parametrize("amount", [-0.01, float("nan"), float("inf")])
def test_no_amount_is_no_money(ledger, amount):
    """A mistake in a price is not a gift."""
    with pytest.raises(ValueError, match="no amount of money"):
        ledger.reserve("b", amount)
    assert ledger.spent("b").used_usd == 0


def test_budgets_are_apart(ledger):
    """One sweep does not spend the money of another, and a budget that nobody made is named."""
    ledger.open_budget("other", 1.0)
    ledger.reserve("b", 1.0)

    assert ledger.spent("other").used_usd == 0
    for ask in (lambda: ledger.reserve("none", 0.1), lambda: ledger.spent("none")):
        with pytest.raises(InputError, match="no budget 'none'"):
            ask()


def test_a_killed_process_leaves_its_reservation_used(ledger):
    """After `kill -9` the call may be on the bill: its money stays used, but nobody waits for it to come back."""
    code = """
import sys
from poclab.ledger import Ledger
ledger = Ledger.open(sys.argv[1])
print(ledger.claim(sys.argv[2]) and ledger.reserve("b", 0.6), flush=True)
sys.stdin.readline()
"""
    with worker(code, ledger.path, KEY) as process:
        process.stdout.readline()
        waiting, during = ledger.reserve("b", 0.5), ledger.spent("b")
        process.send_signal(signal.SIGKILL)
        process.wait()

    after = ledger.spent("b")
    assert waiting is None
    assert (during.in_flight_usd, during.unanswered_usd) == (0.6, 0)
    assert (after.in_flight_usd, after.unanswered_usd) == (0, 0.6)
    with pytest.raises(BudgetError):
        ledger.reserve("b", 0.5)
    assert ledger.reserve("b", 0.4)
    assert ledger.claim(KEY)


def test_four_processes_of_eight_threads_never_spend_more(ledger):
    """At no moment is more than the limit used; at the end all of the bill is there, and no room is left for another call."""
    ledger.open_budget("b", 2.0)
    processes = [worker(WORKER, ledger.path, name) for name in "abcd"]
    for process in processes:  # all have started to import by now
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60) for process in processes]
    spent = ledger.spent("b")

    assert [error for _, error in outputs if error] == []
    bill, unanswered = (sum(int(out.split()[part]) for out, _ in outputs) for part in (0, 1))
    assert round(spent.used_usd * 100) == bill <= 200
    assert round(spent.unanswered_usd * 100) == 5 * unanswered
    assert bill > 195
    assert spent.in_flight_usd == 0


def test_no_money_is_overlooked_while_a_call_is_settled(ledger):
    """What another process settles while somebody looks is seen either as reserved or as settled, and never as neither."""
    ledger.open_budget("b", 10.0)
    reservations = [ledger.reserve("b", 1.0) for _ in range(5)]
    other, settled = Ledger(ledger.path), []  # a connection of its own, as another process has

    def settle(_):
        settled.append(other.record(other.claim(KEY, again=True), replace(ENTRY, cost_usd=1.0), reservations.pop()))

    with ledger.store.reading() as connection:
        connection.set_trace_callback(settle)  # called before each statement
    used = [ledger.spent("b").used_usd, ledger.spent("b").used_usd]
    with ledger.store.reading() as connection:
        connection.set_trace_callback(None)
    other.store.close()

    assert len(settled) >= 2
    assert used == [5.0, 5.0]


STEPS = st.lists(
    st.tuples(st.sampled_from(["reserve", "record", "unknown", "billed", "refused", "twice"]), st.integers(0, 10**10)), max_size=25
)


@given(limit=st.integers(0, 2 * 10**10), steps=STEPS)
def test_no_order_of_events_spends_more_than_the_limit(tmp_path_factory, limit, steps):
    """What is settled and what is reserved never exceed the limit, and are what the events add up to, to the billionth."""
    ledger = Ledger.open(tmp_path_factory.getbasetemp() / LEDGER)
    name = f"{limit} {steps}"
    ledger.open_budget(name, 0)
    before = round(ledger.spent(name).used_usd * 1e9)  # the same example may come again
    limit += before
    ledger.open_budget(name, limit / 1e9)
    open_ones, settled, unanswered, ended = [], 0, 0, None
    for step, amount in steps:
        if step == "reserve":
            used = before + settled + unanswered + sum(reserved for _, reserved in open_ones)
            try:
                reservation = ledger.reserve(name, amount / 1e9)
            except BudgetError:
                assert used + amount > limit
                assert not open_ones
            else:
                assert (reservation is not None) == (amount == 0 or used + amount <= limit)
                open_ones += [(reservation, amount)] if reservation else []
        elif step == "twice" and ended:
            ledger.release(ledger.claim(KEY, again=True), ended, billed=amount % 2 == 0)
        elif open_ones and step != "twice":
            ended, reserved = open_ones.pop()
            if step == "record":
                settled += min(amount, reserved)
                paid(ledger, ended, min(amount, reserved) / 1e9)
            elif step == "unknown":
                unanswered += reserved
                paid(ledger, ended, None)
            else:
                unanswered += reserved if step == "billed" else 0
                ledger.release(ledger.claim(KEY, again=True), ended, billed=step == "billed")
        assert (
            round(ledger.spent(name).used_usd * 1e9) == before + settled + unanswered + sum(reserved for _, reserved in open_ones) <= limit
        )
    for reservation, _ in open_ones:
        ledger.release(ledger.claim(KEY, again=True), reservation, billed=False)
