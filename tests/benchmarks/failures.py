"""Show that a sweep outlives what can go wrong: each fault in real processes, and then the same command again.

    python tests/benchmarks/failures.py                # some fifteen minutes; ends with 1 when a promise is missed
    python tests/benchmarks/failures.py --quick        # four faults, warm kernels only: does it still work?

Every sweep is a process of its own: four trials of `notebooks/02_evaluate.ipynb`, two at a time, on a copy of `experiments/python_help`
with a store of its own. One cell more does, in one of the trials, what its parameter `fault` says, until a file says that it was mended:
then the same command goes on, with the same notebook and parameters. Some faults strike the driver while that trial hangs. Each is met by
kernels that are forked (warm) and started (cold).

What happened is read from the sweep's record, from the store by SQL, and from `/proc`: whatever a sweep starts inherits a mark in its
environment. A trial was run twice if the record called it ok before the second command, and has two runs or two such lines after it.
Where all processes are killed, or nothing can be written, nobody can close runs: they must be closed when the second command is done.

The disk is full on a small file system of its own, where one can be mounted; else only the kernel can write no more, by a limit on the
size of files. The table says which.

Not covered: a power cut, two drivers at once, stores behind a server, and systems without `/proc`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import MARKS, QUIET
from sweeps import new_poc

from poclab.tables import text_table

#: How many trials, and which of them has the fault: others end before it, beside it and after it.
TRIALS, FAULTY = 4, 2
#: How long, in seconds, a sweep may take, and whatever it started may outlive it.
DEADLINE_S, GRACE_S = 300, 15
#: Several times what a sweep of four trials writes.
DISK = "64m"
MARK = "FAILURE_SERIES"
CELL = """\
import contextlib, os, resource, signal, subprocess, sys, threading, time
from pathlib import Path

if fault and not Path("mended").exists():
    Path("met").touch()
    exec(fault)"""
HANG = "while True:\n    time.sleep(1)"
DEAF = "while True:\n    with contextlib.suppress(KeyboardInterrupt):\n        time.sleep(1)"
KILL = "os.kill(os.getpid(), signal.SIGKILL)"
CHILD = "subprocess.Popen(['sleep', '900'])\n"
THREAD = "thread = threading.Thread(target=lambda: 1 / 0)\nthread.start()\nthread.join()"
FULL = "with contextlib.suppress(OSError), open('filler', 'wb', 0) as file:\n    while True:\n        file.write(bytes(4096))"
NO_FILES = "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))"
GOES_ON = "which goes on from there"


def hanging(poc: Path) -> bool:
    """Tell whether the faulty trial hangs, and another is ok."""
    return (poc / "met").exists() and bool(ok_lines(poc))


def alone(poc: Path) -> bool:
    """Tell whether the faulty trial hangs, and all others are ok."""
    return (poc / "met").exists() and len(ok_lines(poc)) == TRIALS - 1


def recording(poc: Path) -> bool:
    """Tell whether a report is being recorded, of a trial that is not in the record yet."""
    return len(list(poc.glob("mlartifacts/*/artifacts/report.json"))) > len(ok_lines(poc))


@dataclass(frozen=True)
class Fault:
    """What the cell of one trial does, and a signal that the driver is sent at a time; with `all_die` all that it started, too.

    Promised are the outcome of that trial, one of them if there are several, the driver's exit code, and what it says.
    """

    name: str
    cell: str = HANG
    outcome: tuple[str, ...] = ("none",)
    code: int = 2
    says: str = ""
    strike: signal.Signals | None = None
    when: Callable[[Path], bool] = hanging
    all_die: bool = False
    own_disk: bool = False
    limits: Mapping[str, float] = field(default_factory=dict)


FAULTS = (
    Fault("kernel-kill-9", KILL, ("dead_kernel",), says="DeadKernel"),
    Fault("kernel-kill-9-child", CHILD + KILL, ("dead_kernel",), says="DeadKernel"),
    Fault("kernel-_exit", "os._exit(3)", ("dead_kernel",), says="DeadKernel"),
    Fault("sys-exit", "sys.exit(0)", ("no_result",), says="without a report"),
    Fault("cell-hangs", CHILD + HANG, ("timeout",), says="TimeoutError", limits={"cell_timeout_s": 20}),
    Fault("deaf-trial-hangs", DEAF, ("timeout",), says="TimeoutError", limits={"timeout_s": 30}),
    Fault("exception", "raise RuntimeError('as wanted')", ("error",), says="RuntimeError: as wanted"),
    Fault("thread-raises", THREAD, ("ok",), 0),
    Fault("driver-ctrl-c", CHILD + HANG, ("cancelled",), 130, GOES_ON, signal.SIGINT),
    Fault("driver-sigterm", CHILD + HANG, ("cancelled",), 143, GOES_ON, signal.SIGTERM),
    Fault("driver-kill-9", code=-9, strike=signal.SIGKILL, when=alone),
    Fault("driver-kill-9-child", CHILD + HANG, code=-9, strike=signal.SIGKILL, when=alone),
    Fault("driver-kill-9-recording", code=-9, strike=signal.SIGKILL, when=recording),
    Fault("all-kill-9", code=-9, strike=signal.SIGKILL, all_die=True),
    # Where nothing can be written, the record cannot either.
    Fault("disk-full", FULL, ("none", "error"), says="disk is full|No space left", own_disk=True),
)
QUICK = ("kernel-kill-9", "thread-raises", "driver-ctrl-c", "driver-kill-9")
HEADS = ("fault", "kernels", "outcome", "exit", "orphans", "RUNNING", "at last", "ok at last", "run twice", "verdict")


@dataclass(frozen=True)
class Ended:
    """How the command ended: exit code, what it said, how many processes are left of it, and how long it took until the others ended."""

    code: int
    words: str
    orphans: int
    outlived_s: float


def meet(fault: Fault, kernels: str, folder: Path) -> tuple[list[Any], list[str]]:
    """Run a sweep with a fault, and again when it is mended; return cells of the table, and what was promised and is not so."""
    poc = prepared(fault, folder)
    first = go(poc, kernels, fault)
    (poc / "filler").unlink(missing_ok=True)
    outcome = ([one["outcome"] for one in records(poc) if one["parameters"].get("fault")] or ["none"])[-1]
    before, running = ok_lines(poc), len(runs(poc, "status = 'RUNNING'"))

    (poc / "mended").touch()
    again = go(poc, kernels)
    after, begun = ok_lines(poc), Counter(runs(poc, "key = 'poclab.trial'", "value"))
    at_last, finished = len(runs(poc, "status = 'RUNNING'")), len(runs(poc, "key = 'poclab.trial' AND status = 'FINISHED'"))
    twice = sum(max(after[one], begun[one]) > 1 for one in before)
    promised = TRIALS - 1 + (fault.outcome == ("ok",)) if not fault.strike and not fault.own_disk else 0
    promises = (
        (outcome in fault.outcome, f"outcome {outcome}, not {' or '.join(fault.outcome)}"),
        (first.code == fault.code, f"exit code {first.code}, not {fault.code}"),
        (any(one in first.words for one in fault.says.split("|")), f"the driver does not say {fault.says!r}"),
        (len(before) >= promised, f"{len(before)} trials ok at first, not {promised}"),
        (not first.orphans + again.orphans, f"{first.orphans} processes left, and {again.orphans} by the same command again"),
        (not running or fault.all_die or fault.own_disk, f"{running} runs RUNNING after it"),
        (not at_last, f"{at_last} runs RUNNING after the same command again"),
        (again.code == 0, f"the same command again ended with {again.code}: {again.words[-500:]}"),
        (len(after) == finished == TRIALS == after.total(), f"{after.total()} ok lines of {len(after)} trials, {finished} finished runs"),
        (not twice, f"{twice} trials that were ok were run again"),
    )
    left = f"{first.orphans} ({first.outlived_s:.1f} s)"
    missed = [what for kept, what in promises if not kept]
    return [outcome, first.code, left, running, at_last, f"{len(after)} of {TRIALS}", twice], missed


def prepared(fault: Fault, folder: Path) -> Path:
    """Return a POC whose sweep has the fault in one of its trials."""
    trials: list[dict[str, Any]] = [{"retrieval": "bm25", "chunk_size": 300 + 100 * number} for number in range(TRIALS)]
    trials[FAULTY]["fault"] = fault.cell
    poc = new_poc(folder, trials)
    path = poc / "notebooks/02_evaluate.ipynb"
    notebook = json.loads(path.read_text())
    cells = notebook["cells"]
    (place,) = (number for number, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", ()))
    cells[place]["source"] = "".join(cells[place]["source"]) + '\nfault: str = ""'
    cells.insert(place + 1, {**cells[place], "id": "fault", "metadata": {}, "source": CELL})
    path.write_text(json.dumps(notebook))
    sweep = json.loads((poc / "sweep.yaml").read_text()) | {"limits": {"jobs": 2, **fault.limits}}
    (poc / "sweep.yaml").write_text(json.dumps(sweep))
    return poc


def go(poc: Path, kernels: str, fault: Fault | None = None) -> Ended:
    """Run the command, strike its process if the fault does, and wait for all that it started; what is left then is killed."""
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "poclab", "sweep", str(poc), *(["--cold"] if kernels == "cold" else [])]
    env = {key: value for key, value in os.environ.items() if not key.startswith(MARKS)} | QUIET | {MARK: mark}
    with tempfile.TemporaryFile() as words:  # not on the disk of the POC, which may be full
        driver = subprocess.Popen(command, cwd=poc, env=env, stdin=subprocess.DEVNULL, stdout=words, stderr=words)
        try:
            if fault and fault.strike:
                until(lambda: fault.when(poc) or driver.poll() is not None, DEADLINE_S)
                driver.send_signal(fault.strike)
                send(fault.strike, alive(mark) if fault.all_die else [])
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(DEADLINE_S)
            begun = time.monotonic()
            until(lambda: not alive(mark), GRACE_S)
            left, outlived_s = alive(mark), time.monotonic() - begun
        finally:
            send(signal.SIGKILL, alive(mark))
        words.seek(0)
        return Ended(driver.wait(), words.read().decode(errors="replace"), len(left), outlived_s)


def until(reached: Callable[[], Any], seconds: float) -> None:
    """Wait until something is reached, or for so long."""
    last = time.monotonic() + seconds
    while not reached() and time.monotonic() < last:
        time.sleep(0.01)


def alive(mark: str) -> list[int]:
    """Return the processes that have this mark in their environment."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has just ended, or is somebody else's
            if f"{MARK}={mark}".encode() in environment.read_bytes():
                found.append(int(environment.parent.name))
    return found


def send(number: signal.Signals, pids: list[int]) -> None:
    """Send a signal to processes, some of which may have just ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def records(poc: Path) -> list[dict[str, Any]]:
    """Return the whole lines of the sweep's record."""
    path = poc / ".poclab/sweeps/sweep/trials.jsonl"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def ok_lines(poc: Path) -> Counter[str]:
    """Return how many lines of the record say of a trial that it is ok."""
    return Counter(one["trial_id"] for one in records(poc) if one["outcome"] == "ok")


def runs(poc: Path, where: str, column: str = "run_uuid") -> list[str]:
    """Return a column of each run in the store of which a condition holds, over it and its tags."""
    query = f"SELECT {column} FROM runs LEFT JOIN tags USING (run_uuid) WHERE {where} GROUP BY run_uuid"
    with contextlib.closing(sqlite3.connect(poc / "mlflow.db")) as database:
        return [value for (value,) in database.execute(query)]


@contextlib.contextmanager
def disk(*, own: bool) -> Iterator[tuple[Path, bool]]:
    """Give a folder that goes away, and whether it is a small disk of its own: it is, if that is wanted and can be mounted."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder]
        mounted = own and subprocess.run(mount, capture_output=True).returncode == 0
        try:
            yield Path(folder), mounted
        finally:
            if mounted:
                subprocess.run(["umount", folder], check=True)


def main() -> int:
    """Print a line for each fault with each kind of kernels, then the table and what was missed; return 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[one.name for one in FAULTS], help="some of the faults")
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)}; warm")
    options = parser.parse_args()
    # Whoever was started in the background ignores Ctrl-C, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    names = options.only or (QUICK if options.quick else [one.name for one in FAULTS])
    versions = ", ".join(f"{name} {version(name)}" for name in ("poclab", "papermill", "mlflow"))
    print(f"Python {platform.python_version()}, {versions}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    rows, missed = [], []
    for fault in (one for one in FAULTS if one.name in names):
        for kernels in ("warm",) if options.quick else ("warm", "cold"):
            with disk(own=fault.own_disk) as (folder, mounted):
                limited = replace(fault, name="disk-full (file limit)", cell=NO_FILES, outcome=("error",), says="", own_disk=False)
                met = replace(fault, name="disk-full (tmpfs)") if mounted else limited if fault.own_disk else fault
                cells, problems = meet(met, kernels, folder)
            word = "MISSED" if problems else "PASS"
            rows.append([met.name, kernels, *cells, word])
            missed += [f"MISSED {met.name}, {kernels}: {problem}" for problem in problems]
            print(f"  {met.name}, {kernels}: {word}", file=sys.stderr, flush=True)
    print("\n" + "\n".join([text_table(HEADS, rows), "", *missed]))
    print(f"{len(missed)} promise(s) missed; load at the end {os.getloadavg()[0]:.1f}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
