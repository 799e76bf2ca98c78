"""Rehearse a notebook: execute it as a trial is, but its `evaluate` drills the system, or foresees the cost, and records no run.

Which of them, an environment variable of the kernel says (`drills.DRILL`, `projection.PROJECT`), with the folder that takes the result.
When that is written, `evaluate` raises `Rehearsed`, and the notebook ends there.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from poclab import drills, kernels, projection
from poclab.cases import TestSet
from poclab.drills import Drill, keep_drill
from poclab.errors import InputError
from poclab.files import work_folder
from poclab.projection import Projection
from poclab.report import DRILL_FILE
from poclab.zygote import Zygote


def project(
    poc: Path, notebook: Path, parameters: Mapping[str, Any], *, env: Mapping[str, str], zygote: Zygote | None = None
) -> Projection:
    """Return what the evaluation of a notebook with these parameters is going to take.

    Raises:
        InputError: the notebook did not evaluate: what it says.
    """
    with tempfile.TemporaryDirectory(dir=work_folder(poc, "projections")) as folder:
        _execute(poc, notebook, parameters, Path(folder), projection.FILE, {**env, projection.PROJECT: folder}, zygote)
        return Projection.load(Path(folder))


def drill(poc: Path, notebook: Path, parameters: Mapping[str, Any], **options: Any) -> tuple[Drill, Path]:
    """Drill the system that a notebook evaluates with these parameters; return the drill, and the file that keeps it.

    `options` are those of `drills.drill`: seed, cases_per_fault, timeout_s, faults, max_cost_usd.

    Raises:
        InputError: the notebook did not drill: what it says.
    """
    drills.chosen(options.get("faults"))  # before a kernel starts
    with tempfile.TemporaryDirectory(dir=work_folder(poc, "drills")) as folder:
        asked = json.dumps({**options, "folder": folder})
        _execute(poc, notebook, parameters, Path(folder), DRILL_FILE, {drills.DRILL: asked})
        found = Drill.load(Path(folder, DRILL_FILE))
    if found.lock_digest != TestSet.load(poc / "cases.jsonl").digest:
        raise InputError(f"{notebook}: other cases than the frozen ones were drilled", fix="cases.split(split), with cases of TestSet.load")
    return found, keep_drill(poc, found)


def _execute(
    poc: Path,
    notebook: Path,
    parameters: Mapping[str, Any],
    folder: Path,
    result: str,
    env: Mapping[str, str],
    zygote: Zygote | None = None,
) -> None:
    env = {**os.environ, "POCLAB_POC": str(poc), "PYDEVD_DISABLE_FILE_VALIDATION": "1", **env}
    said = execute(notebook, folder / "executed.ipynb", parameters, env=env, cwd=poc, zygote=zygote)
    if not (folder / result).is_file():
        raise InputError(said or f"{notebook}: the notebook evaluates nothing", fix="" if said else "let it call poclab.evaluate once")


def execute(
    notebook: Path, output: Path, parameters: Mapping[str, Any], *, env: Mapping[str, str], cwd: Path, zygote: Zygote | None = None
) -> str:
    """Execute a notebook in such a way that Ctrl-C ends its kernel at once; return what it failed by, empty if it did not."""
    with ThreadPoolExecutor(1) as pool:  # Ctrl-C reaches the main thread, and would break the client's event loop there
        running = pool.submit(kernels.execute, notebook, output, parameters, env=env, cwd=cwd, zygote=zygote)
        try:
            running.result()
        except kernels.NotebookError as failure:
            return failure.message if failure.poclab_error else str(failure)
        except BaseException:
            kernels.kill_running([running])
            raise
    return ""
