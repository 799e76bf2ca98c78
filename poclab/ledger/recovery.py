"""A damaged ledger: save what can still be read, and lose nothing more.

The damaged file is copied first and never changed. Entries are read one by one; one that cannot be read, or whose answer is not what was
written (it carries a checksum), is left out. When the first page is torn, that of an empty ledger, which says the same, stands in for it.
Nobody can use the ledger meanwhile.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from poclab.errors import InputError
from poclab.ledger.book import Ledger
from poclab.ledger.entries import COLUMNS, Entry
from poclab.ledger.store import APPLICATION, alone, connect, create, problem, remove

if TYPE_CHECKING:
    import sqlite3

#: No row is smaller: an upper bound of how many there can be, where the file itself cannot say.
SMALLEST_ROW = 200
PAGE = 4096
TABLES = ("budgets", "reservations")


def recover(path: Path | str) -> str:
    """Replace the ledger at `path` by a new one with all that can be read of it; return a sentence that says how much that is.

    The old file stays beside it as `ledger.db.damaged-<time>`. Budgets are saved too, so that what was spent stays spent.

    Raises:
        InputError: there is no such file, or it is a database of another kind.
        StoreError: the folder cannot be written, or somebody has the ledger open.
    """
    import sqlite3

    path = Path(os.path.realpath(path))
    if not path.is_file():
        raise InputError(f"{path}: there is no ledger to recover", fix="name the POC's folder")
    fresh = path.with_name(f".{uuid.uuid4().hex}.db")
    try:
        with alone(path) as damaged:
            kept = _set_aside(path, damaged)
            create(fresh)
            said = _save(kept, fresh)
            for end in ("-wal", "-shm"):  # first: they must not be taken for those of the new file
                Path(f"{path}{end}").unlink(missing_ok=True)
            fresh.replace(path)
    except (OSError, sqlite3.DatabaseError) as error:
        raise problem(path, error) from error
    finally:
        remove(fresh)
    return f"{said}; the damaged file is kept as {kept.name}"


def _set_aside(path: Path, damaged: BinaryIO) -> Path:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S%f")
    kept = path.with_name(f"{path.name}.damaged-{now}")
    with kept.open("xb") as file:
        shutil.copyfileobj(damaged, file)
    shutil.copystat(path, kept)
    if os.path.exists(f"{path}-wal"):
        shutil.copy2(f"{path}-wal", f"{kept}-wal")
    return kept


def _there(path: Path) -> list[str]:
    """Return the ends of the names of a database's files that are there and hold something that cannot be made again."""
    return [end for end in ("", "-wal") if os.path.exists(f"{path}{end}")]


def _save(kept: Path, fresh: Path) -> str:
    ledger = Ledger(fresh)
    try:
        with _opened(kept, fresh) as old, ledger.store.writing(durable=True) as new:
            last = _last(old) if old else None
            saved = tried = 0
            for entry in _entries(old, _most(kept) if last is None else last) if old else ():
                tried += 1
                if entry is not None:
                    ledger.add(new, entry.row())
                    saved += 1
            budgets = _save_budgets(old, new)
    finally:
        ledger.store.close()
    lost = ", nobody knows how many are lost" if last is None else f", {tried - saved} could not be read" if tried > saved else ""
    return f"{saved} {'entry' if saved == 1 else 'entries'} saved{lost}; {budgets}"


@contextlib.contextmanager
def _opened(kept: Path, fresh: Path) -> Iterator[sqlite3.Connection | None]:
    """Give a connection to a copy of the damaged file; None when nobody can read it."""
    working = fresh.with_name(f"{fresh.name}.old")
    try:
        connection = _copied(kept, working) or _copied(kept, working, first_page_of=fresh)
        with contextlib.closing(connection) if connection else contextlib.nullcontext():
            yield connection
    finally:
        remove(working)


def _copied(kept: Path, working: Path, *, first_page_of: Path | None = None) -> sqlite3.Connection | None:
    import sqlite3

    remove(working)
    for end in _there(kept):
        shutil.copyfile(f"{kept}{end}", f"{working}{end}")
    if first_page_of:
        _mend(working, first_page_of)
    connection = None
    try:
        connection = connect(working)
        _refuse_other(connection, kept)
        connection.execute("SELECT id FROM entries WHERE id = 0").fetchone()
    except (sqlite3.DatabaseError, InputError) as error:
        if connection:
            connection.close()
        if isinstance(error, InputError):
            raise
        return None
    return connection


def _mend(working: Path, fresh: Path) -> None:
    """Put the first page of an empty ledger in the place of a torn one. Tables always begin on the same pages."""
    with fresh.open("rb") as whole, working.open("r+b") as torn:
        page = whole.read(PAGE)
        torn.write(page[:24] + bytes(4) + page[28:92] + b"\xff" * 4 + page[96:])  # so that the length counts, not what the page says of it


def _refuse_other(connection: sqlite3.Connection, kept: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()]
    if application not in (0, APPLICATION) or (tables and "entries" not in tables):
        remove(kept)
        raise InputError(f"{kept.name}: this database is no ledger", fix="move it away")


def _entries(old: sqlite3.Connection, last: int) -> Iterator[Entry | None]:
    """Yield the entries; None for one that is there and cannot be read."""
    import sqlite3

    for number in range(1, last + 1):
        try:
            row = old.execute(f"SELECT {', '.join(COLUMNS)} FROM entries NOT INDEXED WHERE id = ?", [number]).fetchone()
            yield Entry.of(row) if row else None
        except (sqlite3.DatabaseError, zlib.error, ValueError, TypeError):
            yield None


def _last(old: sqlite3.Connection) -> int | None:
    """Return the number of the last entry: they are never removed, so there are as many. None when that part is damaged."""
    import sqlite3

    for index in ("NOT INDEXED", "INDEXED BY entries_case", "INDEXED BY entries_request"):
        with contextlib.suppress(sqlite3.DatabaseError):
            return old.execute(f"SELECT max(id) FROM entries {index}").fetchone()[0] or 0
    return None


def _most(kept: Path) -> int:
    """Return how many entries there can be at most."""
    return sum(os.path.getsize(f"{kept}{end}") for end in _there(kept)) // SMALLEST_ROW


def _save_budgets(old: sqlite3.Connection | None, new: sqlite3.Connection) -> str:
    import sqlite3

    rows: dict[str, list[Any]] = {}
    try:
        if old is None:
            raise sqlite3.DatabaseError
        for table in TABLES:
            rows[table] = old.execute(f"SELECT * FROM {table}").fetchall()
        for table, found in rows.items():
            for row in found:
                new.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    except sqlite3.DatabaseError:
        for table in TABLES:
            new.execute(f"DELETE FROM {table}")
        return "its budgets could not be read, and begin anew"
    return f"{len(rows['budgets'])} budget{'s' * (len(rows['budgets']) != 1)} saved"
