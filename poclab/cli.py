"""The command line: verbs in the order of a POC's weeks. A handler reads its arguments, calls the library and prints.

Exit codes: 0 done, 2 wrong input or something that failed, 130 Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
from pathlib import Path
from typing import Any

import click

from poclab.errors import InputError, PocError
from poclab.files import require_poc


class _Group(click.Group):
    """Prints the errors that were written for a person, without a traceback, and ends with exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PocError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt as stop:
            click.echo(f"stopped. {stop}".strip(), err=True)
            sys.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="poclab")
def main() -> None:
    """The experiment kit for the first six weeks of an AI proof of concept."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--docs", type=click.Path(path_type=Path), help="A folder of Markdown and text files to answer from, instead of the example.")
def new(folder: Path, docs: Path | None) -> None:
    """Make a new POC in FOLDER: charter, corpus, cases, prompts, sweep and notebooks."""
    from poclab.starter import make_poc

    for line in make_poc(folder, docs):
        click.echo(line)


@main.command()
@click.argument("poc", required=False, type=click.Path(path_type=Path))
@click.option("--from", "source", type=click.Path(path_type=Path), help="Import the cases from a .csv, .jsonl or SQuAD .json file first.")
@click.option("--new-edition", is_flag=True, help="Freeze the changed cases as the next edition.")
@click.option("--test-share", default=1 / 3, show_default="1/3", help="Share of new cases that is held out.")
def freeze(poc: Path | None, source: Path | None, new_edition: bool, test_share: float) -> None:
    """Check the cases of POC, split them into dev and test, and lock them."""
    from poclab import freezing

    folder = _poc(poc)
    corpus = _corpus(folder)
    if source:
        freezing.take_over(source, folder / "cases.jsonl")
    frozen = freezing.freeze(
        folder / "cases.jsonl",
        find=corpus.find if corpus else None,
        corpus_digest=corpus.digest if corpus else None,
        test_share=test_share,
        new_edition=new_edition,
    )
    for warning in frozen.warnings:
        click.echo(f"warning: {warning}", err=True)
    splits = [case.split for case in frozen.test_set]
    click.echo(
        f"{frozen.test_set.name}: edition {frozen.test_set.lock.edition}, {splits.count('dev')} dev and {splits.count('test')} test cases"
    )
    click.echo(f"lock {frozen.test_set.digest}; since the edition before: {frozen.changes}")


@main.command()
@click.argument("poc", required=False, type=click.Path(path_type=Path))
@click.option("-p", "--parameter", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter of the notebook; may be given often.")
@click.option("--notebook", type=click.Path(path_type=Path), help="The notebook to run.  [default: that of sweep.yaml]")
def run(poc: Path | None, pairs: tuple[str, ...], notebook: Path | None) -> None:
    """Evaluate one version of POC headlessly: one notebook, one MLflow run."""
    from poclab import sweeps, trials

    folder = _poc(poc)
    notebook = notebook.resolve() if notebook else sweeps.load_sweep(folder).notebook
    results = trials.run_sweep(sweeps.single(folder, notebook, sweeps.parse_pairs(pairs)), say=click.echo)
    _end(results)


@main.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Print the trials and run nothing.")
@click.option("--jobs", type=click.IntRange(1, 256), help="How many trials run side by side.  [default: limits.jobs of the file]")
def sweep(path: Path | None, dry_run: bool, jobs: int | None) -> None:
    """Run the sweep at PATH (a file, or a POC folder with a sweep.yaml) and print the trials, the best first."""
    from poclab import sweeps, trials

    loaded = sweeps.load_sweep(path if path and path.is_file() else _poc(path))
    loaded = dataclasses.replace(loaded, jobs=jobs or loaded.jobs)
    if dry_run:
        click.echo(trials.planned_table(loaded))
        return
    results = trials.run_sweep(loaded, say=click.echo)
    click.echo(f"\n{results}\n\n{results.notes()}")
    _end(results)


@main.command()
@click.argument("poc", required=False, type=click.Path(path_type=Path))
@click.option("--port", default=5000, show_default=True)
def ui(poc: Path | None, port: int) -> None:
    """Start MLflow's UI on the store of POC, on this machine only, and print where to look."""
    from poclab.experiment import show_ui

    # A closed terminal, or `kill`, ends the server too, as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    show_ui(_poc(poc), port, say=click.echo)


def _poc(path: Path | None) -> Path:
    if path is not None and not path.is_dir():
        raise InputError(f"{path}: no such folder", fix="`poclab new DIR`")
    return require_poc(path)


def _corpus(poc: Path) -> Any:
    from poclab import rag

    return rag.load_corpus(poc) if (poc / "corpus.yaml").is_file() else None


def _end(results: Any) -> None:
    click.echo(results.where())
    if results.errors:
        raise InputError(results.failures())
