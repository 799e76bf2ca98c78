"""What an endpoint's bytes say: JSON, or a stream of server-sent events, and whether all of it has come.

- A stream is whole when its last event has come (`[DONE]`, or the Responses API's completed, incomplete or failed), or when it ended
  and every choice has a finish reason.
- Not covered: tool calls of a streamed answer; its texts, finish reasons and usage are put together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from poclab import redaction

DONE = re.compile(rb"(?m)^data:[ \t]*\[DONE\]")
#: The last event of a Responses stream.
LAST = ("response.completed", "response.incomplete", "response.failed")
LAST_BYTES = tuple(name.encode() for name in LAST)
LONGEST_ERROR = 200


@dataclass(frozen=True)
class Reading:
    """What was read of an answer: its JSON, None if there is none, and what is wrong with it."""

    answer: dict[str, Any] | None
    problem: str = ""


def is_stream(headers: Mapping[str, str]) -> bool:
    """Tell whether these are the headers of server-sent events."""
    return headers.get("content-type", "").lower().startswith("text/event-stream")


def read(status: int, headers: Mapping[str, str], content: bytes) -> Reading:
    """Return what an answer says. An error that stands inside an answer of status 200 is a problem, too."""
    try:
        answer = assemble(content) if is_stream(headers) else parsed(content)
    except (TypeError, AttributeError) as error:  # an unusual stream is for its reader to understand, and must not fail here
        return Reading(None, f"HTTP {status}: the stream cannot be recorded: {error}")
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    if status >= 400:
        return Reading(None, f"HTTP {status}: {message or redaction.conceal(content.decode('utf-8', 'replace'))[:LONGEST_ERROR]}")
    if not isinstance(answer, dict):
        return Reading(None, f"HTTP {status}: the answer is not a JSON object")
    return Reading(answer, str(message) if error else "")


def parsed(content: bytes) -> Any:
    """Return the content as JSON, None when it is not."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def assemble(content: bytes) -> dict[str, Any]:
    """Return the answer that server-sent events spell, in the shape of the unstreamed one: texts, finish reasons, the last usage, the id.

    A Responses stream carries its answer whole, in its last events. Of a stream that was cut, what had arrived counts.
    """
    events = list(_events(content))
    responses = [event["response"] for event in events if isinstance(event.get("response"), dict)]
    if responses:
        return responses[-1]
    answer = {key: value for event in events for key, value in event.items() if key != "choices" and value is not None}
    pieces: dict[int, dict[str, list[str]]] = {}
    reasons: dict[int, str] = {}
    for choice in (choice for event in events for choice in event.get("choices") or [] if isinstance(choice, dict)):
        index, delta = choice.get("index", 0), choice.get("delta") or {}
        texts = pieces.setdefault(index, {"content": [], "refusal": []})
        texts["content"].append(delta.get("content") or choice.get("text") or "")
        texts["refusal"].append(delta.get("refusal") or "")
        reasons[index] = choice.get("finish_reason") or reasons.get(index)
    answer["choices"] = [{"index": index, "message": _message(texts), "finish_reason": reasons[index]} for index, texts in pieces.items()]
    return answer


def _message(texts: Mapping[str, list[str]]) -> dict[str, str]:
    refusal = "".join(texts["refusal"])
    return {"role": "assistant", "content": "".join(texts["content"]), **({"refusal": refusal} if refusal else {})}


def _events(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.splitlines():
        event = parsed(line[5:]) if line.startswith(b"data:") else None
        if isinstance(event, dict):
            yield event


def may_end(tail: bytes) -> bool:
    """Tell whether the mark of a last event stands in these bytes; it may stand in a text, too."""
    return b"[DONE]" in tail or any(name in tail for name in LAST_BYTES)


def ends(content: bytes) -> bool:
    """Tell whether a stream's last event stands in what has come of it."""
    return bool(DONE.search(content)) or any(event.get("type") in LAST for event in _events(content))


def finished(answer: Mapping[str, Any] | None, least: int = 1) -> bool:
    """Tell whether every choice of an assembled answer has its finish reason: some endpoints close a stream without a last event."""
    choices = answer.get("choices") if answer else None
    return bool(choices) and len(choices) >= least and all(isinstance(choice, dict) and choice.get("finish_reason") for choice in choices)


def error_code(answer: Mapping[str, Any]) -> int | None:
    """Return the HTTP status that an error inside an answer names."""
    error = answer.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int and 400 <= code < 600 else None


def stop_reason(answer: Mapping[str, Any] | None) -> str | None:
    """Return `refused` or `truncated` if the endpoint says that of its answer, in chat's or Responses' words; None otherwise."""
    if not answer:
        return None
    choices = [one for one in _list(answer.get("choices")) if isinstance(one, dict)]
    messages = [one["message"] for one in choices if isinstance(one.get("message"), dict)]
    parts = [part for item in _list(answer.get("output")) if isinstance(item, dict) for part in _list(item.get("content"))]
    reasons = {str(one.get("finish_reason")) for one in choices}
    details = answer.get("incomplete_details")
    reasons.add(str(details.get("reason")) if isinstance(details, dict) else "")
    if "content_filter" in reasons or any(one.get("refusal") for one in messages):
        return "refused"
    if any(isinstance(part, dict) and part.get("type") == "refusal" for part in parts):
        return "refused"
    return "truncated" if reasons & {"length", "max_output_tokens"} else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
