"""The offline models: the kit runs with no key and no network, on the code path of any other model.

    extractive      answers questions by copying sentences
    rules           calls tools, by simple rules
    hashing         embeddings
    overlap_judge   judges replies by the words that they share
    protocol        requests and answers in the API's shape

They are baselines that a real model must beat. To add one, give its module an `answer(body)` and `MODELS` a line.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poclab.files import digest
from poclab.offline import extractive, hashing, overlap_judge, rules
from poclab.offline.protocol import Refused, stream_events

__all__ = ["MODELS", "PREFIX", "answer", "fingerprint", "stream_events"]

PREFIX = "offline/"
#: Every offline model, with the path that it answers, and how.
MODELS: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "offline/extractive": ("/chat/completions", extractive.answer),
    "offline/rules": ("/chat/completions", rules.answer),
    "offline/hashing": ("/embeddings", hashing.answer),
    "offline/overlap-judge": ("/chat/completions", overlap_judge.answer),
}
IMPORTED = re.compile(r"^from poclab\.offline\.(\w+) import", re.MULTILINE)


def answer(path: str, body: Any) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the JSON answer to `body` at `path` (below the base URL): the same for the same request, always.

    `stream` is not looked at: `stream_events` spells out an answer. Errors come as OpenAI's error object with status 400 or 404.
    """
    try:
        if path == "/models":
            return 200, {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "poclab"} for name in MODELS]}
        whole = _model(path, body)(body)
    except Refused as refused:
        return refused.status, {"error": refused.error}
    return 200, {**whole, "system_fingerprint": f"offline-{fingerprint(body['model'])[:12]}"} if "choices" in whole else whole


def _model(path: str, body: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    if not isinstance(body, dict):
        raise Refused("the request body is not a JSON object")
    model = body.get("model")
    if not isinstance(model, str) or model not in MODELS:
        raise Refused(f"unknown model {model!r}; offline models: {', '.join(MODELS)}", status=404, param="model", code="model_not_found")
    served, function = MODELS[model]
    if served != path:
        raise Refused(f"{model} answers {served}, not {path}", status=404, param="model")
    return function


@functools.cache
def fingerprint(model: str = "") -> str:
    """Return the digest of the source of a model, with what it imports from here; without a model, of all of them.

    Answers of another version of a model may differ: the ledger asks again, and a judge is to be calibrated again.
    """
    folder = Path(__file__).parent
    if not model:
        return digest({one.name: digest(one.read_bytes()) for one in sorted(folder.glob("*.py"))})
    found, waiting = {}, [MODELS[model][1].__module__.rpartition(".")[2]]
    while waiting:
        name = waiting.pop()
        source = (folder / f"{name}.py").read_text(encoding="utf-8")
        found[name] = digest(source)
        waiting += [one for one in IMPORTED.findall(source) if one not in found]
    return digest(found)
