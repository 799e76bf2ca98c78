"""Time what a world of its own costs a case: a copy of a database of 5 MB, the full difference afterwards, and the end of it.

    python tests/benchmarks/sandbox.py                 # a minute
    python tests/benchmarks/sandbox.py --rounds 1      # does it still work?

200 cases go through `poclab.evaluate`, 8 side by side, by a system that only changes rows; the same cases by one that does nothing are
taken off. `a case` is that difference by 200, in time and in processor time; `alone` is the time from the opening of a world to its end,
one after the other. Three kinds of work: nothing, three rows in a small table, and rows in every table, each of which is read whole then.

Not measured: models and tools, a folder of files, and disks that are slower than this one: worlds lie where --folder says.
"""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import poclab
from poclab import agent
from poclab.agent import Sandbox, World
from poclab.cases import Case
from poclab.system import Reply

CASES, WORKERS, MEGABYTES = 200, 8, 5
#: What a case may cost, in milliseconds.
MOST_MS = 25.0
TEXT = "The parcel came on time, the lamp works, and the customer has written to say so twice. "


def make_database(path: Path, megabytes: float = MEGABYTES) -> Path:
    """Write a shop's database of that size: half of it tickets with texts, the rest orders with a key of text, and a small table."""
    with closing(sqlite3.connect(path)) as made:
        made.executescript(
            "CREATE TABLE agents (id INTEGER PRIMARY KEY, name TEXT, open INTEGER);"
            "CREATE TABLE tickets (id INTEGER PRIMARY KEY, subject TEXT, text TEXT, status TEXT, hours REAL);"
            "CREATE TABLE orders (code TEXT PRIMARY KEY, ticket INTEGER, item TEXT, cents INTEGER);"
            "CREATE INDEX by_ticket ON orders (ticket);"
        )
        made.executemany("INSERT INTO agents VALUES (?, ?, 0)", [(number, f"agent {number}") for number in range(50)])
        count = 0
        while path.stat().st_size < megabytes * 1e6:
            batch = range(count, count + 500)
            made.executemany(
                "INSERT INTO tickets VALUES (?, ?, ?, 'open', ?)", [(one, f"ticket {one}", TEXT * 2, one / 7) for one in batch]
            )
            made.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", [(f"order-{one:06}", one, TEXT[: one % 60], one) for one in batch])
            made.commit()
            count += 500
    return path


def nothing(world: World, number: int) -> None:
    world.rows("SELECT * FROM agents WHERE id = ?", number % 50)


def few(world: World, number: int) -> None:
    for one in range(3):
        world.db.execute("UPDATE agents SET open = ? WHERE id = ?", (number + 1, (number + one) % 50))
    world.db.commit()


def everywhere(world: World, number: int) -> None:
    world.db.execute("UPDATE tickets SET status = 'closed' WHERE id BETWEEN ? AND ?", (number, number + 4))
    world.db.execute("DELETE FROM orders WHERE code = ?", (f"order-{number:06}",))
    world.db.execute("INSERT INTO agents (name) VALUES (?)", (str(number),))
    world.db.commit()


#: What is done to a world, and how many changes that makes.
WORK: dict[str, tuple[Callable[[World, int], None], int]] = {"nothing": (nothing, 0), "few rows": (few, 3), "every table": (everywhere, 7)}


def in_a_world(sandbox: Sandbox, work: Callable[[World, int], None]) -> Callable[[dict[str, Any]], Reply]:
    def system(inputs: dict[str, Any]) -> Reply:
        with sandbox.open() as world:
            work(world, inputs["number"])
            return Reply("done", effects=world.difference())

    return system


def timed(system: Callable[[dict[str, Any]], Reply], cases: list[Case], changes: int) -> tuple[float, float]:
    """Return the seconds, and the seconds of processor time, of an evaluation; refuse one that did not find every change."""
    begun, used = time.perf_counter(), time.process_time()
    report = poclab.evaluate(system, cases, [agent.effects()], workers=WORKERS, traces="none")
    spent = time.perf_counter() - begun, time.process_time() - used
    if report.failed or any(len(one.reply.effects) != changes for one in report.results):
        raise SystemExit(f"not every case found its {changes} changes: {report}")
    return spent


def alone(sandbox: Sandbox, work: Callable[[World, int], None], count: int) -> list[float]:
    """Return the seconds of each of so many worlds, one after the other."""
    found, system = [], in_a_world(sandbox, work)
    for number in range(count):
        begun = time.perf_counter()
        system({"number": number})
        found.append(time.perf_counter() - begun)
    return found


def measure(folder: Path, *, cases: int = CASES, rounds: int = 3, megabytes: float = MEGABYTES) -> dict[str, dict[str, float]]:
    """Return for each kind of work the milliseconds of a case: medians over the rounds."""
    source = make_database(folder / "shop.db", megabytes)
    sandbox = Sandbox(source, folder=folder / "worlds")
    asked = [Case(f"q{number}", {"number": number, "task": "x"}, {"effects": []}) for number in range(cases)]
    found: dict[str, dict[str, list[float]]] = {name: {"a case": [], "processor": [], "alone": [], "alone, p95": []} for name in WORK}
    for _ in range(rounds):
        plain = timed(lambda inputs: Reply("done"), asked, 0)
        for name, (work, changes) in WORK.items():
            spent = timed(in_a_world(sandbox, work), asked, changes)
            one_by_one = sorted(alone(sandbox, work, min(cases, 50)))
            figures = [(spent[place] - plain[place]) / cases for place in (0, 1)]
            figures += [statistics.median(one_by_one), one_by_one[int(0.95 * len(one_by_one))]]
            for key, value in zip(found[name], figures, strict=True):
                found[name][key].append(1000 * value)
    if left := list((folder / "worlds").glob("of-*")):
        raise SystemExit(f"worlds were left: {left}")
    return {name: {key: statistics.median(values) for key, values in rows.items()} for name, rows in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where worlds lie  [default: a new one for temporary files]")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        found = measure(Path(folder), rounds=given.rounds)
        size = (Path(folder) / "shop.db").stat().st_size / 1e6
    print(
        f"{CASES} cases, {WORKERS} side by side, {size:.1f} MB, Python {platform.python_version()}, sqlite {sqlite3.sqlite_version}, {os.cpu_count()} cores"
    )
    print("milliseconds  " + "".join(f"{name:>14}" for name in next(iter(found.values()))))
    for name, row in found.items():
        print(f"{name:<14}" + "".join(f"{value:14.1f}" for value in row.values()))
    worst = max(row["a case"] for row in found.values())
    print(f"a case costs {worst:.1f} ms at most; {MOST_MS:g} were aimed at")
    sys.exit(0 if worst < MOST_MS else 1)


if __name__ == "__main__":
    main()
