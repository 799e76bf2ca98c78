"""Budgets: money is reserved before a call, for the most that it can cost, and settled afterwards.

Money is counted in whole billionths of a dollar, so that sums are exact. A reservation and a cost are rounded up, a limit down.
What a call without an answer had reserved stays used in full, whether its process lives or not: it may have been billed.
An answer that cost more than was reserved for it counts in full too: then more than the limit is spent, and nothing more is asked.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from poclab.errors import InputError, PocError
from poclab.ledger.processes import lives, me

if TYPE_CHECKING:
    import sqlite3

NANO = 1_000_000_000
_numbers = itertools.count()


class BudgetError(PocError):
    """A call would cost more than is left, and nothing that is under way can give anything back."""


@dataclass(frozen=True)
class Reservation:
    """Money set aside for one call."""

    number: str
    budget: str


@dataclass(frozen=True)
class Spent:
    """How a budget stands, in dollars: what answers cost, what calls under way may cost, and what calls without an answer may have cost."""

    limit_usd: float
    settled_usd: float
    in_flight_usd: float
    unanswered_usd: float

    @property
    def used_usd(self) -> float:
        return self.settled_usd + self.in_flight_usd + self.unanswered_usd

    @property
    def left_usd(self) -> float:
        return max(0.0, self.limit_usd - self.used_usd)

    def __str__(self) -> str:
        more = f", and up to ${self.unanswered_usd:.4f} for calls without an answer" if self.unanswered_usd else ""
        more += f"; ${self.in_flight_usd:.4f} is reserved for calls under way" if self.in_flight_usd else ""
        return f"budget: ${self.settled_usd:.4f} of {dollars(round(self.limit_usd * NANO))} spent{more}"


def open_budget(connection: sqlite3.Connection, name: str, limit_usd: float) -> None:
    connection.execute(
        "INSERT INTO budgets (name, limit_nano) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET limit_nano = excluded.limit_nano",
        [name, math.floor(_nano(limit_usd))],
    )


def reserve(connection: sqlite3.Connection, budget: str, usd: float) -> Reservation | None:
    limit, used = _limit_and_used(connection, budget)
    amount = math.ceil(_nano(usd))
    if amount and used + amount > limit:
        rows = connection.execute("SELECT DISTINCT owner FROM reservations WHERE budget = ? AND in_flight", [budget])
        if any(lives(owner) for (owner,) in rows.fetchall()):
            return None
        raise BudgetError(
            f"the budget of {dollars(limit)} is used up: {dollars(used)} was spent or is reserved, and this call may cost up to "
            f"{dollars(amount)}",
            fix="raise max_cost_usd and run it again: what was answered is not paid again",
        )
    reservation = Reservation(f"{me()} {next(_numbers)}", budget)
    connection.execute("INSERT INTO reservations VALUES (?, ?, ?, ?, 1)", [reservation.number, budget, amount, me()])
    return reservation


def settle(connection: sqlite3.Connection, reservation: Reservation, usd: float | None) -> None:
    """End a reservation at what the call cost; None: nobody knows, so it stays used in full. Only the first time counts."""
    if usd is None:
        connection.execute("UPDATE reservations SET in_flight = 0 WHERE number = ?", [reservation.number])
        return
    done = connection.execute("DELETE FROM reservations WHERE number = ? AND in_flight", [reservation.number])
    if done.rowcount:
        values = [math.ceil(_nano(usd)), reservation.budget]
        connection.execute("UPDATE budgets SET settled_nano = settled_nano + ? WHERE name = ?", values)


def spent(connection: sqlite3.Connection, budget: str) -> Spent:
    found = standing(connection, budget)
    if not found:
        raise _unknown(budget)
    return found[budget]


def standing(connection: sqlite3.Connection, budget: str | None = None) -> dict[str, Spent]:
    """Return how a budget stands, or each of them, by name."""
    # One statement: between two, another process could settle a call, and its money would be in neither.
    rows = connection.execute(
        "SELECT name, limit_nano, settled_nano, owner, in_flight, sum(amount_nano) FROM budgets LEFT JOIN reservations ON budget = name "
        "WHERE name = ? OR ? IS NULL GROUP BY name, owner, in_flight",
        [budget, budget],
    )
    sums: dict[str, list[int]] = {}
    for name, limit, settled, owner, in_flight, amount in rows.fetchall():
        parts = sums.setdefault(name, [limit, settled, 0, 0])
        parts[2 if in_flight and lives(owner) else 3] += amount or 0
    return {name: Spent(*(part / NANO for part in parts)) for name, parts in sums.items()}


def dollars(nano: int) -> str:
    """Return an amount as people write it: to the cent, and further only where there is more."""
    whole, part = divmod(nano, NANO)
    return f"${whole}.{f'{part:09d}'.rstrip('0').ljust(2, '0')}"


def _limit_and_used(connection: sqlite3.Connection, budget: str) -> tuple[int, int]:
    found = connection.execute("SELECT limit_nano, settled_nano FROM budgets WHERE name = ?", [budget]).fetchone()
    if found is None:
        raise _unknown(budget)
    (held,) = connection.execute("SELECT coalesce(sum(amount_nano), 0) FROM reservations WHERE budget = ?", [budget]).fetchone()
    return found[0], found[1] + held


def _unknown(budget: str) -> InputError:
    return InputError(
        f"the ledger has no budget {budget!r}", fix="start what it was made for again: a sweep, or evaluate(max_cost_usd=...)"
    )


def _nano(usd: float) -> Decimal:
    # As the number is written: 0.07 is 70,000,000, though the nearest double times a billion is a little more.
    amount = Decimal(repr(float(usd))) * NANO
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{usd!r} is no amount of money")
    return amount
