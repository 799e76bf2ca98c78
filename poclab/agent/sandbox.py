"""A world of its own for each case: a copy of a database and of a folder of files, and the difference that a system leaves in it.

    sandbox = Sandbox("world.sql", files="files")
    with sandbox.open() as world:
        world.db.execute("UPDATE tickets SET status = 'closed' WHERE id = ?", (3,))
        world.db.commit()
        effects = world.difference()

Copies lie in a folder that carries the name of this process, and are removed when a case ends, and once more when the process does: a tool
that hung may have written later. Those of processes that were killed are removed when the next one opens its first. Any number may be
open at once. Another database fits when it does what `Database` says.
Not covered: protection against the code of the tools, which is the POC's own and runs in this process: what it writes outside of
`world.files` is not seen. Nor are rights and times of files, and folders without a file.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from poclab import system
from poclab.agent.rows import LISTED
from poclab.agent.sqlite import Sqlite
from poclab.changes import Change
from poclab.errors import InputError, StoreError
from poclab.files import digest, find_poc, unwritable, work_folder
from poclab.ledger.processes import lives, me

#: Where worlds lie in the work folder of a POC, and those that were asked to be kept.
WORLDS, KEPT = "worlds", "kept"
#: Bytes of a file that are kept as text in a change.
LONGEST_FILE = 20_000


class Database(Protocol):
    """A database that can be copied for each case."""

    digest: str

    def copy(self, folder: Path) -> DatabaseCopy:
        """Return a copy that nobody else sees; what it needs may lie in the case's folder."""
        ...


class DatabaseCopy(Protocol):
    """The database of one case: `connection` is what tools get, with `commit` and `rollback`; None once it is closed."""

    connection: Any

    def difference(self) -> list[Change]:
        """Return all that is not as it was copied, by table and primary key."""
        ...

    def close(self) -> None:
        """Let go of it, also while a tool that hangs still uses it."""
        ...


class World:
    """What one case can see and change: `db`, a connection to its copy of the database, and `files`, its folder."""

    def __init__(self, folder: Path, database: DatabaseCopy | None, files: Path, before: Mapping[str, Mapping[str, Any]]) -> None:
        self.folder, self.files = folder, files
        #: The digests of the differences that were told. The case keeps them: what a reply says of its effects is held against them.
        self.told: list[str] = []
        self._database, self._before = database, before

    @property
    def db(self) -> Any:
        if self._database is None:
            raise InputError("this sandbox has no database", fix='agent.Sandbox("world.sql")')
        if self._database.connection is None:
            raise InputError("the case is over, and its database is gone", fix="take what you need of it within `with sandbox.open()`")
        return self._database.connection

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Return the rows of a query; values are bound to its question marks, never written into it."""
        return [dict(row) for row in self.db.execute(query, values)]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep what is done to the database within, if it ends without an error."""
        try:
            yield
        except BaseException:
            if self._database:
                self.db.rollback()
            raise
        if self._database:
            self.db.commit()

    def difference(self) -> list[Change]:
        """Return every row and file that is not as it was; what was not committed does not count."""
        with system.step("difference", "TASK") as step:
            found = (self._database.difference() if self._database else []) + _file_changes(self._before, _read(self.files))
            step.outputs = [str(one) for one in found]
        self.told.append(digest([one.to_json() for one in found]))
        return found

    @property
    def undone(self) -> bool:
        """Whether something did not count, since nobody had committed it; False of a database that does not say."""
        return getattr(self._database, "undone", False)

    def close(self) -> None:
        if self._database:
            self._database.close()


class Sandbox:
    """Makes the worlds of cases: of a database (a sqlite file, a `.sql` script, or anything that is a `Database`) and a folder of files.

    Either may be left out. `keep` leaves every world where `kept` says, to be looked at. Worlds lie in the work folder of the POC that
    the database or the files belong to, else in the machine's folder for temporary files.

    Raises:
        InputError: no such file or folder, or no database can be made of it.
        StoreError: the folder for the worlds cannot be written, or belongs to another user.
    """

    def __init__(
        self,
        database: Database | Path | str | None = None,
        *,
        files: Path | str | None = None,
        keep: bool = False,
        folder: Path | str | None = None,
    ) -> None:
        source = Path(database) if isinstance(database, (str, os.PathLike)) else None
        given = Path(files) if files is not None else None
        if given is not None and not given.is_dir():
            raise InputError(f"{files}: no such folder", fix="files=FOLDER, with what each case is to find there")
        self.keep, self._folder = keep, Path(folder) if folder else _home(source or given)
        self._once, self._process = threading.Lock(), ""
        self.database: Any = Sqlite.of(source, self._folder / "base", scratch=self._fresh()) if source else database
        self._before = _read(given) if given else {}
        self.files = self._private(given) if given else None

    @cached_property
    def digest(self) -> str:
        """The digest of the world as each case finds it."""
        return digest([self.database.digest if self.database else None, self._before])

    @property
    def kept(self) -> Path:
        return self._folder / KEPT

    def _private(self, files: Path) -> Path:
        """Return a copy of the folder that no tool knows of: what is written to the original later does not reach the cases."""
        folders = sorted(path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_dir())
        path, scratch = self._folder / "base" / f"{digest([self._before, folders])[:16]}-files", self._fresh()
        try:
            if not path.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(files, scratch, symlinks=True)
                scratch.rename(path)
        except OSError as error:
            if path.is_dir():  # somebody else has made it meanwhile
                return path
            raise unwritable(path, error, f"make {path.parent} writable, and {files} readable") from None
        finally:
            _remove(scratch)
        return path

    @contextlib.contextmanager
    def open(self) -> Iterator[World]:
        """Give a world to a case, and remove it afterwards, whatever happens within.

        Raises:
            StoreError: it cannot be written.
        """
        folder = self._fresh()
        try:
            with contextlib.closing(self._made(folder)) as world:
                if (case := system.current_case.get()) and case.worlds is not None:
                    case.worlds.append(world)
                yield world
        finally:
            if self.keep and folder.is_dir():
                self._put_aside(folder)
            else:
                _remove(folder)

    def _made(self, folder: Path) -> World:
        files = folder / "files"
        try:
            if self.files:
                shutil.copytree(self.files, files, symlinks=True)
            else:
                files.mkdir(parents=True)
            return World(folder, self.database.copy(folder) if self.database else None, files, self._before)
        except OSError as error:
            told = unwritable(folder, error, f"make {self._folder} writable")
            if case := system.current_case.get():  # that is no fault of the agent, and the next case would meet it, too
                case.stop = case.stop or told
            raise told from None

    def _put_aside(self, folder: Path) -> None:
        case = system.current_case.get()
        name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', case.case_id)[:80]}-{case.repeat}-" if case else ""
        self.kept.mkdir(exist_ok=True)
        folder.rename(self.kept / f"{name}{folder.name[-8:]}")

    def _fresh(self) -> Path:
        """Return a name for a folder of this process. The first time, remove those of processes that are no more."""
        owner = me()
        with self._once:
            if self._process != owner:  # also after a fork
                _sweep(self._folder)
                atexit.register(_sweep, self._folder, own=owner)
                self._process = owner
        return self._folder / f"{_prefix()}{owner.replace(' ', '_')}-{uuid.uuid4().hex}"


def _home(source: Path | None) -> Path:
    poc = find_poc(source) if source else None
    if poc:
        return work_folder(poc, WORLDS)
    folder, fix = Path(tempfile.gettempdir()) / f"poclab-{WORLDS}-{os.getuid()}", "name another one: Sandbox(..., folder=...)"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.lstat().st_uid
    except OSError as error:
        raise unwritable(folder, error, fix) from None
    if owner != os.getuid():  # whoever made it, or the link that it is, could read and replace every world
        raise StoreError(f"{folder}: belongs to another user", fix=fix)
    return folder


def _prefix() -> str:
    # Processes of another machine that shares the folder are not for this one to judge.
    return f"of-{platform.node() or 'here'}-"


def _sweep(folder: Path, own: str = "") -> None:
    """Remove the worlds of processes that are no more; at the end of this one, which `own` names, those that are left of it."""
    for path in folder.glob("of-*"):
        named = re.fullmatch(rf"{re.escape(_prefix())}(\d+_(?:\d+_\w+)?)-[0-9a-f]{{32}}", path.name)
        owner = named[1].replace("_", " ") if named else ""
        if named and (not lives(owner) or owner == own == me()):  # a fork inherits what is to be done at the end
            _remove(path)


def _remove(folder: Path) -> None:
    """Remove a folder whatever a tool did to the rights of what is in it, and however deep it is."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
        if folder.is_dir():
            for root, folders, _ in os.walk(folder):
                for path in (os.path.join(root, name) for name in folders):
                    if not os.path.islink(path):
                        os.chmod(path, 0o700)
            shutil.rmtree(folder, ignore_errors=True)
    if folder.is_dir():  # deeper than Python goes
        subprocess.run(["rm", "-rf", folder], check=False, capture_output=True)


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what each file below a folder holds, as a change tells it. Links are not followed, the folder itself included."""
    paths = [folder] if folder.is_symlink() else sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): _content(path) for path in paths if path.is_symlink() or not path.is_dir()}


def _content(path: Path) -> dict[str, Any]:
    """Return a short text as such, another file by its digest, and of what is no file what it is."""
    try:
        if path.is_symlink():
            return {"link": os.fsencode(os.readlink(path)).decode("utf-8", "replace")}
        if not path.is_file():
            return {"other": "no regular file"}
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            with contextlib.suppress(UnicodeDecodeError):
                if size <= LONGEST_FILE:
                    return {"text": file.read().decode("utf-8")}
            file.seek(0)
            return {"bytes": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        return {"other": f"not readable: {error.strerror}"}


def _file_changes(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> Sequence[Change]:
    differ = sorted(name for name in before.keys() | after if before.get(name) != after.get(name))
    listed, more = differ[:LISTED], len(differ[LISTED:])
    found = [Change("", name.encode("utf-8", "replace").decode(), {}, before.get(name), after.get(name)) for name in listed]
    return [*found, Change(file="files", more=more)] if more else found
