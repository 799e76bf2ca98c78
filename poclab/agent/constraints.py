"""Whether the constraints of a sqlite database let a case's changes be made: they are tried in a throwaway copy.

What sqlite refuses is refused in its own words, if it is about values alone that the case gives: what is ignored or matched might be
anything. Not covered: what triggers forbid, what follows from a row that is gone, and tables without a number for each row where another
row is named.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from poclab.agent.rows import SCHEMA, Table, listed, quoted, table_kinds, where
from poclab.changes import Expectation
from poclab.errors import InputError


def relax(database: sqlite3.Connection) -> None:
    """Make a throwaway copy take the rows of a case in any order: what triggers do, and rows that others name, is looked at afterwards."""
    database.execute("PRAGMA foreign_keys = OFF")
    for (trigger,) in database.execute(f"SELECT name FROM {SCHEMA} WHERE type = 'trigger'").fetchall():
        database.execute(f"DROP TRIGGER {quoted(trigger)}")
    database.commit()


def hold(expected: Sequence[Expectation], database: sqlite3.Connection, place: str) -> None:
    """Do what a case expects, and undo it.

    Raises:
        InputError: sqlite refuses it, whatever the columns hold that are ignored or matched.
    """
    rows = [(number, one) for number, one in enumerate(expected, start=1) if one.table and table_kinds(database)[one.table] == "table"]
    rows.sort(key=lambda row: ("removed", "changed", "added").index(row[1].kind))
    database.execute("BEGIN")
    try:
        made = []
        for number, one in rows:
            free = _free(one, database)
            try:
                made.append((number, one, free, _do(one, free, database)))
            except sqlite3.IntegrityError as error:
                others = [other for _, other in rows if other is not one and other.table == one.table and other.kind != "added"]
                swapped = others and "UNIQUE" in str(error)  # one row may take the place of another
                if not swapped and _certain(str(error), one, free, database):
                    raise _refused(f"{place}, effect {number}", one, str(error)) from None
        for number, one, free, rowid in made:
            if lost := _lost(one, free, rowid, {other.table for _, other in rows if other.kind == "added"}, database):
                raise _refused(f"{place}, effect {number}", one, f"FOREIGN KEY constraint failed: {lost}")
    except sqlite3.OperationalError:  # a function that only the tools define, for one: then nothing is certain
        pass
    finally:
        database.rollback()


def _refused(place: str, one: Expectation, why: str) -> InputError:
    missing = why.startswith("NOT NULL") and why.rpartition(".")[2] not in one.values
    fix = 'give the column a value, or name it in "ignore"' if missing else f"look at how the world defines {one.table}"
    return InputError(f"{place}: {one.table} {dict(one.values)!r} cannot be {one.kind}: {why}", fix=fix)


def _exact(one: Expectation) -> dict[str, Any]:
    return {name: value for name, value in {**one.values, **one.key}.items() if not isinstance(value, dict)}


def _needed(table: str, database: sqlite3.Connection) -> set[str]:
    """Return the columns that a new row must give a value."""
    info = database.execute(f"PRAGMA table_info({quoted(table)})")
    return {name for _, name, _, notnull, default, _ in info if notnull and default is None}


def _free(one: Expectation, database: sqlite3.Connection) -> set[str]:
    """Return the columns that may hold anything: ignored, matched, and those not named that a new row need not give a value."""
    absent = _needed(one.table, database) - {*one.values, *one.key, *one.ignore} if one.kind == "added" else set()
    return set(Table.of(database, one.table).read) - {*_exact(one), *absent}


def _do(one: Expectation, free: set[str], database: sqlite3.Connection) -> int | None:
    """Make one change; return the number of the row that is there then. What may be anything is as in another row."""
    exact, table, key = _exact(one), quoted(one.table), Table.of(database, one.table).key
    if one.kind == "removed":
        if exact:
            database.execute(f"DELETE FROM {table} WHERE {where(exact)}", tuple(exact.values()))
        return None
    if one.kind == "added":
        row = {name: _some(name, one.table, database) for name in _needed(one.table, database) & free} | exact
        how = f"({listed(row)}) VALUES ({', '.join('?' * len(row))})" if row else "DEFAULT VALUES"
        return database.execute(f"INSERT INTO {table} {how}", tuple(row.values())).lastrowid
    values = {name: value for name, value in one.values.items() if name in exact}
    if not values or not all(name in one.key and name in exact for name in key):
        return None
    known = {name: one.key[name] for name in key}
    rowid = _rowid(one.table, known, database)
    database.execute(
        f"UPDATE {table} SET {', '.join(f'{quoted(name)} = ?' for name in values)} WHERE {where(known)}",
        (*values.values(), *known.values()),
    )
    return rowid


def _some(column: str, table: str, database: sqlite3.Connection) -> Any:
    found = database.execute(f"SELECT {quoted(column)} FROM {quoted(table)} LIMIT 1").fetchone()
    return found[0] if found else 1


def _rowid(table: str, key: Mapping[str, Any], database: sqlite3.Connection) -> int | None:
    try:
        found = database.execute(f"SELECT rowid FROM {quoted(table)} WHERE {where(key)}", tuple(key.values())).fetchone()
    except sqlite3.OperationalError:  # a table without such a number
        return None
    return found[0] if found else None


def _certain(error: str, one: Expectation, free: set[str], database: sqlite3.Connection) -> bool:
    """Tell whether what sqlite says is about columns alone whose values are given."""
    (sql,) = database.execute(f"SELECT sql FROM {SCHEMA} WHERE type = 'table' AND name = ?", (one.table,)).fetchone()
    told = error.partition(": ")[2] or error
    if error.startswith("CHECK") and (named := re.search(rf"\bCONSTRAINT\s+\W?{re.escape(told)}\W?\s+CHECK\s*(?=\()", sql, re.IGNORECASE)):
        told = _bracket(sql[named.end() :])
    words = {word.lower() for word in re.findall(r"\w+", told)}
    columns = {name: name.lower() in words for name in Table.of(database, one.table).read}
    return any(columns.values()) and not any(columns[name] for name in free)


def _bracket(text: str) -> str:
    """Return what stands in the bracket that a text begins with."""
    depth = 0
    for place, sign in enumerate(text, start=1):
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if not depth:
            return text[:place]
    return text


def _lost(one: Expectation, free: set[str], rowid: int | None, added: set[str], database: sqlite3.Connection) -> str:
    """Return which value of a row names a row that is not there; of a table to which the case adds rows nobody knows yet."""
    if rowid is None:
        return ""
    lists = database.execute(f"PRAGMA foreign_key_list({quoted(one.table)})").fetchall()
    for _, found, parent, number in database.execute(f"PRAGMA foreign_key_check({quoted(one.table)})").fetchall():
        columns = [row[3] for row in lists if row[0] == number]
        given = {name: {**one.values, **one.key}.get(name) for name in columns}
        if found == rowid and parent not in added and not set(columns) & free:
            return f"no row of {parent} has {given!r}"
    return ""
