"""A plain `openai.OpenAI` client whose HTTP transport knows the offline models and records what a case asks.

The choice: everything happens below the SDK, where one request becomes one answer, so that any code that takes such a client
(MLflow's autolog, an agent library, a system of one's own) gets all of it and sees ordinary calls.

- A request for a model `offline/*` is answered in this process, without a socket, whatever the base URL.
- A request for another model without a key is refused before any traffic. A base URL of one's own (Ollama, vLLM) needs no key.
- While a case is answered, each request to `/chat/completions`, `/responses`, `/completions` or `/embeddings` becomes a `Call` and a
  step of the case, failed ones and each of the SDK's retries (2 by default) included. Headers are never recorded, nor embedding vectors.
- An `EndpointError` from here reaches the caller as itself: the SDK wraps and retries only errors of its HTTP library.

Not covered: Azure's URLs and key header, websockets, tool calls of a streamed answer (its text and usage are recorded), prices (a cost is
0 for an offline model and else unknown), and calls made outside an evaluation, which nobody records.
Only the transport has an async form; it answers an offline model on the event loop, which takes some milliseconds.
"""

from __future__ import annotations

import contextlib
import contextvars
import difflib
import functools
import json
import os
import re
import time
import weakref
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from poclab import offline, redaction
from poclab.errors import EndpointError
from poclab.system import Call, close_step, current_case, open_step

if TYPE_CHECKING:
    import openai

DEFAULT_URL = "https://api.openai.com/v1"
#: Stands where a key would, in the Authorization header of a client that has none: requests that carry it stay on this machine.
NO_KEY = "no-api-key-was-given"
#: Sent to a base URL of one's own when there is no key: local servers ignore it, and the SDK insists on one.
ANY_KEY = "none"
#: The paths that are recorded, with the kind of step; the first that the request's path ends with counts.
RECORDED = {"/chat/completions": "CHAT_MODEL", "/responses": "CHAT_MODEL", "/completions": "CHAT_MODEL", "/embeddings": "EMBEDDING"}
FIX_KEY = "export OPENAI_API_KEY=..., or use the model 'offline/extractive', which needs none"
FIX_URL = "export OPENAI_BASE_URL=... with the address of an OpenAI-compatible API; it often ends in /v1"


def client(*, api_key: str | None = None, base_url: str | None = None, timeout_s: float = 60.0, **options: Any) -> openai.OpenAI:
    """Return an `openai.OpenAI` client; `options` go to it as they are.

    The key is the argument, else `OPENAI_API_KEY`; the URL the argument, else `OPENAI_BASE_URL`, else OpenAI's. Without a key or a URL
    the client still answers offline models, and lists them. It may be shared by threads, and needs no closing.

    Raises:
        EndpointError: the URL is not one, or the key holds characters that a header cannot carry.
    """
    import httpx2
    import openai

    key, url = _endpoint(api_key, base_url)
    network = httpx2.HTTPTransport(proxy=_proxy(url), limits=openai.DEFAULT_CONNECTION_LIMITS)
    http_client = httpx2.Client(transport=_adapter(httpx2)(network), follow_redirects=True)
    weakref.finalize(http_client, network.close).atexit = False
    return openai.OpenAI(api_key=key, base_url=url, timeout=timeout_s, http_client=http_client, **options)


def async_client(*, api_key: str | None = None, base_url: str | None = None, timeout_s: float = 60.0, **options: Any) -> openai.AsyncOpenAI:
    """Return the `openai.AsyncOpenAI` client of a system that is a coroutine; as `client`, but close it, or use it in `async with`."""
    import httpx2
    import openai

    key, url = _endpoint(api_key, base_url)
    network = httpx2.AsyncHTTPTransport(proxy=_proxy(url), limits=openai.DEFAULT_CONNECTION_LIMITS)
    http_client = httpx2.AsyncClient(transport=_adapter(httpx2)(network), follow_redirects=True)
    return openai.AsyncOpenAI(api_key=key, base_url=url, timeout=timeout_s, http_client=http_client, **options)


def check(model: str, *, api_key: str | None = None, base_url: str | None = None, timeout_s: float = 10.0) -> None:
    """Refuse a model that cannot be asked, before an evaluation spends anything: one free GET of the endpoint's list of models.

    A model that is missing from the list is not refused, since gateways list in part and route by aliases; neither is an endpoint
    without a list (404, 405, or any other JSON). So passing promises a known offline model, or an endpoint that takes the key.

    Raises:
        EndpointError: unknown offline model, no key, key refused, endpoint out of reach or unavailable, or not an OpenAI-compatible API.
    """
    if model.startswith(offline.PREFIX):
        return _check_offline(model)
    key, url = _endpoint(api_key, base_url)
    if key == NO_KEY:
        raise EndpointError(f"no API key for model {model!r}", fix=FIX_KEY)
    status, content = _get(f"{url}/models", key, timeout_s)
    if status in (401, 403):
        raise EndpointError(
            f"{_shown(url)} refuses the API key (HTTP {status})", fix="export OPENAI_API_KEY=... with a key of this endpoint"
        )
    if status in (502, 503, 504):
        raise EndpointError(f"{_shown(url)} is not available (HTTP {status})", fix="wait until the endpoint is up, and try again")
    if status == 200 and not isinstance(_json(content), (dict, list)):
        raise _not_an_api(url, content)
    if status == 404 and not url.endswith("/v1") and _get(f"{url}/v1/models", key, timeout_s)[0] == 200:
        raise EndpointError(f"{_shown(url)} has no /models, but {_shown(url)}/v1 has", fix=f"export OPENAI_BASE_URL={_shown(url)}/v1")


def _check_offline(model: str) -> None:
    if model not in offline.MODELS:
        near = difflib.get_close_matches(model, offline.MODELS, n=1, cutoff=0)
        raise EndpointError(f"unknown offline model {model!r}", fix=f"did you mean {near[0]!r}? There are: {', '.join(offline.MODELS)}")


def _get(url: str, key: str, timeout_s: float) -> tuple[int, bytes]:
    import httpx2

    try:
        response = httpx2.get(url, headers={"authorization": f"Bearer {key}"}, timeout=timeout_s, follow_redirects=True)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        reason = f"no answer within {timeout_s:g} s" if isinstance(error, httpx2.TimeoutException) else str(error) or type(error).__name__
        raise EndpointError(f"cannot reach {_shown(url)}: {redaction.conceal(reason)}", fix=FIX_URL) from None
    return response.status_code, response.content


# --- key and URL


def _endpoint(api_key: str | None, base_url: str | None) -> tuple[str, str]:
    """Return the key to send and the base URL without a slash at its end. Blank values count as absent."""
    own_url = (base_url or os.environ.get("OPENAI_BASE_URL") or "").strip().rstrip("/")
    key = (api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
    redaction.remember(key)
    if own_url and not _is_url(own_url):
        raise EndpointError(f"{_shown(own_url)!r} is not a URL", fix="export OPENAI_BASE_URL=http://host:port/v1, or with https://")
    if not re.fullmatch(r"[!-~]*", key):
        raise EndpointError("the API key holds a space or a character beyond ASCII", fix="copy the key again: export OPENAI_API_KEY=...")
    return key or (ANY_KEY if own_url else NO_KEY), own_url or DEFAULT_URL


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


def _shown(url: str) -> str:
    """Return a URL fit for a message: without user, password and query."""
    return redaction.conceal(re.sub(r"//[^/@]*@", "//", url.partition("?")[0]))


def _not_an_api(url: str, content: bytes = b"") -> EndpointError:
    kind = "HTML" if not content or content.lstrip()[:1] == b"<" else "something that is not JSON"
    return EndpointError(f"{_shown(url)} answers {kind}, not an OpenAI-compatible API", fix=FIX_URL)


# --- the transport


@functools.cache
def _adapter(http: ModuleType) -> type:
    """Return the transport class for one HTTP library; httpx2 and httpx have the same names for what is used here.

    It carries requests to `_Exchange`, which knows neither library, and wraps an answer's stream so that its bytes are seen on their way.
    """

    class Watched(http.SyncByteStream, http.AsyncByteStream):
        def __init__(self, stream: Any, exchange: _Exchange) -> None:
            self.stream, self.exchange = stream, exchange

        def __iter__(self) -> Iterator[bytes]:
            with self.exchange.failing():
                for chunk in self.stream:
                    self.exchange.take(chunk)
                    yield chunk
            self.exchange.finish()

        async def __aiter__(self) -> Any:
            with self.exchange.failing():
                async for chunk in self.stream:
                    self.exchange.take(chunk)
                    yield chunk
            self.exchange.finish()

        def close(self) -> None:
            self.stream.close()
            self.exchange.finish()

        async def aclose(self) -> None:
            await self.stream.aclose()
            self.exchange.finish()

    def watch(response: Any, exchange: _Exchange) -> Any:
        # A redirection is followed by another request, and that one's answer counts.
        if exchange.recorded and response.status_code // 100 != 3:
            exchange.headers, exchange.decode = response.headers, decode
            response.stream = Watched(response.stream, exchange)
        return response

    def decode(content: bytes, headers: Any) -> bytes:
        try:
            return http.Response(200, headers=headers, content=content).content
        except http.DecodingError:
            return b""

    def in_process(exchange: _Exchange) -> Any:
        status, kind, content = exchange.answer_offline()
        return http.Response(status, headers={"content-type": kind}, stream=http.ByteStream(content))

    class Transport(http.BaseTransport, http.AsyncBaseTransport):
        def __init__(self, network: Any) -> None:
            self.network = network

        def handle_request(self, request: Any) -> Any:
            exchange = _Exchange(request)
            with exchange.failing():
                response = in_process(exchange) if exchange.offline else self.network.handle_request(request)
                if exchange.is_page(response.status_code, response.headers):
                    response.close()
                    raise _not_an_api(str(request.url))
            return watch(response, exchange)

        async def handle_async_request(self, request: Any) -> Any:
            exchange = _Exchange(request)
            with exchange.failing():
                response = in_process(exchange) if exchange.offline else await self.network.handle_async_request(request)
                if exchange.is_page(response.status_code, response.headers):
                    await response.aclose()
                    raise _not_an_api(str(request.url))
            return watch(response, exchange)

        def close(self) -> None:
            self.network.close()

        async def aclose(self) -> None:
            await self.network.aclose()

    return Transport


class _Exchange:
    """One request and its answer: where it goes, and, while a case is answered, the record of it.

    Raises:
        EndpointError: the request needs a key and has none.
    """

    def __init__(self, request: Any) -> None:
        path = request.url.path
        is_json = request.headers.get("content-type", "").startswith("application/json")
        self.body = _json(request.content) if is_json and request.method == "POST" else None
        self.model = str(self.body.get("model") or "") if isinstance(self.body, dict) else ""
        self.path = next((known for known in RECORDED if path.endswith(known)), path)
        without_key = request.headers.get("authorization") == f"Bearer {NO_KEY}"
        listing = without_key and request.method == "GET" and path.endswith("/models")
        self.offline = listing or self.model.startswith(offline.PREFIX)
        if without_key and not self.offline:
            raise EndpointError(f"no API key for {f'model {self.model!r}' if self.model else path}", fix=FIX_KEY)
        if listing:
            self.path = "/models"
        self._open()

    def _open(self) -> None:
        self.status, self.headers, self.chunks = 0, {}, []
        self.case = current_case.get()
        self.recorded = self.case is not None and self.path in RECORDED and self.body is not None
        if self.recorded:
            self.step = open_step(self.path[1:], RECORDED[self.path], self.body)
            # A stream may be read, or closed, where another case or none is current.
            self.context = contextvars.copy_context()
            self.started = self.last = time.perf_counter()

    def answer_offline(self) -> tuple[int, str, bytes]:
        """Return status, content type and body of an offline model's answer."""
        status, answer = offline.answer(self.path, self.body)
        if status == 200 and self.path == "/chat/completions" and self.body.get("stream"):
            return status, "text/event-stream", "".join(offline.stream_events(self.body, answer)).encode()
        return status, "application/json", json.dumps(answer, separators=(",", ":")).encode()

    def is_page(self, status: int, headers: Any) -> bool:
        """Take note of the status; true for a web page in place of an answer, which the SDK would hand to the caller as a str."""
        self.status = status
        return status // 100 == 2 and headers.get("content-type", "").startswith("text/html")

    def take(self, chunk: bytes) -> None:
        self.last = time.perf_counter()
        self.chunks.append(chunk)

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Record what goes wrong inside. A stream that its reader leaves early has not failed."""
        try:
            yield
        except GeneratorExit:
            raise
        except BaseException as error:
            self.last = time.perf_counter()
            self.finish(error)
            raise

    def finish(self, error: BaseException | None = None) -> None:
        """Record the exchange, once: at the end of the answer, at its close, or at an error."""
        if not self.recorded:
            return
        self.recorded = False
        answer, failure = self._read() if error is None else (None, f"{type(error).__name__}: {error}")
        tokens_in, tokens_out = _tokens(answer, self.path)
        cost_usd = 0.0 if self.offline else None
        self.step.outputs = answer
        if answer and self.path == "/embeddings" and isinstance(answer.get("data"), list):
            self.step.outputs = {**answer, "data": f"{len(answer['data'])} vectors"}
        self.step.attributes = {"model": self.model, "tokens_in": tokens_in, "tokens_out": tokens_out, "cost_usd": cost_usd}
        self.step.error = redaction.conceal(failure) if failure else ""
        answered_id = answer.get("id") if answer else None
        latency_s = self.last - self.started
        self.case.add_call(Call(self.model, self.path, latency_s, self.status, tokens_in, tokens_out, cost_usd, answered_id))
        self.context.run(close_step, self.step)

    def _read(self) -> tuple[dict[str, Any] | None, str]:
        """Return the answer's JSON, if it has one, and what is wrong with it."""
        content = b"".join(self.chunks)
        if self.headers.get("content-encoding"):
            content = self.decode(content, self.headers)
        is_stream = self.headers.get("content-type", "").startswith("text/event-stream")
        answer = assemble(content) if is_stream else _json(content)
        error = answer.get("error") if isinstance(answer, dict) else None
        message = error.get("message") if isinstance(error, dict) else error
        if self.status >= 400:
            return None, f"HTTP {self.status}: {message or redaction.conceal(content.decode('utf-8', 'replace'))[:200]}"
        if not isinstance(answer, dict):
            return None, f"HTTP {self.status}: the answer is not a JSON object"
        return answer, str(message) if error else ""


def assemble(content: bytes) -> dict[str, Any]:
    """Return the answer that server-sent events spell, in the shape of the unstreamed one: texts, finish reasons, the last usage, the id.

    A Responses stream carries its answer whole, in its last events. Of a stream that was cut, what had arrived counts.
    """
    read = (_json(line[5:]) for line in content.splitlines() if line.startswith(b"data:"))
    events = [event for event in read if isinstance(event, dict)]
    responses = [event["response"] for event in events if isinstance(event.get("response"), dict)]
    if responses:
        return responses[-1]
    answer = {key: value for event in events for key, value in event.items() if key != "choices" and value is not None}
    pieces: dict[int, list[str]] = {}
    reasons: dict[int, str] = {}
    for choice in (choice for event in events for choice in event.get("choices") or [] if isinstance(choice, dict)):
        index = choice.get("index", 0)
        pieces.setdefault(index, []).append((choice.get("delta") or {}).get("content") or choice.get("text") or "")
        reasons[index] = choice.get("finish_reason") or reasons.get(index)
    message = {index: {"role": "assistant", "content": "".join(texts)} for index, texts in pieces.items()}
    answer["choices"] = [{"index": index, "message": message[index], "finish_reason": reasons[index]} for index in pieces]
    return answer


def _tokens(answer: dict[str, Any] | None, path: str) -> tuple[int | None, int | None]:
    """Return tokens in and out by chat's or Responses' names for them; an embedding puts out none."""
    usage = answer.get("usage") if answer else None
    if not isinstance(usage, dict):
        return None, None

    def count(*names: str) -> int | None:
        return next((usage[name] for name in names if type(usage.get(name)) is int), None)

    return count("prompt_tokens", "input_tokens"), 0 if path == "/embeddings" else count("completion_tokens", "output_tokens")


def _json(content: bytes) -> Any:
    """Return the content as JSON, None when it is not."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
