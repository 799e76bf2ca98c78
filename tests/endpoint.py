"""An endpoint of the tests' own: a real process that speaks OpenAI's API on 127.0.0.1, fails on request, and counts what it would bill.

    python tests/endpoint.py --port 0 --latency-s 0.05      prints its port
    with Endpoint(latency_s=0.05, faults=[{"kind": "hang", "match": "case 37\\b"}]) as endpoint: ...

Whom a fault meets depends on the prompt, never on the order of arrival, so that every run meets the same ones. The prompt of a request
is its last user text with whatever stands after it; of embeddings and completions it is the whole input.
An answer is billed when it was worked out, whether or not the client was still there. What was refused is not billed.

Not here: TLS, HTTP/2, chunked requests, logprobs, images, and any sense in the answers.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import base64
import contextlib
import dataclasses
import functools
import gzip
import hashlib
import http.client
import itertools
import json
import math
import os
import re
import secrets
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

PATHS = {f"/v1/{path}": path for path in ("chat/completions", "responses", "embeddings", "completions")}
#: Faults that spoil the answer on its way, then those that change what it says; a status such as "503" is a fault too.
ON_THE_WAY = ("hang", "reset", "slow", "cut_body", "cut_json", "half_stream", "short_stream", "stall")
IN_THE_ANSWER = ("hostile", "surrogate", "empty", "refusal", "no_usage")
HOSTILE = "\x1b[2J\x1b]0;title\x07\x00\r\u202e <script>alert(1)</script> [link](javascript:alert(1)) {{prompt}} | `'\""
#: Type and code that OpenAI gives with a status; others are server errors.
ERRORS = {400: ("invalid_request_error", None), 401: ("invalid_request_error", "invalid_api_key"),
          404: ("invalid_request_error", "model_not_found"), 429: ("requests", "rate_limit_exceeded")}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong with the first `times` requests of each chosen prompt (None: with all of them).

    Chosen are prompts that `match`, a regular expression, finds; else a `share` of all prompts. Shares of several faults do not overlap.
    `seconds` is how much later a slow answer comes; of a stream, over all its events. `retry_after_s` goes with a status, as `seconds`,
    `date` or `ms`. `billed` says whether the answer counts as worked out; by default a hang does not. A status never does.
    """

    kind: str
    share: float = 0.0
    match: str = ""
    times: int | None = 1
    seconds: float = 1.0
    retry_after_s: float | None = None
    retry_after_form: str = "seconds"
    billed: bool | None = None

    def __post_init__(self) -> None:
        if self.kind not in ON_THE_WAY + IN_THE_ANSWER and not re.fullmatch(r"[45]\d\d", self.kind):
            raise ValueError(f"no such fault: {self.kind!r}; use a status or one of {', '.join(ON_THE_WAY + IN_THE_ANSWER)}")
        if self.retry_after_form not in ("seconds", "date", "ms"):
            raise ValueError(f"retry_after_form is {self.retry_after_form!r}; use seconds, date or ms")
        if bool(self.match) == bool(self.share):
            raise ValueError(f"fault {self.kind!r} needs a share or a match, and not both")
        re.compile(self.match)

    def headers(self) -> dict[str, str]:
        if self.retry_after_s is None:
            return {}
        if self.retry_after_form == "ms":
            return {"retry-after-ms": f"{self.retry_after_s * 1000:g}"}
        date = formatdate(math.ceil(time.time() + self.retry_after_s), usegmt=True)
        return {"retry-after": date if self.retry_after_form == "date" else f"{self.retry_after_s:g}"}


@dataclass(frozen=True)
class Settings:
    """What can be set, at the start or while it runs.

    Prices are dollars per token. `cached` is the share of the prompt's tokens that is reported, and billed, as cached; `reasoning` the
    tokens spent on reasoning in each answer. `quota_usd`: from this bill on, the answer is 429 insufficient_quota. `limit`: more
    requests than that under way are refused with 429 (0: no limit). `random`: no two answers agree. `wrong`: the share of prompts
    answered with `WRONG`. `models`: only these are served.
    """

    latency_s: float = 0.0
    event_s: float = 0.0
    random: bool = False
    wrong: float = 0.0
    hostile: bool = False
    gzip: bool = False
    key: str = ""
    models: tuple[str, ...] = ()
    limit: int = 0
    quota_usd: float | None = None
    input_usd: float = 1e-6
    cached_usd: float = 5e-7
    output_usd: float = 4e-6
    cached: float = 0.0
    reasoning: int = 0
    seed: int = 0
    fingerprint: str = "fp_tests"
    faults: tuple[Fault, ...] = ()

    def changed(self, given: Mapping[str, Any]) -> Settings:
        """Return the settings with some replaced. Raises ValueError for a name or a fault that does not exist."""
        made = dict(given)
        try:
            if "models" in made:
                made["models"] = tuple(made["models"].split(",") if isinstance(made["models"], str) else made["models"])
            if "faults" in made:
                made["faults"] = tuple(Fault(**{**fault, "kind": str(fault.get("kind"))}) for fault in made["faults"])
            settings = dataclasses.replace(self, **made)
        except (TypeError, re.error) as error:
            raise ValueError(str(error)) from None
        if sum(fault.share for fault in settings.faults) > 1:
            raise ValueError("the shares of the faults sum to more than 1")
        return settings


# What was asked.


@dataclass(frozen=True)
class Asked:
    """One request to a model: `text` is the last user text, `prompt` that and what follows it, `tokens` those of all its texts."""

    path: str
    body: Mapping[str, Any]
    text: str
    prompt: str
    tokens: int
    results: bool

    @classmethod
    def read(cls, path: str, body: Mapping[str, Any]) -> Asked:
        items = next((body[name] for name in ("messages", "input", "prompt") if name in body), "")
        turn = [items]
        if isinstance(items, list) and items and isinstance(items[0], dict):
            turn = items[max((place for place, item in enumerate(items) if item.get("role") == "user"), default=0) :]
        everything = [*texts(items), *texts(body.get("instructions")), *([json.dumps(body["tools"])] if body.get("tools") else [])]
        prompt = "\n".join(texts(turn))
        return cls(path, body, "\n".join(texts(turn[0])), prompt, sum(map(tokens, everything)), results=len(turn) > 1)

    @property
    def schema(self) -> Any:
        """The JSON schema that the answer has to fit, or None; that of `json_object` is one with an answer in it."""
        wanted = self.body.get("response_format") or (self.body.get("text") or {}).get("format") or {}
        if wanted.get("type") == "json_object":
            return {"properties": {"answer": {"type": "string"}}}
        return wanted.get("json_schema", wanted).get("schema") if wanted.get("type") == "json_schema" else None

    @property
    def tool(self) -> Any:
        """The tool to call: the one that `CALL:name` in the text or `tool_choice` names; None once results are there."""
        choice = self.body.get("tool_choice")
        named = re.search(r"CALL:(\w+)", self.text)
        name = choice.get("function", choice).get("name") if isinstance(choice, dict) else named and named[1]
        tools = [] if self.results or choice == "none" else [tool.get("function", tool) for tool in self.body.get("tools") or []]
        return next((tool for tool in tools if tool.get("name") == name), tools[0] if tools and choice == "required" else None)

    @property
    def most_tokens(self) -> int | None:
        names = ("max_completion_tokens", "max_tokens", "max_output_tokens")
        return next((self.body[name] for name in names if self.body.get(name) is not None), None)

    @property
    def inputs(self) -> list[str]:
        """The texts to embed or to complete, one by one; a list of tokens is one text."""
        items = self.body.get("input" if self.path == "embeddings" else "prompt", "")
        several = isinstance(items, list) and items and not isinstance(items[0], int)
        return [" ".join(texts(item)) for item in items] if several else [" ".join(texts(items))]


def texts(value: Any) -> Iterator[str]:
    """Yield every text of a content, a message or a list of them; token numbers are texts too."""
    if isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, dict):
        for name in ("content", "text", "output"):
            yield from texts(value.get(name))
    elif value is not None:
        yield str(value)


def tokens(text: str) -> int:
    """Return how many tokens a text counts for: one for each four bytes begun, so never more than it has bytes."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


def unit(*parts: object) -> float:
    """Return a number from 0 to 1 that depends on the parts alone."""
    digest = hashlib.blake2b("|".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


# What is said.


@dataclass(frozen=True)
class Said:
    """An answer: a text for each choice, or arguments for the called tool; `tokens_out` counts the reasoning."""

    texts: tuple[str, ...]
    tool: str | None
    cut: bool
    refused: bool
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    tokens_reasoning: int

    @property
    def reason(self) -> str:
        return "length" if self.cut else "tool_calls" if self.tool else "stop"


def say(asked: Asked, settings: Settings, kind: str, serial: str) -> Said:
    """Work out an answer; `kind` is a fault, `serial` what no other answer has."""
    if asked.path == "embeddings":
        several = tuple(f"{text} {serial}" if settings.random else text for text in asked.inputs)
        return Said(several, None, False, False, asked.tokens, 0, 0, 0)
    cached = int(asked.tokens * settings.cached)
    tool = asked.tool if asked.path in ("chat/completions", "responses") else None
    inputs = asked.inputs if asked.path == "completions" else [asked.text]
    whole = [worded(asked, text, choice, tool, settings, kind, serial) for text in inputs for choice in range(asked.body.get("n") or 1)]
    most = math.inf if asked.most_tokens is None else asked.most_tokens
    reasoning = 0 if asked.path == "completions" else int(min(settings.reasoning, most))
    kept = [shortened(text, most - reasoning) for text in whole]
    spent = reasoning * len(kept)
    out = spent + sum(map(tokens, kept))
    return Said(tuple(kept), tool and tool["name"], kept != whole, kind == "refusal", asked.tokens, cached, out, spent)


def shortened(text: str, most: float) -> str:
    """Return as much of the text as `most` tokens hold."""
    return text if tokens(text) <= most else text.encode("utf-8", "surrogatepass")[: 4 * int(most)].decode(errors="ignore")


def worded(asked: Asked, text: str, choice: int, tool: Any, settings: Settings, kind: str, serial: str) -> str:
    found = re.search(r"ANSWER:\{([^}]*)\}", text)
    answer = found[1] if found else hashlib.blake2b(f"{choice}|{asked.prompt}".encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    if unit(settings.seed, "wrong", asked.prompt) < settings.wrong:
        answer = "WRONG"
    answer += f" #{serial}-{choice}" if settings.random else ""
    answer += f" {HOSTILE}" if settings.hostile or kind == "hostile" else ""
    answer += " \ud83d" if kind == "surrogate" else ""
    if kind in ("empty", "refusal"):
        return "" if kind == "empty" else "I'm sorry, but I can't help with that."
    schema = (tool.get("parameters") or {}) if tool else asked.schema
    return answer if schema is None else json.dumps(fitting(schema, answer, schema))


def fitting(schema: Any, text: str, root: Any) -> Any:
    """Return a value that fits a JSON schema without patterns, with the text wherever a text may stand."""
    inside = functools.partial(fitting, text=text, root=root)
    if "$ref" in schema:
        return inside(functools.reduce(lambda part, name: part[name], schema["$ref"].split("/")[1:], root))
    if choices := schema.get("enum") or ([schema["const"]] if "const" in schema else []):
        return text if text in choices else choices[0]
    if several := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return inside(several[0])
    kind = schema.get("type", "object")
    number = int(text) if re.fullmatch(r"-?\d{1,15}", text) else 1
    simple = {"string": text, "integer": number, "number": float(number), "boolean": True, "null": None}
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "array":
        return [inside(schema.get("items", {"type": "string"}))] * max(1, schema.get("minItems", 1))
    return simple[kind] if kind in simple else {name: inside(part) for name, part in schema.get("properties", {}).items()}


def vector(text: str, length: int) -> array.array:
    """Return a vector of length 1 in which texts with words in common are near each other."""
    weights = [0.0] * length
    for word in re.findall(r"\w+", text.lower()) or [text]:
        weights[int(unit("word", word) * length)] += 1.0
    norm = math.sqrt(sum(weight * weight for weight in weights))
    return array.array("f", (weight / norm for weight in weights))


# How OpenAI writes it: whole, and as a stream of (event, data).


def usage(asked: Asked, said: Said) -> dict[str, Any]:
    total = said.tokens_in + said.tokens_out
    cached, reasoning = {"cached_tokens": said.tokens_cached}, {"reasoning_tokens": said.tokens_reasoning}
    if asked.path == "embeddings":
        return {"prompt_tokens": said.tokens_in, "total_tokens": total}
    prompt, completion = ("input", "output") if asked.path == "responses" else ("prompt", "completion")
    return {
        f"{prompt}_tokens": said.tokens_in, f"{prompt}_tokens_details": cached,
        f"{completion}_tokens": said.tokens_out, f"{completion}_tokens_details": reasoning, "total_tokens": total,
    }  # fmt: skip


def written(asked: Asked, said: Said, serial: str, fingerprint: str, *, with_usage: bool) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """Return the whole answer, and the events that would bring it; without events where the path has no streams."""
    spent = usage(asked, said) if with_usage else None
    if asked.path == "embeddings":
        return embeddings(asked, said, spent), []
    if asked.path == "responses":
        return response(asked, said, serial, spent)
    chat = asked.path == "chat/completions"
    top = {"id": f"{'chatcmpl' if chat else 'cmpl'}-{serial}", "object": "chat.completion" if chat else "text_completion",
           "created": int(time.time()), "model": asked.body.get("model"), "system_fingerprint": fingerprint}  # fmt: skip
    style = chat_choice if chat else completion_choice
    choices = [style(said, text, serial, index) for index, text in enumerate(said.texts)]
    include = (asked.body.get("stream_options") or {}).get("include_usage")
    chunk = {**top, "object": "chat.completion.chunk" if chat else "text_completion", **({"usage": None} if include else {})}
    parts = [{**chunk, "choices": [{"index": index, **part}]} for index, (_, deltas) in enumerate(choices) for part in deltas]
    last = [{**chunk, "choices": [], "usage": spent}] if include and spent else []
    whole = {**top, "choices": [{"index": index, **choice} for index, (choice, _) in enumerate(choices)]}
    return {**whole, **({"usage": spent} if spent else {})}, [("", part) for part in [*parts, *last, "[DONE]"]]


def embeddings(asked: Asked, said: Said, spent: Any) -> dict[str, Any]:
    vectors = [vector(text, asked.body.get("dimensions") or 64) for text in said.texts]
    if asked.body.get("encoding_format") == "base64":
        vectors = [base64.b64encode(one.tobytes()).decode() for one in vectors]
    data = [{"object": "embedding", "index": n, "embedding": one if isinstance(one, str) else list(one)} for n, one in enumerate(vectors)]
    return {"object": "list", "data": data, "model": asked.body.get("model"), **({"usage": spent} if spent else {})}


def pieces(text: str) -> list[str]:
    """Return a text word by word, as a stream brings it."""
    return re.findall(r"\s*\S+|\s+$", text)


def chat_choice(said: Said, text: str, serial: str, index: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if said.tool:
        call = {"id": f"call_{serial}{index}", "type": "function", "function": {"name": said.tool, "arguments": text}}
        message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}
        begun = {**message, "tool_calls": [{**call, "index": 0, "function": {"name": said.tool, "arguments": ""}}]}
        deltas = [begun, *({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces(text))]
    else:
        name, other = ("refusal", "content") if said.refused else ("content", "refusal")
        message = {"role": "assistant", name: text, other: None}
        deltas = [{**message, name: ""}, *({name: piece} for piece in pieces(text))]
    parts = [{"delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas]
    end = {"delta": {}, "logprobs": None, "finish_reason": said.reason}
    return {"message": message, "logprobs": None, "finish_reason": said.reason}, [*parts, end]


def completion_choice(said: Said, text: str, serial: str, index: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    parts = [{"text": piece, "logprobs": None, "finish_reason": None} for piece in pieces(text)]
    end = {"text": "", "logprobs": None, "finish_reason": said.reason}
    return {**end, "text": text}, [*parts, end]


def response(asked: Asked, said: Said, serial: str, spent: Any) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    text, state = said.texts[0], "incomplete" if said.cut else "completed"
    if said.tool:
        item = {"id": f"fc_{serial}", "type": "function_call", "call_id": f"call_{serial}", "name": said.tool, "arguments": text}
        empty, kind, value, content = {**item, "arguments": ""}, "function_call_arguments", "arguments", {}
    else:
        part = {"type": "refusal", "refusal": text} if said.refused else {"type": "output_text", "text": text, "annotations": []}
        item = {"id": f"msg_{serial}", "type": "message", "role": "assistant", "content": [part]}
        value = "refusal" if said.refused else "text"
        empty, kind, content = {**item, "content": []}, part["type"], {"content_index": 0}
    top = {
        "id": f"resp_{serial}", "object": "response", "created_at": int(time.time()), "model": asked.body.get("model"), "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if said.cut else None, "instructions": asked.body.get("instructions"),
        "metadata": {}, "parallel_tool_calls": True, "temperature": 1.0, "top_p": 1.0, "store": False, "previous_response_id": None,
        "tool_choice": asked.body.get("tool_choice", "auto"), "tools": asked.body.get("tools") or [],
    }  # fmt: skip
    whole = {**top, "status": state, "output": [{**item, "status": state}], "usage": spent}
    begun = {**top, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    place = {"item_id": item["id"], "output_index": 0, **content}
    logprobs = {"logprobs": []} if value == "text" else {}
    name = {"name": said.tool} if said.tool else {}
    steps = [
        ("created", {"response": begun}),
        ("in_progress", {"response": begun}),
        ("output_item.added", {"output_index": 0, "item": {**empty, "status": "in_progress"}}),
        *([("content_part.added", {**place, "part": {**part, value: ""}})] if content else []),
        *((f"{kind}.delta", {**place, **logprobs, "delta": piece}) for piece in pieces(text)),
        (f"{kind}.done", {**place, **logprobs, **name, value: text}),
        *([("content_part.done", {**place, "part": part})] if content else []),
        ("output_item.done", {"output_index": 0, "item": {**item, "status": state}}),
        (state, {"response": whole}),
    ]
    return whole, [(f"response.{step}", {"type": f"response.{step}", "sequence_number": n, **data}) for n, (step, data) in enumerate(steps)]


# What is counted.


@dataclass
class Asks:
    """What became of one prompt; times are seconds on the clock of `time.monotonic()`, which all processes of a machine share."""

    requests: int = 0
    answered: int = 0
    billed: int = 0
    under_way: int = 0
    most_under_way: int = 0
    requested_s: list[float] = field(default_factory=list)
    answered_s: list[float] = field(default_factory=list)


@dataclass
class Books:
    """What was asked, answered whole, and worked out (billed); `under_way` is now, and outlives a reset."""

    requests: int = 0
    answered: int = 0
    billed: int = 0
    under_way: int = 0
    most_under_way: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    tokens_reasoning: int = 0
    connections: int = 0
    bill_usd: float = 0.0
    statuses: Counter = field(default_factory=Counter)
    faults: Counter = field(default_factory=Counter)
    prompts: dict[str, Asks] = field(default_factory=dict)
    given: Counter = field(default_factory=Counter)

    @contextlib.contextmanager
    def open(self, prompt: str) -> Iterator[Asks]:
        """Count a request, for as long as it is under way."""
        asks = self.prompts.setdefault(prompt, Asks())
        asks.requested_s.append(time.monotonic())
        for one in (self, asks):
            one.requests += 1
            one.under_way += 1
            one.most_under_way = max(one.most_under_way, one.under_way)
        try:
            yield asks
        finally:
            asks.under_way -= 1
            self.under_way -= 1

    def bill(self, asks: Asks, said: Said, settings: Settings) -> None:
        self.billed += 1
        asks.billed += 1
        for name in ("tokens_in", "tokens_cached", "tokens_out", "tokens_reasoning"):
            setattr(self, name, getattr(self, name) + getattr(said, name))
        fresh = said.tokens_in - said.tokens_cached
        self.bill_usd += fresh * settings.input_usd + said.tokens_cached * settings.cached_usd + said.tokens_out * settings.output_usd

    def close(self, asks: Asks) -> None:
        """Count an answer that was sent whole."""
        self.answered += 1
        asks.answered += 1
        asks.answered_s.append(time.monotonic())

    def fault(self, prompt: str, settings: Settings) -> Fault | None:
        """Return what goes wrong with this request, and count it."""
        point, low = unit(settings.seed, "fault", prompt), 0.0
        for fault in settings.faults:
            chosen = re.search(fault.match, prompt) if fault.match else low <= point < low + fault.share
            low += fault.share
            if chosen and (fault.times is None or self.given[prompt, fault] < fault.times):
                self.given[prompt, fault] += 1
                self.faults[fault.kind] += 1
                return fault
        return None

    def reset(self) -> None:
        self.__init__(under_way=self.under_way, most_under_way=self.under_way)

    def told(self) -> dict[str, Any]:
        """Return the books as they are shown: the prompts by their text."""
        told = {name: value for name, value in vars(self).items() if name != "given"}
        return {**told, "prompts": {prompt: vars(asks) for prompt, asks in self.prompts.items()}}


# How it comes and goes on the wire.


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Wire:
    """One connection. It closes after whatever was not sent whole."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def gone(self) -> bool:
        """Whether the client has closed its side: a client that is alive does so only when it no longer listens."""
        return self.reader.at_eof() or self.writer.is_closing()

    async def read(self) -> Request:
        """Return the next request. Raises IncompleteReadError when there is none."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        return Request(method, target.split("?")[0], headers, await self.reader.readexactly(int(headers.get("content-length", 0))))

    def begin(self, status: int, headers: Mapping[str, Any]) -> bytes:
        lines = {"content-type": "application/json", "x-request-id": f"req_{secrets.token_hex(8)}", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"HTTP/1.1 {status} {http.client.responses.get(status, 'Status')}\r\n{head}\r\n".encode()

    async def send(self, status: int, data: bytes, headers: Mapping[str, Any], *, of: int | None = None) -> None:
        """Send an answer; `of` is the length it claims to have, when that is not its length."""
        self.writer.write(self.begin(status, {**headers, "content-length": len(data) if of is None else of}) + data)
        await self.writer.drain()

    async def reset(self) -> None:
        """End the connection with RST, as a crashed proxy does."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def give_up(self, kind: str) -> None:
        """End an answer that is not whole: at once, or for a `hang` or a `stall` when the client has had enough."""
        if kind in ("hang", "stall"):
            await self.wait()
        self.writer.close()

    async def wait(self) -> None:
        """Wait until the client closes its side."""
        while await self.reader.read(1 << 16):
            pass


def event(name: str, data: Any) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return f"{f'event: {name}' + chr(10) if name else ''}data: {text}\n\n".encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Server:
    """What the process does: it reads requests, refuses, fails or answers, and keeps the books."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.books = settings, Books()
        mark, numbers = secrets.token_hex(4), itertools.count(1)
        self.serial = lambda: f"{mark}{next(numbers):06d}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, until the client goes or is killed."""
        self.books.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                wire = Wire(reader, writer)
                while not wire.gone:
                    await self.answer(await wire.read(), wire)
        finally:
            writer.close()

    async def answer(self, request: Request, wire: Wire) -> None:
        if request.path in PATHS and request.method == "POST":
            return await self.ask(request, wire)
        if request.path in ("/counts", "/reset", "/configure"):
            return await wire.send(*self.administer(request), {})
        if wrong_key := self.wrong_key(request):
            return await self.refuse(wire, *wrong_key)
        names = self.settings.models or ("test-model",)
        data = {name: {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "tests"} for name in names}
        if request.path == "/v1/models":
            found = {"object": "list", "data": list(data.values())}
        elif request.path.startswith("/v1/models/"):
            name = request.path.removeprefix("/v1/models/")
            if not (found := data.get(name)):
                return await self.refuse(wire, 404, f"The model '{name}' does not exist")
        else:
            return await self.refuse(wire, 404, f"Unknown request URL: {request.method} {request.path}", "unknown_url")
        self.books.statuses["200"] += 1
        await wire.send(200, json.dumps(found).encode(), {})

    def administer(self, request: Request) -> tuple[int, bytes]:
        if request.path == "/reset":
            self.books.reset()
        if request.path == "/configure":
            try:
                self.settings = self.settings.changed(json.loads(request.body))
            except ValueError as error:
                return 400, json.dumps({"error": str(error)}).encode()
        return 200, json.dumps(self.books.told() if request.path == "/counts" else {}).encode()

    async def refuse(
        self, wire: Wire, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        kind, usual = ERRORS.get(status, ("server_error", None) if status >= 500 else ("invalid_request_error", None))
        error = {"message": message, "type": "insufficient_quota" if code == "insufficient_quota" else kind, "param": None}
        self.books.statuses[str(status)] += 1
        await wire.send(status, json.dumps({"error": {**error, "code": code or usual}}).encode(), headers or {})

    def wrong_key(self, request: Request) -> tuple[int, str] | None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not self.settings.key or given == self.settings.key:
            return None
        return 401, f"Incorrect API key provided: {given}. You can find your API key in the settings of your account."

    async def ask(self, request: Request, wire: Wire) -> None:
        try:
            asked = Asked.read(PATHS[request.path], json.loads(request.body))
        except (ValueError, AttributeError, TypeError):
            return await self.refuse(wire, 400, "We could not parse the JSON body of your request.")
        with self.books.open(asked.prompt) as asks:
            if refusal := self.wrong_key(request) or self.refusal(asked):
                return await self.refuse(wire, *refusal)
            fault = self.books.fault(asked.prompt, self.settings)
            if fault and fault.kind.isdigit():
                return await self.refuse(wire, int(fault.kind), f"The endpoint was told to answer {fault.kind}.", headers=fault.headers())
            await self.work(asked, request, wire, asks, fault)

    def refusal(self, asked: Asked) -> tuple[Any, ...] | None:
        settings, model = self.settings, asked.body.get("model")
        if settings.models and model not in settings.models:
            return 404, f"The model `{model}` does not exist or you do not have access to it."
        if settings.quota_usd is not None and self.books.bill_usd >= settings.quota_usd:
            return 429, "You exceeded your current quota, please check your plan and billing details.", "insufficient_quota"
        if settings.limit and self.books.under_way > settings.limit:
            return 429, f"Rate limit reached: more than {settings.limit} requests under way."
        return None

    async def work(self, asked: Asked, request: Request, wire: Wire, asks: Asks, fault: Fault | None) -> None:
        """Take the time, work out the answer, bill it, and send it unless the client has gone or a fault comes between."""
        settings, serial, kind = self.settings, self.serial(), fault.kind if fault else ""
        said = say(asked, settings, kind, serial)
        whole, events = written(asked, said, serial, self.settings.fingerprint, with_usage=kind != "no_usage")
        stream = bool(asked.body.get("stream")) and bool(events)
        later = fault.seconds if fault and kind == "slow" else 0.0
        if wait := settings.latency_s + (0.0 if stream else later):
            await asyncio.sleep(wait)
        billed = fault.billed if fault else None
        if kind != "hang" if billed is None else billed:
            self.books.bill(asks, said, settings)
        if wire.gone or kind in ("hang", "reset"):
            self.books.statuses["none"] += 1
            return None if wire.gone else await (wire.give_up(kind) if kind == "hang" else wire.reset())
        self.books.statuses["200"] += 1
        if stream:
            done = await self.stream(wire, [event(*one) for one in events], kind, settings.event_s + later / len(events))
        else:
            done = await self.send(wire, json.dumps(whole).encode(), kind, "gzip" in request.headers.get("accept-encoding", ""))
        if done:
            self.books.close(asks)

    async def send(self, wire: Wire, data: bytes, kind: str, may_compress: bool) -> bool:
        """Send an answer that is no stream; say whether it was whole."""
        half = data[: len(data) // 2]
        if kind in ("cut_body", "half_stream", "stall"):
            await wire.send(200, half, {}, of=len(data))
            await wire.give_up(kind)
            return False
        data = half if kind in ("cut_json", "short_stream") else data
        if self.settings.gzip and may_compress:
            await wire.send(200, gzip.compress(data, 1), {"content-encoding": "gzip"})
        else:
            await wire.send(200, data, {})
        return data is not half

    async def stream(self, wire: Wire, events: list[bytes], kind: str, pause_s: float) -> bool:
        """Send an answer as a stream; say whether it was whole.

        A stream cut short ends between two events (`half_stream`, `short_stream`, `stall`) or within one (`cut_body`, `cut_json`).
        Then the connection breaks (`half_stream`, `cut_body`), nothing more comes (`stall`), or it ends as if it were whole.
        """
        breaks = kind in ("half_stream", "cut_body", "stall")
        short = breaks or kind in ("short_stream", "cut_json")
        sent = events[: len(events) // 2] if short else events
        if kind in ("cut_body", "cut_json"):
            broken = events[len(sent)]
            # The end of an event is kept: the SDK passes over an event without one, as if the stream had been whole.
            sent = [*sent, broken[: len(broken) // 2] + (b"" if breaks else b"\n\n")]
        wire.writer.write(wire.begin(200, {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}))
        for one in sent:
            if pause_s:
                await asyncio.sleep(pause_s)
            if wire.gone:
                return False
            wire.writer.write(chunk(one))
            await wire.writer.drain()
        if breaks:
            await wire.give_up(kind)
        else:
            wire.writer.write(b"0\r\n\r\n")
            await wire.writer.drain()
        return not short


async def run(port: int, settings: Settings, *, with_parent: bool) -> None:
    server = await asyncio.start_server(Server(settings).serve, "127.0.0.1", port, backlog=1024, limit=1 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)
    if with_parent:
        # The pipe closes however the parent ends, so that no endpoint outlives its test.
        asyncio.get_running_loop().add_reader(sys.stdin, os._exit, 0)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve OpenAI's API on 127.0.0.1, fail on request, and count. Prints its port.")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input closes")
    parser.add_argument("--faults", type=json.loads, help='JSON: [{"kind": "429", "share": 0.1, "retry_after_s": 1}]')
    parser.add_argument("--models", help="names with commas between them")
    for one in dataclasses.fields(Settings):
        if one.name not in ("faults", "models"):
            kind = {"action": "store_true"} if one.type == "bool" else {"type": {"int": int, "str": str}.get(one.type, float)}
            parser.add_argument(f"--{one.name.replace('_', '-')}", **kind)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value not in (None, False)}
    port, with_parent = given.pop("port", 0), given.pop("with_parent", False)
    try:
        settings = Settings().changed(given)
    except ValueError as error:
        parser.error(str(error))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(port, settings, with_parent=with_parent))


class Endpoint:
    """The endpoint for a test: `with Endpoint(latency_s=0.05) as endpoint` starts the process, and its end kills it.

    It ends with the test's process too, however that ends. The keywords are those of `Settings`; `port` is for one that comes back.
    """

    def __init__(self, *, port: int = 0, **settings: Any) -> None:
        self.port, self.settings = port, settings

    def __enter__(self) -> Endpoint:
        command = [sys.executable, __file__, "--with-parent", "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.port = int(self.process.stdout.readline() or "0")
            if not self.port:
                raise RuntimeError("the endpoint did not start; its error stands above")
            self.configure(**self.settings)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def counts(self) -> dict[str, Any]:
        """Return the books; requests whose client has gone are under way until their answer is worked out."""
        return self._call("GET", "/counts")

    def reset(self) -> None:
        """Begin the books anew: counts, the bill, and the times that faults were given."""
        self._call("POST", "/reset")

    def configure(self, **settings: Any) -> None:
        """Replace some settings. Raises ValueError for what does not exist."""
        self._call("POST", "/configure", json.dumps(settings))

    def _call(self, method: str, path: str, body: str = "") -> dict[str, Any]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, body)
            answer = connection.getresponse()
            found = json.loads(answer.read())
        if answer.status != 200:
            raise ValueError(found["error"])
        return found


if __name__ == "__main__":
    main()
