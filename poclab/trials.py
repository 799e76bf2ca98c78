"""Run the trials of a sweep: a kernel each, a run each, and a record that makes a rerun free.

A trial that stands in the `journal` as `ok` is not run again while notebook, parameters, files they name, lock, corpus and code are the
same. A trial is `ok` only when its report is
there, whole, and of the parameters that were asked for; what the notebook says of itself is not trusted.
A driver that is killed leaves the trials that were running to be run again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poclab import kernels, projection, rehearsals, tracking
from poclab.cases import TestSet
from poclab.charter import METRICS
from poclab.drift import code_digests, corpus_digest, rubric_digests, rubric_texts
from poclab.errors import InputError, PocError, Stopped
from poclab.evaluation import user
from poclab.executors import DENSE, LOST, PRELOADED, STORE, Executor, Local, Order, chosen
from poclab.files import digest, plain, read_json, read_text, work_folder, write_atomic
from poclab.journal import Journal
from poclab.ledger import LEDGER, Ledger, Spent
from poclab.progress import Progress
from poclab.projection import Projection
from poclab.recording import LONGEST_PARAM, TRIAL_FOLDER, TRIAL_RUN, run_end, run_place
from poclab.redaction import conceal, conceal_json, secrets, shown
from poclab.report import RETRIED, Report
from poclab.requests import BUDGET, MODE, RETRY, SCREEN
from poclab.results import FAILED, HAS_RESULT, Record, Results
from poclab.search import Search
from poclab.sweeps import REPEATS, Sweep, Trial, file_digests, load_sweep
from poclab.tables import money, text_table
from poclab.tracking import notes, queries
from poclab.verdicts import conclude

if TYPE_CHECKING:
    import pandas

#: How often, in seconds, the progress of a sweep is shown anew.
TICK_S = 1.0
#: A trial that ended so is run again, `retries` times, and once at least when its worker died: another time may go well.
AGAIN = ("dead_kernel", "timeout", LOST)
#: What a run of a trial holds besides its notebook, so that it can be run again: see `reproduction`.
TRIAL_FILE = "trial.json"


def plan(sweep: Sweep) -> list[tuple[str, Trial]]:
    """Return each trial with its id: the digest of all that its result depends on.

    Raises:
        FrozenError: the POC's cases are not what their lock says.
        InputError: there are no more cases than trials are to be screened on.
    """
    if sweep.screen and sweep.screen.cases >= (count := len(TestSet.load(sweep.poc / "cases.jsonl").split("dev"))):
        raise InputError(f"screen.cases is {sweep.screen.cases}, and dev has {count}", fix="give fewer cases, or leave out `screen`")
    identify = _identifier(sweep)
    return [(identify(trial), trial) for trial in sweep.trials]


def budget_name(sweep: Sweep) -> str:
    """Return the name of the budget of exactly the trials of the whole sweep, which a part of it is paid from, too."""
    whole = plan(dataclasses.replace(sweep, trials=sweep.all_trials))
    space = [dataclasses.asdict(sweep.space)] if sweep.space else []
    return f"sweep {sweep.name} {digest([*sorted(trial_id for trial_id, _ in whole), *space])[:12]}"


def _identifier(sweep: Sweep) -> Callable[[Trial], str]:
    # The same model name at another address is another model.
    endpoint = os.environ.get("OPENAI_BASE_URL", "")
    common = {"notebook": read_text(sweep.notebook), "code": digest(code_digests(sweep.poc)), "endpoint": endpoint}
    common |= {**_inputs(sweep.poc), **rubric_digests(sweep.poc)}

    def identify(trial: Trial) -> str:
        files = file_digests({**sweep.defaults, **trial.parameters}, sweep.poc)
        return digest({**common, "parameters": trial.parameters, "files": files})[:16]

    return identify


def _inputs(poc: Path) -> dict[str, str | None]:
    return {"lock": TestSet.load(poc / "cases.jsonl").digest, "corpus": corpus_digest(poc)}


def planned_table(sweep: Sweep, *, warm: bool = True) -> str:
    """Return the trials of a sweep as a table, with what is known of each; the kernels that find it out are forked, as for `run_sweep`."""
    planned, driver = plan(sweep), _Driver(sweep, print)
    driver.open_budget()
    known = driver.journal.known()
    planned, left = driver.planned(planned, known)
    todo = {trial_id: trial for trial_id, trial in planned if trial_id not in known}
    projected = _projected(sweep, todo, driver.budget, warm=warm)
    foreseen = {trial_id: one for trial_id, one in projected.items() if isinstance(one, Projection)}
    searched = sweep.space.names if sweep.space else ()
    names = [name for name in dict.fromkeys((*sweep.varied, *searched)) if name != "poc"]
    rows = []
    for trial_id, trial in planned:
        told = foreseen[trial_id].cells() if trial_id in foreseen else ["?" if trial_id in todo else "0", *[""] * 4]
        rows.append([trial_id, "to run" if trial_id in todo else "done", *told, *(trial.parameters.get(one, "(default)") for one in names)])
    heads = ["trial", "state", "cases left", "calls", "tokens in", "tokens out", "cost", *names]
    more = f", and up to {left} that are proposed as others end" if left else ""
    if sweep.screen:
        more += f", first on {sweep.screen.cases} cases, after which {sweep.screen.kept(len(rows))} and the baseline go on: it costs less than is foreseen for all"
    lines = [
        f"{len(rows)} trial{'' if len(rows) == 1 else 's'}, {len(todo)} to run{more}, {sweep.jobs} at a time",
        *projection.summary(list(foreseen.values())),
    ]
    lines += [f"cannot be foreseen: {problem}" for problem in sorted({one for one in projected.values() if isinstance(one, str)})]
    if spent := driver.spent():
        lines.append(str(spent))
        to_pay = projection.total(list(foreseen.values()), "cost_usd")
        if to_pay and to_pay.value > spent.left_usd:
            lines.append(f"this does not fit: {money(spent.left_usd)} is left; raise limits.max_cost_usd")
    return "\n".join([text_table(heads, rows), *lines])


def _projected(sweep: Sweep, todo: Mapping[str, Trial], budget: str | None, *, warm: bool = True) -> dict[str, Projection | str]:
    """Return for each trial that is to run what it is going to take, or why nobody knows; the sweep's budget holds here, too."""
    local = Local(_imports(sweep) if warm and len(todo) > 1 else (), {})

    def one(trial: Trial) -> Projection | str:
        try:
            env = {BUDGET: budget} if budget else {}
            return rehearsals.project(sweep.poc, sweep.notebook, trial.parameters, env=env, zygote=local.zygote)
        except InputError as problem:
            return problem.message

    try:
        with ThreadPoolExecutor(sweep.jobs) as pool:
            return dict(zip(todo, pool.map(one, todo.values()), strict=True))
    finally:
        local.close()


def run_sweep(
    sweep: Sweep,
    *,
    say: Callable[[str], None] = lambda line: None,
    retry_failed: bool = False,
    warm: bool = True,
    resume: bool = False,
    allow_drift: bool = False,
    executor: Any = "local",
) -> Results:
    """Run the trials that have no valid result yet, `sweep.jobs` at a time, and return all results.

    `retry_failed` asks again the cases that the endpoint failed in trials that have one. In mode live all trials are run.
    A trial of other code, cases, documents or files is another one, and run. With `resume` that is refused, for all that a sweep depends
    on, packages and Python among it; `allow_drift` takes the trials that ended before all the same, and the sweep's run says what changed.
    The kernels are forked from a `warm` process that has done the notebook's imports, where there is more than one to run.
    They run on this machine, or where `executor` says: `dask`, `dask=ADDRESS` of a scheduler, or a `distributed.Client`.
    `say` is told of each trial as it ends. A trial that fails does not stop the others.

    Raises:
        InputError: nothing can be resumed, or something changed since; no executor of that name, or it cannot be reached.
        StoreError: the store cannot be used, or the sweep is being run by another process.
    """
    driver = _Driver(sweep, say)
    tracking.check_store(driver.uri)
    planned, inputs = plan(sweep), _inputs(sweep.poc)
    driver.lock_digest = inputs["lock"]
    with driver.journal.alone():
        if resume or allow_drift:
            driver.journal.refuse_drift(allowed=allow_drift)
        known = driver.journal.known(planned if driver.journal.drifted else ())
        driver.again = {trial_id for trial_id, record in known.items() if retry_failed and record.retryable}
        run_all = os.environ.get(MODE) == "live"
        driver.warm, driver.where = warm, executor
        planned, more = driver.planned(planned, known)
        with driver:
            out = driver.screened(planned, known, run_all) if sweep.screen else {}
            todo = [
                (trial_id, trial)
                for trial_id, trial in planned
                if trial_id not in out and (run_all or trial_id not in known or trial_id in driver.again)
            ]
            ran = driver.run(todo, len(todo) + more)
        known |= ran
        ids = dict.fromkeys([*(trial_id for trial_id, _ in planned), *ran])
        records = tuple(out.get(trial_id) or known[trial_id] for trial_id in ids)
        swept = dataclasses.replace(sweep, trials=tuple(Trial(one.parameters, one.name) for one in records)) if sweep.space else sweep
        results = Results(
            swept, records, len(driver.ran), driver.parent, *inputs.values(), budget=driver.spent(), drifted=driver.journal.drifted
        )
        driver.end(results)
        driver.journal.runs.unlink(missing_ok=True)
    return results


def sweep(
    source: Path | str | Mapping[str, Any],
    poc: Path | str | None = None,
    *,
    only: str | None = None,
    jobs: int | None = None,
    retry_failed: bool = False,
    warm: bool = True,
    executor: Any = "local",
) -> pandas.DataFrame:
    """Run a sweep as `poclab sweep` does, tell of each trial as it ends, and return the trials that ended well, the best first.

    `source` is a sweep file, the folder of a POC, or a dict with what stands in such a file: then `poc` is the folder, found as for the
    command line without one. `only` is an expression over parameters; `jobs` trials run side by side, and `executor` says where: `local`, `dask`,
    `dask=ADDRESS`, or a `distributed.Client`.

    Raises:
        InputError: something in the sweep, before a kernel starts; or no trial ended well.
        StoreError: the store cannot be used, or the sweep is being run by another process.
        Stopped: a KeyboardInterrupt, which says how many trials are recorded.
    """
    if not isinstance(source, str | Path | Mapping):
        raise TypeError(f"a sweep is a path or a dict; found {type(source).__name__}")
    if jobs is not None and (type(jobs) is not int or not 1 <= jobs <= 256):
        raise InputError(f"jobs={jobs!r}", fix="jobs=2")
    loaded = load_sweep(source, poc)
    loaded = dataclasses.replace(loaded.only(only) if only else loaded, jobs=jobs or loaded.jobs)
    try:
        results = run_sweep(loaded, say=print, retry_failed=retry_failed, warm=warm, executor=executor)
    except KeyboardInterrupt as stop:
        told = f"stopped. {stop}".strip()
        raise Stopped(f"{told}\n  fix: run this cell again, which goes on from there") from None
    failures = results.failures() if results.errors else ""
    if not results.ranked():
        raise InputError("\n".join(filter(None, (failures, results.stopped))) or "no trial ended well")
    print("\n".join(filter(None, (results.notes(), results.to_retry, results.stopped, failures))))
    return results.frame()


class _Failed(InputError):
    """A trial has no valid result."""

    def __init__(self, message: str, outcome: str, traceback: str = "", *, fix: str = "") -> None:
        self.outcome, self.traceback = outcome, traceback
        super().__init__(message, fix=fix)


class _Driver:
    def __init__(self, sweep: Sweep, say: Callable[[str], None]) -> None:
        self.sweep, self.say = sweep, say
        self.folder = work_folder(sweep.poc, "sweeps", sweep.name)
        self.uri = tracking.tracking_uri(sweep.poc)
        self.journal = Journal(sweep, self.folder, self.uri)
        self.parent: str | None = None
        self.lock_digest = ""
        #: The split of a trial that names none: held-out cases are looked at even when the trial fails.
        self.split = kernels.read_parameters(sweep.notebook).get("split", kernels.NO_PARAMETER).default
        self.place = run_place(sweep.poc, self.uri)
        self.stopped = False
        #: One for each kernel.
        self.places = threading.BoundedSemaphore(sweep.jobs)
        #: Whether what comes of a trial decides if the next one begins.
        self.counts = sweep.max_cost_usd is not None or sweep.stop_after_failures is not None
        self.code = code_digests(sweep.poc)
        self.rubrics = rubric_texts(sweep.poc)
        #: What the files that its parameters name were when a trial began, by its id.
        self.files: dict[str, Mapping[str, str]] = {}
        self.budget: str | None = None
        #: Whether kernels are to be forked, and where they are to run.
        self.warm, self.where = True, "local"
        #: That, once the sweep's run was begun, and the imports that they are forked with.
        self.executor: Executor | None = None
        self.imports: tuple[str, ...] = ()
        #: Held by the one trial that waits until no other runs.
        self.turn = threading.Lock()
        #: The trials that were run, and on how many cases they are screened just now.
        self.ran: set[str] = set()
        self.screening = 0
        #: Proposes further trials, in a sweep that searches.
        self.search: Search | None = None
        #: The outcomes of the trials that have ended.
        self.ended: list[str] = []
        #: The trials of which only what the endpoint failed is asked again.
        self.again: set[str] = set()

    def open_budget(self) -> None:
        """Open the sweep's budget: the one that an earlier part of it was paid from."""
        if self.sweep.max_cost_usd is not None:
            self.budget = budget_name(self.sweep)
            Ledger.open(self.sweep.poc / LEDGER).open_budget(self.budget, self.sweep.max_cost_usd)

    def spent(self) -> Spent | None:
        """Return how the budget stands; None without one."""
        return Ledger.open(self.sweep.poc / LEDGER).spent(self.budget) if self.budget else None

    def __enter__(self) -> _Driver:
        return self

    def __exit__(self, *_: object) -> None:
        if self.executor:
            self.executor.close()

    def screened(self, planned: Sequence[tuple[str, Trial]], known: dict[str, Record], run_all: bool) -> dict[str, Record]:
        """Score all trials on a few cases first; return those that do not go on to all of them, by their ids.

        The best go on, the baseline, and what has a whole result already.
        """
        cases = self.sweep.screen.cases
        first = {trial_id: f"{trial_id}-{cases}" for trial_id, _ in planned}
        again = {trial_id for trial_id, screening in first.items() if screening in self.again}
        new = {trial_id for trial_id, screening in first.items() if not {trial_id, screening} & known.keys()}
        todo = [(first[trial_id], trial) for trial_id, trial in planned if run_all or trial_id in again | new]
        self.screening = cases
        known |= self.run(todo, len(todo))
        self.screening = 0
        looked = {trial_id: known[first[trial_id]] for trial_id, _ in planned if first[trial_id] in known}
        sign = -1 if self.sweep.maximize else 1
        having = [trial_id for trial_id, one in looked.items() if one.value(self.sweep.metric) is not None]
        ranked = sorted(having, key=lambda trial_id: sign * looked[trial_id].value(self.sweep.metric))
        baseline = {trial_id for trial_id, _ in planned[: self.sweep.has_baseline]}
        whole = {trial_id for trial_id, _ in planned if trial_id in known and not run_all}
        places = self.sweep.screen.kept(len(planned)) - len(whole - baseline)
        going = {*[trial_id for trial_id in ranked if trial_id not in whole][: max(places, 0)], *baseline, *whole}
        return {trial_id: one for trial_id, one in looked.items() if trial_id not in going or one.outcome not in HAS_RESULT}

    def planned(self, planned: Sequence[tuple[str, Trial]], known: dict[str, Record]) -> tuple[list[tuple[str, Trial]], int]:
        """Return the trials, with those that a search proposed before, and how many it may still propose."""
        if not self.sweep.space:
            return [*planned], 0
        self.search = Search(self.sweep, _identifier(self.sweep))
        self.search.include(planned)
        records = [one for one in known.values() if one.outcome == "ok"]
        earlier = self.search.remember(records, as_they_were=bool(self.journal.drifted))
        known |= earlier
        proposed = [(trial_id, Trial(one.parameters, one.name)) for trial_id, one in earlier.items()]
        left = self.sweep.space.count - self.search.proposed
        if earlier and not left:
            self.say(f"all {len(earlier)} trials that this search may propose were run before, by whatever method: raise run_cap for more")
        return [*planned, *proposed], left

    def _begin_sweep(self, count: int) -> None:
        """Before the first trial: the process with the imports, which takes its time beside the rest, the sweep's run, its budget."""
        if self.warm and count > 1:
            self.imports = _imports(self.sweep)
        self.executor = chosen(self.where, self.sweep.poc, self.sweep.jobs, imports=self.imports, env=self._env(), say=self.say)
        if left := self.journal.left_open():
            tracking.recorder().send("close", uri=self.uri, run_ids=left).result()
        self.journal.runs.unlink(missing_ok=True)
        if self.sweep.nested:
            self._begin_parent()
        self.open_budget()

    def _begin_parent(self) -> None:
        self.journal.begin()
        tags = {"poclab.sweep": self.sweep.name, "poclab.trials": str(self.sweep.planned), "mlflow.runType": "poclab_sweep"}
        tags |= {"poclab.seed": str(self.sweep.seed)} if self.sweep.seed is not None else {}
        tags |= {"poclab.drift": "; ".join(self.journal.drifted)[:LONGEST_PARAM]} if self.journal.drifted else {}
        self.parent = self._begin(f"{self.sweep.name} of {self.sweep.planned} trials", tags, None)["run_id"]

    def _begin(self, name: str, tags: Mapping[str, str], folder: Path | None, run_id: str | None = None, **more: Any) -> dict[str, str]:
        run = {**self.place, "run_id": run_id, "name": name, "tags": dict(tags), "params": {}, "prompts": [], "dataset": None, **more}
        begun = tracking.recorder().send("begin", uri=self.uri, folder=folder and str(folder), poc=str(self.sweep.poc), run=run).result()
        self.journal.opened(begun["run_id"])
        return begun

    def run(self, todo: Sequence[tuple[str, Trial]], count: int) -> dict[str, Record]:
        """Run these trials, and those that a search proposes: `count` of both together, at most."""
        done: dict[str, Record] = {}
        if not count:
            return done
        if not self.executor:
            if self.sweep.nested:  # the store takes seconds to open
                self.say(f"{count} trial{'s' if count > 1 else ''} to run, {self.sweep.jobs} at a time")
                with contextlib.suppress(InputError):
                    if changed := self.journal.changed():
                        self.say(f"since it last began: {'; '.join(changed)}")
            self._begin_sweep(count)
        self.progress = Progress(self.sweep, count, self.say, screening=bool(self.screening))
        with self.progress, ThreadPoolExecutor(2 * self.sweep.jobs) as pool:
            waiting: set[Future[Record]] = {pool.submit(self._trial, trial_id, trial) for trial_id, trial in todo}
            try:
                while waiting or self.search:
                    while self.search and len(waiting) < self.sweep.jobs and (found := None if self._enough() else self.search.next()):
                        waiting.add(pool.submit(self._trial, *found))
                    if not waiting:
                        break
                    ended, _ = wait(waiting, TICK_S, return_when=FIRST_COMPLETED)
                    self.progress.refresh()
                    for future in ended:
                        record = future.result()
                        if record.outcome != "not begun":
                            self.journal.append(record)
                        waiting.remove(future)  # once it is recorded: Ctrl-C may come at any time
                        done[record.trial_id] = record
                        if record.outcome != "not begun":
                            self.progress.take(record)
                        if self.search:
                            self.search.tell(record.trial_id, record.value(self.sweep.metric))
            except BaseException as stop:
                self._stop(pool, waiting)
                for future in waiting:  # those that were killed, or ended meanwhile
                    if not future.cancelled() and not future.exception() and future.result().outcome != "not begun":
                        record = future.result()
                        self.journal.append(record)
                        if record.outcome in HAS_RESULT:
                            done[record.trial_id] = record
                            self.progress.take(record)
                if isinstance(stop, KeyboardInterrupt):
                    raise Stopped(self._kept(done, count)) from None
                raise
        self.ran |= {one.trial_id.partition("-")[0] for one in done.values() if one.outcome != "not begun"}
        return done

    def _kept(self, done: Mapping[str, Record], count: int) -> str:
        """Return what a stopped sweep has got."""
        if self.screening:
            return f"{len(done)} of {count} trials are screened; those that go on were not run on all cases yet"
        return f"{len(done)} of {count} trials that were to run are recorded"

    def _enough(self) -> bool:
        """Tell whether no further trial is to begin."""
        failed = sum(outcome in FAILED for outcome in self.ended)
        return self.stopped or "budget" in self.ended or failed >= (self.sweep.stop_after_failures or math.inf)

    def _stop(self, pool: ThreadPoolExecutor, waiting: set[Future[Record]]) -> None:
        """Begin no further trial, kill the kernels of those that run, and wait until their runs are closed."""
        self.stopped = True
        pool.shutdown(wait=False, cancel_futures=True)
        self.executor.stop(waiting)
        if self.parent:
            with contextlib.suppress(PocError):  # what stopped the sweep is the error to show
                tracking.recorder().send("end", uri=self.uri, run_id=self.parent, status="KILLED").result()

    def _trial(self, trial_id: str, trial: Trial) -> Record:
        attempt = 1
        record = self._attempt(trial_id, trial, attempt)
        while record.outcome in AGAIN and attempt <= max(self.sweep.retries, record.outcome == LOST) and not self.stopped:
            attempt += 1
            record = self._attempt(trial_id, trial, attempt)
        if record.outcome == "budget" and self.executor.shares and not self.stopped:  # its share was used up: with all that is left
            record = self._attempt(trial_id, trial, attempt + 1, alone=True)
        self.ended.append(record.outcome)
        return record

    def _attempt(self, trial_id: str, trial: Trial, attempt: int, *, alone: bool = False) -> Record:
        with contextlib.ExitStack() as place:
            with self.turn if alone else contextlib.nullcontext():  # two that wait for all places would wait for each other
                for _ in range(self.sweep.jobs if alone else 1):
                    place.enter_context(self.places)
            if self._enough():
                return Record(trial_id, trial.name, dict(trial.parameters), "not begun")
            place.enter_context(self.progress.running())
            folder, begun, failure = self._executed(trial_id, trial, attempt, alone)
            if not self.counts:  # the next kernel starts while this one's traces are written
                place.close()
            return self._settle(trial_id, trial, folder, begun, failure)

    def _executed(
        self, trial_id: str, trial: Trial, attempt: int, alone: bool
    ) -> tuple[Path, Mapping[str, str], kernels.NotebookError | None]:
        """Execute the notebook of a trial; return its folder, its run, and the failure if it came to no end."""
        folder = self.folder / trial_id
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "artifacts").mkdir(parents=True)
        split = trial.parameters.get("split", self.split)
        goal = "maximize" if self.sweep.maximize else "minimize"
        tags = {"poclab.sweep": self.sweep.name, "poclab.trial": trial_id, "poclab.lock": self.lock_digest, "mlflow.user": user()}
        tags |= {"poclab.metric": self.sweep.metric, "poclab.goal": goal, "poclab.trials": str(self.sweep.planned)}
        tags |= {"poclab.split": split} if isinstance(split, str) else {}
        tags |= {"mlflow.parentRunId": self.parent} if self.parent else {}
        tags |= {"poclab.attempt": str(attempt)} if attempt > 1 else {}
        tags |= {"poclab.screen": str(self.screening)} if self.screening else {}
        begun = self._begin(conceal(trial.name), tags, folder)
        self.files[trial_id] = self._files_of(trial)
        order = Order(
            self.sweep.notebook,
            folder,
            trial.parameters,
            env={**self._env(), **self._own(folder, begun)},
            cwd=self.sweep.poc,
            timeout_s=self.sweep.timeout_s,
            cell_timeout_s=self.sweep.cell_timeout_s,
            imports=self.imports,
        )
        return folder, begun, self.executor.execute(order, alone=alone)

    def _env(self) -> dict[str, str]:
        """Return what the environment of all trials has besides that of the machine."""
        # pydevd greets the user of a kernel; nobody reads it in a headless one.
        common = {STORE: self.uri, "POCLAB_POC": str(self.sweep.poc), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        common |= {MODE: os.environ[MODE]} if MODE in os.environ else {}
        return {**common, **({BUDGET: self.budget} if self.budget else {})}

    def _own(self, folder: Path, begun: Mapping[str, str]) -> dict[str, str]:
        """Return what that of one trial has besides."""
        own = {"MLFLOW_RUN_ID": begun["run_id"], TRIAL_RUN: begun["run_id"], TRIAL_FOLDER: str(folder)}
        own |= {SCREEN: str(self.screening)} if self.screening else {}
        return {**own, RETRY: "1"} if folder.name in self.again else own

    def _settle(self, trial_id: str, trial: Trial, folder: Path, begun: Mapping[str, str], failure: kernels.NotebookError | None) -> Record:
        recorder, run_id = tracking.recorder(), begun["run_id"]
        common = {"trial_id": trial_id, "name": trial.name, "parameters": dict(trial.parameters), **begun}
        source = kernels.concealed(self.sweep.notebook, folder / "source" / self.sweep.notebook.name)
        files = {str(source): "notebook/source", str(self._needs(trial_id, trial, folder)): ""}
        files |= {str(path): "notebook" for path in (folder / "executed.ipynb",) if path.exists()}
        try:
            recorder.send("artifacts", uri=self.uri, run_id=run_id, files=files).result()
            if failure:
                told = failure.message if failure.poclab_error else f"{failure} (see {folder / 'executed.ipynb'})"
                raise _Failed(told, failure.outcome, failure.traceback)
            self._refuse_edited(trial_id, trial)
            report = _valid_report(folder, trial, run_id, self.lock_digest)
            if report.stopped:
                recorder.send("end", uri=self.uri, run_id=run_id, status="KILLED").result()
                return Record(outcome="budget", error=report.stopped, **common)
            used = read_json(folder / "begin.json")
            begin = {"folder": str(folder), "poc": str(self.sweep.poc), "run": {**used, **self.place, "run_id": run_id}}
            recorder.send("begin", uri=self.uri, **begin).result()
            end = run_end(report)
            end["tags"][notes.NOTE] = notes.of_report(report, **begun)
            recorder.send("finish", run_id=run_id, folder=str(folder), end=end, secrets=secrets()).result()
            if report.failed == len(report.results):
                raise _Failed(f"every case failed: {report.failures[0]}", "error")
        except PocError as problem:
            recorder.send("annotate", uri=self.uri, run_id=run_id, tags={notes.NOTE: notes.plain(conceal(str(problem))[:LONGEST_PARAM])})
            recorder.send("end", uri=self.uri, run_id=run_id, status="KILLED" if self.stopped else "FAILED").result()
            outcome = "cancelled" if self.stopped else getattr(problem, "outcome", "invalid")
            return Record(outcome=outcome, error=str(problem), traceback=getattr(problem, "traceback", ""), **common)
        (folder / "records.jsonl").unlink(missing_ok=True)
        counts = {
            name: {"value": value, "low": None, "high": None, "n": None} for name, value in report.metrics().items() if name in METRICS
        }
        estimates = {**counts, **plain(report.estimates)}
        return Record(
            outcome="screened" if self.screening else "ok",
            version=report.version.digest,
            content=report.content_digest(),
            failed=report.failed,
            retryable=sum(one.outcome in RETRIED for one in report.results),
            cost_usd=report.total("cost_usd"),
            spent_usd=report.spent_usd,
            estimates=estimates,
            **common,
        )

    def _files_of(self, trial: Trial) -> dict[str, str]:
        return file_digests({**self.sweep.defaults, **trial.parameters}, self.sweep.poc)

    def _needs(self, trial_id: str, trial: Trial, folder: Path) -> Path:
        """Write what it takes to run a trial again, beside its notebook and its report."""
        notebook = self.sweep.notebook
        needs = {
            "notebook": notebook.name,
            "path": os.path.relpath(notebook, self.sweep.poc.resolve()),
            "parameters": trial.parameters,
            "endpoint": shown(os.environ.get("OPENAI_BASE_URL", "")),
            "code": self.code,
            "rubrics": self.rubrics,
            "files": {name: one for name, one in self.files[trial_id].items() if os.path.normpath(name)[:1] not in ("/", ".")},
        }
        return write_atomic(folder / TRIAL_FILE, json.dumps(conceal_json(needs), ensure_ascii=False, indent=1) + "\n")

    def _refuse_edited(self, trial_id: str, trial: Trial) -> None:
        """Refuse a trial during which code was edited, or a file that it names: it is of neither version, nor are others of one."""
        poc = self.sweep.poc
        then, now = (
            {**self.code, **self.rubrics, **self.files[trial_id]},
            {**code_digests(poc), **rubric_texts(poc), **self._files_of(trial)},
        )
        if edited := sorted(name for name in {*now, *then} if now.get(name) != then.get(name)):
            raise InputError(f"{', '.join(edited[:3])}: edited while the sweep ran", fix="run it again: no trial of two versions is kept")

    def end(self, results: Results) -> None:
        """Log what the sweep found on its runs, and close its own."""
        if self.parent is None:  # nothing was run, or one trial by itself
            return
        try:
            conclude(results, self.folder, say=self.say)
        finally:
            status = "FAILED" if results.errors else "FINISHED"
            tracking.recorder().send("end", uri=self.uri, run_id=self.parent, status=status).result()


def _imports(sweep: Sweep) -> tuple[str, ...]:
    """Return what the kernels of a sweep are forked with."""
    asked = [{**sweep.defaults, **trial.parameters}.get("retrieval") for trial in sweep.trials]
    dense = DENSE if sweep.space or "dense" in asked or "hybrid" in asked else ()
    return (*PRELOADED, *dense, *kernels.imported(sweep.notebook))


def report_of(sweep: Sweep, record: Record) -> Report:
    """Return the report of a trial that is ok."""
    artifacts = work_folder(sweep.poc, "sweeps", sweep.name) / record.trial_id / "artifacts"
    if not (artifacts / "report.json").exists():  # it was to be run again, and was not
        return queries.report(tracking.tracking_uri(sweep.poc), record.run_id)
    return Report.load(artifacts / "report.json").drilled(artifacts)


def _valid_report(folder: Path, trial: Trial, run_id: str, lock_digest: str) -> Report:
    """Return a trial's report; it must be whole, of this run, of the frozen cases, and of the parameters that were asked for."""
    path = folder / "artifacts" / "report.json"
    if not path.exists():
        raise _Failed("the notebook ended without a report", "no_result", fix="let it call poclab.evaluate once")
    report = Report.load(path).drilled(path.parent)
    if report.run_id != run_id or (report.partial and not report.stopped):
        raise InputError("the notebook left a report that is partial or of another run")
    if report.lock_digest != lock_digest:
        raise InputError(
            f"the notebook evaluated other cases than the frozen ones ({report.n} cases, not frozen or of another file)",
            fix="cases.split(split), with cases as TestSet.load returns them",
        )
    used = {**report.version.flat(), "split": report.split, REPEATS: report.repeats}
    for name, value in trial.parameters.items():
        if name in used and used[name] != value:
            raise InputError(f"asked for {name} = {value!r}, but the version that was evaluated has {used[name]!r}")
    return report
