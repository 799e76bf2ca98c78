"""A sqlite database as the world of a case: one base that nothing writes to, a copy for each case, and the difference of the two.

The difference is taken from the files, not from what tools say or triggers log: whoever wrote, however, is found. Tables are joined by
primary key in SQL, and a table none of whose pages differ is not read.
Not covered: rows of a table whose definition changed (its definition is a change of `sqlite_schema`), sqlite's own tables, `PRAGMA
user_version` and the like, and values that are equal to sqlite (1 and 1.0).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import shutil
import sqlite3
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from poclab.changes import Change
from poclab.errors import InputError, StoreError
from poclab.files import digest, read_text, unwritable

#: How many changes of a table are listed; the others are counted.
LISTED = 1000
#: Characters of a text that are kept whole in a change.
LONGEST_TEXT = 20_000
SCHEMA = "sqlite_schema"


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

    def after(self, changes: Sequence[Change]) -> sqlite3.Connection:
        """Return, in memory and read only, the base as it is after these changes.

        Raises:
            InputError: the changes are not all there is to know: a definition, more rows than are listed, or a value that was cut.
        """
        made = sqlite3.connect(":memory:", check_same_thread=False)
        with contextlib.closing(sqlite3.connect(_uri(self.path), uri=True)) as base:
            base.backup(made)
        for (trigger,) in made.execute(f"SELECT name FROM {SCHEMA} WHERE type = 'trigger'").fetchall():
            made.execute(f"DROP TRIGGER {_quoted(trigger)}")  # what they did is among the changes
        made.row_factory = sqlite3.Row
        rows = [(change, _row_after(made, change)) for change in changes if change.table]
        for change, _ in rows:
            if change.before is not None:
                made.execute(f"DELETE FROM {_quoted(change.table)} WHERE {_where(change.key)}", tuple(change.key.values()))
        for change, row in rows:
            if row is not None:
                marks = ", ".join("?" * len(row))
                made.execute(f"INSERT INTO {_quoted(change.table)} ({_list(row)}) VALUES ({marks})", tuple(row.values()))
        made.commit()
        made.execute("PRAGMA query_only = ON")
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
    """The database of one case. `connection` is what tools use; it may be used by one thread at a time."""

    def __init__(self, base: Sqlite, path: Path) -> None:
        self.base, self.path = base, path
        self.connection = sqlite3.connect(path, check_same_thread=False)
        self.connection.row_factory = sqlite3.Row
        # Nobody needs the copy after a power cut.
        for setting in ("journal_mode = MEMORY", "synchronous = OFF", "foreign_keys = ON"):
            self.connection.execute(f"PRAGMA {setting}")

    def close(self) -> None:
        """End what is under way, undo what was not committed, and let go of the file."""
        with contextlib.suppress(sqlite3.Error):
            self.connection.interrupt()
            self.connection.close()

    def difference(self) -> list[Change]:
        """Return every row that is not as in the base, by table and primary key; what was not committed is undone.

        Raises:
            StoreError: the copy can no longer be read as a database.
        """
        with contextlib.suppress(sqlite3.ProgrammingError):  # it was closed
            self.connection.interrupt()  # a tool that hangs in a query would hang whoever rolls back, too
            self.connection.rollback()
        try:
            differing = self._differing_pages()
            if differing == frozenset():
                return []
            with contextlib.closing(sqlite3.connect(_uri(self.path, "rw"), uri=True)) as both:
                both.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
                both.execute("ATTACH ? AS base", (_uri(self.base.path),))
                return list(_changes(both, self.base.pages if differing else None, differing or frozenset()))
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self.path.name}: what the case left is no database any more: {error}") from error

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
                with contextlib.closing(sqlite3.connect(_uri(source, "ro"), uri=True)) as given:
                    given.backup(made)
            made.commit()
            made.execute("PRAGMA journal_mode = DELETE")
        (scratch / path.name).replace(path)
    except sqlite3.Error as error:
        raise InputError(f"{source}: no database can be made of it: {error}", fix="try it: sqlite3 :memory: < FILE") from None
    except OSError as error:
        raise unwritable(path, error, f"make {path.parent} writable") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _changes(both: sqlite3.Connection, pages: Mapping[str, frozenset[int]] | None, differing: frozenset[int]) -> Iterator[Change]:
    """Yield what differs between the schemas `base` and `main`, given the pages of the base's tables and those that differ."""
    then, now = _definitions(both, "base"), _definitions(both, "main")
    for name in sorted(then.keys() | now):
        if then.get(name) != now.get(name):
            before, after = ({"sql": one[name][1]} if name in one else None for one in (then, now))
            yield Change(SCHEMA, key={"name": name}, before=before, after=after)
    for name, (kind, sql, _) in sorted(now.items()):
        if kind != "table" or str(sql).upper().startswith("CREATE VIRTUAL") or (name in then and then[name][1] != sql):
            continue
        # An unchanged root over unchanged pages is the same tree.
        if then == now and pages and name in pages and not pages[name] & differing:
            continue
        yield from _rows(both, name, new=name not in then)


def _definitions(both: sqlite3.Connection, schema: str) -> dict[str, tuple[Any, ...]]:
    found = both.execute(f"SELECT name, type, sql, rootpage FROM {schema}.{SCHEMA} WHERE name NOT LIKE 'sqlite^_%' ESCAPE '^'")
    return {name: tuple(rest) for name, *rest in found}


def _rows(both: sqlite3.Connection, name: str, *, new: bool) -> Iterator[Change]:
    """Yield what differs in a table: added and changed rows in the order of the copy, then those that are gone; of a new table its rows."""
    table, info = _quoted(name), both.execute(f"PRAGMA main.table_info({_quoted(name)})").fetchall()
    columns = [column for _, column, *_ in info]
    sides = ["main"] if new else ["main", "base"]
    key = [column for *_, place, column in sorted((row[5], row[1]) for row in info if row[5])]
    if not key or any(_has_null(both, side, table, key) for side in sides):
        key = ["rowid"]
    shown = list(dict.fromkeys([*key, *columns]))

    def change(before: Sequence[Any] | None, after: Sequence[Any] | None) -> Change:
        old, fresh = (None if row is None else dict(zip(shown, row, strict=True)) for row in (before, after))
        known = {one: _json((old or fresh)[one]) for one in key}
        if old is None or fresh is None:
            return Change(name, "", known, *(row and {one: _json(row[one]) for one in columns} for row in (old, fresh)))
        differ = [one for one in columns if old[one] != fresh[one] or type(old[one]) is not type(fresh[one])]
        return Change(name, "", known, *({one: _json(row[one]) for one in differ} for row in (old, fresh)))

    if new:
        yield from _listed(name, (change(None, row) for row in both.execute(f"SELECT {_list(shown)} FROM main.{table}")))
        return
    same = " AND ".join(f"a.{_quoted(one)} = b.{_quoted(one)}" for one in key)
    # A column that compares without case would hide a change of it.
    other = " OR ".join(f"a.{_quoted(one)} IS NOT b.{_quoted(one)} COLLATE BINARY" for one in columns)
    there = f"b.{_quoted(key[0])} IS NOT NULL"
    read = ", ".join(f"{side}.{_quoted(one)}" for side in "ba" for one in shown)
    found = both.execute(f"SELECT {there}, {read} FROM main.{table} a LEFT JOIN base.{table} b ON {same} WHERE {other} OR NOT {there}")
    half = 1 + len(shown)
    yield from _listed(name, (change(row[1:half] if row[0] else None, row[half:]) for row in found))
    lost = f"NOT EXISTS (SELECT 1 FROM main.{table} a WHERE {same})"
    found = both.execute(f"SELECT {_list(shown)} FROM base.{table} b WHERE {lost}")
    yield from _listed(name, (change(row, None) for row in found))


def _has_null(both: sqlite3.Connection, side: str, table: str, key: Sequence[str]) -> bool:
    """Tell whether a row cannot be known by its primary key: sqlite lets a key of text be NULL, in as many rows as there are."""
    empty = " OR ".join(f"{_quoted(one)} IS NULL" for one in key)
    return bool(both.execute(f"SELECT EXISTS (SELECT 1 FROM {side}.{table} WHERE {empty})").fetchone()[0])


def _listed(name: str, changes: Iterator[Change]) -> Iterator[Change]:
    """Yield the first changes of a table, and how many more there are."""
    yield from itertools.islice(changes, LISTED)
    if more := sum(1 for _ in changes):
        yield Change(name, more=more)


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
    found = made.execute(f"SELECT * FROM {_quoted(change.table)} WHERE {_where(change.key)}", tuple(change.key.values())).fetchone()
    return (dict(found) if found else {}) | dict(change.after)


def _json(value: Any) -> Any:
    """Return a value of sqlite as JSON has it: bytes and long texts by their digest, halves of characters replaced."""
    if isinstance(value, bytes):
        return {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"real": str(value)}
    if not isinstance(value, str):
        return value
    raw = value.encode("utf-8", "surrogateescape")
    if len(value) > LONGEST_TEXT:
        return {"characters": len(value), "sha256": hashlib.sha256(raw).hexdigest()}
    return raw.decode("utf-8", "replace")


def _uri(path: Path, mode: str = "ro&immutable=1") -> str:
    return f"file:{urllib.parse.quote(os.path.abspath(path))}?mode={mode}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(_quoted, names))


def _where(key: Mapping[str, Any]) -> str:
    return " AND ".join(f"{_quoted(one)} IS ?" for one in key)
