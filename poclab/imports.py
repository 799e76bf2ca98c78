"""Import labelled cases from files that other tools wrote: CSV, JSONL, and SQuAD-format JSON; and questions from plain text.

CSV columns and flat JSONL keys: `id`, `question` (or `input:NAME` for other inputs), `answers` (a list, or texts
separated by `|`), `evidence` (the same), `abstain`, `tag:NAME`, `split`, `cluster`, `rubric`, `by`, `on`, `source`.
A JSONL line may also be a whole case. Nothing is guessed: an unknown column is refused.
A text file (`.txt`) holds one question a line; a Markdown file (`.md`) is one question; a folder holds those and CSV files, at any depth.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from poclab.cases import Case, TestSet
from poclab.errors import InputError, refuse_unknown
from poclab.files import read_json, read_json_lines, read_text

PLAIN = ("id", "question", "answers", "evidence", "abstain", "split", "cluster", "rubric", "by", "on", "source")
TEXTS = (".txt", ".md")
#: What is read in a folder of questions; the rest of it may be anything.
INSIDE = (*TEXTS, ".csv")
TRUE, FALSE = ("true", "yes", "1", "x"), ("false", "no", "0", "")


def import_cases(path: Path | str) -> TestSet:
    """Return the cases that a `.csv`, `.jsonl` or SQuAD `.json` file holds, not frozen.

    Raises:
        InputError: another kind of file, or a line that is no case (with its number).
    """
    path = Path(path)
    readers = {".csv": _csv_cases, ".jsonl": _jsonl_cases, ".json": _squad_cases}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: cannot import a {path.suffix or 'nameless'} file", fix="use .csv, .jsonl, or SQuAD-format .json")
    cases = tuple(readers[path.suffix.lower()](path))
    if not cases:
        raise InputError(f"{path}: no cases in it")
    return TestSet(cases, path=path)


def import_questions(path: Path | str) -> tuple[Case, ...]:
    """Return the questions of a text or Markdown file, of a file of cases, or of the text, Markdown and CSV files in a folder.

    Those of texts have no id. A label says at least which file it is from.

    Raises:
        InputError: there is no question, or as `import_cases`.
    """
    path = Path(path)
    files = [path]
    if os.path.isdir(path):  # what begins with a dot is an editor's
        inside = (one for one in path.rglob("*") if not any(part.startswith(".") for part in one.relative_to(path).parts))
        files = sorted(one for one in inside if one.suffix.lower() in INSIDE and one.is_file())
    found = tuple(replace(case, label={"source": one.name, **(case.label or {})}) for one in files for case in _questions(one))
    if not found:
        raise InputError(f"{path}: no question in it", fix="write one question a line of a .txt file, or a .md file for each")
    return found


def _questions(path: Path) -> Iterable[Case]:
    if path.suffix.lower() not in TEXTS:
        return import_cases(path)
    text = read_text(path)
    texts = text.split("\n") if path.suffix.lower() == ".txt" else [text]
    return (Case("", {"question": one.strip()}) for one in texts if one.strip())


def _csv_cases(path: Path) -> Iterator[Case]:
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        _refuse_header(header, path)
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            where = f"{path}, line {rows.line_num}"
            if len(row) != len(header):
                raise InputError(f"{where}: {len(row)} cells under {len(header)} columns", fix="quote a cell that holds a comma")
            yield _flat_case(dict(zip(header, row, strict=True)), where=where, number=rows.line_num - 1)
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num}: not CSV: {error}") from None


def _refuse_header(header: Sequence[str], path: Path) -> None:
    where = f"{path}, line 1"
    separator = next((mark for mark in ";\t" if len(header) == 1 and mark in header[0]), None)
    if separator:
        raise InputError(f"{where}: the file is separated by {separator!r}", fix="save it as CSV with commas, without a `sep=` line")
    for number, name in enumerate(header, start=1):
        if not name:
            raise InputError(f"{where}: column {number} has no name", fix="name it, or remove it (the comma) from every line")
        if header.count(name) > 1:
            raise InputError(f"{path}: two columns are named {name!r}", fix="remove or rename one; several answers go into one cell: a | b")
    _refuse_columns(header, where)
    if header and not any(name == "question" or name.startswith("input:") for name in header):
        raise InputError(f"{where}: no column 'question'", fix="add it; other inputs have columns such as input:title")


def _jsonl_cases(path: Path) -> Iterator[Case]:
    for number, value in read_json_lines(path):
        where = f"{path}, line {number}"
        if isinstance(value, dict) and "inputs" not in value:
            yield _flat_case(value, where=where, number=number)
        else:
            yield Case.from_json(value, where=where)


def _squad_cases(path: Path) -> Iterator[Case]:
    """Inputs are question and context, since a SQuAD question is asked of its paragraph."""
    try:
        for article in read_json(path)["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield _squad_case(article.get("title", ""), paragraph["context"], question, where=str(path))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not SQuAD format: {error!r}", fix="expected data -> paragraphs -> qas") from None


def _squad_case(title: str, context: str, question: Mapping[str, Any], *, where: str) -> Case:
    answers = list(dict.fromkeys(one["text"] for one in question.get("answers", ())))
    impossible = question.get("is_impossible", False)
    if not isinstance(impossible, bool):
        raise InputError(f"{where}: question {question['id']!r}: is_impossible is {impossible!r}", fix="use true or false, without quotes")
    expected = {"abstain": True} if impossible else {"answers": answers}
    label = {"source": f"SQuAD: {title}"}
    data = {"id": question["id"], "inputs": {"question": question["question"], "context": context}, "expected": expected, "label": label}
    return Case.from_json(data, where=where)


def _refuse_columns(names: Collection[str], where: str) -> None:
    refuse_unknown(
        [name for name in names if not name.startswith(("tag:", "input:"))], (*PLAIN, "tag:NAME", "input:NAME"), where=where, what="column"
    )
    if "question" in names and "input:question" in names:
        raise InputError(f"{where}: 'question' and 'input:question' are the same input", fix="remove one of them")


def _flat_case(row: Mapping[str, Any], *, where: str, number: int) -> Case:
    _refuse_columns(row.keys(), where)
    given = {key: value for key, value in row.items() if value is not None and value != ""}
    inputs = {key[6:]: row[key] for key in row if key.startswith("input:")}
    if "question" in given:
        inputs["question"] = given["question"]
    expected: dict[str, Any] = {key: _texts(given[key]) for key in ("answers", "evidence") if key in given}
    if _truth(row.get("abstain"), where):
        expected["abstain"] = True
    data = {
        "id": str(given.get("id", f"q{number:03d}")),
        "inputs": inputs,
        "expected": expected,
        "tags": {key[4:]: str(value) for key, value in given.items() if key.startswith("tag:")},
        "label": {key: str(given[key]) for key in ("by", "on", "source") if key in given} or None,
        **{key: given[key] for key in ("split", "cluster", "rubric") if key in given},
    }
    return Case.from_json(data, where=where)


def _texts(value: Any) -> Any:
    return [part.strip() for part in value.split("|") if part.strip()] if isinstance(value, str) else value


def _truth(value: Any, where: str) -> bool:
    word = str(value if value is not None else "").strip().lower()
    if word not in TRUE + FALSE:
        raise InputError(f"{where}: abstain is {value!r}", fix="use true or false")
    return word in TRUE
