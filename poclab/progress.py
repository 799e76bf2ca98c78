"""How a sweep gets on, in one line that is kept up to date in a terminal or a notebook: nothing is shown where nobody looks."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

from poclab import arguments
from poclab.results import FAILED, Record
from poclab.sweeps import Sweep
from poclab.tables import money


class Progress:
    """Trials done, running and failed, the best so far, dollars spent and to come, time left. Used from several threads."""

    def __init__(self, sweep: Sweep, count: int, say: Callable[[str], None]) -> None:
        self.sweep, self.count, self._say = sweep, count, say
        self.count_running = 0
        self.ended: list[Record] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        line = "{desc} {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"  # no bar, which would leave no room on 80 columns
        self._bar = arguments.bar(total=self.count, desc=self.sweep.name, unit="trial", bar_format=line)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count a trial as one that runs."""
        with self._lock:
            self.count_running += 1
        try:
            yield
        finally:
            with self._lock:
                self.count_running -= 1

    def take(self, record: Record) -> None:
        """Tell of a trial whose result is there."""
        self.ended.append(record)
        with self._bar.external_write_mode():
            self._say(f"[{len(self.ended)}/{self.count}] {record.name}: {record.outcome_text(self.sweep.metric)}")
        self._bar.update()
        self.refresh()

    def refresh(self) -> None:
        """Show it as it is now; the clock goes on."""
        self._bar.set_postfix_str(self.text())

    def text(self) -> str:
        """Return what is known beside how many trials are done."""
        failed = sum(one.outcome in FAILED for one in self.ended)
        parts = [f"{self.count_running} running, {failed} failed"]
        if best := self.best():
            value, interval, _ = best.shown(self.sweep.metric)
            parts.append(f"best {self.sweep.metric} {value}{f' ({interval})' if interval else ''}")
        return "; ".join([*parts, *self._cost()])

    def best(self) -> Record | None:
        """Return the best trial so far; None before there is one."""
        metric, sign = self.sweep.metric, 1 if self.sweep.maximize else -1
        return max((one for one in self.ended if one.value(metric) is not None), key=lambda one: sign * one.value(metric), default=None)

    def _cost(self) -> list[str]:
        spent = [one.spent_usd for one in self.ended if one.outcome != "not begun"]
        if not spent or None in spent:
            return ["cost unknown"] if spent else []
        total, left = math.fsum(spent), self.count - len(self.ended)
        return [f"{money(total)} spent{f', about {money(total / len(spent) * left)} to come' if left and total else ''}"]
