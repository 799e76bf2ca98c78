import contextlib
import contextvars
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from poclab import runner
from poclab.report import Report

COLOUR = contextvars.ContextVar("colour", default="none")


def run(work, tasks, *, workers=4, timeout_s=30.0):
    return sorted(runner.run(tasks, work, workers=workers, timeout_s=timeout_s), key=lambda outcome: outcome.index)


def python(program, *, cwd, **popen):
    """Start a real process with a program of its own; its first line of output says that it is ready."""
    path = cwd / "program.py"
    path.write_text(program, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(path)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", **popen
    )


def test_every_task_has_one_outcome_with_its_place():
    """Outcomes come as they end; the index puts them back in order. Two equal tasks are two tasks."""
    tasks = ["a", "b", "a", "c"]

    outcomes = run(str.upper, tasks, workers=3)

    assert [(one.index, one.task, one.value) for one in outcomes] == [(0, "a", "A"), (1, "b", "B"), (2, "a", "A"), (3, "c", "C")]
    assert all(one.error is None and not one.timed_out for one in outcomes)


def test_no_tasks_end_at_once():
    """An empty list needs no worker."""
    assert run(str.upper, []) == []


def test_outcomes_come_as_they_end():
    """The first task waits for the second to be reported: a slow case holds back no other."""
    reported = threading.Event()
    places = []

    for outcome in runner.run([0, 1], lambda task: task == 1 or reported.wait(30), workers=2, timeout_s=60):
        places.append(outcome.index)
        reported.set()

    assert places == [1, 0]


def test_as_many_run_side_by_side_as_asked_and_no_more():
    """Four tasks that each wait for three others end only when four run at once; a count shows that there are never five."""
    barrier, lock, now, most = threading.Barrier(4), threading.Lock(), [0], [0]

    def work(task):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        barrier.wait(30)
        with lock:
            now[0] -= 1

    assert all(one.error is None for one in run(work, range(12), workers=4))
    assert most[0] == 4


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError()])
def test_whatever_a_system_raises_is_its_outcome(error):
    """`sys.exit()` in a system ends neither the worker nor the process; the others are answered."""

    def work(task):
        if task == 1:
            raise error
        return task

    outcomes = run(work, range(6), workers=1)

    assert outcomes[1].error is error
    assert outcomes[1].error.__traceback__ is not None
    assert [one.value for one in outcomes] == [0, None, 2, 3, 4, 5]


def python_loop(stop):
    while not stop.is_set():
        pass


def long_sleep(stop):
    time.sleep(30)


def socket_read(stop):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30)  # so that this thread, too, ends some time after the test
        ours.recv(1)


@pytest.mark.parametrize("hang", [python_loop, long_sleep, socket_read])
def test_a_hung_task_times_out_and_the_others_do_not(hang):
    """Two of two workers hang, in Python, in the C library and in the kernel: both are replaced, and six tasks still get theirs."""
    stop = threading.Event()
    began = time.monotonic()
    try:
        outcomes = run(lambda task: hang(stop) if task < 2 else task, range(8), workers=2, timeout_s=0.5)
    finally:
        stop.set()

    assert [one.timed_out for one in outcomes] == [True, True] + [False] * 6
    assert all(isinstance(one.error, TimeoutError) and "0.5 s" in str(one.error) for one in outcomes[:2])
    assert [one.value for one in outcomes[2:]] == [2, 3, 4, 5, 6, 7]
    assert time.monotonic() - began < 25


def test_replaced_workers_keep_the_concurrency():
    """After three of three workers were abandoned, three tasks still run side by side: each waits for the other two."""
    stop, barrier = threading.Event(), threading.Barrier(3)

    def work(task):
        return stop.wait(30) if task < 3 else barrier.wait(20)

    try:
        outcomes = run(work, range(9), workers=3, timeout_s=0.5)
    finally:
        stop.set()

    assert [one.timed_out for one in outcomes] == [True] * 3 + [False] * 6
    assert [one.error for one in outcomes[3:]] == [None] * 6


def test_a_late_result_is_discarded():
    """A task that ends after it was given up changes nothing, and its worker begins no other."""
    release, ended = threading.Event(), threading.Event()
    threads = []

    def work(task):
        threads.append(threading.current_thread())
        if task == 0:
            release.wait(30)
            ended.set()
        return task

    places = []
    for outcome in runner.run(range(4), work, workers=1, timeout_s=0.3):
        places.append((outcome.index, outcome.timed_out))
        if outcome.timed_out:
            release.set()
            assert ended.wait(30)

    assert sorted(places) == [(0, True), (1, False), (2, False), (3, False)]
    assert threads[0] not in threads[1:]


def test_a_task_that_overran_unseen_has_timed_out_too():
    """While the caller was busy nobody looked at the clock: what took too long did so all the same."""
    overran = threading.Event()

    def work(task):
        if task == 1:
            began = time.monotonic()
            while time.monotonic() - began < 0.6:
                time.sleep(0.05)
            overran.set()
        return task

    timed_out = {}
    for outcome in runner.run([0, 1], work, workers=2, timeout_s=0.5):
        timed_out[outcome.index] = outcome.timed_out
        assert overran.wait(30)

    assert timed_out == {0: False, 1: True}


def test_context_variables_travel_into_workers():
    """The caller's settings reach the system, whichever worker asks it, a replacement included."""
    stop = threading.Event()
    token = COLOUR.set("blue")
    try:
        outcomes = run(lambda task: COLOUR.get() if task else stop.wait(30), range(4), workers=1, timeout_s=0.3)
    finally:
        stop.set()
        COLOUR.reset(token)

    assert [one.value for one in outcomes[1:]] == ["blue"] * 3


def test_a_task_does_not_see_what_another_set():
    """One worker, two cases: a context variable that the first sets is not there in the second."""

    def work(task):
        before = COLOUR.get()
        COLOUR.set(task)
        return before

    assert [one.value for one in run(work, ["red", "green", "blue"], workers=1)] == ["none"] * 3
    assert COLOUR.get() == "none"


def test_a_caller_who_stops_begins_nothing_more():
    """Closing the iterator after the first outcome leaves the tasks that wait alone."""
    begun, go_on = [], threading.Event()

    def work(task):
        begun.append(task)
        return task == 0 or go_on.wait(30)

    before = set(threading.enumerate())
    with contextlib.closing(runner.run(range(50), work, workers=2, timeout_s=60)) as outcomes:
        next(iter(outcomes))
    go_on.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(30)

    assert len(begun) <= 3


def test_thousands_of_fast_tasks_finish():
    """Nothing is lost on the way, and a task costs microseconds: 2,000 take well under the 0.1 ms each that is allowed."""
    took_s = []
    for _ in range(3):  # whatever else this process was at
        began = time.process_time()
        outcomes = run(lambda task: task, range(2_000), workers=32)
        took_s.append(time.process_time() - began)

        assert [one.value for one in outcomes] == list(range(2_000))
    assert min(took_s) < 0.2


def test_tasks_that_end_at_their_deadline_are_reported_once():
    """Worker and watch compete for the same task: each is reported exactly once, whoever wins, and none is lost."""
    outcomes = run(lambda task: time.sleep(0.0101), range(600), workers=32, timeout_s=0.01)

    assert [one.index for one in outcomes] == list(range(600))


HUNG = """
import threading, time, socket
from poclab import runner

def loop():
    while True:
        pass

def read():
    ours, theirs = socket.socketpair()
    ours.recv(1)
    theirs.close()

hangs = [loop, lambda: time.sleep(1000), read]
outcomes = list(runner.run(range(6), lambda task: hangs[task]() if task < 3 else task, workers=3, timeout_s=0.5))
print(sum(one.timed_out for one in outcomes), sorted(one.value for one in outcomes if not one.timed_out), flush=True)
"""


def test_hung_tasks_do_not_keep_the_process(tmp_path):
    """A Python loop, a sleep and a socket read still hang when the program has reached its end; the process ends with 0."""
    process = python(HUNG, cwd=tmp_path)
    assert process.stdout.readline() == "3 [3, 4, 5]\n", process.stderr.read()
    began = time.monotonic()

    out, err = process.communicate(timeout=60)

    assert (process.returncode, out, err) == (0, "", "")
    assert time.monotonic() - began < 5


INTERRUPTED = """
import sys, threading
import poclab
from poclab import scores

cases = [poclab.Case(f"q{i:02}", {"question": str(i)}, {"answers": [str(i)]}) for i in range(20)]
asked = []

def system(inputs):
    asked.append(inputs["question"])
    if len(asked) <= 5:
        return inputs["question"]
    if len(asked) == 6:
        print("ready", flush=True)
    threading.Event().wait()

try:
    poclab.evaluate(system, cases, [scores.exact()], version=poclab.Version("slow"), workers=1, timeout_s=600)
except poclab.Interrupted as stopped:
    stopped.report.save("partial.json")
    print(stopped, len(asked), flush=True)
"""


def test_ctrl_c_leaves_a_partial_report(tmp_path):
    """A real SIGINT while the sixth of twenty cases hangs: what was answered is kept, the report says that it is partial, no case is begun."""
    names = ("MLFLOW_", "POCLAB_", "OPENAI_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    process = python(INTERRUPTED, cwd=tmp_path, env=env)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    process.send_signal(signal.SIGINT)

    out, err = process.communicate(timeout=60)
    report = Report.load(tmp_path / "partial.json")

    assert process.returncode == 0, err
    # Of the five answers, the last may still have been on their way to the main thread.
    assert out == f"stopped after {report.n} of 20 cases 6\n"
    assert report.partial
    assert [one.case_id for one in report.results] == ["q00", "q01", "q02", "q03", "q04"][: report.n]
    assert all(one.scores["exact"].value is True for one in report.results)
    assert f"PARTIAL: stopped after {report.n} of 20" in repr(report)


def test_ctrl_c_waits_until_an_outcome_is_kept():
    """A real SIGINT while the caller is half way through an outcome: that one is kept, no other is handed out, and Ctrl-C is as before."""
    before, kept = signal.getsignal(signal.SIGINT), []

    with pytest.raises(KeyboardInterrupt):
        for outcome in runner.run(range(50), lambda task: task, workers=2, timeout_s=60):
            signal.raise_signal(signal.SIGINT)
            kept.append(outcome)

    assert len(kept) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_what_has_ended_is_not_lost_when_the_caller_stops():
    """An answer that was paid for before Ctrl-C stands in the partial report, even if nobody had read it yet."""
    ended = threading.Semaphore(0)

    def work(task):
        ended.release()
        return task

    outcomes = runner.run(range(3), work, workers=1, timeout_s=60)
    read = [next(iter(outcomes)).index]
    for _ in range(3):
        assert ended.acquire(timeout=30)
    while outcomes.running:  # the last worker puts its outcome right after its task has ended
        pass
    read += [one.index for one in outcomes.close()]
    read += [one.index for one in outcomes.close()]  # the last outcome may come a moment after its task left `running`

    assert sorted(read)[:2] == [0, 1]
    assert len(read) == len(set(read))
