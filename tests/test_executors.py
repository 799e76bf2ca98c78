"""Trials on the workers of a dask cluster: a real scheduler, and two workers that each take themselves for a host of their own."""

import contextlib
import json
import os
import pickle
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import invoke, notebook_of, plain_cases, until
from endpoint import Endpoint
from poclab import executors, trials
from poclab.errors import InputError
from poclab.executors import LOST, Order, chosen
from poclab.kernels import NotebookError
from poclab.ledger import LEDGER, Ledger
from poclab.sweeps import load_sweep

COUNT = 6
WORKERS_KEY, DRIVERS_KEY = "sk-worker-0123456789abcdef", "sk-driver-0123456789abcdef"
CELLS = (
    ("poc: str = '.'\nway: str = 'asks'\nnumber: int = 0", "parameters"),
    "import os, pathlib, threading\nimport poclab\nfrom poclab import models, scores\n"
    "client, first = models.client(), threading.Lock()",
    "def answer(inputs):\n"
    "    asked = [{'role': 'user', 'content': f\"{number}: {inputs['question']}\"}]\n"
    "    most = {'asks much': 1000, 'asks too much': 2000}.get(way, 10)\n"
    "    text = client.chat.completions.create(model='m', messages=asked, max_tokens=most).choices[0].message.content\n"
    "    if way == 'waits' and inputs['question'] == 'case 05' and not pathlib.Path('go on').exists():\n"
    "        pathlib.Path(f'waits {os.getpid()}').touch()\n"
    "        threading.Event().wait()\n"
    "    return text",
    "pathlib.Path(f\"{number} {pathlib.Path(os.environ.get('POCLAB_LEDGER', 'none')).stem}.host\").touch()",
    "cases = poclab.TestSet.load(f'{poc}/cases.jsonl').split('dev')",
    "poclab.evaluate(answer, cases, [scores.exact()], version=poclab.Version(way, way=way, number=number, model='m'), workers=1, timeout_s=600)",
)  # fmt: skip


@pytest.fixture(scope="module")
def served():
    with Endpoint(key=WORKERS_KEY) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def cluster(served, tmp_path_factory):
    """The address of a scheduler with two workers, and a function that starts another one of a name, with its log."""
    folder = tmp_path_factory.mktemp("cluster")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{one.getsockname()[1]}"
    # Each of its processes wakes up every 20 ms, and a worker looks at its stack every 10 ms: not for minutes beside other tests.
    quiet = {"ADMIN__TICK__INTERVAL": "1s", "ADMIN__SYSTEM_MONITOR__INTERVAL": "5s", "WORKER__PROFILE__ENABLED": "False"}
    env = {**os.environ, **{f"DASK_DISTRIBUTED__{name}": value for name, value in quiet.items()}}
    env |= {"OPENAI_BASE_URL": served.url, "OPENAI_API_KEY": WORKERS_KEY}
    processes = []

    def start(name, *arguments):
        with (folder / f"{name}.log").open("w") as log:
            command = [sys.executable, "-m", "dask", *arguments]
            processes.append(subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True))
        return processes[-1]

    def worker(host):
        preload = folder / f"{host}.py"
        preload.write_text(f"import socket\nsocket.gethostname = lambda: {host!r}\n")
        options = ["--nthreads", "1", "--no-dashboard", "--local-directory", str(folder / host), "--preload", str(preload)]
        started = start(host, "worker", address, *options)
        until(lambda: "Registered to" in (folder / f"{host}.log").read_text(), f"the worker of {host} begins")
        return started

    scheduler = start("scheduler", "scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard")
    workers = {host: worker(host) for host in ("alpha", "beta")}
    yield SimpleNamespace(address=address, worker=worker, workers=workers, folder=folder, scheduler=scheduler)
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def make(make_store):
    """Return a function that makes a POC with these trials, and an empty store."""

    def made(folder, include, more=""):
        folder.mkdir(parents=True)
        plain_cases(folder, COUNT)
        (folder / "notebooks").mkdir()
        (folder / "notebooks/asking.ipynb").write_text(json.dumps(notebook_of(*CELLS)))
        lines = "".join(f"  - {one}\n" for one in include)
        (folder / "sweep.yaml").write_text(f"notebook: notebooks/asking.ipynb\ninclude:\n{lines}limits: {{jobs: 2{more}}}\n")
        make_store(folder)
        return folder

    return made


@pytest.fixture
def sweep(served, cluster):
    """Return a function that runs a sweep on the cluster."""

    def run(poc, *more, **env):
        env = {"OPENAI_BASE_URL": served.url, "OPENAI_API_KEY": DRIVERS_KEY, **env}
        return invoke("sweep", poc, "--executor", f"dask={cluster.address}", *more, **env)

    return run


def records(poc):
    lines = (poc / ".poclab/sweeps/sweep/trials.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def statuses(poc):
    with contextlib.closing(sqlite3.connect(poc / "mlflow.db")) as database:
        return Counter(status for (status,) in database.execute("SELECT status FROM runs"))


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def started(cluster, served, poc, *more):
    command = [sys.executable, "-m", "poclab", "sweep", str(poc), "--executor", f"dask={cluster.address}", *more]
    env = {**os.environ, "OPENAI_BASE_URL": served.url}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_two_hosts_give_what_one_machine_gives_and_all_is_taken_over(make, sweep, cluster, served, run_poclab, tmp_path):
    """Each host has a ledger of its own; in the end the POC's has every answer, the budget what they cost, and no host's is left.

    Without an address it is one worker in the driver's process, and the POC's ledger takes the answers at once.
    """
    points = [f"{{number: {number}}}" for number in range(2)]
    poc = make(tmp_path / "far" / "animals", points, ", max_cost_usd: 1")
    served.reset()
    done = sweep(poc)
    asked = served.counts()
    again = sweep(poc)
    near = make(tmp_path / "near" / "animals", points, ", max_cost_usd: 1")
    here = run_poclab("sweep", near, "--executor", "dask", OPENAI_BASE_URL=served.url, OPENAI_API_KEY=WORKERS_KEY)
    ledger = Ledger.open(poc / LEDGER)

    assert (done.returncode, here.returncode, again.returncode) == (0, 0, 0), done.stderr + here.stderr + again.stderr
    assert done.stderr == here.stderr == ""
    assert asked["requests"] == 2 * COUNT
    assert {one["name"]: one["content"] for one in records(poc)} == {one["name"]: one["content"] for one in records(near)}
    assert {path.stem.split()[1].partition("-")[0] for path in poc.glob("*.host")} == {"alpha", "beta"}
    assert {path.stem.split()[1] for path in near.glob("*.host")} == {"none"}
    assert sum(len(ledger.of_case(f"q{number:02}")) for number in range(COUNT)) == 2 * COUNT
    (spent,) = ledger.standing().values()
    assert spent.settled_usd == pytest.approx(asked["bill_usd"]) and spent.used_usd == spent.settled_usd > 0
    assert list((poc / ".poclab/hosts").iterdir()) == []
    assert statuses(poc) == {"FINISHED": 3}
    assert len(records(poc)) == 2, "the second time nothing is run"
    logs = "".join(path.read_text() for path in cluster.folder.glob("*.log"))
    assert WORKERS_KEY not in logs and DRIVERS_KEY not in logs and "Traceback" not in logs


def test_what_a_share_is_too_small_for_gets_all_that_is_left(make, sweep, served, tmp_path):
    """A call may cost $0.004, and half of $0.006 is less: that trial runs again, by itself. One that may cost $0.008 has no room then, too."""
    fits = make(tmp_path / "fits" / "animals", ["{way: asks}", "{way: asks much}"], ", max_cost_usd: 0.006")
    served.reset()
    done = sweep(fits)
    asked = served.counts()["requests"]
    too_much = make(tmp_path / "too much" / "animals", ["{way: asks too much}"], ", max_cost_usd: 0.006")
    stopped = sweep(too_much)

    assert (done.returncode, stopped.returncode) == (0, 1), done.stdout + done.stderr + stopped.stdout + stopped.stderr
    assert [one["outcome"] for one in records(fits)] == ["ok", "ok"]
    assert asked == served.counts()["requests"] == 2 * COUNT
    assert statuses(fits) == {"FINISHED": 3, "KILLED": 1}
    assert [one["outcome"] for one in records(too_much)] == ["budget"]
    assert statuses(too_much)["KILLED"] == 2


def test_a_stopped_driver_leaves_no_kernel_and_the_next_one_goes_on(make, sweep, cluster, served, tmp_path):
    """After Ctrl-C and `kill -9` workers end the kernels that nobody waits for; what was answered is not paid again."""
    poc = make(tmp_path / "animals", ["{way: waits}"], ", max_cost_usd: 1")
    served.reset()
    ended = []
    for number in (signal.SIGINT, signal.SIGKILL):
        driver = started(cluster, served, poc)
        found = until(lambda: list(poc.glob("waits *")), "a trial waits")
        driver.send_signal(number)
        ended.append((driver.communicate(timeout=60)[0], driver.returncode))
        until(lambda paths=found: not any(alive(int(path.name.split()[1])) for path in paths), "the kernels end")
        for path in found:
            path.unlink()
        if number == signal.SIGINT:
            assert statuses(poc) == {"KILLED": 2}
    (poc / "go on").touch()
    done = sweep(poc)
    (spent,) = Ledger.open(poc / LEDGER).standing().values()

    assert [code for _, code in ended] == [130, -signal.SIGKILL]
    assert "0 of 1 trials that were to run are recorded" in ended[0][0] and "Traceback" not in ended[0][0]
    assert done.returncode == 0, done.stderr
    assert served.counts()["requests"] == COUNT
    assert spent.settled_usd == pytest.approx(served.counts()["bill_usd"]) and not spent.unanswered_usd
    assert "RUNNING" not in statuses(poc)


def test_a_trial_whose_worker_dies_is_run_once_more(make, cluster, served, tmp_path):
    """On another one, or the same begun anew: then it is as good as any, and of what it was to spend nothing stays set aside."""
    poc = make(tmp_path / "animals", ["{way: waits}"], ", max_cost_usd: 1")
    driver = started(cluster, served, poc, "--jobs", "1")
    (found,) = until(lambda: list(poc.glob("waits *")), "a trial waits")
    (poc / "go on").touch()
    os.kill(parent_of(int(found.name.split()[1])), signal.SIGKILL)
    out, _ = driver.communicate(timeout=90)

    assert driver.returncode == 0, out
    assert [one["outcome"] for one in records(poc)] == ["ok"]
    assert statuses(poc) == {"FINISHED": 2, "FAILED": 1}
    (spent,) = Ledger.open(poc / LEDGER).standing().values()
    assert spent.settled_usd > 0 and spent.in_flight_usd == spent.unanswered_usd == 0


def test_a_trial_whose_worker_dies_twice_has_failed(make, tmp_path, monkeypatch):
    """Whatever `retries` says it is run once more, and no more often; the sweep goes on."""

    class Deadly(executors.Local):
        def execute(self, order, *, alone):
            return NotebookError(None, "WorkerDied", "tcp://10.0.0.7 is gone", outcome=LOST)

    monkeypatch.setattr(trials, "chosen", lambda *_, **more: Deadly((), {}))
    poc = make(tmp_path / "animals", ["{number: 0}", "{number: 1}"])
    results = trials.run_sweep(load_sweep(poc))

    assert [record.outcome for record in results.records] == [LOST, LOST]
    assert "WorkerDied: tcp://10.0.0.7 is gone" in results.failures()
    assert statuses(poc) == {"FAILED": 5}


def test_another_endpoint_on_a_worker_is_refused(make, sweep, tmp_path):
    """The same model name at another address is another model."""
    poc = make(tmp_path / "animals", ["{number: 0}"])
    done = sweep(poc, OPENAI_BASE_URL="http://127.0.0.1:9/v1")

    assert done.returncode == 2
    assert "not what the sweep began with: OPENAI_BASE_URL is another address" in done.stdout + done.stderr
    assert [one["outcome"] for one in records(poc)] == ["invalid"]


def choose(name, folder):
    return chosen(name, folder, 1, imports=(), env={}, say=print)


@pytest.mark.parametrize("name", ["dusk", "dask=", "local=1", "", "threads", None, 5])
def test_an_executor_of_another_name_is_refused(name, tmp_path):
    """The message says what there is."""
    with pytest.raises(InputError, match="executor .*\n.*local, dask, or dask=ADDRESS"):
        choose(name, tmp_path)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nowhere", "gopher://x:1"])
def test_a_scheduler_that_is_not_there_is_named(address, tmp_path, monkeypatch):
    """With what to start."""
    monkeypatch.setattr(executors, "CONNECTING_S", 1)
    with pytest.raises(InputError, match=f"no dask scheduler answers at {address}.*\n.*dask scheduler"):
        choose(f"dask={address}", tmp_path)


def test_another_server_is_no_scheduler(unused_port, tmp_path, monkeypatch):
    """Who answers in another language is not waited for, and leaves no traceback behind when the command ends."""
    monkeypatch.setattr(executors, "CONNECTING_S", 1)
    with ThreadingHTTPServer(("127.0.0.1", unused_port), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(InputError, match="no dask scheduler answers at tcp://127.0.0.1"):
            choose(f"dask=tcp://127.0.0.1:{unused_port}", tmp_path)
        server.shutdown()


@pytest.mark.parametrize(
    ("client", "told"),
    [
        (SimpleNamespace(get_executor=None, asynchronous=True, status="running"), "is asynchronous"),
        (SimpleNamespace(get_executor=None, asynchronous=False, status="closed"), "is closed"),
    ],
)
def test_a_client_that_cannot_be_used_is_refused(client, told, tmp_path):
    """A sweep would wait for it for ever, or fail by an error of dask's own."""
    with pytest.raises(InputError, match=f"the dask client {told}\n.*distributed.Client"):
        choose(client, tmp_path)


def test_a_worker_without_poclab_is_named():
    """It would end at the first trial that it is given, and so would the next one."""
    client = SimpleNamespace(run=lambda *_, **more: {"tcp://10.0.0.7:1": True, "tcp://10.0.0.8:1": False})
    with pytest.raises(InputError, match="worker tcp://10.0.0.8:1 has no poclab.*\n.*install"):
        executors._refuse_without_poclab(client)


def test_without_dask_it_says_what_to_install(tmp_path, monkeypatch):
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match='dask is not installed\n.*pip install "poclab.dask."'):
        choose("dask", tmp_path)


def test_other_code_python_or_packages_are_named():
    """A package that only one of the two has is a tool of its own."""
    here = executors._Here.of(Path(__file__).parent)
    state = replace(here.state, python="3.0.1", packages={**here.state.packages, "click": "0.1", "only-there": "1"})
    code = {name: one for name, one in state.code.items() if name != "poclab/runner.py"} | {"poclab/report.py": "edited"}
    there = replace(here, state=replace(state, code=code))
    found = list(here.differences(there))

    assert list(here.differences(here)) == []
    assert found[:2] == ["poclab/report.py was edited", "poclab/runner.py is gone"]
    assert found[2].endswith("3.0.1 now") and found[3].startswith("1 package(s): click") and len(found) == 4


def test_a_folder_that_a_worker_does_not_see_is_named(tmp_path):
    """The POC is to lie where all machines see it."""
    order = Order(tmp_path / "a.ipynb", tmp_path / "nowhere", {}, {}, tmp_path, None, None, ())
    with pytest.raises(InputError, match="nowhere is not there\n.*where all machines see it"):
        executors._refuse_other(order, executors._Here.of(tmp_path))


def test_a_failure_travels_whole():
    """A worker sends it to the driver."""
    one = NotebookError(3, "ValueError", "no such thing", outcome="timeout", traceback="line 1")
    other = pickle.loads(pickle.dumps(one))

    assert vars(other) == vars(one)
    assert str(other) == "cell 3: ValueError: no such thing"


def test_a_scheduler_that_dies_ends_the_sweep_in_words(make, cluster, served, tmp_path):
    """Nothing more can be run there: it says so, gives back what nobody spent, and leaves no run open. The last test here: it ends the cluster."""
    poc = make(tmp_path / "animals", ["{way: waits}", "{number: 1}", "{number: 2}"], ", max_cost_usd: 1")
    driver = started(cluster, served, poc, "--jobs", "3")
    until(lambda: list(poc.glob("waits *")), "a trial waits")
    os.killpg(cluster.scheduler.pid, signal.SIGKILL)
    out, _ = driver.communicate(timeout=90)

    assert driver.returncode == 2, out
    assert "the dask scheduler is gone" in out and "Traceback" not in out
    assert statuses(poc)["RUNNING"] == 0
