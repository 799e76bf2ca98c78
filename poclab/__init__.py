"""poclab: the experiment kit for the first six weeks of an AI proof of concept.

A charter says what "done" means in numbers; a frozen test set holds the cases; every version of a system that is
evaluated becomes one MLflow run. Names are loaded when they are first used: `import poclab` itself does next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poclab import agent, charts, models, rag, scores
    from poclab.archive import load_run, runs
    from poclab.cases import Case, TestSet
    from poclab.charter import Charter
    from poclab.drills import drill
    from poclab.errors import PocError
    from poclab.experiment import Interrupted, compare, decide, evaluate, history, plan
    from poclab.handover import handoff
    from poclab.judging import Judge
    from poclab.labeling import Labeler
    from poclab.report import Report
    from poclab.system import Prompt, Reply, Version
    from poclab.trials import sweep
    from poclab.workbench import Workbench

_HOMES = {
    "Case": "cases",
    "Charter": "charter",
    "Interrupted": "experiment",
    "Judge": "judging",
    "Labeler": "labeling",
    "PocError": "errors",
    "Prompt": "system",
    "Reply": "system",
    "Report": "report",
    "TestSet": "cases",
    "Version": "system",
    "Workbench": "workbench",
    "agent": "",
    "charts": "",
    "compare": "experiment",
    "decide": "experiment",
    "drill": "drills",
    "evaluate": "experiment",
    "handoff": "handover",
    "history": "experiment",
    "load_run": "archive",
    "models": "",
    "plan": "experiment",
    "rag": "",
    "runs": "archive",
    "scores": "",
    "sweep": "trials",
}
__all__ = [
    "Case",
    "Charter",
    "Interrupted",
    "Judge",
    "Labeler",
    "PocError",
    "Prompt",
    "Reply",
    "Report",
    "TestSet",
    "Version",
    "Workbench",
    "agent",
    "charts",
    "compare",
    "decide",
    "drill",
    "evaluate",
    "handoff",
    "history",
    "load_run",
    "models",
    "plan",
    "rag",
    "runs",
    "scores",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version("poclab")
    if name not in _HOMES:
        raise AttributeError(f"module 'poclab' has no attribute {name!r}")
    home = _HOMES[name]
    return getattr(import_module(f"poclab.{home}"), name) if home else import_module(f"poclab.{name}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
