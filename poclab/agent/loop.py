"""The reference agent: a model that calls tools until it answers in words, in a world of its own for each case.

It is what a better agent must beat; any other one is a plain callable that opens `Sandbox.open()` itself. A model's calls of one
message are made one after the other, in their order, so that the same answers change the same rows. What goes wrong in a tool, or with
its arguments, is told to the model, which may go on; an agent that is stopped (turns, cost, a tool that hangs) has not answered, and
its case fails with what it had changed by then in the error.
Not covered: streaming, memory between cases, tools that run side by side, and a person who is asked in between.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from poclab import models, runner, system
from poclab.agent.sandbox import Sandbox, World
from poclab.agent.tools import LONGEST_ERROR, Tool, ToolError, named, told, whole
from poclab.cases import Case
from poclab.errors import InputError, PocError, StoreError, refuse_unknown
from poclab.files import check_json, digest
from poclab.redaction import conceal
from poclab.system import Prompt, Reply, Version
from poclab.tables import cut

if TYPE_CHECKING:
    import openai

#: What each parameter must be.
RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "model": ("the name of a model", lambda value: isinstance(value, str) and bool(value.strip())),
    "prompt": ("a poclab.Prompt", lambda value: isinstance(value, Prompt)),
    "max_turns": ("a whole number >= 1", lambda value: type(value) is int and value >= 1),
    "max_tokens": ("a whole number >= 1", lambda value: type(value) is int and value >= 1),
    "max_cost_usd": ("dollars a case > 0", lambda value: type(value) in (int, float) and value > 0),
    "tool_timeout_s": ("seconds > 0", lambda value: type(value) in (int, float) and value > 0),
    "result_chars": ("a whole number >= 100", lambda value: type(value) is int and value >= 100),
    "temperature": ("a number >= 0", lambda value: type(value) in (int, float) and value >= 0),
    "seed": ("a whole number >= 0", lambda value: type(value) is int and value >= 0),
}
DEFAULTS = {"model": "offline/rules", "max_turns": 12, "max_tokens": 1000, "tool_timeout_s": 10.0, "result_chars": 10_000}
#: The class of a case whose model said nothing, by the reason that the endpoint gave.
NOTHING_SAID = {"length": "truncated", "content_filter": "refused"}
#: What `build` adds to a version, so that other tools or another world are another version.
BUILT = ("tool_names", "tools_digest", "world_digest")


class Stopped(PocError):
    """An agent was stopped before it answered. `poclab_trouble` is the class of the failed case."""

    def __init__(self, message: str, trouble: str, *, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.poclab_trouble = trouble


@dataclass(frozen=True, eq=False)
class Agent:
    """A system that does `{"task": ...}` with tools. `version` holds every parameter as it is used."""

    version: Version
    code_digest: str
    tools: Mapping[str, Tool] = field(repr=False)
    sandbox: Sandbox = field(repr=False)
    client: openai.OpenAI = field(repr=False)

    def __call__(self, inputs: Mapping[str, Any]) -> Reply:
        """Do the task of one case in a world of its own; the reply has what the agent said, what it changed, and what it called.

        Raises:
            InputError: `inputs` is not one text under `task`.
            Stopped: the agent used up its turns or its money, a tool hung, or the model said nothing.
        """
        task = _task(inputs)
        with self.sandbox.open() as world:
            talk = _Talk(self, world, _messages(self.version.parameters["prompt"], task))
            try:
                text = talk.run()
            except Stopped as stopped:
                raise Stopped(
                    f"{stopped.message}; by then it had changed: {_done(world)}", stopped.poclab_trouble, fix=stopped.fix
                ) from None
            return Reply(text, effects=world.difference(), tools=talk.calls)


def build(version: Version, *, tools: Iterable[Any], sandbox: Sandbox | None = None) -> Agent:
    """Return the agent that `version` describes; all that can be refused is refused here, before a model is asked.

    `tools` are functions, or what `load_tools` returns. Parameters: model, prompt (the system message; with `{{task}}` in it, the whole of
    the first message), max_turns (model calls a case), max_tokens (an answer), max_cost_usd (a case), tool_timeout_s, result_chars (what
    the model is shown of a tool's result), temperature, seed.

    Raises:
        InputError: a parameter, the prompt or a tool is not what it should be.
        EndpointError: the model cannot be asked.
    """
    known, sandbox = named(tools), sandbox or Sandbox()
    used = _complete(version)
    models.check(used["model"])
    digests = {name: tool.digest for name, tool in known.items()}
    built = {"tool_names": " ".join(known), "tools_digest": digest(digests)[:12], "world_digest": sandbox.digest[:12]}
    return Agent(Version(version.name, **used, **built), digest([Agent.__qualname__, digests]), known, sandbox, models.client())


class _Talk:
    """One case: the messages so far, and the calls that were made."""

    def __init__(self, agent: Agent, world: World, messages: list[dict[str, Any]]) -> None:
        self.agent, self.world, self.messages = agent, world, messages
        self.parameters = agent.version.parameters
        self.calls: list[dict[str, Any]] = []

    def run(self) -> str:
        """Return what the model says when it calls no further tool."""
        for turn in range(1, self.parameters["max_turns"] + 1):
            said, asked = self._ask(turn)
            if not asked:
                return said
            self.messages.append({"role": "assistant", "content": whole(said) or None, "tool_calls": asked})
            for one in asked:
                result = self._call(turn, **one["function"])
                self.messages.append({"role": "tool", "tool_call_id": one["id"], "content": result})
        raise Stopped(f"the agent used up its {self.parameters['max_turns']} turns", "truncated", fix="raise max_turns")

    def _ask(self, turn: int) -> tuple[str, list[dict[str, Any]]]:
        """Return what the model says, and the calls that it makes."""
        self._check_cost()
        client, taken = self.agent.client, ("model", "max_tokens", "temperature", "seed")
        given = models.limited(client, {name: self.parameters[name] for name in taken if name in self.parameters})
        if self.agent.tools:
            given["tools"] = [tool.schema for tool in self.agent.tools.values()]
        answer = client.chat.completions.create(messages=self.messages, **given)
        try:
            choice = answer.choices[0]
            said = (choice.message.content or "").strip()
            asked = [_asked(one, f"call_{turn}_{number}") for number, one in enumerate(choice.message.tool_calls or ())]
        except (AttributeError, IndexError, TypeError):
            raise Stopped("the endpoint's answer is none of a chat: no choice with a message in it", "malformed_output") from None
        if not said and not asked:
            trouble = "refused" if choice.message.refusal else NOTHING_SAID.get(choice.finish_reason, "malformed_output")
            raise Stopped(f"the model neither said anything nor called a tool (finish_reason {choice.finish_reason!r})", trouble)
        return said, asked

    def _check_cost(self) -> None:
        most, case = self.parameters.get("max_cost_usd"), system.current_case.get()
        if most is None or case is None:
            return
        costs = [call.cost_usd for call in case.calls]
        if None in costs:
            raise Stopped(
                "max_cost_usd is set, and what a call cost is not known", "truncated", fix="add the model to `prices` of charter.yaml"
            )
        if (spent := math.fsum(costs)) >= most:
            raise Stopped(f"the agent has spent ${spent:.4f} of ${most:g}", "truncated", fix="raise max_cost_usd")

    def _call(self, turn: int, name: str, arguments: str) -> str:
        """Make one call and return what the model is told of it."""
        record: dict[str, Any] = {"tool": name, "arguments": _parsed(arguments), "turn": turn}
        self.calls.append(record)
        with system.step(name, "TOOL", inputs=record["arguments"]) as step:
            try:
                if name not in self.agent.tools:
                    raise ToolError(f"there is no tool {name!r}; there are: {', '.join(self.agent.tools)}")
                tool = self.agent.tools[name]
                result = told(self._timed(tool, tool.check(arguments)), room=self.parameters["result_chars"])
                record["result"] = cut(whole(conceal(result)), LONGEST_ERROR)
            except Stopped:
                raise
            except Exception as error:  # whatever it is, the model is told, and may go on
                said = str(error) if isinstance(error, ToolError) else f"{type(error).__name__}: {error}"
                record["error"] = step.error = cut(whole(conceal(said)), LONGEST_ERROR)
                result = f"error: {record['error']}"
            step.outputs = result
        return result

    def _timed(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        """Call a tool on the clock: one that hangs must neither hold up the case nor be waited for."""
        case, most = system.current_case.get(), float(self.parameters["tool_timeout_s"])
        left = case.deadline - time.monotonic() if case and case.deadline else most
        (outcome,) = runner.run([arguments], lambda given: tool.call(given, self.world), workers=1, timeout_s=max(0.001, min(most, left)))
        if outcome.timed_out:
            raise Stopped(f"tool {tool.name!r} {outcome.error}", "timeout")
        if outcome.error:
            raise outcome.error if isinstance(outcome.error, Exception) else RuntimeError(repr(outcome.error))
        return outcome.value


def _complete(version: Version) -> dict[str, Any]:
    """Return the parameters of a version with every default that the agent will use."""
    where = f"version {version.name!r}"
    given = {name: value for name, value in version.parameters.items() if value is not None and name not in BUILT}
    refuse_unknown(given, RULES, where=where, what="parameter")
    used = DEFAULTS | given
    for name, value in used.items():
        expected, holds = RULES[name]
        if not holds(value):
            raise InputError(f"{where}: {name} must be {expected}, found {value!r} ({type(value).__name__})")
    if "prompt" not in used:
        raise InputError(f"{where}: no prompt", fix='prompt=poclab.Prompt.load("prompts/policy.md")')
    used["prompt"].check(("task",))
    return used


def _done(world: World) -> str:
    try:
        return "; ".join(map(str, world.difference())) or "nothing"
    except StoreError as error:  # a tool that hangs may be writing
        return f"nobody knows what ({error.message})"


def _messages(prompt: Prompt, task: str) -> list[dict[str, Any]]:
    if "task" in prompt.placeholders:
        return [{"role": "user", "content": prompt.fill(task=task)}]
    return [{"role": "system", "content": prompt.text}, {"role": "user", "content": task}]


def check_inputs(cases: Iterable[Case]) -> None:
    """Refuse a case that the reference agent could not be asked: `inputs` is one text under `task`.

    Raises:
        InputError: names the case.
    """
    for case in cases:
        try:
            _task(case.inputs)
        except InputError as error:
            raise InputError(f"case {case.id!r}: {error.message}", fix=error.fix) from None


def _task(inputs: Mapping[str, Any]) -> str:
    if isinstance(inputs, Mapping) and set(inputs) == {"task"} and isinstance(inputs["task"], str):
        return inputs["task"]
    found = {key: type(value).__name__ for key, value in inputs.items()} if isinstance(inputs, Mapping) else type(inputs).__name__
    raise InputError(f"an agent does {{'task': text}}, found {found}", fix="name the input `task` in cases.jsonl")


def _asked(call: Any, number: str) -> dict[str, Any]:
    """Return a call as it goes back to the endpoint; of one of another kind what there is of it, with a `number` where it has none."""
    function = getattr(call, "function", None)
    name, arguments = (getattr(function, one, None) or "" for one in ("name", "arguments"))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)  # some servers give them as they are
    return {
        "id": getattr(call, "id", None) or number,
        "type": "function",
        "function": {"name": whole(str(name)) or "(none)", "arguments": whole(text)},
    }


def _parsed(arguments: str) -> Any:
    """Return the arguments of a call as JSON, for people to read; as the beginning of their text when no report could keep them so."""
    with contextlib.suppress(ValueError, RecursionError, InputError):
        value = json.loads(arguments or "{}")
        check_json(value, where="arguments")
        return value
    return arguments[:LONGEST_ERROR]
