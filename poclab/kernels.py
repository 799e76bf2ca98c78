"""Notebooks as functions: read the parameters a notebook takes, and execute it headlessly through papermill.

papermill only warns of an unknown parameter and then runs the default, so names and types are checked here, from the
source of the `parameters` cell, before a kernel starts. Each kernel gets its own environment and folder.
"""

from __future__ import annotations

import ast
import contextlib
import contextvars
import functools
import json
import re
import sys
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poclab import errors
from poclab.errors import InputError, refuse_unknown, told
from poclab.files import check_json, read_json, read_text, write_atomic
from poclab.redaction import conceal, conceal_json
from poclab.zygote import Zygote

#: A line that is IPython's and not Python's.
MAGIC = re.compile(r"(?m)^([ \t]*)(?:[\w, ]+=[ \t]*)?[%!].*|^([ \t]*)\?.*|^([ \t]*).*\?[ \t]*$")
TYPES = {"str": str, "int": int, "float": (int, float), "bool": bool, "list": list, "dict": dict, "None": type(None)}


@dataclass(frozen=True)
class Parameter:
    """One line of a `parameters` cell: `name: type = default`. `types` is empty when the line names no simple type."""

    name: str
    types: tuple[str, ...]
    default: Any


NO_PARAMETER = Parameter("", (), None)


class NotebookError(Exception):
    """A notebook did not come to its end: an `error` in a cell, a `timeout`, or a `dead_kernel`.

    `cell` counts code and text cells from 1; `poclab_error` when the message was written for a person; `traceback` is IPython's.
    """

    def __init__(self, cell: int | None, name: str, message: str, *, outcome: str = "error", traceback: str = "") -> None:
        self.cell, self.name, self.message, self.outcome, self.traceback = cell, name, message, outcome, traceback
        super().__init__(cell, name, message)

    def __str__(self) -> str:
        return f"cell {self.cell}: {self.name}: {self.message}" if self.cell else f"{self.name}: {self.message}"

    @property
    def poclab_error(self) -> bool:
        return isinstance(kind := getattr(errors, self.name, None), type) and issubclass(kind, errors.PocError)


def read_parameters(notebook: Path) -> dict[str, Parameter]:
    """Return the parameters of a notebook in the order they stand.

    Raises:
        InputError: no notebook, not exactly one cell tagged `parameters`, or a line in it that is no assignment.
    """
    sources = [source for source, tags in code_cells(notebook) if "parameters" in tags]
    if len(sources) != 1:
        raise InputError(
            f"{notebook}: {len(sources)} cells are tagged `parameters`, expected exactly one",
            fix="in JupyterLab: select the cell, Property Inspector, add the tag `parameters`",
        )
    try:
        return {one.name: one for one in (_parameter(statement, notebook) for statement in ast.parse(sources[0]).body)}
    except SyntaxError as error:
        raise InputError(f"{notebook}: the parameters cell is not Python: {error.msg} (its line {error.lineno})") from None
    except ValueError as error:  # such as half a character
        raise InputError(f"{notebook}: the parameters cell is not Python: {error}") from None
    except (MemoryError, RecursionError):
        raise InputError(f"{notebook}: the parameters cell is not Python: nested too deeply") from None


def code_cells(notebook: Path) -> list[tuple[str, list[str]]]:
    """Return the source and the tags of each code cell.

    Raises:
        InputError: no notebook of format 4, or one in another language than Python.
    """
    data = read_json(notebook)
    try:
        about = data["metadata"]
        language = about.get("kernelspec", {}).get("language") or about.get("language_info", {}).get("name") or "python"
        readable = data["nbformat"] == 4
        cells = [("".join(cell["source"]), list(cell["metadata"].get("tags", ()))) for cell in data["cells"] if cell["cell_type"] == "code"]
    except (TypeError, KeyError, AttributeError):
        readable = False
    if not readable:
        raise InputError(f"{notebook}: not a notebook of format 4", fix="open it in JupyterLab and save it")
    if language != "python":
        raise InputError(f"{notebook}: a notebook in {language!r}", fix="trials run in Python: name a Python notebook")
    return cells


def imported(notebook: Path) -> tuple[str, ...]:
    """Return the modules that a notebook imports, as far as its source says so."""
    names: dict[str, None] = {}
    for source, _ in code_cells(notebook):
        with contextlib.suppress(SyntaxError, ValueError, MemoryError, RecursionError):  # the trial will say so
            for node in ast.walk(_python(source)):
                if isinstance(node, ast.Import):
                    names |= dict.fromkeys(one.name for one in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names |= dict.fromkeys([node.module, *(f"{node.module}.{one.name}" for one in node.names)])
    return tuple(names)


def check_code(notebook: Path) -> None:
    """Refuse a notebook with a cell that is not Python; what only IPython reads, such as `%magic`, is passed over.

    Raises:
        InputError: the cell and its line.
    """
    for number, (source, _) in enumerate(code_cells(notebook), 1):
        try:
            if not source.lstrip().startswith("%%"):
                _python(source)
        except SyntaxError as error:
            raise InputError(f"{notebook}: code cell {number} is not Python: {error.msg} (its line {error.lineno})") from None
        except (ValueError, MemoryError, RecursionError) as error:
            raise InputError(f"{notebook}: code cell {number} is not Python: {told(error)}") from None


def _python(source: str) -> ast.AST:
    """Return the tree of a cell, without what only IPython reads."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    try:
        return compile(source, "", "exec", flags=flags)  # a line of Python's own may begin with %
    except SyntaxError:
        with contextlib.suppress(SyntaxError):
            return compile(MAGIC.sub(lambda found: f"{next(filter(None, found.groups()), '')}pass", source), "", "exec", flags=flags)
        raise


def _parameter(statement: ast.stmt, notebook: Path) -> Parameter:
    plain = isinstance(statement, ast.Assign) and len(statement.targets) == 1
    target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0] if plain else None
    if not isinstance(target, ast.Name) or statement.value is None:  # type: ignore[union-attr]  # both kinds of assignment have a value
        raise InputError(f"{notebook}: the parameters cell holds {ast.unparse(statement)!r}", fix="write one `name: type = default` a line")
    try:
        default = ast.literal_eval(statement.value)  # type: ignore[union-attr]
    except (ValueError, TypeError):
        raise InputError(f"{notebook}: the default of {target.id!r} is computed", fix="write a plain value") from None
    annotation = ast.unparse(statement.annotation) if isinstance(statement, ast.AnnAssign) else ""
    types = tuple(part.strip() for part in annotation.split("|")) if annotation else ()
    return Parameter(target.id, types if set(types) <= set(TYPES) else (), default)


def check_parameters(values: Mapping[str, Any], known: Mapping[str, Parameter], *, where: str) -> None:
    """Refuse a value that the notebook does not take, or that JSON or its type does not allow.

    Raises:
        InputError: an unknown name (with the nearest), a value that is not JSON, or one of another type.
    """
    refuse_unknown(values, known, where=where, what="parameter")
    for name, value in values.items():
        check_json(value, where=f"{where}: {name}")
        types = known[name].types
        if types and not any(_is(value, kind) for kind in types):
            raise InputError(f"{where}: {name} is {value!r} ({type(value).__name__}), but the notebook takes {' | '.join(types)}")


def _is(value: Any, kind: str) -> bool:
    # A bool is an int in Python, but `chunk_size: true` is a mistake.
    return isinstance(value, TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))


def execute(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, Any],
    *,
    env: Mapping[str, str],
    cwd: Path,
    timeout_s: float | None = None,
    cell_timeout_s: float | None = None,
    zygote: Zygote | None = None,
) -> None:
    """Execute a notebook with parameters in a kernel of its own, and write the executed copy to `output`, whole or not at all.

    Neither the copy nor the error shows a key that the notebook used.

    The kernel is forked from the `zygote`, if there is one and it can; else it is started. After `timeout_s`, all cells together, or
    `cell_timeout_s` in one, it is interrupted, and killed.

    Raises:
        NotebookError: a cell failed, it took too long, or the kernel died. Whether the notebook did its work is for its result to show.
    """
    papermill = _papermill()
    from papermill.exceptions import PapermillExecutionError

    from poclab.engine import TookTooLong

    begun = _begun(output)
    try:
        # An empty context: jupyter_core keeps an event loop in a context variable, and each notebook's is closed at its end.
        contextvars.Context().run(
            papermill.execute_notebook,
            str(notebook),
            str(begun),
            parameters=dict(parameters),
            engine_name="poclab",
            kernel_name="python3",
            language="python",
            progress_bar=False,
            request_save_on_cell_execute=False,
            execution_timeout=cell_timeout_s,
            kernel_env=dict(env),
            kernel_cwd=str(cwd),
            kernel_output=str(begun),
            kernel_timeout_s=timeout_s,
            kernel_zygote=zygote,
        )
    except PapermillExecutionError as error:
        raise NotebookError(
            error.cell_index + 1, error.ename, conceal(error.evalue), traceback=conceal("\n".join(error.traceback))
        ) from None
    except TookTooLong as error:
        raise NotebookError(error.cell, "TimeoutError", str(error), outcome="timeout") from None
    except Exception as error:  # nbclient's dead kernel, a missing kernel, a disk that is full: each is a trial that failed
        outcome = "dead_kernel" if "Kernel died" in str(error) else "error"
        raise NotebookError(getattr(error, "cell", None), type(error).__name__, conceal(str(error)), outcome=outcome) from None
    finally:
        if begun.exists():
            concealed(begun, output)
            begun.unlink()


def concealed(notebook: Path, path: Path) -> Path:
    """Write a notebook to `path` without the keys in it."""
    text = read_text(notebook)
    with contextlib.suppress(ValueError):  # a broken one is kept as it is
        text = json.dumps(conceal_json(json.loads(text)), ensure_ascii=False, indent=1) + "\n"
    return write_atomic(path, conceal(text))


def _begun(output: Path) -> Path:
    return output.with_name(f".begun-{output.name}")


def kill(output: Path) -> None:
    """Kill the kernel of the notebook that this process executes for `output`, with all that it started, if it has one just now."""
    _papermill()
    from poclab import engine

    engine.kill(str(_begun(output)))


def kill_running(work: Collection[Future[Any]]) -> None:
    """Kill the kernels that this process executes notebooks in, with all that they started, until the threads that wait for them end."""
    _papermill()
    from poclab import engine

    engine.kill_running(work)


@functools.cache
def _papermill() -> Any:
    """Return papermill, without a parser of web addresses that jsonschema loads for a second to check formats that no notebook has."""
    name = "rfc3987_syntax"
    absent = name not in sys.modules and "jsonschema" not in sys.modules
    if absent:
        sys.modules[name] = None  # to import it is an ImportError, which jsonschema expects
    try:
        import papermill
    finally:
        if absent:
            del sys.modules[name]
    return papermill
