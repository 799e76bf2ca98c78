"""The ledger's file: opened, checked, and shared by threads and processes.

One connection per process, under a lock; SQLite itself lets one process write at a time. A connection is never used across a fork.
Claims and reservations are written without waiting for the disk (they need to survive `kill -9`, not a power cut); entries wait for it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poclab.errors import StoreError
from poclab.redaction import shown

if TYPE_CHECKING:
    import sqlite3

#: "pocL", so that no other database is taken for a ledger.
APPLICATION = 0x706F634C
FORMAT = 1
BUSY_S = 60.0
#: A larger file is not read through at opening: 200 MB take about a second.
LARGEST_CHECKED = 200_000_000
RECOVER = "`poclab ledger --recover` saves what can be read and keeps the damaged file"
SCHEMA = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, generation INTEGER NOT NULL, endpoint TEXT NOT NULL, path TEXT NOT NULL, model TEXT NOT NULL,
    body BLOB NOT NULL, status INTEGER NOT NULL, headers TEXT NOT NULL, content BLOB NOT NULL, latency_s REAL NOT NULL, at TEXT NOT NULL,
    tokens_in INTEGER, tokens_out INTEGER, tokens_cached INTEGER, tokens_reasoning INTEGER, cost_usd REAL, priced_on TEXT,
    case_id TEXT NOT NULL, repeat INTEGER NOT NULL, occurrence INTEGER NOT NULL, request_id TEXT NOT NULL, purpose TEXT NOT NULL,
    UNIQUE (key, generation)
);
CREATE INDEX entries_case ON entries (case_id);
CREATE INDEX entries_request ON entries (request_id);
CREATE TABLE claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL, number TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE budgets (name TEXT PRIMARY KEY, limit_nano INTEGER NOT NULL, settled_nano INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE reservations (
    number TEXT PRIMARY KEY, budget TEXT NOT NULL REFERENCES budgets, amount_nano INTEGER NOT NULL, owner TEXT NOT NULL,
    in_flight INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX reservations_budget ON reservations (budget);
"""


class Store:
    """An open ledger file. `reading` and `writing` give its connection, one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        import sqlite3

        if not self.path.parent.is_dir():
            raise StoreError(
                f"{shown(str(self.path))}: there is no folder for the ledger", fix="name the POC's folder: export POCLAB_POC=..."
            )
        with self.failing():
            connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA trusted_schema = OFF")
        if self.path.stat().st_size:
            self._check(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")  # an answer that could not be kept must not be asked for: this proves that it can
        if not connection.execute("PRAGMA application_id").fetchone()[0]:
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")

    def _check(self, connection: sqlite3.Connection) -> None:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application != APPLICATION and (application or tables):
            raise StoreError(f"{self.path}: this database is no ledger", fix=f"move it away: mv {self.path} {self.path}.other")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > FORMAT:
            raise StoreError(f"{self.path}: written by a newer poclab (format {found}, this one knows {FORMAT})", fix="upgrade poclab")
        if self.path.stat().st_size <= LARGEST_CHECKED:
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise StoreError(f"{self.path}: the ledger is damaged: {problem}", fix=RECOVER)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self.failing():
            yield self._connection

    @contextlib.contextmanager
    def writing(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """Give the connection in a transaction; a `durable` one is on the disk when this ends."""
        with self._lock, self.failing():
            connection = self._connection
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(Exception):  # a full disk has rolled it back already
                    connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Turn what SQLite says into what to do."""
        import sqlite3

        try:
            yield
        except sqlite3.DatabaseError as error:
            raise self.problem(error) from error

    def problem(self, error: Any) -> StoreError:
        text, name = str(error), getattr(error, "sqlite_errorname", "")
        if name in ("SQLITE_CORRUPT", "SQLITE_NOTADB") or "malformed" in text or "not a database" in text:
            return StoreError(f"{self.path}: the ledger is damaged: {text}", fix=RECOVER)
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            return StoreError(f"{self.path}: nothing can be written: {text}", fix="free some space there, and run it again")
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            return StoreError(f"{self.path}: nothing can be written: {text}", fix="let the file and its folder be written: chmod u+w")
        if name.startswith("SQLITE_BUSY"):
            return StoreError(f"{self.path}: another program holds the ledger", fix="close what has it open, and run it again")
        return StoreError(f"{self.path}: the ledger cannot be used: {text}", fix=RECOVER)

    def close(self) -> None:
        self._connection.close()


@functools.cache
def me(process: int) -> str:
    """Return what identifies this process: its number, and when it began, since numbers are given again."""
    return f"{process} {_began(process)}"


def _began(process: int) -> str:
    """Return when a process began, in ticks since the start of the machine; empty where nobody says."""
    try:
        # The name of the program, in brackets, may hold spaces and brackets.
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        state, *rest = stat.rpartition(")")[2].split()
        return "" if state == "Z" else rest[18]
    except (OSError, IndexError, ValueError):
        return ""


def lives(owner: str) -> bool:
    """Tell whether the process that `me` named is still there."""
    process, _, began = owner.partition(" ")
    if began:
        return _began(int(process)) == began
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
