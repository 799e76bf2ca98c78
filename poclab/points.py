"""The points that a sweep file's `parameters` span: all of a grid, or a random sample of it; and expressions over a point.

A parameter has `values`, or, in a sample, `min` and `max` (both whole: a whole number). Names in one list of `zip` move together.
`where` keeps the points for which every expression holds. A sample is made from its seed: the same file has the same points.
"""

from __future__ import annotations

import ast
import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from poclab.errors import InputError, refuse_unknown
from poclab.files import canonical

#: How many points a grid may have.
MOST = 10_000
#: How often a sample is drawn for each of its points: `where` may leave few, and equal ones count once.
DRAWS = 200
DISTRIBUTIONS = ("uniform", "log_uniform_values")
#: What an expression may be made of: values, parameter names, comparisons, arithmetic, and, or, not, in.
EXPRESSION = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div,
    ast.FloorDiv, ast.Mod, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Is, ast.IsNot,
    ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple,
)  # fmt: skip


@dataclass(frozen=True)
class Range:
    """A parameter between two numbers, both included."""

    name: str
    low: float
    high: float
    is_log: bool

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def size(self) -> float:
        """How many values there are."""
        return self.high - self.low + 1 if self.is_whole else math.inf

    def draw(self, dice: random.Random) -> dict[str, float]:
        if not self.is_log:
            return {self.name: dice.randint(self.low, self.high) if self.is_whole else dice.uniform(self.low, self.high)}
        value = math.exp(dice.uniform(math.log(self.low), math.log(self.high)))
        # An exponential of a logarithm may come out a little beyond the edge.
        return {self.name: min(max(round(value) if self.is_whole else value, self.low), self.high)}


#: What one parameter, or several that move together, may be.
Axis = Range | list[dict[str, Any]]


@dataclass(frozen=True)
class Space:
    """What a search may propose: a point of each axis, with what is `fixed`, where all `expressions` hold; `count` of them."""

    axes: tuple[Axis, ...]
    fixed: Mapping[str, Any]
    expressions: tuple[str, ...]
    count: int
    seed: int
    where: str

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that it varies."""
        parts = [[axis.name] if isinstance(axis, Range) else [name for part in axis for name in part] for axis in self.axes]
        return tuple(dict.fromkeys(itertools.chain(*parts)))

    def point(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """Return the point that these parts make, None where an expression does not hold."""
        point = {**self.fixed, **{name: value for part in parts for name, value in part.items()}}
        return point if all(holds(one, point, where=self.where) for one in self.expressions) else None

    def points(self) -> Iterator[dict[str, Any]]:
        """Yield all points of a space that has few enough; none of one without an end."""
        sizes = [len(axis) if isinstance(axis, list) else axis.size for axis in self.axes]
        if math.prod(sizes) > MOST:
            return
        listed = [
            axis if isinstance(axis, list) else [{axis.name: value} for value in range(axis.low, axis.high + 1)] for axis in self.axes
        ]
        for parts in itertools.product(*listed):
            if (point := self.point(parts)) is not None:
                yield point

    def edges(self) -> list[dict[str, Any]]:
        """Return points that hold every value of every axis, and the ends of each range, for a check of names and types."""
        ends = [[{one.name: one.low}, {one.name: one.high}] if isinstance(one, Range) else one for one in self.axes]
        first = {name: value for axis in ends for name, value in axis[0].items()}
        return [{**self.fixed, **first, **part} for axis in ends for part in axis]


def space(data: Mapping[str, Any], fixed: Mapping[str, Any], taken: Sequence[Mapping[str, Any]], *, where: str) -> Space:
    """Return the space that a sweep file's `parameters` span, for a search of `run_cap` points, or of as many as are not `taken`.

    Raises:
        InputError: as for `sample`, or no parameters.
    """
    count, seed = _drawn(data, where=where)
    axes = tuple(_axes(data, where=where))
    if not axes:
        raise InputError(f"{where}: parameters: nothing to search in", fix="chunk_size: {min: 100, max: 1600}, or {values: [..., ...]}")
    found = Space(axes, fixed, tuple(_expressions(data, where=where)), count, seed, where)
    found.point(found.edges()[:1])  # an expression that cannot be computed is refused here
    if math.prod(len(axis) if isinstance(axis, list) else axis.size for axis in axes) > MOST:
        return found
    others = {canonical(point) for point in found.points()} - {canonical(point) for point in taken}
    return replace(found, count=min(count, len(others)))


def grid(data: Mapping[str, Any], fixed: Mapping[str, Any], *, where: str) -> list[dict[str, Any]]:
    """Return every point of a sweep file's `parameters` with what is fixed, as far as its `where` holds.

    Raises:
        InputError: a wrong entry, a range, too many points, or an expression that is not allowed.
    """
    axes = _axes(data, where=where)
    for axis in axes:
        if isinstance(axis, Range):
            raise InputError(
                f"{where}: parameters.{axis.name} is a range, which a grid has no points of", fix="give `values`, or use method: random"
            )
    return _kept(_grid(axes, where=where), data, fixed, where=where)


def sample(data: Mapping[str, Any], fixed: Mapping[str, Any], *, where: str) -> list[dict[str, Any]]:
    """Return `run_cap` different points by chance, or as many as there are.

    Raises:
        InputError: as for `grid`, or no `run_cap`.
    """
    count, seed = _drawn(data, where=where)
    axes, dice = _axes(data, where=where), random.Random(seed)
    if not axes:
        return []
    if not any(isinstance(axis, Range) for axis in axes) and math.prod(map(len, axes)) <= MOST:
        points = _kept(_grid(axes, where=where), data, fixed, where=where)
        return dice.sample(points, min(count, len(points)))
    found: dict[str, dict[str, Any]] = {}
    for _ in range(DRAWS * count):
        drawn = [axis.draw(dice) if isinstance(axis, Range) else dice.choice(axis) for axis in axes]
        point = {name: value for part in drawn for name, value in part.items()}
        found |= {canonical(one): one for one in _kept([point], data, fixed, where=where)}
        if len(found) == count:
            break
    return list(found.values())


def _drawn(data: Mapping[str, Any], *, where: str) -> tuple[int, int]:
    """Return `run_cap` and `seed`."""
    count, seed = data.get("run_cap"), data.get("seed", 0)
    if type(count) is not int or not 1 <= count <= MOST:
        raise InputError(f"{where}: run_cap is {count!r}", fix="run_cap: 20, the number of trials to draw")
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise InputError(f"{where}: seed is {seed!r}", fix="seed: 0")
    return count, seed


def _expressions(data: Mapping[str, Any], *, where: str) -> list[str]:
    expressions = data.get("where") or []
    if not isinstance(expressions, list) or not all(isinstance(one, str) for one in expressions):
        raise InputError(f"{where}: where is a list of expressions, found {expressions!r}")
    return expressions


def _kept(points: Sequence[dict[str, Any]], data: Mapping[str, Any], fixed: Mapping[str, Any], *, where: str) -> list[dict[str, Any]]:
    expressions = _expressions(data, where=where)
    whole = [{**fixed, **point} for point in points]
    return [point for point in whole if all(holds(one, point, where=where) for one in expressions)]


def _grid(axes: Sequence[Axis], *, where: str) -> list[dict[str, Any]]:
    if (count := math.prod(map(len, axes))) > MOST:
        raise InputError(f"{where}: parameters span {count:,} points", fix=f"give fewer values: {MOST:,} points are the most")
    parts = itertools.product(*axes) if axes else []
    return [{name: value for part in point for name, value in part.items()} for point in parts]


def _axes(data: Mapping[str, Any], *, where: str) -> list[Axis]:
    """Return what varies by itself: a parameter, or several that move together, in the order of the parameters."""
    parameters, groups = data.get("parameters") or {}, data.get("zip") or []
    if not isinstance(parameters, dict):
        raise InputError(f"{where}: parameters holds `name: {{values: [...]}}` lines, found {parameters!r}")
    axes = {name: _axis(name, entry, where=where) for name, entry in parameters.items()}
    if not isinstance(groups, list) or not all(isinstance(group, list) and len(group) > 1 for group in groups):
        raise InputError(f"{where}: zip: found {groups!r}", fix="zip: [[chunk_size, overlap]], a list of lists of names")
    together = [name for group in groups for name in group]
    refuse_unknown(map(str, together), map(str, axes), where=f"{where}: zip", what="parameter")
    if twice := [name for name in dict.fromkeys(together) if together.count(name) > 1]:
        raise InputError(f"{where}: zip: {twice[0]} stands there twice", fix="name each parameter once")
    for group in groups:
        axes[group[0]] = _zipped(group, [axes[name] for name in group], where=where)
    return [axis for name, axis in axes.items() if name not in {one for group in groups for one in group[1:]}]


def _axis(name: Any, entry: Any, *, where: str) -> Axis:
    if isinstance(entry, dict) and set(entry) == {"values"} and isinstance(entry["values"], list) and entry["values"]:
        return [{name: value} for value in entry["values"]]
    found = InputError(f"{where}: parameters.{name}: found {entry!r}", fix=f"{name}: {{values: [..., ...]}}, or {{min: ..., max: ...}}")
    if not isinstance(entry, dict) or not {"min", "max"} <= set(entry) <= {"min", "max", "distribution"}:
        raise found
    low, high, distribution = entry["min"], entry["max"], entry.get("distribution", "uniform")
    refuse_unknown([distribution], DISTRIBUTIONS, where=f"{where}: parameters.{name}", what="distribution")
    if any(type(edge) not in (int, float) or not math.isfinite(edge) for edge in (low, high)) or not low < high:
        raise found
    is_log = distribution == "log_uniform_values"
    if is_log and low <= 0:
        raise InputError(f"{where}: parameters.{name}: a logarithm needs more than 0, found min {low!r}", fix="give a `min` above 0")
    return Range(name, low, high, is_log)


def _zipped(names: Sequence[str], axes: Sequence[Axis], *, where: str) -> Axis:
    if ranges := [axis.name for axis in axes if isinstance(axis, Range)]:
        raise InputError(f"{where}: zip: {ranges[0]} is a range", fix="what moves together has `values`")
    if len({len(axis) for axis in axes}) > 1:
        counts = ", ".join(f"{name} has {len(axis)} values" for name, axis in zip(names, axes, strict=True))
        raise InputError(f"{where}: zip: {counts}", fix="give each the same number of values")
    return [{name: value for part in parts for name, value in part.items()} for parts in zip(*axes, strict=True)]


def holds(expression: str, point: Mapping[str, Any], *, where: str) -> bool:
    """Return whether an expression over parameter names is true of a point.

    Raises:
        InputError: it is no expression, uses more than values, names, comparisons and arithmetic, or cannot be computed.
    """
    try:
        tree = ast.parse(expression, mode="eval")
        for node in ast.walk(tree):
            if not isinstance(node, EXPRESSION):
                raise InputError(
                    f"{where}: where: {expression!r} uses {type(node).__name__}", fix="use comparisons and arithmetic of parameters"
                )
            if isinstance(node, ast.Compare) and _is_of_values(node):
                raise InputError(f"{where}: where: {expression!r}: `is` is for None alone", fix="compare values with == or !=")
            if isinstance(node, ast.Name):
                refuse_unknown([node.id], point, where=f"{where}: where: {expression!r}", what="parameter")
        # Safe: only the node types above are left, and there is nothing to call.
        return bool(eval(compile(tree, "<where>", "eval"), {"__builtins__": {}}, dict(point)))
    except SyntaxError:
        raise InputError(f"{where}: where: {expression!r} is not an expression", fix='such as "overlap * 4 <= chunk_size"') from None
    except (TypeError, ValueError, ArithmeticError, MemoryError, RecursionError) as error:
        raise InputError(f"{where}: where: {expression!r} cannot be computed: {error}") from None


def _is_of_values(node: ast.Compare) -> bool:
    # `chunk_size is 400` is false of a 400 that was read from a file: trials would be dropped in silence.
    none = [isinstance(side, ast.Constant) and side.value is None for side in (node.left, *node.comparators)]
    return any(isinstance(one, (ast.Is, ast.IsNot)) and not any(none[at : at + 2]) for at, one in enumerate(node.ops))
