"""Whether what cases expect can come about in their world: tables, columns, rows and files that are there, values that a column can hold.

A slip in a label is a wrong answer of every version, so it is looked for when a set is frozen, and by the notebook before a model is
asked. Not covered: databases other than sqlite; whether an expectation is what somebody wants is for a second reader.
"""

from __future__ import annotations

import difflib
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from poclab.agent import constraints
from poclab.agent.rows import Table, listed, quoted, table_kinds, where
from poclab.agent.sandbox import Sandbox, World
from poclab.cases import Case, TestSet
from poclab.changes import Expectation, equal, expectations
from poclab.errors import InputError
from poclab.files import read_text

#: What stands for a value: a part of it, a choice, and how a difference tells bytes, a long text, and infinity.
FORMS = ({"contains"}, {"one_of"}, {"bytes", "sha256"}, {"characters", "sha256"}, {"real"})
#: Declared types of columns for whole numbers. Others with an INT in them, such as FLOATING POINT, are no promise.
WHOLE = ("INT", "INTEGER", "BIGINT", "SMALLINT", "TINYINT")
#: The file of a POC that makes the database its tasks find.
WORLD = "world.sql"


def check_labels(cases: Iterable[Case], sandbox: Sandbox) -> None:
    """Refuse a label that cannot come about.

    Raises:
        InputError: names the case: an unknown table, column or key, a row or file that is not there or is so already, a value that its
            column cannot hold, what the database's constraints forbid, or a `done` that is no SQL.
    """
    with sandbox.open() as world:
        if sandbox.database and isinstance(world.db, sqlite3.Connection):
            constraints.relax(world.db)
        for case in cases:
            try:
                _check_case(case, world, files=sandbox.files is not None)
            except InputError as error:
                raise InputError(f"{error.message}{_line(cases, case)}", fix=error.fix) from None


def _check_case(case: Case, world: World, *, files: bool) -> None:
    expected = expectations(case.expected.get("effects", ()), where=f"case {case.id!r}")
    for number, one in enumerate(expected, start=1):
        place = f"case {case.id!r}, effect {number}"
        if one.file:
            if files:  # a label may be checked where they are not known
                _check_file(one, world, place)
        elif isinstance(world.db, sqlite3.Connection):
            _check_row(one, world, place)
    _check_once(expected, world, f"case {case.id!r}")
    if (case.expected.get("done") or any(one.table for one in expected)) and isinstance(world.db, sqlite3.Connection):
        constraints.hold(expected, world.db, f"case {case.id!r}")
        _check_question(case, world.db)


def _check_once(expected: Sequence[Expectation], world: World, place: str) -> None:
    """Refuse two effects on one row or file: all that happens to it is one change."""
    seen: dict[tuple[Any, ...], int] = {}
    for number, one in enumerate(expected, start=1):
        if one.table and not isinstance(world.db, sqlite3.Connection):
            continue
        given = {**one.values, **one.key}
        key = {name: given.get(name) for name in Table.of(world.db, one.table).key} if one.table else {}
        if any(value is None or isinstance(value, dict) for value in key.values()):
            continue  # it may be any row
        if (first := seen.setdefault((one.table, one.file, *key.values()), number)) != number:
            what = f"one row of {one.table}: {key!r}" if one.table else f"one file: {one.file!r}"
            raise InputError(f"{place}: effects {first} and {number} are of {what}", fix="write one effect, with every column that changes")


def _line(cases: Iterable[Case], case: Case) -> str:
    """Return where a case stands in the file that it was read from, if it was."""
    path = cases.path if isinstance(cases, TestSet) else None
    lines = read_text(path).split("\n") if path and path.is_file() else []
    found = next((number for number, line in enumerate(lines, start=1) if line.strip() and json.loads(line)["id"] == case.id), None)
    return f" ({path.name}, line {found})" if found else ""


def _check_file(one: Expectation, world: World, place: str) -> None:
    if (world.files / one.file).exists() == (one.kind == "added"):
        raise InputError(
            f"{place}: file {one.file!r} is {'there already' if one.kind == 'added' else 'not there'}, and cannot be {one.kind}"
        )


def _check_row(one: Expectation, world: World, place: str) -> None:
    _known(one.table, [name for name, kind in table_kinds(world.db).items() if kind != "shadow"], f"{place}: no table")
    table = Table.of(world.db, one.table)
    for name in (*one.values, *one.ignore):
        _known(name, table.columns, f"{place}: {one.table} has no column")
    for name in one.key:
        _known(name, table.key, f"{place}: rows of {one.table} are not known by")
    given = {**one.values, **one.key}
    for name in given.keys() & set(table.read):
        for wanted in _meant(given[name], f"{place}: {one.table}.{name}"):
            held = _held(world.db, one.table, name, wanted)
            if type(held) in (float, str) and _whole(world.db, one.table, name):
                fix = "write a whole number, in the column's unit"
                raise InputError(f"{place}: {one.table}.{name} holds whole numbers, never {wanted!r}", fix=fix)
            if not equal(wanted, held):
                raise InputError(f"{place}: {one.table}.{name} holds {held!r}, never {wanted!r}", fix=f"write {json.dumps(held)}")
    _check_there(one, world, table, {name: value for name, value in given.items() if not isinstance(value, dict)}, place)


def _check_there(one: Expectation, world: World, table: Table, given: Mapping[str, Any], place: str) -> None:
    """Refuse a row that is to be added and is there, or is to be changed or removed and is not, or is as it is to be already."""
    key = {name: given[name] for name in table.key if name in given}
    known = given if one.kind == "removed" else key
    if not known or (one.kind == "added" and len(key) < len(table.key)):
        return
    found = world.rows(f"SELECT {listed(table.read)} FROM {quoted(one.table)} WHERE {where(known)}", *known.values())
    if bool(found) == (one.kind == "added"):
        what = "a row" if found else "no row"
        raise InputError(f"{place}: {what} of {one.table} has {known!r}", fix="look at the world that each case finds")
    if one.kind == "changed" and one.values and all(row[name] == value for row in found for name, value in one.values.items()):
        raise InputError(f"{place}: {one.table} {known!r} is so already: {dict(one.values)!r}", fix='"effects": [] if nothing is to change')


def _meant(value: Any, place: str) -> list[Any]:
    """Return the values that an expected one stands for, if they are told.

    Raises:
        InputError: it is none that a column of sqlite can have.
    """
    too_big = type(value) is int and not -(2**63) <= value < 2**63
    if too_big or isinstance(value, list) or (isinstance(value, dict) and set(value) not in FORMS):
        fix = 'a text, a number (a whole one of 64 bits), null, {"contains": "..."} or {"one_of": [...]}'
        raise InputError(f"{place}: no value is {value!r}", fix=fix)
    return [each for one in value.get("one_of", []) for each in _meant(one, place)] if isinstance(value, dict) else [value]


def _held(database: sqlite3.Connection, table: str, column: str, value: Any) -> Any:
    """Return what a column makes of a value: of "12" the number where it holds numbers, and 1 of true."""
    database.execute("BEGIN")
    try:
        database.execute(f"CREATE TEMP TABLE held AS SELECT {quoted(column)} AS one FROM main.{quoted(table)} WHERE 0")
        database.execute("INSERT INTO temp.held VALUES (?)", (value,))
        return database.execute("SELECT one FROM temp.held").fetchone()[0]
    finally:
        database.rollback()


def _whole(database: sqlite3.Connection, table: str, column: str) -> bool:
    """Tell whether a column is declared for whole numbers, and holds nothing else: sqlite would let it."""
    declared = next((row[2].upper() for row in database.execute(f"PRAGMA table_info({quoted(table)})") if row[1] == column), "")
    other = f"SELECT 1 FROM {quoted(table)} WHERE typeof({quoted(column)}) NOT IN ('integer', 'null') LIMIT 1"
    return declared in WHOLE and database.execute(other).fetchone() is None


def _known(name: str, names: Iterable[str], what: str) -> None:
    if name not in names:
        near = difflib.get_close_matches(name.lower(), names, n=1)
        raise InputError(f"{what} {name!r}", fix=f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}")


def _check_question(case: Case, database: Any) -> None:
    if not case.expected.get("done"):
        return
    why = "it gives no value, or changes something"
    try:
        steps = [(step, flag) for _, step, _, flag, *_ in database.execute(f"EXPLAIN {case.expected['done']}")]
    except (sqlite3.Error, sqlite3.Warning) as error:
        steps, why = [], str(error)
    # A transaction that writes has a flag.
    if not any(step == "ResultRow" for step, _ in steps) or any(step == "Transaction" and flag for step, flag in steps):
        raise InputError(f"case {case.id!r}: done is no question to the database: {why}", fix='"done": "SELECT count(*) = 1 FROM ..."')
