"""The ledger's file: made whole, checked, and shared by threads and processes.

One connection per process, under a lock; SQLite itself lets one process write at a time. A commit goes to the write-ahead log at once,
which survives `kill -9`. What must survive a power cut too is synced to the disk afterwards, outside of the lock and together with
whatever other threads committed meanwhile: as safe as `synchronous = FULL`, and nobody waits for the disk of others.

SQLite must not be carried across a fork: its locks belong to the parent, but its memory would say that the child has them. So the
connection is closed just before a fork, and opened again by whoever needs it.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import os
import threading
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from poclab.errors import StoreError
from poclab.redaction import shown

if TYPE_CHECKING:
    import sqlite3

#: "pocL", so that no other database is taken for a ledger.
APPLICATION = 0x706F634C
FORMAT = 1
#: How long another process may hold the file before this one gives up.
BUSY_S = 60.0
#: A larger file is not read through at opening: this takes 0.2 s of CPU (measured in 2026), and the time to read it from the disk.
LARGEST_CHECKED = 500_000_000
#: With fewer bytes than these left on the disk nothing is asked: more than as many answers as are under way at once are large.
LEAST_FREE = 8_000_000
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

_stores: list[Store] = []
_paused: list[Store] = []
_watching: dict[str, object] = {}
#: Held while a file is opened for the first time, so that no fork happens in the middle of it.
_opening = threading.Lock()


class Store:
    """An open ledger file. `reading` and `writing` give its connection, one thread at a time.

    Raises:
        StoreError: it cannot be written, is damaged, or is another kind of file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock, self._syncing = threading.Lock(), threading.Lock()
        self._commits = self._synced = 0
        self._connection: sqlite3.Connection | None = None
        self._log = -1
        if not path.parent.is_dir():
            where = shown(str(path))
            raise StoreError(f"{where}: there is no folder for the ledger", fix="name the POC's folder: export POCLAB_POC=...")
        _watch_forks()
        with _opening:
            if not path.exists():
                create(path)
            self._identity = identity(path)
            with self._lock:
                self._connect(check=True)
            _stores.append(self)

    @property
    def moved(self) -> bool:
        """Whether the file at the path is no longer the one that was opened."""
        return identity(self.path) != self._identity

    def _connect(self, *, check: bool = False) -> sqlite3.Connection:
        self._refuse_moved()
        with self.failing():
            connection = connect(self.path)
            try:
                if check:
                    self._check(connection)
                connection.execute("PRAGMA journal_mode = WAL")  # it was made so, and a program may have changed it since
                # An answer that could not be kept must not be asked for: this proves that it can.
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(f"PRAGMA user_version = {FORMAT}")
                connection.execute("COMMIT")
                self._log = os.open(f"{self.path}-wal", os.O_RDWR)
                sync(self._log)
            except OSError as error:
                connection.close()
                raise self.problem(error) from error
            except BaseException:
                connection.close()
                raise
        self._connection = connection
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if application != APPLICATION and (application or tables):
            raise StoreError(f"{self.path}: this database is no ledger", fix=f"move it away: mv {self.path} {self.path}.other")
        if not tables:
            raise StoreError(f"{self.path}: the ledger is damaged: the file is empty", fix=RECOVER)
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > FORMAT:
            raise StoreError(f"{self.path}: written by a newer poclab (format {found}, this one knows {FORMAT})", fix="upgrade poclab")
        if self.path.stat().st_size <= LARGEST_CHECKED:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise StoreError(f"{self.path}: the ledger is damaged: {found.splitlines()[-1]}", fix=RECOVER)

    def _refuse_moved(self) -> None:
        if self.moved:
            raise StoreError(f"{self.path}: the ledger was moved or replaced while it was in use", fix="put it back, and run it again")

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self.failing():
            yield self._connection or self._connect()

    def refuse_full(self) -> None:
        """Refuse to go on where an answer might find no room: it would be paid for and lost.

        Raises:
            StoreError: the disk is nearly full.
        """
        found = os.statvfs(self.path.parent)
        free = found.f_bavail * found.f_frsize
        if found.f_blocks and free < LEAST_FREE:
            raise self.problem(OSError(errno.ENOSPC, f"{free / 1e6:.1f} MB are free, and an answer might not be kept"))

    def write(self, statement: str, values: Sequence[Any]) -> int:
        """Execute one statement, a transaction of its own, and return how many rows it wrote. They need not be on the disk yet."""
        with self._lock, self.failing():
            self._refuse_moved()
            return (self._connection or self._connect()).execute(statement, values).rowcount

    @contextlib.contextmanager
    def writing(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """Give the connection in a transaction; a `durable` one is on the disk when this ends."""
        with self._lock, self.failing():
            self._refuse_moved()
            connection = self._connection or self._connect()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(Exception):  # a full disk has rolled it back already
                    connection.execute("ROLLBACK")
                raise
            self._commits += 1
            number = self._commits
        if durable:
            self._sync(number)

    def _sync(self, number: int) -> None:
        """Return when so many commits are on the disk; who comes first syncs those of the others too."""
        with self._syncing:
            if self._synced < number:
                commits = self._commits
                try:
                    sync(self._log)
                except OSError as error:
                    raise self.problem(error) from error
                self._synced = commits

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Turn what SQLite says into what to do."""
        import sqlite3

        try:
            yield
        except (sqlite3.DatabaseError, zlib.error, json.JSONDecodeError) as error:
            raise self.problem(error) from error

    def problem(self, error: Exception) -> StoreError:
        return problem(self.path, error)

    def pause(self) -> None:
        """Close the file, and let nobody open it before `resume`."""
        self._lock.acquire()
        self._syncing.acquire()
        self._disconnect()

    def resume(self) -> None:
        self._syncing.release()
        self._lock.release()

    def close(self) -> None:
        """Close the file for good."""
        if self in _stores:
            _stores.remove(self)
        self.pause()
        self.resume()

    def _disconnect(self) -> None:
        if self._connection is None:
            return
        with contextlib.suppress(Exception):  # the thread that waits for this commit sees for itself that it was not synced
            sync(self._log)
            self._synced = self._commits
        os.close(self._log)
        self._connection.close()
        self._connection, self._log = None, -1


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection to a file that is there."""
    import sqlite3

    address = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA trusted_schema = OFF")
    except BaseException:
        connection.close()
        raise
    return connection


def create(path: Path) -> None:
    """Make an empty ledger, whole or not at all, so that an empty file is always a damaged one. Whoever is first makes it.

    Raises:
        StoreError: it cannot be written.
    """
    import sqlite3

    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with contextlib.closing(sqlite3.connect(temporary)) as connection:
            connection.executescript(f"BEGIN; {SCHEMA} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT}; COMMIT;")
            connection.execute("PRAGMA journal_mode = WAL")
        place(temporary, path)
    except (OSError, sqlite3.DatabaseError) as error:
        raise problem(path, error) from error
    finally:
        remove(temporary)


def place(made: Path, path: Path) -> None:
    """Put a file where it belongs, unless somebody else was first."""
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            os.rename(made, path)


def remove(path: Path) -> None:
    """Remove a database with all of its files, as far as they are there."""
    for end in ("", "-wal", "-shm", "-journal"):
        Path(f"{path}{end}").unlink(missing_ok=True)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[BinaryIO]:
    """Give an open ledger file, or what is left of one, that no other process has open or can use meanwhile.

    It must not be opened a second time in here: when any of a process's handles of a file is closed, its locks on it are gone.

    Raises:
        StoreError: somebody has it open.
    """
    import fcntl

    # The bytes that everybody who has a database open holds a shared lock on. Source: https://www.sqlite.org/fileformat2.html#the_lock_byte_page
    first, count = 0x40000002, 510
    if any(store.path == path and not store.moved for store in list(_stores)):
        raise StoreError(f"{path}: this process has the ledger open", fix="end it (restart the kernel), and run it again")
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, count, first)
        except (BlockingIOError, PermissionError):
            raise StoreError(
                f"{path}: another process has the ledger open, and what it pays for now would be lost",
                fix="end runs and notebooks of this POC, and run it again",
            ) from None
        yield file


def problem(path: Path, error: Exception) -> StoreError:
    """Return what an error of SQLite or of the system means to the user."""
    text, name = str(getattr(error, "strerror", None) or error), getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or isinstance(error, (zlib.error, json.JSONDecodeError)):
        return StoreError(f"{path}: the ledger is damaged: {text}", fix=RECOVER)
    if name.startswith("SQLITE_BUSY"):
        return StoreError(f"{path}: another program holds the ledger", fix="close what has it open, and run it again")
    if isinstance(error, PermissionError) or name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return StoreError(f"{path}: nothing can be written: {text}", fix="let the file and its folder be written: chmod u+w")
    if isinstance(error, OSError) or name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return StoreError(f"{path}: nothing can be written: {text}", fix=f"free some space on {path.parent}, and run it again")
    return StoreError(f"{path}: the ledger cannot be used: {text}", fix=RECOVER)


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells one file from another at the same path; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def sync(file: int) -> None:
    """Return when what was written to the file is on the disk."""
    getattr(os, "fdatasync", os.fsync)(file)


def _watch_forks() -> None:
    mine = object()
    if _watching.setdefault("by", mine) is not mine:  # in one step: what is registered twice would wait for itself
        return
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_pause_all, after_in_parent=_resume_all, after_in_child=_resume_all)
    atexit.register(_close_all)


def _pause_all() -> None:
    _opening.acquire()
    stores = sorted(_stores, key=id)  # in one order, so that two threads that fork at once do not wait for each other
    for store in stores:
        store.pause()
    _paused[:] = stores


def _resume_all() -> None:
    stores = _paused[:]
    _paused.clear()
    for store in reversed(stores):
        store.resume()
    _opening.release()


def _close_all() -> None:
    """Leave one file behind at the end of the program, where nobody else has it open."""
    for store in list(_stores):
        if store._lock.acquire(timeout=1):  # an abandoned thread may hold it, and the program ends at once
            store._disconnect()
            store._lock.release()
