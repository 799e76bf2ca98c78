"""Charts of recorded runs. Every chart names its axes and draws what the numbers are held against."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from poclab.charter import Charter
from poclab.errors import InputError

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

COLOURS = {"dev": "#1f77b4", "test": "#d62728", "all": "#7f7f7f"}


def accuracy_over_time(runs: pandas.DataFrame, *, charter: Charter | None = None) -> Figure:
    """Return the accuracy of each run in the order they were made, with intervals, dev and test apart.

    `runs` is what `poclab.runs` returns. The first run of each split is drawn as its baseline; the charter's target as a line.

    Raises:
        InputError: there are no runs to draw.
    """
    drawn = runs.dropna(subset=["accuracy"]).reset_index(drop=True) if "accuracy" in runs else runs.head(0)
    if drawn.empty:
        raise InputError("no runs to draw", fix="`poclab run`, or `poclab sweep`")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for split, part in drawn.groupby(drawn["split"].fillna("all"), sort=False):
        _draw_split(axes, str(split), part)
    for criterion in charter.criteria if charter else ():
        if criterion.metric == "accuracy" and criterion.at_least is not None:
            axes.axhline(
                criterion.at_least, color="black", linestyle="--", linewidth=1, label=f"target on {criterion.split}: {criterion.at_least:g}"
            )
    axes.set(xlabel="run, in the order they were made", ylabel="accuracy (share of cases)", ylim=(0, 1), title="Accuracy over time")
    axes.set_xticks(range(len(drawn)), [_short(name) for name in drawn["run"]], rotation=60, ha="right", fontsize=7)
    axes.legend(loc="best", fontsize=8)
    # A figure that pyplot does not know is shown in a notebook as its name, unless it says how to be a picture.
    figure._repr_png_ = functools.partial(_png, figure)
    return figure


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    return picture.getvalue()


def _draw_split(axes: Any, split: str, part: pandas.DataFrame) -> None:
    colour = COLOURS.get(split, "#7f7f7f")
    below, above = part["accuracy"] - part["accuracy_low"], part["accuracy_high"] - part["accuracy"]
    style: Mapping[str, Any] = {"fmt": "o", "markersize": 4, "capsize": 2, "linewidth": 1, "color": colour}
    # Rounded numbers may put an edge a hair inside the point.
    axes.errorbar(part.index, part["accuracy"], yerr=[below.clip(lower=0), above.clip(lower=0)], label=f"{split} (95% interval)", **style)
    axes.axhline(part["accuracy"].iloc[0], color=colour, linestyle=":", linewidth=1, label=f"first run on {split}")


def _short(name: Any) -> str:
    # Matplotlib reads a pair of dollars as a formula; a run's name is only text.
    text = str(name)
    return (text if len(text) <= 45 else text[:42] + "...").replace("$", r"\$")
