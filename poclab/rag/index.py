"""A search index: some arrays and a vocabulary, built once and shared by every trial and process through the disk.

An index lies in `<poc>/.poclab/index/<digest of what it was made of>/` as `.npy` and JSON files, never pickles, beside a
manifest of their digests. A file that does not match is not trusted: the index is built again. Old entries are never
removed; the folder may be deleted at any time.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poclab.errors import StoreError
from poclab.files import WORK, canonical, digest, work_folder

if TYPE_CHECKING:
    import numpy

MANIFEST = "manifest.json"
WORDS = "words.json"


@dataclass(frozen=True)
class Index:
    """`words` are the vocabulary in the order of the arrays' columns; what the arrays mean is known to who built them."""

    arrays: Mapping[str, numpy.ndarray]
    words: tuple[str, ...] = ()

    @cached_property
    def columns(self) -> dict[str, int]:
        return {word: column for column, word in enumerate(self.words)}


def load_or_build(poc: Path | None, key: Mapping[str, Any], build: Callable[[], Index]) -> Index:
    """Return the index of `key` from the POC's work folder, else build it, once among all processes; in memory without a POC.

    `key` holds all that the index depends on. Another process that builds the same one is waited for.

    Raises:
        StoreError: the folder cannot be written.
    """
    if poc is None:
        return build()
    place = poc / WORK / "index" / digest(key)
    return _load(place) or _build_once(work_folder(poc, "index") / place.name, key, build)


def _build_once(place: Path, key: Mapping[str, Any], build: Callable[[], Index]) -> Index:
    from filelock import FileLock

    with FileLock(f"{place}.lock"):
        index = _load(place)  # another process may have built it while this one waited
        if index is None:
            index = build()
            _save(place, key, index)
    return index


def _save(place: Path, key: Mapping[str, Any], index: Index) -> None:
    fresh = place.with_name(f"{place.name}.new")
    contents = {f"{name}.npy": _npy(array) for name, array in index.arrays.items()}
    contents[WORDS] = canonical(list(index.words)).encode()
    contents[MANIFEST] = canonical({"key": key, "files": {name: digest(data) for name, data in contents.items()}}).encode()
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        for name, data in contents.items():
            (fresh / name).write_bytes(data)
        if place.exists():
            shutil.rmtree(place)
        os.rename(fresh, place)
    except OSError as error:
        raise StoreError(f"{place}: cannot be written: {error.strerror}", fix=f"make room, or delete {place.parent}") from None


def _load(place: Path) -> Index | None:
    import numpy

    try:
        files = json.loads((place / MANIFEST).read_bytes())["files"]
        contents = {name: (place / name).read_bytes() for name in files}
        if any(digest(contents[name]) != files[name] for name in files):
            return None
        words = json.loads(contents.pop(WORDS))
        return Index({name[:-4]: numpy.load(io.BytesIO(data), allow_pickle=False) for name, data in contents.items()}, tuple(words))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _npy(array: numpy.ndarray) -> bytes:
    import numpy

    buffer = io.BytesIO()
    numpy.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
