"""The parameters of the reference system: their names, defaults and bounds, checked before anything is spent.

A parameter that is None counts as not given, since that is how a notebook's `parameters` cell leaves one out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from poclab.errors import InputError, refuse_unknown
from poclab.rag.dense import LSA
from poclab.rag.retrieval import RETRIEVALS, SHORTEST_CUT
from poclab.system import Prompt, Version

Rule = tuple[str, Callable[[Any], bool]]


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _whole(least: int) -> Rule:
    return f"a whole number >= {least}", lambda value: type(value) is int and value >= least


#: What each parameter must be. Below 100 characters a budget has no room for a cut passage.
RULES: Mapping[str, Rule] = {
    "model": ("the name of a model", _text),
    "prompt": ("a poclab.Prompt", lambda value: isinstance(value, Prompt)),
    "retrieval": ("one of: " + ", ".join(RETRIEVALS), lambda value: value in RETRIEVALS),
    "chunk_size": _whole(50),
    "overlap": _whole(0),
    "context_chars": _whole(SHORTEST_CUT),
    "top_k": _whole(1),
    "embedding": (f"{LSA!r} or the name of an embedding model", _text),
    "max_tokens": _whole(1),
    "temperature": ("a number >= 0", lambda value: type(value) in (int, float) and value >= 0),
    "seed": _whole(0),
}


def complete(version: Version) -> Version:
    """Return the version with every default that the system will use; nothing is added that it does not use.

    Raises:
        InputError: an unknown or missing parameter, one of a wrong type or out of bounds, or two that exclude each other.
    """
    where = f"version {version.name!r}"
    given = {name: value for name, value in version.parameters.items() if value is not None}
    refuse_unknown(given, RULES, where=where, what="parameter")
    used = {**defaults(given), **given}
    for name, value in used.items():
        expected, holds = RULES[name]
        if not holds(value):
            raise InputError(f"{where}: {name} must be {expected}, found {value!r} ({type(value).__name__})")
    if "top_k" in used and "context_chars" in used:
        raise InputError(f"{where}: both top_k and context_chars are given", fix="keep context_chars: it is fair to every chunk size")
    if used.get("overlap", 0) >= used.get("chunk_size", float("inf")):
        raise InputError(f"{where}: overlap {used['overlap']} is not below chunk_size {used['chunk_size']}")
    _check_prompt(used, where=where)
    return Version(version.name, **used)


def defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a version with these parameters uses besides, without its prompt."""
    retrieval = given.get("retrieval", "bm25")
    found: dict[str, Any] = {"model": "offline/extractive", "retrieval": retrieval, "max_tokens": 300}
    if retrieval != "none":
        found |= {"chunk_size": 400, "overlap": 0}
        found |= {} if "top_k" in given else {"context_chars": 2000}
    if retrieval in ("dense", "hybrid"):
        found["embedding"] = LSA
    return found


def _check_prompt(used: Mapping[str, Any], *, where: str) -> None:
    prompt = used.get("prompt")
    if prompt is None:
        raise InputError(f"{where}: no prompt", fix='prompt=poclab.Prompt.load("prompts/plain.md")')
    prompt.check(("question", "context"))
    for name in ("question",) if used["retrieval"] == "none" else ("question", "context"):
        if name not in prompt.placeholders:
            why = "the passages found would never reach the model" if name == "context" else "the model would never see the question"
            raise InputError(f"{prompt.name}: no {{{{{name}}}}}: {why}", fix=f"write {{{{{name}}}}} where the {name} goes")
