"""The record of a sweep: what became of each trial, and what the sweep depended on when it began.

`trials.jsonl` in the POC's work folder is append-only, and the truth: a line is on the disk before its trial counts as done. A driver that
is killed leaves at most half a line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from poclab import tracking
from poclab.drift import State
from poclab.errors import InputError, StoreError
from poclab.files import canonical, parse_json, unwritable
from poclab.redaction import conceal_json, shown
from poclab.results import HAS_RESULT, Record
from poclab.sweeps import Sweep, Trial, file_digests

#: What a sweep depends on, as it was when it began: a `State`.
BEGUN = "begun.json"


class Journal:
    """The records of a sweep in its `folder`, of the runs in one store. `drifted` is what changed since, where that was allowed."""

    def __init__(self, sweep: Sweep, folder: Path, uri: str) -> None:
        self.sweep, self.folder, self.uri = sweep, folder, uri
        self.records = folder / "trials.jsonl"
        #: The ids of runs that were begun, until the driver ends well: the next one closes those that nobody else did.
        self.runs = folder / "runs.txt"
        self.drifted: tuple[str, ...] = ()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the sweep's folder: two drivers would take each other's trials away."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(f"{self.folder}: this sweep is being run already", fix="wait for it, or stop it with Ctrl-C") from None
        try:
            if self.records.exists():  # without the half line that a killed driver left: the next would be appended to it
                os.truncate(self.records, self.records.read_bytes().rfind(b"\n") + 1)
            yield
        finally:
            lock.release()

    def append(self, record: Record) -> None:
        """Write what became of a trial; it is on the disk when this returns."""
        _append(self.records, json.dumps(conceal_json({**vars(record), "store": shown(self.uri)}), ensure_ascii=False))

    def opened(self, run_id: str) -> None:
        """Note that a run was begun."""
        _append(self.runs, run_id)

    def left_open(self) -> list[str]:
        """Return the runs of drivers that were killed, as far as no trial's record names them."""
        begun = self.runs.read_text(encoding="utf-8").split() if self.runs.exists() else []
        recorded = {one["run_id"] for one in self._lines()}
        return [run_id for run_id in begun if run_id not in recorded]

    def begin(self) -> None:
        """Note what the sweep depends on; what had changed and was allowed stays noted as it was."""
        if not self.drifted:
            self._state().save(self.folder / BEGUN)

    def _state(self) -> State:
        space = self.sweep.space
        parameters = [trial.parameters for trial in self.sweep.all_trials] + (space.edges() if space else [])
        files = [file_digests({**self.sweep.defaults, **one}, self.sweep.poc) for one in parameters]
        return State.now(self.sweep.poc, self.sweep.notebook, dict(pair for one in files for pair in one.items()))

    def changed(self) -> tuple[str, ...]:
        """Return what is no longer as it was when the sweep last began; nothing where it never did.

        Raises:
            InputError: another version of poclab began it.
        """
        begun = self.folder / BEGUN
        return tuple(State.load(begun).changes(self._state())) if begun.exists() else ()

    def refuse_drift(self, *, allowed: bool) -> None:
        """Refuse to go on with a sweep of what is no longer as it was when it began, unless that is allowed: then it is noted."""
        if not (self.folder / BEGUN).exists():
            raise InputError(f"{self.folder}: no sweep was begun here", fix="`poclab sweep` begins it")
        self.drifted = self.changed()
        if self.drifted and not allowed:
            raise InputError(
                f"since this sweep began: {'; '.join(self.drifted)}",
                fix="put it back; or `poclab sweep`, which runs again what that changes; or --allow-drift, which mixes the two",
            )

    def known(self, planned: Sequence[tuple[str, Trial]] = ()) -> dict[str, Record]:
        """Return the trials that ended well and whose runs are still in the store, as far as that can be seen without MLflow.

        Those that are `planned` are found by their parameters, too, whatever else changed since.
        """
        if not (records := self._lines()):
            return {}
        held = tracking.run_ids(self.uri)
        ours = [one for one in records if one.pop("store") == shown(self.uri) and one["outcome"] in HAS_RESULT]
        found = {one["trial_id"]: Record(**one) for one in ours if held is None or one["run_id"] in held}
        ids = {canonical(trial.parameters): trial_id for trial_id, trial in planned}
        for record in list(found.values()):
            stem, dash, cases = record.trial_id.partition("-")  # of a screened one the number of its cases
            trial_id = ids.get(canonical(record.parameters), stem) + dash + cases
            found.setdefault(trial_id, dataclasses.replace(record, trial_id=trial_id))
        return found

    def _lines(self) -> list[dict[str, Any]]:
        """Return the records, without a half line at the end: the driver that writes it was killed, or is still at it."""
        whole = self.records.read_bytes().rpartition(b"\n")[0].decode() if self.records.exists() else ""
        return [parse_json(line, where=str(self.records)) for line in whole.split("\n") if line]


def _append(path: Path, line: str) -> None:
    """Write a line; it is on the disk when this returns."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritable(path, error, "make it writable, and run it again") from None
