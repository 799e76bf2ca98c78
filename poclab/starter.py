"""Start a new POC: copy the templates into a folder, ready to freeze and to run."""

from __future__ import annotations

import datetime
import glob
import json
import os
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path

from poclab.errors import InputError, StoreError
from poclab.files import CHARTER
from poclab.rag.corpus import SUFFIXES

TEMPLATES = Path(__file__).parent / "templates"
#: The POC that the notebooks of this project look at; in a new POC they look at the folder above them.
NOTEBOOK_POC = '"../experiments/python_help"'
CASE = '{"id": "q001", "inputs": {"question": "..."}, "expected": {"answers": ["..."], "evidence": ["a few words of the source"]}}'
ABSTAIN = '{"id": "q002", "inputs": {"question": "..."}, "expected": {"abstain": true}}'


def make_poc(folder: Path, docs: Path | None = None) -> list[str]:
    """Make a POC in `folder` and return what to type next.

    With `docs` the corpus is that folder, where it is; there are no cases yet, and the charter is empty.
    Without, there is an example of everything. A POC that cannot be written whole is not left there.

    Raises:
        InputError: `folder` holds a POC or other files already, or `docs` is no folder.
        StoreError: `folder` cannot be written.
    """
    if docs is not None and not os.path.isdir(docs):
        raise InputError(f"{docs}: no such folder", fix="--docs FOLDER, with Markdown or text files in it")
    if os.path.exists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        what = "a POC already" if (folder / CHARTER).exists() else "not an empty folder"
        raise InputError(f"{folder}: {what}", fix="`poclab new` makes a folder of its own: name another one")
    corpus = _corpus(folder, docs) if docs is not None else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as whole:
            _write(_files(corpus), Path(whole))
            for path in sorted(Path(whole).iterdir()):
                path.rename(folder / path.name)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror}", fix="name a folder that you may write") from None
    return _next_steps(folder, docs)


def _files(corpus: str | None) -> dict[str, str]:
    """Return the text of each file of a new POC, by its path."""
    example = TEMPLATES / "poc"
    files = {path.relative_to(example).as_posix(): path.read_text(encoding="utf-8") for path in example.rglob("*") if path.is_file()}
    files[".gitignore"] = files.pop("gitignore")
    for path in notebooks().glob("*.ipynb"):
        text, here = path.read_text(encoding="utf-8"), json.dumps(NOTEBOOK_POC)[1:-1]
        if here in text:  # one that looks at another POC is for POCs of that kind
            files[f"notebooks/{path.name}"] = text.replace(here, json.dumps('".."')[1:-1])
    # The templates carry the day they were written; a new POC begins today.
    today = datetime.date.today().isoformat()
    if corpus is not None:
        files = {name: text for name, text in files.items() if name != "cases.jsonl" and not name.startswith("docs/")}
        files |= {"corpus.yaml": corpus, CHARTER: (TEMPLATES / CHARTER).read_text(encoding="utf-8")}
    files[CHARTER] = files[CHARTER].replace("2026-11-23", today)
    return files


def _write(files: Mapping[str, str], folder: Path) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _corpus(folder: Path, docs: Path) -> str:
    """Return a `corpus.yaml` for the kinds of text that there are in `docs`; other files lie there unread."""
    here = glob.escape(Path(os.path.relpath(os.path.realpath(docs), os.path.realpath(folder))).as_posix())
    kinds = sorted({path.suffix for path in docs.rglob("*") if path.suffix.lower() in SUFFIXES})
    if not kinds:
        raise InputError(f"{docs}: no file in it ends in {' '.join(SUFFIXES)}", fix="convert your documents to text first")
    globs = json.dumps([f"{here}/**/*{kind}" for kind in kinds], ensure_ascii=False)
    return f"# The documents to answer from: Markdown and text files.\nsource: files\nglob: {globs}\n"


def notebooks() -> Path:
    """Return the folder of the notebooks: inside the installed package, or beside it in a checkout."""
    installed = Path(__file__).parent / "templates" / "notebooks"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "notebooks"


def _next_steps(folder: Path, docs: Path | None) -> list[str]:
    at = shlex.quote(os.path.relpath(folder))
    example = [f"look at {at}/charter.yaml, cases.jsonl and docs/: an example to replace by your own"]
    own = [
        f"fill in {at}/charter.yaml: what is decided, by which numbers, and who answers for it",
        f"write your cases into {at}/cases.jsonl, one a line: {CASE}\n"
        f"   or, where the right reply is that the documents do not answer: {ABSTAIN}\n"
        f"   or label them in a form: jupyter lab {at}/notebooks/01_charter_and_cases.ipynb\n"
        "   fifty are few; write them before the first prompt",
    ]
    verbs = [f"poclab {verb} {at}" for verb in (*(() if docs else ("plan",)), "freeze", "doctor", "sweep", "compare")]
    steps = [*(own if docs else example), *verbs, f"jupyter lab {at}/notebooks"]
    made = f"made {at}" + (f"; the documents stay in {docs}: corpus.yaml names them" if docs else "")
    return [made, *(f"{number}. {step}" for number, step in enumerate(steps, start=1))]
