"""Time a sweep against stock papermill, in a loop and on threads, each trial executed, recorded and traced.

    python tests/benchmarks/sweeps.py                  # some twenty minutes; ends with 1 when a target is missed
    python tests/benchmarks/sweeps.py --quick          # 4 trials, one round: does it still work?

Every program is a process of its own that executes `notebooks/02_evaluate.ipynb` with the same parameters on a copy of
`experiments/python_help`, whose store and ledger are new each time. Afterwards the executed notebooks, the finished runs and the traces
are counted. The rounds go forth and back, and a figure is the median over them. `peak` is the largest sum of resident memory of the
process and all its children.

Compared: `loop` is `papermill.execute_notebook` in a loop, `threads` the same on four threads, `cold` and `warm` are `poclab sweep` with
four jobs, whose kernels are started, or forked from one that has done the imports. Endpoint: the offline model, and a loopback
endpoint that takes 300 ms for an answer. Then a sweep of more trials: what one trial takes must not grow with their number.

Not measured: notebooks that import more or less than this one, machines with more cores, and stores behind a server.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing, nullcontext
from importlib.metadata import version
from pathlib import Path

from harness import Measured, measure

import endpoint

ROOT = Path(__file__).resolve().parents[2]
JOBS = 4
LATENCY_S = 0.3
PROMPTS = ("prompts/abstain.md", "prompts/plain.md")
#: At least so many times the speed of stock papermill.
OF_LOOP, OF_THREADS = 6, 3
#: At most so much more for a trial among many than among few.
GROWTH = 1.15
PROGRAMS = ("loop", "threads", "cold", "warm")


def points(count: int, model: str) -> list[dict]:
    """Return the parameters of so many trials: passages of so many sizes, each with two prompts."""
    sizes = [200 + 25 * number for number in range((count + 1) // 2)]
    return [{"retrieval": "bm25", "model": model, "chunk_size": size, "prompt": prompt} for size in sizes for prompt in PROMPTS][:count]


def stock(poc: Path, threads: int) -> None:
    """Execute the trials by papermill alone."""
    from concurrent.futures import ThreadPoolExecutor

    import papermill

    def execute(number: int, parameters: dict) -> None:
        out = poc / "executed" / f"{number:03}.ipynb"
        notebook = str(poc / "notebooks/02_evaluate.ipynb")
        papermill.execute_notebook(notebook, str(out), {**parameters, "poc": str(poc)}, kernel_name="python3", progress_bar=False)

    (poc / "executed").mkdir()
    todo = json.loads((poc / "points.json").read_text())
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(execute, number, one) for number, one in enumerate(todo)]:
            done.result()


def new_poc(top: Path, trials: list[dict]) -> Path:
    """Return a copy of the example without store and ledger, with a sweep of these trials."""
    poc = Path(tempfile.mkdtemp(dir=top)) / "python_help"
    ignored = shutil.ignore_patterns(".poclab", "mlflow.db*", "ledger.db*", "mlartifacts", "handoff", ".ipynb_checkpoints")
    shutil.copytree(ROOT / "experiments/python_help", poc, ignore=ignored)
    shutil.copytree(ROOT / "notebooks", poc / "notebooks", ignore=ignored)
    (poc / "points.json").write_text(json.dumps(trials))
    (poc / "sweep.yaml").write_text(json.dumps({"notebook": "notebooks/02_evaluate.ipynb", "include": trials, "limits": {"jobs": JOBS}}))
    return poc


def run(name: str, top: Path, trials: list[dict], settings: Sequence[str] = ()) -> Measured:
    """Run one program on a new POC, with these environment variables, and count what it left."""
    poc = new_poc(top, trials)
    ours = ["-m", "poclab", "sweep", str(poc), *(["--cold"] if name == "cold" else [])]
    measured = measure(["env", *settings, sys.executable, *(ours if name in ("cold", "warm") else [__file__, name, str(poc)])], poc)
    executed = [*poc.glob("executed/*.ipynb"), *poc.glob("mlartifacts/*/artifacts/notebook/executed.ipynb")]
    with closing(sqlite3.connect(poc / "mlflow.db")) as database:
        (runs,) = database.execute(
            "SELECT count(DISTINCT m.run_uuid) FROM metrics m JOIN runs USING (run_uuid) WHERE status = 'FINISHED'"
        ).fetchone()
        (traces,) = database.execute("SELECT count(*) FROM trace_info").fetchone()
    cases = sum(json.loads(line)["split"] == "dev" for line in (poc / "cases.jsonl").read_text().splitlines())
    measured.traces = traces
    assert (len(executed), runs, traces) == (len(trials), len(trials), len(trials) * cases), (
        f"{name}: {len(executed)} notebooks, {runs} runs, {traces} traces"
    )
    shutil.rmtree(poc.parent)
    return measured


def compare(top: Path, trials: list[dict], rounds: int, what: str, settings: Sequence[str]) -> bool:
    """Time all programs, forth and back; tell whether the targets are reached."""
    runs: dict[str, list[Measured]] = {name: [] for name in PROGRAMS}
    for turn in range(rounds):
        for name in PROGRAMS[:: -1 if turn % 2 else 1]:
            runs[name].append(run(name, top, trials, settings))
            print(f"  {name}: {runs[name][-1].wall_s:.1f} s", file=sys.stderr, flush=True)
    wall = {name: statistics.median(one.wall_s for one in found) for name, found in runs.items()}
    print(f"\n{len(trials)} trials, {what}: a store and a ledger of its own each, medians of {rounds}")
    print(f"{'program':<10}{'wall s':>9}{'s a trial':>11}{'cpu s':>9}{'peak MB':>9}{'traces':>8}{'loop / it':>11}{'threads / it':>14}")
    for name, found in runs.items():
        cpu, peak = (statistics.median(getattr(one, key) for one in found) for key in ("cpu_s", "peak_mb"))
        ratios = f"{wall['loop'] / wall[name]:>11.2f}{wall['threads'] / wall[name]:>14.2f}"
        print(
            f"{name:<10}{wall[name]:>9.1f}{wall[name] / len(trials):>11.2f}{cpu:>9.1f}{peak:>9.0f}{found[0].traces:>8}{ratios}", flush=True
        )
    loop = target(f"{what}: warm, times the speed of papermill in a loop", wall["loop"] / wall["warm"], OF_LOOP, least=True)
    threads = target(f"{what}: warm, times the speed of papermill on 4 threads", wall["threads"] / wall["warm"], OF_THREADS, least=True)
    return loop and threads


def grow(top: Path, few: int, many: int) -> bool:
    """Time a trial among few and among many."""
    cost = {}
    for count in (few, many):
        found = run("warm", top, points(count, "offline/extractive"))
        cost[count] = found.wall_s / count
        print(f"\n{count} trials: {found.wall_s:.1f} s, {cost[count]:.2f} s a trial, {found.peak_mb:.0f} MB", flush=True)
    return target(f"a trial among {many}, of one among {few}", cost[many] / cost[few], GROWTH)


def target(what: str, value: float, bound: float, *, least: bool = False) -> bool:
    reached = value >= bound if least else value <= bound
    print(f"  {'reached' if reached else 'MISSED':<9}{what}: {value:.3g} (at {'least' if least else 'most'} {bound:g})", flush=True)
    return reached


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--many", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=("offline", "endpoint", "grow"), help="parts of the whole")
    parser.add_argument("--quick", action="store_true", help="4 trials, one round, 8 for poclab alone")
    options = parser.parse_args()
    if options.quick:
        options.trials, options.many, options.rounds = 4, 8, 1
    parts = options.only or ["offline", "endpoint", "grow"]
    versions = ", ".join(f"{name} {version(name)}" for name in ("poclab", "papermill", "mlflow"))
    print(f"Python {platform.python_version()}, {versions}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    reached = []
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        for part, model in (("offline", "offline/extractive"), ("endpoint", "any-model")):
            if part in parts:
                what = "the offline model" if part == "offline" else f"an endpoint of {LATENCY_S * 1000:g} ms"
                with endpoint.serving(LATENCY_S) if part == "endpoint" else nullcontext() as url:
                    settings = [f"OPENAI_BASE_URL={url}", "OPENAI_API_KEY=none"] if url else []
                    reached.append(compare(top, points(options.trials, model), options.rounds, what, settings))
        if "grow" in parts:
            reached.append(grow(top, options.trials, options.many))
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")
    sys.exit(0 if all(reached) else 1)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("loop", "threads"):
        stock(Path(sys.argv[2]), 1 if sys.argv[1] == "loop" else JOBS)
    else:
        main()
