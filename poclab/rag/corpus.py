"""The documents that a question is answered from: what `corpus.yaml` in a POC folder names.

    source: pydoc                                # the help topics of the running Python: on every machine
    ---
    source: files
    glob: "docs/**/*.md"                         # Markdown and text files, relative to the POC folder; also a list of globs

A corpus is text and ids, nothing else: no PDF, no HTML, no web pages, no access rights. Convert to text first, since an
offset into a document must mean the same thing tomorrow.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from poclab.cases import fold
from poclab.errors import InputError, StoreError, refuse_unknown
from poclab.files import canonical, digest, read_text, read_yaml, work_folder, write_atomic

FILE = "corpus.yaml"
SOURCES = {"pydoc": ("source",), "files": ("source", "glob")}
SUFFIXES = (".md", ".markdown", ".rst", ".txt")


@dataclass(frozen=True)
class Document:
    """One text and the id it goes by: a topic's name, or a path relative to the POC folder."""

    id: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Documents in the order of their ids. `folder` is the POC whose work folder may hold caches; None keeps all in memory."""

    documents: tuple[Document, ...] = field(repr=False)
    folder: Path | None = None
    source: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @cached_property
    def digest(self) -> str:
        """The identity of the corpus: of its ids and texts, wherever they lie."""
        return digest([[one.id, one.text] for one in self.documents])

    @cached_property
    def _folded(self) -> list[tuple[str, str]]:
        return [(one.id, fold(one.text)) for one in self.documents]

    def find(self, phrase: str) -> list[str]:
        """Return the ids of the documents that hold `phrase`: any white space counts as one space, all else is exact.

        A phrase without a character that prints is found nowhere.
        """
        wanted = fold(phrase)
        return [id for id, text in self._folded if wanted in text] if wanted else []


def load_corpus(poc: Path | str) -> Corpus:
    """Load the corpus that `corpus.yaml` in the folder `poc` names.

    The Python topics differ between releases of Python, so those that were read are kept as
    `.poclab/corpus/<digest>.json`. A POC folder that cannot be written is read all the same, without any cache.

    Raises:
        InputError: no `corpus.yaml`, an unknown source or key, no file matches, a file is not UTF-8 text.
    """
    poc = Path(os.path.realpath(poc))
    source = read_yaml(poc / FILE)
    _check(source, where=str(poc / FILE))
    found = _topics() if source["source"] == "pydoc" else _files(poc, _patterns(source["glob"]))
    documents = tuple(Document(id, text) for id, text in sorted(found))
    if not any(one.text.strip() for one in documents):
        raise InputError(f"{poc / FILE}: the {len(documents)} documents hold no text", fix="name files with text in `glob`")
    corpus = Corpus(documents, _writable(poc), source)
    if source["source"] == "pydoc" and corpus.folder:
        _keep(corpus, corpus.folder)
    return corpus


def _check(source: Mapping[str, Any], *, where: str) -> None:
    if "source" not in source:
        raise InputError(f"{where}: no `source`", fix="write `source: pydoc`, or `source: files` with a `glob`")
    refuse_unknown([source["source"]], SOURCES, where=where, what="source")
    refuse_unknown(source, SOURCES[source["source"]], where=where)
    patterns = _patterns(source.get("glob"))
    if source["source"] == "files" and not (patterns and all(isinstance(one, str) and one for one in patterns)):
        raise InputError(f"{where}: `source: files` needs a `glob`, found {source.get('glob')!r}", fix='write `glob: "docs/**/*.md"`')


def _topics() -> Iterator[tuple[str, str]]:
    from pydoc_data.topics import topics

    yield from topics.items()


def _patterns(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _files(poc: Path, patterns: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in sorted({name for pattern in patterns for name in _matches(poc, pattern)}):
        if Path(name).suffix.lower() not in SUFFIXES:
            raise InputError(f"{poc / name}: not one of {' '.join(SUFFIXES)}", fix="convert it to text, or narrow `glob` in corpus.yaml")
        yield Path(name).as_posix(), read_text(poc / name)


def _matches(poc: Path, pattern: str) -> list[str]:
    # An absolute path would give other ids, so another digest, on every laptop. `../docs` is the same for all who have the repository.
    if Path(pattern).is_absolute():
        raise InputError(
            f"{poc / FILE}: glob {pattern!r} is absolute", fix=f"write it relative to {poc}, such as `docs/**/*.md` or `../docs/*.md`"
        )
    names = [name for name in glob.glob(pattern, root_dir=poc, recursive=True) if (poc / name).is_file()]
    if not names:
        raise InputError(f"{poc / FILE}: no file matches glob {pattern!r} in {poc}", fix="`**` means folders at any depth: `docs/**/*.md`")
    return names


def _writable(poc: Path) -> Path | None:
    try:
        work_folder(poc, "corpus")
    except StoreError:
        return None
    return poc


def _keep(corpus: Corpus, poc: Path) -> None:
    path = work_folder(poc, "corpus") / f"{corpus.digest}.json"
    if not path.exists():
        documents = {one.id: one.text for one in corpus.documents}
        write_atomic(path, canonical({"source": "pydoc", "python": sys.version.split()[0], "documents": documents}))
