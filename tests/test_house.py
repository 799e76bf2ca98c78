"""The plan of the house holds: imports go upwards only, nothing heavy is loaded early, the public names are the documented ones."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import poclab

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "poclab"

#: A module may import only modules of a lower floor, or of its own floor if they stand before it.
FLOORS = [
    ["errors", "files", "redaction", "tables"],
    ["system", "charter", "changes", "cases", "imports", "freezing"],
    [
        "stats",
        "scores",
        "report",
        "telling",
        "runner",
        "bars",
        "comparison",
        "views",
        "decision",
        "sizing",
        "charts",
        "timeline",
        "reviews",
    ],
    [
        "offline",
        "prices",
        "limits",
        "ledger",
        "answers",
        "rewording",
        "requests",
        "purchases",
        "exchange",
        "transport",
        "models",
        "judging",
        "rag",
        "agent",
        "tracking",
        "evaluation",
        "recording",
        "archive",
        "arguments",
        "projection",
        "inspection",
        "faults",
        "drills",
        "experiment",
    ],
    [
        "zygote",
        "engine",
        "kernels",
        "rehearsals",
        "points",
        "sweeps",
        "drift",
        "executors",
        "results",
        "search",
        "journal",
        "progress",
        "verdicts",
        "trials",
        "reproduction",
        "confirmation",
        "handover",
        "checkup",
        "sitting",
        "controls",
        "workbench",
        "labels",
        "labeling",
        "starter",
    ],
    ["cli", "__main__"],
]
#: The one module (or package) that may import each heavy package.
OWNERS = {
    "yaml": {"files"},
    "scipy": {"stats", "rag"},
    "pandas": {"tables"},
    "matplotlib": {"charts"},
    "openai": {"models", "judging", "rag"},
    "httpx2": {"models"},
    "genai_prices": {"prices"},
    "bm25s": {"rag"},
    "sklearn": {"rag"},
    "pydantic": {"agent"},
    "Stemmer": {"offline", "rag"},
    "mlflow": {"tracking"},
    "sqlalchemy": {"tracking"},
    "opentelemetry": {"tracking"},
    "papermill": {"engine", "kernels"},
    "optuna": {"search"},
    "click": {"cli"},
    "packaging": {"checkup"},
    "tqdm": {"bars"},
    "distributed": {"executors"},
    "filelock": {"judging", "tracking", "rag", "journal", "labels"},
    "ipywidgets": {"controls", "judging", "labeling", "workbench"},
    "anywidget": {"judging", "labeling"},
    "numpy": {"stats", "rag"},
}


def sources():
    return sorted(path for path in HOUSE.rglob("*.py") if "templates" not in path.parts)


def room(path):
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported(path, *, everywhere=True):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {id(n) for b in ast.walk(tree) if isinstance(b, ast.If) and ast.unparse(b.test) == "TYPE_CHECKING" for n in ast.walk(b)}
    for node in ast.walk(tree) if everywhere else tree.body:
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" if node.module == "poclab" else node.module for alias in node.names)


def test_every_module_has_a_floor():
    """A new room is put into the plan before it is used."""
    planned = {name for floor in FLOORS for name in floor}

    assert {room(path) for path in sources()} - {"__init__"} == planned


def test_imports_go_upwards_only():
    """A module may import what stands above it in the plan, so there are no cycles and no surprises."""
    height = {name: number for number, name in enumerate(name for floor in FLOORS for name in floor)}
    wrong = []
    for path in sources():
        here = room(path)
        if here == "__init__":
            continue
        for name in imported(path):
            there = name.split(".")[1] if name.startswith("poclab.") else None
            if there in height and there != here and height[there] >= height[here]:
                wrong.append(f"{here} imports {there}")

    assert wrong == []


def test_a_heavy_package_has_one_owner():
    """Only the module that owns a heavy package imports it, and inside a function."""
    wrong = []
    for path in sources():
        for name in imported(path):
            package = name.split(".")[0]
            if package in OWNERS and room(path) not in OWNERS[package]:
                wrong.append(f"{room(path)} imports {package}")
        if room(path) not in ("engine", "cli", "__main__"):  # papermill is there before its engine
            wrong += [f"{path.name} imports {name} at its top" for name in imported(path, everywhere=False) if name.split(".")[0] in OWNERS]

    assert wrong == []


def test_threads_are_started_in_few_places():
    """Who looks for a thread finds it in the runner, the executors, the trials, the rehearsals, the bench or the tracking."""
    users = {room(path) for path in sources() if re.search(r"threading\.Thread\(|ThreadPoolExecutor\(", path.read_text(encoding="utf-8"))}

    assert users <= {"runner", "executors", "trials", "rehearsals", "workbench", "tracking"}


@pytest.mark.parametrize("statement", ["import poclab", "import poclab.cli", "from poclab import agent, models, rag, scores, evaluate"])
def test_importing_loads_nothing_heavy(statement):
    """Whoever types `poclab --help` does not wait for pandas or MLflow."""
    heavy = set(OWNERS) - {"click", "yaml"}
    code = f"{statement}; import sys; print(*(name for name in sys.modules if '.' not in name))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert heavy & set(loaded) == set()


def test_the_public_names_are_those_that_are_documented():
    """Every name of `__all__` can be had, and the README speaks of it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert all(getattr(poclab, name) is not None for name in poclab.__all__)
    assert [name for name in poclab.__all__ if name not in readme] == []
    assert set(poclab.__all__) <= set(dir(poclab))


def test_an_unknown_name_is_an_attribute_error():
    """Lazy loading does not turn a typing mistake into an import error."""
    with pytest.raises(AttributeError, match="no attribute 'evalaute'"):
        poclab.evalaute  # noqa: B018  the access is what is tested


def test_the_code_is_clean():
    """Lint and format hold for code, tests and notebooks."""
    for command in (["check", "."], ["format", "--check", "."]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_dependency_is_pinned_and_has_a_reason():
    """What is installed is what was tested: each dependency stands in the constraints, with a comment that says what for."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.M | re.S)[1]
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    lines = [line.strip() for line in block.splitlines()]

    assert [line for line in lines if not re.fullmatch(r'"[^"]+",\s+# \S.*', line)] == []
    assert {re.match(r'"([\w-]+)', line)[1].lower() for line in lines} - pinned == set()


def test_the_constraints_name_no_host():
    """The constraints work with whatever index the reader's pip uses."""
    assert re.search(r"https?:|--|@ ", (ROOT / "constraints.txt").read_text(encoding="utf-8")) is None
