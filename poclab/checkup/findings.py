"""What a check finds, and the POC as all checks see it: read once."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from poclab import kernels, models, rag, sweeps
from poclab.cases import TestSet
from poclab.charter import Charter
from poclab.files import RUBRICS
from poclab.judging import Rubric
from poclab.offline import PREFIX
from poclab.rag.dense import LSA
from poclab.redaction import shown
from poclab.requests import FORCED_MODE, MODE
from poclab.sweeps import Sweep

OK, WARNING, FAILED = "ok", "warning", "failed"


@dataclass(frozen=True)
class Finding:
    """What a check found: its state is ok, warning or failed; `fix` says what to type about the latter two."""

    name: str
    state: str
    told: str
    fix: str = ""


class Subject:
    """A POC that is looked at. What cannot be read raises the same error for every check that asks for it."""

    def __init__(self, poc: Path, timeout_s: float) -> None:
        self.poc, self.timeout_s = poc, timeout_s
        #: The POC as it is typed into a shell.
        self.folder = shlex.quote(str(poc))

    @cached_property
    def charter(self) -> Charter:
        return Charter.load(self.poc)

    @cached_property
    def test_set(self) -> TestSet:
        return TestSet.load(self.poc / "cases.jsonl")

    @cached_property
    def corpus(self) -> rag.Corpus | None:
        """The documents; None without a `corpus.yaml`."""
        return rag.load_corpus(self.poc) if (self.poc / "corpus.yaml").is_file() else None

    @cached_property
    def rubrics(self) -> list[Rubric]:
        return [Rubric.load(path) for path in sorted((self.poc / RUBRICS).glob("*.yaml"))]

    @cached_property
    def sweep(self) -> Sweep:
        return sweeps.load_sweep(self.poc)

    @cached_property
    def settings(self) -> list[Mapping[str, Any]]:
        """All parameters of the sweep's notebook: as it stands, as `poclab run` takes it, and of each trial."""
        defaults = {name: one.default for name, one in kernels.read_parameters(self.sweep.notebook).items()}
        points = [trial.parameters for trial in self.sweep.all_trials] + (self.sweep.space.edges() if self.sweep.space else [])
        return [{**defaults, **one} for one in ({}, self.sweep.fixed, *points)]

    @cached_property
    def models(self) -> dict[str, str]:
        """The models that will be asked, each with the path of its calls."""
        asked = [(one.get("model"), "/chat/completions") for one in self.settings]
        asked += [(one.model, "/chat/completions") for one in self.rubrics]
        asked += [(one.get("embedding"), "/embeddings") for one in self.settings if one.get("retrieval") in ("dense", "hybrid")]
        return {name: path for name, path in asked if isinstance(name, str) and name != LSA}

    @property
    def replays(self) -> bool:
        return "replay" in (os.environ.get(FORCED_MODE), os.environ.get(MODE))

    @cached_property
    def online(self) -> list[str]:
        """The models that will be asked over the network."""
        return [] if self.replays else [name for name in self.models if not name.startswith(PREFIX)]

    @cached_property
    def url(self) -> str:
        """The address of the endpoint, as it may be shown."""
        return shown(str(models.client().base_url)).rstrip("/")

    @cached_property
    def listing(self) -> models.Listing:
        """What the endpoint answered when it was asked for its models, once. Only where a model is `online`."""
        return models.check(self.online[0], timeout_s=self.timeout_s)
