"""What the ledger holds, for people: sums by model and day, the budgets, and the entries one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from poclab.ledger import budgets
from poclab.ledger.book import Ledger
from poclab.ledger.entries import Entry
from poclab.tables import cut, text_table

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Sums:
    """The answers of one model on one day (UTC), those of judges apart.

    `tokens_in` and `tokens_out` are of the entries that say how many; `cost_usd` is what was paid for those whose cost is known, and
    `unknown_cost` is how many there are beside.
    """

    day: str
    model: str
    purpose: str
    entries: int
    tokens_in: int
    tokens_out: int
    cost_usd: float
    unknown_cost: int


def overview(path: Path | str) -> str:
    """Return what the ledger at `path` holds, as `poclab ledger` prints it.

    Raises:
        InputError: there is no such ledger; StoreError: it cannot be used.
    """
    ledger = Ledger.open_existing(path)
    return "\n\n".join(filter(None, (summary_table(ledger), budgets_table(ledger))))


def summary(ledger: Ledger) -> list[Sums]:
    """Return the sums of the ledger by day, model and purpose, in this order."""
    with ledger.store.reading() as connection:
        rows = connection.execute(
            "SELECT substr(at, 1, 10), model, purpose, count(*), coalesce(sum(tokens_in), 0), coalesce(sum(tokens_out), 0), "
            "coalesce(sum(cost_usd), 0.0), count(*) - count(cost_usd) FROM entries GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        ).fetchall()
    return [Sums(*row) for row in rows]


def summary_table(ledger: Ledger) -> str:
    """Return the sums as a table for a terminal, the whole in its last row. A cost that nobody knows is named, and never 0."""
    sums = summary(ledger)
    rows = [(one.day, one.model, one.purpose, *_numbers([one])) for one in sums]
    columns = [field.name for field in fields(Sums)][:-1]
    return text_table(columns, [*rows, ("all", "", "", *_numbers(sums))])


def budgets_table(ledger: Ledger) -> str:
    """Return the budgets as a table for a terminal; empty where there is none.

    `unanswered_usd` is what calls without an answer may have cost: it stays used.
    """
    with ledger.store.reading() as connection:
        found = budgets.standing(connection)
    columns = ("budget", "limit_usd", "spent_usd", "in_flight_usd", "unanswered_usd")
    rows = [
        (cut(name, 80), *(f"{usd:.6f}" for usd in (one.limit_usd, one.settled_usd, one.in_flight_usd, one.unanswered_usd)))
        for name, one in found.items()
    ]
    return text_table(columns, rows) if rows else ""


def entries(ledger: Ledger) -> Iterator[Entry]:
    """Yield the entries in the order they were recorded."""
    page, mark = ledger.page()
    while page:
        yield from page
        page, mark = ledger.page(mark)


def _numbers(sums: list[Sums]) -> tuple[object, ...]:
    unknown = sum(one.unknown_cost for one in sums)
    count = sum(one.entries for one in sums)
    known = f"{sum(one.cost_usd for one in sums):.6f}"
    cost = known if not unknown else UNKNOWN if unknown == count else f"{known} and {unknown} {UNKNOWN}"
    return count, sum(one.tokens_in for one in sums), sum(one.tokens_out for one in sums), cost
