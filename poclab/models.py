"""A plain `openai.OpenAI` client whose HTTP transport knows the offline models and records what a case asks.

The choice: everything happens below the SDK, in `transport`, where one request becomes one answer, so that any code that takes such a
client (MLflow's autolog, an agent library, a system of one's own) gets all of it and sees ordinary calls. Here stand the clients, the
key and the URL they are made of, and the check of an endpoint. A base URL of one's own (Ollama, vLLM) needs no key.
Not covered: Azure's URLs and key header.
"""

from __future__ import annotations

import difflib
import functools
import logging
import os
import re
import urllib.parse
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from poclab import offline, redaction, runner
from poclab.answers import parsed
from poclab.errors import EndpointError, InputError
from poclab.redaction import shown
from poclab.requests import FIX_KEY, FIX_URL, FORCED_MODE, MODE, MODES, NO_KEY, not_an_api
from poclab.transport import adapter

if TYPE_CHECKING:
    import openai

DEFAULT_URL = "https://api.openai.com/v1"
#: Sent to a base URL of one's own when there is no key: local servers ignore it, and the SDK insists on one.
ANY_KEY = "none"


def client(
    *, api_key: str | None = None, base_url: str | None = None, timeout_s: float = 60.0, mode: str | None = None, **options: Any
) -> openai.OpenAI:
    """Return an `openai.OpenAI` client; `options` go to it as they are.

    The key is the argument, else `OPENAI_API_KEY`; the URL the argument, else `OPENAI_BASE_URL`, else OpenAI's. Without a key or a URL
    the client still answers offline models, and lists them. It may be shared by threads, and needs no closing. `mode` is `auto` (an
    answer that the ledger has is not asked again), `live` (always asks) or `replay` (never asks); without it, that of the evaluation.
    The SDK's own retries are off: what can be retried is retried below it, within the time of the case.

    Raises:
        EndpointError: the URL is not one, or the key holds characters that a header cannot carry.
    """
    import httpx2
    import openai

    key, url = _endpoint(api_key, base_url)
    options = {"max_retries": 0, **options}
    return openai.OpenAI(api_key=key, base_url=url, timeout=timeout_s, http_client=_http_client(httpx2, url, mode), **options)


def async_client(
    *, api_key: str | None = None, base_url: str | None = None, timeout_s: float = 60.0, mode: str | None = None, **options: Any
) -> openai.AsyncOpenAI:
    """Return the `openai.AsyncOpenAI` client of a system that is a coroutine, as `client`. All cases may share it; close it, or use it in `async with`."""
    import httpx2
    import openai

    key, url = _endpoint(api_key, base_url)
    options = {"max_retries": 0, **options}
    return openai.AsyncOpenAI(api_key=key, base_url=url, timeout=timeout_s, http_client=_async_http_client(httpx2, url, mode), **options)


def limited(client: openai.OpenAI, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a request with `max_tokens` under the name that the client's endpoint takes it by.

    OpenAI's newer models refuse `max_tokens`; many compatible servers ignore its successor, and would answer without a limit.
    """
    renamed = "max_completion_tokens" if client.base_url.host == "api.openai.com" else "max_tokens"
    return {renamed if name == "max_tokens" else name: value for name, value in parameters.items()}


def http_client(http: ModuleType, *, base_url: str | None = None, mode: str | None = None) -> Any:
    """Return an `http.Client`, where `http` is `httpx` or `httpx2`, for any SDK that takes one: its model calls are those of `client`.

    `base_url` only says whose proxy is used. Switch the SDK's own retries off: `max_retries=0`, as most call it.
    """
    return _http_client(http, _endpoint(None, base_url)[1], mode)


def async_http_client(http: ModuleType, *, base_url: str | None = None, mode: str | None = None) -> Any:
    """Return an `http.AsyncClient`, as `http_client`; close it, or use it in `async with`."""
    return _async_http_client(http, _endpoint(None, base_url)[1], mode)


def _http_client(http: ModuleType, url: str, mode: str | None) -> Any:
    logging.getLogger(http.__name__).addFilter(_without_keys)
    transport = adapter(http)(functools.partial(http.HTTPTransport, proxy=_proxy(url), limits=_limits(http)), _checked(mode))
    made = http.Client(transport=transport, follow_redirects=True)
    weakref.finalize(made, transport.close).atexit = False
    return made


def _async_http_client(http: ModuleType, url: str, mode: str | None) -> Any:
    logging.getLogger(http.__name__).addFilter(_without_keys)
    connect = functools.partial(http.AsyncHTTPTransport, proxy=_proxy(url), limits=_limits(http))
    return http.AsyncClient(transport=adapter(http)(connect, _checked(mode)), follow_redirects=True)


def _without_keys(record: logging.LogRecord) -> bool:
    """Take the keys out of what the HTTP library logs: the address of each request, with all that stands in it."""
    record.msg, record.args = redaction.shown(record.getMessage()), ()
    return True


def _limits(http: ModuleType) -> Any:
    """Let the gate decide how many requests are under way, and keep as many connections."""
    return http.Limits(max_connections=1000, max_keepalive_connections=100)


def _checked(mode: str | None) -> str | None:
    if mode not in (None, *MODES):
        raise InputError(f"mode={mode!r}", fix=f"use one of: {', '.join(MODES)}")
    return mode


@dataclass(frozen=True)
class Listing:
    """What an endpoint answered to a GET of its models, after so many seconds; `models` is None where that was no list of them."""

    status: int
    latency_s: float
    models: tuple[str, ...] | None


def check(model: str, *, api_key: str | None = None, base_url: str | None = None, timeout_s: float = 10.0) -> Listing | None:
    """Refuse a model that cannot be asked, before an evaluation spends anything: one free GET of the endpoint's list of models.

    A model that is missing from the list is not refused, since gateways list in part and route by aliases; neither is an endpoint
    without a list (404, 405, or any other JSON). So passing promises a known offline model, or an endpoint that takes the key.
    What it answered is returned; None for offline models, and where all is replayed: then nothing is asked.
    `timeout_s` bounds a whole answer; two may be asked for.

    Raises:
        EndpointError: unknown offline model, no key, key refused, endpoint out of reach or unavailable, or not an OpenAI-compatible API.
    """
    if model.startswith(offline.PREFIX):
        return _check_offline(model)
    if "replay" in (os.environ.get(FORCED_MODE), os.environ.get(MODE)):  # nothing is going to be asked
        return None
    key, url = _endpoint(api_key, base_url)
    if key == NO_KEY:
        raise EndpointError(f"no API key for model {model!r}", fix=FIX_KEY)
    answer = _get(f"{url}/models", key, timeout_s)
    status, content = answer.status_code, answer.content
    if status in (401, 403):
        raise EndpointError(
            f"{shown(url)} refuses the API key (HTTP {status})", fix="export OPENAI_API_KEY=... with a key of this endpoint"
        )
    if status in (502, 503, 504):
        raise EndpointError(f"{shown(url)} is not available (HTTP {status})", fix="wait until the endpoint is up, and try again")
    if status == 200 and not isinstance(parsed(content), (dict, list)):
        raise not_an_api(url, content)
    if status == 404 and not url.endswith("/v1") and _get(f"{url}/v1/models", key, timeout_s).status_code == 200:
        raise EndpointError(f"{shown(url)} has no /models, but {shown(url)}/v1 has", fix=f"export OPENAI_BASE_URL={shown(url)}/v1")
    return Listing(status, answer.elapsed.total_seconds(), _listed(parsed(content)))


def _listed(answer: Any) -> tuple[str, ...] | None:
    entries = answer.get("data") if isinstance(answer, dict) else answer
    if not isinstance(entries, list):
        return None
    return tuple(one["id"] for one in entries if isinstance(one, dict) and isinstance(one.get("id"), str))


def known(model: str, listing: Listing, *, timeout_s: float = 10.0) -> bool | None:
    """Tell whether the endpoint of `client` serves a model; None where it does not say so for nothing.

    One that is not listed may be an alias. It is not there when the endpoint, asked by name, finds one that it lists, and not this one.

    Raises:
        EndpointError: the endpoint is out of reach.
    """
    if not listing.models or model in listing.models:
        return bool(listing.models) or None
    key, url = _endpoint(None, None)

    def status(name: str) -> int | None:
        answer = _get(f"{url}/models/{urllib.parse.quote(name)}", key, timeout_s)
        return answer.status_code if isinstance(parsed(answer.content), dict) else None  # a page is no answer

    this, other = status(model), status(listing.models[0])
    return True if this == 200 else False if (this, other) == (404, 200) else None


def _check_offline(model: str) -> None:
    if model not in offline.MODELS:
        near = difflib.get_close_matches(model, offline.MODELS, n=1, cutoff=0)
        raise EndpointError(f"unknown offline model {model!r}", fix=f"did you mean {near[0]!r}? There are: {', '.join(offline.MODELS)}")


def _get(url: str, key: str, timeout_s: float) -> Any:
    """Return the answer to a GET; one that takes longer is none."""
    import httpx2

    def ask(address: str) -> Any:
        return httpx2.get(address, headers={"authorization": f"Bearer {key}"}, timeout=timeout_s, follow_redirects=True)

    try:
        # In a worker: the library's own timeout is for each read, and an endpoint that sends a byte a second never breaks it.
        (outcome,) = runner.run([url], ask, workers=1, timeout_s=timeout_s)
        if outcome.error:
            raise outcome.error
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        late = isinstance(error, (httpx2.TimeoutException, TimeoutError))
        reason = f"no answer within {timeout_s:g} s" if late else str(error) or type(error).__name__
        raise EndpointError(f"cannot reach {shown(url)}: {redaction.conceal(reason)}", fix=FIX_URL) from None
    return outcome.value


def _endpoint(api_key: str | None, base_url: str | None) -> tuple[str, str]:
    """Return the key to send and the base URL without a slash at its end. Blank values count as absent."""
    for value in (api_key, base_url):
        if not isinstance(value, str | None):
            raise TypeError(f"api_key and base_url are texts, found {type(value).__name__}")
    own_url = (base_url or os.environ.get("OPENAI_BASE_URL") or "").strip().rstrip("/")
    key = (api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
    remember = redaction.remember_unless_word if own_url else redaction.remember
    remember(key)
    redaction.remember_unless_word(urllib.parse.unquote(_password(own_url)))
    if own_url and not _is_url(own_url):
        raise EndpointError(f"{shown(own_url)!r} is not a URL", fix="export OPENAI_BASE_URL=http://host:port/v1, or with https://")
    if not re.fullmatch(r"[!-~]*", key):
        raise EndpointError("the API key holds a space or a character beyond ASCII", fix="copy the key again: export OPENAI_API_KEY=...")
    return key or (ANY_KEY if own_url else NO_KEY), own_url or DEFAULT_URL


def _password(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].rpartition("@")[0].partition(":")[2]


def _is_url(text: str) -> bool:
    import httpx2

    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for this URL: a client with a transport of its own looks for none."""
    import urllib.request

    scheme, _, rest = url.partition("://")
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme.lower()) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(rest.partition("/")[0].rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
