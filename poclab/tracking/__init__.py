"""Record evaluations in MLflow from a process of its own, so that the one that answers cases never waits for a database.

The evaluating process writes a folder: `artifacts/`, with the report at last, and `records.jsonl`, one line per case as it
ends; in a trial also `begin.json`, for the sweep that owns the run. A recorder process, which alone imports MLflow here, follows the records while
they grow and writes runs and traces in bulk. When either process dies, the folder still holds everything.

    tracking   the client side: light, knows no MLflow     process    the recorder process and its commands
    store      runs, metrics, prompts, artifacts           traces     traces in bulk
    surroundings   git, packages and platform              queries    reading runs back
    notes    descriptions of runs   routes     addresses in MLflow's UI     server     `poclab ui`
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from poclab.errors import StoreError
from poclab.redaction import conceal, shown

SQLITE = "sqlite:///"
SQLITE_HEADER = b"SQLite format 3\x00"
DATABASE = "mlflow.db"
FIX = "unset it, or use sqlite:////absolute/path/mlflow.db"


def tracking_uri(poc: Path | None) -> str | None:
    """Return the address of the MLflow store: `MLFLOW_TRACKING_URI`, else the POC's own database; None without either."""
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if named and named.startswith(SQLITE) and not named.startswith((SQLITE + "/", SQLITE + ":memory:")):
        return SQLITE + str(Path(named.removeprefix(SQLITE)).resolve())
    return named or (SQLITE + str(poc.resolve() / DATABASE) if poc else None)


def check_store(uri: str) -> None:
    """Refuse a store that cannot work before any case is answered: what can be seen without MLflow.

    Raises:
        StoreError: a file that is no SQLite database, a database or folder that cannot be written, a server out of reach.
    """
    if uri.startswith("databricks"):
        raise StoreError(f"MLFLOW_TRACKING_URI={shown(uri)}: poclab does not record in Databricks", fix=FIX)
    if "://" not in uri or uri.startswith("file:"):
        raise StoreError(f"MLFLOW_TRACKING_URI={shown(uri)}: a folder cannot hold traces", fix=FIX)
    if uri.startswith(("http://", "https://")):
        _check_server(uri)
    elif uri.startswith("sqlite"):
        _check_database(uri)


def _check_database(uri: str) -> None:
    name = uri.partition(":///")[2]
    path = Path(name)
    if path.name in ("", ":memory:"):
        raise StoreError(f"MLFLOW_TRACKING_URI={uri}: a database in memory ends with the process that writes it", fix=FIX)
    if "?" in name or urllib.parse.unquote(name) != name:
        # SQLAlchemy would open a file of another name, and MLflow make a folder of this one.
        raise StoreError(
            f"{path}: the address of a database cannot hold `?`, nor `%` and two digits",
            fix="rename the folder, or set MLFLOW_TRACKING_URI",
        )
    if path.is_dir():
        raise StoreError(f"{path}: a folder, expected an MLflow database file", fix="unset MLFLOW_TRACKING_URI, or name a file")
    try:
        if path.exists():
            with path.open("r+b") as file:
                header = file.read(len(SQLITE_HEADER))
            if header and header != SQLITE_HEADER:
                raise StoreError(
                    f"{path}: not an SQLite database", fix=f"move it away (`mv {path.name} {path.name}.old`); a new one is made"
                )
        else:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}", fix="make it writable, or set MLFLOW_TRACKING_URI") from None


def run_ids(uri: str) -> set[str] | None:
    """Return the ids of the runs in a local database, without the deleted ones; None for a store that only MLflow can ask."""
    if not uri.startswith(SQLITE):
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"file:{uri.removeprefix(SQLITE)}?mode=ro", uri=True)) as database:
            return {run_id for (run_id,) in database.execute("select run_uuid from runs where lifecycle_stage = 'active'")}
    except sqlite3.Error:  # no database, or none of MLflow's
        return set()


def _check_server(uri: str) -> None:
    import urllib.request

    try:
        url = urllib.parse.urlsplit(uri)
        # MLflow itself would try for minutes. Behind a proxy only MLflow can tell whether the server is there.
        if url.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(url.hostname or ""):
            return
        socket.create_connection((url.hostname or "", url.port or (443 if url.scheme == "https" else 80)), timeout=10).close()
    except (OSError, ValueError) as error:
        reason = error if isinstance(error, OSError) else "it is no address"  # the error of a wrong one may quote a password
        raise StoreError(
            f"MLFLOW_TRACKING_URI={shown(uri)}: no server answers there: {reason}", fix="start `mlflow server`, or unset it"
        ) from None


class Recorder:
    """The recorder process, seen from the process that evaluates. Commands are answered in the order they were sent."""

    def __init__(self) -> None:
        # The child's words go to a file: a pipe that nobody empties would stop it.
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "poclab.tracking.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            encoding="utf-8",
            # Out of the terminal's process group: after Ctrl-C it still has to write what was answered.
            start_new_session=True,
        )
        self.owner = os.getpid()
        os.register_at_fork(after_in_child=self._let_go)
        self._lock = threading.Lock()
        self._open: dict[int, Future[Any]] = {}
        self._sent = 0
        threading.Thread(target=self._listen, daemon=True, name="poclab-recorder").start()

    def send(self, command: str, **arguments: Any) -> Future[Any]:
        """Send a command and return its answer to come; the answer raises `StoreError` when the command failed."""
        answer: Future[Any] = Future()
        with self._lock:
            self._sent += 1
            self._open[self._sent] = answer
            line = json.dumps({"id": self._sent, "command": command, "arguments": arguments})
            try:
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()
            except (OSError, ValueError):
                self._open.pop(self._sent)
                answer.set_exception(self._ended())
        return answer

    def _let_go(self) -> None:
        # The recorder ends when its input does: a child that was forked off must not hold it open. Raw: no byte is written here.
        self._process.stdin.buffer.raw.close()

    @property
    def alive(self) -> bool:
        return self.owner == os.getpid() and self._process.poll() is None

    def close(self) -> None:
        """Let the process finish what it was told and end."""
        if self.owner == os.getpid():
            try:
                self._process.stdin.close()
                self._process.wait(timeout=60)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()
            self._words.close()

    def _listen(self) -> None:
        try:
            for line in self._process.stdout:
                self._answer(json.loads(line))
        except ValueError:
            pass  # closed on our side, or the process ended in the middle of a line
        with self._lock:
            lost, self._open = self._open, {}
        for answer in lost.values():
            answer.set_exception(self._ended())

    def _answer(self, message: dict[str, Any]) -> None:
        with self._lock:
            answer = self._open.pop(message["id"])
        if "error" in message:
            answer.set_exception(StoreError(message["error"], fix=message.get("fix", "")))
        else:
            answer.set_result(message["result"])

    def _ended(self) -> StoreError:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        # A process that was killed had no time for last words.
        words = "" if code is not None and code < 0 else self._last_words()
        return StoreError(f"the process that writes to MLflow ended (exit code {code}){words}")

    def _last_words(self) -> str:
        try:
            size = self._words.seek(0, os.SEEK_END)
            self._words.seek(max(0, size - 20_000))
            said = cause(self._words.read().decode("utf-8", "replace"))
        except ValueError:
            return ""
        return f": {said}" if said else ""


def cause(words: str) -> str:
    """Return the line that names the last error in what a process said, else its last line, without keys.

    SQLAlchemy's errors go on with the statement and a link.
    """
    lines = conceal(words).strip().splitlines() or [""]
    return ([line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)] or lines)[-1][:300]


_recorder: Recorder | None = None
_starting = threading.Lock()


def recorder() -> Recorder:
    """Return this process's recorder; the first call starts it, and it stays warm for later evaluations."""
    global _recorder
    with _starting:
        if _recorder is None or not _recorder.alive:
            _recorder = Recorder()
            atexit.register(_recorder.close)
        return _recorder
