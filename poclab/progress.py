"""How a sweep gets on, in one line that is kept up to date in a terminal or a notebook: nothing is shown where nobody looks.

What is paid now and what is to come stand first: the end of the line is left out where there is no room for it.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

from poclab.bars import bar
from poclab.errors import printable
from poclab.results import FAILED, Record
from poclab.sweeps import Sweep
from poclab.tables import cut, money

#: How wide the line may be in a notebook, and the sweep's name anywhere; what stands before the text besides, and room for `^C`.
COLUMNS = 80
NAME = 24
BESIDE = 24


class Progress:
    """Trials done, running and failed, the best so far, dollars paid now and in the end, time left. Used from several threads.

    A round of `screening` is told from the one on all cases by its name: its time and dollars are those of the round.
    """

    def __init__(self, sweep: Sweep, count: int, say: Callable[[str], None], *, screening: bool = False) -> None:
        self.sweep, self.count, self._say = sweep, count, say
        self.name = cut(printable(sweep.name), NAME) + (" screening" if screening else "")
        self.count_running = 0
        self.ended: list[Record] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Progress:
        line = "{desc} {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"  # no bar, which would leave no room on 80 columns
        self._bar = bar(total=self.count, desc=self.name, unit="trial", bar_format=line, dynamic_ncols=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        on_terminal = not self._bar.disable and getattr(self._bar.fp, "isatty", bool)()
        if error:
            self._bar.total = None  # in a notebook, what did not get to its end would stay there for good
        self._bar.close()
        if error and on_terminal:
            print("\r\x1b[K", end="", file=self._bar.fp, flush=True)  # the `^C`

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
        columns = self._bar.format_dict["ncols"]
        wide = columns if isinstance(columns, int) else COLUMNS
        self._bar.set_postfix_str(self.text(wide - len(self.name) - 2 * len(str(self.count)) - BESIDE))

    def text(self, room: float = math.inf) -> str:
        """Return what is known beside how many trials are done, without what there is no room for: the best's interval first."""
        failed = sum(one.outcome in FAILED for one in self.ended)
        parts = [*self._cost(), f"{self.count_running} running{f', {failed} failed' if failed else ''}"]
        forms = ["; ".join(parts[:1]), "; ".join(parts)]
        if best := self.best():
            value, interval, _ = best.shown(self.sweep.metric)
            shown = [
                f"best {value}",
                f"best {self.sweep.metric} {value}",
                f"best {self.sweep.metric} {value}{f' ({interval})' if interval else ''}",
            ]
            forms += ["; ".join([*parts, one]) for one in shown]
        return next((form for form in reversed(forms) if len(form) <= room), forms[0])

    def best(self) -> Record | None:
        """Return the best trial so far; None before there is one."""
        metric, sign = self.sweep.metric, 1 if self.sweep.maximize else -1
        return max((one for one in self.ended if one.value(metric) is not None), key=lambda one: sign * one.value(metric), default=None)

    def _cost(self) -> list[str]:
        spent = [one.spent_usd for one in self.ended if one.outcome != "not begun"]
        if not spent or None in spent:
            return ["cost unknown"] if spent else []
        total, left = math.fsum(spent), self.count - len(self.ended)
        return [f"paid now {_short(total)}{f' of ~{_short(total / len(spent) * (len(spent) + left))}' if left and total else ''}"]


def _short(usd: float) -> str:
    return f"${usd:.2f}" if usd >= 1 or not usd else money(usd)
