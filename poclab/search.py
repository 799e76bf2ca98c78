"""Search the space of a sweep: each trial is proposed from how those before it went (`method: tpe`).

Optuna's tree-structured Parzen estimator proposes; the sweep's own records are the memory, from which the study is built anew each time.
With one job and one seed the same trials are proposed. Source: Bergstra et al., Algorithms for Hyper-Parameter Optimization (2011).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from poclab.errors import InputError
from poclab.files import canonical
from poclab.points import DRAWS, Range
from poclab.results import Record
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
        #: The value of each point that is known, None where it has none (yet); how many of them the search proposed.
        self.values: dict[str, float | None] = {}
        self.proposed = 0
        #: What Optuna asked for and is to be told of; and where in the space lies what was tried without being asked for.
        self._asked: dict[str, Any] = {}
        self._others: dict[str, dict[str, Any]] = {}

    def include(self, planned: Iterable[tuple[str, Trial]]) -> None:
        """Take the trials that run in any case: none of them is proposed, and all are learned from."""
        for trial_id, trial in planned:
            if names := self._names(trial.parameters):
                self.values[trial_id], self._others[trial_id] = None, names

    def remember(self, records: Iterable[Record], *, as_they_were: bool) -> dict[str, Record]:
        """Learn from the trials that were run before; return those that were proposed, by the ids that they have now.

        Those of other code, cases or documents count only where they are taken `as_they_were`.
        """
        found: dict[str, Record] = {}
        for record in records:
            names = self._names(record.parameters)
            same = names and self._trial(names)
            if not same or canonical(same.parameters) != canonical(record.parameters):
                continue
            trial_id = self.identify(same)
            if trial_id in found or not (as_they_were or trial_id == record.trial_id):
                continue
            if trial_id not in self._others:
                self._others[trial_id] = names
                self.proposed += 1
                found[trial_id] = replace(record, trial_id=trial_id)
            self.tell(trial_id, record.value(self.sweep.metric))
        return found

    def next(self) -> tuple[str, Trial] | None:
        """Return a trial to run, with its id; None when there are enough."""
        if self.proposed >= self.space.count:
            return None
        for _ in range(DRAWS):
            asked = self.study.ask(self.distributions)
            trial = self._trial(asked.params)
            trial_id = self.identify(trial) if trial else ""
            if trial and trial_id not in self.values:
                self._asked[trial_id] = asked
                return self._propose(trial_id, trial)
            self._tell(asked, self.values.get(trial_id))
        for point in self.space.points():  # few are left, and it keeps to those that it knows
            trial = self.sweep.trial(point)
            if (trial_id := self.identify(trial)) not in self.values:
                self._others[trial_id] = self._names(trial.parameters)
                return self._propose(trial_id, trial)
        return None

    def _propose(self, trial_id: str, trial: Trial) -> tuple[str, Trial]:
        self.values[trial_id] = None
        self.proposed += 1
        return trial_id, trial

    def tell(self, trial_id: str, value: float | None) -> None:
        """Take what came of a trial; None if it has no value. One that lies elsewhere teaches nothing."""
        if trial_id in self._asked:
            self._tell(self._asked.pop(trial_id), value)
        elif (names := self._others.get(trial_id)) and value is not None:
            made = self.optuna.trial.create_trial(params=names, distributions=self.distributions, value=value)
            self.study.add_trial(made)
        else:
            return
        self.values[trial_id] = value

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
                places = [place for place, part in enumerate(axis) if _holds(parameters, part)]
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


def _holds(parameters: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    """Tell whether parameters hold these values; in Python 1, 1.0 and True would be equal."""
    return all(key in parameters and canonical(parameters[key]) == canonical(value) for key, value in part.items())
