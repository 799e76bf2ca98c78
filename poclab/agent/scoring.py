"""Scores of what a system did: pure functions of a case and its reply, like those in `scores`.

    effects      the changes are exactly those that the case expects
    task_done    a question to the database as the system left it has the right answer
    tools_used   tools that had to be called, or must not be, or in an order
    turns        not more turns than so many

`task_done` makes the database again from the world and the reply's changes: so a report that was saved is scored as the run was.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Sequence

from poclab.agent.sandbox import Sandbox
from poclab.cases import Case
from poclab.changes import Change, expectations, hold
from poclab.errors import InputError
from poclab.scores import Score, Scorer
from poclab.system import Reply


def effects(*, ignore: Sequence[str] = ()) -> Scorer:
    """Right when the changes are exactly those of `expected.effects`: every one of them, once, and nothing else.

    `ignore` names columns that need not be expected: `created_at` in any table, `refunds.id` in one, `log.*` for a whole table.
    Does not apply to a case that says nothing of effects. The reason is the difference as a person reads it.
    """

    def score(case: Case, reply: Reply) -> Score:
        found = [Change.from_json(one) for one in reply.effects]
        verdict = hold(expectations(case.expected["effects"], where=f"case {case.id!r}"), found, ignore)
        return Score(verdict.right, "; ".join(map(str, found)) or "no change", str(verdict))

    return Scorer("effects", score, applies=lambda case: "effects" in case.expected)


def task_done(sandbox: Sandbox, predicate: Callable[[Case, Reply, sqlite3.Connection], bool] | None = None) -> Scorer:
    """Right when the database afterwards is as it should be; for tasks that may be done in more than one way.

    That is asked by the `predicate`, of a connection that can only read; without one by the SQL in `expected.done`: its first value is
    to be true. Without a predicate it does not apply to cases that have no `done`.
    """

    def score(case: Case, reply: Reply) -> Score:
        if not hasattr(sandbox.database, "after"):
            raise InputError("this database cannot be made again from changes", fix="score it by `agent.effects`")
        with contextlib.closing(sandbox.database.after([Change.from_json(one) for one in reply.effects])) as database:
            if predicate is not None:
                done = bool(predicate(case, reply, database))
                return Score(done, str(done), getattr(predicate, "__name__", "predicate"))
            row = database.execute(case.expected["done"]).fetchone()
        value = row[0] if row else None
        return Score(bool(value), repr(value), f"{case.expected['done']} gives {value!r}")

    return Scorer("task_done", score, applies=lambda case: predicate is not None or bool(case.expected.get("done")))


def tools_used(needed: Sequence[str] = (), *, forbidden: Sequence[str] = (), ordered: Sequence[str] = ()) -> Scorer:
    """Right when all `needed` tools were called, none of the `forbidden`, and the `ordered` ones in that order (others may lie between).

    Calls that failed are not counted as needed or ordered; a forbidden one is one, whatever came of it.
    """

    def score(case: Case, reply: Reply) -> Score:
        tried = [str(one.get("tool")) for one in reply.tools]
        worked = [str(one.get("tool")) for one in reply.tools if not one.get("error")]
        wrong = [f"{name} was not called" for name in needed if name not in worked]
        wrong += [f"{name} was called" for name in dict.fromkeys(tried) if name in forbidden]
        left = iter(worked)
        wrong += [] if all(name in left for name in ordered) else [f"not in this order: {', '.join(ordered)}"]
        return Score(not wrong, " ".join(tried), "; ".join(wrong) or "the right tools")

    return Scorer("tools_used", score)


def turns(at_most: int) -> Scorer:
    """Right when tools were called in fewer than `at_most` turns: with the one of the answer there are no more than that."""

    def score(case: Case, reply: Reply) -> Score:
        taken = 1 + max((int(one.get("turn", 0)) for one in reply.tools), default=0)
        return Score(taken <= at_most, str(taken), f"{taken} turn(s), {at_most} at most")

    return Scorer("turns", score)
