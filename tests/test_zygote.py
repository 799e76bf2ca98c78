"""Kernels that are forked: real processes, through papermill."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from conftest import notebook_of, until
from poclab.kernels import NotebookError, execute
from poclab.zygote import Zygote

KERNEL = ("ipykernel.ipkernel", "ipykernel.kernelapp")
TELL = """import atexit, json, os, pathlib, random, sys
import numpy
numbers = [random.random(), numpy.random.random()]
told = {"x": x, "mine": os.environ.get("MINE"), "cwd": os.getcwd(), "parent": os.getppid(), "session": os.getsid(0) == os.getpid()}
print(json.dumps(told | {"numbers": numbers, "early": "made_for_this" in sys.modules, "argv": sys.argv[0]}))
atexit.register(lambda: pathlib.Path(f"ended {x}").touch())"""


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Return a function that starts a zygote with modules of `tmp_path / "lib"`; all end with the test."""
    made = []
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))

    def start_zygote(*modules):
        made.append(Zygote([*KERNEL, *modules], os.environ))
        return made[-1]

    yield start_zygote
    for zygote in made:
        zygote.close()


@pytest.fixture
def run(tmp_path):
    """Return a function that executes a notebook of one cell with `x`, and returns what it printed."""

    def run_notebook(source, zygote, x=1, **env):
        notebook, output = tmp_path / f"{x}.ipynb", tmp_path / f"{x} executed.ipynb"
        notebook.write_text(json.dumps(notebook_of(("x: int = 0", "parameters"), source)))
        execute(notebook, output, {"x": x}, env={**os.environ, **env}, cwd=tmp_path, zygote=zygote)
        cells = json.loads(output.read_text())["cells"]
        return "".join("".join(one.get("text", "")) for cell in cells for one in cell.get("outputs", ()))

    return run_notebook


def module(tmp_path, source):
    (tmp_path / "lib").mkdir(exist_ok=True)
    (tmp_path / "lib" / "made_for_this.py").write_text(source)
    return "made_for_this"


def gone(pid):
    """Tell whether a process has ended; one that nobody has waited for counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_forked_kernel_is_a_kernel_of_its_own(start, run, tmp_path):
    """With the imports done: its own environment, folder, session and random numbers, and exit handlers that run."""
    zygote = start("numpy", module(tmp_path, "print('imported')"))
    first, second = (json.loads(run(TELL, zygote, x, MINE=f"of {x}")) for x in (1, 2))

    assert [one["x"] for one in (first, second)] == [1, 2]
    assert [one["mine"] for one in (first, second)] == ["of 1", "of 2"]
    assert first["numbers"][0] != second["numbers"][0] and first["numbers"][1] != second["numbers"][1]
    assert all(one["early"] and one["session"] and one["cwd"] == str(tmp_path) for one in (first, second))
    assert first["parent"] == second["parent"] != os.getpid()
    assert all((tmp_path / f"ended {x}").exists() for x in (1, 2))
    assert "MINE" not in os.environ


def test_an_import_that_starts_a_thread_is_not_forked(start, run, tmp_path, caplog):
    """A thread does not survive a fork, and who waits for it waits for ever; the trial runs all the same, and why is said once."""
    zygote = start(module(tmp_path, "import threading\nthreading.Thread(target=threading.Event().wait, name='busy', daemon=True).start()"))
    told = [json.loads(run(TELL, zygote, x)) for x in (1, 2)]

    assert [one["parent"] for one in told] == [os.getpid()] * 2
    assert [one.message for one in caplog.records] == ["kernels are started, not forked: an import started a thread: busy"]


@pytest.mark.parametrize("source", ["raise RuntimeError('no licence')", "print('a' * 100_000)", "import os\nos.close(1)"])
def test_an_import_that_misbehaves_is_for_the_trial_to_tell(start, run, tmp_path, source):
    """The zygote goes on without it."""
    zygote = start(module(tmp_path, source))

    assert json.loads(run(TELL, zygote))["parent"] != os.getpid()


@pytest.mark.parametrize("source", ["raise SystemExit(3)", "import os\nos._exit(3)"])
def test_an_import_that_ends_the_process_leaves_kernels_that_are_started(start, run, tmp_path, source, caplog):
    """Nothing hangs, and nothing is lost."""
    zygote = start(module(tmp_path, source))

    assert json.loads(run(TELL, zygote))["parent"] == os.getpid()
    assert [one.message for one in caplog.records] == ["kernels are started, not forked: the other process is gone"]


def test_a_killed_kernel_is_a_dead_one_and_the_next_is_forked(start, run):
    """As if it had been started."""
    zygote = start()
    with pytest.raises(NotebookError, match="died"):
        run("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", zygote)

    assert json.loads(run(TELL, zygote, 2))["parent"] != os.getpid()


def test_a_killed_zygote_takes_its_kernels_along_and_the_next_is_started(start, run):
    """The trial fails, and the sweep goes on."""
    zygote = start()
    with pytest.raises(NotebookError, match="died"):
        run("import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(60)", zygote)

    assert json.loads(run(TELL, zygote, 2))["parent"] == os.getpid()


def test_closing_ends_what_runs_and_does_not_wait_for_imports(start, tmp_path):
    """Ctrl-C while a large library is being imported, by whoever waits for the first kernel."""
    zygote = start(module(tmp_path, "import time\ntime.sleep(60)"))
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "none"]
    found = []
    waiting = threading.Thread(target=lambda: found.append(zygote.fork(command, os.environ, str(tmp_path))))
    waiting.start()
    time.sleep(0.2)
    began = time.monotonic()
    zygote.close()
    waiting.join()

    assert (found, time.monotonic() - began < 30) == ([None], True)


def test_a_killed_driver_leaves_no_process(tmp_path):
    """Neither the zygote, nor a kernel that hangs, nor what that one has started."""
    notebook = tmp_path / "hangs.ipynb"
    cell = "import os, pathlib, subprocess\nchild = subprocess.Popen(['sleep', '300'])\n"
    cell += "pathlib.Path('pids').write_text(f'{os.getppid()} {os.getpid()} {child.pid} ')\nchild.wait()"
    notebook.write_text(json.dumps(notebook_of(("x: int = 0", "parameters"), cell)))
    driver = (
        "import os, pathlib, sys\nfrom poclab import kernels, zygote\nfolder = pathlib.Path(sys.argv[1])\n"
        f"warm = zygote.Zygote({KERNEL}, os.environ)\n"
        "kernels.execute(folder / 'hangs.ipynb', folder / 'out.ipynb', {}, env=os.environ, cwd=folder, zygote=warm)"
    )
    process = subprocess.Popen([sys.executable, "-c", driver, str(tmp_path)])
    pids = until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().split(), "the cell hangs")
    assert not any(gone(pid) for pid in pids)
    process.send_signal(signal.SIGKILL)
    process.wait()

    until(lambda: all(gone(pid) for pid in pids), "all of them are gone")
