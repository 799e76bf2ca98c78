"""What a sweep or a run depends on besides its parameters, so that what is no longer as it was can be named.

That is code by file (poclab's and the POC's), the notebook, cases, documents, prompts and other files that parameters name, packages and
Python. Not covered: what a system reads from elsewhere, and the model behind an address.
"""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from poclab.cases import TestSet
from poclab.errors import InputError
from poclab.files import HANDOFF, RUBRICS, TEMPLATES, WORK, digest, read_json, read_text, write_atomic
from poclab.redaction import conceal_json
from poclab.tracking.surroundings import packages

#: How many packages are named, or files of which the same is to be said.
SHOWN = 5


@dataclass(frozen=True)
class State:
    """Digests, or None where there is nothing to take one of. `code` and `files` are by name; `notebook` is of what it says as JSON."""

    code: Mapping[str, str]
    notebook: str
    corpus: str | None
    python: str
    packages: Mapping[str, str]
    lock: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def now(cls, poc: Path, notebook: Path, files: Mapping[str, str]) -> State:
        """Return the state of a POC, with the digests of the files that parameters name."""
        return cls(
            code=code_digests(poc),
            notebook=notebook_digest(notebook),
            corpus=corpus_digest(poc),
            **dict(zip(("python", "packages"), environment(), strict=True)),
            lock=TestSet.load(poc / "cases.jsonl").digest,
            files={**files, **rubric_digests(poc)},
        )

    def save(self, path: Path) -> None:
        write_atomic(path, json.dumps(dataclasses.asdict(self), ensure_ascii=False))

    @classmethod
    def load(cls, path: Path) -> State:
        """Read a state that was saved.

        Raises:
            InputError: no such file, or another version of poclab wrote it.
        """
        data = read_json(path)
        if not isinstance(data, dict) or data.keys() != cls.__dataclass_fields__.keys():
            raise InputError(f"{path}: another version of poclab wrote it", fix="`poclab sweep` begins the sweep anew")
        return cls(**data)

    def changes(self, now: State) -> Iterator[str]:
        """Yield what is not as it was in this state, in words."""
        yield from _changed(self.code, now.code)
        if self.notebook != now.notebook:
            yield "the notebook was edited"
        if self.lock != now.lock:
            yield f"the cases were frozen anew (lock {_short(self.lock)} then, {_short(now.lock)} now)"
        if self.corpus != now.corpus:
            yield f"the documents of corpus.yaml are others ({_short(self.corpus)} then, {_short(now.corpus)} now)"
        yield from _changed(self.files, now.files)
        if self.python != now.python:
            yield f"Python {self.python} then, {now.python} now"
        moved = [
            f"{name} {self.packages.get(name, 'not installed')} -> {now.packages.get(name, 'not installed')}"
            for name in sorted(self.packages.keys() | now.packages)
            if self.packages.get(name) != now.packages.get(name)
        ]
        if moved:
            yield f"{len(moved)} package(s): {', '.join(moved[:SHOWN])}{' ...' if len(moved) > SHOWN else ''}"


def _changed(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    edited = [name for name in then.keys() & now if then[name] != now[name]]
    for names, one, many in (
        (edited, "was edited", "were edited"),
        (then.keys() - now, "is gone", "are gone"),
        (now.keys() - then, "is new", "are new"),
    ):
        if len(names) <= SHOWN:
            yield from (f"{name} {one}" for name in sorted(names))
        else:
            yield f"{len(names)} files {many}: {', '.join(sorted(names)[:SHOWN])} ..."


def environment() -> tuple[str, Mapping[str, str]]:
    """Return the version of Python, and of each package that is installed."""
    return platform.python_version(), packages()


def code_digests(poc: Path) -> dict[str, str]:
    """Return the digest of each file of poclab's own code and of the POC's: a result of other code is another result."""
    home = Path(__file__).parent
    files = {f"poclab/{path.relative_to(home).as_posix()}": path for path in (*home.rglob("*.py"), *TEMPLATES.glob("*.yaml"))}
    own = {path.relative_to(poc): path for path in poc.rglob("*.py")}
    # An editor's lock on an open file is a link to nowhere of the same ending; a handoff holds copies.
    files |= {name.as_posix(): path for name, path in own.items() if WORK not in name.parts and name.parts[0] != HANDOFF and path.is_file()}
    return {name: digest(path.read_bytes()) for name, path in files.items()}


def rubric_texts(poc: Path) -> dict[str, str]:
    """Return what each rubric of a POC says, since a notebook names a judge, and no file; a copy of one that comes along is that one."""
    along = {path.name: read_text(path) for path in TEMPLATES.glob("*.yaml")}
    own = {path: read_text(path) for path in sorted((poc / RUBRICS).glob("*.yaml"))}
    return {path.relative_to(poc).as_posix(): text for path, text in own.items() if text != along.get(path.name)}


def rubric_digests(poc: Path) -> dict[str, str]:
    """Return the digest of each rubric of a POC's own."""
    return {name: digest(text) for name, text in rubric_texts(poc).items()}


def corpus_digest(poc: Path) -> str | None:
    """Return the digest of the documents of a POC as they are now; None without a `corpus.yaml`."""
    if not (poc / "corpus.yaml").is_file():
        return None
    from poclab import rag

    return rag.load_corpus(poc).digest


def notebook_digest(notebook: Path) -> str:
    """Return the digest of a notebook as runs keep it: without keys, however its JSON is laid out."""
    return digest(conceal_json(read_json(notebook)))


def _short(found: str | None) -> str:
    return found[:12] if found else "none"
