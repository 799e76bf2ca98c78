"""Ask a judge about many replies outside of an evaluation: side by side, through the ledger and a budget, each as a case of its own.

Of several recorded answers the newest is replayed: what is found out is of the judge as it is, and `POCLAB_MODE=live` asks it anew.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from poclab import runner
from poclab.bars import bar
from poclab.cases import Case
from poclab.errors import EndpointError
from poclab.ledger import Ledger
from poclab.system import Call, CaseContext, Reply, current_case
from poclab.tables import money

Found = TypeVar("Found")


@dataclass(frozen=True)
class Asked:
    """One question to a judge: about a reply to a case; `repeat` counts how often it was asked before."""

    case: Case
    reply: Reply
    repeat: int = 0
    #: The reply that it is held against, where there are two.
    other: Reply = field(default_factory=Reply)


@dataclass(frozen=True)
class Answers(Generic[Found]):
    """What was found, in the order of the questions, and the calls that it took."""

    found: tuple[Found, ...]
    calls: tuple[Call, ...]

    @property
    def answered(self) -> tuple[str, ...]:
        """The models that answered, as the endpoint calls them, with the fingerprint of what serves them."""
        return tuple(sorted({one.answered_by for one in self.calls} - {""}))

    @property
    def cost_usd(self) -> float | None:
        """What the answers cost when they were paid; None where that is unknown."""
        return _sum(self.paid) if self.paid else None

    @property
    def paid(self) -> list[Call]:
        """The calls that were answered."""
        return [one for one in self.calls if one.status // 100 == 2]

    @property
    def replayed(self) -> bool:
        """Whether all of them are from the ledger."""
        return bool(self.paid) and all(one.replayed for one in self.paid)

    def origin(self, poc: Path) -> str:
        """Return how many answers are from a POC's ledger, and when they were paid; nothing where all were asked now."""
        old = [one for one in self.paid if one.replayed]
        if not old:
            return ""
        ledger = Ledger.of(poc)
        days = sorted(entry.at[:10] for one in old if one.entry and (entry := ledger.named(one.entry)))
        paid = f", paid on {' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else ""
        now = _sum([one for one in self.paid if not one.replayed])
        return f"{len(old)} of {len(self.paid)} are from the ledger{paid}; paid now: {money(now)}"


def _sum(calls: Sequence[Call]) -> float | None:
    costs = [one.cost_usd for one in calls]
    return None if None in costs else math.fsum(costs)


def ask_all(
    asked: Sequence[Asked],
    function: Callable[[Asked], Found],
    *,
    late: Found,
    poc: Path | None = None,
    budget: str | None = None,
    workers: int = 8,
    timeout_s: float = 60.0,
) -> Answers[Found]:
    """Return what a function finds by asking a judge; `late` stands where its time ran out.

    Raises:
        BudgetError: the budget is used up; what was paid for is kept in the ledger.
        EndpointError: what every further question would meet too, such as a refused key.
    """
    calls: dict[int, list[Call]] = {}
    ends: list[Exception] = []  # what every further question would meet

    def one(job: tuple[int, Asked]) -> Found:
        if ends:
            raise ends[0]
        place, what = job
        context = CaseContext(case_id=what.case.id, repeat=what.repeat, poc=poc, budget=budget, purpose="judge", newest=True)
        context.deadline, calls[place] = time.monotonic() + timeout_s, context.calls
        token = current_case.set(context)
        try:
            found = function(what)
        finally:
            current_case.reset(token)
        if context.stop or context.fatal:
            ends.append(context.stop or EndpointError(context.fatal[0], fix=context.fatal[1]))
            raise ends[0]
        return found

    found: dict[int, Any] = {}
    with contextlib.closing(runner.run(list(enumerate(asked)), one, workers=workers, timeout_s=timeout_s)) as run:
        for outcome in bar(run, total=len(asked), desc="asking the judge", unit="reply"):
            if outcome.error and not outcome.timed_out:
                raise outcome.error
            found[outcome.index] = late if outcome.timed_out else outcome.value
    return Answers(tuple(found[place] for place in range(len(asked))), tuple(call for place in sorted(calls) for call in calls[place]))
