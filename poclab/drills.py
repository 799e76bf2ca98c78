"""Drill a system on what can go wrong, before its users meet it: the same cases under each fault, and how many survive.

First the cases are answered undisturbed, from the ledger where it has them; then once under each of `faults`. What a fault does not
change is replayed, so that a drill costs little the first time and nothing the second. The same seed and ledger give the same table.
Nothing is recorded as a run. A case that never met the fault (no answer was JSON, nothing was retrieved) does not count for it.

What survives, by what is expected:

    answers    not failed, and right where the case was right undisturbed
    abstains   not failed, and the reply abstains (`scores.abstained`)
    reports    within its time the system raised an error, abstained in words, or was right all the same
    resists    not failed, and the reply does not hold the word that the injected command asks for

Not covered: prompts that dictate words of abstention of their own, several faults at once, and attacks cleverer than one sentence.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poclab import arguments, runner, tracking
from poclab.archive import Archive
from poclab.cases import Case, TestSet
from poclab.errors import InputError, printable, refuse_unknown
from poclab.evaluation import Malformed, Plan, Task, Watch
from poclab.faults import FAULTS, Fault, Hang, ServerError, SlowAnswer, Undisturbed
from poclab.files import canonical, digest, read_json, work_folder, write_atomic
from poclab.report import DRILL_FILE, CaseResult, faults_met
from poclab.requests import ruling
from poclab.scores import abstained
from poclab.stats import Estimate, edges, mean_estimate
from poclab.system import UNDER_WAY, Call, Version
from poclab.tables import block, cut, frame, html_table, money, paragraph, text_table

if TYPE_CHECKING:
    import pandas

#: What a kernel is to drill, as JSON: the options of `drill`, and the `folder` that takes the result. Its `evaluate` drills instead.
DRILL = "POCLAB_DRILL"
FORMAT = 2
#: How many cases meet each fault; a drill with fewer, where there are so many, is a part of one.
CASES = 20
NOTHING_TO_LOSE = "no case is right without it"
EXAMPLES, LONGEST_EXAMPLE = 3, 160
#: The faults in which a case waits.
WAITING = (Hang.name, ServerError.name, SlowAnswer.name)
PLAIN = (
    "test_set",
    "lock_digest",
    "seed",
    "timeout_s",
    "whole",
    "drawn",
    "right",
    "failing",
    "code_digest",
    "corpus_digest",
    "live_calls",
    "cost_usd",
)
COLUMNS = ("fault", "expected", "survived", "interval", "n", "not survived")


@dataclass(frozen=True)
class _Met:
    """What came of a case under a fault; `silent` if it told its user nothing: it ran out of time, or returned no reply."""

    fault: Fault
    result: CaseResult
    silent: bool


@dataclass(frozen=True)
class Example:
    """A case that did not survive, and what it replied or raised."""

    case_id: str
    what: str


@dataclass(frozen=True)
class Row:
    """What became of the cases that met one fault: by id, whether each survived; `note` says why there are none."""

    fault: str
    expected: str
    cases: Mapping[str, bool]
    examples: tuple[Example, ...] = ()
    note: str = ""

    @property
    def survivors(self) -> int:
        return sum(self.cases.values())


@dataclass(frozen=True)
class Drill:
    """A system under each fault. `live_calls` were asked now, at `cost_usd` (None: unknown); the others were replayed.

    It is `whole` if it was all faults that so many cases met; by any other, no criterion is judged.
    """

    version: Version
    test_set: str
    lock_digest: str
    seed: int
    timeout_s: float
    rows: tuple[Row, ...]
    whole: bool
    #: How many cases were drawn; of these, without a fault, so many are right, and so many fail.
    drawn: int
    right: int
    failing: int
    code_digest: str
    corpus_digest: str | None = None
    clusters: Mapping[str, str | None] = field(default_factory=dict)
    live_calls: int = 0
    cost_usd: float | None = 0.0

    def survived(self, row: Row) -> Estimate | None:
        """Return the share of a fault's cases that survived it, with its interval; None where the fault did not apply."""
        return self._share({case_id: float(did) for case_id, did in row.cases.items()})

    @property
    def survival(self) -> Estimate | None:
        """The mean over the cases of the share of faults that each survived, of those that it met; None where none met any."""
        met: dict[str, list[bool]] = {}
        for row in self.rows:
            for case_id, did in row.cases.items():
                met.setdefault(case_id, []).append(did)
        return self._share({case_id: sum(did) / len(did) for case_id, did in sorted(met.items())})

    def _share(self, shares: Mapping[str, float]) -> Estimate | None:
        return mean_estimate(list(shares.values()), clusters=[self.clusters.get(one) for one in shares]) if shares else None

    def content_digest(self) -> str:
        """Return the digest of all that does not depend on what the ledger held, or on the clock."""
        data = self.to_json()
        return digest({name: value for name, value in data.items() if name not in ("live_calls", "cost_usd")})

    def frame(self) -> pandas.DataFrame:
        """Return the table as a DataFrame."""
        return frame(dict(zip(COLUMNS, cells, strict=True)) for cells in self._cells())

    def _cells(self) -> Iterator[list[Any]]:
        for row in self.rows:
            found, first = self.survived(row), row.examples[0] if row.examples else None
            number = [f"{found.value:.3f}", edges(found.low, found.high)] if found else ["does not apply", ""]
            yield [row.fault, row.expected, *number, len(row.cases), f"{first.case_id}: {first.what}" if first else row.note]

    def _notes(self) -> list[str]:
        survival = self.survival
        calls = f"{self.live_calls} call(s) were asked live, for {money(self.cost_usd)}" if self.live_calls else "nothing was asked live"
        return [
            f"survival {survival}; {faults_met(row.cases for row in self.rows)}" if survival else "survival: no case met any fault",
            f"{self.version.name} (version {self.version.digest[:12]}); lock {self.lock_digest[:12]}; seed {self.seed}; {self.timeout_s:g} s a case",
            f"{calls}. Intervals are 95%.",
            *(
                []
                if self.whole
                else [f"a part of a drill: the charter's survival takes all faults, and {CASES} cases if there are so many"]
            ),
            f"Without a fault {self.right} of {self.drawn} cases are right, and {self.failing} fail, which are left out.",
            "answers: still right, of those that are right without it; abstains: says that it does not know; reports: an error, an abstention or a right answer in time; "
            "resists: does not obey the passage",
        ]

    def __repr__(self) -> str:
        rows = [[*cells[:-1], cut(printable(cells[-1]), 80)] for cells in self._cells()]
        return "\n".join([text_table(COLUMNS, rows), "", *map(printable, self._notes())])

    def _repr_html_(self) -> str:
        return block(html_table(COLUMNS, self._cells()), *map(paragraph, self._notes()))

    def to_json(self) -> dict[str, Any]:
        rows = [{**dataclasses.asdict(row), **_numbers(self.survived(row))} for row in self.rows]
        data = {name: getattr(self, name) for name in PLAIN} | {"clusters": dict(self.clusters), "rows": rows}
        return {"format": FORMAT, "version": self.version.to_json(), **data, "survival": _numbers(self.survival)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Drill:
        plain = {name: data[name] for name in (*PLAIN, "clusters")}
        return cls(Version.from_json(data["version"]), rows=tuple(map(_row, data["rows"])), **plain)

    def save(self, path: Path | str) -> Path:
        """Write the drill as JSON."""
        return write_atomic(Path(path), json.dumps(self.to_json(), ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Drill:
        """Read a drill that was saved.

        Raises:
            InputError: no such file, or it holds no drill.
        """
        data = read_json(path)
        try:
            if data["format"] != FORMAT:
                raise InputError(f"{path}: a drill of format {data['format']!r}, expected {FORMAT}", fix="drill again with this poclab")
            return cls.from_json(data)
        except (KeyError, TypeError, AttributeError, ValueError):
            raise InputError(f"{path}: no drill", fix="`poclab drill` writes one") from None


def _row(data: Mapping[str, Any]) -> Row:
    examples = tuple(Example(**one) for one in data["examples"])
    return Row(data["fault"], data["expected"], dict(data["cases"]), examples, data["note"])


def _numbers(estimate: Estimate | None) -> dict[str, Any]:
    found = dataclasses.asdict(estimate) if estimate else dict.fromkeys(("value", "low", "high")) | {"n": 0}
    return {name: None if isinstance(value, float) and math.isinf(value) else value for name, value in found.items()}


def drill(
    system: Callable[[dict[str, Any]], Any],
    cases: TestSet | Iterable[Case],
    scores: Sequence[Any],
    *,
    version: Version | None = None,
    seed: int = 0,
    cases_per_fault: int = CASES,
    timeout_s: float = 10.0,
    workers: int = 8,
    faults: Sequence[str] | None = None,
    max_cost_usd: float | None = None,
    keep: bool = True,
) -> Drill:
    """Ask a system some of its cases under each fault, and return how many it survives.

    The arguments are those of `evaluate`, of whose scores the first says what is right. The same `cases_per_fault` cases, drawn by
    `seed`, meet each of `faults` (all, without any named; their names are `faults.FAULTS`). A case has `timeout_s` for all its attempts.
    Cases of no POC have no ledger: then every answer is asked, and paid, for each fault again. What a POC `keep`s of it, reports,
    decisions and handoffs find.

    Raises:
        InputError: something about the arguments, held-out cases among them, or a budget that does not reach.
        FrozenError: the cases are not the whole split as it was frozen.
        EndpointError: the first five cases all met what every case would meet, such as a refused key.
    """
    test_set, scorers, used = arguments.checked(system, cases, scores, version, timeout_s=timeout_s, workers=workers)
    names = chosen(faults)
    drawn = _drawn(test_set, seed, cases_per_fault)
    budget = arguments.open_budget(test_set.poc, max_cost_usd)

    part = TestSet(tuple(drawn), None, test_set.path, test_set.part)
    plan = Plan(system, part, scorers[:1], used, traces="none", timeout_s=timeout_s, mode="auto", budget=budget)
    found: dict[str, list[Any]] = {}

    def tasks(kind: type[Fault]) -> Iterator[Task]:
        for case in drawn:
            fault = kind(case, seed, timeout_s, found)
            yield plan.task(dataclasses.replace(case, inputs=fault.inputs()), fault=fault)

    first = _answered(plan, list(tasks(Undisturbed)), workers)
    before = {one.result.case_id: one.result for one in first}
    # Those in which a case waits come first, so that the others fill the time.
    rest = _answered(plan, [task for name in sorted(names, key=[*WAITING, *names].index) for task in tasks(FAULTS[name])], workers)
    met = {name: [one for one in rest if one.fault.name == name and one.fault.applied] for name in names}
    live = [call for one in (*first, *rest) for call in (*one.result.calls, *one.result.judge_calls) if _was_live(call, one.fault)]
    live += [call for call in plan.outside.calls if not call.replayed]
    drilled = Drill(
        version=plan.version,
        test_set=test_set.name,
        lock_digest=test_set.digest,
        seed=seed,
        timeout_s=float(timeout_s),
        rows=tuple(_judged(FAULTS[name], met[name], before) for name in names),
        whole=len(names) == len(FAULTS) and len(drawn) >= min(CASES, len(test_set)),
        drawn=len(drawn),
        right=sum(map(_right, before.values())),
        failing=sum(one.failure is not None for one in before.values()),
        code_digest=plan.code_digest,
        corpus_digest=plan.corpus_digest,
        clusters={case.id: case.cluster for case in drawn if case.cluster},
        live_calls=len(live),
        cost_usd=None if any(call.cost_usd is None for call in live) else math.fsum(call.cost_usd for call in live),
    )
    if keep and test_set.poc and test_set.lock:
        keep_drill(test_set.poc, drilled)
    return drilled


def keep_drill(poc: Path, found: Drill) -> Path:
    """Keep a drill in the POC, and beside the report of the version's newest run on the same cases: a decision reads it there.

    A part of one stands beside the whole, and takes nobody's place.
    """
    end = "" if found.whole else "-part"
    path = found.save(work_folder(poc, "drills") / f"{found.version.digest[:12]}-{found.seed}{end}" / DRILL_FILE)
    if found.whole:
        archive = Archive.open(poc)
        same = {"version": found.version.digest, "lock": found.lock_digest, "code": found.code_digest, "split": "dev"}
        runs = [row for row in archive.finished if all(row["tags"].get(name) == value for name, value in same.items())]
        if runs:
            sent = {"run_id": runs[-1]["run_id"], "files": {str(path): ""}}
            tracking.recorder().send("artifacts", uri=archive.uri, **sent).result()
    return path


def chosen(faults: Sequence[str] | None) -> list[str]:
    """Return the names of these faults, of all without any.

    Raises:
        InputError: there is no such fault.
    """
    names = list(dict.fromkeys(faults)) if faults else list(FAULTS)
    refuse_unknown(names, FAULTS, where="faults", what="fault")
    return [name for name in FAULTS if name in names]


def _drawn(test_set: TestSet, seed: int, count: int) -> list[Case]:
    """Return the cases that meet each fault, in the order of the set."""
    for name, value, least in (("seed", seed, 0), ("cases_per_fault", count, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{name}={value!r}: expected a whole number of at least {least}")
    if any(case.split == "test" for case in test_set):
        raise InputError("held-out cases are among these: each look at them is counted, and a drill is none", fix='cases.split("dev")')
    places = random.Random(seed).sample(range(len(test_set)), min(count, len(test_set)))
    return [test_set.cases[place] for place in sorted(places)]


def _answered(plan: Plan, tasks: Sequence[Task], workers: int) -> list[_Met]:
    """Return what came of each task, in their order."""
    watch, done = Watch(len(tasks), plan.outside), {}
    run = runner.run(tasks, plan.ask, then=lambda answer: _scored(plan, answer), workers=workers, timeout_s=plan.timeout_s)
    try:
        with ruling(plan.outside):
            for outcome in arguments.progress(iter(run), len(tasks), "drill"):
                result, _ = plan.settle(outcome)
                met = done[outcome.index] = _Met(
                    outcome.task.context.fault, result, outcome.timed_out or isinstance(outcome.error, Malformed)
                )
                if isinstance(met.fault, Undisturbed) or result.failure == "budget" or plan.outside.stop:
                    watch.take(outcome, result)
                if watch.error:
                    raise watch.error
                if watch.stopped:
                    raise InputError(f"the drill is not complete: {watch.stopped}", fix="raise max_cost_usd: what was answered is replayed")
    finally:
        run.close()
    return [done[index] for index in sorted(done)]


def _scored(plan: Plan, answer: Any) -> Any:
    """Score a reply where it matters whether it is right: a judge costs money."""
    return plan.score(answer) if answer.task.context.fault.expected in ("answers", "reports") else answer


def _judged(kind: type[Fault], met: Sequence[_Met], before: Mapping[str, CaseResult]) -> Row:
    tell = [one for one in met if _tells(kind, before[one.result.case_id])]
    judged = {one.result.case_id: _survived(one) for one in tell}
    lost = [one.result for one in tell if not judged[one.result.case_id]]
    examples = tuple(Example(one.case_id, _told(one)) for one in lost[:EXAMPLES])
    return Row(kind.name, kind.expected, judged, examples, "" if tell else NOTHING_TO_LOSE if met else kind.missing)


def _tells(kind: type[Fault], before: CaseResult) -> bool:
    """Tell whether a case can show that a fault does no harm: one that is wrong, or fails, without any has nothing to lose."""
    return _right(before) if kind.expected == "answers" else not before.failure


def _survived(met: _Met) -> bool:
    """Tell whether a case did what is expected under a fault."""
    fault, result, reply = met.fault, met.result, met.result.reply
    if fault.expected == "reports":
        if result.failure:
            return not met.silent
        return _right(result) or bool(reply.text.strip() and abstained(reply))
    if result.failure:
        return False
    if fault.expected == "resists":
        return fault.canary not in canonical([reply.text, reply.data, list(reply.effects)])
    return abstained(reply) if fault.expected == "abstains" else _right(result)


def _right(result: CaseResult) -> bool:
    first = next(iter(result.scores.values()), None)
    return first is not None and first.right


def _told(result: CaseResult) -> str:
    if result.failure:
        return cut(f"{result.failure}: {result.problem}", LONGEST_EXAMPLE)
    reply = result.reply
    return cut(f"replied {reply.text!r}" if reply.data is None else f"replied {canonical(reply.data)}", LONGEST_EXAMPLE)


def _was_live(call: Call, fault: Fault) -> bool:
    """Tell whether a call was asked, and may be billed. A request that was under way in a hang was never sent."""
    return not call.replayed and (call.status // 100 == 2 or (call.status == UNDER_WAY and fault.name not in WAITING))
