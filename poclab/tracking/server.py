"""MLflow's own UI for a POC's store: a server on loopback, and the addresses in it that a person looks for."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from poclab.errors import StoreError
from poclab.redaction import shown

HOST = "127.0.0.1"
PORT = 5000
STARTS_WITHIN_S = 120


def links(base: str, experiment_id: str, ranked: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the addresses by what they show; the side-by-side view needs two runs."""
    # The page of evaluation runs shows the trials of a sweep; that of all runs hides them below their parent.
    runs = f"{base}/#/experiments/{experiment_id}/evaluation-runs"
    found = {"runs": runs, "chart": f"{runs}?viewMode=charts", "traces": f"{base}/#/experiments/{experiment_id}/traces"}
    if len(ranked) > 1:
        best, second = ranked[0]["run_id"], ranked[1]["run_id"]
        found["the two best, case by case"] = side_by_side(base, experiment_id, best, second)
    return found


def side_by_side(base: str, experiment_id: str, run_id: str, other: str) -> str:
    """Return the address at which two runs are shown case by case."""
    return f"{base}/#/experiments/{experiment_id}/evaluation-runs?selectedRunUuid={run_id}&compareToRunUuid={other}"


def base_of(uri: str) -> str:
    """Return where the UI of a store is: its own server, else where `poclab ui` serves it."""
    return shown(uri).rstrip("/") if uri.startswith("http") else f"http://{HOST}:{PORT}"


def best_of_each_version(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the newest run of each version on the dev split of the newest lock, the highest accuracy first."""
    dev = [row for row in rows if row["tags"].get("split") == "dev" and "accuracy" in row["metrics"]]
    newest = {row["tags"].get("version"): row for row in dev if row["tags"].get("lock") == dev[-1]["tags"].get("lock")}
    return sorted(newest.values(), key=lambda row: -row["metrics"]["accuracy"])


def check_port(port: int) -> None:
    """Raise a `StoreError` when another program listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise StoreError(f"port {port} is taken", fix=f"`poclab ui --port {port + 1}`") from None


@contextlib.contextmanager
def serve(uri: str, poc: Path, port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run `mlflow server` on loopback and yield its address once it answers; it ends with the block.

    Raises:
        StoreError: the server does not come up.
    """
    from poclab.tracking.store import SETTINGS

    place = ["--default-artifact-root", (poc / "mlartifacts").as_uri()]
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1", *place]
    # The address may hold a password, and command lines are there for everybody to see.
    env = {**os.environ, **SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": uri}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        base = f"http://{HOST}:{port}"
        _wait_for(base, process)
        yield base, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _wait_for(base: str, process: subprocess.Popen[bytes]) -> None:
    # A loopback address must not be asked through a proxy that the environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StoreError(f"`mlflow server` ended with exit code {process.returncode}", fix="run it by hand to see why: mlflow server")
        with contextlib.suppress(OSError), opener.open(f"{base}/health", timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise StoreError(f"`mlflow server` did not answer at {base} within {STARTS_WITHIN_S} s")
