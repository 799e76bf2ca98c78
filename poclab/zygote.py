"""Warm kernels: a process that has done the imports of a notebook, and forks a kernel for each trial.

Most of what a short notebook takes is imports, which all trials of a sweep repeat. `Zygote` is the driver's end; the process itself is
`python -m poclab.zygote`. It imports, and does nothing else: neither a thread nor a connection survives a fork. When the driver closes
its end, or dies, the kernels are killed with all that they started, and the process ends.

A kernel has an environment, a folder, a session and random numbers of its own, and ends like any Python program, exit handlers included.
What a module reads from the environment while it is imported, it reads from the driver's. Linux only.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: How long, in seconds, all the imports may take, and one fork.
IMPORTING_S, FORKING_S = 120.0, 30.0

log = logging.getLogger("poclab")


class _Failed(Exception):
    """The other process is gone, does not answer, or cannot fork."""


class Zygote:
    """A process that forks kernels, each of which is a `Kernel`. It may be used from many threads."""

    def __init__(self, modules: Sequence[str], env: Mapping[str, str]) -> None:
        self._link, other = socket.socketpair()
        # -P: a file of the current folder may be named like a module.
        command = [sys.executable, "-P", "-m", __name__, str(other.fileno()), *modules]
        with other:
            self._process = subprocess.Popen(
                command, pass_fds=[other.fileno()], env=dict(env), stdin=subprocess.DEVNULL, start_new_session=True
            )
        self._lock = threading.Lock()
        self._rest = bytearray()
        self._ready = self._failed = self._closed = False
        self._exits: dict[int, int] = {}

    def fork(self, command: Sequence[str], env: Mapping[str, str], cwd: str) -> Kernel | None:
        """Return a kernel, as the command would start it; None when that is not to be, and why is logged, once."""
        with self._lock:
            if self._failed:
                return None
            try:
                if [*command[:3]] != [sys.executable, "-m", "ipykernel_launcher"]:
                    raise _Failed(f"the kernel is another program: {' '.join(command[:3])}")
                if not self._ready:
                    self._told("ready", IMPORTING_S)
                    self._ready = True
                _send(self._link, {"arguments": list(command[3:]), "env": dict(env), "cwd": cwd})
                return Kernel(self, self._told("pid", FORKING_S))
            except _Failed as error:
                self._failed = True
                if not self._closed:
                    log.warning("kernels are started, not forked: %s", error)
                return None

    def exit_code(self, pid: int) -> int | None:
        """Return how a kernel ended; None while it runs."""
        with self._lock, contextlib.suppress(_Failed):
            if self._link.fileno() >= 0:
                self._take(0)
        # A zygote that died took its kernels with it.
        return self._exits.get(pid, None if self._process.poll() is None else -signal.SIGKILL)

    def close(self) -> None:
        """End the process, and every kernel that still runs."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)  # whoever waits for an answer wakes up
        if not self._ready:  # it may import for a long time yet
            self._process.kill()
        self._process.wait()
        with self._lock:
            self._failed = True
            self._link.close()

    def _told(self, name: str, seconds: float) -> Any:
        """Return the answer of that name."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for message in self._take(left):
                if name in message:
                    return message[name]
        raise _Failed(f"the process with the imports does not answer in {seconds:g} s")

    def _take(self, seconds: float) -> list[dict[str, Any]]:
        """Return the messages that have come, waiting for the first so many seconds; of those about ended kernels keep note."""
        found = list(_received(self._link, self._rest, seconds))
        self._exits |= {message["exit"]: message["code"] for message in found if "exit" in message}
        if problem := next((message["problem"] for message in found if "problem" in message), ""):
            raise _Failed(problem)
        return found


class Kernel:
    """A forked kernel, as jupyter_client takes a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self.zygote, self.pid = zygote, pid

    def poll(self) -> int | None:
        return self.zygote.exit_code(self.pid)

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


# --- messages: one JSON object per line


def _send(link: socket.socket, message: Mapping[str, Any]) -> None:
    try:
        link.sendall(json.dumps(message).encode() + b"\n")
    except OSError as error:
        raise _Failed(f"the other process is gone: {error}") from None


def _received(link: socket.socket, rest: bytearray, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield the messages that have come, waiting so many seconds for the first; `rest` keeps the beginning of the next."""
    while select.select([link], [], [], seconds)[0]:
        seconds = 0
        try:
            came = link.recv(1 << 16)
        except OSError:
            came = b""
        if not came:
            raise _Failed("the other process is gone")
        rest += came
    *lines, last = bytes(rest).split(b"\n")
    rest[:] = last
    for line in lines:
        yield json.loads(line)


# --- the process itself


def main() -> None:
    """Import what is named, then fork a kernel for each request, until the driver is gone."""
    link = socket.socket(fileno=int(sys.argv[1]))
    _import(sys.argv[2:])
    threads = [one.name for one in threading.enumerate()[1:]]
    with contextlib.suppress(_Failed):  # the driver is gone: so it is below
        _send(link, {"problem": f"an import started a thread: {', '.join(threads)}"} if threads else {"ready": True})
    gc.freeze()
    request = _serve(link)
    if request is not None:
        _be_kernel(**request)


def _import(names: Sequence[str]) -> None:
    # What a module prints, each trial would print; what it raises, each trial will raise.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        for name in names:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _serve(link: socket.socket) -> dict[str, Any] | None:
    """Fork a kernel for each request; return the request in the kernel, and None in the zygote, when the driver is gone."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    kernels: set[int] = set()
    rest = bytearray()
    with contextlib.suppress(_Failed):
        while True:
            if woken in select.select([link, woken], [], [])[0]:
                os.read(woken, 4096)
            for pid, code in _ended(kernels):
                kernels.discard(pid)
                _send(link, {"exit": pid, "code": code})
            for request in _received(link, rest, 0):
                with warnings.catch_warnings():
                    # Python's own threads were looked for; those of OpenBLAS it ends before a fork, and starts again after it.
                    warnings.simplefilter("ignore", DeprecationWarning)
                    pid = os.fork()
                if pid == 0:
                    os.setsid()
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for file in (link.detach(), woken, wake):
                        os.close(file)
                    return request
                kernels.add(pid)
                _send(link, {"pid": pid})
    for pid in kernels:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    return None


def _ended(kernels: set[int]) -> Iterator[tuple[int, int]]:
    for pid in tuple(kernels):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            yield pid, os.waitstatus_to_exitcode(status)


def _be_kernel(arguments: list[str], env: Mapping[str, str], cwd: str) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    sys.argv = ["ipykernel_launcher", *arguments]
    from ipykernel.kernelapp import IPKernelApp

    app = IPKernelApp.instance(parent_handle=os.getppid())  # ends when the zygote does
    app.initialize(arguments)
    app.start()


if __name__ == "__main__":
    main()
