"""The `Labeler`: label questions, review labels and settle disagreements in a notebook, by mouse or by keys alone.

What it does to files is in `labels`, what a review is in `reviews`, what it looks like in `form`, how passages and lists are told in
`texts`; here is what is shown when.
No document is read before the first search, or before two labels are compared, whose evidence is shown. What was typed stays when it is
refused, and when another item is looked at, as long as the kernel lives. Not covered: inputs other than `question`; cases that have them
are labelled here, and their inputs edited in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from poclab import labels
from poclab.cases import Case, expected_text, fold
from poclab.errors import InputError, PocError, printable, refuse_unknown
from poclab.files import canonical
from poclab.labeling import texts
from poclab.labeling.form import FIELDS, TASKS, Form, paragraphs
from poclab.rag import Corpus, Retriever
from poclab.reviews import Review
from poclab.system import Passage
from poclab.tables import cut

#: How many passages a search shows.
FOUND = 6
#: How many candidates, and cases to review, the list holds; others move up as these are done. A browser takes 10 s to list 50,000.
LISTED = 1000
#: Where the list has no case yet.
NEW = ""


class Labeler:
    """Label, review and settle the cases of a POC: the last line of a cell shows it. `task` is label, review or settle.

    Raises:
        InputError: no POC there, an unknown task, or a file of it that cannot be understood.
    """

    def __init__(self, poc: Path | str | None = None, *, by: str = "", task: str = "label") -> None:
        refuse_unknown([task], TASKS, where="Labeler", what="task")
        self.book = labels.load(poc)
        self.form = Form(by=by, task=task, act=self._act)
        #: What is open: the id of a case, a review to settle, `NEW`, or None when there is nothing to do.
        self.key: str | Review | None = None
        self.found: Sequence[Passage] = ()
        self._drafts: dict[Any, Mapping[str, Any]] = {}
        self._dropped: dict[str, Mapping[str, Any] | None] = {}  # what was typed for a question before it was dropped
        self._opened: tuple[Any, Mapping[str, Any]] = (None, {})
        self._listing = False
        self._does = {
            "save": self._save,
            "agree": partial(self._pick, "agree"),
            "disagree": partial(self._pick, "disagree"),
            "first": partial(self._settle, "first"),
            "second": partial(self._settle, "second"),
            "drop": self._drop,
            "restore": self._restore,
            "evidence": self._take_evidence,
            "unanswerable": self._turn_abstain,
            "search": self._search,
            "previous": partial(self._step, -1),
            "next": partial(self._step, 1),
            "new": self._begin,
            "import": self._import,
            "reload": self._reload,
            "check": self._check,
        }
        self.form.items.observe(lambda change: self._listing or self._open(change["new"]), "value")
        self.form.tasks.observe(lambda change: self._list(), "value")
        self.form.name.observe(lambda change: self._list(self.key), "value")
        self.form.fields["evidence"].observe(lambda change: self._draw(), "value")
        self._list()

    def __repr__(self) -> str:
        return printable(f"Labeler({self.book.poc.name}, {len(self.book.cases)} cases, {len(self.book.candidates)} candidates)")

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.form.box._repr_mimebundle_(**options)

    # --- the list, and what is open

    def _list(self, key: Any = None) -> None:
        """List what there is to do, and open the item `key`, else the first: but no case whose label nobody asked to see."""
        self._keep()
        options = self._options()
        keys = [one for _, one in options]
        if key is None or key not in keys:
            label = self.form.task == "label"
            key = next((one.id for one in self.book.candidates), NEW) if label else next(iter(keys), None)
        self._listing = True
        self.form.items.options = options
        self.form.items.value = key
        self._listing = False
        self._open(key)

    def _options(self) -> list[tuple[str, Any]]:
        def line(key: Any, case: Case, said: str) -> tuple[str, Any]:
            return cut(printable(f"{said}  {fold(_question(case))}"), 90), key

        if self.form.task == "review":
            return [line(one.id, one, one.id) for one in self.book.to_review(self.form.name.value)[:LISTED]]
        if self.form.task == "settle":
            return [line(one, self.book.case(one.case), f"{one.case} ({one.by})") for one in self.book.disagreements]
        candidates = [line(one.id, one, f"+ {one.id}") for one in self.book.candidates[:LISTED]]
        return [("(new question)", NEW), *candidates, *(line(one.id, one, one.id) for one in self.book.cases)]

    def _open(self, key: Any) -> None:
        self._keep()
        self.form.say("")
        self.key, self.found = key, ()
        case, review = self._case(), self._own_review()
        loaded = self._values(case, review)
        self._opened = ((self.form.task, key), loaded)
        typed = self._drafts.get((self.form.task, key), {})
        self.form.values = {**loaded, **typed, **({} if self.form.task == "label" else {"question": loaded["question"]})}
        self._show(case, review)
        self.form.query.value = fold(self.form.fields["question"].value)
        try:
            self._look_up()
        except PocError as error:
            self.form.say(str(error), wrong=True)
        self._draw()

    def _keep(self) -> None:
        """Keep what was typed and not saved: it is there when its item is opened again."""
        place, loaded = self._opened
        if loaded and self.form.values != loaded:
            self._drafts[place] = self.form.values
        else:
            self._drafts.pop(place, None)

    def _case(self) -> Case | None:
        if self.key in (None, NEW):
            return None
        return self.book.case(self.key.case if isinstance(self.key, Review) else self.key)

    def _own_review(self) -> Review | None:
        return self.book.review(self.key, self.form.name.value) if self.form.task == "review" and self.key else None

    def _compared(self) -> Review | None:
        """Return the second label, where it and the first may be seen."""
        return self.key if isinstance(self.key, Review) else self._own_review()

    def _values(self, case: Case | None, review: Review | None) -> dict[str, Any]:
        """Return what the fields hold before anybody types; in a review that is nothing of the label."""
        values: dict[str, Any] = {name: "" if rows else False for name, (_, rows, _) in FIELDS.items()}
        if case is None:
            return values
        values["question"] = _question(case)
        if self.form.task == "review":
            if review:
                values |= {name: "\n".join(getattr(review, name)) for name in ("answers", "evidence")}
                values |= {"abstain": not review.answers, "note": review.note}
            return values
        lists = {name: "\n".join(map(fold, case.expected.get(name, ()))) for name in ("evidence", "answers")}
        source = (case.label or {}).get("source", "")
        return {**values, **lists, "abstain": case.abstain, "tags": texts.tags_text(case.tags), "source": source}

    def _edited(self) -> Case:
        """Return the open case with what was typed; what nobody touched stays as it is written in the file."""
        case = self._case() or Case(next(self.book.new_ids()), {"question": "(new)"})
        typed = self.form.values
        lists = {name: texts.listed(typed[name]) for name in ("evidence", "answers")}
        for name, given in lists.items():
            held = case.expected.get(name, [])
            lists[name] = held if given == texts.listed("\n".join(map(fold, held))) else given
        tags = case.tags if typed["tags"] == texts.tags_text(case.tags) else texts.read_tags(typed["tags"])
        return labels.edited(case, question=typed["question"], abstain=typed["abstain"], tags=tags, **lists)

    def _go_on(self, book: labels.Book, said: str, *, stay: bool = False) -> None:
        """Take over what was written, and open what comes next; after a candidate that is a candidate."""
        form, key = self.form, self.key
        following = [one for _, one in form.items.options][form.items.index + (not stay) :]
        candidate = key in {one.id for one in self.book.candidates}
        self.book, self._opened = book, (None, {})
        self._drafts.pop((form.task, key), None)
        left = [one.id for one in book.candidates] if candidate else [one for _, one in self._options()]
        self._list(key if key == NEW else next((one for one in following if one in left), None))
        form.say(said)
        # Keys are heard while something of the form has the focus, which a field that cannot be edited does not take.
        place = "note" if stay else "question" if self.key == NEW else "answers"
        (form.items if self.key is None else form.fields[place]).focus()

    # --- what is shown

    def _show(self, case: Case | None, review: Review | None) -> None:
        form, judged, something = self.form, review is not None, self.key is not None
        form.show(judged=judged, frozen=self.book.lock is not None)
        for name in ("save", "agree", "disagree", "first", "second"):
            form.buttons[name].disabled = not something
        form.buttons["drop"].disabled = case not in self.book.candidates
        form.buttons["restore"].disabled = not self.book.dropped
        form.buttons["evidence"].disabled = not something or judged
        for name, field in form.fields.items():
            field.disabled = not something or (judged and name != "note")
        if form.task != "label" or (case and "question" not in case.inputs):
            form.fields["question"].disabled = True
        form.about.value = paragraphs(self._about(case) if something else ["Nothing to do here."])
        form.sides.value = paragraphs(self._sides(case))
        form.state.value = paragraphs([f"{self._counts()}; {self.book.agreement}"])

    def _about(self, case: Case | None) -> list[str]:
        """Return what is to be known of the open case: whether it is frozen or held out, and its other inputs."""
        lock, told = self.book.lock, []
        if lock and self.form.task != "review":
            what = f"{case.id} is" if case and case.id in lock.cases else "The cases are"
            more = "a change needs a new edition, and until `poclab freeze --new-edition` no evaluation runs."
            told.append(f"{what} frozen (edition {lock.edition}): {more}")
        if case and case.split == "test":
            told.append(f"{case.id} is held out (split test): its label may be checked, but no prompt is tuned on it.")
        inputs = case.inputs if case and "question" in case.inputs else {}
        return [*told, *(cut(f"{name}: {value}", 2000) for name, value in inputs.items() if name != "question")]

    def _counts(self) -> str:
        unsaved = [key.case if isinstance(key, Review) else key or "a new question" for _, key in self._drafts]
        counts = f"{len(self.book.cases)} cases, {len(self.book.candidates)} candidates, {len(self.book.disagreements)} to settle"
        return f"{counts}, typed and not saved: {', '.join(unsaved)}" if unsaved else counts

    def _sides(self, case: Case | None) -> list[str]:
        """Return the two labels, where both may be seen."""
        review = self._compared()
        if case is None or review is None:
            return []

        def side(who: str, one: Case) -> str:
            evidence = " | ".join(map(fold, one.expected.get("evidence", ())))
            return f"{who}: {expected_text(one.expected) or '(nothing)'}{f'; evidence: {evidence}' if evidence else ''}"

        first = side(f"First, {(case.label or {}).get('by', 'unknown')}", case)
        second = side(f"Second, {review.by}", labels.second(case, review))
        return [first, second, f"Note: {review.note}" if review.note else ""]

    # --- what happens

    def _act(self, name: str) -> None:
        """Do it, or say why not; nothing that was typed is lost."""
        self.form.say("")
        try:
            self._does[name]()
        except PocError as error:
            self.form.say(str(error), wrong=True)

    def _save(self) -> None:
        if self.form.task == "review":
            self._judge()
        elif self.form.task == "settle":
            self._settle("edit", self._edited())
        else:
            case, source = self._edited(), self.form.fields["source"].value
            book = labels.save(self.book, case, **self._who(), source=source, find=self._finder())
            self._go_on(book, f"{case.id}: {'saved' if book is not self.book else 'nothing was changed'}")

    def _who(self) -> dict[str, Any]:
        return {"by": self.form.name.value, "new_edition": self.form.new_edition.value}

    def _judge(self) -> None:
        typed, by = self.form.values, self.form.name.value
        answers = texts.listed(typed["answers"])
        if bool(answers) == typed["abstain"]:
            raise InputError("an answer or unanswerable: one of the two", fix="write what you would answer, or tick unanswerable (Alt+U)")
        evidence = texts.listed(typed["evidence"])
        find = self._finder() if evidence else None
        book = labels.judge(self.book, self.key, answers, by=by, note=typed["note"], evidence=evidence, find=find)
        mark, first = book.review(self.key, by).mark, expected_text(self._case().expected)
        said = f"{mark}; the first label: {first}" if mark else "recorded; now compare it with the first label"
        self._go_on(book, f"{self.key}: {said}", stay=mark is None)

    def _pick(self, mark: str) -> None:
        book = labels.pick(self.book, self.key, mark, by=self.form.name.value, note=self.form.fields["note"].value)
        self._go_on(book, f"{self.key}: {mark}")

    def _settle(self, way: str, case: Case | None = None) -> None:
        note = self.form.fields["note"].value
        book = labels.settle(self.book, self.key, way, case=case, note=note, **self._who(), find=self._finder())
        self._go_on(book, f"{self.key.case}: settled")

    def _drop(self) -> None:
        self._keep()
        self._dropped[self.key] = self._drafts.get((self.form.task, self.key))
        self._go_on(labels.drop(self.book, self.key), f"{self.key}: dropped")

    def _restore(self) -> None:
        self.book = labels.restore(self.book)
        back = self.book.candidates[0].id
        if typed := self._dropped.pop(back, None):
            self._drafts[self.form.task, back] = typed
        self._list(back)
        self.form.say(f"{back}: a candidate again")
        self.form.fields["answers"].focus()

    def _begin(self) -> None:
        self.form.items.value = NEW
        self.form.fields["question"].focus()

    def _turn_abstain(self) -> None:
        field = self.form.fields["abstain"]
        if not field.disabled:
            field.value = not field.value

    def _step(self, by: int) -> None:
        items = self.form.items
        if items.options:
            items.index = min(max(items.index + by, 0), len(items.options) - 1)

    def _import(self) -> None:
        if not self.form.path.value.strip():
            raise InputError("no file named", fix="write the path of a CSV, text or Markdown file, or of a folder of texts")
        before, self.book = self.book, labels.add_candidates(self.book, self.form.path.value.strip())
        self.form.path.value = ""
        self._list(self.key or None)
        new = len(self.book.candidates) - len(before.candidates)
        self.form.say(f"{new} new question{'s' * (new != 1)}" if new else "no new question: all are here already, or were dropped")

    def _reload(self) -> None:
        for name in ("corpus", "retriever"):
            self.__dict__.pop(name, None)
        old, self.book = self._case(), labels.load(self.book.poc)
        new = next((one for one in (*self.book.cases, *self.book.candidates) if old and one.id == old.id), None)
        if old and new is None and self.form.task == "label":  # dropped by somebody else: what was typed is a new question
            self._drafts[self.form.task, NEW] = self.form.values
            self.key, self._opened = NEW, (None, {})
        self._list(self.key)
        said = ["read again, and what you typed is still there"]
        if old and new and old != new:
            now = "" if self.form.task == "review" else f": {expected_text(new.expected) or '(nothing)'}"
            said.append(f"{old.id} was changed{now}")
        self.form.say("; ".join(said))

    def _check(self) -> None:
        found = labels.ready(self.book.poc)
        self.form.say("\n".join(found) or "ready: `poclab freeze`", wrong=bool(found))

    # --- passages

    @cached_property
    def corpus(self) -> Corpus | None:
        return labels.documents(self.book.poc)

    @cached_property
    def retriever(self) -> Retriever:
        if self.corpus is None:
            raise InputError(f"{self.book.poc}: no corpus.yaml, so there is nothing to search", fix="write `corpus.yaml`")
        return Retriever.build(self.corpus, chunk_size=texts.PASSAGE, overlap=texts.OVERLAP)

    def _finder(self) -> labels.Find:
        return self.corpus.find if self.corpus else None

    def _search(self) -> None:
        self.found = self._retrieved()
        self._draw()
        self.form.passages.send({"focus": True})
        if not self.found:
            self.form.say("no passage holds any of these words")

    def _retrieved(self) -> tuple[Passage, ...]:
        return texts.joined(self.retriever.retrieve(self.form.query.value, top_k=FOUND))

    def _look_up(self) -> None:
        """Find the passages of what was opened: those with the evidence of two labels, and, after a first search, those of the question."""
        evidence = self._evidence() if self._compared() else []
        held = texts.holding(self.corpus, evidence) if evidence and self.corpus else ()
        # The first search, which may have to build the index, is asked for.
        self.found = texts.joined([*held, *(self._retrieved() if "retriever" in self.__dict__ else ())])

    def _evidence(self) -> list[str]:
        """Return the evidence to mark: what stands in the field, and the other label's where it may be seen."""
        evidence, case, review = texts.listed(self.form.fields["evidence"].value), self._case(), self._compared()
        others = (*case.expected.get("evidence", ()), *review.evidence) if case and review else ()
        return list(dict.fromkeys([*evidence, *map(fold, others)]))

    def _draw(self) -> None:
        """Show the passages that were found, with the evidence marked that may be seen."""
        evidence = self._evidence()
        titles = [printable(f"{one.document}, {one.start} to {one.end}") for one in self.found]
        shown = [{"title": title, "pieces": texts.pieces(one.text, evidence)} for title, one in zip(titles, self.found, strict=True)]
        self.form.passages.selection, self.form.passages.passages = {}, shown

    def _take_evidence(self) -> None:
        """Take what is selected. The browser says where, and the document says what: so it stands there."""
        place = [self.form.passages.selection.get(name) for name in ("passage", "start", "end")]
        known = all(isinstance(one, int) for one in place) and 0 <= place[0] < len(self.found)
        phrase = texts.phrase(self.found[place[0]].text, *place[1:]) if known else texts.phrase("", 0, 0)
        field = self.form.fields["evidence"]
        field.value = "\n".join(texts.listed(f"{field.value}\n{phrase}"))


def _question(case: Case) -> str:
    """Return the question of a case; of one without, its inputs."""
    question = case.inputs.get("question")
    return question if isinstance(question, str) else canonical(dict(case.inputs))
