"""The command line: verbs in the order of a POC's weeks. A handler reads its arguments, calls the library and prints.

Exit codes: 0 done or go, 1 no-go, not yet or something that would fail later, 2 wrong input or something that failed, 130 Ctrl-C, 143 `kill`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from poclab.errors import InputError, PocError, printable
from poclab.files import CHARTER, require_poc, write_bytes
from poclab.redaction import conceal


def _say(text: str, *, err: bool = False) -> None:
    # Ids, names and error texts come from files and endpoints: none of them may drive the terminal.
    click.echo("\n".join(printable(line) for line in text.split("\n")), err=err)


class _Group(click.Group):
    """Prints the errors that were written for a person, without a traceback, and ends with exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        stops: list[int] = []
        try:
            with _stoppable(stops):
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends in silence when nobody reads on
        except (PocError, OSError) as error:
            _say(f"error: {conceal(str(error))}", err=True)
            sys.exit(2)
        except KeyboardInterrupt as stop:
            # Trials say how many of them are recorded.
            on = f"{stop}\n  fix: {shlex.join(['poclab', *sys.argv[1:]])}, which goes on from there" if str(stop) else ""
            _say(f"stopped. {on}".strip(), err=True)
            sys.exit(128 + (stops or [signal.SIGINT])[0])


@contextlib.contextmanager
def _stoppable(stops: list[int]) -> Iterator[None]:
    """Take `kill` and a closed terminal for Ctrl-C: what is under way is closed. The second time this process ends at once."""

    def stop(number: int, _: Any) -> None:
        stops.append(number)
        if len(stops) > 1:
            os._exit(128 + number)
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        before = {number: handler for number, handler in found.items() if handler is not signal.SIG_IGN}  # as under nohup
    try:
        for number in before:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Dollars(click.FloatRange):
    """An amount that may be spent; `nan` is smaller and larger than nothing, and is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        amount = super().convert(value, param, ctx)
        return amount if amount == amount else self.fail(f"{value!r} is no amount.", param, ctx)


DOLLARS = _Dollars(0, 1e6, min_open=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="poclab")
def main() -> None:
    """The experiment kit for the first six weeks of an AI proof of concept."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--docs", type=click.Path(path_type=Path), help="A folder of Markdown and text files to answer from, instead of the example.")
@click.option("--agent", is_flag=True, help="An example of an agent: tools and a database instead of documents.")
def new(folder: Path, docs: Path | None, agent: bool) -> None:
    """Make a new POC in FOLDER, with an example in it.

    That is a charter, a corpus, cases, prompts, a sweep and notebooks.
    """
    from poclab.starter import make_poc

    _say("\n".join(make_poc(folder, docs, agent=agent)))


@main.command()
@click.argument("poc", required=False, type=click.Path(path_type=Path))
@click.option("--metric", default="accuracy", show_default=True, help="With --target: what is to reach it.")
@click.option(
    "--target",
    type=float,
    help="A number to reach, before there is a charter; at_least for a score, at_most for failures, latency and cost.",
)
@click.option("--expect", type=float, help="What the first criterion is in truth, as far as one can tell.")
@click.option("--power", default=0.8, show_default=True, help="How likely the cases are to show it.")
@click.option("--confidence", default=0.95, show_default=True, help="With --target: two-sided, of the interval.")
def plan(poc: Path | None, metric: str, target: float | None, expect: float | None, power: float, confidence: float) -> None:
    """Say how many cases to label, and what those at hand can show.

    The numbers to reach are those of the charter; with --target no POC is needed.
    """
    from poclab import experiment
    from poclab.charter import BEYOND_1, criterion

    bound = {"at_most" if metric in ("failed_share", *BEYOND_1) else "at_least": target}
    context = click.get_current_context()
    if target is None and any(context.get_parameter_source(name) is not ParameterSource.DEFAULT for name in ("metric", "confidence")):
        raise InputError("--metric and --confidence go with --target", fix="--target 0.8, or change the criteria in charter.yaml")
    chosen = None if target is None else [criterion({"metric": metric, **bound, "confidence": confidence}, "--target")]
    folder = _poc(poc) if poc or chosen is None else None
    _say(repr(experiment.plan(folder, criteria=chosen, expected=expect, power=power)))


@main.command()
@click.argument("poc", required=False, type=click.Path(path_type=Path))
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="Import the cases from a .csv, .jsonl or SQuAD .json file first; with --new-edition they are added.",
)
@click.option("--new-edition", is_flag=True, help="Freeze the changed cases as the next edition.")
@click.option("--test-share", default=1 / 3, show_default="1/3", help="Share of new cases that is held out.")
def freeze(poc: Path | None, source: Path | None, new_edition: bool, test_share: float) -> None:
    """Check the cases of POC, split them and lock them."""
    from poclab import freezing

    folder = _poc(poc)
    corpus = _corpus(folder)
    if source:
        freezing.take_over(source, folder / "cases.jsonl", find=corpus.find if corpus else None, add=new_edition)
    _check_world(folder)
    frozen = freezing.freeze(
        folder / "cases.jsonl",
        find=corpus.find if corpus else None,
        corpus_digest=corpus.digest if corpus else None,
        test_share=test_share,
        new_edition=new_edition,
    )
    for warning in frozen.warnings:
        _say(f"warning: {warning}", err=True)
    splits, edition = [case.split for case in frozen.test_set], frozen.test_set.lock.edition
    first = " (the first)" if edition == 1 else ""
    _say(f"{frozen.test_set.name}: edition {edition}{first}, {splits.count('dev')} dev and {splits.count('test')} test cases")
    since = "" if first else f"; since the edition before: {frozen.changes}"
    _say(f"lock {frozen.test_set.digest}{since if frozen.changes else '; unchanged'}")


@main.command()
@click.argument("poc", required=False, type=click.Path(path_type=Path))
def doctor(poc: Path | None) -> None:
    """Say what would fail later, before money is spent.

    One line for each check, with what to type where something is wrong. No model is asked. Exit code 1: something would fail later.
    """
    from poclab import checkup

    found = checkup.examine(_poc(poc))
    _say(repr(found))
    sys.exit(1 if found.failed else 0)


RETRY_FAILED = click.option("--retry-failed", is_flag=True, help="Ask again only the cases that the endpoint failed.")


@main.command()
@click.argument("poc", required=False, type=click.Path(path_type=Path))
@click.option("-p", "--parameter", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter of the notebook; may be given often.")
@click.option("--notebook", type=click.Path(path_type=Path), help="The notebook to run.  [default: that of sweep.yaml]")
@click.option("--max-cost-usd", type=DOLLARS, help="What its answers may cost.")
@RETRY_FAILED
def run(poc: Path | None, pairs: tuple[str, ...], notebook: Path | None, max_cost_usd: float | None, retry_failed: bool) -> None:
    """Evaluate one version of POC: one notebook, one MLflow run.

    It starts from the `fixed` parameters of sweep.yaml, and takes its notebook, unless another one is named.
    """
    from poclab import trials
    from poclab.archive import Archive

    folder = _poc(poc)
    single = _single(folder, notebook, pairs)
    results = trials.run_sweep(dataclasses.replace(single, max_cost_usd=max_cost_usd), retry_failed=retry_failed)
    if not results.ran:
        _say("this was run before, and nothing is asked again; POCLAB_MODE=live asks again")
    for record in results.ranked():
        report = trials.report_of(single, record)
        _say(repr(report))
        if report.split != "dev":
            _say(f"this is look {len(Archive.open(folder).looks())} at the held-out cases: `poclab decide` shows all of them")
    _end(results)


@main.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Print the trials and what they will cost; asks five cases of each to find out.")
@click.option("--only", metavar="EXPR", help="Run the trials of which an expression holds, such as 'chunk_size <= 400'.")
@click.option("--jobs", type=click.IntRange(1, 256), help="How many trials run side by side.  [default: limits.jobs of the file]")
@RETRY_FAILED
@click.option("--resume", is_flag=True, help="Go on with a sweep that was stopped; refuse when anything that it depends on changed since.")
@click.option("--allow-drift", is_flag=True, help="Go on all the same; the sweep's run says what changed.")
@click.option("--cold", is_flag=True, help="Start each kernel anew; else they are forked from one that has done the imports (Linux).")
@click.option(
    "--executor",
    default="local",
    show_default=True,
    metavar="local|dask[=ADDRESS]",
    help="Where kernels run: here, or on the workers of a dask scheduler.",
)
def sweep(
    path: Path | None,
    dry_run: bool,
    only: str | None,
    jobs: int | None,
    retry_failed: bool,
    resume: bool,
    allow_drift: bool,
    cold: bool,
    executor: str,
) -> None:
    """Run the sweep at PATH and print the trials, the best first.

    PATH is a file, or a POC folder with a sweep.yaml.
    """
    from poclab import sweeps, trials

    loaded = sweeps.load_sweep(path if path and os.path.isfile(path) else _poc(path))
    loaded = dataclasses.replace(loaded.only(only) if only else loaded, jobs=jobs or loaded.jobs)
    if dry_run:
        _say(trials.planned_table(loaded, warm=not cold))
        return
    results = trials.run_sweep(
        loaded, say=_say, retry_failed=retry_failed, warm=not cold, resume=resume, allow_drift=allow_drift, executor=executor
    )
    _say(f"\n{results}\n\n{results.notes()}")
    _end(results)


@main.command()
@click.argument("runs", nargs=-1, metavar="[POC] [RUN]...")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--chart", type=click.Path(path_type=Path, dir_okay=False), help="Write the differences with their intervals as a PNG file.")
def compare(runs: tuple[str, ...], as_json: bool, chart: Path | None) -> None:
    """Compare runs on the same cases; the first is the baseline.

    Without a RUN: the trials of the last sweep with its baseline. A RUN is an id, or how it begins, as tables show it.
    """
    from poclab import charts, experiment

    folder, ids = _poc_and_runs(runs)
    if chart and chart.suffix != ".png":
        raise InputError(f"--chart {chart}: a PNG file is written there", fix=f"--chart {chart.with_suffix('.png')}")
    found = experiment.compare(*ids, poc=folder)
    if chart:
        write_bytes(chart, charts.png(charts.forest(found)))
    _say(json.dumps(found.to_json(), indent=1) if as_json else repr(found))


@main.command()
@click.argument("poc", required=False, type=click.Path(path_type=Path))
def history(poc: Path | None) -> None:
    """Print the accuracy of each run, and what changed at it.

    The chart is kept with the newest run.
    """
    from poclab import experiment

    folder = _poc(poc)
    found = experiment.history(folder)
    _say(repr(found))
    if found.drawable:
        _say(f"chart: {experiment.history_chart(folder)}")


@main.command()
@click.argument("poc", required=False, type=click.Path(path_type=Path))
@click.option("-p", "--parameter", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter of the notebook; may be given often.")
@click.option("--notebook", type=click.Path(path_type=Path), help="The notebook that evaluates.  [default: that of sweep.yaml]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Which cases are drawn, and what they meet.")
@click.option("--cases", type=click.IntRange(1), default=20, show_default=True, help="How many cases meet each fault.")
@click.option("--fault", "faults", multiple=True, metavar="NAME", help="A fault to drill; may be given often.  [default: all]")
@click.option("--timeout", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Seconds that a case has.")
@click.option("--max-cost-usd", type=DOLLARS, help="What the answers that are asked may cost.")
def drill(
    poc: Path | None,
    pairs: tuple[str, ...],
    notebook: Path | None,
    seed: int,
    cases: int,
    faults: tuple[str, ...],
    timeout: float,
    max_cost_usd: float | None,
) -> None:
    """Print how many cases of POC survive what can go wrong.

    The version is the winner of the last sweep; with -p or --notebook, or without a sweep, that of the same `poclab run`. What it was
    asked before is replayed. Nothing is recorded as a run.
    """
    from poclab import confirmation, rehearsals

    folder = _poc(poc)
    won = None if pairs or notebook else confirmation.drillable(folder, say=lambda line: _say(line, err=True))
    single = won[0] if won else _single(folder, notebook, pairs)
    options = {"seed": seed, "cases_per_fault": cases, "timeout_s": timeout, "faults": faults, "max_cost_usd": max_cost_usd}
    found, kept = rehearsals.drill(folder, single.notebook, single.trials[0].parameters, **options)
    _say(f"{found!r}\nkept in {kept}")
    if won and (found.version.digest, found.code_digest) != (won[1].version.digest, won[1].code_digest):
        _say("this is not the version that won: notebook or code changed since; `poclab sweep`, and drill its winner", err=True)


@main.command()
@click.argument("arguments", nargs=-1, metavar="[POC] RUBRIC")
@click.option("--sample", type=click.IntRange(2), metavar="N", help="Draw so many replies of a run for people to label, and stop there.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="With --sample: which are drawn.")
@click.option(
    "--run",
    "run_id",
    metavar="RUN",
    help="With --sample: the run to draw from.  [default: the winner of the last sweep, else the last one on dev]",
)
@click.option("--model", help="The model that judges, in place of the rubric's.")
@click.option("--repeats", type=click.IntRange(1, 20), default=1, show_default=True, help="How often the judge is asked the same.")
@click.option("--drill", "drilled", is_flag=True, help="Also: does a verdict flip when a reply gives the judge orders, or is padded?")
@click.option("--max-cost-usd", type=DOLLARS, help="What the judge's answers may cost.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def calibrate(
    arguments: tuple[str, ...],
    sample: int | None,
    seed: int,
    run_id: str | None,
    model: str | None,
    repeats: int,
    drilled: bool,
    max_cost_usd: float | None,
    as_json: bool,
) -> None:
    """Hold a judge against people's labels.

    RUBRIC is the name of a file in `rubrics/` of the POC, else of one that comes with poclab. First --sample draws replies of a run into
    rubrics/RUBRIC.labels.jsonl; people fill in the labels; then the judge is asked about the same replies. Exit code 1: it is not calibrated,
    or agrees too little for the charter.
    """
    from poclab import judging
    from poclab.archive import Archive, load_run
    from poclab.arguments import open_budget
    from poclab.charter import Charter

    folder, names = _poc_and_runs(arguments)
    if len(names) != 1:
        raise InputError(f"calibrate takes one RUBRIC, found {len(names)}", fix="poclab calibrate correctness --sample 60")
    judge = judging.Judge(names[0], model=model, poc=folder)
    if sample:
        if judging.labels_path(folder, judge.rubric).is_file() and not run_id:
            drawn = judging.extend(folder, judge.rubric, sample=sample)
        else:
            report = load_run(run_id or Archive.open(folder).to_label(), folder)
            drawn = judging.draw(folder, judge.rubric, report, sample=sample, seed=seed)
        return _say(repr(drawn))
    budget = open_budget(folder, max_cost_usd)
    found = judging.calibrate(folder, judge, repeats=repeats, budget=budget)
    faults = judging.drill(folder, judge, budget=budget, said=[one.judge for one in found.pairs]) if drilled else None
    refused = found.refusal(at_least=Charter.load(folder).kappa_at_least)
    if as_json:
        _say(json.dumps({**found.to_json(), "answers": found.origin, "drill": faults and faults.to_json(), "refused": refused}, indent=1))
    else:
        _say("\n\n".join([repr(found), *([repr(faults)] if faults else []), f"kept in {found.path}", *([refused] if refused else [])]))
    sys.exit(1 if refused else 0)


@main.command()
@click.argument("runs", nargs=-1, metavar="[POC] [RUN]...")
@click.option("--confirm", is_flag=True, help="First score the winner of the last sweep, or RUN, on the held-out cases; only once.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def decide(runs: tuple[str, ...], confirm: bool, as_json: bool) -> None:
    """Say go, no-go or not yet, by the numbers of the charter.

    The version is that of RUN; without one, the last that was scored on the held-out cases, else the winner of the last
    sweep. Exit code 0 is go, 1 is no-go or not yet.
    """
    from poclab import experiment
    from poclab.confirmation import confirm as score_once

    folder, ids = _poc_and_runs(runs)
    if confirm and len(ids) > 1:
        raise InputError(f"--confirm takes one RUN, found {len(ids)}", fix=f"poclab decide --confirm {ids[0]}")
    if confirm:
        ids = [score_once(folder, *ids[:1], say=lambda line: _say(line, err=True))]
    decision = experiment.decide(folder, *ids)
    _say(json.dumps(decision.to_json(), indent=1) if as_json else repr(decision))
    sys.exit(0 if decision.go else 1)


@main.command()
@click.argument("runs", nargs=-1, metavar="[POC] [RUN]...")
@click.option("--out", type=click.Path(path_type=Path), help="The folder to write.  [default: `handoff` in the POC]")
@click.option(
    "--verify", "folder", type=click.Path(path_type=Path), help="Check a handoff that was written: its digests, and every number again."
)
def handoff(runs: tuple[str, ...], out: Path | None, folder: Path | None) -> None:
    """Write the folder from which others decide and take over.

    It holds handoff.md, handoff.html and the evidence for both. The version is chosen as by `decide`. Exit code of --verify: 0 when all of it holds, 1 when something does not.
    """
    from poclab import handover

    if folder:
        checked = handover.verify(folder)
        _say(repr(checked))
        sys.exit(0 if checked.holds else 1)
    poc, ids = _poc_and_runs(runs)
    _say(repr(handover.handoff(poc, *ids, out=out)))


@main.command()
@click.argument("runs", nargs=-1, metavar="[POC] RUN")
@click.option("--replay/--live", default=True, help="From the run's own answers, or from new ones.  [default: --replay]")
@click.option("--max-cost-usd", type=DOLLARS, help="With --live: what the answers may cost.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def reproduce(runs: tuple[str, ...], replay: bool, max_cost_usd: float | None, as_json: bool) -> None:
    """Run RUN again, and tell whether the same comes out.

    Its notebook, parameters, prompts and cases are those that it recorded. Exit code 1: the result is not equal, or with --live another one.
    """
    from poclab.reproduction import reproduce as run_again

    folder, ids = _poc_and_runs(runs)
    if len(ids) != 1:
        raise InputError(f"reproduce takes one RUN, found {len(ids)}", fix="`poclab history` lists them")
    found = run_again(ids[0], folder, live=not replay, max_cost_usd=max_cost_usd)
    _say(json.dumps(found.to_json(), indent=1) if as_json else repr(found))
    sys.exit(0 if found.holds else 1)


@main.command()
@click.argument("arguments", nargs=-1, metavar="[POC] ID")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def trace(arguments: tuple[str, ...], as_json: bool) -> None:
    """Print everything that happened on one request.

    ID is a request id, a trace id, or a case id: then it is the case's newest trace.
    """
    from poclab.inspection import inspect

    folder, ids = _poc_and_runs(arguments)
    if len(ids) != 1:
        raise InputError(f"trace takes one ID, found {len(ids)}", fix="poclab trace q001")
    found = inspect(ids[0], folder)
    _say(json.dumps(found.to_json(), indent=1) if as_json else repr(found))


@main.command()
@click.argument("poc", required=False, type=click.Path(path_type=Path))
@click.option(
    "--export", "target", metavar="FILE", type=click.Path(path_type=Path), help="Write every answer as a line of a new JSONL file."
)
@click.option("--import", "source", metavar="FILE", type=click.Path(path_type=Path), help="Add the answers of such a file.")
@click.option("--recover", is_flag=True, help="Save what can be read of a damaged ledger, and keep the damaged file.")
def ledger(poc: Path | None, target: Path | None, source: Path | None, recover: bool) -> None:
    """Print what the model answers of POC cost when they were paid.

    The sums are by day (UTC) and model, judges apart; then the budgets, if there are any.
    """
    from poclab import ledger as book

    if sum(map(bool, (target, source, recover))) > 1:
        raise InputError("--export, --import and --recover are one thing each", fix="give one of them")
    path = _poc(poc) / book.LEDGER
    if recover:
        _say(book.recover(path))
    elif target:
        _say(f"{target}: {book.export_file(path, target)} answers written")
    elif source:
        new, known = book.import_file(path, source)
        _say(f"{path}: {new} answers added, {known} were there already")
    else:
        _say(book.overview(path))


@main.command()
@click.argument("poc", required=False, type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(poc: Path | None, port: int) -> None:
    """Start MLflow's UI on the store of POC, and print where to look.

    It is served on this machine only.
    """
    from poclab.archive import show_ui

    show_ui(_poc(poc), port, say=_say)


def _poc(path: Path | None) -> Path:
    if path is not None and not os.path.isdir(path):
        raise InputError(f"{path}: no such folder", fix="`poclab new DIR`")
    return require_poc(path)


def _poc_and_runs(arguments: tuple[str, ...]) -> tuple[Path, list[str]]:
    """Return the POC that the first argument names, if it is a folder or looks like one, and the runs that the others name."""
    first = arguments[0] if arguments else ""
    a_poc = os.path.isfile(os.path.join(first, CHARTER)) or (os.sep in first and not os.path.isfile(first))
    # A folder may be called like a run: MLflow's own are.
    named = bool(first) and (a_poc or (os.path.isdir(first) and not re.fullmatch("[0-9a-f]{1,32}", first)))
    return _poc(Path(arguments[0]) if named else None), list(arguments[named:])


def _single(folder: Path, notebook: Path | None, pairs: tuple[str, ...]) -> Any:
    """Return the sweep of one trial that starts from the `fixed` parameters of sweep.yaml, and its notebook, unless another one is named."""
    from poclab import sweeps

    loaded = None if notebook else sweeps.load_sweep(folder)
    found = loaded.notebook if loaded else sweeps.find_notebook(notebook, Path.cwd(), folder)
    return sweeps.single(folder, found, sweeps.parse_pairs(pairs), fixed=loaded.fixed if loaded else {})


def _check_world(poc: Path) -> None:
    from poclab import agent
    from poclab.cases import TestSet

    if (poc / agent.WORLD).is_file() and (poc / "cases.jsonl").is_file():
        agent.check_labels(TestSet.read(poc), agent.Sandbox(poc / agent.WORLD))


def _corpus(poc: Path) -> Any:
    from poclab import rag

    return rag.load_corpus(poc) if (poc / "corpus.yaml").is_file() else None


def _end(results: Any) -> None:
    _say(results.where())
    if results.to_retry:
        _say(results.to_retry)
    if results.stopped:
        _say(results.stopped)
    if results.errors:
        raise InputError(results.failures())
    if results.stopped:
        sys.exit(1)
