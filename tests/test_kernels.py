import json
import os
import subprocess
import sys

import pytest

from conftest import notebook_of
from poclab.errors import InputError
from poclab.kernels import NotebookError, Parameter, check_parameters, execute, read_parameters


@pytest.fixture
def write(tmp_path):
    def write_notebook(*cells):
        path = tmp_path / "notebook.ipynb"
        path.write_text(json.dumps(notebook_of(*cells)))
        return path

    return write_notebook


def test_parameters_are_read_from_the_source_without_running_it(write):
    """Names, types and defaults, in order; also a default with `=` in it, and a source given as lines."""
    source = [
        "# what it takes\n",
        "a: str = 'x=y'  # a comment\n",
        "b: int | None = None\n",
        "c = [1, 2]\n",
        "d: 'Path' = 'x'\n",
        "e: float = -1\n",
    ]
    path = write("raise SystemExit('not to be run')", (source, "parameters"))

    assert list(read_parameters(path).values()) == [
        Parameter("a", ("str",), "x=y"),
        Parameter("b", ("int", "None"), None),
        Parameter("c", (), [1, 2]),
        Parameter("d", (), "x"),
        Parameter("e", ("float",), -1),
    ]


@pytest.mark.parametrize("number", [0, 2])
def test_a_notebook_has_exactly_one_parameters_cell(write, number):
    """Without one papermill runs the defaults; of two it takes the first."""
    with pytest.raises(InputError, match=f"{number} cells are tagged `parameters`, expected exactly one"):
        read_parameters(write("x = 1", *[("a = 1", "parameters")] * number))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a = 1\nimport os", "holds 'import os'"),
        ("a, b = 1, 2", "holds 'a, b = "),
        ("a: int", "holds 'a: int'"),
        ("a += 1", "holds"),
        ("print(1)", "holds"),
        ("a.b = 1", "holds"),
        ("a = b = 1", "holds 'a = b = 1'"),
        ("a = 2 * 3", "the default of 'a' is computed"),
        ("a = open('x')", "the default of 'a' is computed"),
        ("a = {[]: 1}", "the default of 'a' is computed"),
        ("a = ", r"not Python: .* \(its line 1\)"),
        ("a = '\ud800'", "not Python: .*surrogates not allowed"),
        ("a = " + "-" * 100_000 + "1", "not Python: nested too deeply"),
    ],
)
def test_a_line_that_is_no_parameter_is_refused(write, source, message):
    """One `name: type = default` a line, nothing else."""
    with pytest.raises(InputError, match=message):
        read_parameters(write((source, "parameters")))


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"cells": 1}', '{"cells": [1]}', '{"cells": [{"metadata": null}]}', '{"cells": [{"metadata": {"tags": null}}]}'],
)
def test_a_file_that_is_no_notebook_is_refused(tmp_path, content):
    """No traceback for a wrong file."""
    path = tmp_path / "notebook.ipynb"
    path.write_text(content)
    with pytest.raises(InputError):
        read_parameters(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nbformat": 3}, "not a notebook of format 4\n  fix: open it in JupyterLab"),
        ({"nbformat": None}, "not a notebook of format 4"),
        ({"metadata": None}, "not a notebook of format 4"),
        ({"metadata": {"kernelspec": {"name": "julia-1.11", "language": "julia"}}}, "a notebook in 'julia'"),
        ({"metadata": {"language_info": {"name": "R"}}}, "a notebook in 'R'"),
        ({"cells": [{"cell_type": "code", "metadata": {"tags": ["parameters"]}}]}, "not a notebook of format 4"),
        ({"cells": [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": None}]}, "not a notebook of format 4"),
        ({"cells": [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": [1]}]}, "not a notebook of format 4"),
        ({"cells": [{"cell_type": "markdown", "metadata": {"tags": ["parameters"]}, "source": "a = 1"}]}, "0 cells are tagged"),
    ],
)
def test_a_notebook_that_could_not_run_is_refused_before_a_kernel_starts(tmp_path, change, message):
    """papermill ends in a traceback, or runs another language's notebook in Python with the defaults."""
    path = tmp_path / "notebook.ipynb"
    path.write_text(json.dumps({**notebook_of(("a = 1", "parameters")), **change}))
    with pytest.raises(InputError, match=message):
        read_parameters(path)


@pytest.mark.parametrize("value", [(1, 2), {1}, float("nan"), float("inf"), b"x", {1: 2}, object()])
def test_a_value_that_is_not_json_is_refused(value):
    """papermill would turn it into a text, or write a notebook that is not JSON."""
    with pytest.raises(InputError, match="is not a JSON value"):
        check_parameters({"a": value}, {"a": Parameter("a", (), None)}, where="here")


@pytest.mark.parametrize(
    ("types", "value", "fits"),
    [
        (("int",), 1, True),
        (("int",), True, False),
        (("int",), 1.0, False),
        (("float",), 1, True),
        (("float",), True, False),
        (("bool",), True, True),
        (("bool",), 1, False),
        (("str",), 1, False),
        (("int", "None"), None, True),
        (("list",), [1], True),
        (("dict",), {"a": 1}, True),
        ((), "anything", True),
    ],
)
def test_a_value_has_the_type_that_the_notebook_names(types, value, fits):
    """A bool is an int in Python, but `chunk_size: true` is a mistake; a whole number is a float."""
    known = {"a": Parameter("a", types, None)}
    if fits:
        check_parameters({"a": value}, known, where="here")
    else:
        with pytest.raises(InputError, match="here: a is .* but the notebook takes"):
            check_parameters({"a": value}, known, where="here")


def test_a_notebook_runs_in_its_own_folder_with_its_own_environment(write, tmp_path):
    """Parameters arrive as they are, whatever characters; this process keeps its folder and environment. No kernel need be named."""
    hostile = "quotes \" and ' \\ newline \n null-ish \\0 🦉"
    cells = ("a: str = ''", "parameters"), "import json, os, pathlib", "pathlib.Path('out').write_text(json.dumps([a, os.environ['OWN']]))"
    here, folder = os.getcwd(), tmp_path / "folder"
    folder.mkdir()
    nameless = write(*cells)
    nameless.write_text(json.dumps({**json.loads(nameless.read_text()), "metadata": {}}))

    execute(nameless, tmp_path / "executed.ipynb", {"a": hostile}, env={**os.environ, "OWN": "mine"}, cwd=folder)

    assert json.loads((folder / "out").read_text()) == [hostile, "mine"]
    assert os.getcwd() == here
    assert "OWN" not in os.environ


def test_a_cell_that_fails_is_named(write, tmp_path):
    """The number of the cell, the error and its message; the executed copy shows it."""
    with pytest.raises(NotebookError, match="^cell 2: ZeroDivisionError: division by zero$") as caught:
        execute(write(("a = 1", "parameters"), "1 / 0"), tmp_path / "executed.ipynb", {}, env=os.environ, cwd=tmp_path)
    assert not caught.value.poclab_error
    assert "ZeroDivisionError" in (tmp_path / "executed.ipynb").read_text()


def statuses(path):
    """Return what an executed notebook says of each cell, and of itself."""
    data = json.loads(path.read_text())
    return [cell["metadata"]["papermill"]["status"] for cell in data["cells"]], data["metadata"]["papermill"]["exception"]


@pytest.mark.parametrize(
    ("source", "limits", "outcome", "message"),
    [
        ("import os; os._exit(3)", {}, "dead_kernel", "Kernel died"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", {}, "dead_kernel", "Kernel died"),
        ("import time; time.sleep(60)", {"timeout_s": 2}, "timeout", "no end after 2 s"),
        ("import time; time.sleep(60)", {"cell_timeout_s": 1.5, "timeout_s": 60}, "timeout", "a cell without an end after 1.5 s"),
    ],
)
def test_a_notebook_that_came_to_no_end_says_so(write, tmp_path, source, limits, outcome, message):
    """The cell is named; the executed copy calls it failed, those before completed, and those after pending. Nothing else is left."""
    with pytest.raises(NotebookError, match=message) as caught:
        execute(write(("a = 1", "parameters"), source, "2"), tmp_path / "executed.ipynb", {}, env=os.environ, cwd=tmp_path, **limits)

    assert (caught.value.outcome, caught.value.cell) == (outcome, 2)
    assert statuses(tmp_path / "executed.ipynb") == (["completed", "failed", "pending"], True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["executed.ipynb", "notebook.ipynb"]


def test_a_thread_that_raises_ends_no_notebook(write, tmp_path):
    """As in a script: its traceback stands in the outputs, and the cells after it are executed."""
    source = "import threading; one = threading.Thread(target=lambda: 1 / 0); one.start(); one.join()"
    execute(write(("a = 1", "parameters"), source, "2"), tmp_path / "executed.ipynb", {}, env=os.environ, cwd=tmp_path)

    assert statuses(tmp_path / "executed.ipynb") == (["completed"] * 3, None)
    assert "ZeroDivisionError" in (tmp_path / "executed.ipynb").read_text()


def test_papermill_itself_finds_the_engine(write, tmp_path):
    """Its command line executes with it, obeys its own limits, and keeps what came to no end."""
    notebook = write(("a: float = 1.0", "parameters"), "import time", "time.sleep(a); print('slept', a)", "3")
    command = [sys.executable, "-m", "papermill", "--engine", "poclab", "-k", "python3", str(notebook), str(tmp_path / "out.ipynb")]
    late = subprocess.run([*command, "-p", "a", "60", "--execution-timeout", "2"], capture_output=True, text=True)

    assert late.returncode == 1
    assert "TookTooLong: a cell without an end after 2 s" in late.stderr
    assert statuses(tmp_path / "out.ipynb") == (["completed"] * 3 + ["failed", "pending"], True)


def test_a_notebook_without_a_kernel_is_not_called_completed(write, tmp_path, monkeypatch):
    """Not one of its cells was executed."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(
        json.dumps({"argv": ["/no/such/program", "{connection_file}"], "display_name": "no", "language": "python"})
    )
    with pytest.raises(NotebookError, match="No such file"):
        execute(write(("a = 1", "parameters"), "2"), tmp_path / "executed.ipynb", {}, env=os.environ, cwd=tmp_path)

    assert statuses(tmp_path / "executed.ipynb") == (["failed", "pending"], True)


def test_an_error_written_for_a_person_is_known_as_such():
    """Its message stands alone, without the name of its class."""
    assert NotebookError(3, "FrozenError", "changed").poclab_error
    assert not NotebookError(3, "KeyError", "changed").poclab_error
