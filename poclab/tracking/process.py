"""The process that writes to MLflow: takes commands as JSON lines, follows growing records, answers in order.

Started by `poclab.tracking.Recorder` as `python -m poclab.tracking.process`. When its input ends it writes what is left
and closes the runs that were never finished as KILLED: the process that owned them is gone.
"""

from __future__ import annotations

import contextlib
import gc
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

from poclab import redaction
from poclab.errors import PocError, StoreError
from poclab.tracking import queries, store, traces
from poclab.tracking.surroundings import Surroundings

#: Seconds between two looks at records that are still growing.
LOOK = 0.1
#: What MLflow imports when it is there, and its skinny edition does without: a third of the time until a run can begin.
UNUSED = ("pandas", "numpy")
#: Objects between two garbage collections. Python's 700 collects all through the import of 1,800 modules.
COLLECT_EVERY = 50_000


class Follower:
    """Reads whole lines from a file that another process still writes, and writes them as traces in batches."""

    def __init__(self, uri: str, path: Path | None, experiment_id: str, run_id: str, surroundings: Surroundings) -> None:
        self.uri, self.path, self.experiment_id, self.run_id = uri, path, experiment_id, run_id
        self.surroundings = surroundings
        self.offset = 0
        self.pending: list[dict[str, Any]] = []
        self.problem: Exception | None = None

    def look(self) -> None:
        """Follow while the records grow. What goes wrong is told to whoever ends this run; the other runs go on."""
        try:
            if self.problem is None:
                self.follow()
        except Exception as error:  # every backend has its own errors
            self.problem = error

    def follow(self, *, to_the_end: bool = False) -> None:
        """Write every full batch that has come; when nothing new has, or at the end, also the rest."""
        if self.problem is not None:
            raise self.problem
        new = list(self._lines())
        self.pending += new
        ready = len(self.pending) // traces.BATCH * traces.BATCH if new and not to_the_end else len(self.pending)
        if ready:
            batch, self.pending = self.pending[:ready], self.pending[ready:]
            traces.write(self.uri, batch, experiment_id=self.experiment_id, run_id=self.run_id)

    def _lines(self) -> Iterator[dict[str, Any]]:
        if self.path is None or not self.path.exists():
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
        #: The runs that were begun and not ended; one without a folder has nothing to follow.
        self.open: dict[str, Follower] = {}

    def begin(self, uri: str, folder: str | None, poc: str | None, run: dict[str, Any]) -> dict[str, str]:
        """Open the store and a run (or take the given one), and follow the records in `folder`, if there is one."""
        found = store.begin(uri, run)
        if found["run_id"] not in self.open:
            records, surroundings = Path(folder, "records.jsonl") if folder else None, Surroundings.look(Path(poc) if poc else None)
            self.open[found["run_id"]] = Follower(uri, records, found["experiment_id"], found["run_id"], surroundings)
        return found

    def check(self, uri: str, experiment: str) -> None:
        """Refuse a store in which no run of this experiment could begin; it is made if it is empty."""
        store.check(uri, experiment)

    def finish(self, run_id: str, folder: str, end: dict[str, Any], secrets: list[str]) -> dict[str, int]:
        """Write the remaining traces, count them, then the numbers and artifacts, and end the run."""
        for secret in secrets:
            redaction.remember(secret)
        follower = self.open.pop(run_id)
        follower.follow(to_the_end=True)
        stored = traces.count(follower.uri, follower.experiment_id, run_id)
        if stored != end["traces"]:
            store.end(follower.uri, run_id, "FAILED")
            raise StoreError(f"run {run_id}: of {end['traces']} traces {stored} are stored", fix=f"the records are in {folder}")
        artifacts = Path(folder, "artifacts")
        tags = {**end["tags"], **follower.surroundings.write(artifacts)}
        store.finish(follower.uri, run_id, artifacts, {**end, "tags": tags})
        return {"traces": stored}

    def artifacts(self, uri: str, run_id: str, files: dict[str, str]) -> None:
        """Log files, each given with its folder in the run's artifacts."""
        store.log_files(uri, run_id, files)

    def annotate(self, uri: str, run_id: str, tags: dict[str, str]) -> None:
        """Add tags to a run."""
        store.annotate(uri, run_id, tags)

    def alias(self, uri: str, names: list[str], aliases: dict[str, list[str]]) -> None:
        """Let each alias point to the versions of prompts that are given for it, and to no other of these names."""
        store.alias(uri, names, aliases)

    def runs(self, uri: str, experiment: str) -> list[dict[str, Any]]:
        """Return every evaluation of an experiment; the start is a text."""
        return [{**row, "started": row["started"].isoformat()} for row in queries.runs(uri, experiment, every=True)]

    def kill(self, run_id: str) -> None:
        """End a run, unless it has ended: whoever began it does not wait for it."""
        if run_id in self.open:
            self.end(self.open[run_id].uri, run_id, "KILLED")

    def end(self, uri: str, run_id: str, status: str) -> None:
        """End a run that leaves no report; the cases that were answered keep their traces."""
        follower = self.open.pop(run_id, None)
        try:
            if follower:
                follower.follow(to_the_end=True)
        finally:
            store.end(uri, run_id, status)

    def register(self, uri: str, prompt: dict[str, str]) -> str:
        """Register a prompt; return what it is called, or why it is not there."""
        return store.register(uri, prompt)

    def close(self, uri: str, run_ids: list[str]) -> None:
        """End runs of a driver that was killed before it could."""
        store.close(uri, run_ids)

    def abandon(self) -> None:
        """Write what the runs that nobody finished have left, and close them."""
        for run_id, follower in list(self.open.items()):
            try:
                self.end(follower.uri, run_id, "KILLED")
            except Exception:  # nobody is left to be told; the next run is still to be closed
                traceback.print_exc()


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until they end."""
    waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, waiting.put), daemon=True).start()
    commands = Commands()
    while True:
        try:
            line = waiting.get(timeout=LOOK)
        except queue.Empty:
            for follower in commands.open.values():
                follower.look()
            continue
        if line is None:
            commands.abandon()
            return
        answer = json.dumps(_answer(commands, json.loads(line)))
        with contextlib.suppress(BrokenPipeError):  # whoever asked was killed: what is left is still to be written
            answers.write(answer + "\n")
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
        return {"id": request["id"], "error": f"MLflow: {type(error).__name__}: {store.first_line(error)}"}


def import_mlflow() -> None:
    """Import MLflow without the packages that neither runs nor traces have a use for; later imports of them work as ever."""
    os.environ.update(store.SETTINGS)
    sys.modules.update(dict.fromkeys(UNUSED))  # None: to import one raises, as if it were not installed
    import mlflow  # noqa: F401  this module is for those below, which import it where they need it

    for name in UNUSED:
        del sys.modules[name]


def main() -> None:
    """Serve standard input. What libraries print goes to standard error, so that answers stay clean."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(COLLECT_EVERY)
    with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        sys.stdin.reconfigure(encoding="utf-8")
        import_mlflow()
        serve(sys.stdin, answers)
    sys.stderr.flush()
    os._exit(0)  # all is written: MLflow's tidying up would take as long again as writing a hundred traces


if __name__ == "__main__":
    main()
