"""What the ledger holds: an answer that was paid for, with the request it answers."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from poclab.prices import Usage
from poclab.redaction import conceal_json


@dataclass(frozen=True)
class Entry:
    """One answer as it came. `content` is a stream's bytes where the request asked for a stream; `at` is a time in UTC.

    `cost_usd` and tokens are None where nobody knows them. `generation` counts the answers to one key, from 0.
    """

    key: str
    endpoint: str
    path: str
    model: str
    body: Any
    status: int
    headers: Mapping[str, str]
    content: bytes
    latency_s: float
    at: str
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_cached: int | None = None
    tokens_reasoning: int | None = None
    cost_usd: float | None = None
    priced_on: str | None = None
    case_id: str = ""
    repeat: int = 0
    occurrence: int = 0
    request_id: str = ""
    purpose: str = "system"
    generation: int = 0

    @property
    def name(self) -> str:
        """How reports and traces name it."""
        return f"{self.key[:16]}/{self.generation}"

    @property
    def usage(self) -> Usage:
        return Usage(self.tokens_in, self.tokens_out, self.tokens_cached, self.tokens_reasoning)

    def row(self) -> list[Any]:
        """Return its values as the file holds them: without any key value that is known, and what is long is compressed."""
        texts = {name: _clean(getattr(self, name)) for name in TEXTS}
        content = self.content.decode("utf-8", "surrogateescape")  # whatever bytes they are, they come back as they were
        body = _text(self.body)
        clear = conceal_json({**texts, "headers": dict(self.headers), "body": body, "content": content})
        for name, text in (("body", body), ("content", content)):
            if clear[name] != text and _is_json(text) and not _is_json(clear[name]):  # a number in it is somebody's key, too
                clear[name] = _text(conceal_json(json.loads(text)))
        clear["headers"] = json.dumps(clear["headers"])
        clear["body"] = zlib.compress(clear["body"].encode("utf-8", "surrogatepass"), 1)
        clear["content"] = zlib.compress(clear["content"].encode("utf-8", "surrogateescape"), 1)
        return [clear.get(name, getattr(self, name)) for name in COLUMNS]

    @classmethod
    def of(cls, row: Sequence[Any]) -> Entry:
        values = dict(zip(COLUMNS, row, strict=True))
        body = json.loads(zlib.decompress(values["body"]).decode("utf-8", "surrogatepass"))
        return cls(**{**values, "body": body, "headers": json.loads(values["headers"]), "content": zlib.decompress(values["content"])})


def _text(body: Any) -> str:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _clean(text: str) -> str:
    """Return a text with half characters, which a model's JSON may hold, as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


COLUMNS = tuple(field.name for field in fields(Entry))
TEXTS = ("endpoint", "path", "model", "at", "case_id", "request_id", "purpose")
