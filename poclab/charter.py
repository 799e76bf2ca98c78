"""The charter: the decision, the numbers that decide it, and who answers for it.

Loads and validates `charter.yaml` and gives its digest. A charter may still be unsigned or lack an owner while the
work begins: `missing` names what a decision will ask for.
"""

from __future__ import annotations

import datetime
import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poclab.errors import InputError, printable, refuse_unknown
from poclab.files import CHARTER, check_json, digest, read_yaml
from poclab.tables import block, html_table

KEYS = (
    "decision",
    "uncertainty",
    "owner",
    "sponsor",
    "signed",
    "data",
    "timebox",
    "production_shape",
    "volume_per_month",
    "criteria",
    "judges",
    "prices",
)
NESTED = {"signed": ("by", "on", "where"), "data": ("source", "pii"), "timebox": ("start", "weeks"), "judges": ("kappa_at_least",)}
PII = ("agreed_by", "on", "where")
#: Dollars per million tokens, and where and when somebody read them.
PRICE_KEYS = ("input", "output", "cached_input", "on", "source")
FIX_PRICES = "prices: {my-model: {input: 1.0, output: 4.0, on: 2026-11-23, source: ...}}"
CRITERION_KEYS = ("metric", "at_least", "at_most", "confidence", "split")
#: What a criterion may be about besides the name of a score.
METRICS = ("accuracy", "failed", "failed_share", "latency_p50_s", "latency_p95_s", "cost_usd_per_case", "cost_usd", "survival")
#: The scores that come with poclab.
SCORES = ("exact", "contains", "token_f1", "number", "json_fields", "abstains", "evidence_recall")
# Every other metric is a rate or a score.
BEYOND_1 = ("failed", "latency_p50_s", "latency_p95_s", "cost_usd_per_case", "cost_usd")


@dataclass(frozen=True)
class Criterion:
    """One number to reach: exactly one of `at_least` and `at_most`, held with a two-sided confidence on one split."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    confidence: float = 0.95
    split: str = "test"

    @property
    def bound(self) -> float:
        return self.at_least if self.at_least is not None else self.at_most

    def __str__(self) -> str:
        # Not rounded: an edit of a criterion is found by its text.
        bound = f"{'>=' if self.at_least is not None else '<='} {self.bound:.15g}"
        return f"{self.metric} {bound} on {self.split} ({100 * self.confidence:.12g}% confidence)"


@dataclass(frozen=True)
class Charter:
    """What was agreed before the work began; `text` holds every key as written."""

    decision: str
    owner: str
    sponsor: str
    criteria: tuple[Criterion, ...]
    text: Mapping[str, Any] = field(repr=False)
    path: Path | None = None

    @property
    def digest(self) -> str:
        """The SHA-256 over what the charter says, whatever its layout and comments."""
        return digest(dict(self.text))

    @property
    def criteria_texts(self) -> tuple[str, ...]:
        """What is asked for, as it is shown and as every run keeps it: the criteria, and how far a judge has to agree with people."""
        kappa = self.kappa_at_least
        return (*map(str, self.criteria), *([] if kappa is None else [f"kappa of a judge >= {kappa:.15g}"]))

    @property
    def prices(self) -> Mapping[str, Mapping[str, Any]]:
        """The prices of models that the charter gives, by model: dollars per million tokens."""
        return self.text.get("prices") or {}

    @property
    def kappa_at_least(self) -> float | None:
        """How far a judge has to agree with people, by the lower edge of kappa, before a criterion on its score is decided; None: not said."""
        return (self.text.get("judges") or {}).get("kappa_at_least")

    @property
    def missing(self) -> tuple[str, ...]:
        """What has to be settled before this charter can decide anything."""
        signed = self.text.get("signed") or {}
        wants = {
            "decision": self.decision,
            "owner": self.owner,
            "sponsor": self.sponsor,
            "criteria": self.criteria,
            "signed": all(signed.get(key) for key in ("by", "on", "where")),
        }
        return tuple(name for name, value in wants.items() if not value)

    def _facts(self) -> Iterator[tuple[str, str]]:
        """Yield what was agreed, each with its name, in the order to read it."""
        signed, timebox = self.text.get("signed") or {}, self.text.get("timebox") or {}
        yield "decision", self.decision
        yield "uncertainty", self.text.get("uncertainty") or ""
        yield "owner, sponsor", ", ".join(filter(None, (self.owner, self.sponsor)))
        yield "signed", ", ".join(f"{key} {value}" for key, value in signed.items() if value)
        yield "time box", ", ".join(f"{key} {value}" for key, value in timebox.items() if value)
        for one in self.criteria_texts:
            yield "criterion", one
        yield "to settle before it decides", ", ".join(self.missing)

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {printable(text)}" for name, text in self._facts() if text)

    def _repr_html_(self) -> str:
        return block(html_table([], [fact for fact in self._facts() if fact[1]]))

    @classmethod
    def load(cls, path: Path | str) -> Charter:
        """Load a charter from its file or from its POC folder.

        Raises:
            InputError: unknown keys (with the nearest valid one), or a criterion without exactly one bound that can be reached.
        """
        path = Path(path)
        path = path / CHARTER if os.path.isdir(path) else path
        data = {key: _plain(value) for key, value in read_yaml(path).items()}
        refuse_unknown(data, KEYS, where=str(path))
        check_json(data, where=str(path))
        criteria = data.get("criteria") or []
        if not isinstance(criteria, list):
            raise InputError(f"{path}: criteria is a list of metrics with a bound each, found {criteria!r}")
        for key in ("decision", "owner", "sponsor", "uncertainty", "production_shape"):
            if data.get(key) is not None and not isinstance(data[key], str):
                raise InputError(f"{path}: {key} is a text, found {data[key]!r}")
        for key, known in NESTED.items():
            if not isinstance(data.get(key) or {}, dict):
                raise InputError(f"{path}: {key} holds `key: value` lines, found {data[key]!r}")
            refuse_unknown(data.get(key) or {}, known, where=f"{path}: {key}")
        _check_days(data, path)
        _check_prices(data.get("prices"), path)
        kappa = (data.get("judges") or {}).get("kappa_at_least")
        if kappa is not None and (isinstance(kappa, bool) or not isinstance(kappa, (int, float)) or not 0 < kappa < 1):
            raise InputError(
                f"{path}: judges.kappa_at_least is a number between 0 and 1, found {kappa!r}", fix="judges: {kappa_at_least: 0.6}"
            )
        volume = data.get("volume_per_month")
        if volume is not None and (isinstance(volume, bool) or not isinstance(volume, (int, float)) or volume < 0):
            raise InputError(
                f"{path}: volume_per_month is a number of requests of at least 0, found {volume!r}", fix="volume_per_month: 1000"
            )
        parsed = tuple(criterion(one, f"{path}, criterion {number}") for number, one in enumerate(criteria, 1))
        return cls(data.get("decision") or "", data.get("owner") or "", data.get("sponsor") or "", parsed, data, path)


def _check_prices(prices: Any, path: Path) -> None:
    if not isinstance(prices or {}, dict):
        raise InputError(f"{path}: prices are given by model, found {prices!r}", fix=FIX_PRICES)
    for model, given in (prices or {}).items():
        where = f"{path}: prices: {model}"
        if not isinstance(given, dict):
            raise InputError(f"{where}: found {given!r}", fix=FIX_PRICES)
        refuse_unknown(given, PRICE_KEYS, where=where)
        for key in ("input", "output", "on"):
            if given.get(key) is None:
                raise InputError(f"{where}: {key} is missing", fix=FIX_PRICES)
        for key in ("input", "output", "cached_input"):
            value = given.get(key, 0)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e6:
                raise InputError(f"{where}: {key} is dollars per million tokens, found {value!r}", fix=FIX_PRICES)
        if not isinstance(given.get("source", ""), str):
            raise InputError(f"{where}: source is a text, found {given['source']!r}", fix=FIX_PRICES)
        _check_day(f"prices: {model}: on", given["on"], path)


def _check_day(key: str, day: Any, path: Path) -> None:
    try:
        # Read back, since a day by its week, or without hyphens, would not sort among the others.
        is_day = datetime.date.fromisoformat(day).isoformat() == day
    except (TypeError, ValueError):
        is_day = False
    if not is_day:
        raise InputError(f"{path}: {key} is a day, found {day!r}", fix="write it as 2026-11-23")


def _check_days(data: Mapping[str, Any], path: Path) -> None:
    """Refuse a day that is none, a time box that is no number of weeks, and an agreement on personal data of another shape."""
    timebox, pii = data.get("timebox") or {}, (data.get("data") or {}).get("pii") or {}
    if not isinstance(pii, dict):
        raise InputError(
            f"{path}: data.pii says who agreed, when and where, found {pii!r}", fix=f"pii: {{{', '.join(f'{key}: ...' for key in PII)}}}"
        )
    refuse_unknown(pii, PII, where=f"{path}: data.pii")
    for key, day in (
        ("timebox.start", timebox.get("start")),
        ("signed.on", (data.get("signed") or {}).get("on")),
        ("data.pii.on", pii.get("on")),
    ):
        if day:
            _check_day(key, day, path)
    weeks = timebox.get("weeks")
    if weeks is not None and (isinstance(weeks, bool) or not isinstance(weeks, (int, float)) or not 0 < weeks <= 520):
        raise InputError(
            f"{path}: timebox.weeks is a number of weeks, above 0 and up to 520, found {weeks!r}",
            fix="timebox: {start: 2026-11-23, weeks: 6}",
        )


def criterion(data: Any, where: str) -> Criterion:
    """Return the criterion that a mapping describes; `where` is named in errors.

    Raises:
        InputError: an unknown key or metric, or not exactly one bound that can be reached.
    """
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected `metric: ...` and a bound, found {data!r}")
    refuse_unknown(data, CRITERION_KEYS, where=where)
    if not isinstance(data.get("metric"), str):
        raise InputError(f"{where}: names no metric", fix=f"use the name of a score, or one of: {', '.join(METRICS)}")
    known = (*METRICS, *SCORES)
    # Any other name may be a score of one's own; one that is nearly a known name is a slip.
    if difflib.get_close_matches(data["metric"], known, n=1, cutoff=0.85):
        refuse_unknown([data["metric"]], known, where=where, what="metric")
    if len({"at_least", "at_most"} & set(data)) != 1:
        raise InputError(f"{where}: {data['metric']} needs exactly one of at_least and at_most", fix="at_least: 0.8")
    wrong = (
        "at_least" if data["metric"] in (*BEYOND_1, "failed_share") else "at_most" if data["metric"] in ("accuracy", "survival") else None
    )
    if wrong in data:
        right = "at_most" if wrong == "at_least" else "at_least"
        raise InputError(f"{where}: {wrong} on {data['metric']} asks for a bad result", fix=f"{right}: {data[wrong]}")
    for key in ("at_least", "at_most", "confidence"):
        if key in data and (isinstance(data[key], bool) or not isinstance(data[key], (int, float))):
            raise InputError(f"{where}: {key} is a number, found {data[key]!r}")
    for key in ("at_least", "at_most"):
        if data["metric"] in BEYOND_1 and data.get(key, 0) < 0:
            raise InputError(f"{where}: {key} {data[key]:g}: {data['metric']} is never below 0", fix=f"{key}: 5")
        if data["metric"] not in BEYOND_1 and not 0 <= data.get(key, 0) <= 1:
            raise InputError(f"{where}: {key} {data[key]:g}: {data['metric']} lies between 0 and 1", fix=f"{key}: 0.8")
    if not 0.5 <= data.get("confidence", 0.95) <= 0.9999:
        raise InputError(f"{where}: confidence {data['confidence']}: expected at least 0.5 and at most 0.9999", fix="confidence: 0.95")
    if data.get("split", "test") not in ("dev", "test"):
        raise InputError(f"{where}: split {data['split']!r}", fix="use dev or test")
    if data["metric"] == "survival" and data.get("split") != "dev":
        raise InputError(f"{where}: held-out cases are not drilled: survival is told on dev", fix="split: dev")
    return Criterion(**data)


def _plain(value: Any) -> Any:
    """Return a YAML value with its dates as text: they are read, compared and digested as they were written."""
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
