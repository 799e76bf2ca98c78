"""Time who writes runs and traces while four trials of a sweep run side by side: each kernel, or the driver; to a file, or to a server.

    python tests/benchmarks/stores.py                  # some ten minutes
    python tests/benchmarks/stores.py --quick          # 4 trials, one round: does it still work?

Every program is a process of its own that executes `notebooks/02_evaluate.ipynb` on a copy of `experiments/python_help` with a store that
was just made, on sqlite. Afterwards notebooks, finished runs and traces are counted. The rounds go forth and back; figures are medians.

Compared: stock papermill on four threads, whose kernels write by themselves, and `poclab sweep` with four jobs, whose driver writes for
all; each straight to the file, and through one `mlflow server` on loopback. `watched` is the sweep that writes to the file while such a
server on the same file is asked for its runs every half second, as the UI is by somebody who looks: how many states of the sweep it
showed, and whether an answer was an error.

Not measured: PostgreSQL, servers with several workers, artifacts on an object store.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import sqlite3
import statistics
import sys
import tempfile
import threading
import urllib.request
from contextlib import closing, nullcontext
from importlib.metadata import version
from pathlib import Path

import sweeps
from harness import Measured, measure

from poclab.tracking.server import serve

#: The program, and where it writes: "file", "server", or to the file with a server beside it.
PROGRAMS = (("threads", "file"), ("threads", "server"), ("sweep", "file"), ("sweep", "server"), ("sweep", "watched"))
LOOK_S = 0.5
#: The default, a driver that writes to the file, may take at most so much longer than any other.
SLOWER = 1.05
#: And a watched sweep, of one that nobody looks at.
WATCHED = 1.25


class Watch:
    """Somebody who looks at the runs of a store through its server, until the block ends."""

    def __init__(self, base: str) -> None:
        self.base, self.states, self.errors = base, set(), []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        asked = json.dumps({"experiment_ids": ["1"], "max_results": 1000}).encode()
        while not self._ended.wait(LOOK_S):
            request = urllib.request.Request(f"{self.base}/api/2.0/mlflow/runs/search", asked, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    runs = json.load(answer).get("runs", [])
                self.states.add(sum(run["info"]["status"] == "FINISHED" for run in runs))
            except OSError as error:
                self.errors.append(str(error))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run(program: str, to: str, top: Path, trials: list[dict]) -> tuple[Measured, Watch | None]:
    """Run one program on a new POC whose store was made before, and count what it left."""
    poc = sweeps.new_poc(top, trials)
    command = [sys.executable, *(["-m", "poclab", "sweep", str(poc)] if program == "sweep" else [sweeps.__file__, program, str(poc)])]
    with serve(f"sqlite:///{poc / 'mlflow.db'}", poc, free_port()) as (base, _):
        if to != "file":
            settings = [f"MLFLOW_TRACKING_URI={base}"] if to == "server" else []
            with Watch(base) if to == "watched" else nullcontext() as watch:
                measured = measure(["env", *settings, *command], poc)
    if to == "file":  # without the server, which only made the store
        measured, watch = measure(command, poc), None
    executed = [*poc.glob("executed/*.ipynb"), *poc.glob("mlartifacts/**/executed.ipynb")]
    with closing(sqlite3.connect(poc / "mlflow.db")) as database:
        (runs,) = database.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED' AND name NOT LIKE 'sweep of %'").fetchone()
        (traces,) = database.execute("SELECT count(*) FROM trace_info").fetchone()
    cases = sum(json.loads(line)["split"] == "dev" for line in (poc / "cases.jsonl").read_text().splitlines())
    found = (len(executed), runs, traces)
    assert found == (len(trials), len(trials), len(trials) * cases), f"{program} to {to}: {found}"
    shutil.rmtree(poc.parent)
    return measured, watch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="4 trials, one round")
    options = parser.parse_args()
    if options.quick:
        options.trials, options.rounds = 4, 1
    print(f"Python {platform.python_version()}, mlflow {version('mlflow')}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    trials = sweeps.points(options.trials, "offline/extractive")
    found: dict[tuple[str, str], list[tuple[Measured, Watch | None]]] = {one: [] for one in PROGRAMS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds):
            for one in PROGRAMS[:: -1 if turn % 2 else 1]:
                found[one].append(run(*one, Path(folder), trials))
                print(f"  {one[0]}, {one[1]}: {found[one][-1][0].wall_s:.1f} s", file=sys.stderr, flush=True)
    wall = {one: statistics.median(measured.wall_s for measured, _ in runs) for one, runs in found.items()}
    print(f"\n{len(trials)} trials, four at a time, the offline model: medians of {options.rounds}")
    print(f"{'program':<10}{'writes to':<11}{'wall s':>9}{'cpu s':>9}{'peak MB':>9}")
    for (program, to), runs in found.items():
        cpu, peak = (statistics.median(getattr(measured, key) for measured, _ in runs) for key in ("cpu_s", "peak_mb"))
        print(f"{program:<10}{to:<11}{wall[program, to]:>9.1f}{cpu:>9.1f}{peak:>9.0f}")
    watches = [watch for _, watch in found["sweep", "watched"]]
    errors = [error for watch in watches for error in watch.errors]
    reached = [
        sweeps.target("a sweep to the file, of one through a server", wall["sweep", "file"] / wall["sweep", "server"], SLOWER),
        sweeps.target("watched, of unwatched", wall["sweep", "watched"] / wall["sweep", "file"], WATCHED),
        sweeps.target(
            "states of the sweep that the UI's server showed", min(len(watch.states) for watch in watches), len(trials) / 4, least=True
        ),
        sweeps.target(f"answers of the UI's server that were errors {errors[:1] or ''}", len(errors), 0),
    ]
    sys.exit(0 if all(reached) else 1)


if __name__ == "__main__":
    main()
