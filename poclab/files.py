"""The files of a POC: read as UTF-8, written whole or not at all, digested the same way everywhere.

The one place that knows where things lie in a POC folder. It does not know what is in them.
"""

from __future__ import annotations

import dataclasses
import datetime
import errno
import functools
import hashlib
import json
import math
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from poclab.errors import InputError, StoreError

CHARTER = "charter.yaml"
#: Everything that poclab makes and git ignores: executed notebooks, reports, caches, sweep records.
WORK = ".poclab"
#: The folder of a POC that `poclab handoff` writes, if nobody names another.
HANDOFF = "handoff"
#: The folder of a POC that holds the rubrics of its judges, with their labels and calibrations.
RUBRICS = "rubrics"
#: The rubrics that come with poclab.
TEMPLATES = Path(__file__).parent / "templates" / RUBRICS
#: How deep a JSON or YAML value may be nested: far beyond what people write, far below where Python gives up.
DEEPEST = 100
#: How booleans and numbers look in our YAML, and what they may begin with. YAML 1.1 reads `0400` as 256, `1:30` as 90, a key `on` as True.
PLAIN = {
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": ("[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}


def find_poc(start: Path | str | None = None) -> Path | None:
    """Return the POC folder: `POCLAB_POC`, else the nearest folder from `start` upwards with a charter.

    `start` given (a file or folder) comes before the environment. None when there is no such folder.

    Raises:
        InputError: the current folder was removed.
    """
    if start is None and os.environ.get("POCLAB_POC"):
        named = os.environ["POCLAB_POC"]
        return _real(named) if os.path.isabs(named) else Path(os.path.realpath(named))
    try:
        here = Path(os.path.realpath(start or "."))
    except FileNotFoundError:
        raise InputError("the current folder was removed", fix="cd into a folder that is there") from None
    for folder in (here, *here.parents):
        if (folder / CHARTER).is_file():
            return folder
    return None


@functools.cache
def _real(path: str) -> Path:  # asked before each call of a model, and a look at each folder lets other threads go first
    return Path(os.path.realpath(path))


def require_poc(start: Path | str | None = None) -> Path:
    """Return what `find_poc` finds.

    Raises:
        InputError: no POC at `start` or above, or none where `POCLAB_POC` says.
    """
    found = find_poc(start)
    if found and not (found / CHARTER).is_file():
        raise InputError(f"POCLAB_POC is {str(found)!r}: there is no {CHARTER}", fix="unset POCLAB_POC, or let it name the POC's folder")
    if found is None:
        where = os.path.realpath(start or ".")
        raise InputError(f"no POC at {where} or above: there is no {CHARTER}", fix="`poclab new DIR`, or name the POC's folder")
    return found


def read_text(path: Path | str) -> str:
    """Return the text of a UTF-8 file (a byte order mark is dropped).

    Raises:
        InputError: the file is missing, unreadable, or not UTF-8 (with the line and offset of the first wrong byte).
    """
    path = Path(path)
    try:
        return path.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", fix="check the path; it is taken relative to the POC folder") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        data, at = error.object, error.start
        likely = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "CP1252"
        raise InputError(
            f"{path}, line {data.count(10, 0, at) + 1}: not UTF-8: byte {data[at]:#04x} at offset {at}",
            fix=f"iconv -f {likely} -t UTF-8 {path.name} > converted && mv converted {path.name}",
        ) from None
    except ValueError as error:  # such as a name with a NUL in it
        raise InputError(f"{path}: cannot be read: {error}") from None


def read_json(path: Path | str, *, digested: bool = False) -> Any:
    """Return the content of a JSON file; of a `digested` one, whose digest is checked next, keys are not looked at twice.

    Raises:
        InputError: as `read_text`, or the file is not JSON (with line and column).
    """
    return parse_json(read_text(path), where=str(path), digested=digested)


def parse_json(text: str, *, where: str, digested: bool = False) -> Any:
    """Return `text` as JSON; NaN and Infinity are refused, since no other program reads them, and so is a key that is there twice.

    Raises:
        InputError: names `where` and what is wrong with it.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=None if digested else _each_key_once)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        raise InputError(f"{where}: not JSON: {error.msg} ({at})") from None
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from None
    except RecursionError:
        raise InputError(f"{where}: nested too deeply") from None


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
        InputError: as `parse_yaml`, or its top level is not a mapping.
    """
    value = parse_yaml(read_text(path), where=str(path))
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected `key: value` lines, found {'nothing' if value is None else type(value).__name__}")
    return value


def parse_yaml(text: str, *, where: str) -> Any:
    """Return the value of a YAML text: what reads as one thing in YAML 1.1 and as another to a person is a text.

    Booleans are `true` and `false`, not `on` or `no`; numbers are decimal, so `0400`, `0x1F`, `1:30` and `1_000` are texts.

    Raises:
        InputError: not YAML (with line and column), a key that is there twice, or an alias.
    """
    import yaml

    try:
        # The loader is a SafeLoader: it makes plain values and nothing else.
        return yaml.load(text, Loader=_yaml_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{where}{at}: not YAML: {getattr(error, 'problem', error)}") from None
    except ValueError as error:  # such as a date that no calendar has
        raise InputError(f"{where}: not YAML: {error}") from None
    except (LookupError, AttributeError):  # such as `!!bool foo`
        raise InputError(f"{where}: not YAML: a value does not fit its tag", fix="remove the `!!...` before it") from None
    except RecursionError:
        raise InputError(f"{where}: nested too deeply") from None


def parse_value(text: str) -> Any:
    """Return `text` as one value of a YAML file; the text itself where it is none."""
    try:
        return parse_yaml(text, where="")
    except InputError:
        return text


def write_atomic(path: Path | str, text: str, *, sync: bool = True) -> Path:
    """Write `text` as UTF-8 so that a reader or a crash sees the old file or the new one, never a half.

    A file that is there keeps its mode. A lone surrogate, which UTF-8 does not have, is written as JSON escapes it. Without
    `sync` it is not waited for the disk: for what can be made again.

    Raises:
        StoreError: the folder cannot be written.
    """
    path = Path(path)
    try:
        target = Path(os.path.realpath(path))  # of a link, the file that it leads to: the link stays one
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(text.encode("utf-8", "backslashreplace"))
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            if target.is_file():
                temporary.chmod(target.stat().st_mode & 0o777)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error, f"make {path.parent} writable") from None
    return path


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file that can be made again.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        path.write_bytes(data)
    except OSError as error:
        raise unwritable(path, error, "name a file in a folder that you may write") from None
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
        raise unwritable(folder, error, f"make {poc} writable, or copy the POC elsewhere") from None
    return folder


def unwritable(path: Path, error: OSError, fix: str) -> StoreError:
    """Return what it means that a file or a folder cannot be written; `fix` is for all but a full disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = "free some space there, and do it again; model answers that the ledger has are not asked again"
    return StoreError(f"{path}: cannot be written: {error.strerror}", fix=fix)


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


def plain(value: Any) -> Any:
    """Return dataclasses, mappings, sequences and days as JSON values; a number that is infinite, an open edge, becomes null."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, datetime.date):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_json(value: Any, *, where: str) -> None:
    """Refuse what JSON would change in silence or cannot write: NaN, tuples, sets, dates, keys that are not text, half a character.

    Raises:
        InputError: names `where`, the value and its type.
    """
    _check_json(value, where, DEEPEST)


def _check_json(value: Any, where: str, room: int) -> None:
    if value is None or isinstance(value, (bool, int)):
        return
    if isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, float) and math.isfinite(value):
        return
    elif room == 0:
        raise InputError(f"{where[:200]} ...: nested more than {DEEPEST} levels deep")
    elif type(value) is list:
        for item in value:
            _check_json(item, where, room - 1)
    elif type(value) is dict and all(isinstance(key, str) for key in value):
        for key, item in value.items():
            _check_text(key, where)
            _check_json(item, f"{where}.{key}", room - 1)
    else:
        raise InputError(
            f"{where}: {value!r} ({type(value).__name__}) is not a JSON value",
            fix="use text, a number, true, false, null, a list, or a mapping with text keys",
        )


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 10) : error.start + 10]
        raise InputError(
            f"{where}: half a character in {around!a}: a lone surrogate is not Unicode text",
            fix="write the whole character, or remove its escape",
        ) from None


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice in one object")
    return value


@functools.cache
def _yaml_loader() -> type:
    """Return a `yaml.SafeLoader` with the booleans and numbers of YAML 1.2, without double keys and aliases."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in rules if tag.rpartition(":")[2] not in PLAIN]
            for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def compose_node(self, parent: Any, index: Any) -> Any:
            # Eight lines of ten aliases each are a value of a hundred million parts; an alias inside its anchor has no end.
            if self.check_event(yaml.AliasEvent):
                raise yaml.MarkedYAMLError(problem="an alias: write the value out", problem_mark=self.peek_event().start_mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)] if isinstance(node, yaml.MappingNode) else []:
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark)
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    for kind, (pattern, first) in PLAIN.items():
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{pattern})$"), list(first))
    return Loader
