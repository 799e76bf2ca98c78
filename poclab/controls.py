"""What the parameters of a version are set by at the bench: lists, sliders, files and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poclab.errors import InputError
from poclab.rag.retrieval import RETRIEVALS

#: What a parameter is set by: one of several values, a whole number of a range, a file that matches a pattern (`*`), or any text.
Control = Sequence[Any] | range | str
#: Those of the reference system, by the names that notebook 02 has for them.
REFERENCE: Mapping[str, Control] = {
    "prompt": "prompts/*.md",
    "model": "",
    "retrieval": RETRIEVALS,
    "chunk_size": range(100, 2001, 50),
    "overlap": range(0, 401, 25),
    "context_chars": range(500, 8001, 250),
    "embedding": "",
}
PROMPT = "prompt"


def checked(controls: Mapping[str, Control]) -> dict[str, Control]:
    """Return the controls.

    Raises:
        InputError: one that cannot be shown.
    """
    for name, kind in controls.items():
        texts = isinstance(kind, str) and (name != PROMPT or "*" in kind)
        numbers = isinstance(kind, range) and kind.step > 0 and name != PROMPT
        choice = isinstance(kind, Sequence) and not isinstance(kind, str | bytes | range)
        if not isinstance(name, str) or not (texts or ((numbers or choice) and len(kind))):
            expected = "a list of files, or a pattern of them" if name == PROMPT else "a list, a range upwards, or a text"
            raise InputError(
                f"controls: {name!r} is {kind!r}: expected {expected}", fix='controls={"prompt": "prompts/*.md", "top_k": range(1, 21)}'
            )
    return dict(controls)


def widget(name: str, kind: Control, poc: Path) -> Any:
    """Return the widget of a control; files are those of the POC.

    Raises:
        InputError: no file matches a pattern, or it is none.
    """
    import ipywidgets as widgets

    style = {"style": {"description_width": "8em"}, "layout": widgets.Layout(width="98%")}
    if isinstance(kind, range):
        return widgets.IntSlider(min=kind[0], max=kind[-1], step=kind.step, description=name, continuous_update=False, **style)
    if isinstance(kind, str) and "*" in kind:
        return widgets.Dropdown(options=_files(kind, poc), description=name, **style)
    if isinstance(kind, str):
        return widgets.Text(value=kind, description=name, **style)
    return widgets.Dropdown(options=list(kind), description=name, **style)


def _files(pattern: str, poc: Path) -> list[str]:
    try:
        found = sorted(path.relative_to(poc).as_posix() for path in poc.glob(pattern) if path.is_file())
    except (ValueError, NotImplementedError) as error:  # of a folder elsewhere, or `**` in a name
        raise InputError(f"{pattern!r} is no pattern of files in {poc}: {error}", fix="prompts/*.md") from None
    if not found:
        raise InputError(f"no file matches {pattern!r} in {poc}", fix="write prompts/plain.md, with {{question}} where the question goes")
    return found
