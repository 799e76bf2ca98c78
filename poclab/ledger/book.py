"""The open ledger: who may ask, what was answered, and what it cost."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poclab.errors import InputError, StoreError, printable
from poclab.ledger import budgets
from poclab.ledger.budgets import Reservation, Spent
from poclab.ledger.entries import COLUMNS, Entry
from poclab.ledger.processes import lives, me
from poclab.ledger.store import Store
from poclab.redaction import conceal

if TYPE_CHECKING:
    import sqlite3

LEDGER = "ledger.db"
#: Set where a host has a ledger of its own: the file that this process records to, in place of the POC's.
HOST_LEDGER = "POCLAB_LEDGER"
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM entries"
# The generation is the last column; where none is given, it is the next one of the key.
_INSERT = (
    f"INSERT INTO entries ({', '.join(COLUMNS)}) VALUES ({'?, ' * (len(COLUMNS) - 1)}"
    "coalesce(?, (SELECT coalesce(max(generation) + 1, 0) FROM entries WHERE key = ?))) RETURNING generation"
)
# In one statement, since this stands before each call that is paid: nobody holds the key, and there is no answer that will do.
_CLAIM = "INSERT INTO claims SELECT ?, ?, ? WHERE ? OR NOT EXISTS (SELECT 1 FROM entries WHERE key = ?) ON CONFLICT DO NOTHING"
_numbers = itertools.count()
_ledgers: dict[str, Ledger] = {}


@dataclass(frozen=True)
class Claim:
    """The right to ask a key, until the answer is recorded or the claim released."""

    key: str
    number: str


class Ledger:
    """An open ledger. Methods are atomic, and raise a `StoreError` where the file cannot be used. `open` is how to get one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store(path)
        #: Whether the last key that was looked for had no answer, so that the next one is likely to have none.
        self.expects_new = False

    @classmethod
    def open(cls, path: Path | str) -> Ledger:
        """Open the ledger at `path`; it is made if there is none. The same file gives the same ledger within a process.

        Raises:
            StoreError: it cannot be written, is damaged, or is another kind of file.
        """
        ledger = _ledgers.get(str(path))
        if ledger is not None and not ledger.store.moved:
            return ledger
        real = os.path.realpath(path)
        ledger = _ledgers.get(real)
        if ledger is not None and not ledger.store.moved:
            return ledger
        if ledger is not None and _ledgers.pop(real, None) is ledger:
            ledger.store.close()
        mine = cls(Path(real))
        ledger = _ledgers.setdefault(real, mine)
        if ledger is not mine:  # another thread was first
            mine.store.close()
        return ledger

    @classmethod
    def of(cls, poc: Path) -> Ledger:
        """Open the ledger that model calls in a POC are recorded to."""
        return cls.open(os.environ.get(HOST_LEDGER) or poc / LEDGER)

    @classmethod
    def open_existing(cls, path: Path | str) -> Ledger:
        """Open the ledger at `path`, and make none.

        Raises:
            InputError: there is none; StoreError: as `open`.
        """
        if not os.path.exists(path):
            raise InputError(f"{path}: there is no ledger", fix="name a POC's folder in which a model was asked")
        return cls.open(path)

    def close(self) -> None:
        """Close the file; `open` opens it again."""
        _ledgers.pop(str(self.path), None)
        self.store.close()

    def find(self, key: str, generation: int | None = None, *, newest: bool = False) -> Entry | None:
        """Return the oldest answer to a key, or the newest, or that of one generation."""
        where, values = ("", [key]) if generation is None else (" AND generation = ?", [key, generation])
        found = self._entries(f"WHERE key = ?{where} {_order(newest)} LIMIT 1", values)
        return found[0] if found else None

    def named(self, name: str) -> Entry | None:
        """Return the entry that a report names."""
        start, _, generation = name.partition("/")
        if not generation.isdecimal():
            return None
        # g comes after every hexadecimal digit
        found = self._entries("WHERE key >= ? AND key < ? AND generation = ?", [start, f"{start}g", min(int(generation), 2**62)])
        return found[0] if found else None

    def of_case(self, case_id: str | None = None, *, request_id: str | None = None) -> list[Entry]:
        """Return the entries of a case, or of a request, the oldest first."""
        column, value = ("case_id", case_id) if request_id is None else ("request_id", request_id)
        return self._entries(f"WHERE {column} = ? ORDER BY id", [value])

    def page(self, after: int = 0, size: int = 100) -> tuple[list[Entry], int]:
        """Return the next entries in the order they were recorded, and the mark that the page after them begins with; it ends empty."""
        with self.store.reading() as connection:
            rows = connection.execute(
                f"SELECT id, {', '.join(COLUMNS)} FROM entries WHERE id > ? ORDER BY id LIMIT ?", [after, size]
            ).fetchall()
        with self.store.failing():
            return [Entry.of(row[1:]) for row in rows], rows[-1][0] if rows else after

    def _entries(self, where: str, values: list[str | int | None]) -> list[Entry]:
        with self.store.reading() as connection:
            rows = connection.execute(f"{_SELECT} {where}", values).fetchall()
        with self.store.failing():
            return [Entry.of(row) for row in rows]

    def claim(self, key: str, *, again: bool = False, newest: bool = False) -> Entry | Claim | None:
        """Return the oldest answer to a key, or the newest, unless it is to be asked `again`; else the right to ask; None while somebody else asks.

        Raises:
            StoreError: nothing could be kept, for want of room, too.
        """
        self.store.refuse_full()
        claim = Claim(key, f"{me()} {next(_numbers)}")
        self.expects_new = self.store.write(_CLAIM, [key, me(), claim.number, again, key]) == 1
        if self.expects_new:
            return claim
        with self.store.writing(durable=False) as connection:
            row = None if again else connection.execute(f"{_SELECT} WHERE key = ? {_order(newest)} LIMIT 1", [key]).fetchone()
            if row:
                return Entry.of(row)
            held = connection.execute("SELECT owner FROM claims WHERE key = ?", [key]).fetchone()
            if held and lives(held[0]):
                return None
            connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", [key, me(), claim.number])
        return claim

    def record(self, claim: Claim, entry: Entry, reservation: Reservation | None = None) -> Entry:
        """Keep an answer as the next generation of its key; it is on the disk when this returns.

        The reservation is settled at what the answer cost, or stays used in full if nobody knows.

        Raises:
            StoreError: it cannot be kept; the answer that is lost is named.
        """
        row = entry.row()
        row[-1] = None
        try:
            with self.store.writing(durable=True) as connection:
                generation = self.add(connection, row)
                self._end(connection, claim)
                if reservation:
                    budgets.settle(connection, reservation, entry.cost_usd)
        except StoreError as error:
            of = f" to case {printable(repr(entry.case_id))}" if entry.case_id else ""
            lost = f"the answer {entry.key[:16]} of {printable(repr(entry.model))}{of} came and could not be kept"
            raise StoreError(f"{error.message}: {conceal(lost)}", fix=error.fix) from error
        return replace(entry, generation=generation)

    @staticmethod
    def add(connection: sqlite3.Connection, row: Sequence[Any]) -> int:
        """Write an entry, given as the file holds it, and return its generation: the next one of its key where it has none."""
        ((generation,),) = connection.execute(_INSERT, [*row, row[0]]).fetchall()
        return generation

    @classmethod
    def take_over(cls, connection: sqlite3.Connection, row: Sequence[Any]) -> bool:
        """Write an entry, given as the file holds it, as the next generation of its key; tell whether it is new.

        It is not where the same answer to the same request of the same time is there.
        """
        key, at, asked, content = (row[COLUMNS.index(name)] for name in ("key", "at", "request_id", "content"))
        there = connection.execute("SELECT content FROM entries WHERE key = ? AND at = ? AND request_id = ?", [key, at, asked]).fetchall()
        # Another version of zlib compresses the same answer in another way.
        if any(one == content or zlib.decompress(one) == zlib.decompress(content) for (one,) in there):
            return False
        cls.add(connection, [*row[:-1], None])
        return True

    def release(self, claim: Claim, reservation: Reservation | None = None, *, billed: bool) -> None:
        """Give back a claim without an answer; the reservation too, unless the call may be `billed`."""
        with self.store.writing(durable=False) as connection:
            self._end(connection, claim)
            if reservation:
                budgets.settle(connection, reservation, None if billed else 0.0)

    def _end(self, connection: sqlite3.Connection, claim: Claim) -> None:
        # By its number: if it was void, somebody else may hold the key by now.
        connection.execute("DELETE FROM claims WHERE key = ? AND number = ?", [claim.key, claim.number])

    def open_budget(self, name: str, limit_usd: float) -> None:
        """Make a budget, or change its limit; what was spent of it stays spent."""
        with self.store.writing(durable=True) as connection:
            budgets.open_budget(connection, name, limit_usd)

    def reserve(self, budget: str, usd: float) -> Reservation | None:
        """Set money aside for a call that costs this at most; None while there is no room but calls under way may make some.

        Raises:
            BudgetError: there is no room, and nothing is under way.
            InputError: there is no such budget.
        """
        with self.store.writing(durable=False) as connection:
            return budgets.reserve(connection, budget, usd)

    def write_off(self, reservation: Reservation) -> None:
        """Count a reservation as spent in full: its call may be billed, and there was no answer."""
        with self.store.writing(durable=False) as connection:
            budgets.settle(connection, reservation, None)

    def settle(self, number: str, usd: float) -> None:
        """End the reservation of that number, if it is open, at what was spent of it."""
        with self.store.writing(durable=True) as connection:
            found = connection.execute("SELECT budget FROM reservations WHERE number = ?", [number]).fetchone()
            if found:
                budgets.settle(connection, Reservation(number, found[0]), usd)

    def standing(self) -> dict[str, Spent]:
        """Return how each budget stands, by name."""
        with self.store.reading() as connection:
            return budgets.standing(connection)

    def spent(self, budget: str) -> Spent:
        """Return how a budget stands.

        Raises:
            InputError: there is no such budget.
        """
        with self.store.reading() as connection:
            return budgets.spent(connection, budget)


def _order(newest: bool) -> str:
    return f"ORDER BY generation {'DESC' if newest else 'ASC'}"
