"""Run many cases side by side in threads, none of which can hold up the run or the end of the process.

A thread cannot be killed. So workers are daemon threads of our own: one that overruns its time is abandoned and
replaced, what it still does is discarded, and the process may end while it hangs. Nothing is retried here.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Task = TypeVar("Task")
#: How often, in seconds, the main thread wakes to look at deadlines and at Ctrl-C.
TICK = 0.05


@dataclass(frozen=True)
class Outcome(Generic[Task]):
    """What became of one task: its value, or the error that it raised; `timed_out` when its time ran out."""

    index: int
    task: Task
    value: Any = None
    error: BaseException | None = None
    timed_out: bool = False


class _Worker:
    def __init__(self, pool: _Pool) -> None:
        self.started = 0.0
        self.job: tuple[int, Any] | None = None
        # Each worker gets a copy of the caller's context, so that its context variables reach the system.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(pool.work, self), daemon=True, name="poclab-worker").start()


class _Pool:
    def __init__(self, tasks: Sequence[Any], work: Callable[[Any], Any]) -> None:
        self.waiting = queue.SimpleQueue[tuple[int, Any]]()
        self.done = queue.SimpleQueue[Outcome[Any]]()
        self.function = work
        self.stopped = False
        for job in enumerate(tasks):
            self.waiting.put(job)

    def work(self, worker: _Worker) -> None:
        while not self.stopped:
            try:
                index, task = self.waiting.get_nowait()
            except queue.Empty:
                return
            worker.started, worker.job = time.monotonic(), (index, task)
            try:
                outcome = Outcome(index, task, value=self.function(task))
            except BaseException as error:  # the one broad catch: a failing case is an answer, and its traceback is kept
                outcome = Outcome(index, task, error=error)
            if worker.job is None:
                return  # abandoned while it worked: nobody waits for this any more
            worker.job = None
            self.done.put(outcome)


def run(tasks: Sequence[Task], work: Callable[[Task], Any], *, workers: int, timeout_s: float) -> Iterator[Outcome[Task]]:
    """Yield an outcome per task as they end, in any order; `index` tells which task it was.

    When the caller stops iterating, or Ctrl-C is pressed, no further task is begun.
    """
    pool = _Pool(tasks, work)
    live = [_Worker(pool) for _ in range(min(workers, len(tasks)))]
    reported: set[int] = set()
    try:
        while len(reported) < len(tasks):
            for outcome in _next(pool, live, timeout_s):
                if outcome.index not in reported:
                    reported.add(outcome.index)
                    yield outcome
    finally:
        pool.stopped = True
        for worker in live:
            worker.job = None


def _next(pool: _Pool, live: list[_Worker], timeout_s: float) -> Iterator[Outcome[Any]]:
    with contextlib.suppress(queue.Empty):
        yield pool.done.get(timeout=TICK)
    now = time.monotonic()
    for position, worker in enumerate(live):
        job = worker.job
        if job is not None and now - worker.started > timeout_s:
            worker.job = None
            live[position] = _Worker(pool)
            yield Outcome(*job, error=TimeoutError(f"no reply within {timeout_s:g} s"), timed_out=True)
