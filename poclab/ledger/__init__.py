"""The ledger: every model answer that was paid for, kept once and for ever, and the budgets that calls are paid from.

One SQLite file per POC, safe for many threads and processes of one machine. An answer is on the disk before anybody uses it. Who asks
first holds a claim on the key, and others wait for the answer; a claim of a process that died is void.
A budget is reserved before each call, for the most that it can cost, and settled afterwards. What was never answered stays reserved in
full, whether its process lives or not: it may have been billed.

Not covered: several machines on one file (network file systems do not lock as SQLite needs it).
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from poclab.errors import PocError
from poclab.ledger.entries import COLUMNS, Entry
from poclab.ledger.store import Store, lives, me

__all__ = ["LEDGER", "BudgetError", "Claim", "Entry", "Ledger", "Reservation", "Spent"]

LEDGER = "ledger.db"
#: Money is counted in whole billionths of a dollar, so that sums are exact; a reservation is rounded up.
NANO = 1_000_000_000
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM entries"
_INSERT = f"INSERT INTO entries ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
_numbers = itertools.count()


class BudgetError(PocError):
    """A call would cost more than is left, and nothing that is under way can give anything back."""


@dataclass(frozen=True)
class Claim:
    """The right to ask a key, until the answer is recorded or the claim released."""

    key: str
    number: str


@dataclass(frozen=True)
class Reservation:
    """Money set aside for one call."""

    number: str
    budget: str
    usd: float


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

    def __str__(self) -> str:
        more = f", and up to ${self.unanswered_usd:.4f} for calls without an answer" if self.unanswered_usd else ""
        more += f"; ${self.in_flight_usd:.4f} is reserved for calls under way" if self.in_flight_usd else ""
        return f"budget: ${self.settled_usd:.4f} of ${self.limit_usd:.2f} spent{more}"


class Ledger:
    """An open ledger. Methods are atomic, and raise a `StoreError` where the file cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store = Store(path)

    @classmethod
    def open(cls, path: Path | str) -> Ledger:
        """Open the ledger of this process at `path`; it is made if there is none.

        Raises:
            StoreError: it cannot be written, is damaged, or is another kind of file.
        """
        return _open(os.getpid(), os.path.realpath(path))

    def find(self, key: str, generation: int | None = None) -> Entry | None:
        """Return the oldest answer to a key, or that of one generation."""
        where, values = ("", [key]) if generation is None else (" AND generation = ?", [key, generation])
        with self._store.reading() as connection:
            row = connection.execute(f"{_SELECT} WHERE key = ?{where} ORDER BY generation LIMIT 1", values).fetchone()
        return Entry.of(row) if row else None

    def named(self, name: str) -> Entry | None:
        """Return the entry that a report names."""
        start, _, generation = name.partition("/")
        values = [start, f"{start}g", generation]  # g comes after every hexadecimal digit
        with self._store.reading() as connection:
            row = connection.execute(f"{_SELECT} WHERE key >= ? AND key < ? AND generation = ?", values).fetchone()
        return Entry.of(row) if row else None

    def of(self, *, case_id: str | None = None, request_id: str | None = None) -> list[Entry]:
        """Return the entries of a case or of a request, the oldest first."""
        column, value = ("case_id", case_id) if request_id is None else ("request_id", request_id)
        with self._store.reading() as connection:
            rows = connection.execute(f"{_SELECT} WHERE {column} = ? ORDER BY id", [value]).fetchall()
        return [Entry.of(row) for row in rows]

    def claim(self, key: str, *, again: bool = False) -> Entry | Claim | None:
        """Return the answer to a key, unless it is to be asked `again`; else the right to ask; None while somebody else asks."""
        owner = me(os.getpid())
        with self._store.writing(durable=False) as connection:
            row = None if again else connection.execute(f"{_SELECT} WHERE key = ? ORDER BY generation LIMIT 1", [key]).fetchone()
            if row:
                return Entry.of(row)
            held = connection.execute("SELECT owner FROM claims WHERE key = ?", [key]).fetchone()
            if held and lives(held[0]):
                return None
            claim = Claim(key, f"{owner} {next(_numbers)}")
            connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", [key, owner, claim.number])
        return claim

    def record(self, claim: Claim, entry: Entry, reservation: Reservation | None = None) -> Entry:
        """Keep an answer as the next generation of its key; it is on the disk when this returns.

        The reservation is settled at what the answer cost, or stays used in full if nobody knows.
        """
        entry = entry.concealed()
        with self._store.writing(durable=True) as connection:
            (last,) = connection.execute("SELECT max(generation) FROM entries WHERE key = ?", [entry.key]).fetchone()
            entry = replace(entry, generation=0 if last is None else last + 1)
            connection.execute(_INSERT, entry.row())
            self._end(connection, claim)
            if reservation:
                self._settle(connection, reservation, entry.cost_usd)
        return entry

    def release(self, claim: Claim, reservation: Reservation | None = None, *, billed: bool) -> None:
        """Give back a claim without an answer; the reservation too, unless the call may be `billed`."""
        with self._store.writing(durable=False) as connection:
            self._end(connection, claim)
            if reservation:
                self._settle(connection, reservation, None if billed else 0.0)

    def _end(self, connection: Any, claim: Claim) -> None:
        # By its number: if it was void, somebody else may hold the key by now.
        connection.execute("DELETE FROM claims WHERE key = ? AND number = ?", [claim.key, claim.number])

    def open_budget(self, name: str, limit_usd: float) -> None:
        """Make a budget, or change its limit; what was spent of it stays spent."""
        with self._store.writing(durable=True) as connection:
            connection.execute(
                "INSERT INTO budgets (name, limit_nano) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET limit_nano = excluded.limit_nano",
                [name, math.floor(limit_usd * NANO)],
            )

    def reserve(self, budget: str, usd: float) -> Reservation | None:
        """Set money aside for a call that costs this at most; None while there is no room but calls under way may make some.

        Raises:
            BudgetError: there is no room, and nothing is under way.
        """
        owner, amount = me(os.getpid()), math.ceil(usd * NANO)
        with self._store.writing(durable=False) as connection:
            found = connection.execute("SELECT limit_nano, settled_nano FROM budgets WHERE name = ?", [budget]).fetchone()
            if found is None:
                raise BudgetError(f"there is no budget {budget!r} in {self.path}", fix="start the sweep again")
            limit, settled = found
            held = connection.execute("SELECT amount_nano, owner, in_flight FROM reservations WHERE budget = ?", [budget]).fetchall()
            used = settled + sum(one[0] for one in held)
            if used + amount <= limit:
                reservation = Reservation(f"{owner} {next(_numbers)}", budget, usd)
                connection.execute("INSERT INTO reservations VALUES (?, ?, ?, ?, 1)", [reservation.number, budget, amount, owner])
                return reservation
        if any(in_flight and lives(one) for _, one, in_flight in held):
            return None
        raise BudgetError(
            f"the budget of ${limit / NANO:.2f} is used up: ${used / NANO:.4f} was spent or may be billed, and this call may cost "
            f"${amount / NANO:.4f}",
            fix="raise max_cost_usd and run it again: what was answered is not paid again",
        )

    def write_off(self, reservation: Reservation) -> None:
        """Count a reservation as spent in full: its call may be billed, and there was no answer."""
        with self._store.writing(durable=False) as connection:
            self._settle(connection, reservation, None)

    def _settle(self, connection: Any, reservation: Reservation, usd: float | None) -> None:
        if usd is None:
            connection.execute("UPDATE reservations SET in_flight = 0 WHERE number = ?", [reservation.number])
            return
        done = connection.execute("DELETE FROM reservations WHERE number = ?", [reservation.number])
        if done.rowcount:
            values = [math.ceil(usd * NANO), reservation.budget]
            connection.execute("UPDATE budgets SET settled_nano = settled_nano + ? WHERE name = ?", values)

    def spent(self, budget: str) -> Spent:
        """Return how a budget stands."""
        with self._store.reading() as connection:
            limit, settled = connection.execute("SELECT limit_nano, settled_nano FROM budgets WHERE name = ?", [budget]).fetchone()
            held = connection.execute("SELECT amount_nano, owner, in_flight FROM reservations WHERE budget = ?", [budget]).fetchall()
        flying = sum(amount for amount, owner, in_flight in held if in_flight and lives(owner))
        return Spent(limit / NANO, settled / NANO, flying / NANO, (sum(one[0] for one in held) - flying) / NANO)


@functools.cache
def _open(process: int, path: str) -> Ledger:
    return Ledger(Path(path))
