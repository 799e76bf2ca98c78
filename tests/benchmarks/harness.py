"""Time an evaluation by poclab, with everything stored, against a plain `openai` loop and `mlflow.genai.evaluate`.

    python tests/benchmarks/harness.py                # some ten minutes
    python tests/benchmarks/harness.py --quick        # fewer cases, one round, no sweep: does it still work?

Every program is a process of its own that asks the same cases of the same loopback endpoint and has to report the accuracy
that the endpoint's rule makes. The rounds go forth and back (A B, B A), and a figure is the median over them.
`wall` is the whole process, interpreter start and end included; `call` is the loop or the call of `evaluate` alone. `cpu` is user and
system time, and `peak` the largest sum of resident memory, of the process and all its children: poclab's recorder counts in both.

Compared: `plain` asks from a thread pool and stores nothing. `poclab` stores answers, run, traces, scores, report and artifacts. `mlflow` has
its openai autolog on, so that its traces hold the model call as poclab's do, 7 workers, no rate limit and a connection for each thread.
Not measured: other machines' disks, a store behind a server, and an endpoint whose answers are long.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

RIGHT = 0.9
SLOW_LATENCY_S, SLOW_WORKERS = 0.5, 32
#: What mlflow.genai.evaluate needs for it to keep all rows on sqlite.
MLFLOW = {"MLFLOW_GENAI_EVAL_MAX_WORKERS": "7", "MLFLOW_GENAI_EVAL_PREDICT_RATE_LIMIT": "0", "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "50"}
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_MODEL_CATALOG_URI": "", "PYTHONWARNINGS": "ignore"}
#: Not handed on. PYTHONDONTWRITEBYTECODE would have every process compile MLflow again, which an installation by pip has done once.
MARKS = ("OPENAI_", "MLFLOW_", "POCLAB_", "PYTHONDONTWRITEBYTECODE")


# --- the programs, each in a process of its own; imports are part of what is timed


def ask(client, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    return client.chat.completions.create(model="any-model", messages=messages).choices[0].message.content


def plain(url: str, poc: Path, workers: int) -> dict[str, float]:
    from concurrent.futures import ThreadPoolExecutor

    import openai

    cases = [json.loads(line) for line in (poc / "cases.jsonl").read_text().splitlines()]
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    begun = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        replies = list(pool.map(lambda case: ask(client, case["inputs"]["question"]), cases))
    call_s = time.perf_counter() - begun
    right = sum(reply in case["expected"]["answers"] for reply, case in zip(replies, cases, strict=True))
    return {"accuracy": right / len(cases), "call_s": call_s}


def poclab(url: str, poc: Path, workers: int) -> dict[str, float]:
    import poclab
    from poclab import models, scores

    client = models.client(base_url=url, api_key="none", max_retries=0)
    cases = poclab.TestSet.load(poc / "cases.jsonl")
    begun = time.perf_counter()
    report = poclab.evaluate(
        lambda inputs: ask(client, inputs["question"]),
        cases,
        [scores.exact()],
        version=poclab.Version("benchmark", model="any-model"),
        workers=workers,
        mode="live",  # the existing store has the answers of the round before, and all programs are to ask
    )
    return {"accuracy": report.mean("exact"), "call_s": time.perf_counter() - begun}


def mlflow(url: str, poc: Path, workers: int) -> dict[str, float]:
    import mlflow
    import openai
    from mlflow.genai.scorers import scorer

    @scorer
    def exact(outputs, expectations):
        return outputs in expectations["answers"]

    mlflow.set_tracking_uri(f"sqlite:///{poc / 'mlflow.db'}")
    mlflow.set_experiment("benchmark")
    mlflow.openai.autolog()
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    cases = [json.loads(line) for line in (poc / "cases.jsonl").read_text().splitlines()]
    data = [{"inputs": case["inputs"], "expectations": case["expected"]} for case in cases]
    begun = time.perf_counter()
    found = mlflow.genai.evaluate(data=data, predict_fn=lambda question: ask(client, question), scorers=[exact])
    return {"accuracy": found.metrics["exact/mean"], "call_s": time.perf_counter() - begun}


PROGRAMS = {"plain": plain, "poclab": poclab, "mlflow": mlflow}


def be_program(name: str, url: str, poc: str, workers: str) -> None:
    found = PROGRAMS[name](url, Path(poc), int(workers))
    Path(poc, "found.json").write_text(json.dumps(found))


# --- measuring


@dataclass
class Measured:
    """One run of a program; `traces` is how many it added to its store."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    call_s: float = 0.0
    accuracy: float = 0.0
    traces: int = 0


@dataclass
class Row:
    """The runs of one program in one setting."""

    name: str
    cases: int
    runs: list[Measured] = field(default_factory=list)

    def median(self, what: str) -> float:
        import statistics

        return statistics.median(getattr(one, what) for one in self.runs)

    @property
    def cpu_ms(self) -> float:
        return self.median("cpu_s") / self.cases * 1000

    def line(self, plain: Row) -> str:
        wall, call = self.median("wall_s"), self.median("call_s")
        spread = f"{min(one.wall_s for one in self.runs):.2f}-{max(one.wall_s for one in self.runs):.2f}"
        stored = "/".join(str(count) for count in sorted({one.traces for one in self.runs}))
        return (
            f"{self.name:<24}{self.cases:>6}{wall:>9.2f} {spread:>14}{wall / plain.median('wall_s'):>9.2f}{call:>9.2f}"
            f"{call / plain.median('call_s'):>9.3f}{self.cpu_ms:>10.1f}{self.median('peak_mb'):>9.0f}{self.median('accuracy'):>10.3f}{stored:>9}"
        )


HEAD = (
    f"{'program':<24}{'cases':>6}{'wall s':>9} {'least-most':>14}{'x plain':>9}{'call s':>9}{'x plain':>9}{'cpu ms/c':>10}"
    f"{'peak MB':>9}{'accuracy':>10}{'traces':>9}"
)


def measure(command: list[str], cwd: Path) -> Measured:
    """Run a command to its end and return what it and its children took."""
    import subprocess

    environment = {key: value for key, value in os.environ.items() if not key.startswith(MARKS)} | QUIET | MLFLOW
    with (cwd / "words.txt").open("wb") as words:
        begun = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=words, stderr=words)
        peak, looks = 0.0, 0
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            # Looking at memory costs more than looking whether it ended, which the precision of the wall time hangs on.
            peak = max(peak, resident_mb(process.pid)) if looks % 10 == 0 else peak
            looks += 1
            time.sleep(0.01)
        wall_s = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{(cwd / 'words.txt').read_text(errors='replace')[-4000:]}")
    return Measured(wall_s, usage.ru_utime + usage.ru_stime, peak)


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process and all below it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        below = [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
    except OSError:
        return 0.0  # it has just ended
    kilobytes = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)
    return kilobytes / 1024 + sum(resident_mb(child) for child in below)


def stored(poc: Path) -> dict[str, int]:
    """Count what the store of a folder holds."""
    import sqlite3

    tables = {"traces": "trace_info", "spans": "spans", "assessments": "assessments"}
    if not (poc / "mlflow.db").exists():
        return dict.fromkeys(tables, 0)
    with sqlite3.connect(poc / "mlflow.db") as database:
        return {name: database.execute(f"select count(*) from {table}").fetchone()[0] for name, table in tables.items()}


def run(name: str, url: str, poc: Path, workers: int) -> Measured:
    """Run one program on the cases of a folder, and check that it lost and doubled nothing."""
    import endpoint

    before, asked = stored(poc), endpoint.asked(url)
    measured = measure([sys.executable, __file__, name, url, str(poc), str(workers)], poc)
    found = json.loads((poc / "found.json").read_text())
    measured.accuracy, measured.call_s = found["accuracy"], found["call_s"]
    added = {what: count - before[what] for what, count in stored(poc).items()}
    measured.traces = added["traces"]
    cases = len((poc / "cases.jsonl").read_text().splitlines())
    if name != "mlflow":
        # A span for the case and one for the call, a score and an expectation.
        wanted = {"traces": cases, "spans": 2 * cases, "assessments": 2 * cases} if name == "poclab" else dict.fromkeys(added, 0)
        assert endpoint.asked(url) - asked == cases, f"{name} asked {endpoint.asked(url) - asked} times for {cases} cases"
        assert added == wanted, f"{name}: stored {added}, expected {wanted}"
        assert abs(measured.accuracy - RIGHT) < 1e-9, f"{name}: accuracy {measured.accuracy}, expected {RIGHT}"
    elif abs(measured.accuracy - RIGHT) > 1e-9 or measured.traces != cases:
        print(f"  ! mlflow: accuracy {measured.accuracy} of {RIGHT}, {measured.traces} traces of {cases}", flush=True)
    return measured


class Folders:
    """New folders below one that goes away, each with its frozen cases and no store."""

    def __init__(self, top: Path) -> None:
        self.top, self.made = top, 0

    def new(self, cases: int) -> Path:
        import endpoint
        from poclab import freezing

        self.made += 1
        poc = self.top / str(self.made) / "benchmark"
        poc.mkdir(parents=True)
        lines = (
            {"id": f"q{n:05}", "inputs": {"question": endpoint.question(n)}, "expected": {"answers": [endpoint.answer(n)]}}
            for n in range(cases)
        )
        (poc / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        freezing.freeze(poc / "cases.jsonl")
        return poc


# --- the settings


def compare(options: argparse.Namespace, folders: Folders) -> dict[str, Row]:
    """Time all programs side by side at the given latency."""
    import endpoint

    old = folders.new(options.cases)
    rows = {name: Row(name, options.cases) for name in ("plain", "poclab, fresh store", "poclab, existing store", "mlflow")}
    with endpoint.serving(options.latency) as url:
        for name in ("plain", "poclab"):  # file caches, compiled modules, and the store that exists
            run(name, url, old, options.workers)
        for turn in range(options.rounds):
            for name, row in list(rows.items())[:: -1 if turn % 2 else 1]:
                poc = old if name == "poclab, existing store" else folders.new(options.cases)
                row.runs.append(run(name.partition(",")[0], url, poc, options.workers))
    print(
        f"\nlatency {options.latency * 1000:g} ms, {options.workers} at a time (mlflow: 7); a store of its own each, medians of {options.rounds}"
    )
    show(rows)
    whole = {name: row.median("wall_s") for name, row in rows.items()}
    target("whole process, fresh store, x plain", whole["poclab, fresh store"] / whole["plain"], 4)
    target("whole process, existing store, x plain", whole["poclab, existing store"] / whole["plain"], 3)
    target("whole process, fresh store, x mlflow", whole["poclab, fresh store"] / whole["mlflow"], 0.2)
    return rows


def slow(options: argparse.Namespace, folders: Folders) -> None:
    """Time the call alone where the endpoint is as slow as a model."""
    import endpoint

    old = folders.new(options.cases)
    rows = {name: Row(name, options.cases) for name in ("plain", "poclab")}
    with endpoint.serving(SLOW_LATENCY_S) as url:
        run("poclab", url, old, SLOW_WORKERS)
        for turn in range(options.rounds):
            for name, row in list(rows.items())[:: -1 if turn % 2 else 1]:
                row.runs.append(run(name, url, old if name == "poclab" else folders.new(options.cases), SLOW_WORKERS))
    print(f"\nlatency {SLOW_LATENCY_S * 1000:g} ms, {SLOW_WORKERS} at a time, existing store")
    show(rows)
    target("call of evaluate, x plain loop", rows["poclab"].median("call_s") / rows["plain"].median("call_s"), 1.05)


def grow(options: argparse.Namespace, folders: Folders, small: Row) -> None:
    """Time many cases: the processor time of one more, and whether it grows with their number."""
    import endpoint

    sizes = (options.many // 2, options.many)
    rows = {f"{name} {size}": Row(name, size) for size in sizes for name in ("plain", "poclab")}
    with endpoint.serving(options.latency) as url:
        for row in rows.values():
            row.runs.append(run(row.name, url, folders.new(row.cases), options.workers))
    print(f"\nmany cases: latency {options.latency * 1000:g} ms, {options.workers} at a time, fresh store")
    show(rows)
    points = [(small.cases, small.median("cpu_s"))] + [(size, rows[f"poclab {size}"].median("cpu_s")) for size in sizes]
    for (few, cpu_few), (many, cpu_many) in (points[:2], points[1:], (points[0], points[-1])):
        target(f"cpu ms per case, slope {few} to {many}", (cpu_many - cpu_few) / (many - few) * 1000, 13)


def sweep_again(options: argparse.Namespace, top: Path) -> None:
    """Time a finished sweep that is started again and finds nothing to run."""
    import shutil

    root = Path(__file__).resolve().parents[2]
    ignored = shutil.ignore_patterns(".poclab", "mlflow.db*", "mlartifacts", ".ipynb_checkpoints")
    for name in ("experiments", "notebooks"):
        shutil.copytree(root / name, top / name, ignore=ignored)
    command = [sys.executable, "-m", "poclab", "sweep", str(top / "experiments" / "python_help")]
    first = measure(command, top)
    again = Row("sweep", 1, [measure(command, top) for _ in range(options.rounds)])
    print(f"\nsweep of the README: {first.wall_s:.1f} s, {first.cpu_s:.1f} s of cpu, {first.peak_mb:.0f} MB; again, unchanged:")
    target("unchanged rerun of a finished sweep, s", again.median("wall_s"), 3)


def imports(options: argparse.Namespace, top: Path) -> None:
    """Time what a command line costs before it does anything, against one import of pandas."""
    programs = {
        "import pandas": ["-c", "import pandas"],
        "import poclab": ["-c", "import poclab"],
        "poclab --help": ["-m", "poclab", "--help"],
    }
    rows = {name: Row(name, 1) for name in programs}
    for turn in range(2 * options.rounds + 2):
        for name, row in list(rows.items())[:: -1 if turn % 2 else 1]:
            row.runs.append(measure([sys.executable, *programs[name]], top))
    walls = {name: row.median("wall_s") for name, row in rows.items()}
    print("\n" + ", ".join(f"{name} {wall:.2f} s" for name, wall in walls.items()))
    for name in ("import poclab", "poclab --help"):
        target(f"{name}, x import pandas", walls[name] / walls["import pandas"], 0.3)


def show(rows: dict[str, Row]) -> None:
    print(HEAD)
    baseline = rows.get("plain")
    for row in rows.values():
        print(row.line(baseline or rows[f"plain {row.cases}"]))


def target(what: str, value: float, bound: float) -> None:
    print(f"  {'reached' if value <= bound else 'MISSED':<9}{what}: {value:.3g} (at most {bound:g})", flush=True)


def main() -> None:
    import platform
    import tempfile
    from importlib.metadata import version

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--many", type=int, default=5000, help="the size that poclab alone is timed at")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=("imports", "compare", "slow", "grow", "sweep"), help="parts of the whole")
    parser.add_argument("--quick", action="store_true", help="100 cases, 300 for poclab, one round, no sweep")
    options = parser.parse_args()
    if options.quick:
        options.cases, options.many, options.rounds = 100, 300, 1
    parts = options.only or ["imports", "compare", "slow", "grow", *([] if options.quick else ["sweep"])]
    versions = ", ".join(f"{name} {version(name)}" for name in ("poclab", "mlflow", "openai"))
    print(f"Python {platform.python_version()}, {versions}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as top:
        folders = Folders(Path(top))
        if "imports" in parts:
            imports(options, Path(top))
        rows = compare(options, folders) if {"compare", "grow"} & set(parts) else {}
        if "slow" in parts:
            slow(options, folders)
        if "grow" in parts:
            grow(options, folders, rows["poclab, fresh store"])
        if "sweep" in parts:
            sweep_again(options, Path(top))
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in PROGRAMS:
        be_program(*sys.argv[1:])
    else:
        main()
