"""How far a judge agrees with people, on the sample that they labelled; what its mean is once its errors are taken off; the gate of `decide`.

    rubrics/correctness.calibration.json    kept in the POC, to be committed with the labels

A calibration is of one rubric (by its digest, the model's name and parameters in it) and of what answered (the model as the endpoint calls
it, with its fingerprint): an edited rubric or a new model is not calibrated. Without a kappa above the charter's `judges.kappa_at_least`, by
the lower edge of its interval, no criterion on the judge's score is decided. Verdicts and labels are kept, and every number is worked out
from them when it is read. Answers that were paid for are replayed, and that is told; they do not take the place of what other models said.
Not covered: whether people agree among themselves; a judge cannot be held to more than they do.
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from poclab import stats
from poclab.errors import EndpointError, InputError, printable
from poclab.files import RUBRICS, digest, plain, read_json, write_atomic
from poclab.judging.asking import Asked, ask_all
from poclab.judging.judge import Judge
from poclab.judging.labels import SUFFIX as LABELS
from poclab.judging.labels import Labelled, alone, labels_digest, read_labels
from poclab.judging.reading import Verdict
from poclab.judging.rubric import UNSCORED
from poclab.redaction import conceal_json
from poclab.requests import MODE
from poclab.stats import Estimate
from poclab.tables import block, cut, folded, html_table, money, text_table

SUFFIX = ".calibration.json"
FORMAT = 1
#: What a judge gives a case that it does not score, in the correction: any fixed number leaves it unbiased.
NO_VERDICT = 0.5
DISAGREEMENTS_SHOWN, WIDEST = 10, 60
LATE = Verdict(None, "the judge ran out of time")
#: Asks anew what the ledger has.
LIVE = f"{MODE}=live"
FIX_THRESHOLD = "judges: {kappa_at_least: 0.6}"


@dataclass(frozen=True)
class Pair:
    """What a person and the judge say of one reply; `again` is what the judge said when it was asked again."""

    case: str
    person: str
    judge: str
    reason: str = ""
    reply: str = ""
    cluster: str | None = None
    again: tuple[str, ...] = ()

    @property
    def agree(self) -> bool:
        return self.person == self.judge


@dataclass(frozen=True)
class Calibration:
    """A judge held against people: `pairs` on the sample, and what the judge says of the `others`, which nobody labelled."""

    name: str
    rubric: str
    rubric_version: int | str
    model: str
    answered: tuple[str, ...]
    labels: Mapping[str, float]
    pairs: tuple[Pair, ...]
    others: tuple[str, ...]
    sampled: Mapping[str, Any]
    labels_digest: str
    by: tuple[str, ...]
    on: str
    repeats: int = 1
    cost_usd: float | None = None
    #: Whether several replies of the run belong together: then they are worth fewer than they are.
    clustered: bool = False
    #: The clusters of the others, where cases have any.
    others_clusters: tuple[str | None, ...] = ()
    #: Of the answers, how many are from the ledger, and when they were paid; empty when all were asked now, and in what is read from a file.
    origin: str = field(default="", compare=False)
    path: Path | None = field(default=None, compare=False)

    @cached_property
    def _sides(self) -> tuple[list[str], list[str], list[str | None]]:
        return [one.person for one in self.pairs], [one.judge for one in self.pairs], [one.cluster for one in self.pairs]

    @property
    def agreement(self) -> Estimate:
        """The share of the sample of which judge and person say the same."""
        return self._share(one.agree for one in self.pairs)

    @cached_property
    def kappa(self) -> Estimate | None:
        """Cohen's kappa; None where it is undefined, and the judge is not calibrated."""
        people, judge, clusters = self._sides
        return stats.paired_kappa(people, judge, clusters=clusters)

    @property
    def recalls(self) -> dict[str, Estimate]:
        """For each label that people gave: how often the judge gave it too."""
        people, judge, clusters = self._sides
        found = stats.recalls(people, judge, clusters=clusters)
        return {label: found[label] for label in self.menu if label in found}

    @property
    def base_rates(self) -> dict[str, Estimate]:
        """How often people gave each label."""
        return {
            label: self._share(one.person == label for one in self.pairs) for label in self.menu if label != UNSCORED or self._uses(label)
        }

    @property
    def unscored(self) -> Estimate:
        """The share of the sample that the judge gave no verdict on."""
        return self._share(one.judge == UNSCORED for one in self.pairs)

    @property
    def consistency(self) -> Estimate | None:
        """The share of the sample of which the judge said the same each time; None when it was asked once."""
        return self._share(set(one.again) <= {one.judge} for one in self.pairs) if self.repeats > 1 else None

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """How often people and judge gave each pair of labels, people first."""
        return stats.counted(*self._sides[:2])

    @property
    def disagreements(self) -> list[Pair]:
        """The pairs to read."""
        return [one for one in self.pairs if not one.agree]

    @property
    def menu(self) -> list[str]:
        return [*self.labels, UNSCORED]

    @property
    def naive(self) -> Estimate | None:
        """The judge's mean over all replies, as it says it; None where it scored none."""
        clusters = (*self._sides[2], *(self.others_clusters or [None] * len(self.others)))
        said = zip((*self._sides[1], *self.others), clusters, strict=True)
        scored = [(self.labels[label], cluster) for label, cluster in said if label != UNSCORED]
        return stats.mean_estimate([value for value, _ in scored], clusters=[cluster for _, cluster in scored]) if scored else None

    @property
    def corrected(self) -> Estimate | None:
        """The mean that people would give all these replies, by prediction-powered inference; None where a person could not tell of some.

        Source: see `stats.corrected`. The replies that were labelled are not among the others.
        """
        people, judge, _ = self._sides
        if UNSCORED in people or len(people) < 2 or self.clustered:
            return None
        return stats.corrected_mean(
            [self.labels[one] for one in people], [self._value(one) for one in judge], [self._value(one) for one in self.others]
        )

    def _value(self, label: str) -> float:
        return NO_VERDICT if label == UNSCORED else float(self.labels[label])

    def _uses(self, label: str) -> bool:
        return any(label in (one.person, one.judge) for one in self.pairs)

    def _share(self, true: Iterator[bool]) -> Estimate:
        return stats.mean_estimate([float(one) for one in true], clusters=self._sides[2])

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield what was found, each with its name, in the order to read it."""
        yield (
            "judge",
            f"{self.name}, version {self.rubric_version}, digest {self.rubric[:12]}; {self.model}, answered by {', '.join(self.answered) or '(not told)'}",
        )
        further = f", drawn further after {' and '.join(map(str, self.sampled['further']))}" if self.sampled.get("further") else ""
        split = f" on {self.sampled['split']}" if self.sampled.get("split") else ""
        yield (
            "sample",
            f"{len(self.pairs)} of {self.sampled['of']} replies of {self.sampled['name']}{split}, seed {self.sampled['seed']}{further}; labelled by {', '.join(self.by)}",
        )
        yield "agreement", str(self.agreement)
        yield "kappa", self.kappa_text
        for label, estimate in self.recalls.items():
            yield f"recall of {label}", str(estimate)
        for label, estimate in self.base_rates.items():
            yield f"people say {label}", str(estimate)
        yield "unscored", str(self.unscored)
        if self.consistency:
            yield "consistency", f"{self.consistency}: the same in all of {self.repeats} times"
        yield "judge's mean", self.naive_text
        yield "corrected", self.corrected_text
        if self.origin:
            yield "answers", f"{self.origin}; {LIVE} asks again"
        if self.cost_usd is not None:
            yield "cost", money(self.cost_usd) + (" when they were paid" if self.origin else "")

    @property
    def naive_text(self) -> str:
        return str(self.naive or "none: it scored nothing")

    @property
    def corrected_text(self) -> str:
        return str(self.corrected or "none: people could not tell of some, or cases are in clusters")

    @property
    def kappa_text(self) -> str:
        if self.kappa is None:
            said = " and ".join(sorted({one.person for one in self.pairs}))
            return f"undefined, since people and judge say {said} of all: not calibrated"
        return str(self.kappa)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return the confusion table: a row for what people said, a column for what the judge did."""
        used = [label for label in self.menu if self._uses(label)]
        rows = [[one, *(str(self.counts.get((one, other), 0)) for other in used)] for one in used]
        return ["people \\ judge", *used], rows

    def __repr__(self) -> str:
        lines = [f"{name}: {printable(text)}" for name, text in self.facts()]
        shown = [
            [one.case, one.person, one.judge, _short(one.reply), _short(one.reason)] for one in self.disagreements[:DISAGREEMENTS_SHOWN]
        ]
        more = len(self.disagreements) - len(shown)
        read = ["", f"disagreements to read: {len(self.disagreements)}", text_table(DISAGREED, shown)] if shown else []
        return "\n".join([*lines, "", text_table(*self.table()), *read, *([f"{more} more in {self.path}"] if more else [])])

    def _repr_html_(self) -> str:
        shown = [[one.case, one.person, one.judge, one.reply, one.reason] for one in self.disagreements]
        read = folded(f"disagreements to read: {len(shown)}", html_table(DISAGREED, shown))
        return block(html_table([], self.facts()), html_table(*self.table()), read)

    def to_json(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("origin", "path")}
        numbers = {name: getattr(self, name) for name in ("agreement", "kappa", "unscored", "naive", "corrected")}
        return {"format": FORMAT, **plain(data), "numbers": plain(numbers)}

    def save(self, path: Path) -> Path:
        data = conceal_json(self.to_json())
        return write_atomic(path, json.dumps({**data, "seal": digest(data)}, ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a calibration; its numbers are worked out again.

        Raises:
            InputError: it is none, of another format, or was edited since it was written.
        """
        data, again = read_json(path), f"poclab calibrate {path.parent.parent} {path.name.removesuffix(SUFFIX)}"
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise InputError(f"{path}: not a calibration of format {FORMAT}", fix=again)
        if data.pop("seal", None) != digest(data):
            raise InputError(f"{path}: not as `poclab calibrate` wrote it", fix=f"`git checkout` it, or `{again}`")
        known = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items() if name in cls.__dataclass_fields__
        }
        pairs = tuple(Pair(**{**one, "again": tuple(one["again"])}) for one in data["pairs"])
        return cls(**{**known, "pairs": pairs, "path": path})

    def refusal(self, at_least: float | None) -> str:
        """Return why no criterion on the judge's score is to be decided; nothing where one may. `at_least` is the charter's bound for kappa."""
        if self.kappa is None:
            return f"the judge {self.name!r} is not calibrated: kappa is {self.kappa_text}"
        if at_least is None:
            return f"the charter does not say how far the judge {self.name!r} has to agree with people: {FIX_THRESHOLD}"
        if self.kappa.low < at_least:
            enough = self.labels_needed(at_least)
            more = f", which takes about {enough} labels, if further ones agree like these" if enough else ""
            more += f": more than the {self.sampled['of']} replies that the run has" if enough and enough > self.sampled["of"] else ""
            return f"the judge {self.name!r} agrees too little with people: kappa {self.kappa}; its lower edge is to be at least {at_least:g}{more}"
        return ""

    def labels_needed(self, at_least: float) -> int | None:
        """Return about how many labels it takes until the judge may be decided by; None if it never may, or cases are in clusters."""
        return None if any(self._sides[2]) else stats.kappa_cases(self.counts, at_least)

    def stale(self, poc: str) -> str:
        """Return why the labels are not those that the judge was held against; nothing where they are. `poc` is the POC as one types it."""
        if self.path is None:
            return ""
        labels = self.path.with_name(f"{self.name}{LABELS}")
        with contextlib.suppress(InputError):  # it is gone, or cannot be read
            if labels_digest(labels) == self.labels_digest:
                return ""
        return (
            f"{RUBRICS}/{labels.name}: the labels are not those that the judge {self.name!r} was held against: "
            f"`poclab calibrate {poc} {self.name}`"
        )

    def stranger(self, judges: set[tuple[str, str]], poc: str) -> str:
        """Return which models answered as the judge in a run, and not when it was calibrated, in words; nothing where none did.

        `judges` are the models of the run's calls, as asked for and as answered; `poc` is the POC as one types it.
        """
        answered = {answered for model, answered in judges if model == self.model}
        if unknown := sorted(answered - set(self.answered)):
            known = ", ".join(self.answered) or "a model that was not told"
            return (
                f"{', '.join(unknown)} answered as the judge {self.name!r} in this run, and it was calibrated with {known}: "
                f"`{LIVE} poclab calibrate {poc} {self.name}`; where that is newer than the run, run again with {LIVE}"
            )
        return ""


DISAGREED = ("case", "people", "judge", "reply", "why")


def _short(text: str) -> str:
    return cut(" ".join(text.split()), WIDEST)


def calibration_path(poc: Path | str, name: str) -> Path:
    """Return the file of a POC that holds the calibration of a rubric of this name."""
    return Path(poc, RUBRICS, f"{name}{SUFFIX}")


def calibrate(poc: Path | str, judge: Judge, *, repeats: int = 1, budget: str | None = None, workers: int = 8) -> Calibration:
    """Hold a judge against the labels of a POC, and keep what was found there.

    Raises:
        InputError: no repeats, no labels, or some are missing; or all answers are from the ledger, and the calibration that is there is of other models.
        BudgetError: the budget is used up.
        EndpointError: no question was answered.
        StoreError: somebody else is writing labels.
    """
    if repeats < 1:
        raise InputError(f"repeats is {repeats}: the judge is asked once or more", fix="repeats=1")
    rubric = judge.rubric
    with alone(poc):  # the digest is of what was read: somebody may label meanwhile, and while the judge is asked
        labels = read_labels(poc, rubric)
        held = labels_digest(labels.path)
    if labels.missing:
        raise InputError(
            f"{labels.path}: {len(labels.missing)} of {len(labels.sample)} replies have no label yet: {', '.join(labels.missing[:8])}",
            fix=f"fill in label ({', '.join((*rubric.labels, UNSCORED))}), by and on",
        )
    asked = [Asked(one.case, one.reply, repeat) for repeat in range(repeats) for one in labels.sample]
    asked += [Asked(one.case, one.reply) for one in labels.others]
    answers = ask_all(asked, lambda one: judge.verdict(one.case, one.reply), late=LATE, poc=Path(poc), budget=budget, workers=workers)
    if not answers.paid:
        raise EndpointError(
            f"the judge {rubric.name!r} answered nothing, and is not calibrated anew: {answers.found[0].reason}",
            fix=f"mend that, in the rubric or at the endpoint, and `poclab calibrate {poc} {rubric.name}` again",
        )
    judged = len(labels.sample) * repeats
    clusters = [one.case.cluster for one in labels.lines if one.case.cluster]
    found = Calibration(
        name=rubric.name,
        rubric=rubric.digest,
        rubric_version=rubric.version,
        model=rubric.model,
        answered=answers.answered,
        labels=dict(rubric.labels),
        pairs=_pairs(labels.sample, answers.found[:judged]),
        others=tuple(one.label or UNSCORED for one in answers.found[judged:]),
        sampled=dict(labels.head),
        labels_digest=held,
        by=tuple(dict.fromkeys(one.by for one in labels.sample)),
        on=datetime.date.today().isoformat(),
        repeats=repeats,
        cost_usd=answers.cost_usd,
        clustered=len(set(clusters)) < len(clusters),
        others_clusters=tuple(one.case.cluster for one in labels.others) if clusters else (),
        origin=answers.origin(Path(poc)),
    )
    path = calibration_path(poc, rubric.name)
    if answers.replayed:
        _refuse_older(found, path, f"{LIVE} poclab calibrate {poc} {rubric.name}")
    return replace(found, path=found.save(path))


def _pairs(sample: Sequence[Labelled], found: Sequence[Verdict]) -> tuple[Pair, ...]:
    """Return what people and judge say of a sample; the judge was asked about all of it, and then all over again."""
    said = [one.label or UNSCORED for one in found]
    times = [said[place :: len(sample)] for place in range(len(sample))]
    return tuple(
        Pair(one.case.id, one.label, first, verdict.reason, one.reply.text, one.case.cluster, tuple(again))
        for one, verdict, (first, *again) in zip(sample, found, times, strict=False)
    )


def _refuse_older(found: Calibration, path: Path, fix: str) -> None:
    """Refuse to put replayed answers in the place of what other models said to the same rubric."""
    there = None
    with contextlib.suppress(InputError):  # none, or not as it was written
        there = Calibration.load(path)
    if there and there.rubric == found.rubric and there.answered != found.answered:
        one, other = (", ".join(side.answered) or "a model that was not told" for side in (there, found))
        raise InputError(f"{path}: it was calibrated with {one}, and stays: the answers of {other}, {found.origin}", fix=fix)
