"""Ledgers as JSONL: one entry a line, so that a run can be replayed elsewhere.

A line holds the fields of an `Entry`. Its answer is `content` where that is UTF-8, else `content_base64`. Lines are ASCII, whatever a
model or a user wrote. Claims and budgets stay behind: they belong to the machine.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import datetime
import json
import marshal
import math
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, TextIO

from poclab.errors import InputError, StoreError, refuse_unknown
from poclab.files import DEEPEST, check_json, parse_json
from poclab.ledger.book import Ledger
from poclab.ledger.entries import Entry
from poclab.ledger.listing import entries

BASE64 = "content_base64"
#: More than a whole number of the file can hold is no number of tokens.
LARGEST = 2**53


def export(path: Path | str, file: TextIO) -> int:
    """Write every entry of the ledger at `path` as a line; return how many.

    Raises:
        InputError: there is no such ledger; StoreError: it cannot be used.
    """
    count = 0
    for entry in entries(Ledger.open_existing(path)):
        file.write(f"{_line(entry)}\n")
        count += 1
    return count


def export_file(path: Path | str, to: Path) -> int:
    """Write every entry of the ledger at `path` to a new file, whole or not at all; return how many.

    Raises:
        InputError: there is no such ledger, or the file is there already; StoreError: one of them cannot be used.
    """
    if os.path.lexists(to):
        raise InputError(f"{to}: is there already", fix="name another file, or move this one away")
    temporary = to.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("x", encoding="ascii") as file:
            count = export(path, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(to)
    except OSError as error:
        raise StoreError(f"{to}: cannot be written: {error.strerror}", fix="name a file in a folder that you may write") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return count


def transfer(found: Iterable[Entry], path: Path | str) -> int:
    """Add entries of another ledger to the one at `path`, as `import_` does; return how many are new.

    Raises:
        StoreError: the ledger cannot be used.
    """
    ledger = Ledger.open(path)
    rows = [one.row() for one in found]
    with ledger.store.writing(durable=True) as connection:
        return sum(ledger.take_over(connection, row) for row in rows)


def import_file(path: Path | str, source: Path) -> tuple[int, int]:
    """Add the entries of an exported file, as `import_` does.

    Raises:
        InputError: the file cannot be read, or a line is no entry; StoreError: the ledger cannot be used.
    """
    try:
        with source.open("rb") as lines:
            return import_(path, lines, where=str(source))
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror}", fix="name a file that `poclab ledger --export` wrote") from None


def import_(path: Path | str, lines: Iterable[bytes], *, where: str) -> tuple[int, int]:
    """Add the entries of an export to the ledger at `path`; return how many are new, and how many were there already.

    An entry with the same key, time and answer is there already. Another answer to the same key becomes its next generation, whatever
    generation it was. All is added, or nothing; `where` names the export in errors.

    Raises:
        InputError: a line is no entry, with its number; nothing was added.
        StoreError: the ledger cannot be used.
    """
    ledger = Ledger.open(path)
    try:
        with tempfile.TemporaryFile(dir=ledger.path.parent) as ready:
            # All that takes long comes first: nobody can record an answer while others are added.
            count = _prepare(lines, where, ready)
            ready.seek(0)
            with ledger.store.writing(durable=True) as connection:
                new = sum(ledger.take_over(connection, marshal.load(ready)) for _ in range(count))
    except OSError as error:
        raise ledger.store.problem(error) from error
    return new, count - new


def _prepare(lines: Iterable[bytes], where: str, ready: IO[bytes]) -> int:
    """Write each entry as the ledger's file holds it; return how many."""
    count = 0
    for number, line in enumerate(lines, start=1):
        if line.strip():
            marshal.dump(_read(line, f"{where}, line {number}").row(), ready)
            count += 1
    return count


def _line(entry: Entry) -> str:
    values = {field.name: getattr(entry, field.name) for field in fields(Entry)}
    content = values.pop("content")
    try:
        answer = {"content": content.decode()}
    except UnicodeError:
        answer = {BASE64: base64.b64encode(content).decode()}
    return json.dumps({**values, "headers": dict(entry.headers), **answer}, separators=(",", ":"))


def _read(line: bytes, where: str) -> Entry:
    try:
        text = line.decode()
    except UnicodeError:
        raise InputError(f"{where}: not UTF-8", fix="import the file as `poclab ledger --export` wrote it") from None
    values = parse_json(text, where=where)
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected an object, found {type(values).__name__}")
    values["content"] = _content(values, where)
    refuse_unknown(values, CHECKS, where=where)
    for name, (right, expected) in CHECKS.items():
        if name not in values:
            raise InputError(f"{where}: {name!r} is missing")
        if not right(values[name]):
            raise InputError(f"{where}: {name!r} is {_short(values[name])}: expected {expected}")
    return Entry(**values)


def _content(values: dict[str, Any], where: str) -> bytes:
    if ("content" in values) == (BASE64 in values):
        raise InputError(f"{where}: expected either 'content' or {BASE64!r}")
    name = "content" if "content" in values else BASE64
    value = values.pop(name)
    if not isinstance(value, str):
        raise InputError(f"{where}: {name!r} is {_short(value)}: expected a text")
    try:
        return value.encode() if name == "content" else base64.b64decode(value, validate=True)
    except (UnicodeError, binascii.Error) as error:
        raise InputError(f"{where}: {name!r} cannot be read: {error}") from None


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST


def _is_amount(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < LARGEST and math.isfinite(value)


def _is_time(value: Any) -> bool:
    try:
        return datetime.datetime.fromisoformat(value).utcoffset() == datetime.timedelta(0)
    except (TypeError, ValueError):
        return False


def _is_json(value: Any) -> bool:
    try:
        check_json(value, where="")
    except InputError as error:
        return "half a character" in error.message  # a prompt may hold one; JSON and the ledger can
    return True


def _or_none(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or right(value)


_TEXT = (_is_text, "a text")
_COUNT = (_is_count, "a whole number from 0")
_COUNT_OR_NONE = (_or_none(_is_count), "a whole number from 0, or null")
CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "key": (lambda value: _is_text(value) and re.fullmatch("[0-9a-f]{64}", value) is not None, "64 hexadecimal digits"),
    "endpoint": _TEXT,
    "path": _TEXT,
    "model": _TEXT,
    "body": (_is_json, f"a JSON value of at most {DEEPEST} levels"),
    "status": (lambda value: _is_count(value) and 200 <= value < 300, "the status of an answer, from 200 to 299"),
    "headers": (lambda value: isinstance(value, dict) and all(map(_is_text, value.values())), "an object of texts"),
    "content": (lambda value: isinstance(value, bytes), "a text"),
    "latency_s": (_is_amount, "a number of seconds"),
    "at": (_is_time, "a time in UTC, such as 2026-11-25T18:00:00+00:00"),
    **dict.fromkeys(("tokens_in", "tokens_out", "tokens_cached", "tokens_reasoning"), _COUNT_OR_NONE),
    "cost_usd": (_or_none(_is_amount), "a number of dollars, or null"),
    "priced_on": (_or_none(_is_text), "a day, or null"),
    "case_id": _TEXT,
    "repeat": _COUNT,
    "occurrence": _COUNT,
    "request_id": _TEXT,
    "purpose": _TEXT,
    "generation": _COUNT,
}
