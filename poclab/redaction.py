"""Keep key values out of everything that is written.

Concealed: the values of environment variables whose names end like a secret, and every key that was handed to
`poclab.models.client`. A key that poclab never saw cannot be recognised, and personal data is not looked for.
"""

from __future__ import annotations

import json
import os

SECRET_NAMES = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_CREDENTIALS")
CONCEALED = "[key removed]"
# A shorter value would be found by accident inside ordinary words.
SHORTEST = 8

_remembered: set[str] = set()


def remember(secret: str) -> None:
    """Conceal this value from now on."""
    if len(secret) >= SHORTEST:
        _remembered.add(secret)


def secrets() -> list[str]:
    """Return every known key value, the longest first: for the memory of another process of poclab's own, never for a file."""
    named = {value for name, value in os.environ.items() if name.upper().endswith(SECRET_NAMES) and len(value) >= SHORTEST}
    return sorted(_remembered | named, key=len, reverse=True)


def conceal(text: str) -> str:
    """Return `text` with every known key value replaced, as it stands or as JSON writes it (with or without `\\u` escapes)."""
    for secret in secrets():
        for form in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
            if form in text:
                text = text.replace(form, CONCEALED)
    return text
