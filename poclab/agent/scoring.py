"""Scores of what a system did: pure functions of a case and its reply, like those in `scores`.

    effects      the changes are exactly those that the case expects
    task_done    a question to the database as the system left it has the right answer
    tools_used   tools that had to be called, or must not be, or in an order
    turns        not more turns than so many

`task_done` makes the database again from the world and the reply's changes: so a report that was saved is scored as the run was.

While a case is evaluated, `effects` and `task_done` take a reply's changes only if they are those that a world told which was opened in
that very case: else they are 0. `reported=True` takes what the system says instead: for one that works on a database of its own, or in
another process. A reply that was kept is believed: it was looked at then.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence

from poclab import system
from poclab.agent.sandbox import Sandbox
from poclab.cases import Case
from poclab.changes import Change, expectations, hold
from poclab.errors import InputError
from poclab.files import digest
from poclab.scores import Score, Scorer
from poclab.system import Reply

UNDONE = "what was not committed was undone: end with world.db.commit()"


def effects(*, ignore: Sequence[str] = (), reported: bool = False) -> Scorer:
    """Right when the changes are exactly those of `expected.effects`: every one of them, once, and nothing else.

    `ignore` names columns that need not be expected: `created_at` in any table, `refunds.id` in one, `log.*` for a whole table.
    Does not apply to a case that says nothing of effects. The reason is the difference as a person reads it. `reported` believes what the
    system itself says that it changed, instead of what a world of the sandbox told.
    """
    _check_names(ignore=ignore)

    def score(case: Case, reply: Reply) -> Score:
        if not reported and (why := _unseen(reply)):
            return Score(False, "", why)
        found = _changes(reply)
        verdict = hold(expectations(case.expected["effects"], where=f"case {case.id!r}"), found, ignore)
        lost = "" if verdict.right or not _undone() else f"; {UNDONE}"
        return Score(verdict.right, "; ".join(map(str, found)) or "no change", f"{verdict}{lost}")

    return Scorer("effects", score, lambda case: "effects" in case.expected, _changes)


def task_done(
    sandbox: Sandbox, predicate: Callable[[Case, Reply, sqlite3.Connection], bool] | None = None, *, reported: bool = False
) -> Scorer:
    """Right when the database afterwards is as it should be; for tasks that may be done in more than one way.

    That is asked by the `predicate`, of a connection that can only read; without one by the SQL in `expected.done`: its first value is
    to be true. Without a predicate it does not apply to cases that have no `done`. `reported` is that of `effects`.
    """

    def score(case: Case, reply: Reply) -> Score:
        if not reported and (why := _unseen(reply)):
            return Score(False, "", why)
        if not hasattr(sandbox.database, "after"):
            raise InputError("this database cannot be made again from changes", fix="score it by `agent.effects`")
        with contextlib.closing(sandbox.database.after(_changes(reply))) as database:
            if predicate is not None:
                done = bool(predicate(case, reply, database))
                return Score(done, str(done), getattr(predicate, "__name__", "predicate"))
            row = database.execute(case.expected["done"]).fetchone()
        value = row[0] if row else None
        return Score(bool(value), repr(value), f"{case.expected['done']} gives {value!r}")

    return Scorer("task_done", score, lambda case: predicate is not None or bool(case.expected.get("done")), _changes)


def tools_used(needed: Sequence[str] = (), *, forbidden: Sequence[str] = (), ordered: Sequence[str] = ()) -> Scorer:
    """Right when all `needed` tools were called, none of the `forbidden`, and the `ordered` ones in that order (others may lie between).

    Calls that failed are not counted as needed or ordered; a forbidden one is one, whatever came of it.
    """
    _check_names(needed=needed, forbidden=forbidden, ordered=ordered)

    def score(case: Case, reply: Reply) -> Score:
        tried = [str(one.get("tool")) for one in reply.tools]
        worked = [str(one.get("tool")) for one in reply.tools if not one.get("error")]
        wrong = [f"{name} was not called" for name in needed if name not in worked]
        wrong += [f"{name} was called" for name in dict.fromkeys(tried) if name in forbidden]
        left = iter(worked)
        wrong += [] if all(name in left for name in ordered) else [f"not in this order: {', '.join(ordered)}"]
        return Score(not wrong, " ".join(tried), "; ".join(wrong) or "the right tools")

    return Scorer("tools_used", score, reads=_check_tools)


def turns(at_most: int) -> Scorer:
    """Right when tools were called in fewer than `at_most` turns: with the one of the answer there are no more than that."""

    def score(case: Case, reply: Reply) -> Score:
        taken = 1 + max((int(one.get("turn", 0)) for one in reply.tools), default=0)
        return Score(taken <= at_most, str(taken), f"{taken} turn(s), {at_most} at most")

    return Scorer("turns", score, reads=_check_tools)


def _check_names(**given: Sequence[str]) -> None:
    """Refuse one text where a list of names is meant: its letters would be taken for them."""
    for what, names in given.items():
        if isinstance(names, str):
            raise InputError(f"{what} is a list of names, found {names!r}", fix=f"{what}=[{names!r}]")


def _changes(reply: Reply) -> list[Change]:
    return [Change.from_json(one) for one in reply.effects]


def _check_tools(reply: Reply) -> None:
    for one in reply.tools:
        if not isinstance(one, Mapping) or type(one.get("turn", 0)) is not int:
            raise InputError(f"not a call of a tool: {str(one)[:80]}", fix='{"tool": "...", "arguments": {...}, "turn": 1}')


def _undone() -> bool:
    case = system.current_case.get()
    return any(one.undone for one in (case and case.worlds) or ())


def _unseen(reply: Reply) -> str:
    """Return why a reply's changes are not those of a world of its case; nothing where they are, or nobody was there to see."""
    case = system.current_case.get()
    if case is None or case.worlds is None:
        return ""
    if not case.worlds:
        why = "the reply tells changes, and its case opened no world of the sandbox (a thread of its own takes the case along by copy_context().run)"
        return why if reply.effects else ""
    told = digest(list(reply.effects))
    return "" if any(one.told[-1:] == [told] for one in case.worlds) else "the reply does not tell what the world of its case told last"
