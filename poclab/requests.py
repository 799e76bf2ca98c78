"""What is asked of a model: one HTTP request as poclab sees it, and the rules that hold for it.

The rules (mode, budget, POC, deadline) are those of the case that is answered now; outside of cases those of the evaluation that is under
way, else of the environment. A request that needs a key and has none is refused here. What is not covered: what becomes of it.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from poclab import offline, redaction
from poclab.answers import parsed
from poclab.errors import EndpointError, InputError
from poclab.files import find_poc
from poclab.system import CaseContext, current_case

#: Stands where a key would, in the Authorization header of a client that has none: requests that carry it stay on this machine.
#: For `redaction` it is an ordinary word.
NO_KEY = "no-api-key-was-given"
#: The paths that are recorded, with the kind of step; the first that the request's path ends with counts.
RECORDED = {"/chat/completions": "CHAT_MODEL", "/responses": "CHAT_MODEL", "/completions": "CHAT_MODEL", "/embeddings": "EMBEDDING"}
FIX_KEY = "export OPENAI_API_KEY=..., or use the model 'offline/extractive', which needs none, or for an agent 'offline/rules'"
FIX_URL = "export OPENAI_BASE_URL=... with the address of an OpenAI-compatible API; it often ends in /v1"
#: How answers come about: `live` always asks, `replay` never does, `auto` asks for what was not answered yet.
MODES = ("auto", "live", "replay")
#: Set by a sweep or a command for all that runs below it. With `RETRY` an evaluation retries what the endpoint failed in the one before.
MODE, BUDGET, RETRY = "POCLAB_MODE", "POCLAB_BUDGET", "POCLAB_RETRY_FAILED"
#: Set where a run is run again: its mode, whatever notebook and system say.
FORCED_MODE = "POCLAB_REPRODUCE"
#: Set by a sweep for a trial that is scored on so many cases alone.
SCREEN = "POCLAB_SCREEN"
#: How the names of headers and of query parameters that hold a secret end.
SECRET = re.compile(
    r"(^|[^a-z])(authorization|auth|(api|access|subscription)?key|token|secret|cookie|password|credentials?|signature|sig)$", re.IGNORECASE
)
#: Under any other name, so many letters and digits in a row are taken for a key: names of models and versions have none.
KEY = re.compile(r"(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{16,}")
#: Ids, of which each request has another, and what the HTTP library and the SDK say of themselves.
HARMLESS = re.compile(r".*(idempotency|request|trace|span|correlation|baggage)|accept|connection$|content-|host$|user-agent$|x-stainless")
#: An extension of a request that is redirected: the address that was asked first.
FIRST = "poclab_first_url"
#: How long, in seconds, somebody outside of a case waits for an answer that another asks for, or as `Retry-After` says.
LONGEST_CLAIM_S = 60.0

#: What each evaluation of this process that is under way holds ready for calls that no case asks.
_outside: list[CaseContext] = []


@contextlib.contextmanager
def ruling(outside: CaseContext) -> Iterator[None]:
    """Let what is asked outside of cases within obey an evaluation's POC, mode and budget, and be counted there.

    That is what a thread asks which the system started itself: it does not know of the case.
    """
    _outside.append(outside)
    try:
        yield
    finally:
        _outside[:] = [one for one in _outside if one is not outside]


def _context_outside() -> CaseContext:
    # No system runs in the main thread: what is asked there is asked by hand, beside an evaluation.
    if not _outside or threading.current_thread() is threading.main_thread():
        return CaseContext()
    if len({(one.poc, one.mode, one.budget) for one in _outside}) > 1:
        error = InputError(
            f"a thread that knows of no case asks a model while {len(_outside)} evaluations are under way: nobody knows for which",
            fix="start it by contextvars.copy_context().run, or evaluate one after the other",
        )
        for one in _outside:  # the system may swallow it, and make up an answer
            one.stop = one.stop or error
        raise error
    return _outside[-1]


class OutOfTime(Exception):
    """The case had no time left to ask."""


class Request:
    """One request: what it asks of which endpoint, for which case, and under which rules.

    Raises:
        EndpointError: it needs a key and has none.
        InputError: its mode is none.
    """

    def __init__(self, request: Any, mode: str | None = None) -> None:
        # What a redirect leads to is the answer of the address that was asked first: a replay asks that one.
        url = request.extensions.setdefault(FIRST, request.url)
        path = url.path.rstrip("/")
        is_json = "json" in request.headers.get("content-type", "").lower()
        self.body = parsed(request.content) if is_json and request.method == "POST" else None
        self.model = str(self.body.get("model") or "") if isinstance(self.body, dict) else ""
        self.path = next((known for known in RECORDED if path.endswith(known)), path)
        self.endpoint = _endpoint(url, path.removesuffix(self.path))
        #: What the address says besides, without secrets: it may choose among models.
        self.query = sorted((name, value) for name, value in url.params.multi_items() if not SECRET.search(name)) if url.query else []
        without_key = request.headers.get("authorization") == f"Bearer {NO_KEY}"
        listing = without_key and request.method == "GET" and path.endswith("/models")
        self.offline = listing or self.model.startswith(offline.PREFIX)
        _remember_secrets(request)
        self.case = current_case.get()
        self.context = self.case or _context_outside()
        self.mode = os.environ.get(FORCED_MODE) or mode or self.context.mode or os.environ.get(MODE) or "auto"
        if self.mode not in MODES:
            raise InputError(f"{MODE} is {self.mode!r}", fix=f"use one of: {', '.join(MODES)}")
        if without_key and not self.offline and self.mode != "replay":
            self.context.fatal = f"no API key for {f'model {self.model!r}' if self.model else path}", FIX_KEY
            raise EndpointError(self.context.fatal[0], fix=FIX_KEY)
        if listing:
            self.path = "/models"
        self.delay_s = self.context.delay_s
        self.paying = request.method == "POST"
        self.recorded = self.path in RECORDED and isinstance(self.body, dict)
        self.streams = self.recorded and bool(self.body.get("stream"))
        self.choices = _choices(self.body) if self.recorded else 1
        self.poc = self.context.poc or find_poc()
        self.budget = self.context.budget or os.environ.get(BUDGET)
        #: How long the client waits for something to come, in seconds.
        self.patience_s = (request.extensions.get("timeout") or {}).get("read")

    @property
    def left_s(self) -> float:
        """The seconds until the case's deadline, outside of a case a minute.

        What replayed answers took when they were paid is used up, of those that had come when this request was made.
        """
        return LONGEST_CLAIM_S if self.context.deadline is None else self.context.deadline - self.delay_s - time.monotonic()

    def time_left(self) -> float:
        """Return `left_s`.

        Raises:
            OutOfTime: there are none.
        """
        if (left := self.left_s) <= 0:
            raise OutOfTime("the case has no time left")
        return left


def _remember_secrets(request: Any) -> None:
    """Conceal from now on the keys that a request carries, in whatever form: endpoints echo them in their answers."""
    url = request.url
    redaction.remember_unless_word(url.password or "")
    for name, value in (*request.headers.items(), *(url.params.multi_items() if url.query else ())):
        holds = _holds(name)
        if holds is SECRET or (holds is KEY and KEY.search(value)):
            for secret in _secrets(value):
                redaction.remember_unless_word(secret)


@functools.lru_cache(maxsize=1000)
def _holds(name: str) -> re.Pattern[str] | None:
    """Return what the name of a header or a parameter says of its value: that it is a secret, that it may be a key, or None."""
    if name != "idempotency-key" and SECRET.search(name):
        return SECRET
    return None if HARMLESS.match(name) else KEY


@functools.lru_cache(maxsize=100)
def _secrets(value: str) -> tuple[str, ...]:
    """Return what may be the key in a header's value: `Bearer KEY`, `Token token="KEY"`, `a=1; session=KEY`, a password for `Basic`."""
    found = [value, value.rpartition(" ")[2], *re.findall(r"=\s*\"?([^;,\"]+)", value)]
    if value.lower().startswith("basic "):
        with contextlib.suppress(ValueError):
            found.append(base64.b64decode(value[6:], validate=True).decode("utf-8", "replace").partition(":")[2])
    return tuple(found)


def _endpoint(url: Any, path: str) -> str:
    """Return the base URL of a request, without user, password and query."""
    port = f":{url.port}" if url.port else ""
    return f"{url.scheme}://{url.host}{port}{path}"


def _choices(body: Mapping[str, Any]) -> int:
    """Return how many choices an answer has at least."""
    asked, prompt = body.get("n"), body.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and any(type(one) is not int for one in prompt) else 1
    return (asked if type(asked) is int else 1) * prompts


def not_an_api(url: str, content: bytes = b"") -> EndpointError:
    kind = "HTML" if not content or content.lstrip()[:1] == b"<" else "something that is not JSON"
    return EndpointError(f"{redaction.shown(url)} answers {kind}, not an OpenAI-compatible API", fix=FIX_URL)
