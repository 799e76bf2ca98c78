"""Change what an answer says and leave it the well-formed answer that it was, plain or a stream.

Only the texts of its messages change, in the shapes of chat, Responses and completions; not the arguments of tool calls, nor a refusal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from poclab.answers import assemble, parsed


def reworded(content: bytes, reword: Callable[[str], str | None], *, events: bool) -> bytes | None:
    """Return an answer, which may be a stream's `events`, with its texts as `reword` gives them (None: as it is); None when none changes."""
    return (_stream if events else _plain)(content, reword)


def _plain(content: bytes, reword: Callable[[str], str | None]) -> bytes | None:
    """Return an answer with its texts reworded; None when no text is."""
    answer, changed = parsed(content), False
    for holder, key in _texts(answer):
        if (text := reword(holder[key])) is not None:
            holder[key], changed = text, True
    return _json(answer) if changed else None


def _stream(content: bytes, reword: Callable[[str], str | None]) -> bytes | None:
    """Return a stream with its texts reworded: the first piece of each is all of the new one, the others are empty."""
    whole = assemble(content)
    new = {choice.get("index", 0): reword(choice["message"]["content"]) for choice in whole.get("choices") or ()}
    parts = {
        (row, column): reword(part["text"])
        for row, item in enumerate(_dicts(whole.get("output")))
        for column, part in enumerate(_parts(item))
    }
    if all(text is None for text in (*new.values(), *parts.values())):
        return None
    begun: set[Any] = set()

    def piece(place: Any, old: str, text: str | None) -> str:
        if text is None or not old:
            return old
        first = place not in begun
        begun.add(place)
        return text if first else ""

    lines = []
    for line in content.splitlines():
        event = parsed(line[5:]) if line.startswith(b"data:") else None
        if isinstance(event, dict):
            _reword_event(event, reword, new, parts, piece)
            line = b"data: " + _json(event)
        lines.append(line)
    return b"\n".join([*lines, b""])


def _reword_event(event: dict[str, Any], reword: Any, new: Mapping[Any, Any], parts: Mapping[Any, Any], piece: Any) -> None:
    for choice in _dicts(event.get("choices")):
        index, holder = choice.get("index", 0), choice.get("delta") if isinstance(choice.get("delta"), dict) else choice
        key = "text" if holder is choice else "content"
        if isinstance(holder.get(key), str):
            holder[key] = piece(index, holder[key], new.get(index))
    place = event.get("output_index"), event.get("content_index")
    if event.get("type") == "response.output_text.delta":
        event["delta"] = piece(place, event["delta"], parts.get(place))
    elif event.get("type") == "response.output_text.done" and parts.get(place) is not None:
        event["text"] = parts[place]
    for part in _parts(event):
        if (text := reword(part["text"])) is not None:
            part["text"] = text


def _texts(answer: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield where the texts of an answer's messages stand, of chat, Responses and completions: a mapping and its key."""
    if not isinstance(answer, dict):
        return
    for choice in _dicts(answer.get("choices")):
        holder, key = (choice["message"], "content") if isinstance(choice.get("message"), dict) else (choice, "text")
        if isinstance(holder.get(key), str):
            yield holder, key
    yield from ((part, "text") for item in _dicts(answer.get("output")) for part in _parts(item))


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the parts of a Responses item, or event, that hold text."""
    if isinstance(value, dict):
        if value.get("type") == "output_text" and isinstance(value.get("text"), str):
            yield value
        value = list(value.values())
    if isinstance(value, list):
        yield from (part for one in value for part in _parts(one))


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
