"""Where it runs and what it is kept in: Python, packages, disk, git, the ledger of answers, the store of runs."""

from __future__ import annotations

import contextlib
import platform
import shlex
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from poclab import handover, recording, tracking
from poclab.checkup.findings import FAILED, OK, WARNING, Finding, Subject
from poclab.errors import InputError, PocError, StoreError
from poclab.files import HANDOFF, WORK, work_folder
from poclab.ledger import LEDGER, Ledger, summary
from poclab.redaction import shown
from poclab.tracking.surroundings import Surroundings

#: Bytes that are free on the disk: the notebooks, traces and answers of a sweep take some hundred millions.
FEW, TOO_FEW = 1_000_000_000, 100_000_000
#: How long, in seconds, the store may take to answer: the import of MLflow alone takes several.
STORE_S = 60.0


def python(_: Subject) -> Iterator[Finding]:
    about, here = metadata.metadata("poclab"), platform.python_version()
    named = [
        name.rpartition(" ")[2] for name in about.get_all("Classifier") or () if name.startswith("Programming Language :: Python :: 3.")
    ]
    yield supported(here, about["Requires-Python"], named)


def supported(here: str, wanted: str, tested: Sequence[str]) -> Finding:
    """Hold a version of Python against what poclab wants, and was tested on."""
    from packaging.specifiers import SpecifierSet

    fix = f"make the environment with Python {' or '.join(tested)}"
    if not SpecifierSet(wanted).contains(here, prereleases=True):
        return Finding("Python", FAILED, f"{here}; poclab needs {wanted}", fix)
    if here.rpartition(".")[0] not in tested:
        return Finding("Python", WARNING, f"{here}, which poclab was not tested on", fix)
    return Finding("Python", OK, here)


def packages(subject: Subject) -> Iterator[Finding]:
    extras = [""]
    with contextlib.suppress(PocError):  # the check of the sweep tells
        extras += ["optuna"] if subject.sweep.space else []
    if wrong := unmet(metadata.requires("poclab") or (), extras):
        yield Finding("packages", FAILED, "; ".join(wrong.values()), f"pip install {' '.join(map(shlex.quote, wrong))}")
    else:
        yield Finding("packages", OK, "all that poclab requires, in versions that it takes")


def unmet(required: Sequence[str], extras: Sequence[str] = ("",)) -> dict[str, str]:
    """Return the requirements that do not hold here, each with what is there instead; those of other extras do not count."""
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    for one in map(Requirement, required):
        if one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            found[f"{one.name}{one.specifier}"] = f"{one.name} is not installed"
        else:
            if not one.specifier.contains(version, prereleases=True):
                found[f"{one.name}{one.specifier}"] = f"{one.name} is {version}; poclab needs {one.specifier}"
    return found


def disk(subject: Subject) -> Iterator[Finding]:
    yield room(shutil.disk_usage(subject.poc).free, subject.folder)


def room(free: int, folder: str) -> Finding:
    """Tell whether so many bytes are enough."""
    size = f"{free / 1e9:,.1f} GB free" if free >= FEW else f"{free / 1e6:.0f} MB free"
    state = FAILED if free < TOO_FEW else WARNING if free < FEW else OK
    return Finding(
        "disk", state, size, "" if state == OK else f"free some space there; `du -sh {folder}/{WORK}` says what earlier sweeps take"
    )


def folder(subject: Subject) -> Iterator[Finding]:
    work_folder(subject.poc)
    try:
        handover.refuse_others(subject.poc / HANDOFF)
    except InputError as error:
        yield Finding("folder", FAILED, error.message, "move it away, or name another one: poclab handoff --out FOLDER")
    else:
        yield Finding("folder", OK, "can be written")


def git(subject: Subject) -> Iterator[Finding]:
    state, at = Surroundings.look(subject.poc).git, subject.folder
    if state:
        differs = "; what is not committed is kept with each run" if state["diff"] or state["untracked"] else ""
        yield Finding("git", OK, f"commit {state['commit'][:12]}{differs}")
    else:
        fix = f"git init {at} && git -C {at} add . && git -C {at} commit -m Begin"
        yield Finding("git", WARNING, "no commit: runs cannot name the state that they were made from", fix)


def ledger(subject: Subject) -> Iterator[Finding]:
    if not (path := subject.poc / LEDGER).exists():
        yield Finding("ledger", OK, "made at the first answer")
        return
    answers = sum(one.entries for one in summary(Ledger.open(path)))
    yield Finding("ledger", OK, f"can be written; it holds {answers} answers")


def store(subject: Subject) -> Iterator[Finding]:
    uri = tracking.tracking_uri(subject.poc)
    tracking.check_store(uri)
    path = Path(uri.removeprefix(tracking.SQLITE))
    if uri.startswith(tracking.SQLITE) and not (path.exists() and path.stat().st_size):
        yield Finding("store", OK, "made at the first run")
        return
    experiment = recording.run_place(subject.poc, uri)["experiment"]
    try:
        tracking.recorder().send("check", uri=uri, experiment=experiment).result(STORE_S)
    except TimeoutError:
        fix = "start `mlflow server` again, or unset MLFLOW_TRACKING_URI"
        raise StoreError(f"{shown(uri)}: no answer within {STORE_S:g} s", fix=fix) from None
    yield Finding("store", OK, f"{shown(uri).removeprefix(tracking.SQLITE)}: can be written, and its schema is current")
