"""The files of a POC: read as UTF-8, written whole or not at all, digested the same way everywhere.

The one place that knows where things lie in a POC folder. It does not know what is in them.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from poclab.errors import InputError, StoreError

CHARTER = "charter.yaml"
#: Everything that poclab makes and git ignores: executed notebooks, reports, caches, sweep records.
WORK = ".poclab"


def find_poc(start: Path | str | None = None) -> Path | None:
    """Return the POC folder: `POCLAB_POC`, else the nearest folder from `start` upwards with a charter.

    `start` given (a file or folder) comes before the environment. None when there is no such folder.
    """
    if start is None and os.environ.get("POCLAB_POC"):
        return Path(os.environ["POCLAB_POC"]).resolve()
    here = Path(start or ".").resolve()
    for folder in (here, *here.parents):
        if (folder / CHARTER).is_file():
            return folder
    return None


def read_text(path: Path | str) -> str:
    """Return the text of a UTF-8 file (a byte order mark is dropped).

    Raises:
        InputError: the file is missing, unreadable, or not UTF-8 (with the offset of the first wrong byte).
    """
    path = Path(path)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", fix="check the path; it is taken relative to the POC folder") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}",
            fix=f"iconv -f LATIN1 -t UTF-8 {path.name} > converted && mv converted {path.name}",
        ) from None


def read_json(path: Path | str) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: as `read_text`, or the file is not JSON (with line and column).
    """
    return parse_json(read_text(path), where=str(path))


def parse_json(text: str, *, where: str) -> Any:
    """Return `text` as JSON; NaN and Infinity are refused, since no other program reads them.

    Raises:
        InputError: names `where` and what is wrong with it.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        raise InputError(f"{where}: not JSON: {error.msg} ({at})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}") from None


def read_json_lines(path: Path | str) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) for each line of a JSONL file that is not blank.

    Raises:
        InputError: a line that is not JSON, with its number.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, parse_json(line, where=f"{path}, line {number}")


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        InputError: not YAML (with line and column), or its top level is not a mapping.
    """
    import yaml

    try:
        value = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{path}{at}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected `key: value` lines, found {'nothing' if value is None else type(value).__name__}")
    return value


def write_atomic(path: Path | str, text: str) -> Path:
    """Write `text` as UTF-8 so that a reader or a crash sees the old file or the new one, never a half.

    Raises:
        StoreError: the folder cannot be written.
    """
    path = Path(path)
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for the owner alone; these are shared like any other file of the POC.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise StoreError(f"{path}: cannot be written: {error.strerror}", fix=f"make {path.parent} writable") from None
    return path


def work_folder(poc: Path, *parts: str) -> Path:
    """Return (and make) a folder below the POC's git-ignored work folder.

    Raises:
        StoreError: the POC folder cannot be written.
    """
    folder = poc / WORK / Path(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe, name = tempfile.mkstemp(dir=folder)
        os.close(probe)
        os.unlink(name)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror}", fix=f"make {poc} writable, or copy the POC elsewhere") from None
    return folder


def canonical(value: Any) -> str:
    """Return the one JSON text of `value`: keys sorted, no spaces, characters as they are.

    Raises:
        ValueError: NaN or infinity; TypeError: a value that JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Return the SHA-256 of `canonical(value)`, or of a `str` or `bytes` as it stands, in hex."""
    data = value if isinstance(value, bytes) else (value if isinstance(value, str) else canonical(value)).encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()


def check_json(value: Any, *, where: str) -> None:
    """Refuse what JSON would change in silence: NaN, tuples, sets, dates, keys that are not text.

    Raises:
        InputError: names `where`, the value and its type.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return
    if isinstance(value, float) and value == value and value not in (float("inf"), float("-inf")):
        return
    if type(value) is list:
        for item in value:
            check_json(item, where=where)
    elif type(value) is dict and all(isinstance(key, str) for key in value):
        for key, item in value.items():
            check_json(item, where=f"{where}.{key}")
    else:
        raise InputError(
            f"{where}: {value!r} ({type(value).__name__}) is not a JSON value",
            fix="use text, a number, true, false, null, a list, or a mapping with text keys",
        )


def _umask() -> int:
    # The umask can only be read by setting it; a file's mode needs it once per write.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
