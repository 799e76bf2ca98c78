"""The HTTP transport under an `openai` client: it answers offline models in this process, and records what a case asks.

- A request for a model `offline/*` is answered without a socket, whatever the base URL; so is the list of models of a client without a key.
- A request for another model without a key is refused before any traffic.
- While a case is answered, each request to `/chat/completions`, `/responses`, `/completions` or `/embeddings` becomes a `Call` and a
  step of the case, failed ones and each of the SDK's retries (2 by default) included. Headers are never recorded, nor embedding vectors.
- An `EndpointError` from here reaches the caller as itself: the SDK wraps and retries only errors of its HTTP library.

Not covered: websockets, tool calls of a streamed answer (its text and usage are recorded), prices (a cost is 0 for an offline model and
else unknown), and calls made outside an evaluation, which nobody records.
It has an async form, which answers an offline model on the event loop; that takes some milliseconds.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import json
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from poclab import offline, redaction
from poclab.errors import EndpointError
from poclab.system import Call, close_step, current_case, open_step

#: Stands where a key would, in the Authorization header of a client that has none: requests that carry it stay on this machine.
NO_KEY = "no-api-key-was-given"
#: The paths that are recorded, with the kind of step; the first that the request's path ends with counts.
RECORDED = {"/chat/completions": "CHAT_MODEL", "/responses": "CHAT_MODEL", "/completions": "CHAT_MODEL", "/embeddings": "EMBEDDING"}
FIX_KEY = "export OPENAI_API_KEY=..., or use the model 'offline/extractive', which needs none"
FIX_URL = "export OPENAI_BASE_URL=... with the address of an OpenAI-compatible API; it often ends in /v1"


@functools.cache
def adapter(http: ModuleType) -> type:
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
                    raise not_an_api(str(request.url))
            return watch(response, exchange)

        async def handle_async_request(self, request: Any) -> Any:
            exchange = _Exchange(request)
            with exchange.failing():
                response = in_process(exchange) if exchange.offline else await self.network.handle_async_request(request)
                if exchange.is_page(response.status_code, response.headers):
                    await response.aclose()
                    raise not_an_api(str(request.url))
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
        self.body = parsed(request.content) if is_json and request.method == "POST" else None
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
            self.case.waiting.append(self)

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
        self.case.waiting.remove(self)
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
        try:
            answer = assemble(content) if is_stream else parsed(content)
        except (TypeError, AttributeError) as error:  # an unusual stream is for its reader to understand, and must not fail here
            return None, f"HTTP {self.status}: the stream cannot be recorded: {error}"
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
    read = (parsed(line[5:]) for line in content.splitlines() if line.startswith(b"data:"))
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


def parsed(content: bytes) -> Any:
    """Return the content as JSON, None when it is not."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def not_an_api(url: str, content: bytes = b"") -> EndpointError:
    kind = "HTML" if not content or content.lstrip()[:1] == b"<" else "something that is not JSON"
    return EndpointError(f"{redaction.shown(url)} answers {kind}, not an OpenAI-compatible API", fix=FIX_URL)
