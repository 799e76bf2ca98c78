"""The bench where prompts are made, for a notebook in JupyterLab: a prompt, the parameters, and what came of them beside a baseline.

What is asked and compared lives in `sitting`; here are only the widgets. A click starts a thread and returns: the notebook stays usable.
In the kernel of a trial there is nobody to look, and no widget.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from poclab import kernels, views
from poclab.controls import PROMPT, REFERENCE, Control, checked, widget
from poclab.errors import InputError, PocError, printable, told
from poclab.experiment import Interrupted
from poclab.files import digest, read_text
from poclab.rag.parameters import RULES, complete, defaults
from poclab.recording import TRIAL_RUN
from poclab.report import Report
from poclab.sitting import RUN, TRY, Attempt, Sitting, Stop
from poclab.sweeps import load_sweep
from poclab.system import Prompt, Version
from poclab.tables import block, cut, folded, html_table, paragraph

#: Seconds between two looks of a progress bar: each is a message to the browser.
SHOWN_EVERY_S = 0.1
#: Characters of a question in the list of cases, and of an attempt in theirs.
QUESTION, TITLE = 90, 140
#: What a prompt is called that is not as its file.
EDITED = re.compile(r" \(edited [0-9a-f]*\)$")
ROWS = 12


class Workbench:
    """Iterate on a prompt and on parameters, on the dev cases of a POC; show it by making it the last line of a cell.

    It starts from `baseline`, a report of dev, and without one from the best recorded run; where there is none, from what the sweep
    file has `fixed`. `build` makes a system from a `Version`, whose parameters `controls` name: a list is a choice, a `range` a slider, a
    text with `*` a choice of files, any other text a field; one that is called `prompt` is the prompt to edit. Without it, it is the
    reference system. `scores` are those of an evaluation, `sample` is how many cases a sample has, and `max_cost_usd` what all that
    is asked here may cost.

    Raises:
        FrozenError: the cases are not frozen, or not what their lock says.
        InputError: no POC there; a control, an amount or a number that is none.
    """

    def __init__(
        self,
        poc: Path | str | None = None,
        *,
        baseline: Report | None = None,
        build: Callable[[Version], Any] | None = None,
        controls: Mapping[str, Control] | None = None,
        scores: Sequence[Any] = (),
        sample: int = 20,
        max_cost_usd: float | None = None,
    ) -> None:
        if build is not None and not controls:
            raise InputError(
                "build= without controls=: nothing to change", fix='controls={"prompt": "prompts/*.md", "top_k": range(1, 21)}'
            )
        if type(sample) is not int or sample < 1:
            raise InputError(f"sample={sample!r}: expected a whole number of cases", fix="sample=20")
        if os.environ.get(TRIAL_RUN):  # nobody looks
            return
        self.sitting = Sitting(poc, build=build, scorers=scores, max_cost_usd=max_cost_usd)
        self.controls, self._reference = checked(controls or REFERENCE), build is None
        self.sample, self._given = sample, baseline
        #: The parameters of the version that the bench started from which have no control.
        self._rest: dict[str, Any] = {}
        #: The file that the prompt was read from, and its text.
        self._file, self._text = "", ""
        #: What of the list of prompts was loaded, and what was typed and left there: its file, the text of that, and its own.
        self._picked = ""
        self._drafts: dict[str, tuple[str, str, str]] = {}
        self._filling = False
        self._stop = Stop()
        self._thread: threading.Thread | None = None
        self._shown: Attempt | None = None

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if os.environ.get(TRIAL_RUN):
            return {"text/plain": "the bench opens in JupyterLab"}
        return self.view._repr_mimebundle_(**options)

    def __repr__(self) -> str:
        return f"the bench of {self.sitting.poc.name}: shown in JupyterLab" if hasattr(self, "sitting") else "the bench opens in JupyterLab"

    # --- what is seen

    @cached_property
    def view(self) -> Any:
        """The widget. It looks for the best run so far in a thread."""
        self._make()
        self._start(self._begin)
        return self._box

    def _make(self) -> None:
        import ipywidgets as widgets

        wide = widgets.Layout(width="auto", flex="1 1 auto")
        self._head = widgets.HTML()
        self._inputs = {name: widget(name, kind, self.sitting.poc) for name, kind in self.controls.items()}
        self._prompt = widgets.Textarea(rows=ROWS, continuous_update=True, layout=wide)
        self._check = widgets.HTML()
        asked = "task" if any("task" in one.inputs for one in self.sitting.cases) else "question"
        self._question = widgets.Combobox(
            placeholder=f"a {asked}, or the id of a case", options=[one.id for one in self.sitting.cases], ensure_option=False, layout=wide
        )
        self._try, self._sample, self._all, self._cancel, self._base, self._back, self._keep = (
            widgets.Button(description=text, tooltip=tip, layout=widgets.Layout(width="auto", flex="0 0 auto"))
            for text, tip in (
                ("Try one", f"Ask this {asked}, or this case"),
                (
                    f"Run sample ({min(self.sample, len(self.sitting.cases))})",
                    "Ask a sample of the dev cases, always the same ones; no run",
                ),
                (f"Run all ({len(self.sitting.cases)})", "Ask all dev cases: one MLflow run"),
                ("Cancel", "Stop asking; what was answered is kept"),
                ("Use as baseline", "Hold what follows against this"),
                (
                    "Back to this version",
                    "Set the prompt and the parameters to what was asked here; what is typed now stays in the list of prompts",
                ),
                ("Keep this prompt", "Write the file and register it"),
            )
        )
        self._progress = widgets.IntProgress(layout=widgets.Layout(width="16em"))
        self._said, self._result, self._case, self._history = (widgets.HTML() for _ in range(4))
        self._list = widgets.Select(rows=ROWS)
        self._attempts = widgets.Dropdown(layout=widgets.Layout(flex="1 1 0", width="auto", min_width="12em"))
        self._name = widgets.Text(placeholder="name.md", layout=widgets.Layout(width="14em"))
        for button, work in ((self._try, self._ask), (self._sample, self._run_sample), (self._all, self._run_all)):
            button.on_click(lambda _, work=work: self._start(work))
        # Enter, in the field of the question.
        self._question.on_msg(lambda _, content, buffers: self._start(self._ask) if content.get("event") == "submit" else None)
        self._cancel.on_click(lambda _: self._cancelled())
        self._base.on_click(lambda _: self._guarded(self._use_as_baseline))
        self._back.on_click(lambda _: self._guarded(lambda: self._set(self._shown.report.version.parameters)))
        self._keep.on_click(lambda _: self._start(self._keep_prompt))
        for one in (self._prompt, *self._inputs.values()):
            one.observe(lambda _: self._check_prompt(), "value")
        self._list.observe(lambda change: self._choose(change["new"]), "value")
        self._attempts.observe(lambda change: self._filling or self._display(self.sitting.attempts[change["new"] - 1]), "value")
        if PROMPT in self._inputs:
            self._inputs[PROMPT].observe(lambda change: self._guarded(lambda: self._pick_prompt(change["new"])), "value")
        wrapped = widgets.Layout(flex_flow="row wrap")  # in a narrow window a button is below, and not cut off
        kept = widgets.HBox([self._keep, self._name], layout=wrapped)
        editor = widgets.VBox([self._prompt, self._check, kept], layout=widgets.Layout(width="60%"))
        settings = widgets.VBox(list(self._inputs.values()), layout=widgets.Layout(width="40%"))
        ask = widgets.HBox([self._question, self._try])
        run = widgets.HBox([self._sample, self._all, self._cancel, self._progress], layout=wrapped)
        which = widgets.HBox([self._attempts, self._base, self._back], layout=wrapped)
        cases = widgets.HBox([self._list, self._case])
        self._list.layout.width, self._case.layout.width = "44%", "55%"
        self._answer = widgets.VBox([which, self._result, cases])
        self._answer.layout.display = "none"
        self._box = widgets.VBox([self._head, widgets.HBox([editor, settings] if PROMPT in self._inputs else [settings]), ask, run])
        self._box.children = (*self._box.children, self._said, self._answer, self._history)

    # --- where it starts

    def _begin(self) -> None:
        self._say("looking for the best run so far ...")
        sitting, note = self.sitting, ""
        if self._given is not None and self._given.split != "dev":
            note = f"the report given is of {self._given.split or 'all'}, not of dev: it is no baseline here"
        try:
            sitting.baseline = self._given if self._given is not None and not note else sitting.best_so_far(self._fits)
        except PocError as error:  # what was recorded cannot be read: one can still ask
            note = str(error)
        self._set(sitting.baseline.version.parameters if sitting.baseline else self._first())
        sitting.origin = self._origin()
        self._refresh()
        self._say(note or ("" if sitting.baseline else "no run yet: the first whole one becomes the baseline"))

    def _origin(self) -> Version:
        """Return the version that the bench began with, as the system will use it."""
        version = self.version()
        with contextlib.suppress(PocError):  # what is wrong with it is said beside the editor
            return complete(version) if self._reference else version
        return version

    def _fits(self, names: Collection[str]) -> bool:
        """Tell whether a version with parameters of these names is one of the system at the bench."""
        return set(names) <= set(RULES) if self._reference else set(self.controls) <= set(names)

    def _first(self) -> Mapping[str, Any]:
        """Return the parameters that `poclab run` starts from, as far as they have controls; a system of one's own has its own."""
        if not self._reference:
            return {}
        try:
            sweep = load_sweep(self.sitting.poc)
            known = {name: one.default for name, one in kernels.read_parameters(sweep.notebook).items()}
        except PocError:  # it is not needed here, and a sweep says what is wrong with it
            return defaults({})
        return {name: value for name, value in {**defaults({}), **known, **sweep.fixed}.items() if name in self.controls}

    def _set(self, parameters: Mapping[str, Any]) -> None:
        """Set the controls to the parameters of a version; what has no control is kept as it is."""
        self._rest = {name: value for name, value in parameters.items() if name not in self._inputs}
        texts = {name: kind for name, kind in self.controls.items() if isinstance(kind, str) and "*" not in kind}
        parameters = {**texts, **parameters}  # a text that a version does not have is none
        for name, value in parameters.items():
            if name in self._inputs and value is not None:
                self._put(name, value)
        if PROMPT in self._inputs:
            self._load_prompt(self._inputs[PROMPT].value)
        if isinstance(prompt := parameters.get(PROMPT), Prompt):  # its text is that of the run, whatever the file says today
            self._prompt.value = prompt.text

    def _put(self, name: str, value: Any) -> None:
        control = self._inputs[name]
        value = EDITED.sub("", value.name) if isinstance(value, Prompt) else value
        if isinstance(self.controls[name], range):
            if type(value) is not int:
                return  # the system takes it, the slider does not
            control.min, control.max = min(control.min, value), max(control.max, value)
        elif hasattr(control, "options") and value not in control.options:
            if "*" in self.controls[name]:
                return  # a file that is gone
            control.options = (*control.options, value)
        control.value = value

    def _pick_prompt(self, name: str) -> None:
        if self._filling or name == self._picked:
            return
        try:
            self._load_prompt(name)
        except PocError:  # the list shows what the editor holds
            self._inputs[PROMPT].value = self._picked
            raise

    def _load_prompt(self, name: str) -> None:
        found = self._drafts.get(name)
        if found is None:
            text = read_text(self.sitting.poc / name)
            found = name, text, text
        if self._prompt.value != self._text:  # nothing that was typed is lost
            left = self._prompt_name
            self._drafts[left] = self._file, self._text, self._prompt.value
            self._offer(left)
        self._picked = name
        self._file, self._text, self._prompt.value = found
        self._name.value = self.sitting.free_name(Path(self._file).name)

    def _offer(self, name: str) -> None:
        """Put a prompt into the list, without choosing it."""
        picker = self._inputs[PROMPT]
        if name not in picker.options:
            with self._unheard():
                chosen, picker.options = picker.value, (*picker.options, name)
                picker.value = chosen

    @contextlib.contextmanager
    def _unheard(self) -> Iterator[None]:
        """Change lists within as if nobody chose from them."""
        self._filling = True
        try:
            yield
        finally:
            self._filling = False

    @property
    def _prompt_name(self) -> str:
        """What the prompt in the editor is called: by its file, and once it was edited by its text, too."""
        text = self._prompt.value
        name = self._file or "the prompt"  # no file could be read
        return name if text == self._text else f"{name} (edited {digest(text)[:6]})"

    # --- what a click does

    def _start(self, work: Callable[[], None]) -> None:
        """Work in a thread, one at a time: the kernel stays free."""
        if self._thread and self._thread.is_alive():
            return
        self._stop = Stop()
        self._busy(True)
        self._say("working ...")
        self._thread = threading.Thread(target=self._work, args=(work,), daemon=True)
        self._thread.start()

    def _work(self, work: Callable[[], None]) -> None:
        try:
            self._guarded(work)
        finally:
            self._busy(False)

    def _guarded(self, work: Callable[[], None]) -> None:
        for one in (work, self._head_line):
            try:
                one()
            except Interrupted as stop:
                self._say(f"{stop}; what was answered is in the ledger")
            except PocError as error:
                self._say(str(error), trouble=True)
            except (
                Exception,
                SystemExit,
                KeyboardInterrupt,
            ) as error:  # a system of the user's own may raise anything, and nobody else shows it
                self._say(told(error), trouble=True)

    def _cancelled(self) -> None:
        self._say("stopping ...")
        self._stop()

    def _busy(self, busy: bool) -> None:
        for button in (self._try, self._sample, self._all, self._base, self._back, self._keep):
            button.disabled = busy
        self._cancel.disabled = not busy
        self._check_prompt()

    def version(self) -> Version:
        """Return the version that the controls and the prompt say."""
        values = {**{name: one.value for name, one in self._inputs.items()}, **self._rest}
        if "top_k" in self._rest:  # a version has one of the two
            values.pop("context_chars", None)
        if PROMPT in values:
            values[PROMPT] = Prompt(self._prompt_name, self._prompt.value)
        name = Path(self._file).stem or self.sitting.poc.name  # of what the sitting begins with: the others are told by what they change
        return Version(name, **{name: value for name, value in values.items() if value != ""})

    def _ask(self) -> None:
        self._finish(self.sitting.ask(self._question.value, self.version(), show=self._show, stop=self._stop))

    def _run_sample(self) -> None:
        self._finish(self.sitting.sample(self.sample, self.version(), show=self._show, stop=self._stop))

    def _run_all(self) -> None:
        attempt = self.sitting.run(self.version(), show=self._show, stop=self._stop)
        if self.sitting.baseline is None and attempt.fit:
            self.sitting.baseline = attempt.report
        self._finish(attempt)

    def _show(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done in (0, total) or now - getattr(self, "_shown_at", 0.0) > SHOWN_EVERY_S:
            self._shown_at = now
            self._progress.max, self._progress.value = total, done
            self._progress.description = f"{done}/{total}"
            with contextlib.suppress(PocError):  # a run does not end because its cost cannot be shown
                self._head_line()

    def _use_as_baseline(self) -> None:
        if not (self._shown and self._shown.fit):
            raise InputError("that is no baseline: it is one question, or not all of it was answered", fix="run a sample, or all")
        self.sitting.baseline = self._shown.report
        self._say(f"what follows is held against {self._title(self._shown)}")
        self._refresh()

    def _keep_prompt(self) -> None:
        path, registered = self.sitting.keep(self._name.value.strip(), self._prompt.value, over=self._text)
        name = path.relative_to(self.sitting.poc).as_posix()
        self._file, self._text, self._picked = name, self._prompt.value, name
        self._offer(name)
        self._inputs[PROMPT].value = name
        self._say(
            f"written to {name}; registered as {registered}" if registered.startswith("prompts:") else f"written to {name}; {registered}"
        )

    # --- what came of it

    def _finish(self, attempt: Attempt) -> None:
        with self._unheard():
            self._attempts.options = [(cut(self._title(one), TITLE), one.number) for one in reversed(self.sitting.attempts)]
            self._attempts.value = attempt.number
        self._display(attempt)
        self._say(attempt.report.stopped, trouble=True)  # the money is used up
        self._refresh()

    def _display(self, attempt: Attempt) -> None:
        self._shown = attempt
        notes = [*(attempt.compared.notes if attempt.compared else ()), *([attempt.note] if attempt.note else [])]
        table = "" if attempt.kind == TRY else views.report_table(attempt.report, attempt.baseline, attempt.candidate)
        small = folded("notes", *map(paragraph, notes)) if notes else ""
        self._result.value = block(paragraph(attempt.paid, name=self._title(attempt)), table, small)
        first = next(iter(attempt.became), None)
        with self._unheard():
            self._list.options = [(self._row(attempt, case), case) for case in attempt.became]
            self._list.value = first
        self._open(first)
        self._list.layout.display, self._case.layout.width = ("none", "98%") if attempt.kind == TRY else ("", "55%")
        self._answer.layout.display = ""

    @staticmethod
    def _row(attempt: Attempt, case: str) -> str:
        return printable(cut(f"{attempt.became[case]} · {case} · {attempt.question(case)}", QUESTION))

    def _choose(self, case: str | None) -> None:
        """Open a case, and have it be the one that is tried next, unless a question was typed."""
        if self._filling:
            return
        self._open(case)
        if self._question.value in ("", *self._question.options):
            self._question.value = case or ""

    def _open(self, case: str | None) -> None:
        attempt = self._shown
        if attempt is None or case not in attempt.became:
            return
        self._case.value = views.case_view(attempt.report.by_case[case], attempt.before(case), link=attempt.trace(case))

    def _refresh(self) -> None:
        rows = [self._line(one) for one in reversed(self.sitting.attempts) if one.kind != TRY]
        heads = ["", "what", "changed", "score", "word", "fixed / broken"]
        self._history.value = block(paragraph("this sitting"), html_table(heads, rows)) if rows else ""
        self._head_line()

    def _head_line(self) -> None:
        sitting = self.sitting
        edition = f", edition {sitting.cases.lock.edition}" if sitting.cases.lock else ""
        baseline = f"{sitting.baseline.version.name}: {sitting.baseline.summary()}" if sitting.baseline else "none yet"
        line = f"{sitting.poc.name}: {len(sitting.cases)} dev cases{edition} · {sitting.spent} · baseline {baseline}"
        self._head.value = block(paragraph(line))

    def _line(self, attempt: Attempt) -> list[Any]:
        one = attempt.candidate
        moved = f"{len(one.fixed)} / {len(one.broken)}" if one else ""
        what = f"{attempt.kind} {(attempt.report.run_id or '')[:8]}" if attempt.kind == RUN else attempt.kind
        return [
            attempt.number,
            f"{what}, the baseline" if attempt.report is self.sitting.baseline else what,
            "\n".join([printable(attempt.report.version.name), *self._edits(attempt)]),
            attempt.report.summary(),
            one.scores[0].word if one else attempt.note,
            moved,
        ]

    def _edits(self, attempt: Attempt) -> list[str]:
        """Return what the prompt of an attempt has other than the one that it was held against."""
        before = attempt.baseline.version if attempt.baseline else self.sitting.origin
        texts = [one.parameters[PROMPT].text for one in (before, attempt.report.version) if one and PROMPT in one.prompts]
        return views.edits(*texts) if len(texts) == 2 else []

    @staticmethod
    def _title(attempt: Attempt) -> str:
        return printable(f"{attempt.kind} {attempt.number}, {attempt.report.version.name}")

    def _check_prompt(self) -> None:
        """Say what is wrong with the prompt, as it is typed."""
        if PROMPT not in self._inputs:
            return
        try:
            if self._reference:
                complete(self.version())
            named = ", ".join(f"{{{{{one}}}}}" for one in self.version().parameters[PROMPT].placeholders)
            self._check.value = block(paragraph(f"placeholders: {named or 'none'}"))
        except PocError as error:
            self._check.value = block(paragraph(error.fix, name=error.message))

    def _say(self, text: str, *, trouble: bool = False) -> None:
        self._said.value = block(paragraph("", name=text) if trouble else paragraph(text)) if text else ""
