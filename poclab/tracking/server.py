"""MLflow's own UI for a POC's store: a server on loopback, and where it is."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from poclab.errors import StoreError
from poclab.redaction import shown

HOST = "127.0.0.1"
PORT = 5000
STARTS_WITHIN_S = 120
#: MLflow's Assistant has a shell, and reads traces, which hold the texts of strangers: in Docker or not at all, unless somebody says otherwise.
GUARDS = {"MLFLOW_ENABLE_ASSISTANT_SANDBOX": "true"}


def base_of(uri: str) -> str:
    """Return where the UI of a store is: its own server, else where `poclab ui` serves it."""
    return shown(uri).rstrip("/") if uri.startswith("http") else f"http://{HOST}:{PORT}"


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
    env = {**GUARDS, **os.environ, **SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": uri}
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
