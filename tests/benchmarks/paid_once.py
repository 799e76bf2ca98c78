"""Show that nothing is paid twice or lost: kills, budgets and faults in full length, and what the ledger costs in CPU.

    python tests/benchmarks/paid_once.py              # some ten minutes; ends with 1 when a target is missed
    python tests/benchmarks/paid_once.py --quick      # a fifth of the cases and trials: does it still work?

Every program is a process of its own; `tests/endpoint.py` is another, and its books are the judge: what was asked, when, and what it
would bill. An answer counts as had when the system wrote down that it had it, so nothing here trusts the ledger's own word.
A call is repeated when the endpoint worked out the same prompt more than once; it was in flight at a kill when it had been asked, and
nobody had written its answer down. Kills strike at random counts of answers, from a seed.

Not measured: a power cut, several machines, and endpoints that fail in other shares than these.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

CASES, WORKERS, KILLS = 500, 16, 5
PROCESSES, THREADS, TRIALS = 4, 8, 20
SWEEP_CASES, SWEEP_TRIALS, SWEEP_KILLS = 100, 4, 3
MODEL, KEY, MOST_TOKENS = "m", "sk-benchmark-0123456789", 50
SEED = 20261125
#: How long the endpoint takes at most, in seconds, to read what lies in its sockets.
SOCKET_S = 0.05
#: Dollars per million tokens, as the endpoint bills them.
CHARTER = f"""\
decision: Answer with the words that stand in the question, or do not.
uncertainty: Whether anything is paid twice.
owner: Ada Example
sponsor: Grace Example
criteria:
  - {{metric: accuracy, at_least: 0.8, split: dev}}
prices: {{{MODEL}: {{input: 1.0, output: 4.0, on: 2026-11-25, source: the test endpoint}}}}
"""
FAULTS = [
    {"kind": "429", "share": 0.10, "retry_after_s": 1.0},
    {"kind": "500", "share": 0.05},
    {"kind": "cut_body", "share": 0.02},
    {"kind": "reset", "share": 0.01},
]
HANG = {"kind": "hang", "match": "case 37:", "times": None}
NOTEBOOK = [
    'poc: str = "."\nurl: str = ""\nround: int = 0',
    "import os\nimport poclab\nfrom poclab import models, scores\n"
    f'client = models.client(base_url=url, api_key="{KEY}")\n'
    'ask = lambda text: client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}]).choices[0].message.content\n'
    "def answer(inputs):\n"
    '    text = f"round {round}, " + inputs["question"]\n'
    "    said = ask(text)\n"
    '    with open(f"{poc}/answered.txt", "a") as file:\n'
    '        file.write(text + "\\n")\n'
    "    return said\n"
    'cases = poclab.TestSet.load(f"{poc}/cases.jsonl").split("dev")\n'
    f'version = poclab.Version(f"round {{round}}", model="m", round=round)\n'
    f"report = poclab.evaluate(answer, cases, [scores.exact()], version=version, workers={WORKERS // 2})",
]

# --- the programs, each in a process of its own


def ask(client: Any, text: str, **parameters: Any) -> str:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(model=MODEL, messages=messages, max_tokens=MOST_TOKENS, **parameters).choices[0].message.content


def evaluate(poc: Path, url: str, mode: str, timeout_s: str) -> dict[str, Any]:
    """Evaluate a system that writes down what it was answered."""
    import poclab
    from poclab import models, scores

    client = models.client(base_url=url, api_key=KEY)

    def answer(inputs: dict[str, Any]) -> str:
        text = ask(client, inputs["question"])
        with (poc / "answered.txt").open("a") as file:
            file.write(inputs["question"] + "\n")
        return text

    report = poclab.evaluate(
        answer,
        poclab.TestSet.load(poc / "cases.jsonl").split("dev"),
        [scores.exact()],
        version=poclab.Version("echo", model=MODEL),
        workers=WORKERS,
        mode=mode,
        timeout_s=float(timeout_s),
    )
    verdicts = {one.case_id: one.outcome for one in report.results}
    return {"digest": report.content_digest(), "verdicts": verdicts, "wall_s": report.wall_s, "failed": report.failed}


def spend(poc: Path, url: str, name: str, who: str) -> dict[str, Any]:
    """Ask from several threads, each time something new, until the budget is used up."""
    from poclab import models
    from poclab.ledger import BudgetError

    os.environ |= {"POCLAB_POC": str(poc), "POCLAB_BUDGET": name}
    client, ended, unexpected = models.client(base_url=url, api_key=KEY), Counter(), []

    def until_it_ends(thread: int) -> None:
        # Twice as much work as the whole budget pays for.
        for number in range(400):
            try:
                ask(client, f"{who} {thread} {number}: ANSWER:{{{'word ' * (number % 30)}end}}")
            except BudgetError:
                ended["budget"] += 1
                return
            except Exception as error:
                unexpected.append(repr(error))
        ended["no more work"] += 1

    threads = [threading.Thread(target=until_it_ends, args=[number]) for number in range(THREADS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return {"ended": ended, "unexpected": unexpected}


def call(poc: Path, url: str, which: str, calls: str) -> dict[str, Any]:
    """Ask from a thread pool, through the plain client or poclab's, and tell the CPU time of a call in milliseconds."""
    from concurrent.futures import ThreadPoolExecutor

    import openai

    from poclab import models

    os.environ["POCLAB_POC"] = str(poc)
    make: Callable[..., Any] = models.client if which == "ledger" else openai.OpenAI
    client = make(base_url=url, api_key=KEY, max_retries=0)
    texts = [f"{os.getpid()} {number}: {'word ' * 200}" for number in range(int(calls))]
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda text: ask(client, text), [f"warm {text}" for text in texts[:64]]))
        begun = time.process_time()
        list(pool.map(lambda text: ask(client, text), texts))
        cpu_s = time.process_time() - begun
    return {"cpu_ms": cpu_s / len(texts) * 1000}


PROGRAMS = {"evaluate": evaluate, "spend": spend, "call": call}


def be_program(name: str, poc: str, *arguments: str) -> None:
    found = PROGRAMS[name](Path(poc), *arguments)
    Path(poc, f"{os.getpid()}.json").write_text(json.dumps(found))


def begin(name: str, poc: Path, *arguments: Any) -> subprocess.Popen:
    command = [sys.executable, __file__, name, str(poc), *map(str, arguments)]
    return subprocess.Popen(command, cwd=poc, env=environment(), stdin=subprocess.DEVNULL)


def environment() -> dict[str, str]:
    import harness

    return {key: value for key, value in os.environ.items() if not key.startswith(harness.MARKS)} | harness.QUIET


def end(process: subprocess.Popen, poc: Path) -> dict[str, Any]:
    if process.wait(600) != 0:
        raise SystemExit(f"{process.args} ended with {process.returncode}: what it said stands above")
    return json.loads((poc / f"{process.pid}.json").read_text())


# --- the POCs and the books


def question(number: int) -> str:
    return f"case {number}: ANSWER:{{a{number}}}"


def frozen(folder: Path, cases: int) -> Path:
    from poclab import freezing

    folder.mkdir(parents=True)
    (folder / "charter.yaml").write_text(CHARTER)
    lines = (
        {"id": f"q{n:03}", "inputs": {"question": question(n)}, "expected": {"answers": [f"a{n}"]}, "split": "dev"} for n in range(cases)
    )
    (folder / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    freezing.freeze(folder / "cases.jsonl")
    return folder


def answered(poc: Path) -> set[str]:
    path = poc / "answered.txt"
    return set(path.read_text().splitlines()) if path.exists() else set()


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within 300 s: {what}")
        time.sleep(0.005)


def below(pid: int) -> list[int]:
    """Return the processes that one has started, and those that these have."""
    children = [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
    return children + [one for child in children for one in below(child)]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Kills:
    """What was had and what was in flight at each kill, held against the endpoint's books afterwards."""

    def __init__(self, endpoint: Any, poc: Path) -> None:
        self.endpoint, self.poc = endpoint, poc
        self.had: list[tuple[float, set[str]]] = []
        self.in_flight: Counter[str] = Counter()
        self.ended_at = self.outlived_s = 0.0

    def strike(self, process: subprocess.Popen, answers: int, *, with_kernels: bool = False) -> None:
        """End a process by `kill -9` when so many prompts were answered; its kernels end by themselves, and are waited for."""
        wait_for(lambda: len(answered(self.poc)) >= answers or process.poll() is not None, f"{answers} answers")
        if process.poll() is not None:
            raise SystemExit(f"the process ended with {process.returncode} before it was killed: what it said stands above")
        had, kernels = answered(self.poc), below(process.pid) if with_kernels else []
        process.kill()
        self.had.append((time.monotonic(), had))
        process.wait()
        wait_for(lambda: not any(map(lives, kernels)), "the kernels of a killed sweep end")
        self.outlived_s = max(self.outlived_s, time.monotonic() - self.had[-1][0])
        time.sleep(SOCKET_S)
        since, self.ended_at = self.ended_at, time.monotonic()
        prompts = self.endpoint.counts()["prompts"]
        asked = {prompt for prompt, asks in prompts.items() if any(since < s <= self.ended_at for s in asks["requested_s"])}
        self.in_flight.update(asked - answered(self.poc))

    def twice(self) -> int:
        """Return how many requests there were for what somebody had been answered before a kill."""
        prompts = self.endpoint.counts()["prompts"]
        asked_again = {(prompt, s) for at, had in self.had for prompt in had for s in prompts[prompt]["requested_s"] if s > at}
        return len(asked_again)

    def repeated(self) -> Counter[str]:
        prompts = self.endpoint.counts()["prompts"]
        return +Counter({prompt: asks["billed"] - 1 for prompt, asks in prompts.items()})

    def beyond(self) -> int:
        """Return how many calls were repeated without having been in flight at as many kills."""
        return (self.repeated() - self.in_flight).total()


# --- the series


class Targets:
    """The table, and whether all of it was reached."""

    def __init__(self) -> None:
        self.missed = 0

    def head(self, what: str) -> None:
        print(f"\n{what}", flush=True)

    def most(self, what: str, value: float, bound: float) -> None:
        self.line(what, value <= bound, f"{value:.4g} (at most {bound:.4g})")

    def least(self, what: str, value: float, bound: float) -> None:
        self.line(what, value >= bound, f"{value:.4g} (at least {bound:.4g})")

    def same(self, what: str, values: Iterable[Any]) -> None:
        values = list(values)
        self.line(what, len(set(values)) == 1, f"{len(values)} of {len(values)}" if len(set(values)) == 1 else f"{len(set(values))} differ")

    def line(self, what: str, reached: bool, said: str) -> None:
        self.missed += not reached
        print(f"  {'reached' if reached else 'MISSED':<9}{what:<74}{said}", flush=True)


def kill(options: argparse.Namespace, top: Path, targets: Targets) -> None:
    """Kill one evaluation, then one of two on the same ledger, again and again, and finish it."""
    from endpoint import Endpoint

    with Endpoint(latency_s=0.1, wrong=0.1, seed=SEED) as endpoint:
        plain = frozen(top / "undisturbed" / "echo", options.cases)
        undisturbed = end(begin("evaluate", plain, endpoint.url, "auto", 60), plain)
        for processes in (1, 2):
            endpoint.reset()
            poc = frozen(top / f"killed {processes}" / "echo", options.cases)
            moments = sorted(random.Random(SEED + processes).sample(range(1, options.cases - 2 * WORKERS), KILLS))
            kills, running = Kills(endpoint, poc), []
            for number, moment in enumerate(moments):
                running += [begin("evaluate", poc, endpoint.url, "auto", 60) for _ in range(processes - len(running))]
                kills.strike(running.pop(number % len(running)), moment)
            running += [begin("evaluate", poc, endpoint.url, "auto", 60) for _ in range(processes - len(running))]
            found = [end(one, poc)["digest"] for one in running]
            judge(targets, kills, f"{options.cases} cases, {processes} process(es) of {WORKERS}, kill -9 after {moments} answers")
            targets.most("prompts that were never answered", options.cases - len(answered(poc)), 0)
            targets.same("content digests, with that of the undisturbed run", [undisturbed["digest"], *found])


def judge(targets: Targets, kills: Kills, head: str) -> None:
    targets.head(head)
    targets.most("completed calls that were paid twice", kills.twice(), 0)
    targets.most("calls repeated, beside those in flight at the kills", kills.repeated().total(), kills.in_flight.total())
    targets.most(f"the same, beside {WORKERS} for each kill", kills.repeated().total(), WORKERS * len(kills.had))
    targets.most("of these, calls that were not in flight", kills.beyond(), 0)


def share(options: argparse.Namespace, top: Path, targets: Targets) -> None:
    """Evaluate the same with two processes at once, both undisturbed."""
    from endpoint import Endpoint

    with Endpoint(latency_s=0.1, wrong=0.1, seed=SEED) as endpoint:
        poc = frozen(top / "shared" / "echo", options.cases)
        found = [end(one, poc) for one in [begin("evaluate", poc, endpoint.url, "auto", 60) for _ in range(2)]]
        counts = endpoint.counts()
    targets.head(f"{options.cases} cases, two processes at once on one ledger")
    targets.most("answers billed", counts["billed"], options.cases)
    targets.most("requests", counts["requests"], options.cases)
    targets.same("content digests", [one["digest"] for one in found])


def sweep(options: argparse.Namespace, top: Path, targets: Targets) -> None:
    """Kill a sweep again and again, and finish it; its trials are held against those of a sweep that nobody killed."""
    from endpoint import Endpoint

    cases = max(20, SWEEP_CASES * options.cases // CASES)
    with Endpoint(latency_s=0.3, wrong=0.1, seed=SEED) as endpoint:

        def make(name: str) -> Path:
            poc = frozen(top / name / "echo", cases)
            kinds = [{"tags": ["parameters"]}, {}]
            cells = [
                {"cell_type": "code", "id": f"c{n}", "metadata": kinds[n], "source": text, "outputs": [], "execution_count": None}
                for n, text in enumerate(NOTEBOOK)
            ]
            kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
            (poc / "echo.ipynb").write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
            rounds = list(range(1, SWEEP_TRIALS))
            (poc / "sweep.yaml").write_text(
                f"notebook: echo.ipynb\nmetric: {{name: accuracy, goal: maximize}}\nfixed: {{url: '{endpoint.url}'}}\n"
                f"include: [{{round: 0}}]\nparameters:\n  round: {{values: {rounds}}}\nlimits: {{jobs: 2}}\n"
            )
            return poc

        def go(poc: Path) -> subprocess.Popen:
            with (poc / "words.txt").open("ab") as words:
                command = [sys.executable, "-m", "poclab", "sweep", str(poc)]
                return subprocess.Popen(command, cwd=poc, env=environment(), stdin=subprocess.DEVNULL, stdout=words, stderr=words)

        def whole(process: subprocess.Popen, poc: Path) -> list[str]:
            if process.wait(600) != 0:
                raise SystemExit(f"the sweep ended with {process.returncode}:\n{(poc / 'words.txt').read_text()[-4000:]}")
            from poclab.archive import Archive

            return sorted(row["tags"]["content"] for row in Archive.open(poc).sweep())

        plain = make("sweep")
        undisturbed = whole(go(plain), plain)
        endpoint.reset()
        poc = make("killed sweep")
        kills = Kills(endpoint, poc)
        moments = sorted(random.Random(SEED).sample(range(1, SWEEP_TRIALS * cases - 2 * WORKERS), SWEEP_KILLS))
        for moment in moments:
            kills.strike(go(poc), moment, with_kernels=True)
        found = whole(go(poc), poc)
        head = f"a sweep of {SWEEP_TRIALS} trials of {cases} cases, two at a time, kill -9 after {moments} answers"
        judge(targets, kills, f"{head}; its kernels outlived it by {kills.outlived_s:.1f} s at most")
    targets.most("prompts that were never answered", SWEEP_TRIALS * cases - len(answered(poc)), 0)
    targets.most("trials without the content of the undisturbed sweep", len(undisturbed) - sum(map(found.__contains__, undisturbed)), 0)


def budget(options: argparse.Namespace, top: Path, targets: Targets) -> None:
    """Ask from many threads of several processes against one budget; every second trial with faults and a kill."""
    from endpoint import Endpoint
    from poclab import prices
    from poclab.ledger import LEDGER, Ledger

    # The longest prompt is the dearest.
    text = f"3 7 399: ANSWER:{{{'word ' * 29}end}}"
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": MOST_TOKENS}
    own = {MODEL: {"input": 1.0, "output": 4.0, "on": "2026-11-25"}}
    over, below, unexpected, worked = [], [], [], []
    for trial in range(options.trials):
        rough = trial % 2 == 1
        faults = [{**one, "retry_after_s": 0.1} if one["kind"] == "429" else one for one in FAULTS] if rough else []
        poc = frozen(top / f"budget {trial}" / "echo", 1)
        limit_usd = 0.04 + 0.005 * (trial % 5)
        Ledger.open(poc / LEDGER).open_budget("trial", limit_usd)
        with Endpoint(latency_s=0.02, seed=SEED + trial, faults=faults) as endpoint:
            most_usd = prices.bound_usd(MODEL, endpoint.url, "/chat/completions", body, own)
            running = [begin("spend", poc, endpoint.url, "trial", number) for number in range(PROCESSES)]
            lost = 0
            if rough:
                wait_for(lambda e=endpoint, usd=limit_usd: e.counts()["bill_usd"] > usd / 4, "a quarter of the budget")
                running[0].kill()
                running.pop(0).wait()
                lost = THREADS
            found = [end(one, poc) for one in running]
            wait_for(lambda e=endpoint: not e.counts()["under_way"], "the endpoint is done")
            counts = endpoint.counts()
        # Of an attempt without an answer nobody knows what it cost: its reservation stays used.
        lost += counts["faults"].get("cut_body", 0) + counts["faults"].get("reset", 0)
        over.append(counts["bill_usd"] / limit_usd)
        below.append((limit_usd - counts["bill_usd"]) / most_usd - lost)
        unexpected += [error for one in found for error in one["unexpected"]]
        worked.append(sum(one["ended"].get("no more work", 0) for one in found))
    targets.head(
        f"{PROCESSES} processes of {THREADS} threads against a budget: {options.trials} trials, every second with faults and a kill"
    )
    targets.most("the endpoint's bill, of the budget: the most", max(over), 1.0)
    targets.most("left of the budget, in reservations: the most", max(below), PROCESSES * THREADS)
    targets.most("threads that came to the end of their work instead", sum(worked), 0)
    targets.most(f"errors other than that of the budget {sorted(set(unexpected))[:2] or ''}", len(unexpected), 0)


def fault(options: argparse.Namespace, top: Path, targets: Targets) -> None:
    """Evaluate at an endpoint that fails, and hold verdicts and wall time against the same without faults."""
    from endpoint import Endpoint

    # With fewer cases slower: the hang, which ends with its time, must not be what the run waits for.
    timeout_s, latency_s = 10, 0.5 * CASES / options.cases
    with Endpoint(latency_s=latency_s, wrong=0.1, seed=SEED) as endpoint:
        free_poc, poc = (frozen(top / name / "echo", options.cases) for name in ("free", "faulty"))
        free = end(begin("evaluate", free_poc, endpoint.url, "auto", timeout_s), free_poc)
        endpoint.reset()
        endpoint.configure(faults=[HANG, *FAULTS])
        faulty = end(begin("evaluate", poc, endpoint.url, "auto", timeout_s), poc)
        counts = endpoint.counts()
    differ = [case for case, verdict in free["verdicts"].items() if case != "q037" and faulty["verdicts"].get(case) != verdict]
    met = ", ".join(f"{count} x {kind}" for kind, count in sorted(counts["faults"].items()))
    asked_s = counts["faults"].get("429", 0) * FAULTS[0]["retry_after_s"]
    ratio = faulty["wall_s"] / free["wall_s"]
    targets.head(f"{options.cases} cases at {latency_s:g} s, {WORKERS} at a time, with faults: {met}; {free['wall_s']:.1f} s without")
    targets.most(f"cases, but the hang, with another verdict {differ[:5] or ''}", len(differ), 0)
    targets.most("cases lost", options.cases - len(faulty["verdicts"]), 0)
    targets.same("outcome of the hang", [faulty["verdicts"]["q037"], "timeout"])
    # Retry-After is waited for side by side: its whole sum would be a bound that nothing could miss.
    targets.most(f"wall s ({ratio:.2f} x)", faulty["wall_s"], 1.5 * free["wall_s"] + asked_s / WORKERS)


def overhead(options: argparse.Namespace, top: Path, targets: Targets) -> None:
    """Compare the CPU of a live call with that of the plain client, forth and back."""
    from endpoint import Endpoint

    poc = frozen(top / "overhead" / "echo", 1)
    cpu: dict[str, list[float]] = {"plain": [], "ledger": []}
    with Endpoint(latency_s=0.05) as endpoint:
        for turn in range(options.rounds):
            for which in list(cpu)[:: -1 if turn % 2 else 1]:
                cpu[which].append(end(begin("call", poc, endpoint.url, which, options.cases), poc)["cpu_ms"])
    plain, ledger = (statistics.median(values) for values in cpu.values())
    spread = "; ".join(f"{name} {min(values):.2f}-{max(values):.2f}" for name, values in cpu.items())
    targets.head(f"{options.cases} live calls, {WORKERS} at a time, {options.rounds} rounds forth and back: CPU ms per call {spread}")
    targets.most(f"CPU ms per call beside the plain client ({ledger:.2f} - {plain:.2f})", ledger - plain, 1.0)


def replay(options: argparse.Namespace, top: Path, targets: Targets) -> None:
    """Time a whole process that replays every case and stores all of it."""
    import harness

    from endpoint import Endpoint

    poc = frozen(top / "replayed" / "echo", options.cases)
    with Endpoint(latency_s=0.02) as endpoint:
        end(begin("evaluate", poc, endpoint.url, "auto", 60), poc)
        billed, before = endpoint.counts()["billed"], harness.stored(poc)
        command = [sys.executable, __file__, "evaluate", str(poc), endpoint.url, "replay", "60"]
        measured = [harness.measure(command, poc) for _ in range(options.rounds)]
        asked = endpoint.counts()["requests"] - billed
    added = {what: (count - before[what]) / options.rounds for what, count in harness.stored(poc).items()}
    cpu_ms = statistics.median(one.cpu_s for one in measured) / options.cases * 1000
    targets.head(f"replay of {options.cases} cases, the whole process, {options.rounds} times; each stored {added}")
    targets.most("requests", asked, 0)
    targets.least("traces stored by each run", added["traces"], options.cases)
    targets.most("CPU ms per case", cpu_ms, 15)


SERIES: Sequence[Callable[[argparse.Namespace, Path, Targets], None]] = (kill, share, sweep, budget, fault, overhead, replay)


def main() -> int:
    import platform
    import tempfile
    from importlib.metadata import version

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--trials", type=int, default=TRIALS, help="of the budget")
    parser.add_argument("--rounds", type=int, default=4, help="of what is timed")
    parser.add_argument("--only", nargs="+", choices=[one.__name__ for one in SERIES], help="parts of the whole")
    parser.add_argument("--quick", action="store_true", help="a fifth of cases and trials, two rounds")
    options = parser.parse_args()
    if options.quick:
        options.cases, options.trials, options.rounds = options.cases // 5, options.trials // 5, 2
    versions = ", ".join(f"{name} {version(name)}" for name in ("poclab", "mlflow", "openai"))
    print(f"Python {platform.python_version()}, {versions}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    targets = Targets()
    with tempfile.TemporaryDirectory() as top:
        for one in SERIES:
            if options.only is None or one.__name__ in options.only:
                one(options, Path(top), targets)
    print(f"\n{targets.missed} target(s) missed; load at the end {os.getloadavg()[0]:.1f}")
    return 1 if targets.missed else 0


if __name__ == "__main__":
    # The endpoint is that of the tests, not the simpler one beside this file.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    if sys.argv[1:2] and sys.argv[1] in PROGRAMS:
        be_program(*sys.argv[1:])
    else:
        sys.exit(main())
