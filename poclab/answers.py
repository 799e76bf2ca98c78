"""What an endpoint answers: what has come of it, what it says (JSON, or server-sent events), and whether all of it has come.

- A stream is whole when its last event has come (`[DONE]`, or the Responses API's completed, incomplete or failed), or when it ended
  and every choice has a finish reason.
- Not covered: tool calls of a streamed answer; its texts, finish reasons and usage are put together.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from poclab import limits, redaction

DONE = re.compile(rb"(?m)^data:[ \t]*\[DONE\]")
#: The last event of a Responses stream.
LAST = ("response.completed", "response.incomplete", "response.failed")
LAST_BYTES = tuple(name.encode() for name in LAST)
LONGEST_ERROR = 200
#: How endpoints call, inside an answer, what they otherwise say by a status.
STATUSES = (
    (r"content.?filter", 400),
    (r"rate.?limit|too.?many.?requests|resource.?exhausted", 429),
    (r"overloaded|unavailable|server.?error|internal|time.?out", 503),
)
#: The header by which whoever asked finds the request again.
REQUEST_ID = "x-poclab-request-id"
#: The headers that do not go on: what is handed on is decoded, and whole.
OF_THE_WIRE = ("content-encoding", "content-length", "transfer-encoding")


@dataclass(frozen=True)
class Answer:
    """What the SDK is given: bytes, or a `response` of the HTTP library that streams."""

    status: int
    headers: Mapping[str, str]
    content: bytes = b""
    response: Any = None
    #: Whether the content is server-sent events.
    events: bool = False
    #: The connection breaks after the content.
    broken: bool = False


@dataclass(frozen=True)
class Reading:
    """What was read of an answer: its JSON, None if there is none, and what is wrong with it."""

    answer: dict[str, Any] | None
    problem: str = ""


@dataclass
class Arrival:
    """What has come of an answer so far; nothing yet while `status` is 0."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    #: Whether a stream was asked for.
    streams: bool = False
    #: What has come of a stream's latest event.
    _tail: bytes = b""
    #: What was read, and of how many chunks.
    _read: tuple[int, Reading] | None = None

    @property
    def ok(self) -> bool:
        return self.status // 100 == 2

    @property
    def content(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def passes(self) -> bool:
        """Whether this is a stream that goes to its reader as it comes; one that is compressed is read whole."""
        encoded = self.headers.get("content-encoding", "identity").lower() != "identity"
        is_json = "json" in self.headers.get("content-type", "").lower()
        return self.ok and not encoded and (_is_event_stream(self.headers) or (self.streams and not is_json))

    @property
    def is_stream(self) -> bool:
        """Whether these are server-sent events; some endpoints give them another type."""
        begins = self.chunks[0].lstrip()[:6] if self.chunks else b""
        return _is_event_stream(self.headers) or (self.streams and begins.startswith((b"data:", b"event:", b"id:", b":")))

    @property
    def reading(self) -> Reading:
        """What has come, read once: an answer with vectors is large."""
        if self._read is None or self._read[0] != len(self.chunks):
            self._read = len(self.chunks), read(self.status, self.content, events=self.is_stream)
        return self._read[1]

    def ended_by(self, chunk: bytes) -> bool:
        """Tell whether a stream's last event ends in its newest chunk; first by its mark alone, which may stand in a text, too."""
        self._tail += chunk
        ended = (b"[DONE]" in self._tail or any(name in self._tail for name in LAST_BYTES)) and _ends(self._tail)
        self._tail = self._tail.rpartition(b"\n\n")[2]
        return ended

    def whole(self, choices: int) -> bool:
        """Tell whether all of a stream of so many choices has come."""
        return _ends(self.content) or self.finished(choices)

    def finished(self, choices: int) -> bool:
        """Tell whether every choice has its finish reason: some endpoints close a stream without a last event."""
        found = self.reading.answer.get("choices") if self.reading.answer else None
        return bool(found) and len(found) >= choices and all(isinstance(one, dict) and one.get("finish_reason") for one in found)

    @property
    def garbled(self) -> bool:
        """Whether an event of a stream is no JSON: it was cut."""
        data = [line[5:].strip() for line in self.content.splitlines() if line.startswith(b"data:")] if self.ok and self.is_stream else []
        return any(one and one != b"[DONE]" and parsed(one) is None for one in data[-1:])

    @property
    def error_code(self) -> int | None:
        return error_code(self.reading.answer) if self.reading.answer is not None else None

    def trouble(self) -> limits.Trouble | None:
        """Return what is wrong with what came; None when it is an answer, or leads to one."""
        now = datetime.datetime.now(datetime.UTC)
        if not self.ok:
            return limits.of_status(self.status, self.headers, parsed(self.content), now)
        if self.reading.answer is not None:  # some endpoints put the status of another one behind theirs into the answer
            code = self.error_code
            return limits.of_status(code, self.headers, self.reading.answer, now) if code else None
        is_json = "json" in self.headers.get("content-type", "json").lower()
        return limits.Trouble("connection", True, billed=True) if is_json and _cut_short(self.content) else None

    def answer(self, request_id: str) -> Answer:
        """Return it as the SDK is given it."""
        kept = {name: value for name, value in self.headers.items() if name.lower() not in OF_THE_WIRE}
        # The SDK's errors repeat what an endpoint says, and that may be the key that it refuses.
        content = self.content
        if not self.ok:
            content = redaction.conceal(content.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        return Answer(self.status, kept | {REQUEST_ID: request_id}, content, events=self.is_stream)


def _is_event_stream(headers: Mapping[str, str]) -> bool:
    """Tell whether these are the headers of server-sent events."""
    return headers.get("content-type", "").lower().startswith("text/event-stream")


def read(status: int, content: bytes, *, events: bool) -> Reading:
    """Return what an answer says, whose content may be `events`. An error that stands inside an answer of status 200 is a problem, too."""
    try:
        answer = assemble(content) if events else parsed(content)
    except (TypeError, AttributeError) as error:  # an unusual stream is for its reader to understand, and must not fail here
        return Reading(None, f"HTTP {status}: the stream cannot be recorded: {error}")
    error = answer.get("error") if isinstance(answer, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    if status >= 400:
        return Reading(None, f"HTTP {status}: {message or redaction.conceal(content.decode('utf-8', 'replace'))[:LONGEST_ERROR]}")
    if not isinstance(answer, dict):
        return Reading(None, f"HTTP {status}: the answer is not a JSON object")
    return Reading(answer, str(message) if error else "")


def _cut_short(content: bytes) -> bool:
    """Tell whether a JSON text breaks off: asked again, it may come whole. One that nobody can read is handed on as it is."""
    try:
        json.loads(content)
    except json.JSONDecodeError as error:
        return error.pos >= len(error.doc.rstrip()) or not content.rstrip().endswith(b"}")
    except (ValueError, RecursionError):
        return False
    return False


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


def _ends(content: bytes) -> bool:
    """Tell whether a stream's last event stands in what has come of it."""
    return bool(DONE.search(content)) or any(event.get("type") in LAST for event in _events(content))


def error_code(answer: Mapping[str, Any]) -> int | None:
    """Return the HTTP status that an error inside an answer names, by its number or in words."""
    error = answer.get("error")
    if not error:
        return None
    told = [error.get(name) for name in ("code", "status", "type")] if isinstance(error, dict) else [error]
    codes = [int(one) for one in told if re.fullmatch(r"[45][0-9]{2}", str(one))]
    words = " ".join(one for one in told if isinstance(one, str)).lower()
    codes += [status for pattern, status in STATUSES if re.search(pattern, words)]
    return codes[0] if codes else None if any(answer.get(name) for name in ("choices", "output", "data")) else 400


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
