"""The form of the `Labeler`: its fields, its buttons and keys, and the passages to select evidence in. It knows no case.

The passages and the keys are a small widget of our own (`passages.js`): ipywidgets cannot read what is selected in a browser.
"""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poclab.errors import printable

if TYPE_CHECKING:
    import ipywidgets

TASKS = {"label": "Label", "review": "Review", "settle": "Settle"}
#: Of each action its key (with Alt), what its button says (without a text it has none), and the tasks that have it.
ACTIONS = {
    "save": ("s", "Save and next", "label review settle"),
    "agree": ("a", "Agree", "review"),
    "disagree": ("d", "Disagree", "review"),
    "first": ("k", "Keep the first", "settle"),
    "second": ("t", "Take the second", "settle"),
    "drop": ("x", "Drop", "label"),
    "restore": ("z", "Undo drop", "label"),
    "evidence": ("e", "Take selection as evidence", "label review settle"),
    "unanswerable": ("u", "", "label review settle"),
    "search": ("", "Search", "label review settle"),
    "previous": ("p", "Previous", "label review settle"),
    "next": ("n", "Next", "label review settle"),
    "new": ("w", "New question", "label"),
    "import": ("i", "Import", "label"),
    "reload": ("r", "Read again", "label review settle"),
    "check": ("c", "Ready to freeze?", "label settle"),
}
#: Keys (with Alt) that go to a place, by its class: at once, and not when the kernel answers, since what is typed next belongs there.
PLACES = {"f": "poclab-query", "l": "poclab-answers"}
#: Of each field what is written at it, its lines (0: a tick), and the tasks that show it.
FIELDS = {
    "question": ("Question", 2, "label review settle"),
    "evidence": ("Evidence, one phrase a line", 3, "label review settle"),
    "answers": ("Accepted answers, one a line (Alt+L)", 3, "label review settle"),
    "abstain": ("Unanswerable (Alt+U)", 0, "label review settle"),
    "tags": ("Tags, as kind=lookup, difficulty=easy", 1, "label"),
    "source": ("From what (empty: the documents of the evidence)", 1, "label"),
    "note": ("Note", 1, "review settle"),
}


class Form:
    """The widgets. `act` is called with the name of an action, unless its button cannot be pressed."""

    def __init__(self, *, by: str, task: str, act: Callable[[str], None]) -> None:
        import ipywidgets as widgets

        self._act = act
        self.name = widgets.Text(by, placeholder="your name", tooltip="your name", layout=_layout())
        self.tasks = widgets.ToggleButtons(
            options=[(said, one) for one, said in TASKS.items()], value=task, style={"button_width": "5.5em"}
        )
        self.items = widgets.Select(rows=22, tooltip="what there is to do: candidates (+) and cases", layout=_layout())
        self.path = widgets.Text(placeholder="questions.csv, or a folder", tooltip="a file or folder of questions", layout=_layout())
        self.query = widgets.Text(placeholder="search the documents (Alt+F)", tooltip="search the documents", layout=_layout(flex="1"))
        self.query.add_class(PLACES["f"])
        self.passages = _passages_class()(shortcuts={key: name for name, (key, _, _) in ACTIONS.items() if key}, places=PLACES)
        self.passages.on_msg(self._heard)
        self.new_edition = widgets.Checkbox(description="Allow what needs a new edition", indent=False, layout=_layout())
        self.about, self.sides, self.notice, self.state = (widgets.HTML(layout=_layout()) for _ in range(4))
        self.fields = {name: _field(said, rows) for name, (said, rows, _) in FIELDS.items()}
        self.fields["answers"].add_class(PLACES["l"])
        self.buttons = {name: self._button(name, key, said) for name, (key, said, _) in ACTIONS.items() if said}
        self._titled = {
            name: widgets.VBox(
                [widgets.HTML(f"<div style='line-height:1.6'>{html.escape(said)}</div>"), self.fields[name]], layout=_layout()
            )
            if rows
            else self.fields[name]
            for name, (said, rows, _) in FIELDS.items()
        }
        self.box = self._box()
        self.box.add_class("poclab-labeler")

    def _button(self, name: str, key: str, said: str) -> ipywidgets.Button:
        import ipywidgets as widgets

        button = widgets.Button(description=f"{said} (Alt+{key.upper()})" if key else said, layout=_layout())
        button.add_class(f"poclab-act-{name}")
        button.on_click(lambda _: self.press(name))
        return button

    def _box(self) -> ipywidgets.Box:
        import ipywidgets as widgets

        def row(*names: str) -> ipywidgets.HBox:
            return widgets.HBox([self.buttons[name] for name in names], layout=widgets.Layout(flex_flow="row wrap"))

        def pair(*names: str) -> ipywidgets.HBox:
            for name in names:
                self._titled[name].layout.flex = "1 1 0"
            return widgets.HBox([self._titled[name] for name in names], layout=widgets.Layout(align_items="flex-end"))

        left = [self.name, self.tasks, self.items, row("previous", "next", "new"), self.path, row("import", "reload", "check")]
        search = [widgets.HBox([self.query, self.buttons["search"]]), self.passages, row("evidence")]
        answer = [pair("evidence", "answers"), self._titled["abstain"], pair("tags", "source"), self._titled["note"]]
        end = [self.new_edition, row("save", "agree", "disagree", "first", "second", "drop", "restore"), self.notice]
        right = [self.about, self._titled["question"], self.sides, *search, *answer, *end]
        widths = ({"width": "30%", "min_width": "15em"}, {"width": "70%", "min_width": "0"})  # the first has to hold whole buttons
        columns = [widgets.VBox(one, layout=widgets.Layout(**width)) for one, width in zip((left, right), widths, strict=True)]
        return widgets.VBox([widgets.HBox(columns), self.state])

    @property
    def task(self) -> str:
        return self.tasks.value

    @property
    def values(self) -> dict[str, Any]:
        """What the fields hold."""
        return {name: field.value for name, field in self.fields.items()}

    @values.setter
    def values(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self.fields[name].value = value

    def press(self, name: str) -> None:
        """Do what an action's button or key does; nothing where the task does not have it, or it cannot be pressed."""
        button = self.buttons.get(name)
        if self.task in ACTIONS[name][2].split() and not (button and (button.disabled or button.layout.display == "none")):
            self._act(name)

    def show(self, *, judged: bool, frozen: bool) -> None:
        """Show what the task has. Of a review first what records a judgement, then what compares it."""
        for name, field in self._titled.items():
            _show(field, self.task in FIELDS[name][2].split())
        later = {"save": not judged, "agree": judged, "disagree": judged}
        for name, button in self.buttons.items():
            _show(button, self.task in ACTIONS[name][2].split() and later.get(name, True))
        _show(self.path, self.task == "label")
        _show(self.new_edition, frozen and self.task != "review")

    def say(self, text: str, *, wrong: bool = False) -> None:
        """Show what became of an action, below the buttons."""
        self.notice.value = paragraphs([text], weight="bold" if wrong else "normal")

    def _heard(self, _: Any, message: Mapping[str, Any], buffers: Any) -> None:
        """Send back what the browser asks for, once: what it had to send before has arrived when that comes again. Say when it is done."""
        if message.get("act") not in ACTIONS:
            return
        if message.get("step") == "ask":
            self.passages.send({name: message.get(name) for name in ("act", "selection", "view")})
        else:
            self.passages.selection = message.get("selection") or {}
            try:
                self.press(message["act"])
            finally:
                self.passages.send({"done": message.get("view")})


def paragraphs(texts: Sequence[str], *, weight: str = "normal") -> str:
    """Return texts as HTML in which nothing is markup."""
    style = f"margin:2px 0;white-space:pre-wrap;line-height:1.4;font-weight:{weight}"
    safe = [html.escape("\n".join(map(printable, one.split("\n")))) for one in texts if one]
    return f"<div role='status'>{''.join(f'<p style={style!r}>{one}</p>' for one in safe)}</div>"


def _field(said: str, rows: int) -> ipywidgets.DOMWidget:
    import ipywidgets as widgets

    if not rows:
        return widgets.Checkbox(description=said, indent=False)
    return widgets.Textarea(rows=rows, tooltip=said, layout=_layout()) if rows > 1 else widgets.Text(tooltip=said, layout=_layout())


def _layout(**more: str) -> ipywidgets.Layout:
    import ipywidgets as widgets

    return widgets.Layout(width="auto", **more)


def _show(widget: Any, shown: bool) -> None:
    widget.layout.display = "" if shown else "none"


@functools.cache
def _passages_class() -> type:
    """Return the widget that shows passages, hears keys, and tells what is selected: a passage, and a stretch of it in characters."""
    import anywidget
    import traitlets

    home = Path(__file__).parent

    class Passages(anywidget.AnyWidget):
        # The text and not the path, which anywidget would watch from a thread.
        _esm = (home / "passages.js").read_text(encoding="utf-8")
        _css = (home / "passages.css").read_text(encoding="utf-8")
        passages = traitlets.List().tag(sync=True)
        shortcuts = traitlets.Dict().tag(sync=True)
        places = traitlets.Dict().tag(sync=True)
        selection = traitlets.Dict()

    return Passages
