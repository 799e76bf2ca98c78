"""Start a new POC: copy the templates into a folder, ready to freeze and to run."""

from __future__ import annotations

import datetime
import glob
import json
import os
import re
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path

from poclab.errors import InputError, StoreError
from poclab.files import CHARTER
from poclab.rag.corpus import SUFFIXES

TEMPLATES = Path(__file__).parent / "templates"
#: The POC that a notebook of this project looks at; in a new POC it looks at the folder above it.
NOTEBOOK_POC = re.compile(r'\\"\.\./experiments/\w+\\"')
#: What the example of an agent has of the project's own, beside the files of any example; and the notebook that is for other POCs.
AGENT = ("cases.jsonl", CHARTER, "desk.py", "prompts/policy.md", "prompts/short.md", "sweep.yaml", "world.sql")
OTHERS = {True: "02_evaluate.ipynb", False: "06_agent.ipynb"}
#: Ten held-out tasks, all of them done, show 0.72 at least; none failed, 0.28 at most.
MET = "# What the 10 held-out tasks of the example can show at all; with more of them ask for more: `poclab plan` says how many.\ncriteria:"
CASE = '{"id": "q001", "inputs": {"question": "..."}, "expected": {"answers": ["..."], "evidence": ["a few words of the source"]}}'
ABSTAIN = '{"id": "q002", "inputs": {"question": "..."}, "expected": {"abstain": true}}'


def make_poc(folder: Path, docs: Path | None = None, *, agent: bool = False) -> list[str]:
    """Make a POC in `folder` and return what to type next.

    With `docs` the corpus is that folder, where it is; there are no cases yet, and the charter is empty.
    Without, there is an example of everything: of questions to documents, or of an `agent` with tools and a database.
    A POC that cannot be written whole is not left there.

    Raises:
        InputError: `folder` holds a POC or other files already, `docs` is no folder, or both `docs` and `agent` are given.
        StoreError: `folder` cannot be written.
    """
    if docs is not None and agent:
        raise InputError("--docs and --agent: an agent has tools instead of documents", fix="give one of the two")
    if docs is not None and not os.path.isdir(docs):
        raise InputError(f"{docs}: no such folder", fix="--docs FOLDER, with Markdown or text files in it")
    if os.path.exists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        what = "a POC already" if (folder / CHARTER).exists() else "not an empty folder"
        raise InputError(f"{folder}: {what}", fix="`poclab new` makes a folder of its own: name another one")
    corpus = _corpus(folder, docs) if docs is not None else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as whole:
            _write(_files(corpus, agent), Path(whole))
            for path in sorted(Path(whole).iterdir()):
                path.rename(folder / path.name)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror}", fix="name a folder that you may write") from None
    return _next_steps(folder, docs, agent)


def _files(corpus: str | None, agent: bool) -> dict[str, str]:
    """Return the text of each file of a new POC, by its path."""
    example = TEMPLATES / "poc"
    files = {path.relative_to(example).as_posix(): path.read_text(encoding="utf-8") for path in example.rglob("*") if path.is_file()}
    files[".gitignore"] = files.pop("gitignore")
    for path in notebooks().glob("*.ipynb"):
        if path.name != OTHERS[agent]:
            files[f"notebooks/{path.name}"] = NOTEBOOK_POC.sub(lambda _: r"\"..\"", path.read_text(encoding="utf-8"))
    # The templates carry the day they were written; a new POC begins today.
    today = datetime.date.today().isoformat()
    if corpus is not None:
        files = {name: text for name, text in files.items() if name != "cases.jsonl" and not name.startswith("docs/")}
        files |= {"corpus.yaml": corpus, CHARTER: (TEMPLATES / CHARTER).read_text(encoding="utf-8")}
    if agent:
        kept = (".gitignore", "LOG.md", *(name for name in files if name.startswith("notebooks/")))
        files = {name: files[name] for name in kept} | _agent_files()
    files[CHARTER] = re.sub(r"2026-11-2\d", today, files[CHARTER])
    return files


def _agent_files() -> dict[str, str]:
    """Return the example of an agent, as nobody's who has signed it."""
    installed = TEMPLATES / "agent"
    source = installed if installed.is_dir() else Path(__file__).parents[1] / "experiments" / "ticket_desk"
    files = {name: (source / name).read_text(encoding="utf-8") for name in AGENT}
    unsigned = re.sub(r"^(signed|  pii): .*\n", "", files[CHARTER], flags=re.MULTILINE)
    reachable = unsigned.replace("criteria:", MET).replace("at_least: 0.90", "at_least: 0.70").replace("at_most: 0.05", "at_most: 0.30")
    files[CHARTER] = re.sub(r"^(owner|sponsor): .*$", r'\1: ""', reachable, flags=re.MULTILINE)
    files["sweep.yaml"] = files["sweep.yaml"].replace("../../notebooks/", "notebooks/")
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


def _next_steps(folder: Path, docs: Path | None, agent: bool) -> list[str]:
    at = shlex.quote(os.path.relpath(folder))
    what = "world.sql and desk.py" if agent else "and docs/"
    example = [f"look at {at}/charter.yaml, cases.jsonl{',' if agent else ''} {what}: an example to replace by your own"]
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
