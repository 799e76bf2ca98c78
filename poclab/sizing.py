"""How many cases a charter asks for, and what the cases at hand can show: asked before the first label.

The edges are those of `decision`: a criterion is met when the whole interval is beyond its bound. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from poclab.charter import BEYOND_1, Criterion
from poclab.errors import InputError, printable
from poclab.report import QUANTILES
from poclab.stats import cases_for_quantile, cases_to_reach, power_to_reach, smallest_difference, smallest_share
from poclab.tables import block, frame, html_table, paragraph, text_table

if TYPE_CHECKING:
    import pandas

#: Where the truth may lie between a bound (0) and the best there is (1), when nobody says.
EXPECTED = (0.25, 0.5, 1.0)
#: Shares of requests within a latency bound to plan for.
WITHIN = (0.99, 1.0)
#: The share of cases that a change may break while it fixes others.
BREAKS = (0.0, 0.05)
NOT_KNOWN = "What the cases at hand can show of this is not known before a first run."
COLUMNS = ("criterion", "if in truth", "cases needed", "cases at hand", "power with those")


@dataclass(frozen=True)
class Sizing:
    """One row per criterion and expectation, and what the cases at hand can show, in a sentence."""

    rows: tuple[Mapping[str, Any], ...]
    sentence: str

    def frame(self) -> pandas.DataFrame:
        return frame(self.rows)

    def _cells(self) -> list[list[Any]]:
        return [["" if value is None else value for value in row.values()] for row in self.rows]

    def __repr__(self) -> str:
        return f"{text_table(COLUMNS, self._cells())}\n{printable(self.sentence)}"

    def _repr_html_(self) -> str:
        return block(html_table(COLUMNS, self._cells()), paragraph(self.sentence))


def plan(criteria: Sequence[Criterion], at_hand: Mapping[str, int], *, expected: float | None = None, power: float = 0.8) -> Sizing:
    """Plan for these criteria with `at_hand` cases of each split; `expected` is what the first of them is in truth.

    Raises:
        InputError: nothing to plan for, an expectation or a power outside 0..1, or one that is not beyond the bound.
    """
    if not criteria:
        fix = "write into charter.yaml `criteria: [{metric: accuracy, at_least: 0.8}]`; without a charter: `poclab plan --target 0.8`"
        raise InputError("no number to reach: there is nothing to plan for", fix=fix)
    if not 0 < power < 1:
        raise InputError(f"power {power:g}: expected more than 0 and less than 1", fix="--power 0.8")
    if expected is not None:
        _check_expected(criteria[0], expected)
    rows: list[Mapping[str, Any]] = []
    for place, one in enumerate(criteria):
        rows += _rows(one, at_hand.get(one.split), expected if place == 0 else None, power)
    clauses = [clause for one in criteria for clause in _shown(one, at_hand.get(one.split), power)]
    clauses += _told(at_hand, power)
    if clauses:
        return Sizing(tuple(rows), f"With {power * 100:.4g}% power, {'; '.join(clauses)}.")
    return Sizing(tuple(rows), NOT_KNOWN if any(at_hand.values()) else "There are no cases yet: label as many as needed.")


def _check_expected(criterion: Criterion, expected: float) -> None:
    if criterion.metric in BEYOND_1:
        raise InputError(f"{criterion.metric} is not planned by an expected share", fix="leave --expect out")
    if not 0 <= expected <= 1:
        raise InputError(f"expected {expected:g}: {criterion.metric} lies between 0 and 1", fix="--expect 0.9")
    beyond = expected > criterion.bound if criterion.at_least is not None else expected < criterion.bound
    if not beyond:
        raise InputError(
            f"expected {expected:g} is not beyond the bound of {criterion}: no number of cases would show it",
            fix=f"--expect {(criterion.bound + _best(criterion)) / 2:g}",
        )


def _best(criterion: Criterion) -> float:
    return 1.0 if criterion.at_least is not None else 0.0


def _rows(criterion: Criterion, n: int | None, expected: float | None, power: float) -> Iterator[dict[str, Any]]:
    if criterion.metric in QUANTILES:
        for within in WITHIN:
            needed = cases_for_quantile(QUANTILES[criterion.metric], within, power=power, confidence=criterion.confidence)
            yield _row(criterion, f"{within:.0%} of requests within", needed, n, None)
    elif criterion.metric in BEYOND_1:
        yield _row(criterion, "not known before a first run", None, n, None)
    else:
        upwards, bound = criterion.at_least is not None, criterion.bound
        guesses = dict.fromkeys(bound + (_best(criterion) - bound) * share for share in EXPECTED)
        for truth in guesses if expected is None else (expected,):
            needed = cases_to_reach(bound, truth, at_least=upwards, power=power, confidence=criterion.confidence)
            chance = power_to_reach(bound, truth, n, at_least=upwards, confidence=criterion.confidence) if n else None
            yield _row(criterion, f"{truth:.6g}", "no number shows it" if needed is None else needed, n, chance)


def _row(criterion: Criterion, truth: str, needed: int | str | None, n: int | None, chance: float | None) -> dict[str, Any]:
    told = None if chance is None else f"{chance:.0%}"
    return dict(zip(COLUMNS, (str(criterion), truth, needed, n, told), strict=True))


def _shown(criterion: Criterion, n: int | None, power: float) -> Iterator[str]:
    """Yield what the cases at hand can show of one criterion."""
    at_hand, metric = f"{n} {criterion.split} cases", criterion.metric
    if not n or (metric in BEYOND_1 and metric not in QUANTILES):
        return
    if metric in QUANTILES:
        least = cases_for_quantile(QUANTILES[metric], 1.0, power=power, confidence=criterion.confidence)
        yield f"{at_hand} {'can' if n >= least else 'cannot'} show {metric} as met when all keep the bound (it takes {least})"
        return
    upwards = criterion.at_least is not None
    share = smallest_share(criterion.bound, n, at_least=upwards, power=power, confidence=criterion.confidence)
    if share is None:
        least = cases_to_reach(criterion.bound, _best(criterion), at_least=upwards, power=power, confidence=criterion.confidence)
        yield f"{at_hand} cannot show {metric} as met whatever comes out ({'no number of cases can' if least is None else f'it takes {least}'})"
    else:
        yield f"{at_hand} show {metric} as met when it is {'at least' if upwards else 'at most'} {share:.3f} in truth"


def _told(at_hand: Mapping[str, int], power: float) -> Iterator[str]:
    """Yield the smallest gain that can be told on the cases to iterate on."""
    n = at_hand.get("dev")
    gains = [(smallest_difference(n, broken=broken, power=power), broken) for broken in BREAKS] if n else []
    told = [f"{gain:.3f} while it breaks {broken:.0%}" for gain, broken in gains if gain is not None]
    if told:
        yield f"{n} dev cases tell a change from its baseline when it gains {', or '.join(told)}"
    elif n:
        yield f"{n} dev cases are too few to tell any change from its baseline"
