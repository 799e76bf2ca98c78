"""A sqlite database as the world of a case: one base that nothing writes to, a copy for each case, and the difference of the two.

The difference is taken from the files, not from what tools say or triggers log: whoever wrote, however, is found. Tables are joined by
primary key in SQL (`rows`), and a table none of whose pages differ is not read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from poclab.agent import rows
from poclab.agent.rows import SCHEMA, listed, quoted, where
from poclab.changes import Change
from poclab.errors import InputError, StoreError
from poclab.files import digest, read_text, unwritable

#: The references to an object that a variable and the call that counts them have.
UNUSED = 2


@dataclass(frozen=True)
class Sqlite:
    """A base database; `digest` is of what it was made of."""

    path: Path
    digest: str

    @classmethod
    def of(cls, source: Path, folder: Path, *, scratch: Path) -> Sqlite:
        """Return the base made of a database file, or of a `.sql` script, as a private copy in `folder`; it is made once, in `scratch`.

        Raises:
            InputError: no such file, a script that fails, or no database.
            StoreError: the folder cannot be written.
        """
        if source.suffix == ".sql":
            made_of = digest(read_text(source))
        elif source.is_file():
            log = source.with_name(f"{source.name}-wal")
            made_of = digest(source.read_bytes() + (log.read_bytes() if log.is_file() else b""))
        else:
            raise InputError(f"{source}: no such database", fix="name a sqlite file, or a .sql script that makes one")
        path = folder / f"{made_of[:16]}-{sqlite3.sqlite_version}.db"
        if not path.is_file():
            _make(source, path, scratch)
        return cls(path, made_of)

    def copy(self, folder: Path) -> Copy:
        """Return a copy of the base in a folder of a case."""
        path = folder / "world.db"
        shutil.copyfile(self.path, path)
        return Copy(self, path)

    def after(self, done: Sequence[Change]) -> sqlite3.Connection:
        """Return, in memory and read only, the base as it is after these changes.

        Raises:
            InputError: the changes are not all there is to know: a definition, more rows than are listed, or a value that was cut.
        """
        made = sqlite3.connect(":memory:", check_same_thread=False)
        try:
            with contextlib.closing(sqlite3.connect(_uri(self.path), uri=True)) as base:
                base.backup(made)
            _apply(made, [one for one in done if one.table])
        except BaseException:
            made.close()
            raise
        return made

    @cached_property
    def content(self) -> bytes:
        return self.path.read_bytes()

    @cached_property
    def pages(self) -> Mapping[str, frozenset[int]] | None:
        """The numbers of the pages of each table; None where this sqlite does not tell."""
        found: dict[str, set[int]] = {}
        try:
            with contextlib.closing(sqlite3.connect(_uri(self.path), uri=True)) as base:
                for name, number in base.execute("SELECT name, pageno FROM dbstat"):
                    found.setdefault(name, set()).add(number)
        except sqlite3.OperationalError:
            return None
        return {name: frozenset(numbers) for name, numbers in found.items()}


class Copy:
    """The database of one case. `connection` is what tools use, by one thread at a time; None when the case is over."""

    def __init__(self, base: Sqlite, path: Path) -> None:
        self.base, self.path, self.undone = base, path, False
        self.connection: Any = sqlite3.connect(path, check_same_thread=False)
        self.connection.row_factory = sqlite3.Row
        # Nobody needs the copy after a power cut.
        for setting in ("journal_mode = MEMORY", "synchronous = OFF", "foreign_keys = ON"):
            self.connection.execute(f"PRAGMA {setting}")

    def close(self) -> None:
        """End what is under way, undo what was not committed, and let go of the file."""
        connection, self.connection = self.connection, None
        with contextlib.suppress(sqlite3.Error, AttributeError):  # it was closed
            connection.interrupt()
            # Python crashes when a connection is closed under a thread that uses it: then it ends when that one lets go of it.
            if sys.getrefcount(connection) <= UNUSED:
                connection.close()

    def difference(self) -> list[Change]:
        """Return every row that is not as in the base, by table and primary key; what was not committed is undone.

        Raises:
            StoreError: the copy cannot be read as a database: a tool spoilt it, or has it locked.
        """
        if connection := self.connection:
            with contextlib.suppress(sqlite3.Error, SystemError):  # a tool has closed it, or goes on using it
                self.undone = self.undone or connection.in_transaction
                connection.interrupt()  # a tool that hangs in a query would hang whoever rolls back, too
                connection.rollback()
        try:
            differing = self._differing_pages()
            if differing == frozenset():
                return []
            with contextlib.closing(sqlite3.connect(_uri(self.path, "rw"), uri=True, timeout=1.0)) as both:
                both.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
                both.execute("ATTACH ? AS base", (_uri(self.base.path),))
                return list(rows.changes(both, self.base.pages if differing else None, differing or frozenset()))
        except (sqlite3.DatabaseError, OSError) as error:
            raise StoreError(f"{self.path.name}: what the case left cannot be read as a database: {error}") from error

    def _differing_pages(self) -> frozenset[int] | None:
        """Return the numbers of the base's pages that are others now; None where that cannot be told by the file alone."""
        then, now = self.base.content, self.path.read_bytes()
        if self.path.with_name(f"{self.path.name}-wal").exists():
            return None
        if then == now:
            return frozenset()
        if then[16:18] != now[16:18]:
            return None
        size = int.from_bytes(then[16:18], "big")
        size = 65536 if size == 1 else size  # source: https://www.sqlite.org/fileformat.html, 1.3.2
        return frozenset(at // size + 1 for at in range(0, len(then), size) if then[at : at + size] != now[at : at + size])


def _make(source: Path, path: Path, scratch: Path) -> None:
    """Write the base, whole or not at all: another process may make the same one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir()
        with contextlib.closing(sqlite3.connect(scratch / path.name)) as made:
            if source.suffix == ".sql":
                made.executescript(read_text(source))
            else:
                with contextlib.closing(sqlite3.connect(_uri(source, "ro"), uri=True, timeout=2.0)) as given:
                    given.execute("BEGIN")  # of itself a backup waits for a lock without end
                    given.execute(f"SELECT 1 FROM {SCHEMA}").fetchall()
                    given.backup(made)
            made.commit()
            made.execute("PRAGMA journal_mode = DELETE")
        (scratch / path.name).replace(path)
    except (sqlite3.Error, ValueError) as error:  # a script with a null character
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise unwritable(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "") from None
        raise InputError(f"{source}: no database can be made of it: {error}", fix="try it: sqlite3 :memory: < FILE") from None
    except OSError as error:
        raise unwritable(path, error, f"make {path.parent} writable") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _apply(made: sqlite3.Connection, changes: Sequence[Change]) -> None:
    """Make the changes in a database, and let it be read only from then on."""
    for (trigger,) in made.execute(f"SELECT name FROM {SCHEMA} WHERE type = 'trigger'").fetchall():
        made.execute(f"DROP TRIGGER {quoted(trigger)}")  # what they did is among the changes
    made.row_factory = sqlite3.Row
    after = [(change, _row_after(made, change)) for change in changes]
    for change, _ in after:  # all of them first: two rows may have swapped what is unique
        if change.before is not None:
            made.execute(f"DELETE FROM {quoted(change.table)} WHERE {where(change.key)}", tuple(change.key.values()))
    for change, row in after:
        if row is not None:
            marks = ", ".join("?" * len(row))
            made.execute(f"INSERT INTO {quoted(change.table)} ({listed(row)}) VALUES ({marks})", tuple(row.values()))
    made.commit()
    made.execute("PRAGMA query_only = ON")


def _row_after(made: sqlite3.Connection, change: Change) -> dict[str, Any] | None:
    """Return the whole row that a change leaves; None of one that is gone.

    Raises:
        InputError: that cannot be told.
    """
    known = (change.before or {}) | (change.after or {}) | dict(change.key)
    if change.table == SCHEMA or change.more or any(isinstance(value, dict) for value in known.values()):
        raise InputError(f"the database afterwards cannot be made again from its changes: {change}", fix="score it by `effects`")
    if change.after is None:
        return None
    stored = listed(rows.Table.of(made, change.table).read)  # not those that sqlite works out
    found = made.execute(f"SELECT {stored} FROM {quoted(change.table)} WHERE {where(change.key)}", tuple(change.key.values())).fetchone()
    return (dict(found) if found else dict(change.key)) | dict(change.after)


def _uri(path: Path, mode: str = "ro&immutable=1") -> str:
    return f"file:{urllib.parse.quote(os.path.abspath(path))}?mode={mode}"
