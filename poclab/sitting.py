"""What a person tries at one sitting: a question, a sample of dev, or all of it, each answer beside that of a baseline. No widgets here.

Everything is asked as an evaluation asks it: answers that the ledger has are replayed, the others are paid for and kept. Only a whole run
of dev is recorded; tries and samples are shown, and are in no history. The held-out cases cannot be asked from here.
A sample is always the same cases of a lock, so that two versions meet the same ones.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from poclab import arguments, comparison, experiment, rag, runner, scores
from poclab.archive import Archive, load_run
from poclab.cases import Case, TestSet, first_input
from poclab.comparison import Candidate, Comparison
from poclab.errors import InputError, PocError
from poclab.evaluation import Plan
from poclab.files import read_text, require_poc, write_atomic
from poclab.ledger import LEDGER, Ledger
from poclab.recording import Recording, register
from poclab.report import CaseResult, Report, billed
from poclab.requests import ruling
from poclab.system import CaseContext, Prompt, Version
from poclab.tables import cut, money
from poclab.tracking import routes
from poclab.tracking.server import base_of

TRY, SAMPLE, RUN = "try", "sample", "run"
#: The id of a question that is no case.
OWN = "(a question of your own)"
FIXED, BROKEN = "fixed", "broken"
WORKERS, TIMEOUT_S = 8, 60.0
#: Characters of a prompt's file name.
LONGEST_NAME = 100


@dataclass(frozen=True)
class Attempt:
    """What came of a version. `compared` holds it against the `baseline` on the same cases; where that cannot be, `note` says why."""

    number: int
    kind: str
    report: Report
    baseline: Report | None = None
    compared: Comparison | None = None
    note: str = ""
    #: The address of a trace without its id; empty where none is recorded.
    traces: str = ""

    @property
    def candidate(self) -> Candidate | None:
        return self.compared.candidates[0] if self.compared else None

    @property
    def fit(self) -> bool:
        """Whether it can be a baseline: more than one question, each asked, and not all of them failed."""
        return self.kind != TRY and not self.report.partial and self.report.failed < len(self.report.results)

    @cached_property
    def became(self) -> dict[str, str]:
        """What became of each case, those first that one wants to read: fixed, broken, failed and wrong ones, then the rest."""
        moved = {one.case_id: FIXED for one in self.candidate.fixed} if self.candidate else {}
        moved |= {one.case_id: BROKEN for one in self.candidate.broken} if self.candidate else {}
        found = {name: moved.get(name) or self._outcome(results) for name, results in self.report.by_case.items()}
        rank = {FIXED: 0, BROKEN: 1, "ok": 3}
        return dict(sorted(found.items(), key=lambda item: rank.get(item[1], 2)))

    @staticmethod
    def _outcome(results: Sequence[CaseResult]) -> str:
        return next((one.outcome for one in results if one.outcome != "ok"), "ok")

    def question(self, case_id: str) -> str:
        return first_input(self.report.by_case[case_id][0].inputs)

    def before(self, case_id: str) -> Sequence[CaseResult]:
        """Return what the baseline answered to a case, if it did."""
        return self.baseline.by_case.get(case_id, ()) if self.baseline else ()

    def trace(self, case_id: str) -> str:
        """Return the address of the trace of a case; nothing where none is recorded."""
        trace_id = self.report.by_case[case_id][0].trace_id if self.traces else None
        return f"{self.traces}{trace_id}" if trace_id else ""

    @property
    def paid(self) -> str:
        """How many answers came from the ledger, and what the others cost."""
        calls = [call for one in self.report.results for call in one.billed_calls]
        replayed = sum(call.replayed for call in calls)
        if not calls:
            return "no model call was seen"
        asked = f"{len(calls) - replayed} asked now, for {money(self.report.spent_usd)}" if replayed < len(calls) else "none asked now"
        return f"{replayed} of {len(calls)} answers from the ledger, {asked}"


class Stop:
    """Lets one thread stop what another one asks."""

    def __init__(self) -> None:
        self.asked = False
        self._run: runner.Run[Any] | None = None

    def __call__(self) -> None:
        self.asked = True
        if self._run:
            self._run.interrupt()

    def follow(self, run: runner.Run[Any]) -> None:
        """Stop this run when it is asked for; at once, if it was."""
        self._run = run
        if self.asked:
            raise KeyboardInterrupt


@dataclass
class Sitting:
    """A POC, its dev cases, a baseline and the attempts so far. `build` makes a system from a version.

    Raises:
        FrozenError: the cases are not what their lock says.
        InputError: no POC there, or an amount that is none.
    """

    poc: Path
    build: Callable[[Version], Any] | None = None
    scorers: Sequence[Any] = ()
    max_cost_usd: float | None = None
    baseline: Report | None = None
    #: What the sitting began with, by which versions are told apart until there is a baseline.
    origin: Version | None = None
    attempts: list[Attempt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.poc = require_poc(self.poc)
        every = TestSet.load(self.poc / "cases.jsonl")
        self.cases = every.split("dev")
        self._held_out = {_plain(one) for case in every if case.split != "dev" for one in (case.id, *case.inputs.values())}
        self.build = self.build or self._reference
        self.scorers = list(self.scorers) or [scores.contains(), scores.evidence_recall(), scores.abstains()]
        self.budget = arguments.open_budget(self.poc, self.max_cost_usd)
        self._built: tuple[str, Any] | None = None
        self._one = threading.Lock()
        #: What each attempt paid so far, those that were stopped or failed, too.
        self._paid: list[float | None] = []
        self._contexts: list[CaseContext] = []

    @cached_property
    def corpus(self) -> rag.Corpus:
        return rag.load_corpus(self.poc)

    def _reference(self, version: Version) -> rag.Rag:
        return rag.build(version, corpus=self.corpus)

    def best_so_far(self, fits: Callable[[Collection[str]], bool]) -> Report | None:
        """Return the best recorded run on the dev cases as they are frozen now, of versions whose parameters' names fit; None without one."""
        archive = Archive.open(self.poc)
        ranked = archive.best_of_each_version()
        best = next((row for row in ranked if row["tags"].get("lock") == self.cases.digest and fits(row["params"].keys())), None)
        return load_run(best["run_id"], self.poc) if best else None

    def name(self, version: Version) -> str:
        """Return what a version changes against the baseline, else against what the sitting began with: so a run of it is called."""
        start = self.baseline.version if self.baseline else self.origin
        if start is None:
            return version.name
        changed = comparison.changes(start, version)
        return ", ".join(f"{key} {old} -> {new}" for key, (old, new) in changed.items()) or start.name

    def ask(self, asked: str, version: Version, *, show: Callable[[int, int], None], stop: Stop) -> Attempt:
        """Ask one question, or the dev case of that id.

        Raises:
            InputError: a held-out case, or nothing to ask.
        """
        if not (asked := asked.strip()):
            raise InputError("no question", fix="type one, or the id of a dev case")
        case = next((one for one in self.cases if one.id == asked), None)
        if case is None and _plain(asked) in self._held_out:
            raise InputError(f"{cut(asked, 60)!r} is held out: it is for the decision", fix="ask one of the dev cases")
        case = case or Case(OWN, {self._input(): asked})
        return self._attempt(TRY, dataclasses.replace(self.cases, cases=(case,)), version, show, stop)

    def sample(self, count: int, version: Version, *, show: Callable[[int, int], None], stop: Stop) -> Attempt:
        """Ask so many of the dev cases, always the same ones."""
        return self._attempt(SAMPLE, arguments.sampled(self.cases, count), version, show, stop)

    def run(self, version: Version, *, show: Callable[[int, int], None], stop: Stop) -> Attempt:
        """Ask all dev cases, and record that as a run."""
        return self._attempt(RUN, self.cases, version, show, stop)

    def _input(self) -> str:
        """Return the name of the one input that the cases have."""
        names = {name for case in self.cases for name in case.inputs}
        if len(names) > 1:
            raise InputError(
                f"the cases have several inputs ({', '.join(sorted(names))}), one text does not fill them", fix="ask a case by its id"
            )
        return names.pop()

    def _attempt(self, kind: str, cases: TestSet, version: Version, show: Callable[[int, int], None], stop: Stop) -> Attempt:
        def through(run: runner.Run[Any], total: int, name: str) -> Iterator[Any]:
            stop.follow(run)
            show(0, total)
            for done, outcome in enumerate(run, start=1):
                yield outcome
                show(done, total)

        with self._one:
            try:
                report = self._report(kind, cases, version, through)
            except experiment.Interrupted as stopped:
                if stopped.report.partial:
                    raise
                report = stopped.report  # it came too late: all was answered
            finally:
                self._paid.append(_cost(self._contexts))
                self._contexts = []
            attempt = self._beside(kind, report)
            self.attempts.append(attempt)
            return attempt

    def _report(self, kind: str, cases: TestSet, version: Version, through: experiment.Through[Any]) -> Report:
        plan = self._plan(kind, cases, version)
        self._contexts += [plan.outside, *(one for task in plan.tasks for one in (task.context, task.judging))]
        recording = Recording.open(plan) if kind == RUN else Recording(plan, None, None)
        return experiment.carry_out(plan, recording, WORKERS, through=through)

    def _plan(self, kind: str, cases: TestSet, version: Version) -> Plan:
        self._contexts = [CaseContext(poc=self.poc, budget=self.budget)]
        with ruling(self._contexts[0]):  # what an index is built with is paid from here, too
            system = self._system(version)
        # The whole split is what was frozen; a part of it is what is asked.
        _, scorers, used = arguments.checked(system, self.cases, self.scorers, version, timeout_s=TIMEOUT_S, workers=WORKERS)
        named = Version(self.name(used), **used.parameters)
        return Plan(system, cases, scorers, named, traces="all" if kind == RUN else "none", timeout_s=TIMEOUT_S, budget=self.budget)

    def _system(self, version: Version) -> Any:
        if self._built is None or self._built[0] != version.digest:
            self._built = version.digest, self.build(version)
        return self._built[1]

    def _beside(self, kind: str, report: Report) -> Attempt:
        """Hold a report against the baseline, on the cases that both answered."""
        number = len(self.attempts) + 1
        traces = self._traces(report) if report.run_id else ""
        common = report.by_case.keys() & self.baseline.by_case.keys() if self.baseline else set()
        if not common:
            note = (
                "" if kind == TRY else "there is no baseline yet" if self.baseline is None else "the baseline answered none of these cases"
            )
            return Attempt(number, kind, report, note=note, traces=traces)
        before, after = (
            (self.baseline, report) if len(common) == len(self.cases) else (_part(one, common) for one in (self.baseline, report))
        )
        try:
            compared = experiment.compare(before, after, poc=self.poc) if kind == RUN else comparison.compare(before, after)
        except PocError as error:
            return Attempt(number, kind, report, before, note=error.message, traces=traces)
        return Attempt(number, kind, report, before, None if kind == TRY else compared, traces=traces)

    def _traces(self, report: Report) -> str:
        """Return the address of a trace of this report, without its id."""
        archive = Archive.open(self.poc)
        experiment_id = next(row["experiment_id"] for row in archive.every if row["run_id"] == report.run_id)  # it may have failed
        return f"{base_of(archive.uri)}/{routes.trace(experiment_id, '')}"

    @property
    def spent(self) -> str:
        """What this sitting has paid, and what it may."""
        if self.budget:
            found = Ledger.open(self.poc / LEDGER).spent(self.budget)
            return f"{money(found.used_usd)} of {money(found.limit_usd)} spent"
        paid = [*self._paid, _cost(self._contexts)]
        return f"{money(None if None in paid else sum(paid))} spent, no limit set"

    def free_name(self, name: str) -> str:
        """Return a name for a prompt file that nothing has yet: `abstain.md`, else `abstain_2.md`, and so on."""
        stem, suffix = Path(name).stem, Path(name).suffix
        stem = re.sub(r"_\d+$", "", stem)
        names = itertools.chain([name], (f"{stem}_{number}{suffix}" for number in itertools.count(2)))
        return next(one for one in names if not (self.poc / "prompts" / one).exists())

    def keep(self, name: str, text: str, *, over: str | None = None) -> tuple[Path, str]:
        """Write a prompt to its file in `prompts/`, and register it; return the file, and what it is registered as.

        `over` is the text that the file is known to hold: one that says something else is not written over.

        Raises:
            InputError: no name for a file there, an empty prompt, or a file that says something else.
        """
        if not name or Path(name).name != name or name.startswith(".") or not name.isprintable() or len(name) > LONGEST_NAME:
            raise InputError(f"{cut(name, LONGEST_NAME)!r} is no name for a prompt file", fix="short_answers.md")
        if not text.strip():
            raise InputError("the prompt is empty", fix="write the instructions, with {{question}} where the question goes")
        path = self.poc / "prompts" / (name if Path(name).suffix[1:].isalpha() else f"{name}.md")
        if path.exists() and read_text(path) not in (text, over):
            raise InputError(f"{path.name} is there, and says something else", fix="choose another name")
        write_atomic(path, text)
        return path, register(self.poc, Prompt.load(path))


def _plain(text: object) -> str:
    """Return a text as it is told from others, whatever its case and white space."""
    return " ".join(str(text).casefold().split())


def _cost(contexts: Sequence[CaseContext]) -> float | None:
    """Return what was paid in these contexts; None where a price or a count of tokens is missing."""
    paid = [call.cost_usd for one in contexts for call in billed(one.calls) if not call.replayed]
    return None if None in paid else sum(paid)


def _part(report: Report, cases: set[str]) -> Report:
    """Return the part of a report that is of these cases; it is no run any more."""
    results = tuple(one for one in report.results if one.case_id in cases)
    return dataclasses.replace(report, results=results, planned=len(results), run_id=None, link=None, stopped="", drill=None)
