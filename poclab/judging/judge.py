"""A judge: a model that gives a reply one of a rubric's labels. It is a score like any other, and is believed only when it is calibrated.

A verdict that is not on the menu, a refusal, an answer that was cut and an error are no verdict: the score has no value (`unscored`) and the
reason is kept, so that the report's number is incomplete rather than guessed. The answer is asked for in the form of a JSON schema; an
endpoint that refuses that is asked again in words alone. Which of two replies is better is asked in both orders: only what holds in both
is a preference. Whether a judge is worth anything is measured in `calibration` and `robustness`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poclab import models, system
from poclab.cases import Case
from poclab.errors import EndpointError, PocError, printable, told
from poclab.files import find_poc
from poclab.judging.reading import Verdict, read, short
from poclab.judging.rubric import PAIR, Rubric, pair_schema
from poclab.report import reply_text
from poclab.requests import FIX_KEY
from poclab.scores import Score, Scorer
from poclab.system import Reply

if TYPE_CHECKING:
    import openai

#: Why an answer is none, by what the endpoint says of its end.
CUT = {
    "length": "the judge's answer was cut: raise max_tokens in the rubric's parameters",
    "content_filter": "the judge's answer was filtered",
}
FIRST, SECOND, TIE = "first", "second", "tie"
IDENTICAL = "both replies are the same"


@dataclass(frozen=True)
class Preference:
    """Which of two replies is better: `first`, `second` or `tie`; None when the judge gave no verdict in one of the orders: `reasons` say why.

    A judge that changes its mind with the order (`agreed` is false) has no preference: that is a tie.
    """

    word: str | None
    agreed: bool
    reasons: tuple[str, str]


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Judge(Scorer):
    """A model with a rubric, as a score: `poclab.evaluate(system, cases, [poclab.Judge("correctness")])`.

    `rubric` is the name of one in the POC's folder `rubrics`, else of one that comes with poclab; a path to a file; or a `Rubric`.
    `model` takes the place of the rubric's own, and belongs to its digest. `poc` is found as for the command line.

    Raises:
        InputError: there is no such rubric, or it is none.
        EndpointError: the model cannot be asked.
    """

    rubric: Rubric = field(kw_only=True)

    def __init__(self, rubric: Rubric | Path | str, *, model: str | None = None, poc: Path | str | None = None) -> None:
        if not isinstance(rubric, Rubric):
            rubric = Rubric.named(rubric, find_poc(poc))
        rubric = replace(rubric, model=model) if model else rubric
        try:
            models.check(rubric.model)
        except EndpointError as error:
            if error.fix != FIX_KEY:
                raise
            raise EndpointError(f"{error.message}, the judge {rubric.name!r}", fix=rubric.fix_key) from None
        for name, value in {"name": rubric.name, "function": self._score, "applies": rubric.applies, "rubric": rubric}.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    @classmethod
    def load(cls, path: Path | str, *, model: str | None = None) -> Judge:
        """Return the judge of a rubric file."""
        return cls(Path(path), model=model)

    def __repr__(self) -> str:
        told = f"{self.rubric.name!r}, version {self.rubric.version}, {self.rubric.model}, digest {self.rubric.digest[:12]}"
        return printable(f"Judge({told})")

    def failed(self, case: Case, reason: str) -> Score | None:
        """Return the score of a case whose system failed: 0, without asking the judge."""
        found = super().failed(case, reason)
        return found and replace(found, source=self.rubric.digest_for(case))

    def _score(self, case: Case, reply: Reply) -> Score:
        verdict, source = self.verdict(case, reply), self.rubric.digest_for(case)
        if verdict.label is None:
            return Score(None, "", verdict.reason, source)
        return Score(float(self.rubric.labels[verdict.label]), verdict.label, verdict.reason, source)

    def verdict(self, case: Case, reply: Reply) -> Verdict:
        """Ask the judge about one reply."""
        asked = {"case": case.id, "reply": reply_text(reply), "rubric": self.rubric.digest_for(case)}
        with system.step(f"judge {self.name}", "EVALUATOR", asked) as step:
            found = self._asked(self.rubric.messages(case, reply), self.rubric.schema, self.rubric.labels)
            step.outputs = vars(found)
        return found

    def prefer(self, case: Case, one: Reply, other: Reply) -> Preference:
        """Ask the judge which of two replies is better, in both orders; where it would be shown the same in both, that is a tie, and not asked."""
        messages = self.rubric.pair_messages(case, one, other), self.rubric.pair_messages(case, other, one)
        if messages[0] == messages[1]:
            return Preference(TIE, True, (IDENTICAL, IDENTICAL))
        asked = {"case": case.id, "first": reply_text(one), "second": reply_text(other), "rubric": self.rubric.digest_for(case)}
        with system.step(f"judge {self.name}, pairwise", "EVALUATOR", asked) as step:
            schema = pair_schema(self.rubric.name)
            found = _preference(*(self._asked(each, schema, PAIR) for each in messages))
            step.outputs = vars(found)
        return found

    @cached_property
    def client(self) -> openai.OpenAI:
        return models.client()

    @cached_property
    def _in_words(self) -> list[bool]:
        """Holds something once the endpoint has refused to answer by a schema."""
        return []

    def _asked(self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any], labels: Mapping[str, Any]) -> Verdict:
        import openai

        try:
            return _verdict(self._answer(messages, schema), labels)
        except (openai.OpenAIError, PocError) as error:
            return Verdict(None, f"the judge failed: {short(told(error))}")

    def _answer(self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any]) -> Any:
        import openai

        # As a body: the SDK knows some parameters alone, and takes others, such as `timeout`, for its own.
        parameters = models.limited(self.client, self.rubric.parameters)
        create = self.client.chat.completions.create
        ask = partial(create, model=self.rubric.model, messages=list(messages), extra_body=parameters)
        if not self.rubric.structured or self._in_words:
            return ask()
        try:
            return ask(response_format=schema)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if not any(word in str(error).casefold() for word in ("response_format", "json_schema", "schema", "structured")):
                raise
            self._in_words.append(True)
        except EndpointError:
            # A refusal is not recorded: where it was answered in words, the schema is only missing in a replay.
            context = system.current_case.get()
            if context is None or context.missed != 1:
                raise
            context.missed, context.stop = 0, None
        return ask()


def _verdict(answer: Any, labels: Mapping[str, Any]) -> Verdict:
    choice = next(iter(getattr(answer, "choices", None) or ()), None)
    message = getattr(choice, "message", None)
    if message is None:
        return Verdict(None, "the judge answered without choices")
    if message.refusal:
        return Verdict(None, f"the judge refused: {short(str(message.refusal))}")
    if str(choice.finish_reason) in CUT:
        return Verdict(None, CUT[choice.finish_reason])
    return read(message.content if isinstance(message.content, str) else "", labels)


def _preference(there: Verdict, back: Verdict) -> Preference:
    if there.label is None or back.label is None:
        return Preference(None, False, tuple("" if one.label else one.reason for one in (there, back)))
    reasons = (there.reason, back.reason)
    one = {"a": FIRST, "b": SECOND, "tie": TIE}[there.label]
    other = {"a": SECOND, "b": FIRST, "tie": TIE}[back.label]
    return Preference(one if one == other else TIE, one == other, reasons)
