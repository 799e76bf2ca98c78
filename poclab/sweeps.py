"""The sweep file: which trials there are. Everything is checked here before a kernel starts; `trials` runs them.

`include` lists trials that always run, the first being the baseline; `fixed` is the same for all; what `parameters` span is for `points`.
File parameters are paths relative to the POC folder. With `method: tpe` further trials are proposed as others end: see `search`.
"""

from __future__ import annotations

import ast
import contextlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from poclab import kernels, points
from poclab.archive import BASELINE
from poclab.arguments import is_budget
from poclab.charter import METRICS
from poclab.errors import InputError, refuse_unknown
from poclab.files import canonical, check_json, digest, find_poc, parse_value, read_text, read_yaml, require_poc
from poclab.judging import Rubric

KEYS = ("notebook", "metric", "method", "run_cap", "seed", "fixed", "repeat", "parameters", "zip", "where", "include", "screen", "limits")
#: The parameter of a notebook that says how often each case is asked.
REPEATS = "repeats"
GOALS = ("maximize", "minimize")
#: The calls that make a score of a name.
MADE = ("Scorer", "Judge")
#: The limits of a sweep: default, what else is allowed, and an example.
LIMITS: dict[str, tuple[Any, Callable[[Any], bool], str]] = {
    "jobs": (1, lambda value: _is_count(value) and 1 <= value <= 256, "2"),
    "timeout_s": (None, lambda value: type(value) in (int, float) and 0 < value < math.inf, "900"),
    "cell_timeout_s": (None, lambda value: type(value) in (int, float) and 0 < value < math.inf, "300"),
    "retries": (0, lambda value: _is_count(value) and value <= 10, "1"),
    "max_cost_usd": (None, is_budget, "5.00"),
    "stop_after_failures": (None, lambda value: _is_count(value) and value > 0, "3"),
}
METHODS = {"grid": points.grid, "random": points.sample, "tpe": None}


@dataclass(frozen=True)
class Trial:
    """One point of a sweep: its parameters, and a name that says what differs from the baseline."""

    parameters: Mapping[str, Any]
    name: str


@dataclass(frozen=True)
class Screen:
    """A first look at all trials on so many cases of the split, after which a share of them goes on to the whole of it."""

    cases: int
    keep: float

    def kept(self, trials: int) -> int:
        """Return how many of so many trials go on."""
        return math.ceil(round(self.keep * trials, 9))  # 0.28 of 25 are 7


@dataclass(frozen=True)
class Sweep:
    """A validated sweep: trials in the order they run, the first being the baseline if any was included.

    The runs of a `nested` one lie below a parent run; the one of `poclab run` stands by itself, and starts from `fixed`.
    """

    name: str
    poc: Path
    notebook: Path
    metric: str
    maximize: bool
    trials: tuple[Trial, ...]
    has_baseline: bool
    jobs: int
    nested: bool = True
    #: What a trial may take, in seconds, and a cell of it; how often one is run again whose kernel died or that took too long; and after
    #: how many that failed no further one begins.
    timeout_s: float | None = None
    cell_timeout_s: float | None = None
    retries: int = 0
    stop_after_failures: int | None = None
    max_cost_usd: float | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    screen: Screen | None = None
    #: Of points that are drawn by chance, or searched for.
    seed: int | None = None
    #: Where further trials are searched for.
    space: points.Space | None = None
    #: Of a part of a sweep, the trials of the whole.
    whole: tuple[Trial, ...] = ()

    @property
    def planned(self) -> int:
        """How many trials the whole sweep has, at most."""
        return len(self.all_trials) + (self.space.count if self.space else 0)

    def trial(self, point: Mapping[str, Any]) -> Trial:
        """Return the trial at a point, named by what differs from the first of the sweep."""
        first = {name: value for name, value in self.trials[0].parameters.items() if name != "poc"}
        return _trial(point, first, kernels.read_parameters(self.notebook))

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """What the notebook takes for a parameter that a trial leaves out."""
        return {name: one.default for name, one in kernels.read_parameters(self.notebook).items()}

    @property
    def all_trials(self) -> tuple[Trial, ...]:
        """The trials of the whole sweep, of which this may be a part: they have one budget."""
        return self.whole or self.trials

    def only(self, expression: str) -> Sweep:
        """Return the sweep of the trials for which an expression over their parameters holds, the notebook's defaults included.

        Raises:
            InputError: it is not allowed, or true of none.
        """
        if self.space:
            raise InputError(f"--only {expression!r}: this sweep searches, and has no list of trials", fix="put it into `where`")
        kept = [trial for trial in self.trials if points.holds(expression, {**self.defaults, **trial.parameters}, where="--only")]
        if not kept:
            raise InputError(f"--only {expression!r}: true of none of {len(self.trials)} trials", fix="--dry-run lists them")
        has_baseline = self.has_baseline and kept[0] is self.trials[0]
        return replace(self, trials=tuple(kept), has_baseline=has_baseline, whole=self.all_trials)

    @property
    def varied(self) -> tuple[str, ...]:
        """The parameters that are not the same in every trial."""
        names = dict.fromkeys(name for trial in self.trials for name in trial.parameters)
        return tuple(name for name in names if len({canonical(trial.parameters.get(name)) for trial in self.trials}) > 1)


def load_sweep(source: Path | str | Mapping[str, Any], poc: Path | str | None = None) -> Sweep:
    """Read and validate a sweep: a file, the `sweep.yaml` of a POC folder, or what would stand in one, for `poc`.

    Raises:
        InputError: unknown keys or parameters (with the nearest valid one), wrong types, values that are not JSON, a
            missing notebook or file, an unknown metric, an expression that is not allowed, or no trial left.
    """
    if isinstance(source, Mapping):
        check_json(source, where="sweep")
        name, path, data, poc = f"sweep-{digest(source)[:8]}", Path("sweep"), dict(source), require_poc(poc)
    else:
        path = Path(source)
        path = path / "sweep.yaml" if os.path.isdir(path) else path
        name, data = path.stem, read_yaml(path)
        poc = find_poc(path) or path.resolve().parent
    refuse_unknown(data, KEYS, where=str(path))
    if not isinstance(data.get("notebook"), str):
        raise InputError(f"{path}: names no notebook", fix="notebook: notebooks/02_evaluate.ipynb")
    notebook = find_notebook(data["notebook"], poc)
    known = kernels.read_parameters(notebook)
    data = _repeated(data, known, path)
    found, included = _points(data, path)
    space = points.space(data, data.get("fixed") or {}, found, where=str(path)) if data.get("method") == "tpe" else None
    for point in found + (space.edges() if space else []):
        kernels.check_parameters(point, known, where=str(path))
        check_files(point, known, poc, where=str(path))
    check_judges(found, notebook, poc, where=str(path))
    trials = _trials(found, known, poc)
    metric, maximize = _metric(data.get("metric"), _scores(notebook, trials, known), path)
    if not trials or (space and not space.count):
        raise InputError(f"{path}: no trial is left", fix="give `parameters` with `values`, or `include`, and look at `where`")
    limits, fixed = _limits(data.get("limits"), path), data.get("fixed") or {}
    screen = _screen(data["screen"], trials, known, path) if data.get("screen") is not None else None
    if screen and space:
        raise InputError(f"{path}: screen is for a grid or method: random", fix="a search proposes by results on all cases")
    seed = None if data.get("method", "grid") == "grid" else data.get("seed", 0)
    return Sweep(name, poc, notebook, metric, maximize, trials, included > 0, **limits, fixed=fixed, space=space, screen=screen, seed=seed)


def single(poc: Path, notebook: Path, parameters: Mapping[str, Any], *, fixed: Mapping[str, Any] | None = None) -> Sweep:
    """Return the sweep of one trial that `poclab run` makes: of `parameters`, and of what a sweep has `fixed` besides.

    Its name says what differs from that and the notebook's defaults; where nothing does, what was given.
    """
    known, start = kernels.read_parameters(notebook), fixed or {}
    point = {**start, **parameters}
    kernels.check_parameters(point, known, where=str(notebook))
    check_files(point, known, poc, where=str(notebook))
    check_judges([point], notebook, poc, where=str(notebook))
    trial = _trial(point, start, known)
    if trial.name == BASELINE:
        trial = replace(trial, name=", ".join(f"{name} = {value}" for name, value in parameters.items()) or "defaults")
    return Sweep("run", poc, notebook, "accuracy", True, (trial,), False, 1, nested=False)


def find_notebook(name: Path | str, *folders: Path) -> Path:
    """Return the notebook of that name in the first of the folders that has it.

    Raises:
        InputError: none has it.
    """
    for folder in folders:
        if os.path.isfile(folder / name):
            return Path(os.path.realpath(folder / name))
    raise InputError(f"{name}: no such file in {' or '.join(map(str, folders))}", fix="check the path of the notebook")


def parse_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """Return `name=value` texts as parameters; a value is read as in the sweep file.

    Raises:
        InputError: a text without `=`, or a name that is given twice.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"-p {pair!r}: expected NAME=VALUE", fix="-p chunk_size=800")
        if name.strip() in found:
            raise InputError(f"-p {pair!r}: {name.strip()} is given twice", fix="give it once; `poclab sweep` runs several values")
        found[name.strip()] = parse_value(value) if value.strip() else ""
    return found


#: A file that a run depends on, when a parameter names it; and the parameter that names a folder of such files.
INPUT, FILES = r"[^\n]+\.(?:md|txt|sql|py|db|sqlite3?)", "files"


def check_files(parameters: Mapping[str, Any], known: Mapping[str, kernels.Parameter], poc: Path, *, where: str) -> None:
    """Refuse a parameter that looks like a file of the POC and is none: a text that ends in .md, .txt or .sql."""
    for name, value in parameters.items():
        if is_file_name(value) and not os.path.isfile(poc / value):
            near = _texts(known[name].default, poc)
            raise InputError(
                f"{where}: {name}: no file {value!r} in {poc}", fix=f"use one of: {', '.join(near)}" if near else f"write {value}"
            )


def check_judges(settings: Iterable[Mapping[str, Any]], notebook: Path, poc: Path, *, where: str) -> None:
    """Refuse a parameter that the notebook makes a judge of, as in `Judge(judge)`, and that is no rubric."""
    calls = [node for node in _nodes(notebook) if isinstance(node, ast.Call) and _name(node.func) == "Judge"]
    names = {one.id for node in calls for one in _named(node) if isinstance(one, ast.Name)}
    for name, value in dict.fromkeys((name, one[name]) for one in settings for name in names & one.keys() if isinstance(one[name], str)):
        try:  # as in the kernel, a path is one from the POC's folder; an empty name is no judge
            _ = value and Rubric.named(poc / value if value.endswith((".yaml", ".yml")) else value, poc)
        except InputError as error:
            raise InputError(f"{where}: {name}: {error.message}", fix=error.fix) from None


def _texts(default: Any, poc: Path) -> list[str]:
    """Return the files of its kind beside the default of a parameter; of one without such a default, the texts in the POC's folders."""
    folders, kind = ([(poc / default).parent], Path(default).suffix) if is_file_name(default) else (poc.glob("[!.]*/"), "")
    found = (one for folder in folders for one in folder.glob("*") if is_file_name(one.name) and one.name.endswith(kind))
    return sorted(os.path.relpath(one, poc) for one in found)[:12]


def is_file_name(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"[^\n]{1,200}\.(?:md|txt|sql)", value))


def named_paths(parameters: Mapping[str, Any], poc: Path) -> tuple[str, ...]:
    """Return the files that parameters name, from the POC's folder: texts, tools and databases by their endings, and the folder of `files`.

    Other folders may be where a notebook writes to. A notebook's default may name a file that this POC does not have.
    """
    texts = {name: value for name, value in parameters.items() if isinstance(value, str) and 0 < len(value) <= 200}
    named = {value for value in texts.values() if re.fullmatch(INPUT, value) and (poc / value).is_file()}
    return tuple(sorted(named | {value for name, value in texts.items() if name == FILES and (poc / value).is_dir()}))


def file_digests(parameters: Mapping[str, Any], poc: Path) -> dict[str, str]:
    """Return the digest of each file and folder that parameters name: a trial is another one when its prompt or its world was edited."""
    return {one: content_digest(poc / one) for one in named_paths(parameters, poc)}


def content_digest(path: Path) -> str:
    """Return the digest of a text, of any other file with the log that a database has beside it, or of all files of a folder."""
    if is_file_name(path.name):
        return digest(read_text(path))
    log = path.with_name(f"{path.name}-wal")
    found = {one: one.read_bytes() for one in ([path, log] if path.is_file() else path.rglob("*")) if one.is_file()}
    # An empty log comes and goes with whoever reads.
    return digest({one.relative_to(path.parent).as_posix(): digest(content) for one, content in found.items() if content or one != log})


def _points(data: Mapping[str, Any], path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return every point, the included ones first, and how many those are."""
    fixed = data.get("fixed") or {}
    include = data.get("include") or []
    if not isinstance(fixed, dict):
        raise InputError(f"{path}: fixed holds `name: value` lines, found {fixed!r}")
    if not isinstance(include, list) or not all(isinstance(one, dict) for one in include):
        raise InputError(f"{path}: include is a list of `name: value` mappings, found {include!r}")
    method = data.get("method", "grid")
    refuse_unknown([method], METHODS, where=str(path), what="method")
    if method == "grid" and (drawn := [key for key in ("run_cap", "seed") if key in data]):
        raise InputError(f"{path}: {drawn[0]} is for method: random or tpe", fix="a grid has all of its points")
    points_of = METHODS[method]
    if not points_of and not include:  # what is proposed is held against something
        include = [{}]
    return [{**fixed, **one} for one in include] + (points_of(data, fixed, where=str(path)) if points_of else []), len(include)


def _repeated(data: Mapping[str, Any], known: Mapping[str, kernels.Parameter], path: Path) -> Mapping[str, Any]:
    """Return a file's data with `repeat` as the parameter of the notebook that it stands for, fixed."""
    repeat = data.get("repeat")
    if repeat is None:
        return data
    if not _is_count(repeat) or not repeat:
        raise InputError(f"{path}: repeat is {repeat!r}", fix="repeat: 3, how often each case is asked")
    if REPEATS not in known:
        raise InputError(
            f"{path}: repeat: the notebook has no parameter `{REPEATS}`",
            fix=f"write `{REPEATS}: int = 1` into its parameters cell, and pass it to poclab.evaluate",
        )
    included = data.get("include") or []
    parts = [data.get("fixed") or {}, data.get("parameters"), *(included if isinstance(included, list) else [])]
    if any(isinstance(one, dict) and REPEATS in one for one in parts):
        raise InputError(f"{path}: both `repeat` and the parameter `{REPEATS}` are given, which are the same", fix="give one of them")
    return {**data, "fixed": {**parts[0], REPEATS: repeat}} if isinstance(parts[0], dict) else data  # the next look refuses it


def _trials(found: Sequence[dict[str, Any]], known: Mapping[str, kernels.Parameter], poc: Path) -> tuple[Trial, ...]:
    unique = list({canonical(point): point for point in found}.values())
    return tuple(_trial(point, unique[0], known) for point in unique)


def _trial(point: Mapping[str, Any], first: Mapping[str, Any], known: Mapping[str, kernels.Parameter]) -> Trial:
    """Return the trial at a point, named by what differs from the first one."""
    names = dict.fromkeys([*first, *point])
    changes = [(name, first.get(name, known[name].default), point.get(name, known[name].default)) for name in names]
    changed = ", ".join(f"{name} {_short(old)} -> {_short(new)}" for name, old, new in changes if old != new)
    return Trial(_with_poc(point, known), changed or BASELINE)


def _with_poc(parameters: Mapping[str, Any], known: Mapping[str, kernels.Parameter]) -> dict[str, Any]:
    # The kernel runs in the POC folder, wherever the notebook lies.
    return {**parameters, "poc": "."} if "poc" in known else dict(parameters)


def _short(value: Any) -> str:
    text = Path(value).stem if is_file_name(value) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _metric(data: Any, scores: Sequence[str], path: Path) -> tuple[str, bool]:
    if data is None:
        return "accuracy", True
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise InputError(f"{path}: metric: found {data!r}", fix="metric: {name: accuracy, goal: maximize}")
    refuse_unknown(data, ("name", "goal"), where=f"{path}: metric")
    goal = data.get("goal", "maximize")
    refuse_unknown([goal], GOALS, where=f"{path}: metric", what="goal")
    refuse_unknown([data["name"]], [*METRICS, *scores], where=str(path), what="metric")
    return data["name"], goal == "maximize"


def scores_of(sweep: Sweep) -> list[str]:
    """Return what the notebook of a sweep may score by, as far as its source tells."""
    return _scores(sweep.notebook, sweep.all_trials, kernels.read_parameters(sweep.notebook))


def _scores(notebook: Path, trials: Sequence[Trial], known: Mapping[str, kernels.Parameter]) -> list[str]:
    """Return what a notebook may score by, from its source: what stands in a list, called or by name, and what it defines.

    `[scores.exact(), mine]` gives exact and mine; `def mine(...)`, `Scorer("mine", ...)` and `Judge("mine")` give mine, and `Judge(name)`
    what the parameter `name` is in these trials.
    """
    found: list[str] = []
    values = [{**{name: one.default for name, one in known.items()}, **trial.parameters} for trial in trials]
    for node in _nodes(notebook):
        if isinstance(node, (ast.List, ast.Tuple)):
            found += [_name(one.func if isinstance(one, ast.Call) else one) for one in node.elts]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append(node.name)
        elif isinstance(node, ast.Call) and _name(node.func) in MADE:
            given = _named(node)
            found += [one.value for one in given if isinstance(one, ast.Constant)]
            found += [Path(str(setting.get(one.id) or "")).stem for one in given if isinstance(one, ast.Name) for setting in values]
    return [name for name in dict.fromkeys(found) if name and name not in MADE]


def _nodes(notebook: Path) -> Iterator[ast.AST]:
    """Yield all that a notebook's source says, cell by cell; a cell that is no Python is left out: its trial will say so."""
    for source, _ in kernels.code_cells(notebook):
        with contextlib.suppress(SyntaxError, ValueError, MemoryError, RecursionError):
            yield from ast.walk(ast.parse(kernels.MAGIC.sub("", source)))


def _named(call: ast.Call) -> list[ast.expr]:
    """Return what a call that makes a score is given as its name."""
    return [*call.args[:1], *(one.value for one in call.keywords if one.arg in ("name", "rubric"))]


def _name(node: ast.expr) -> str:
    """Return the last name of `name` or `module.name`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _screen(data: Any, trials: Sequence[Trial], known: Mapping[str, kernels.Parameter], path: Path) -> Screen:
    found = InputError(f"{path}: screen: found {data!r}", fix="screen: {cases: 30, keep: 0.33}")
    if not isinstance(data, dict):
        raise found
    refuse_unknown(data, ("cases", "keep"), where=f"{path}: screen")
    cases, keep = data.get("cases"), data.get("keep", 0.33)
    if not _is_count(cases) or not cases or type(keep) not in (int, float) or not 0 < keep < 1:
        raise found
    for trial in trials:
        split = trial.parameters.get("split", known["split"].default if "split" in known else None)
        if split != "dev":
            raise InputError(
                f"{path}: screen: {trial.name}: split is {split!r}", fix="held-out cases are for one look at all of them: split: dev"
            )
    return Screen(cases, float(keep))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _limits(limits: Any, path: Path) -> dict[str, Any]:
    """Return the limits of a file, or their defaults."""
    if limits is not None and not isinstance(limits, dict):
        raise InputError(f"{path}: limits: found {limits!r}", fix="limits: {jobs: 2}")
    given = {name: default for name, (default, _, _) in LIMITS.items()} | (limits or {})
    refuse_unknown(given, LIMITS, where=f"{path}: limits")
    for name, value in given.items():
        default, allowed, example = LIMITS[name]
        if value is not default and not allowed(value):
            raise InputError(f"{path}: limits.{name} is {value!r}", fix=f"{name}: {example}")
    return given
