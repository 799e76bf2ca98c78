"""What the ledger holds: an answer that was paid for, with the request it answers."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

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

    def concealed(self) -> Entry:
        """Return it without any key value that is known, wherever it stands, and with texts that UTF-8 has."""
        body = _text(self.body)
        content = self.content.decode("utf-8", "surrogateescape")  # whatever bytes they are, they come back as they were
        texts = {name: _clean(getattr(self, name)) for name in TEXTS}
        clear = conceal_json({**texts, "headers": list(self.headers.items()), "body": body, "content": content})
        return replace(
            self,
            **{name: clear[name] for name in TEXTS},
            headers=dict(clear["headers"]),
            body=self.body if clear["body"] == body else json.loads(clear["body"]),
            content=self.content if clear["content"] == content else clear["content"].encode("utf-8", "surrogateescape"),
        )

    def row(self) -> list[Any]:
        """Return its values as the file holds them: what is long, and repeats itself, is compressed."""
        packed = {
            "body": zlib.compress(_text(self.body).encode("utf-8", "surrogatepass"), 1),
            "headers": json.dumps(dict(self.headers)),
            "content": zlib.compress(self.content, 1),
        }
        return [packed.get(name, getattr(self, name)) for name in COLUMNS]

    @classmethod
    def of(cls, row: Sequence[Any]) -> Entry:
        values = dict(zip(COLUMNS, row, strict=True))
        body = json.loads(zlib.decompress(values["body"]).decode("utf-8", "surrogatepass"))
        return cls(**{**values, "body": body, "headers": json.loads(values["headers"]), "content": zlib.decompress(values["content"])})


def _text(body: Any) -> str:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


def _clean(text: str) -> str:
    """Return a text with half characters, which a model's JSON may hold, as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


COLUMNS = tuple(field.name for field in fields(Entry))
TEXTS = ("endpoint", "path", "model", "at", "case_id", "request_id", "purpose")
