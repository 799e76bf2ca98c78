"""Search the space of a sweep: each trial is proposed from how those before it went (`method: tpe`).

Optuna's tree-structured Parzen estimator proposes; the sweep's own records are the memory, from which the study is built anew each time.
With one job and one seed the same trials are proposed. Source: Bergstra et al., Algorithms for Hyper-Parameter Optimization (2011).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from poclab.errors import InputError
from poclab.points import DRAWS, Range
from poclab.sweeps import Sweep, Trial


class Search:
    """Proposes trials until there are as many as the sweep's `run_cap`, or no other point is found.

    Raises:
        InputError: Optuna is not installed.
    """

    def __init__(self, sweep: Sweep, identify: Callable[[Trial], str]) -> None:
        try:
            import optuna
        except ImportError:
            raise InputError("method: tpe needs Optuna", fix="pip install 'poclab[optuna]'") from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.optuna, self.sweep, self.space, self.identify = optuna, sweep, sweep.space, identify
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of `constant_liar`, for trials side by side
            sampler = optuna.samplers.TPESampler(seed=self.space.seed, constant_liar=True)
        self.study = optuna.create_study(sampler=sampler, direction="maximize" if sweep.maximize else "minimize")
        self.axes = {f"axis {number}": axis for number, axis in enumerate(self.space.axes)}
        self.distributions = {name: self._distribution(axis) for name, axis in self.axes.items()}
        #: The value of each point that was tried, None where it has none (yet).
        self.values: dict[str, float | None] = {}
        self._open: dict[str, Any] = {}

    def remember(self, trials: Iterable[tuple[Trial, float | None]]) -> list[Trial]:
        """Take the trials that were run before, with the value that each had; return those that are of this space, as they are now."""
        found = []
        for trial, value in trials:
            names = self._names(trial.parameters)
            same = names and self._trial(names)
            if same and same.parameters == trial.parameters and (trial_id := self.identify(same)) not in self.values:
                self.values[trial_id] = value
                found.append(same)
                if value is not None:
                    self.study.add_trial(self.optuna.trial.create_trial(params=names, distributions=self.distributions, value=value))
        return found

    def next(self) -> tuple[str, Trial] | None:
        """Return a trial to run, with its id; None when there are enough."""
        for _ in range(DRAWS if len(self.values) < self.space.count else 0):
            asked = self.study.ask(self.distributions)
            trial = self._trial(asked.params)
            trial_id = trial and self.identify(trial)
            if trial_id is not None and trial_id not in self.values:
                self.values[trial_id], self._open[trial_id] = None, asked
                return trial_id, trial
            self._tell(asked, self.values.get(trial_id))
        return None

    def tell(self, trial_id: str, value: float | None) -> None:
        """Take what came of a trial that was proposed; None if it has no value. Another trial is none of the search's."""
        if trial_id in self._open:
            self.values[trial_id] = value
            self._tell(self._open.pop(trial_id), value)

    def _tell(self, asked: Any, value: float | None) -> None:
        if value is None:
            self.study.tell(asked, state=self.optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(asked, value)

    def _trial(self, names: Mapping[str, Any]) -> Trial | None:
        parts = [{axis.name: names[name]} if isinstance(axis, Range) else axis[names[name]] for name, axis in self.axes.items()]
        point = self.space.point(parts)
        return self.sweep.trial(point) if point is not None else None

    def _names(self, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return where in the space a trial's parameters lie; None if outside of it."""
        found: dict[str, Any] = {}
        for name, axis in self.axes.items():
            if isinstance(axis, Range):
                value = parameters.get(axis.name)
                inside = type(value) in (int, float) and axis.low <= value <= axis.high
                places = [value] if inside else []
            else:
                places = [place for place, part in enumerate(axis) if all(parameters.get(key) == value for key, value in part.items())]
            if not places:
                return None
            found[name] = places[0]
        return found

    def _distribution(self, axis: Range | list[dict[str, Any]]) -> Any:
        kinds = self.optuna.distributions
        if not isinstance(axis, Range):
            return kinds.CategoricalDistribution(tuple(range(len(axis))))
        kind = kinds.IntDistribution if axis.is_whole else kinds.FloatDistribution
        return kind(axis.low, axis.high, log=axis.is_log)
