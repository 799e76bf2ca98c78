"""Time the comparison of many recorded runs, from an MLflow store on sqlite.

    python tests/benchmarks/compare_many.py                         # 200 runs of 200 cases: some minutes, to record them
    python tests/benchmarks/compare_many.py --runs 20 --rounds 3    # fewer

The runs are recorded by `poclab.evaluate`, with three scores, one of them a fraction, and replies of 600 characters.
What is timed is `poclab.compare` of all of them, in a process that has imported MLflow and compared two runs before; the
first call of a fresh process, imports included, is printed beside it. Exit code 1 when the median takes 3 s or more.
Not measured: a store behind a server.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import poclab
from poclab import freezing, scores

TARGET_S = 3.0
#: One line in a process of its own: imports, then every call.
TIMED = """
import sys, time
begun = time.perf_counter()
import poclab
ids = list(poclab.runs(sys.argv[1])["run_id"])
poclab.compare(*ids[:2], poc=sys.argv[1])
print(time.perf_counter() - begun)
for _ in range(int(sys.argv[2])):
    begun = time.perf_counter()
    found = poclab.compare(*ids, poc=sys.argv[1])
    print(time.perf_counter() - begun)
assert len(found.candidates) == len(ids) - 1
"""


def make(folder: Path, cases: int) -> poclab.TestSet:
    """Return the frozen cases of a new POC: as many on dev as asked for."""
    (folder / "charter.yaml").write_text("decision: Whether many runs are compared quickly.\n", encoding="utf-8")
    lines = [
        {"id": f"q{n:04}", "inputs": {"question": f"What is number {n}?"}, "expected": {"answers": [f"number {n}"]}, "split": split}
        for n, split in enumerate(["dev"] * cases + ["test"] * 3)
    ]
    (folder / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return freezing.freeze(folder / "cases.jsonl").test_set.split("dev")


def record(cases: poclab.TestSet, runs: int) -> None:
    """Record runs of versions that are right on more and more cases."""

    def system_of(skill: int):
        def answer(inputs: dict[str, str]) -> str:
            number = int(inputs["question"].split()[-1].rstrip("?"))
            said = f"It is number {number}." if (number * 7919 + skill * 31) % 100 < 50 + skill % 30 else "I cannot say which number."
            return said + " " + "Words that say no more than was said." * 15

        return answer

    given = [scores.contains(), scores.token_f1(), scores.abstains()]
    for skill in range(runs):
        poclab.evaluate(system_of(skill), cases, given, version=poclab.Version(f"skill {skill}", skill=skill, model="none"), traces="none")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        poc = Path(name)
        begun = time.perf_counter()
        record(make(poc, given.cases), given.runs)
        print(f"recorded {given.runs} runs of {given.cases} cases in {time.perf_counter() - begun:.0f} s", flush=True)
        env = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        command = [sys.executable, "-c", TIMED, str(poc), str(given.rounds)]
        first, *times = map(float, subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.split())
    print(
        f"imports and two runs: {first:.2f} s; all {given.runs}: {', '.join(f'{one:.2f}' for one in times)} s, median {statistics.median(times):.2f} s"
    )
    return 0 if statistics.median(times) < TARGET_S else 1


if __name__ == "__main__":
    raise SystemExit(main())
