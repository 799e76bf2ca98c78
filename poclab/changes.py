"""What a system changed, row by row and file by file; what a case expects of that; and how the two differ.

Pure data, JSON in and out: `agent` takes the difference of a sandbox, and any other system may put changes into `Reply.effects`.
A change; of one that changed a row, `before` and `after` hold the columns that differ:

    {"table": "refunds", "key": {"id": 7}, "after": {"id": 7, "order_id": 12, "cents": 3000}}            added
    {"table": "tickets", "key": {"id": 3}, "before": {"status": "open"}, "after": {"status": "closed"}}  changed
    {"file": "outbox/3.txt", "before": {"text": "Dear Ann"}}                                             removed

What a case expects, under `expected.effects`; an empty list says that nothing may change:

    {"table": "refunds", "added": {"order_id": 12, "cents": 3000}, "ignore": ["id", "reason"]}
    {"table": "tickets", "key": {"id": 3}, "changed": {"status": "closed"}}
    {"table": "orders", "removed": {"id": 5}}
    {"file": "outbox/3.txt", "added": {"text": {"contains": "refund"}}}

It is exact: every column of an added row, and every column that changed, is expected or ignored, and each change is expected once.
A value is equal to the one written, or `{"contains": text}` (whatever the case of its letters), or `{"one_of": [...]}`.
Not covered: the order in which things were changed, and what was changed and changed back.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from poclab.errors import InputError, refuse_unknown

KINDS = ("added", "changed", "removed")
#: What may stand for a value, and of which type its own is.
MATCHERS = {"contains": str, "one_of": list}
#: What a change tells of a file: a short text, any other content, where a link leads to, and that it is neither.
FILE = ("text", "bytes", "sha256", "link", "other")
EXAMPLE = '{"table": "tickets", "key": {"id": 3}, "changed": {"status": "closed"}}'
#: Such an example for each kind, to be shown where one was meant.
EXAMPLES = {
    "added": '{"table": "refunds", "added": {"order_id": 12, "cents": 3000}, "ignore": ["id", "reason"]}',
    "changed": EXAMPLE,
    "removed": '{"table": "orders", "removed": {"id": 5}}',
}
#: Characters of a value that is shown to a person.
SHOWN = 80


@dataclass(frozen=True)
class Change:
    """One row or file that is not as it was. `more` stands for so many further changes of the table, or of files, which are not listed."""

    table: str = ""
    file: str = ""
    key: Mapping[str, Any] = field(default_factory=dict)
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    more: int = 0

    @property
    def kind(self) -> str:
        return "added" if self.before is None else "removed" if self.after is None else "changed"

    @property
    def row(self) -> Mapping[str, Any]:
        """What is there now; of a removed one what was there."""
        return (self.before if self.after is None else self.after) or {}

    def to_json(self) -> dict[str, Any]:
        rows = {name: dict(row) for name in ("before", "after") if (row := getattr(self, name)) is not None}
        named = {"table": self.table, "file": self.file, "key": dict(self.key), "more": self.more}
        return {name: value for name, value in named.items() if value} | rows

    @classmethod
    def from_json(cls, data: Any) -> Change:
        """Return the change that an entry of `Reply.effects` describes.

        Raises:
            InputError: it describes none.
        """
        if not isinstance(data, Mapping) or not set(data) <= set(cls.__dataclass_fields__) or not cls._fits(data):
            raise InputError(f"not a change of a table or a file: {_short(data)}", fix='{"table": "...", "key": {...}, "after": {...}}')
        return cls(**data)

    @staticmethod
    def _fits(data: Mapping[str, Any]) -> bool:
        """Tell whether each field is of its type, a table or a file is named, and something happened to it."""
        rows = [data[name] for name in ("before", "after") if data.get(name) is not None]
        names, more = [data.get("table", ""), data.get("file", "")], data.get("more", 0)
        kinds = all(isinstance(one, str) for one in names) and all(isinstance(one, Mapping) for one in (*rows, data.get("key", {})))
        return kinds and type(more) is int and any(names) and bool(rows or more)

    def __str__(self) -> str:
        name = " ".join([self.table or self.file, *(_short(value) for value in self.key.values() if self.kind == "changed")])
        if self.more:
            return f"{name}: {self.more} more changes"
        if self.kind != "changed":
            return f"{name}: {'+' if self.kind == 'added' else '-'} {_fields(self.row)}"
        return f"{name}: " + ", ".join(
            f"{column} {' -> '.join(_pair(self.before.get(column), self.after.get(column)))}" for column in self.after
        )


@dataclass(frozen=True)
class Expectation:
    """One change that a case expects: of which table or file, of which kind, with which values."""

    kind: str
    values: Mapping[str, Any]
    table: str = ""
    file: str = ""
    key: Mapping[str, Any] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, data: Any, *, where: str) -> Expectation:
        """Return what an entry of `expected.effects` says.

        Raises:
            InputError: it does not say exactly one of table and file, and exactly one of added, changed and removed.
        """
        if not isinstance(data, dict):
            raise InputError(f"{where}: {_short(data)} is no expected change", fix=EXAMPLE)
        refuse_unknown(data, ("table", "file", "key", "ignore", *KINDS), where=where)
        kinds = [kind for kind in KINDS if kind in data]
        place = [name for name in ("table", "file") if data.get(name)]
        if len(kinds) != 1 or len(place) != 1 or not isinstance(data[place[0]], str):
            raise InputError(
                f"{where}: says {', '.join([*place, *kinds]) or 'nothing'}: one table or file, and one of {', '.join(KINDS)}", fix=EXAMPLE
            )
        values, key, ignore = data[kinds[0]], data.get("key", {}), data.get("ignore", [])
        if not isinstance(values, dict) or not isinstance(key, dict) or not _names(ignore):
            raise InputError(f"{where}: {kinds[0]} and key map columns to values, ignore is a list of columns", fix=EXAMPLES[kinds[0]])
        if kinds == ["changed"] and place == ["table"] and not key:
            raise InputError(f"{where}: which row of {data['table']!r} is changed?", fix=f'add "key": {{"id": ...}}, as in {EXAMPLE}')
        for column, value in (*values.items(), *key.items()):
            if not _can_match(value):
                raise InputError(f'{where}: {column}: {{"contains": text}} or {{"one_of": [...]}}, found {_short(value)}')
        if place == ["file"]:
            if key:
                raise InputError(f"{where}: a file has no key: it is known by its path", fix=f"leave out key of {data['file']!r}")
            refuse_unknown((*values, *ignore), FILE, where=f"{where}, file")
            if data["file"] != posixpath.normpath(data["file"]) or data["file"].startswith(("/", "..")):
                raise InputError(f"{where}: {data['file']!r} is no path within the folder of files", fix=posixpath.basename(data["file"]))
        return cls(kinds[0], values, data.get("table", ""), data.get("file", ""), key, tuple(ignore))

    def fits(self, change: Change, ignored: Sequence[str] = ()) -> bool:
        """Tell whether a change is the one that is expected; `ignored` are columns that need not be expected."""
        return self._same_place(change) and not self.differs(change, ignored)

    def _same_place(self, change: Change) -> bool:
        place = (change.table, change.file, change.kind) == (self.table, self.file, self.kind) and not change.more
        return place and all(equal(value, change.key.get(column)) for column, value in self.key.items())

    def differs(self, change: Change, ignored: Sequence[str] = ()) -> list[str]:
        """Return in which columns a change of this kind is not as expected, in words."""
        row, absent = change.row, "as it was" if self.table and self.kind == "changed" else "null"
        wrong = [
            f"{column} {', expected '.join(_pair(row[column], value) if column in row else (absent, _short(value)))}"
            for column, value in self.values.items()
            if column not in row or not equal(value, row[column])
        ]
        if self.kind == "removed":
            return wrong
        free = {*self.values, *self.key, *self.ignore}
        more = [one for one in row if one not in free and not _ignores(ignored, change, one)]
        if self.kind == "changed":
            return wrong + [f"{one} was to stay as it was" for one in more]
        return wrong + [f"{one} {_short(row[one])}, not expected" for one in more]

    def __str__(self) -> str:
        name = " ".join([self.table or self.file, *map(_short, self.key.values())])
        if self.kind == "changed":
            return f"{name}: {', '.join(f'{column} -> {_short(value)}' for column, value in self.values.items()) or 'changed'}"
        return f"{name}: {'+' if self.kind == 'added' else '-'} {_fields(self.values)}".rstrip()


@dataclass(frozen=True)
class Verdict:
    """What was expected and did not come, what came and was not expected, and what is nearly what was expected."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    #: What was found, in words.
    found: tuple[str, ...] = ()
    #: What came of the row and of the kind that was expected, and in which columns it is not so.
    near: tuple[str, ...] = ()

    @property
    def right(self) -> bool:
        return not (self.missing or self.near or self.unexpected)

    def __str__(self) -> str:
        if self.right:
            return f"as expected: {'; '.join(self.found) or 'no change'}"
        parts = {"missing": self.missing, "not as expected": self.near, "not expected": self.unexpected}
        return "; ".join(f"{how}: {one}" for how, told in parts.items() for one in told)


def expectations(data: Sequence[Any], *, where: str) -> tuple[Expectation, ...]:
    """Return what `expected.effects` of a case says.

    Raises:
        InputError: an entry says nothing that could be held against a change.
    """
    return tuple(Expectation.from_json(one, where=f"{where}, effect {number}") for number, one in enumerate(data, start=1))


def hold(expected: Sequence[Expectation], found: Sequence[Change], ignored: Sequence[str] = ()) -> Verdict:
    """Hold changes against what is expected: each expectation takes one change, and none may be left over.

    `ignored` are columns: `created_at` of any table, `refunds.id` of one, `log.*` for all that happens to a table.
    """
    taken = _match([[one.fits(change, ignored) for change in found] for one in expected])
    left = [change for place, change in enumerate(found) if place not in taken.values() and not _ignorable(change, ignored)]
    missing, near = [], []
    for number, one in enumerate(expected):
        if number in taken:
            continue
        if nearest := next((change for change in left if one._same_place(change)), None):
            left = [change for change in left if change is not nearest]
            near.append(f"{nearest} ({'; '.join(one.differs(nearest, ignored))})")
        else:
            missing.append(str(one))
    return Verdict(tuple(missing), tuple(map(str, left)), tuple(map(str, found)), tuple(near))


def _match(fits: Sequence[Sequence[bool]]) -> dict[int, int]:
    """Return for as many expectations as can have one a change of their own. Source: Kuhn (1955), by augmenting paths."""
    owner: dict[int, int] = {}

    def find(number: int, seen: set[int]) -> bool:
        for place, fitting in enumerate(fits[number]):
            if fitting and place not in seen:
                seen.add(place)
                if place not in owner or find(owner[place], seen):
                    owner[place] = number
                    return True
        return False

    for number in range(len(fits)):
        find(number, set())
    return {number: place for place, number in owner.items()}


def _ignorable(change: Change, ignored: Sequence[str]) -> bool:
    if change.table and f"{change.table}.*" in ignored:
        return True
    return change.kind == "changed" and all(_ignores(ignored, change, column) for column in change.row)


def _ignores(ignored: Sequence[str], change: Change, column: str) -> bool:
    return column in ignored or bool(change.table and f"{change.table}.{column}" in ignored)


def equal(wanted: Any, given: Any) -> bool:
    """Tell whether a value is the one that is expected."""
    if isinstance(wanted, dict) and len(wanted) == 1:
        if "contains" in wanted:
            return isinstance(given, str) and wanted["contains"].casefold() in given.casefold()
        if "one_of" in wanted:
            return any(equal(one, given) for one in wanted["one_of"])
    # In Python True == 1; in JSON they are different values.
    return wanted == given and isinstance(wanted, bool) == isinstance(given, bool)


def _names(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(one, str) for one in given)


def _can_match(value: Any) -> bool:
    """Tell whether what stands for a value is one of the two forms, whole and not empty."""
    found = set(value) & set(MATCHERS) if isinstance(value, dict) else ()
    if not found:
        return True
    wanted = value[min(found)]
    fits = len(value) == 1 and isinstance(wanted, MATCHERS[min(found)])
    return fits and (isinstance(wanted, str) or (bool(wanted) and all(map(_can_match, wanted))))


def _fields(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{column} {_short(value)}" for column, value in values.items())


def _pair(one: Any, other: Any) -> tuple[str, str]:
    """Return two values in short; of texts that begin alike, from shortly before they differ."""
    if isinstance(one, str) and isinstance(other, str) and _short(one) == _short(other):
        start = max(0, len(posixpath.commonprefix([one, other])) - SHOWN // 8)
        one, other = f"…{one[start:]}", f"…{other[start:]}"
    return _short(one), _short(other)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
