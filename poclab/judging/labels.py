"""The replies that people label, to calibrate a judge by: a seeded random sample of a run, in a file of the POC.

    rubrics/correctness.labels.jsonl    the first line says what was drawn; then a reply a line

Each line has the case's question and reference, the reply, and the `label`, `by`, `on` and `note` to fill in; no verdict of any judge.
The replies that were not drawn stand there too, with `"sampled": false`: the judge's mean is corrected for all of them. A person who cannot
tell writes `unscored`. A sample is drawn by chance, so that what is found on it holds for the rest: it is not drawn again over labels, only
further, what was drawn is sealed in the first line, and a rubric whose examples are among it is refused: a judge would be held against what it was shown.
"""

from __future__ import annotations

import contextlib
import json
import random
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from poclab.cases import Case, TestSet
from poclab.errors import InputError, StoreError, printable, refuse_unknown
from poclab.files import RUBRICS, digest, read_json_lines, read_text, require_poc, work_folder, write_atomic
from poclab.judging.rubric import UNSCORED, Rubric, question, references
from poclab.report import Report, reply_text
from poclab.system import Reply

SUFFIX = ".labels.jsonl"
#: How long to wait for somebody else who writes labels, in seconds.
PATIENCE_S = 10
HEAD_KEYS = ("rubric", "run", "name", "version", "lock", "split", "seed", "sample", "further", "of", "seal")
KEYS = ("case", "digest", "question", "reference", "reply", "passages", "sampled", "label", "by", "on", "note")
PUT_BACK = "put the file back as it was drawn, with `git checkout`: only label, by, on and note are to be filled in"
#: What of a line is sealed: question and reference stand in the case, of which it has the digest.
SEALED = ("case", "digest", "reply", "passages", "sampled")


@dataclass(frozen=True)
class Labelled:
    """One reply, and what a person says of it: a label of the rubric, `unscored`, or None while nobody did."""

    case: Case
    reply: Reply
    sampled: bool
    label: str | None = None
    by: str = ""
    on: str = ""
    note: str = ""


@dataclass(frozen=True, repr=False)
class Labels:
    """What a labels file holds; `head` says which run was sampled, and how."""

    path: Path
    head: Mapping[str, Any]
    lines: tuple[Labelled, ...]

    @property
    def sample(self) -> tuple[Labelled, ...]:
        return tuple(one for one in self.lines if one.sampled)

    @property
    def others(self) -> tuple[Labelled, ...]:
        return tuple(one for one in self.lines if not one.sampled)

    @property
    def missing(self) -> list[str]:
        """The cases of the sample that nobody labelled yet."""
        return [one.case.id for one in self.sample if one.label is None]

    def __repr__(self) -> str:
        drawn = f"{len(self.sample)} of {len(self.lines)} replies of {printable(str(self.head['name']))}, seed {self.head['seed']}"
        return f"{self.path}: {drawn}; {len(self.missing)} to label: fill in label, by and on"


def labels_path(poc: Path | str, rubric: Rubric) -> Path:
    """Return the file of a POC that holds the labels for a rubric."""
    return Path(poc, RUBRICS, f"{rubric.name}{SUFFIX}")


def draw(poc: Path | str, rubric: Rubric, report: Report, *, sample: int, seed: int, fewer: bool = False) -> Labels:
    """Draw replies of a run for people to label, and write their file; beside it the rubric, which is the POC's own from then on.

    A case that failed has no reply, and is not drawn; of repeats the first counts. With `fewer` all are taken where there are not so many.

    Raises:
        InputError: there are labels already, fewer replies than are to be drawn, or a run on held-out cases.
        StoreError: somebody else is writing labels.
    """
    if report.split != "dev":
        raise InputError(f"the run is on {report.split or 'all'} cases: who labels them sees held-out ones", fix="draw from a run on dev")
    if report.brief:
        raise InputError("the replies of a brief report are cut", fix="load the whole run")
    path = labels_path(poc, rubric)
    own = path.parent / f"{rubric.name}.yaml"
    with alone(poc):
        if path.exists():
            raise _drawn_already(path)
        found = _drawn(poc, rubric, report, sample=sample, seed=seed, fewer=fewer)
        path.parent.mkdir(exist_ok=True)
        if rubric.path and not own.exists():
            write_atomic(own, read_text(rubric.path))
        write(found)
    return found


def _drawn(poc: Path | str, rubric: Rubric, report: Report, *, sample: int, seed: int, fewer: bool) -> Labels:
    cases = _cases(poc)
    results = [
        one for one in report.results if not one.failure and one.repeat == 0 and rubric.applies(_same(cases, one.case_id, one.case_digest))
    ]
    sample = min(sample, len(results)) if fewer else sample
    if not 2 <= sample <= len(results):
        left = sum(one.repeat == 0 for one in report.results) - len(results)
        others = f"; {left} cases failed, or expect nothing that the rubric could compare with" if left else ""
        fix = f"--sample {min(60, len(results))}" if len(results) > 1 else "draw from another run: --run RUN"
        raise InputError(f"--sample {sample}: the run has {len(results)} replies to draw from{others}", fix=fix)
    drawn = set(random.Random(f"{seed} {report.lock_digest}").sample(range(len(results)), sample))
    head = {"rubric": rubric.name, "run": report.run_id, "name": report.version.name, "version": report.version.digest}
    head |= {"lock": report.lock_digest, "split": report.split, "seed": seed, "sample": sample, "of": len(results)}
    lines = [Labelled(cases[one.case_id], _shown(rubric, one.reply), place in drawn) for place, one in enumerate(results)]
    return _sealed(labels_path(poc, rubric), head, lines)


def extend(poc: Path | str, rubric: Rubric, *, sample: int) -> Labels:
    """Draw further replies of the same run, until `sample` are drawn; labels that are there stay.

    The whole is a sample drawn by chance, too. But who labels on until a judge passes lets it pass somewhat too often: how many there
    were before is kept, and told with the calibration.

    Raises:
        InputError: as `read_labels`, or not so many more replies are left.
        StoreError: somebody else is writing labels.
    """
    with alone(poc):
        labels = read_labels(poc, rubric)
        more, others = sample - len(labels.sample), labels.others
        if more <= 0:
            raise _drawn_already(labels.path)
        if more > len(others):
            raise InputError(
                f"--sample {sample}: the run has {len(labels.lines)} replies to draw from", fix=f"--sample {len(labels.lines)}"
            )
        drawn = set(random.Random(f"{labels.head['seed']} {labels.head['lock']} {sample}").sample(range(len(others)), more))
        lines = [*labels.sample, *(replace(one, sampled=place in drawn) for place, one in enumerate(others))]
        further = [*labels.head.get("further", ()), len(labels.sample)]
        found = _sealed(labels.path, {**labels.head, "sample": sample, "further": further}, lines)
        write(found)
    return found


def _drawn_already(path: Path) -> InputError:
    away = shlex.join(["mv", str(path), f"{path}.old"])
    return InputError(
        f"{path}: there is a sample already", fix=f"label it; a larger --sample draws more of its run; another one takes: {away}"
    )


def labels_digest(path: Path) -> str:
    """Return the SHA-256 over what people said of the replies; neither a note, nor the day, nor the layout of the file is a part of it.

    Raises:
        InputError: the file cannot be read.
    """
    return digest([{**line, "note": "", "on": ""} if isinstance(line, dict) else line for _, line in read_json_lines(path)])


def write(labels: Labels) -> None:
    """Write a labels file, whole or not at all."""
    lines = [dict(labels.head), *(_line(one) for one in labels.lines)]
    write_atomic(labels.path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def read_labels(poc: Path | str, rubric: Rubric) -> Labels:
    """Read the labels of a POC for a rubric.

    Raises:
        InputError: none were drawn, a line that cannot be understood, a label that is not on the menu, a case that changed since, or an
            example of the rubric that is in the sample.
    """
    path = labels_path(poc, rubric)
    if not path.is_file():
        raise InputError(
            f"{path}: no labels for the rubric {rubric.name!r}", fix=f"poclab calibrate {poc} {rubric.name} --sample 60 --seed 0"
        )
    cases, lines = _cases(poc), list(read_json_lines(path))
    for number, value in lines:
        if not isinstance(value, dict):
            raise InputError(f"{path}, line {number}: expected a JSON object, found {type(value).__name__}", fix=PUT_BACK)
        refuse_unknown(value, HEAD_KEYS if value is lines[0][1] else KEYS, where=f"{path}, line {number}")
    head, drawn = (lines[0][1], [value for _, value in lines[1:]]) if lines else ({}, [])
    if head.get("seal") != _seal(head, drawn) or head.get("rubric") != rubric.name:
        raise InputError(f"{path}: not the replies as they were drawn: a sample that was picked from is none", fix=PUT_BACK)
    found = Labels(path, head, tuple(_read(value, cases, rubric, f"{path}, line {number}") for number, value in lines[1:]))
    _refuse_examples(rubric, found)
    return found


def label(poc: Path | str, rubric: Rubric, seen: Labelled, **given: str) -> Labels:
    """Write a label into the file as it is now, and return what it holds then; `seen` is the line as it was shown.

    Raises:
        InputError: as `read_labels`, a label that is not on the menu, or somebody labelled this reply meanwhile, or drew another sample.
        StoreError: somebody else is writing and does not end.
    """
    _check_label(given["label"], rubric, "the label")
    with alone(poc):
        now = read_labels(poc, rubric)
        line = next((one for one in now.sample if (one.case, one.reply) == (seen.case, seen.reply)), None)
        if line is None:
            raise InputError(f"another sample was drawn meanwhile, without this reply to {seen.case.id}", fix="go on with that one")
        if line != seen:
            raise InputError(
                f"{line.by} said {line.label} of this reply meanwhile", fix="look at it again, and press once more to change it"
            )
        found = replace(now, lines=tuple(replace(one, **given) if one is line else one for one in now.lines))
        write(found)
    return found


@contextlib.contextmanager
def alone(poc: Path | str) -> Iterator[None]:
    """Let nobody else write labels meanwhile."""
    from filelock import FileLock, Timeout

    lock = FileLock(work_folder(require_poc(poc)) / "judging.lock", timeout=PATIENCE_S)
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(f"{poc}: another process has been writing labels for {PATIENCE_S} s", fix="end it, and label again") from None
    try:
        yield
    finally:
        lock.release()


def _sealed(path: Path, head: Mapping[str, Any], lines: Sequence[Labelled]) -> Labels:
    """Return labels with the seal of what was drawn; the sample stands first."""
    lines = sorted(lines, key=lambda one: not one.sampled)
    return Labels(path, {**head, "seal": _seal(head, map(_line, lines))}, tuple(lines))


def _seal(head: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> str:
    """Return the SHA-256 over what was drawn, and how."""
    return digest([{**head, "seal": None}, *({key: line.get(key) for key in SEALED} for line in lines)])


def _refuse_examples(rubric: Rubric, labels: Labels) -> None:
    def told(reply: str, asked: str) -> tuple[str, str]:
        return " ".join(reply.split()), " ".join(asked.split())

    # The same reply to another question is another answer; where an example shows no question, it may be this one.
    shown = {told(one["reply"], one.get("question", "")) for one in rubric.examples}
    texts = [(one.case.id, reply_text(one.reply), question(one.case)) for one in labels.sample]
    if seen := [name for name, reply, asked in texts if {told(reply, asked), told(reply, "")} & shown]:
        raise InputError(
            f"the rubric {rubric.name!r} has the reply to {', '.join(seen[:5])} as an example, and it is in the sample that the judge is held against",
            fix="take another example: from cases that were not drawn, or made up",
        )


def _line(one: Labelled) -> dict[str, Any]:
    line: dict[str, Any] = {"case": one.case.id, "digest": one.case.digest, "question": question(one.case)}
    line |= {"reference": references(one.case), "reply": reply_text(one.reply)}
    if one.reply.contexts:
        line["passages"] = [passage.text for passage in one.reply.contexts]
    line["sampled"] = one.sampled
    return {**line, "label": one.label, "by": one.by, "on": one.on, "note": one.note} if one.sampled else line


def _read(value: Mapping[str, Any], cases: Mapping[str, Case], rubric: Rubric, where: str) -> Labelled:
    if (said := value.get("label")) is not None:
        _check_label(said, rubric, where)
    told = {name: value.get(name, "") for name in ("by", "on", "note")}
    if not all(isinstance(one, str) for one in told.values()):
        raise InputError(f"{where}: by, on and note are texts, found {told}", fix='"by": "...", "on": "2026-11-26", "note": ""')
    if said is not None and not told["by"].strip():
        raise InputError(f"{where}: a label without a name", fix='"by": "..."')
    case = _same(cases, value["case"], value["digest"], where=where)
    return Labelled(case, Reply(value["reply"], contexts=value.get("passages", ())), value["sampled"], said, **told)


def _check_label(said: Any, rubric: Rubric, where: str) -> None:
    menu = (*rubric.labels, UNSCORED)
    if said not in menu:
        raise InputError(f"{where}: label {said!r}", fix=f"use one of: {', '.join(menu)}")


def _shown(rubric: Rubric, reply: Reply) -> Reply:
    """Return what a judge sees of a reply: its text, and the passages where the rubric shows them."""
    contexts = [one.text for one in reply.contexts] if "passages" in rubric.shows else []
    return Reply(reply_text(reply), contexts=contexts)


def _cases(poc: Path | str) -> dict[str, Case]:
    return {case.id: case for case in TestSet.load(Path(poc, "cases.jsonl"))}


def _same(cases: Mapping[str, Case], case_id: str, case_digest: Any, *, where: str = "the run") -> Case:
    if case_id not in cases or cases[case_id].digest != case_digest:
        raise InputError(
            f"{where}: case {case_id!r} is not what it was when it was answered", fix="evaluate again, and draw another sample"
        )
    return cases[case_id]
