"""Run many cases side by side in threads, none of which can hold up the run or the end of the process.

A thread cannot be killed. So workers are daemon threads of our own: one that overruns its time is abandoned and
replaced, what it still does is discarded, and the process may end while it hangs. Nothing is retried here.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import queue
import signal
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
    """What became of one task: its value, the error that it raised, or both; `timed_out` when its time ran out."""

    index: int
    task: Task
    value: Any = None
    error: BaseException | None = None
    timed_out: bool = False


class Run(Generic[Task]):
    """Tasks that wait, those that are being worked on, and outcomes. An index leaves `running` once: whoever takes it out reports it."""

    def __init__(
        self, tasks: Sequence[Task], function: Callable[[Task], Any], then: Callable[[Any], Any] | None, *, workers: int, timeout_s: float
    ) -> None:
        self.function, self.then, self.timeout_s = function, then, timeout_s
        self.context = contextvars.copy_context()
        self.waiting = queue.SimpleQueue[tuple[int, Task]]()
        #: When each began, and the value that it has already.
        self.running: dict[int, tuple[float, Task, Any]] = {}
        self.done = queue.SimpleQueue[Outcome[Task]]()
        self.left = len(tasks)
        self.stopped = self.interrupted = False
        #: The handler that Ctrl-C had before.
        self.held: Any = None
        self.workers = min(workers, self.left)
        for job in enumerate(tasks):
            self.waiting.put(job)

    def __iter__(self) -> Iterator[Outcome[Task]]:
        self.hold_interrupts()
        for _ in range(self.workers):
            self.start_worker()
        try:
            while self.left:
                for outcome in self.outcomes():
                    self.left -= 1
                    yield outcome
                    self.raise_interrupt()
                self.raise_interrupt()
        finally:
            self.release_interrupts()

    def hold_interrupts(self) -> None:
        """Let Ctrl-C come between two outcomes only: one that is on its way to its reader, who may be half way through it, must not get lost."""

        def note(*_: Any) -> None:
            self.interrupted = True

        # A handler of the caller's own stays; and Python lets only its main thread have one.
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self.held = signal.signal(signal.SIGINT, note)

    def raise_interrupt(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt

    def release_interrupts(self) -> None:
        if self.held:
            signal.signal(signal.SIGINT, self.held)
            self.held = None

    def interrupt(self) -> None:
        """Have whoever iterates met by a `KeyboardInterrupt`, within a tick. For another thread."""
        self.interrupted = True

    def close(self) -> list[Outcome[Task]]:
        """Begin no further task, and return the outcomes that have come and were not read yet."""
        self.stopped = True
        self.release_interrupts()
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self.done.get_nowait())
        return found

    def drain(self) -> None:
        """Begin no further task; the outcomes of those that are under way still come."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.waiting.get_nowait()
                self.left -= 1

    def start_worker(self) -> None:
        threading.Thread(target=self.work, daemon=True, name="poclab-worker").start()

    def work(self) -> None:
        while not self.stopped:
            try:
                index, task = self.waiting.get_nowait()
            except queue.Empty:
                return
            outcome = self.timed(index, task, self.function, task)
            if outcome and outcome.error is None and self.then:
                outcome = self.timed(index, task, self.then, outcome.value, outcome.value)
            if outcome is None:
                return  # abandoned while it worked, and replaced: nobody waits for this any more
            self.done.put(outcome)

    def timed(self, index: int, task: Task, function: Callable[[Any], Any], argument: Any, value: Any = None) -> Outcome[Task] | None:
        """Call a function on the clock; None when its time ran out and that was reported already. `value` stays when it fails."""
        started = time.monotonic()
        self.running[index] = started, task, value
        before, error = value, None
        try:
            # A copy for each call: the caller's context variables reach the system, and no case sees those of another.
            value = self.context.copy().run(function, argument)
        except BaseException as raised:  # the one broad catch: a failing case is an answer, and its traceback is kept
            error = raised
        late = time.monotonic() - started > self.timeout_s
        if self.running.pop(index, None) is None:
            return None
        return self.overdue(index, task, before) if late else Outcome(index, task, value, error)

    def overdue(self, index: int, task: Any, value: Any) -> Outcome[Any]:
        return Outcome(index, task, value, TimeoutError(f"took longer than {self.timeout_s:g} s"), timed_out=True)

    def outcomes(self) -> Iterator[Outcome[Any]]:
        """Yield what has ended since the last call; wait a tick if nothing has."""
        with contextlib.suppress(queue.Empty):
            yield self.done.get(timeout=TICK)
        now = time.monotonic()
        for index, (started, task, value) in self.running.copy().items():
            if now - started > self.timeout_s and self.running.pop(index, None) is not None:
                self.start_worker()
                yield self.overdue(index, task, value)


def run(
    tasks: Sequence[Task], work: Callable[[Task], Any], *, then: Callable[[Any], Any] | None = None, workers: int, timeout_s: float
) -> Run[Task]:
    """Return a run that, when it is iterated, yields an outcome per task as they end, in any order; `index` tells which task it was.

    A task that took longer than `timeout_s` timed out, even if it ended before anybody looked. `then` goes on from the value
    of `work`, in the same thread and with as much time of its own; when it fails, the outcome holds the error beside that
    value. After `close` no further task is begun; it must follow when the caller stops reading early.
    """
    return Run(tasks, work, then, workers=workers, timeout_s=timeout_s)


def result_of(awaitable: Any) -> Any:
    """Await in the one event loop of this process, from a thread: a client that cases share belongs to one loop, for good."""
    with _starting:
        loop = _loop(os.getpid())
    return asyncio.run_coroutine_threadsafe(_awaited(awaitable), loop).result()


async def _awaited(awaitable: Any) -> Any:
    try:
        return await awaitable
    except (SystemExit, KeyboardInterrupt) as error:  # either would end the loop under all other cases
        raise RuntimeError(f"the system raised {error!r}") from error


_starting = threading.Lock()


@functools.cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="poclab-coroutines").start()
    return loop
