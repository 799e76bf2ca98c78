"""The papermill engine: a kernel of its own for each notebook, with its environment and its folder, and an end that is told as it was.

papermill's own engine takes environment and folder from this process, and marks a cell as completed that took too long, or whose kernel
died. It finds this one by its entry point, in `papermill --engine poclab` too, while it is imported itself: whoever needs this module
imports papermill first. `kernels` executes notebooks with it.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import logging
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

from jupyter_client.provisioning import LocalProvisioner
from jupyter_core.utils import ensure_event_loop, run_sync
from nbclient.exceptions import CellExecutionError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine
from papermill.iorw import write_ipynb

from poclab import redaction
from poclab.zygote import Zygote

#: Those who manage the kernels of this process, and where the notebook of each is kept.
_running: dict[Any, str | None] = {}
#: How long, in seconds, a kernel that has done its work has to say which keys it used; and one that went on beyond its time.
TELLING_S, LATE_TELLING_S = 5, 1

log = logging.getLogger("poclab.notebook")


class TookTooLong(Exception):
    """A cell did not end in its time, or within that of its notebook."""


class Client(PapermillNotebookClient):
    """papermill's own client, with a time limit for all cells together, and true words about the cell that was the last.

    At the end it takes from the kernel which keys its notebook used: what is kept of it must not show them.
    """

    def limit(self, cell_s: float | None, all_s: float | None) -> None:
        """End a cell, and all of them together, after so many seconds; without either, never."""
        until = time.monotonic() + (all_s or math.inf)

        def seconds(cell: Any) -> float:
            left_s = until - time.monotonic()
            self.told = f"no end after {all_s:g} s" if left_s < (cell_s or math.inf) else f"a cell without an end after {cell_s:g} s"
            return max(min(left_s, cell_s or math.inf), 0.001)

        if cell_s or all_s:
            self.interrupt_on_timeout, self.error_on_timeout = True, {"ename": "TimeoutError", "evalue": "", "traceback": []}
            self.timeout_func = seconds

    async def _async_handle_timeout(self, timeout: float, cell: Any = None) -> Any:
        self.late = self.told
        return await super()._async_handle_timeout(timeout, cell)

    def papermill_execute_cells(self) -> None:
        self.late = ""
        try:
            for index, cell in enumerate(self.nb.cells):
                if not self._ended_well(index, cell):
                    break
        finally:
            with contextlib.suppress(Exception):  # a kernel that died, or hangs, has none to tell
                if run_sync(self.km.is_alive)():
                    for secret in run_sync(_secrets_of)(self.kc, LATE_TELLING_S if self.late else TELLING_S):
                        redaction.remember(secret)

    def _ended_well(self, index: int, cell: Any) -> bool:
        """Execute a cell. One that fails by its own error is for papermill to tell, by its output."""
        self.nb_man.cell_start(cell, index)
        try:
            self.execute_cell(cell, index)
            error = None
        except Exception as raised:
            error = raised
        if self.late:  # whatever it answered to the interrupt
            self.shutdown_kernel = "immediate"  # it may not hear a request
            error = TookTooLong(self.late)
        if error:
            self.nb_man.cell_exception(cell, index, exception=error)
        self.nb_man.cell_complete(cell, cell_index=index)
        if error and not isinstance(error, CellExecutionError):
            error.cell = index + 1
            raise error
        return error is None


class Provisioner(LocalProvisioner):
    """jupyter_client's own way to start a kernel, for when none can be forked."""

    def __init__(self, zygote: Zygote, **given: Any) -> None:
        super().__init__(kernel_spec=given["parent"].kernel_spec, **given)
        self.zygote = zygote

    async def launch_kernel(self, cmd: list[str], **given: Any) -> Any:
        self.process = self.zygote.fork(cmd, given["env"], given["cwd"])
        if self.process is None:
            return await super().launch_kernel(cmd, **given)
        self.pid = self.pgid = self.process.pid
        self.cwd = given["cwd"]
        return self.connection_info


class Engine(NBClientEngine):
    """papermill's engine; environment and folder are the kernel's, and not those of this process.

    `execution_timeout` is papermill's, for each cell; the options of `kernels` are `kernel_env`, `kernel_cwd`, `kernel_timeout_s` for all
    cells together, `kernel_output`, where a notebook that came to no end is kept, too, and `kernel_zygote`, which forks the kernel if it can.
    """

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        *,
        start_timeout: float = 120,
        execution_timeout: float | None = None,
        kernel_env: dict[str, str] | None = None,
        kernel_cwd: str | None = None,
        kernel_output: str | None = None,
        kernel_timeout_s: float | None = None,
        kernel_zygote: Zygote | None = None,
        **options: Any,
    ) -> Any:
        shown = {name: options[name] for name in ("log_output", "stdout_file", "stderr_file") if name in options}
        quiet = ["--IPKernelApp.log_level=CRITICAL"]
        client = Client(
            nb_man, kernel_name=kernel_name, timeout=None, startup_timeout=start_timeout, extra_arguments=quiet, log=_log(shown), **shown
        )
        client.limit(execution_timeout, kernel_timeout_s)
        sockets = tempfile.mkdtemp(prefix="poclab-")
        manager = client.create_kernel_manager()
        if sys.platform != "win32":  # a port that is free now may be taken by another program when the kernel starts
            manager.transport, manager.connection_file = "ipc", f"{sockets}/kernel.json"
        if kernel_zygote:
            manager.provisioner = Provisioner(kernel_zygote, parent=manager)
        loop = ensure_event_loop()
        _running[manager] = kernel_output
        try:
            return client.execute(env=os.environ.copy() if kernel_env is None else kernel_env, cwd=kernel_cwd)
        except Exception as error:  # papermill keeps what ended, or failed by the error of a cell
            if not nb_man.nb.metadata.papermill["exception"] and nb_man.nb.cells:  # no kernel: none of the cells was executed
                nb_man.cell_exception(nb_man.nb.cells[0], 0, exception=error)
            if kernel_output:
                write_ipynb(nb_man.nb, kernel_output)
            raise
        finally:
            _kill(manager)  # and what a kernel left behind that died
            _running.pop(manager, None)
            shutil.rmtree(sockets, ignore_errors=True)
            if not loop.is_running():
                _end(loop)


def kill_running(work: Collection[Future[Any]]) -> None:
    """Kill the kernels that this process executes notebooks in, with all that they started, until the threads that wait for them end."""
    while any(future.running() for future in work):
        for output in tuple(_running.values()):
            kill(output)
        time.sleep(0.1)  # and again: one may just be starting


def kill(output: str | None) -> None:
    """Kill the kernel of the notebook that is kept there, with all that it started, if it has one just now."""
    for manager in [one for one, kept in tuple(_running.items()) if kept == output]:
        _kill(manager)


def _kill(manager: Any) -> None:
    pid = getattr(manager.provisioner, "pgid", None)
    if pid:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left in the group; macOS says so by the second
            os.killpg(pid, signal.SIGKILL)  # jupyter_client starts each kernel in a session of its own


def _log(shown: dict[str, Any]) -> logging.Logger:
    """Return where the client logs to: papermill's log if outputs are to be shown there, else nowhere: the error says what went wrong."""
    if shown.get("log_output"):
        return logging.getLogger("papermill")
    log.setLevel(logging.CRITICAL)
    return log


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """Close an event loop, and first what a killed kernel left on it, which would complain."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.close()


async def _secrets_of(kernel: Any, seconds: float) -> list[str]:
    """Return the keys that are known to the poclab in a kernel, if it has one."""
    # As a text: of a long list IPython shows the beginning.
    known = "__import__('json').dumps(__import__('sys').modules['poclab.redaction'].secrets())"
    asked = kernel.execute("", silent=True, store_history=False, user_expressions={"known": known})
    while (reply := await kernel.get_shell_msg(timeout=seconds))["parent_header"].get("msg_id") != asked:
        pass
    found = reply["content"]["user_expressions"]["known"]
    return json.loads(ast.literal_eval(found["data"]["text/plain"])) if found["status"] == "ok" else []
