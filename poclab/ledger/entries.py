"""What the ledger holds: an answer that was paid for, with the request it answers."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from poclab.files import canonical
from poclab.redaction import conceal, conceal_json


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
        """Return it without any key value that is known."""
        texts = {name: conceal_json(getattr(self, name)) for name in ("endpoint", "model", "body", "headers", "case_id")}
        try:
            content = conceal(self.content.decode()).encode()
        except UnicodeError:
            content = self.content
        return replace(self, **texts, content=content)

    def row(self) -> list[Any]:
        packed = {
            "body": zlib.compress(canonical(self.body).encode("utf-8", "surrogatepass"), 1),
            "headers": json.dumps(dict(self.headers)),
            "content": zlib.compress(self.content, 1),
        }
        return [packed.get(name, getattr(self, name)) for name in COLUMNS]

    @classmethod
    def of(cls, row: Sequence[Any]) -> Entry:
        values = dict(zip(COLUMNS, row, strict=True))
        body = json.loads(zlib.decompress(values["body"]).decode("utf-8", "surrogatepass"))
        return cls(**{**values, "body": body, "headers": json.loads(values["headers"]), "content": zlib.decompress(values["content"])})


COLUMNS = tuple(field.name for field in fields(Entry))
