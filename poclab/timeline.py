"""Accuracy over time: what changed at each recorded run, and what it did to the number.

A run is held against the one before it on the same cases; dev and test are apart. A neighbour that is higher may be so by
chance: whether two runs differ is told by `comparison`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from poclab.charter import Charter
from poclab.charts import accuracy_over_time, png
from poclab.errors import InputError
from poclab.stats import edges
from poclab.tables import block, cut, frame, html_table, text_table

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

#: What a run is held against the run before it by, besides its parameters; the words that name it.
BESIDES = {"corpus": "corpus", "repeats": "repeats", "code": "code", "git_commit": "commit"}
COLUMNS = ("on", "split", "version", "accuracy", "interval", "n", "failed", "changed", "run")
#: Between these, where a judge scored a run: what it gave.
JUDGES = COLUMNS.index("changed")


@dataclass(frozen=True)
class History:
    """The finished runs of a POC, the oldest first, each with what changed since the one before on the same cases."""

    rows: tuple[Mapping[str, Any], ...]
    charter: Charter | None = None

    @property
    def drawable(self) -> bool:
        """True when some run has an accuracy."""
        return any(one["accuracy"] is not None for one in self.rows)

    def frame(self) -> pandas.DataFrame:
        """Return one line per run: when, split, edition, accuracy with interval, n, failed, cost, what changed, ids."""
        return frame(self.rows)

    def figure(self) -> Figure:
        """Return the chart: accuracy with intervals, splits apart, the charter's target and the first run of each as lines."""
        return accuracy_over_time(self.frame(), charter=self.charter)

    def _table(self) -> list[list[Any]]:
        several = [key for key in ("edition", "score") if len({one[key] for one in self.rows}) > 1]
        return [
            [
                f"{one['started']:%Y-%m-%d %H:%M}",
                " ".join([one["split"], *(f"({key} {one[key]})" for key in several)]),
                one["run"],
                *_accuracy(one),
                one["cases"],
                one["failed"],
                *([one["judges"]] if self._judged else []),
                one["changed"],
                one["run_id"][:8],
            ]
            for one in self.rows
        ]

    @property
    def _columns(self) -> list[str]:
        return [*COLUMNS[:JUDGES], *(["judges"] if self._judged else []), *COLUMNS[JUDGES:]]

    @property
    def _judged(self) -> bool:
        return any(one["judges"] for one in self.rows)

    def __repr__(self) -> str:
        return text_table(self._columns, [[*row[:2], cut(row[2], 30), *row[3:-2], cut(row[-2], 90), row[-1]] for row in self._table()])

    def _repr_html_(self) -> str:
        return block(self._chart(), html_table(self._columns, self._table()))

    def _chart(self) -> str:
        if not self.drawable:
            return ""
        picture = base64.b64encode(png(self.figure())).decode()
        return f"<img alt='accuracy over time' src='data:image/png;base64,{picture}'>"


def _judged(score: str, metrics: Mapping[str, Any]) -> str:
    """Return what a judge's score is, in words; the accuracy stands in a column of its own, too."""
    if metrics.get(score) is None:
        return f"{score} none"
    return f"{score} {metrics[score]:.3f} ({edges(metrics[f'{score}_low'], metrics[f'{score}_high'])})"


def _accuracy(row: Mapping[str, Any]) -> tuple[str, str]:
    if row["accuracy"] is None:
        return "none", ""
    return f"{row['accuracy']:.3f}", edges(row["accuracy_low"], row["accuracy_high"])


def of_runs(runs: Sequence[Mapping[str, Any]], charter: Charter | None = None) -> History:
    """Return the history of recorded runs, as the archive lists them.

    Raises:
        InputError: there are none.
    """
    if not runs:
        raise InputError("no runs yet", fix="`poclab run`, or `poclab sweep`")
    before: dict[Any, Mapping[str, Any]] = {}
    rows = []
    for run in runs:
        place = tuple(run["tags"].get(key) for key in ("split", "lock", "score"))
        rows.append(_row(run, before.get(place)))
        before[place] = run
    return History(tuple(rows), charter)


def _row(run: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    tags, metrics = run["tags"], run["metrics"]
    return {
        "run": tags.get("name") or run["name"],
        "started": run["started"],
        "split": tags.get("split") or "all",
        "edition": tags.get("edition"),
        # The trials of a sweep run side by side: each is told by what it is in the sweep, not by which one happened to start before.
        "changed": f"sweep: {run['name']}" if run.get("parent") else changes(before, run) if before else "(the first)",
        "score": tags.get("score"),
        "judges": ", ".join(_judged(name, metrics) for name in json.loads(tags.get("judges") or "{}")),
        **{key: metrics.get(key) for key in ("accuracy", "accuracy_low", "accuracy_high")},
        **{key: int(metrics[key]) if key in metrics else None for key in ("cases", "failed")},
        **{key: metrics.get(key) for key in ("latency_p95_s", "cost_usd_per_case")},
        "lock": tags.get("lock"),
        "sweep": tags.get("sweep"),
        "version": tags.get("version"),
        "run_id": run["run_id"],
    }


def changes(before: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Return what differs between two runs, in words."""
    old, new = before["params"], run["params"]
    found = [
        f"{key} {old.get(key, '(not set)')} -> {new.get(key, '(not set)')}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]
    found += [
        f"the text of {key}"
        for key in new
        if old.get(key) == new[key] and _edited(*(row["tags"].get(f"prompt.{key}") for row in (before, run)))
    ]
    if not found and before["tags"].get("version") != run["tags"].get("version"):
        found = ["the text of a prompt"]
    for tag, word in BESIDES.items():
        one, other = (row["tags"].get(tag) for row in (before, run))
        if one != other and None not in (one, other):
            found.append(f"{word} {one[:8]} -> {other[:8]}")
    found += _judges(*(row["tags"].get("judges") for row in (before, run)))
    return ", ".join(found) or "nothing: the same version again"


def _judges(before: str | None, now: str | None) -> list[str]:
    """Return what differs between the judges of two runs; nothing where one of them did not record its own."""
    if None in (before, now):
        return []
    one, other = json.loads(before), json.loads(now)
    words = {
        name: "added" if name not in one else "left out" if name not in other else "of another rubric or model" for name in {**one, **other}
    }
    return [f"judge {name} {word}" for name, word in words.items() if one.get(name) != other.get(name)]


def _edited(one: str | None, other: str | None) -> bool:
    """Tell whether two registered prompts are different texts; one that could not be registered has no address."""
    return one != other and all(address and address.startswith("prompts:/") for address in (one, other))
