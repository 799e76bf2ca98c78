"""Charts of recorded runs. Every chart names its axes and draws what the numbers are held against."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from poclab.charter import Charter
from poclab.comparison import Comparison
from poclab.errors import InputError, printable

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

WORDS = {"better": "#1a7f37", "worse": "#b42318", "cannot tell": "#57606a"}
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

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    absent = {key: "" for key in ("lock", "edition", "score") if key not in drawn}
    sets = drawn.assign(split=drawn["split"].fillna("all"), **absent)
    several = [key for key in ("lock", "score") if sets[key].nunique() > 1]
    for (split, *_), part in sets.groupby(["split", "lock", "score"], sort=False, dropna=False):
        told = {"lock": f"edition {part['edition'].iloc[0]}", "score": f"by {part['score'].iloc[0]}"}
        name = ", ".join([split, *(told[key] for key in several)])
        _draw_set(axes, _short(name), part, COLOURS.get(split, "#7f7f7f"))
    for changed in sets.index[1:][sets["lock"].ne(sets["lock"].shift())[1:]]:
        axes.axvline(changed - 0.5, color="#7f7f7f", linewidth=1)  # other cases from here on
    for criterion in charter.criteria if charter else ():
        if criterion.metric == "accuracy" and criterion.at_least is not None:
            axes.axhline(
                criterion.at_least, color="black", linestyle="--", linewidth=1, label=f"target on {criterion.split}: {criterion.at_least:g}"
            )
    axes.set(xlabel="run, in the order they were made", ylabel="accuracy (share of cases)", ylim=(0, 1), title="Accuracy over time")
    axes.set_xticks(range(len(drawn)), [_short(name) for name in drawn["run"]], rotation=60, ha="right", fontsize=7)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)  # beside the points: within, it would cover some
    return _shown(figure)


def forest(comparison: Comparison) -> Figure:
    """Return the difference of each candidate to the baseline by the first score, with its interval, and the word that it got."""
    drawn = sorted((one for one in comparison.candidates if one.scores[0].paired), key=lambda one: one.scores[0].paired.difference.value)
    if not drawn:
        raise InputError(f"no difference to draw: {comparison.candidates[0].scores[0].problem}")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.4 + 0.35 * len(drawn)), layout="constrained")
    axes = figure.add_subplot()
    for place, one in enumerate(drawn):
        score = one.scores[0]
        value, word = score.paired.difference, score.word.partition(" (")[0]
        style: Mapping[str, Any] = {"fmt": "o", "capsize": 2, "markersize": 4, "color": WORDS[word]}
        axes.errorbar(value.value, place, xerr=[[value.value - value.low], [value.high - value.value]], **style)
        axes.annotate(word, (value.high, place), xytext=(6, 0), textcoords="offset points", va="center", fontsize=7, color=WORDS[word])
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(drawn)), [_short(one.report.version.name) for one in drawn], fontsize=7)
    axes.margins(x=0.15)
    cases = " ".join(filter(None, [str(comparison.baseline.n), comparison.baseline.split, "cases"]))
    axes.set(
        xlabel=f"difference in {drawn[0].scores[0].score} (share of cases; 95% interval, not adjusted)",
        title=f"Against {_short(comparison.baseline.version.name)}, {cases}; words by Holm over {comparison.comparisons}",
    )
    return _shown(figure)


def _shown(figure: Figure) -> Figure:
    # A figure that pyplot does not know is shown in a notebook as its name, unless it says how to be a picture.
    figure._repr_png_ = functools.partial(png, figure)
    return figure


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG picture."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    return picture.getvalue()


def _draw_set(axes: Any, name: str, part: pandas.DataFrame, colour: str) -> None:
    below, above = part["accuracy"] - part["accuracy_low"], part["accuracy_high"] - part["accuracy"]
    style: Mapping[str, Any] = {"fmt": "o", "markersize": 4, "capsize": 2, "linewidth": 1, "color": colour}
    # Rounded numbers may put an edge a hair inside the point.
    axes.errorbar(part.index, part["accuracy"], yerr=[below.clip(lower=0), above.clip(lower=0)], label=f"{name} (95% interval)", **style)
    axes.axhline(part["accuracy"].iloc[0], color=colour, linestyle=":", linewidth=1, label=f"first run on {name}")


def _short(name: Any, most: int = 42) -> str:
    # Matplotlib reads a pair of dollars as a formula; a run's name is only text.
    text = printable(str(name))
    return (text if len(text) <= most else text[: most - 3] + "...").replace("$", r"\$")
