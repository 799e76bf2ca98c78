"""The process that writes to MLflow: takes commands as JSON lines, follows growing records, answers in order.

Started by `poclab.tracking.Recorder` as `python -m poclab.tracking.recorder`. When its input ends it writes what is left
and closes the runs that were never finished as KILLED: the process that owned them is gone.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from poclab.errors import PocError, StoreError
from poclab.tracking import store, surroundings, traces

#: Seconds between two looks at records that are still growing.
LOOK = 0.1


class Follower:
    """Reads whole lines from a file that another process still writes, and writes them as traces in batches."""

    def __init__(self, path: Path, experiment_id: str, run_id: str) -> None:
        self.path, self.experiment_id, self.run_id = path, experiment_id, run_id
        self.offset = self.written = 0
        self.pending: list[dict[str, Any]] = []

    def follow(self, *, to_the_end: bool = False) -> None:
        """Write every full batch that has come; at the end also the rest."""
        self.pending += self._lines()
        ready = len(self.pending) if to_the_end else len(self.pending) // traces.BATCH * traces.BATCH
        if ready:
            batch, self.pending = self.pending[:ready], self.pending[ready:]
            traces.write(batch, experiment_id=self.experiment_id, run_id=self.run_id)
            self.written += ready

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # the rest of the line is still to come
                self.offset += len(line)
                yield json.loads(line)


class Commands:
    """What the recorder can be told to do; the name of each method is the command."""

    def __init__(self) -> None:
        self.followed: dict[str, Follower] = {}

    def begin(self, uri: str, folder: str | None, run: dict[str, Any]) -> dict[str, str]:
        """Open the store and a run (or take the given one), and follow the records in `folder`, if there is one."""
        found = store.begin(uri, run)
        if folder:
            follower = Follower(Path(folder, "records.jsonl"), found["experiment_id"], found["run_id"])
            self.followed.setdefault(found["run_id"], follower)
        return found

    def finish(self, run_id: str, folder: str, poc: str | None, end: dict[str, Any]) -> dict[str, int]:
        """Write the remaining traces, count them, then the numbers and artifacts, and end the run."""
        follower = self.followed.pop(run_id)
        follower.follow(to_the_end=True)
        stored = traces.count(follower.experiment_id, run_id)
        if stored != follower.written:
            store.end(run_id, "FAILED")
            raise StoreError(
                f"run {run_id}: {follower.written} traces were written and {stored} are stored", fix=f"the records are in {folder}"
            )
        tags = surroundings.record(Path(folder, "artifacts"), Path(poc) if poc else None)
        store.finish(run_id, Path(folder, "artifacts"), {**end, "tags": {**end["tags"], **tags}})
        return {"traces": stored}

    def artifacts(self, run_id: str, files: dict[str, str]) -> None:
        """Log files, each given with its folder in the run's artifacts."""
        store.log_files(run_id, files)

    def annotate(self, run_id: str, tags: dict[str, str], metrics: dict[str, float]) -> None:
        """Add tags and metrics to a run."""
        store.annotate(run_id, tags, metrics)

    def end(self, run_id: str, status: str) -> None:
        """End a run that leaves no report."""
        self.followed.pop(run_id, None)
        store.end(run_id, status)

    def abandon(self) -> None:
        """Write what the runs that nobody finished have left, and close them."""
        for run_id, follower in list(self.followed.items()):
            follower.follow(to_the_end=True)
            self.end(run_id, "KILLED")


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until they end."""
    waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, waiting.put), daemon=True).start()
    commands = Commands()
    while True:
        try:
            line = waiting.get(timeout=LOOK)
        except queue.Empty:
            for follower in commands.followed.values():
                follower.follow()
            continue
        if line is None:
            commands.abandon()
            return
        answers.write(json.dumps(_answer(commands, json.loads(line))) + "\n")
        answers.flush()


def _read(requests: TextIO, put: Callable[[str | None], None]) -> None:
    for line in requests:
        put(line)
    put(None)


def _answer(commands: Commands, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"id": request["id"], "result": getattr(commands, request["command"])(**request["arguments"])}
    except PocError as error:
        return {"id": request["id"], "error": error.message, "fix": error.fix}
    except Exception as error:  # the process boundary: the reason goes to whoever asked, the traceback to the log
        traceback.print_exc()
        return {"id": request["id"], "error": f"MLflow: {type(error).__name__}: {error}"}


def main() -> None:
    """Serve standard input. What libraries print goes to standard error, so that answers stay clean."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        sys.stdin.reconfigure(encoding="utf-8")
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
