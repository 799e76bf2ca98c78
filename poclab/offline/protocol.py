"""The shape of requests and answers of the OpenAI-compatible API, as far as the offline models take part in it.

A token is counted as 4 characters, rounded up, in prompts and answers alike; no real tokenizer agrees exactly.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from poclab.files import canonical

CHARACTERS_PER_TOKEN = 4


class Refused(Exception):
    """A request that is answered with an error in OpenAI's format."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}


def count_tokens(text: str) -> int:
    """Return the approximate number of tokens: 4 characters each, rounded up."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def refuse_parameters(body: dict[str, Any], *unsupported: str) -> None:
    """Raise `Refused` for more than one answer, for parameters of this list, and for stream options of a wrong type."""
    plain = {"n": (None, 1), "response_format": (None, {"type": "text"})}
    for param in ("n", *unsupported):
        if body.get(param) not in plain.get(param, (None, [])):
            raise Refused(f"{body['model']} does not support {param!r} as it is given", param=param)
    if not isinstance(body.get("stream_options") or {}, dict):
        raise Refused("'stream_options' is not an object", param="stream_options")


def messages(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (role, text) of every message.

    Raises:
        Refused: no messages, or one that holds other things than text.
    """
    given = body.get("messages")
    if not isinstance(given, list) or not given or not all(isinstance(one, dict) for one in given):
        raise Refused("'messages' is not a list of one or more messages", param="messages")
    return [(str(one.get("role")), _text(body, one.get("content"))) for one in given]


def _text(body: dict[str, Any], content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        raise Refused(f"{body['model']} reads text only", param="messages")
    return "\n".join(part["text"] for part in content)


def completion(body: dict[str, Any], text: str, *, tool_calls: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return the chat completion that says `text` within the request's token limit, or calls tools."""
    text, reason = _cut(text, body)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if tool_calls:
        message, reason = {**message, "content": text or None, "tool_calls": tool_calls}, "tool_calls"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    head = {"id": _id("chatcmpl", body), "object": "chat.completion", "created": 0, "model": body["model"]}
    said = text + "".join(call["function"]["name"] + call["function"]["arguments"] for call in tool_calls or ())
    read = sum(count_tokens(content) for _, content in messages(body))
    usage = {"prompt_tokens": read, "completion_tokens": count_tokens(said), "total_tokens": read + count_tokens(said)}
    return {**head, "choices": [choice], "usage": usage}


def _cut(text: str, body: dict[str, Any]) -> tuple[str, str]:
    """Return the text within the token limit, and the finish reason."""
    for param in ("max_completion_tokens", "max_tokens"):
        limit = body.get(param)
        if limit is None:
            continue
        if type(limit) is not int or limit < 1:
            raise Refused(f"{param!r} is {limit!r}, expected a number from 1", param=param)
        if count_tokens(text) > limit:
            return text[: limit * CHARACTERS_PER_TOKEN], "length"
    return text, "stop"


def _id(kind: str, body: dict[str, Any]) -> str:
    return f"{kind}-{hashlib.blake2b(canonical(body).encode('utf-8', 'surrogatepass'), digest_size=12).hexdigest()}"


def stream_events(body: dict[str, Any], whole: dict[str, Any]) -> Iterator[str]:
    """Yield the server-sent events that spell out `whole`, the answer to a chat request, word by word."""
    head = {**whole, "object": "chat.completion.chunk"}
    usage = head.pop("usage")
    choice = whole["choices"][0]
    message = choice["message"]
    deltas = [
        {"role": "assistant", "content": ""},
        *({"content": word} for word in re.findall(r"\S+\s*|\s+", message["content"] or "")),
        *({"tool_calls": [{"index": index, **call}]} for index, call in enumerate(message.get("tool_calls") or ())),
        {},
    ]
    for delta in deltas:
        reason = None if delta else choice["finish_reason"]
        yield _event({**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        yield _event({**head, "choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n"
