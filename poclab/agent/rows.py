"""What differs between two states of a sqlite database, the schemas `base` and `main` of one connection: definitions, and rows by primary key.

A virtual table (full-text search, R*Tree) is read as the rows that it gives; the tables in which it keeps them are its own.
Not covered: rows of a table whose definition changed (its definition is a change of `sqlite_schema`), sqlite's own tables, `PRAGMA
user_version` and the like, texts that a full-text index alone holds, values that are equal to sqlite (1 and 1.0), and, of a table without
a primary key, that VACUUM numbers its rows anew.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poclab.changes import Change
from poclab.errors import InputError

SCHEMA = "sqlite_schema"
#: How many changes of a table are listed; the others are counted.
LISTED = 1000
#: Characters of a text that are kept whole in a change.
LONGEST_TEXT = 20_000


def changes(both: sqlite3.Connection, pages: Mapping[str, frozenset[int]] | None, differing: frozenset[int]) -> Iterator[Change]:
    """Yield what differs, given the pages of the base's tables and the numbers of those that differ; without `pages` all tables are read."""
    then, now = _definitions(both, "base"), _definitions(both, "main")
    for name in sorted(then.keys() | now):
        if then.get(name) != now.get(name):
            before, after = ({"sql": one[name][1]} if name in one else None for one in (then, now))
            yield Change(SCHEMA, key={"name": name}, before=before, after=after)
    kinds = table_kinds(both)
    for name in sorted(now.keys() & kinds):
        if kinds[name] == "shadow" or (name in then and then[name][1] != now[name][1]):
            continue
        parts = [one for one in kinds if kinds[one] == "shadow" and one.startswith(f"{name}_")] if kinds[name] == "virtual" else [name]
        # An unchanged root over unchanged pages is the same tree.
        if then == now and pages and parts and all(one in pages and not pages[one] & differing for one in parts):
            continue
        table = Table.of(both, name, ("main", "base") if name in then else ("main",))
        yield from _first(name, table.joined(both) if name in then else table.all(both))
        if name in then:
            yield from _first(name, table.gone(both))


def _definitions(both: sqlite3.Connection, schema: str) -> dict[str, tuple[Any, ...]]:
    found = both.execute(f"SELECT name, type, sql, rootpage FROM {schema}.{SCHEMA} WHERE name NOT LIKE 'sqlite^_%' ESCAPE '^'")
    return {name: tuple(rest) for name, *rest in found}


def table_kinds(database: sqlite3.Connection) -> dict[str, str]:
    """Return the tables that can be read, each as `table`, `virtual`, or as the `shadow` of a virtual one. No views."""
    kinds = {name: kind for _, name, kind, *_ in database.execute("PRAGMA main.table_list") if not name.startswith("sqlite_")}
    if not kinds:  # before sqlite 3.37 nobody tells: then virtual tables are seen where they keep their rows
        query = f"SELECT name FROM main.{SCHEMA} WHERE type = 'table' AND name NOT LIKE 'sqlite^_%' ESCAPE '^' AND rootpage > 0"
        kinds = {name: "table" for (name,) in database.execute(query)}
    return {name: kind for name, kind in kinds.items() if kind in ("table", "shadow") or (kind == "virtual" and _opens(database, name))}


def _opens(database: sqlite3.Connection, name: str) -> bool:
    try:
        database.execute(f"SELECT 1 FROM main.{quoted(name)} LIMIT 0")
    except sqlite3.OperationalError:  # of a module that only the tools load: its rows are seen where it keeps them
        return False
    return True


@dataclass(frozen=True)
class Table:
    """A table of the copy: its columns, and those by which a row is known."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]

    @classmethod
    def of(cls, both: sqlite3.Connection, name: str, sides: Sequence[str] = ("main",)) -> Table:
        info = both.execute(f"PRAGMA main.table_info({quoted(name)})").fetchall()
        columns = tuple(column for _, column, *_ in info)
        key = tuple(column for _, column in sorted((row[5], row[1]) for row in info if row[5]))
        # sqlite lets a key of text be NULL, in as many rows as there are: then they are known by their place.
        empty = " OR ".join(f"{quoted(one)} IS NULL" for one in key)
        if not key or any(both.execute(f"SELECT 1 FROM {side}.{quoted(name)} WHERE {empty} LIMIT 1").fetchone() for side in sides):
            taken = {column.lower() for column in columns}
            key = tuple(one for one in ("rowid", "_rowid_", "oid") if one not in taken)[:1]
        if not key:
            raise InputError(
                f"the rows of table {name!r} cannot be told apart: its columns take all names of sqlite's own key",
                fix="give it a primary key",
            )
        return cls(name, columns, key)

    @property
    def read(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.key, *self.columns]))

    @property
    def _same(self) -> str:
        return " AND ".join(f"a.{quoted(one)} = b.{quoted(one)}" for one in self.key)

    def joined(self, both: sqlite3.Connection) -> Iterator[Change]:
        """Yield the rows that were added or changed, in the order of the copy."""
        name, there, width = quoted(self.name), f"b.{quoted(self.key[0])} IS NOT NULL", len(self.read)
        # A column that compares without case would hide a change of it.
        other = " OR ".join(f"a.{quoted(one)} IS NOT b.{quoted(one)} COLLATE BINARY" for one in self.columns)
        read = ", ".join(f"{side}.{quoted(one)}" for side in "ba" for one in self.read)
        found = f"SELECT {there}, {read} FROM main.{name} a LEFT JOIN base.{name} b ON {self._same} WHERE {other} OR NOT {there}"
        for known, *row in both.execute(found):
            yield self._change(row[:width] if known else None, row[width:])

    def gone(self, both: sqlite3.Connection) -> Iterator[Change]:
        name = quoted(self.name)
        lost = f"NOT EXISTS (SELECT 1 FROM main.{name} a WHERE {self._same})"
        for row in both.execute(f"SELECT {listed(self.read)} FROM base.{name} b WHERE {lost}"):
            yield self._change(row, None)

    def all(self, both: sqlite3.Connection) -> Iterator[Change]:
        for row in both.execute(f"SELECT {listed(self.read)} FROM main.{quoted(self.name)}"):
            yield self._change(None, row)

    def _change(self, before: Sequence[Any] | None, after: Sequence[Any] | None) -> Change:
        sides = [None if row is None else dict(zip(self.read, row, strict=True)) for row in (before, after)]
        old, new = sides
        shown = self.columns
        if old is not None and new is not None:
            shown = tuple(one for one in self.columns if old[one] != new[one] or type(old[one]) is not type(new[one]))
        known = {one: as_json((old or new)[one]) for one in self.key}
        return Change(self.name, "", known, *(row and {one: as_json(row[one]) for one in shown} for row in sides))


def _first(name: str, found: Iterator[Change]) -> Iterator[Change]:
    """Yield the first changes of a table, and how many more there are."""
    yield from itertools.islice(found, LISTED)
    if more := sum(1 for _ in found):
        yield Change(name, more=more)


def as_json(value: Any) -> Any:
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


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def listed(names: Iterable[str]) -> str:
    return ", ".join(map(quoted, names))


def where(key: Mapping[str, Any]) -> str:
    """Return the condition that a row has this key, with question marks for its values."""
    return " AND ".join(f"{quoted(one)} IS ?" for one in key)
