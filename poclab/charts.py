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
    """Return the accuracy of each run in the order they were made, with intervals, splits and editions of the cases apart.

    `runs` is what `poclab.runs` returns. The first run of each is drawn as its baseline; the charter's target as a line.

    Raises:
        InputError: there are no runs to draw.
    """
    drawn = runs.dropna(subset=["accuracy"]).reset_index(drop=True) if "accuracy" in runs else runs.head(0)
    if drawn.empty:
        raise InputError("no runs to draw", fix="`poclab run`, or `poclab sweep`")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    sets = drawn.assign(split=drawn["split"].fillna("all"), **({} if "lock" in drawn else {"lock": "", "edition": ""}))
    for (split, _), part in sets.groupby(["split", "lock"], sort=False):
        name = split if sets["lock"].nunique() == 1 else f"{split}, edition {part['edition'].iloc[0]}"
        _draw_set(axes, name, part, COLOURS.get(split, "#7f7f7f"))
    for changed in sets.index[1:][sets["lock"].ne(sets["lock"].shift())[1:]]:
        axes.axvline(changed - 0.5, color="#7f7f7f", linewidth=1)  # other cases from here on
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


def _draw_set(axes: Any, name: str, part: pandas.DataFrame, colour: str) -> None:
    below, above = part["accuracy"] - part["accuracy_low"], part["accuracy_high"] - part["accuracy"]
    style: Mapping[str, Any] = {"fmt": "o", "markersize": 4, "capsize": 2, "linewidth": 1, "color": colour}
    # Rounded numbers may put an edge a hair inside the point.
    axes.errorbar(part.index, part["accuracy"], yerr=[below.clip(lower=0), above.clip(lower=0)], label=f"{name} (95% interval)", **style)
    axes.axhline(part["accuracy"].iloc[0], color=colour, linestyle=":", linewidth=1, label=f"first run on {name}")


def _short(name: Any) -> str:
    # Matplotlib reads a pair of dollars as a formula; a run's name is only text.
    text = str(name)
    return (text if len(text) <= 30 else text[:27] + "...").replace("$", r"\$")
