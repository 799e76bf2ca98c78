"""The form in which people label the replies of a sample, in a notebook. It shows no verdict of any judge."""

from __future__ import annotations

import contextlib
import datetime
import shlex
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from poclab.errors import PocError, printable
from poclab.judging.calibration import calibration_path
from poclab.judging.labels import Labelled, label, read_labels
from poclab.judging.rubric import UNSCORED, Rubric, question, references
from poclab.tables import block, cut, folded, paragraph

#: A longer passage is folded, and told by so many characters of it.
LONG, TITLE = 1000, 90
BORDER = "1px solid var(--jp-border-color2, #ccc)"


class ReplyLabeler:
    """The form for the labels of a rubric's sample: `judging.ReplyLabeler(poc, judge.rubric)`.

    A label is saved when its button is pressed, into the file as it is then: what others wrote there since stays, and who would replace
    what somebody else said of this very reply is told first, and presses again. `by` is whose labels these are. The labels have keys, too:
    Alt+1 is the first, and so on.

    Raises:
        InputError: no sample was drawn, or its file cannot be read.
    """

    def __init__(self, poc: Path | str, rubric: Rubric, *, by: str = "") -> None:
        import ipywidgets as widgets

        self.poc, self.rubric = poc, rubric
        self.command = f"`poclab calibrate {shlex.quote(str(Path(poc).resolve()))} {rubric.name}`"
        self.labels = read_labels(poc, rubric)
        self.place = self._next(-1)
        #: The reply of which somebody was told whose label it has, and who that was.
        self.warned: tuple[Labelled, str] | None = None
        wide = widgets.Layout(width="98%")
        self.by = widgets.Text(by, description="Your name", layout=wide)
        self.note = widgets.Text(description="Note", placeholder="why, where it is not plain", layout=wide)
        self.state, self.notice, self.passages = (widgets.HTML(layout=wide) for _ in range(3))
        # Of one height, so that the buttons stay where they are.
        self.shown = widgets.HTML(layout=widgets.Layout(width="98%", height="12em", overflow="auto", border=BORDER, padding="0 8px"))
        self.buttons = {
            name: _button(name, str(key) if key < 10 else "", partial(self.say, name)) for key, name in enumerate(rubric.labels, start=1)
        }
        self.buttons[UNSCORED] = _button("cannot tell", "0", partial(self.say, UNSCORED))
        steps = [_button("Previous", "p", partial(self.step, -1)), _button("Next", "n", partial(self.step, 1))]
        rows = [
            widgets.HBox([*self.buttons.values()], layout=widgets.Layout(flex_flow="row wrap")),
            self.notice,
            self.note,
            widgets.HBox(steps),
        ]
        self.box = widgets.VBox([self.by, self.state, self.shown, *rows, self.passages, _keys_class()()], layout=wide)
        self.box.add_class("poclab-marking")
        self.show()

    def __repr__(self) -> str:
        return repr(self.labels)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)

    @property
    def open(self) -> Labelled:
        """The reply that is shown."""
        return self.labels.sample[self.place]

    def _next(self, place: int) -> int:
        """Return the place of the next reply without a label, from this one on and around; where none is left, of the next one."""
        count = len(self.labels.sample)
        around = [(place + 1 + further) % count for further in range(count)]
        return next((one for one in around if self.labels.sample[one].label is None), around[0])

    def step(self, by: int) -> None:
        """Show the reply before or after this one."""
        self.place = (self.place + by) % len(self.labels.sample)
        self.warned = None
        self.show()

    def say(self, said: str) -> None:
        """Save a label for the reply that is shown, and go on to the next one without."""
        by = self.by.value.strip()
        if not by:
            return self.show("type your name first: a label is somebody's")
        if self.open.label is not None and self.open.by != by and self.warned != (self.open, by):
            self.warned = (self.open, by)
            return self.show(f"not saved: {self.open.by} said {self.open.label} of this reply; press once more to replace that")
        changed = (said, by) != (self.open.label, self.open.by)
        given = {"label": said, "by": by, "on": datetime.date.today().isoformat(), "note": self.note.value.strip()}
        try:
            self.labels = label(self.poc, self.rubric, self.open, **given)
        except PocError as error:
            with contextlib.suppress(PocError):
                self.labels = read_labels(self.poc, self.rubric)
                self.place %= len(self.labels.sample)  # another sample may be smaller
            self.warned = (self.open, by)
            return self.show(f"not saved: {error}")
        self.place = self._next(self.place)
        self.show()
        if changed and calibration_path(self.poc, self.rubric.name).is_file():
            self.notice.value = block(paragraph(f"the calibration is void now, since it was made with other labels: {self.command}"))
        return None

    def show(self, trouble: str = "") -> None:
        """Show the reply with what the rubric shows of its case, and how many are still to label."""
        one, count, left = self.open, len(self.labels.sample), len(self.labels.missing)
        done = f"all {count} are labelled: run the cells below, or {self.command}" if not left else f"{count - left} of {count} labelled"
        self.state.value = block(paragraph(f"{done}; this is {self.place + 1}, case {one.case.id}"))
        self.notice.value = block(paragraph("", name=trouble)) if trouble else ""
        reference = "\n".join(references(one.case)) if "reference" in self.rubric.shows else ""
        self.shown.value = block(
            paragraph(question(one.case), name="Question"),
            paragraph(one.reply.text, name="Reply"),
            paragraph(reference, name="Accepted") if reference else "",
            paragraph(one.case.rubric, name="For this case") if one.case.rubric else "",
        )
        passages = (_passage(passage.text) for passage in one.reply.contexts)
        self.passages.value = block(*passages, folded("the rubric", paragraph(self.rubric.instructions)))
        if not trouble:  # else it is typed, and not saved
            self.note.value = one.note
        for name, button in self.buttons.items():
            button.button_style = "primary" if name == one.label else ""


def _passage(text: str) -> str:
    """Return a passage without its empty lines; a long one is opened by a click."""
    lines = [line for line in text.splitlines() if line.strip()]
    shown = "\n".join(lines)
    return paragraph(shown, name="Passage") if len(shown) <= LONG else folded(f"Passage: {cut(lines[0], TITLE)}", paragraph(shown))


def _button(said: str, key: str, act: Callable[[], None]) -> Any:
    import ipywidgets as widgets

    button = widgets.Button(description=printable(said) + (f" (Alt+{key.upper()})" if key else ""), layout=widgets.Layout(width="auto"))
    button.add_class(f"poclab-key-{key or 'none'}")
    button.on_click(lambda _: act())
    return button


@cache
def _keys_class() -> type:
    """Return the widget that hears the keys: ipywidgets has none. It shows nothing."""
    import anywidget

    class Keys(anywidget.AnyWidget):
        # The text and not the path, which anywidget would watch from a thread.
        _esm = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")

    return Keys
