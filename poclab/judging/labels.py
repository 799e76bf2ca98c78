"""The replies that people label, to calibrate a judge by: a seeded random sample of a run, in a file of the POC.

    rubrics/correctness.labels.jsonl    the first line says what was drawn; then a reply a line

Each line has the case's question and reference, the reply, and the `label`, `by`, `on` and `note` to fill in; no verdict of any judge.
The replies that were not drawn stand there too, with `"sampled": false`: the judge's mean is corrected for all of them. A person who cannot
tell writes `unscored`. A sample is drawn by chance, so that what is found on it holds for the rest; it is not drawn again over labels, and
a rubric whose examples are among it is refused: a judge would be held against what it was shown.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poclab.cases import Case, TestSet
from poclab.errors import InputError, printable, refuse_unknown
from poclab.files import RUBRICS, digest, read_json_lines, read_text, write_atomic
from poclab.judging.rubric import UNSCORED, Rubric, references
from poclab.report import Report, first_input, reply_text
from poclab.system import Reply

SUFFIX = ".labels.jsonl"
HEAD_KEYS = ("rubric", "run", "name", "version", "lock", "split", "seed", "sample", "of")
KEYS = ("case", "digest", "question", "reference", "reply", "passages", "sampled", "label", "by", "on", "note")


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

    @property
    def digest(self) -> str:
        """The SHA-256 over what was labelled, and how."""
        return digest([[one.case.digest, one.reply.to_json(), one.label] for one in self.sample])

    def __repr__(self) -> str:
        drawn = f"{len(self.sample)} of {len(self.lines)} replies of {printable(str(self.head['name']))}, seed {self.head['seed']}"
        return f"{self.path}: {drawn}; {len(self.missing)} to label: fill in label, by and on"


def labels_path(poc: Path | str, rubric: Rubric) -> Path:
    """Return the file of a POC that holds the labels for a rubric."""
    return Path(poc, RUBRICS, f"{rubric.name}{SUFFIX}")


def draw(poc: Path | str, rubric: Rubric, report: Report, *, sample: int, seed: int) -> Labels:
    """Draw replies of a run for people to label, and write their file; beside it the rubric, which is the POC's own from then on.

    A case that failed has no reply, and is not drawn; of repeats the first counts.

    Raises:
        InputError: there are labels already, or fewer replies than are to be drawn.
    """
    path = labels_path(poc, rubric)
    if path.exists():
        raise InputError(f"{path}: there is a sample already", fix="label it; or move it away to draw another one")
    cases = _cases(poc)
    results = [
        one for one in report.results if not one.failure and one.repeat == 0 and rubric.applies(_same(cases, one.case_id, one.case_digest))
    ]
    if not 2 <= sample <= len(results):
        raise InputError(
            f"--sample {sample}: the run has {len(results)} replies to draw from", fix=f"--sample {max(min(60, len(results)), 2)}"
        )
    drawn = set(random.Random(f"{seed} {report.lock_digest}").sample(range(len(results)), sample))
    head = {"rubric": rubric.name, "run": report.run_id, "name": report.version.name, "version": report.version.digest}
    head |= {"lock": report.lock_digest, "split": report.split, "seed": seed, "sample": sample, "of": len(results)}
    lines = [Labelled(cases[one.case_id], _shown(rubric, one.reply), place in drawn) for place, one in enumerate(results)]
    found = Labels(path, head, tuple(sorted(lines, key=lambda one: not one.sampled)))
    path.parent.mkdir(exist_ok=True)
    own = path.parent / f"{rubric.name}.yaml"
    if rubric.path and not own.exists():
        write_atomic(own, read_text(rubric.path))
    write(found)
    return found


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
    if not lines or not isinstance(lines[0][1], dict) or "sample" not in lines[0][1]:
        raise InputError(f"{path}: the first line does not say what was drawn", fix="draw a sample: `poclab calibrate --sample 60`")
    head = lines[0][1]
    refuse_unknown(head, HEAD_KEYS, where=f"{path}, line 1")
    found = Labels(path, head, tuple(_read(value, cases, rubric, f"{path}, line {number}") for number, value in lines[1:]))
    if len({one.case.id for one in found.lines}) < len(found.lines):
        raise InputError(f"{path}: a case is there twice", fix="put the lines back as they were drawn")
    if len(found.sample) != head["sample"] or len(found.lines) != head["of"]:
        said, are = (head["sample"], head["of"]), (len(found.sample), len(found.lines))
        raise InputError(
            f"{path}: {said[0]} of {said[1]} replies were drawn, the file has {are[0]} of {are[1]}",
            fix="put the lines back: a sample that was picked from is none",
        )
    _refuse_examples(rubric, found)
    return found


def _refuse_examples(rubric: Rubric, labels: Labels) -> None:
    shown = {" ".join(one["reply"].split()) for one in rubric.examples}
    if seen := [one.case.id for one in labels.sample if " ".join(reply_text(one.reply).split()) in shown]:
        raise InputError(
            f"the rubric {rubric.name!r} has the reply to {', '.join(seen[:5])} as an example, and it is in the sample that the judge is held against",
            fix="take another example: from cases that were not drawn, or made up",
        )


def _line(one: Labelled) -> dict[str, Any]:
    line: dict[str, Any] = {"case": one.case.id, "digest": one.case.digest, "question": first_input(one.case.inputs)}
    line |= {"reference": references(one.case), "reply": reply_text(one.reply)}
    if one.reply.contexts:
        line["passages"] = [passage.text for passage in one.reply.contexts]
    line["sampled"] = one.sampled
    return {**line, "label": one.label, "by": one.by, "on": one.on, "note": one.note} if one.sampled else line


def _read(value: Any, cases: Mapping[str, Case], rubric: Rubric, where: str) -> Labelled:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(value).__name__}")
    refuse_unknown(value, KEYS, where=where)
    passages = value.get("passages") or []
    if (
        not isinstance(value.get("reply"), str)
        or not isinstance(value.get("sampled"), bool)
        or not isinstance(passages, list)
        or not all(isinstance(one, str) for one in passages)
    ):
        raise InputError(f"{where}: no reply as it was drawn", fix="put the line back; only label, by, on and note are to be filled in")
    label = value.get("label")
    if label is not None and label not in (*rubric.labels, UNSCORED):
        raise InputError(f"{where}: label {label!r}", fix=f"use one of: {', '.join((*rubric.labels, UNSCORED))}")
    told = {name: str(value.get(name) or "") for name in ("by", "on", "note")}
    if label is not None and not told["by"].strip():
        raise InputError(f"{where}: a label without a name", fix='"by": "..."')
    case = _same(cases, str(value.get("case")), value.get("digest"), where=where)
    return Labelled(case, Reply(value["reply"], contexts=passages), value["sampled"], label, **told)


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
