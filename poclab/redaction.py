"""Keep key values out of everything that is written.

Concealed: the values of environment variables whose names end like a secret, and every key that a client was given or a request
carried. A key that poclab never saw cannot be recognised, and personal data is not looked for.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

SECRET_NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIALS")
CONCEALED = "(key removed)"  # no bracket: in YAML it would begin a list
# A shorter value would be found by accident inside ordinary words.
SHORTEST = 8
#: What a variable such as SORT_KEY=latency_s or POSTGRES_PASSWORD=postgres holds: to conceal it would tear holes into ordinary text.
WORD = re.compile(r"[a-z._-]{,20}")
#: User and password of an address, wherever in a text it stands; a password may hold `/`, `?` and `@`. Databases in files have none.
LOGIN = re.compile(r"((?<!sqlite)(?<!file)://|^(?!\S*://))\S*@")

_remembered: set[str] = set()
_off: ContextVar[bool] = ContextVar("poclab_as_written", default=False)


def remember(secret: str) -> None:
    """Conceal this value from now on."""
    if len(secret) >= SHORTEST:
        _remembered.add(secret)


def remember_unless_word(value: str) -> None:
    """Conceal this value from now on; not an ordinary word, as `api_key="anything"` for a server that takes any."""
    if not WORD.fullmatch(value):
        remember(value)


def secrets() -> list[str]:
    """Return every known key value, the longest first: for the memory of another process of poclab's own, never for a file."""
    held = [os.environ.get(name, "") for name in os.environ if name.upper().endswith(SECRET_NAMES)]
    named = {value for value in held if len(value) >= SHORTEST and not WORD.fullmatch(value)}
    return sorted(_remembered | named, key=len, reverse=True)


def conceal(text: str) -> str:
    """Return `text` with every known key value replaced, as it stands or as JSON writes it (with or without `\\u` escapes)."""
    return _replaced(text, _forms())


def conceal_json(value: Any) -> Any:
    """Return a copy of a JSON value with its texts concealed, the keys of objects too, unless they are ordinary words.

    Numbers, and what is no JSON, stay as they are.
    """
    return _replaced(value, _forms())


def shown(address: str) -> str:
    """Return an address, or a message that holds some, fit to be printed: no user, no password, no key, no query of the address."""
    return conceal(re.sub(r"(://[^\s?]*)\?\S*", r"\1", LOGIN.sub(r"\1", address)))


@contextlib.contextmanager
def as_written() -> Iterator[None]:
    """Conceal nothing within: what somebody else wrote is checked as it stands, whatever keys this reader has."""
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)


def _forms() -> list[str]:
    return [] if _off.get() else [form for secret in secrets() for form in _written(secret)]


@functools.lru_cache(maxsize=1000)
def _written(secret: str) -> Sequence[str]:
    """Return a secret as it stands and as JSON writes it, each form once."""
    return tuple(dict.fromkeys((secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])))


def _replaced(value: Any, forms: Sequence[str]) -> Any:
    if isinstance(value, str):
        for form in forms:
            value = value.replace(form, CONCEALED)
        return value
    if isinstance(value, dict):
        clear: dict[Any, Any] = {}
        for key, one in value.items():
            name = _replaced(key, forms) if isinstance(key, str) and not WORD.fullmatch(key) else key
            while name in clear:  # two keys that differed by a secret alone
                name += "_"
            clear[name] = _replaced(one, forms)
        return clear
    return [_replaced(one, forms) for one in value] if isinstance(value, (list, tuple)) else value
