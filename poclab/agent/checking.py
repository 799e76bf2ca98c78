"""Whether what cases expect can come about in their world: tables, columns and rows that are there, and questions that can be asked.

A slip in a label is a wrong answer of every version, so it is looked for when a set is frozen. Not covered: files, and databases other
than sqlite; whether an expectation is what somebody wants is for a second reader.
"""

from __future__ import annotations

import difflib
import sqlite3
from collections.abc import Iterable
from typing import Any

from poclab.agent.rows import quoted, where
from poclab.agent.sandbox import Sandbox, World
from poclab.cases import Case
from poclab.changes import Expectation, expectations
from poclab.errors import InputError

#: The file of a POC that makes the database its tasks find.
WORLD = "world.sql"


def check_labels(cases: Iterable[Case], sandbox: Sandbox) -> None:
    """Refuse a label that cannot come about.

    Raises:
        InputError: names the case: an unknown table or column, a row that is not there or is so already, or a `done` that is no SQL.
    """
    with sandbox.open() as world:
        if not isinstance(world.db, sqlite3.Connection):
            return
        for case in cases:
            for number, one in enumerate(expectations(case.expected.get("effects", ()), where=f"case {case.id!r}"), start=1):
                if one.table:
                    _check(one, world, f"case {case.id!r}, effect {number}")
            if case.expected.get("done"):
                _check_question(case, world.db)


def _check(one: Expectation, world: World, where_it_is: str) -> None:
    tables = [row["name"] for row in world.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    _known(one.table, tables, f"{where_it_is}: no table")
    columns = [row["name"] for row in world.rows(f"PRAGMA table_info({quoted(one.table)})")]
    for name in (*one.values, *one.key, *one.ignore):
        _known(name, columns, f"{where_it_is}: {one.table} has no column")
    known = one.values if one.kind == "removed" else one.key
    plain = {name: value for name, value in known.items() if not isinstance(value, dict)}
    if one.kind == "added" or not plain:
        return
    found = world.rows(f"SELECT * FROM {quoted(one.table)} WHERE {where(plain)}", *plain.values())
    if not found:
        raise InputError(f"{where_it_is}: no row of {one.table} has {plain!r}", fix="look at the world that each case finds")
    if one.kind == "changed" and all(row[name] == value for row in found for name, value in one.values.items()):
        raise InputError(
            f"{where_it_is}: {one.table} {plain!r} is so already: {dict(one.values)!r}", fix='"effects": [] if nothing is to change'
        )


def _known(name: str, names: list[str], what: str) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        raise InputError(f"{what} {name!r}", fix=f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}")


def _check_question(case: Case, database: Any) -> None:
    try:
        database.execute(f"EXPLAIN {case.expected['done']}")
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise InputError(
            f"case {case.id!r}: done is no question to the database: {error}", fix='"done": "SELECT count(*) = 1 FROM ..."'
        ) from None
