"""What is being tried: a system, the version of it, its reply, and what happened while it answered.

A system is any callable `inputs -> Reply`; a plain `str` or `dict` is accepted as a reply.
While a case is answered, a context collects its model calls and steps, so that poclab can price and trace them without
the system knowing. This module knows no model, no store and no MLflow.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from poclab.errors import InputError, StoreError
from poclab.files import check_json, digest, find_poc, read_text
from poclab.redaction import conceal

PLACEHOLDER = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")
# What was meant as a placeholder and is none, such as {{user question}}: it would reach the model as it stands.
MISSPELT = re.compile(r"\{\{\s*([\w.-][\w .-]*?)\s*\}\}")


@dataclass(frozen=True)
class Prompt:
    """A prompt template. `{{name}}` is a placeholder; single braces are literal. Its digest is its text's."""

    name: str
    text: str

    @classmethod
    def load(cls, path: Path | str) -> Prompt:
        """Read a prompt file; its name is its path relative to its POC folder.

        Raises:
            InputError: the file is missing, empty, or not UTF-8.
        """
        path = Path(path)
        text = read_text(path)
        if not text.strip():
            raise InputError(f"{path}: the prompt file is empty", fix="write the instructions, with {{question}} where the question goes")
        poc = find_poc(path)
        return cls(path.resolve().relative_to(poc).as_posix() if poc else path.name, text)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The names between double braces, each once, in order of appearance."""
        return tuple(dict.fromkeys(PLACEHOLDER.findall(self.text)))

    @property
    def digest(self) -> str:
        return digest(self.text)

    def check(self, known: Sequence[str]) -> None:
        """Raise an `InputError` for a placeholder that is not in `known`, or that is not spelt like a name."""
        for name in MISSPELT.findall(self.text):
            if name not in known:
                raise InputError(
                    f"{self.name}: unknown placeholder {{{{{name}}}}}",
                    fix="use " + " or ".join(f"{{{{{one}}}}}" for one in known),
                )

    def fill(self, **values: str) -> str:
        """Return the text with each placeholder replaced, once: a value's own braces stay as they are."""
        return PLACEHOLDER.sub(lambda match: values[match[1]], self.text)


@dataclass(frozen=True)
class Version:
    """The frozen parameters of a system. Its digest is its identity, its name a label.

    Values are JSON values or `Prompt`s; a prompt counts by its text, wherever the file lies. The values are copied: what
    happens to a list afterwards does not change the version. Versions are equal when their names and digests are.

    Raises:
        InputError: a value that JSON does not have.
    """

    name: str
    parameters: Mapping[str, Any]

    def __init__(self, name: str, /, **parameters: Any) -> None:
        for key, value in parameters.items():
            if not isinstance(value, Prompt):
                check_json(value, where=f"version {name!r}: {key}")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "parameters", copy.deepcopy(parameters))

    def __eq__(self, other: object) -> bool:
        # Not by the values: Python holds 1, 1.0 and True for equal, and a digest does not.
        return isinstance(other, Version) and (self.name, self.digest) == (other.name, other.digest)

    def __hash__(self) -> int:
        return hash((self.name, self.digest))

    @property
    def digest(self) -> str:
        return digest({key: {"text": value.text} if isinstance(value, Prompt) else value for key, value in self.parameters.items()})

    @property
    def prompts(self) -> dict[str, Prompt]:
        return {key: value for key, value in self.parameters.items() if isinstance(value, Prompt)}

    def flat(self) -> dict[str, Any]:
        """Return the parameters for a table: a prompt by its name."""
        return {key: value.name if isinstance(value, Prompt) else value for key, value in self.parameters.items()}

    def to_json(self) -> dict[str, Any]:
        parameters = {
            key: {"prompt": value.name, "text": value.text} if isinstance(value, Prompt) else value
            for key, value in self.parameters.items()
        }
        return {"name": self.name, "digest": self.digest, "parameters": parameters}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Version:
        def value(item: Any) -> Any:
            is_prompt = isinstance(item, dict) and set(item) == {"prompt", "text"}
            return Prompt(item["prompt"], item["text"]) if is_prompt else item

        return cls(data["name"], **{key: value(item) for key, item in data["parameters"].items()})


@dataclass(frozen=True)
class Passage:
    """A stretch of a document that was given to the model: `text` is `document[start:end]`, offsets in characters."""

    text: str
    document: str = ""
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class Reply:
    """What a system answers: text, structured data, the passages it was given, what it changed, and the tools that it called.

    An effect is a change as `changes` describes it, or a `Change`, of which the JSON is kept; a call of a tool is
    `{"tool": name, "arguments": {...}, "turn": 1}`, in order, with its `result` (the beginning of it) or the `error` that it met.
    """

    text: str = ""
    data: Any = None
    contexts: Sequence[Passage | str] = ()
    effects: Sequence[Any] = ()
    tools: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if isinstance(self.contexts, str):
            raise TypeError("contexts is a list of passages; found one text")
        contexts = tuple(Passage(item) if isinstance(item, str) else item for item in self.contexts)
        object.__setattr__(self, "contexts", contexts)
        object.__setattr__(self, "effects", tuple(one.to_json() if hasattr(one, "to_json") else one for one in self.effects))
        object.__setattr__(self, "tools", tuple(self.tools))

    @classmethod
    def of(cls, value: Any) -> Reply:
        """Return `value` as a reply: a `Reply`, a text, or a dict (which becomes `data`).

        Raises:
            TypeError: anything else, `None` included: a system that returns nothing has not answered.
            InputError: something in it is not a JSON value, and could not be kept in a report.
        """
        if isinstance(value, str):
            value = cls(text=value)
        elif isinstance(value, dict):
            value = cls(data=value)
        elif not isinstance(value, Reply):
            raise TypeError(f"a system returns text, a dict or a Reply; this one returned {type(value).__name__}")
        if not isinstance(value.text, str) or not all(isinstance(one, Passage) and isinstance(one.text, str) for one in value.contexts):
            raise TypeError(f"a reply has a text, and contexts that are texts or passages; found {conceal(repr(value))[:200]}")
        check_json(value.to_json(), where="reply")
        return value

    def to_json(self) -> dict[str, Any]:
        contexts = [{"text": one.text, "document": one.document, "start": one.start, "end": one.end} for one in self.contexts]
        data = {"text": self.text, "data": self.data, "contexts": contexts, "effects": list(self.effects)}
        # Left out where there are none: replies of runs from before there were any have the same digest.
        return {**data, "tools": list(self.tools)} if self.tools else data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reply:
        contexts = [Passage(**one) for one in data["contexts"]]
        return cls(text=data["text"], data=data["data"], contexts=contexts, effects=data["effects"], tools=data.get("tools", ()))


#: The status of a call that was still under way when its case ran out of time.
UNDER_WAY = -1


@dataclass(frozen=True)
class Call:
    """One model call. `None` means that the endpoint did not say, or that no price is known; it is never taken for 0.

    `latency_s` runs from the request that was answered to the last byte of the answer; `status` is the HTTP status, 0 without
    an answer, -1 when the case ran out of time before there was one; `answered_id` is the id that the endpoint gave its answer.
    `cost_usd` is what the answer cost when it was paid, by a price of `priced_on`; when `replayed`, it cost nothing now.
    `attempts` counts the requests it took, `lost` those that may be billed although no answer came of them, at a cost that nobody
    knows. `trouble` is the class of failure that the last attempt met, `stopped` why the model wrote no further: `refused` or
    `truncated`. `entry` names the answer in the ledger. `answered_model` and `fingerprint` are what the answer says of the model.
    """

    model: str
    path: str
    latency_s: float
    status: int
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: float | None = None
    answered_id: str | None = None
    tokens_cached: int | None = None
    tokens_reasoning: int | None = None
    priced_on: str | None = None
    entry: str | None = None
    replayed: bool = False
    attempts: int = 1
    lost: int = 0
    trouble: str = ""
    stopped: str = ""
    answered_model: str | None = None
    fingerprint: str | None = None

    @property
    def answered_by(self) -> str:
        """The model that answered, as the endpoint calls it, with the fingerprint of what serves it if it tells one; empty if it tells neither."""
        return (self.answered_model or "") + (f" ({self.fingerprint})" if self.answered_model and self.fingerprint else "")


@dataclass
class Step:
    """One thing that happened while a case was answered: a span of its trace. Times in nanoseconds since 1970."""

    name: str
    kind: str
    start_ns: int
    inputs: Any = None
    outputs: Any = None
    attributes: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    end_ns: int = 0
    id: str = field(default_factory=lambda: f"{next(_step_ids):016x}")
    parent: str | None = None


@dataclass
class CaseContext:
    """Collects what happens during one case. A closed one takes nothing more: its case ran out of time.

    `deadline` is a moment of `time.monotonic`, for all attempts of all calls together. `delay_s` is what replayed answers took when
    they were paid. `mode` and `budget` are those of the evaluation, `purpose` is `system`, or `judge` while a reply is scored. Of
    several recorded answers the oldest is replayed, so that a run stays what it was; or the `newest`. `fault` is what goes wrong in a drill.
    `worlds` has the worlds of a sandbox that the case opened, which know what differences they told; None where nobody was there to see,
    as of a reply that was kept.
    """

    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    case_id: str = ""
    repeat: int = 0
    poc: Path | None = None
    mode: str | None = None
    budget: str | None = None
    purpose: str = "system"
    newest: bool = False
    fault: Any = None
    worlds: list[Any] | None = None
    deadline: float | None = None
    delay_s: float = 0.0
    calls: list[Call] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    #: The requests that have no answer yet, each with its `model` and `path`.
    waiting: list[Any] = field(default_factory=list)
    closed: bool = False
    #: What every further request will meet, too, such as a refused key, and the way out.
    fatal: tuple[str, str] | None = None
    #: Why a call was not made, or its answer not kept, whatever the system made of that: no money, no ledger, nothing to replay.
    stop: Exception | None = None
    #: How many requests could not be replayed.
    missed: int = 0
    #: Which occurrences of each request, by its digest, are answered or under way.
    _occurrences: dict[str, set[int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_call(self, call: Call) -> None:
        if not self.closed:
            self.calls.append(call)

    def end(self, request: Any, call: Call | None) -> None:
        """Take the call that a request came to; it waits no longer."""
        with self._lock:
            self.waiting.remove(request)
            if call:
                self.add_call(call)

    def leave_streams(self) -> None:
        """Let go of streams that nobody will read to their end: the case has its reply."""
        for one in tuple(self.waiting):
            with contextlib.suppress(StoreError):  # it stands in `stop`
                one.leave()

    def close(self) -> None:
        """Take nothing more. A request that is still under way may be billed: it stands as a call of which nothing is known."""
        with self._lock:
            if not self.closed:
                self.closed = True
                self.calls += [Call(one.model, one.path, 0.0, UNDER_WAY, attempts=one.attempts, lost=one.at_risk) for one in self.waiting]

    def add_step(self, step: Step) -> None:
        if not self.closed:
            self.steps.append(step)

    def occurrence(self, request: str) -> int:
        """Return which time this request is made in this case: the same prompt asked twice is two answers, in a replay too.

        Outside of a case there is nothing to count in: the same prompt has the same answer there.
        """
        if not self.case_id:
            return 0
        with self._lock:
            taken = self._occurrences.setdefault(request, set())
            number = next(number for number in itertools.count() if number not in taken)
            taken.add(number)
        return number

    def give_up(self, request: str, number: int) -> None:
        """Take back an occurrence that got no answer: if the system asks again, that is the same one."""
        with self._lock:
            self._occurrences.get(request, set()).discard(number)

    def replay(self, latency_s: float, delay_s: float) -> None:
        """Count what a replayed answer took when it was paid; `delay_s` is that of the case when the answer was asked for.

        Of answers that were asked for side by side, the slowest counts: each delays only what was asked after it.
        """
        with self._lock:
            self.delay_s = max(self.delay_s, delay_s + latency_s)


current_case: ContextVar[CaseContext | None] = ContextVar("poclab_case", default=None)
_current_step: ContextVar[Step | None] = ContextVar("poclab_step", default=None)
_step_ids = itertools.count(1)


Retrieved = TypeVar("Retrieved", bound=Sequence[Passage | str])


def retrieved(passages: Retrieved) -> Retrieved:
    """Return the passages as they are; in a drill, what its fault makes of them (a list then, of the same kind of things).

    A system calls it once on what it has retrieved, and goes on with what it returns: otherwise the faults of retrieval do not apply to it.
    Passages are texts, or `Passage`s.
    """
    case = current_case.get()
    return case.fault.passages(passages) if case and case.fault else passages


def open_step(name: str, kind: str, inputs: Any = None) -> Step:
    """Return a step that starts now, below the current one. `close_step` must follow; `step` does both."""
    above = _current_step.get()
    return Step(name, kind, time.time_ns(), inputs, parent=above.id if above else None)


def close_step(one: Step, *, error: BaseException | None = None) -> None:
    """End a step and hand it to the case that is being answered, if there is one."""
    one.end_ns = time.time_ns()
    if error is not None:
        one.error = f"{type(error).__name__}: {error}"
    case = current_case.get()
    if case is not None:
        case.add_step(one)


@contextlib.contextmanager
def step(name: str, kind: str = "UNKNOWN", inputs: Any = None) -> Iterator[Step]:
    """Record a step of the case being answered; set `.outputs` and `.attributes` inside.

    `kind` is one of MLflow's span types (RETRIEVER, TOOL, CHAT_MODEL, ...). Outside an evaluation nothing is kept.
    """
    one = open_step(name, kind, inputs)
    token = _current_step.set(one)
    try:
        yield one
    except BaseException as error:
        close_step(one, error=error)
        raise
    else:
        close_step(one)
    finally:
        _current_step.reset(token)
