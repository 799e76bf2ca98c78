"""Scores that need no judge: pure functions from a case and a reply to a value, the answer that was extracted, and why.

A scorer is any callable `(case, reply) -> Score | bool | float | None` with a name; None means that the score does not
apply to the case (no evidence was labelled), and the case is left out of that score's n. A case that failed has no reply
to ask a function about: it counts 0 in every score, lest a system gain by failing. A score that does not apply to all
cases says so by the case alone: `Scorer("cites", cites, applies=lambda case: bool(case.expected.get("evidence")))`.

In every answer score a case that expects abstention is right when the reply abstains, and one that expects an answer is
wrong when it does. A reply abstains when it is empty or begins with one of the `abstentions`.
Not covered: whether a reply is true beyond its labels, or well put. `contains` in particular is generous to long replies.
"""

from __future__ import annotations

import inspect
import json
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poclab.cases import ANSWERS_SHOWN, Case, fold
from poclab.errors import InputError
from poclab.system import Reply

#: How replies say that they do not answer. A prompt that dictates other words names them to the score.
ABSTENTIONS = (
    "I don't know",
    "I do not know",
    "I cannot answer",
    "I can't answer",
    "The passages do not",
    "The passages don't",
    "There is no passage",
)
#: Names of numbers and columns that every report has of its own.
TAKEN = (
    "accuracy cases failed failed_share latency_p50_s latency_p95_s cost_usd cost_usd_per_case tokens_in tokens_out "
    "case repeat expected reply failure latency_s trace_id"
).split()
# What holds a digit, with all that hangs together with it. A sign after a letter or digit is a dash (3-4).
_NUMERAL = re.compile(
    r"(?:(?<!\w)[-+])?(?:"
    r"(?<![\w.,])\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+(?:[.,]\d+)?(?!\d)"
    r"|(?:(?<![\w.])\.(?=\d))?\w(?:\w|(?<=\d)[.,](?=\d)|(?<=\d[eE])[-+](?=\d))*)"
)
# The last letters are a unit (5kg).
_NUMBER = re.compile(r"([-+]?(?:(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?)[^\W\d_]*")
# A name (CO2, 3b2) or a version (3.12.1) is passed over; a number that can be read in two ways (3,5) is not.
_PASSED = re.compile(r"[-+]?(?:[^\W\d]\w*.*|\d+(?:\.\d+){2,}|[^\W_]*)", re.DOTALL)
#: The source of a score for which its function asked a model, and told no rubric.
NO_RUBRIC = "none"
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Score:
    """A value in 0..1 or a bool; the answer that was taken out of the reply; why. Value None: it could not be scored.

    `source` is the digest of the rubric that a judge went by, of several one after the other; `NO_RUBRIC` where a scorer asked a model
    by itself; of any other score it is empty.
    """

    value: float | bool | None
    answer: str = ""
    reason: str = ""
    source: str = ""

    @property
    def right(self) -> bool:
        """Whether it is one half or more."""
        return self.value is not None and self.value >= 0.5


@dataclass(frozen=True)
class Scorer:
    """A named scoring function, and the cases it applies to (all of them, unless `applies` says otherwise).

    `reads` raises an `InputError` for a reply that is not in the form that the score takes: its case has failed, as `malformed_output`.

    Raises:
        InputError: a name that no metric can have, or that every report has already.
    """

    name: str
    function: Callable[[Case, Reply], Score | bool | float | None]
    applies: Callable[[Case], bool] = lambda case: True
    reads: Callable[[Reply], Any] | None = None

    def __post_init__(self) -> None:
        taken = self.name in TAKEN or self.name.endswith(("_low", "_high")) or re.fullmatch(r"all_of_\d+", self.name)
        if taken or not re.fullmatch(r"[A-Za-z_]\w*", self.name, re.ASCII):
            taken = ": every report has a number or a column of that name" if taken else ""
            raise InputError(f"a score cannot be called {self.name!r}{taken}", fix='use letters, digits and underscores: "my_score"')

    def __call__(self, case: Case, reply: Reply) -> Score | None:
        return as_score(self.function(case, reply)) if self.applies(case) else None

    def failed(self, case: Case, reason: str) -> Score | None:
        """Return the score of a case whose system failed: 0 wherever the score applies."""
        return Score(0.0, "", reason) if self.applies(case) else None


def as_score(value: Score | bool | float | None) -> Score | None:
    """Return what a scorer gave as a `Score`.

    Raises:
        ValueError: not a bool or a number in 0..1. nan never stands for "left out"; return None for that.
    """
    if value is None:
        return None
    score = value if isinstance(value, Score) else Score(value)
    if score.value is None:
        return score
    number = math.nan if isinstance(score.value, str) else float(score.value)
    if not 0 <= number <= 1:
        raise ValueError(f"a score is a bool or a number between 0 and 1, found {score.value!r}")
    return Score(
        bool(score.value) if type(score.value).__name__ in ("bool", "bool_") else number, str(score.answer), str(score.reason), score.source
    )


def as_scorer(function: Any) -> Scorer:
    """Return any callable as a named scorer.

    Raises:
        InputError: it cannot be called with a case and a reply, or has no name (or no fit one) to report under.
    """
    if isinstance(function, Scorer):
        return function
    name = getattr(function, "name", None) or getattr(function, "__name__", "")
    if not callable(function) or not name or name == "<lambda>" or not _takes_two(function):
        raise InputError(
            f"{function!r} is not a scorer",
            fix="pass a function `def my_score(case, reply)`, or one of poclab.scores, called: scores.exact()",
        )
    return Scorer(str(name), function)


def _takes_two(function: Callable[..., Any]) -> bool:
    # Seen here, and not after every case was asked and paid for.
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a function in C that does not tell
        pass
    return True


def exact(*, abstentions: Sequence[str] = ABSTENTIONS) -> Scorer:
    """Right when the whole reply equals an accepted answer after `normalise`.

    Source: `compute_exact` of the official SQuAD 2.0 evaluation script.
    """

    def score(gold: str, reply: str) -> tuple[float, str]:
        return float(normalise(gold) == normalise(reply)), "equals" if normalise(gold) == normalise(reply) else "differs from"

    return _best_answer("exact", score, abstentions, binary=True)


def token_f1(*, abstentions: Sequence[str] = ABSTENTIONS) -> Scorer:
    """F1 of the words that reply and accepted answer share, the best over the accepted answers.

    Source: `compute_f1` of the official SQuAD 2.0 evaluation script; when one side has no words left, 1 if both have none.
    """

    def score(gold: str, reply: str) -> tuple[float, str]:
        wanted, given = normalise(gold).split(), normalise(reply).split()
        if not wanted or not given:
            return float(wanted == given), "no words to compare with"
        shared = sum((Counter(wanted) & Counter(given)).values())
        return 2 * shared / (len(wanted) + len(given)), f"{shared} of {len(wanted)} expected and {len(given)} given words shared with"

    return _best_answer("token_f1", score, abstentions, binary=False)


def contains(*, abstentions: Sequence[str] = ABSTENTIONS) -> Scorer:
    """Right when the reply holds an accepted answer as whole words after `normalise`.

    An accepted answer that normalises to nothing (`**`, `the`) is looked up as it stands, not as part of a longer run of
    its own characters or a longer word: `*` is not in `**`.
    """

    def score(gold: str, reply: str) -> tuple[float, str]:
        words = normalise(gold)
        found = f" {words} " in f" {normalise(reply)} " if words else _stands_in(gold.strip(), reply)
        return float(found), "contains" if found else "does not contain"

    return _best_answer("contains", score, abstentions, binary=True)


def number(*, rel_tol: float = 1e-6, abs_tol: float = 0.0, abstentions: Sequence[str] = ABSTENTIONS) -> Scorer:
    """Right when the last number in the reply equals that of an accepted answer within a tolerance.

    Reads `1,234.5`, `-3`, `.5`, `1e5` and `5kg`; `50%` is read as 50. Units are not looked at. Of a range or a date (`3-4`,
    `2026-11-23`) it reads the last part, without a sign. `3.12` is a number, a version of three parts such as `3.12.1` none,
    and neither is the digit of a name (`CO2`). A last number that can be read in two ways (`3,5`, `1.234,5`, `1 234`,
    `1_000`), or is too large, is not read at all: the case is wrong and the reason says so.
    """

    def score(gold: str, reply: str) -> tuple[float, str]:
        wanted, given = last_number(gold), last_number(reply)
        if wanted is None:
            raise InputError(f"the accepted answer {gold!r} holds no number", fix="label a number such as 1234.5, or use another score")
        if given is None:
            numeral = _last_numeral(reply)
            return 0.0, f"{numeral!r} can be read in more than one way, or is too large, and is not" if numeral else "no number, and not"
        close = math.isclose(wanted, given, rel_tol=rel_tol, abs_tol=abs_tol)
        return float(close), f"{given!r} is {'close to' if close else 'not'}"

    return _best_answer("number", score, abstentions, binary=True)


def json_fields(*, abstentions: Sequence[str] = ABSTENTIONS) -> Scorer:
    """Share of the fields of `expected.data` that the reply gives with an equal value.

    Takes the reply's data, else its text as one JSON object. Numbers are equal by value (1 and 1.0; true is not 1);
    further fields of the reply are not looked at. Does not apply to a case that expects neither data nor abstention.
    """

    def score(case: Case, reply: Reply) -> Score:
        if case.abstain:
            return _abstention(case, reply, abstentions)
        wanted = case.expected["data"]
        given = reply.data if isinstance(reply.data, Mapping) else _json_object(reply.text)
        if given is None:
            return Score(0.0, reply.text, "the reply is not a JSON object")
        wrong = [key for key in wanted if key not in given or not _equal(wanted[key], given[key])]
        reason = f"differs in {', '.join(wrong)}" if wrong else "every field is equal"
        return Score(
            1 - len(wrong) / len(wanted), json.dumps({key: given.get(key) for key in wanted}, ensure_ascii=False, default=str), reason
        )

    return Scorer("json_fields", score, applies=lambda case: case.abstain or bool(case.expected.get("data")))


def abstains(*, abstentions: Sequence[str] = ABSTENTIONS) -> Scorer:
    """Right when the reply abstains exactly where it should: on the cases that cannot be answered, and on no other."""

    def score(case: Case, reply: Reply) -> Score:
        did = abstained(reply, abstentions)
        wanted = "abstention" if case.abstain else "an answer"
        return Score(did == case.abstain, reply.text, f"{'abstained' if did else 'answered'}, expected {wanted}")

    return Scorer("abstains", score)


def evidence_recall() -> Scorer:
    """Share of the expected evidence that stands, white space folded, inside one of the passages given to the model.

    Does not apply to a case without labelled evidence. Says nothing about whether the model used it.
    """

    def score(case: Case, reply: Reply) -> Score:
        wanted = case.expected["evidence"]
        given = [fold(passage.text) for passage in reply.contexts]
        lost = [phrase for phrase in wanted if not any(fold(phrase) in text for text in given)]
        reason = f"not in the passages: {'; '.join(lost)}" if lost else "all evidence was given to the model"
        return Score(1 - len(lost) / len(wanted), f"{len(given)} passages", reason)

    return Scorer("evidence_recall", score, applies=lambda case: bool(case.expected.get("evidence")))


def every(name: str, *scorers: Any) -> Scorer:
    """Right when each of these scores is right (one half or more) that applies to the case; does not apply where none of them does.

    One that cannot score leaves this without a value. The reason is that of the first that is not right, else all of them.
    """
    known = [as_scorer(one) for one in scorers]

    def score(case: Case, reply: Reply) -> Score:
        found = [(one.name, given) for one in known if (given := one(case, reply)) is not None]
        wrong = [(of, given) for of, given in found if not given.right]
        reason = "; ".join(f"{of}: {given.reason}" for of, given in wrong[:1] or found)
        unknown = any(given.value is None for _, given in found)
        source = " ".join(dict.fromkeys(given.source for _, given in found if given.source))
        return Score(None if unknown else not wrong, next((given.answer for _, given in wrong or found), ""), reason, source)

    readers = [one.reads for one in known if one.reads]
    return Scorer(name, score, lambda case: any(one.applies(case) for one in known), lambda reply: [reads(reply) for reads in readers])


def normalise(text: str) -> str:
    """Return the text in lower case without ASCII punctuation and the words a, an, the; white space folded.

    Source: `normalize_answer` of the official SQuAD evaluation script, in its order of steps.
    """
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split())


def abstained(reply: Reply, abstentions: Sequence[str] = ABSTENTIONS) -> bool:
    """True when the reply is empty, or begins with one of the abstentions (case, punctuation and spaces aside).

    A reply of punctuation or articles alone (`**`) is an answer.
    """
    if reply.data is not None or reply.effects:
        return False
    text = normalise(reply.text.replace("\u2019", "'"))
    return not reply.text.strip() or any(f"{text} ".startswith(f"{normalise(words)} ") for words in abstentions)


def last_number(text: str) -> float | None:
    """Return the last number in a text; None when there is none, or when the last one cannot be read in one way only."""
    number = _NUMBER.fullmatch(_last_numeral(text) or "")
    value = float(number[1].replace(",", "")) if number else math.inf
    return value if math.isfinite(value) else None


def _last_numeral(text: str) -> str | None:
    plain = text.replace("\u2212", "-")  # the minus sign that word processors and models write
    found = [one for one in _NUMERAL.findall(plain) if _NUMBER.fullmatch(one) or not _PASSED.fullmatch(one)]
    return found[-1] if found else None


def _stands_in(gold: str, reply: str) -> bool:
    border = "[" + "".join(map(re.escape, gold)) + (r"\w]" if re.search(r"\w", gold) else "]")
    return re.search(f"(?<!{border}){re.escape(gold)}(?!{border})", reply) is not None


def _best_answer(name: str, score: Callable[[str, str], tuple[float, str]], abstentions: Sequence[str], *, binary: bool) -> Scorer:
    """Return a scorer that takes the best of the accepted answers; does not apply to a case that expects none."""

    def best(case: Case, reply: Reply) -> Score:
        answers = case.expected.get("answers", ())
        if case.abstain or abstained(reply, abstentions):
            return _abstention(case, reply, abstentions)
        # As in the official script: an answer that normalises to nothing counts only when there is no other.
        worded = [answer for answer in answers if normalise(answer)] or list(answers)
        value, reason, answer = max((*score(answer, reply.text), answer) for answer in worded)
        told = _any_of(worded) if binary and not value and len(worded) > 1 else repr(answer)
        return Score(bool(value) if binary else value, reply.text, f"{reason} {told}")

    return Scorer(name, best, applies=lambda case: case.abstain or bool(case.expected.get("answers")))


def _any_of(answers: Sequence[str]) -> str:
    more = ", ..." if len(answers) > ANSWERS_SHOWN else ""
    return f"any of {len(answers)}: {', '.join(map(repr, answers[:ANSWERS_SHOWN]))}{more}"


def _abstention(case: Case, reply: Reply, abstentions: Sequence[str]) -> Score:
    right = case.abstain and abstained(reply, abstentions)
    return Score(
        right,
        reply.text,
        "abstains, as expected" if right else "answers, expected abstention" if case.abstain else "abstains, expected an answer",
    )


def _json_object(text: str) -> Mapping[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _equal(wanted: Any, given: Any) -> bool:
    # In Python True == 1 and {"a": True} == {"a": 1}; in JSON they are different values.
    if isinstance(wanted, bool) or isinstance(given, bool):
        return wanted is given
    if isinstance(wanted, dict) and isinstance(given, dict):
        return wanted.keys() == given.keys() and all(_equal(wanted[key], given[key]) for key in wanted)
    if isinstance(wanted, list) and isinstance(given, list):
        return len(wanted) == len(given) and all(map(_equal, wanted, given))
    return wanted == given
