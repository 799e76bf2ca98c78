"""Start a new POC: copy the templates into a folder, ready to freeze and to run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from poclab.errors import InputError, StoreError
from poclab.files import CHARTER, write_atomic
from poclab.rag.corpus import SUFFIXES

#: The POC that the notebooks of this project look at; in a new POC they look at the folder above them.
NOTEBOOK_POC = '"../experiments/python_help"'
CASE = '{"id": "q001", "inputs": {"question": "..."}, "expected": {"answers": ["..."], "evidence": ["a few words of the source"]}}'


def make_poc(folder: Path, docs: Path | None = None) -> list[str]:
    """Make a POC in `folder` and return what to type next.

    With `docs` the corpus is that folder and there are no cases yet; without, an example corpus with its cases.

    Raises:
        InputError: `folder` holds a POC or other files already, or `docs` is no folder.
        StoreError: `folder` cannot be written.
    """
    if docs is not None and not docs.is_dir():
        raise InputError(f"{docs}: no such folder", fix="--docs FOLDER, with Markdown or text files in it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "a POC already" if (folder / CHARTER).exists() else "not an empty folder"
        raise InputError(f"{folder}: {what}", fix="`poclab new` makes a folder of its own: name another one")
    corpus = _corpus(folder, docs) if docs is not None else None
    try:
        _copy(folder)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror}", fix="name a folder that you may write") from None
    if corpus is not None:
        shutil.rmtree(folder / "docs")
        (folder / "cases.jsonl").unlink()
        write_atomic(folder / "corpus.yaml", corpus)
    return _next_steps(folder, own_documents=docs is not None)


def _copy(folder: Path) -> None:
    templates = Path(__file__).parent / "templates"
    shutil.copytree(templates / "poc", folder, dirs_exist_ok=True)
    (folder / "gitignore").rename(folder / ".gitignore")
    (folder / "notebooks").mkdir()
    for notebook in sorted(notebooks().glob("*.ipynb")):
        text = notebook.read_text(encoding="utf-8")
        (folder / "notebooks" / notebook.name).write_text(
            text.replace(json.dumps(NOTEBOOK_POC)[1:-1], json.dumps('".."')[1:-1]), encoding="utf-8"
        )


def _corpus(folder: Path, docs: Path) -> str:
    """Return a `corpus.yaml` for the kinds of text that there are in `docs`; other files lie there unread."""
    here = Path(os.path.relpath(docs.resolve(), folder.resolve())).as_posix()
    kinds = sorted({path.suffix for path in docs.rglob("*") if path.suffix.lower() in SUFFIXES})
    if not kinds:
        raise InputError(f"{docs}: no file in it ends in {' '.join(SUFFIXES)}", fix="convert your documents to text first")
    globs = json.dumps([f"{here}/**/*{kind}" for kind in kinds])
    return f"# The documents to answer from: Markdown and text files.\nsource: files\nglob: {globs}\n"


def notebooks() -> Path:
    """Return the folder of the notebooks: inside the installed package, or beside it in a checkout."""
    installed = Path(__file__).parent / "templates" / "notebooks"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "notebooks"


def _next_steps(folder: Path, *, own_documents: bool) -> list[str]:
    at = os.path.relpath(folder)
    cases = [f"1. write your cases into {at}/cases.jsonl, one a line: {CASE}", "   fifty are few; write them before the first prompt"]
    steps = [
        *(cases if own_documents else [f"1. look at {at}/charter.yaml, cases.jsonl and docs/: an example to replace by your own"]),
        f"2. poclab freeze {at}",
        f"3. poclab sweep {at}",
        f"4. jupyter lab {at}/notebooks",
    ]
    return [f"made {at}", *steps]
