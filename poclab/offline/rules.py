"""`offline/rules` answers `/chat/completions` with tools: a deterministic follower of simple rules, no neural network.

It is a baseline that a real model must beat, on the code path of tool calling: no more than that. It knows no case and no tool; what it does
follows from the words of the task, the names of the tools, and rule lines of the prompt:

1. It calls every look-up tool (its name begins with get, find, list, search or read) whose required arguments it can fill, until there
   is none left: a number after its noun ("order 12" for `order_id`), an e-mail address for `email`, a quoted text, else a value of that
   name from an earlier result (of a list only where it holds one entry).
2. The other tools whose verb and noun stand in the task ("close ... ticket" for `close_ticket`) are its actions, in the order of the verbs.
3. Before an action it holds the prompt's lines for that tool against what it has looked up, and stops with their words if one fails:
   `- refund_order: only if status is "delivered" or "returned"; else say "it was not delivered"`; also `is at most`, `is at least`
   (a number, or the name of another value) and `is empty`.
4. It says what it did; or that it did nothing, and why: a rule, an error of a tool, a missing value, no action that fits.

It does not reason, understand synonyms, negation or conditions of the task, do sums, or choose among several entries; other sentences of
the prompt are not understood, and instructions in a tool's result are data. It needs one line for each rule. Temperature and the like are
ignored; `n` above 1, JSON output and images are refused with status 400.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from poclab.files import canonical, digest
from poclab.offline.extractive import terms
from poclab.offline.protocol import Refused, completion, messages, refuse_parameters

LOOK_UPS = ("get", "find", "list", "search", "read")
RULE = re.compile(r'^\s*[-*]\s*`?(\w+)`?:\s*only if\s+`?(\w+)`?\s+is\s+(.+?);\s*else say\s+"([^"]+)"', re.MULTILINE | re.IGNORECASE)
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
MONEY = re.compile(
    r"(?:(?:EUR|USD|[€$])\s*(\d+(?:\.\d{1,2})?)|(\d+(?:\.\d{1,2})?)\s*(?:EUR|euros?|USD|dollars?|[€$]))(?!\w)", re.IGNORECASE
)
QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”')
ERROR = "error:"
NO_TOOLS = "I did nothing: there is no tool to use."


@dataclass(frozen=True)
class Tool:
    """A tool as the request describes it."""

    name: str
    properties: Mapping[str, Mapping[str, Any]]
    required: Sequence[str]

    @property
    def looks_up(self) -> bool:
        return self.name.split("_")[0] in LOOK_UPS


@dataclass
class Notes:
    """What the conversation so far tells: the task, the calls that were made with their results, and the values that are known."""

    task: str
    policy: str
    made: list[tuple[str, str, str]] = field(default_factory=list)
    known: dict[str, Any] = field(default_factory=dict)

    def was_made(self, name: str, arguments: Mapping[str, Any]) -> bool:
        return any((name, canonical(arguments)) == (made, given) for made, given, _ in self.made)


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """Return the chat completion that answers `body`."""
    refuse_parameters(body, "functions", "response_format")
    said, calls = NO_TOOLS, []
    try:
        if tools := _tools(body):
            notes = _notes(body)
            calls = list(_look_ups(tools, notes))
            said, calls = ("", calls) if calls else _act(tools, notes)
    except (KeyError, TypeError, AttributeError) as error:
        raise Refused(f"tools, or calls of them, are not as chat completions have them: {error!r}", param="messages") from None
    return completion(body, said, tool_calls=[_call(number, *one, body) for number, one in enumerate(calls)] or None)


def _tools(body: dict[str, Any]) -> list[Tool]:
    try:
        given = [one["function"] for one in body.get("tools") or []]
        schemas = [one.get("parameters") or {} for one in given]
        return [
            Tool(one["name"], schema.get("properties", {}), schema.get("required", ())) for one, schema in zip(given, schemas, strict=True)
        ]
    except (KeyError, TypeError, AttributeError):
        raise Refused("'tools' is not a list of functions", param="tools") from None


def _notes(body: dict[str, Any]) -> Notes:
    said = messages(body)
    task = next((text for role, text in reversed(said) if role == "user"), "")
    notes = Notes(task, "\n".join(text for role, text in said if role in ("system", "developer")) or task)
    asked: dict[str, tuple[str, str]] = {}
    for message, (role, text) in zip(body["messages"], said, strict=True):
        for call in message.get("tool_calls") or ():
            asked[call["id"]] = call["function"]["name"], call["function"]["arguments"]
        if role == "tool" and message.get("tool_call_id") in asked:
            name, arguments = asked[message["tool_call_id"]]
            notes.made.append((name, arguments, text))
            _learn(notes.known, text)
    return notes


def _learn(known: dict[str, Any], result: str) -> None:
    """Add the values of a result; of a list only where it has one entry. What was known first stays."""
    try:
        value = json.loads(result, parse_constant=lambda name: None, parse_float=_finite)  # no call could carry NaN or infinity
    except (ValueError, RecursionError):
        return
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    for name, one in value.items() if isinstance(value, dict) else ():
        known.setdefault(name, one)


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _look_ups(tools: Sequence[Tool], notes: Notes) -> Iterator[tuple[str, dict[str, Any]]]:
    for tool in tools:
        arguments = _fill(tool, notes) if tool.looks_up else None
        if arguments and not notes.was_made(tool.name, arguments):
            yield tool.name, arguments


def _act(tools: Sequence[Tool], notes: Notes) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    """Return what to say, or the next action to take."""
    actions = _actions(tools, notes.task)
    failed = [(name, result) for name, _, result in notes.made if result.startswith(ERROR)]
    acted = [name for name, _, _ in notes.made if any(tool.name == name for tool in actions)]
    for name, result in failed:
        if name in acted:
            return f"I could not do it: {result.removeprefix(ERROR).strip()}", []
    unknown = failed[0][1].removeprefix(ERROR).strip() if failed else ""
    for tool in actions:
        if tool.name in acted:
            continue
        arguments = _fill(tool, notes)
        if why := _forbidden(tool, notes, unknown) or (arguments is None and (unknown or f"not all that {tool.name} takes is known")):
            return _stopped(acted, why), []
        return "", [(tool.name, arguments or {})]
    return (f"Done: {', '.join(acted)}." if acted else "I did nothing: no tool fits the task."), []


def _stopped(acted: Sequence[str], why: str) -> str:
    return f"I did not do that: {why}." + (f" Done before: {', '.join(acted)}." if acted else "")


def _actions(tools: Sequence[Tool], task: str) -> list[Tool]:
    """Return the tools whose verb and noun stand in the task, by where the verb does."""
    words = terms(task)
    found = []
    for tool in tools:
        verb, *rest = tool.name.split("_")
        wanted = terms(" ".join([verb, *rest[-1:]]))
        if not tool.looks_up and wanted and all(one in words for one in wanted):
            found.append((words.index(wanted[0]), tool.name, tool))
    return [tool for *_, tool in sorted(found, key=lambda one: one[:2])]


def _forbidden(tool: Tool, notes: Notes, unknown: str) -> str:
    """Return the words of the first rule for a tool that does not hold, or that cannot be told; nothing when all do."""
    for name, value, condition, words in RULE.findall(notes.policy):
        given = _value(value, tool, notes)
        left_out = given is None and value in tool.properties and value not in tool.required
        if name != tool.name or left_out:
            continue
        if given is None and value not in notes.known:
            return unknown or f"{value} is not known"
        if not _holds(given, condition.strip(), notes.known):
            return words.rstrip(".")
    return ""


def _value(name: str, tool: Tool, notes: Notes) -> Any:
    given = _of_task(name, tool.properties[name], notes.task) if name in tool.properties else None
    return notes.known.get(name) if given is None else given


def _holds(value: Any, condition: str, known: Mapping[str, Any]) -> bool:
    if condition.lower() == "empty":
        return value in (None, "", 0, [])
    if bound := re.fullmatch(r"at (most|least)\s+`?(?:(-?\d+(?:\.\d+)?)|([A-Za-z_]\w*))`?", condition, re.IGNORECASE):
        limit = float(bound[2]) if bound[2] else known.get(bound[3])
        if not all(isinstance(one, (int, float)) for one in (value, limit)):
            return False
        return value <= limit if bound[1].lower() == "most" else value >= limit
    allowed = [one.strip().strip("\"'`").casefold() for one in re.split(r"\s+or\s+", condition)]
    return value is not None and str(value).casefold() in allowed


def _fill(tool: Tool, notes: Notes) -> dict[str, Any] | None:
    """Return the arguments of a call: of the task, else of earlier results; None when a required one is not known."""
    found: dict[str, Any] = {}
    for name, about in tool.properties.items():
        value = _of_task(name, about, notes.task)
        if value is None and name in tool.required:
            value = notes.known.get(name)
        if value is None and name in tool.required and not tool.looks_up and about.get("type") == "string" and "enum" not in about:
            value = " ".join(notes.task.split()) if name in ("reason", "text", "note") else None
        if value is not None:
            found[name] = value
        elif name in tool.required:
            return None
    return found


def _of_task(name: str, about: Mapping[str, Any], task: str) -> Any:
    """Return the value of a parameter that stands in the task."""
    about = next((one for one in about.get("anyOf", ()) if one.get("type") != "null"), about)
    kind, noun = about.get("type"), name.removesuffix("_id").replace("_", " ")
    if "enum" in about:
        words = terms(task)
        return next((one for one in about["enum"] if isinstance(one, str) and terms(one) and set(terms(one)) <= set(words)), None)
    if kind == "integer" and name.endswith("_id"):
        found = re.search(rf"\b{re.escape(noun)}(?:\s+(?:number|no\.?|id))?\s*#?(\d+)\b", task, re.IGNORECASE)
        return int(found[1]) if found else None
    if kind in ("integer", "number"):
        found = MONEY.search(task)
        amount = float(found[1] or found[2]) if found else None
        cents = amount is not None and name.endswith("cents")
        return None if amount is None else round(amount * 100) if cents else amount if kind == "number" else int(amount)
    if kind != "string":
        return None
    if "email" in name:
        found = EMAIL.findall(task)
        # Of two addresses the one that something is changed to comes last.
        return (found[-1] if name.startswith("new") else found[0]) if found else None
    quoted = QUOTED.search(task)
    return next(filter(None, quoted.groups())) if quoted else None


def _call(number: int, name: str, arguments: Mapping[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    turn = sum(one.get("role") == "assistant" for one in body["messages"])
    function = {"name": name, "arguments": canonical(arguments)}
    return {"id": f"call_{digest([turn, number, function])[:12]}", "type": "function", "function": function}
