"""The HTTP transport under an `openai` client, for httpx2 and for httpx: it carries an `Exchange` to the network and back.

Offline models are answered without a socket. What the exchange decides (ledger, limits, budget, retries) it asks for by `Send`, `Read`
and `Wait`; here each is done once for threads and once for event loops. An `EndpointError` or another of poclab's errors reaches the
caller as itself: the SDK wraps and retries only errors of its HTTP library.

On an event loop, offline models and the ledger's writes take some milliseconds of the loop each. Websockets are not covered.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from types import ModuleType
from typing import Any

from poclab.answers import REQUEST_ID
from poclab.exchange import CutShort, Exchange, Read, Send
from poclab.requests import OutOfTime, Request


def advance(steps: Any, told: Any = None, error: BaseException | None = None) -> tuple[Any, Any]:
    """Tell an exchange what came of its last step; return the next one, or its answer."""
    try:
        return steps.throw(error) if error else steps.send(told), None
    except StopIteration as end:
        return None, end.value


@functools.cache
def adapter(http: ModuleType) -> type:
    """Return the transport class for one HTTP library; httpx2 and httpx have the same names for what is used here."""

    @contextlib.contextmanager
    def as_errors_of_the_library(request: Any) -> Iterator[None]:
        try:
            yield
        except CutShort as error:
            raise http.RemoteProtocolError(str(error), request=request) from None
        except OutOfTime as error:
            raise http.ReadTimeout(str(error), request=request) from None

    class Watched(http.SyncByteStream, http.AsyncByteStream):
        """A stream whose pieces the exchange sees on their way."""

        def __init__(self, stream: Any, exchange: Exchange, request: Any) -> None:
            self.stream, self.exchange, self.request = stream, exchange, request

        def __iter__(self) -> Iterator[bytes]:
            with as_errors_of_the_library(self.request):
                with self.exchange.failing():
                    for chunk in self.stream:
                        self.exchange.take(chunk)
                        yield chunk
                self.exchange.finish()

        async def __aiter__(self) -> Any:
            with as_errors_of_the_library(self.request):
                with self.exchange.failing():
                    async for chunk in self.stream:
                        self.exchange.take(chunk)
                        yield chunk
                self.exchange.finish()

        def close(self) -> None:
            try:
                self.stream.close()
            finally:
                self.exchange.leave()

        async def aclose(self) -> None:
            try:
                await self.stream.aclose()
            finally:
                self.exchange.leave()

    class Broken(http.SyncByteStream, http.AsyncByteStream):
        """A stream that breaks off after its content."""

        def __init__(self, content: bytes, request: Any) -> None:
            self.content, self.request = content, request

        def __iter__(self) -> Iterator[bytes]:
            with as_errors_of_the_library(self.request):
                yield self.content
                raise CutShort("the stream broke off")

        async def __aiter__(self) -> Any:
            for chunk in self:
                yield chunk

    def begin(request: Any, mode: str | None) -> Exchange:
        if isinstance(request.stream, http.SyncByteStream):  # a redirected request has its body as a stream
            request.read()
        exchange = Exchange(Request(request, mode))
        if exchange.asked.streams:  # a compressed stream could not be told from a broken one before its end
            request.headers["accept-encoding"] = "identity"
        return exchange

    def limited(request: Any, seconds: float | None) -> Any:
        """Return the request with no more time for each of its waits than there is."""
        if seconds is not None:
            given = request.extensions.get("timeout") or {}
            names = ("connect", "read", "write", "pool")
            timeout = {name: seconds if given.get(name) is None else min(given[name], seconds) for name in names}
            request.extensions = {**request.extensions, "timeout": timeout}
        return request

    def in_time(part: bytes, deadline: float | None, request: Any) -> bytes:
        """Return a part of an answer: the library's own limit is for each part, and one that trickles never meets it."""
        if deadline is not None and time.monotonic() > deadline:
            raise http.ReadTimeout("the answer did not come whole in time", request=request)
        return part

    def response(answer: Any, exchange: Exchange, request: Any) -> Any:
        if answer.response is None:
            stream = Broken(answer.content, request) if answer.broken else http.ByteStream(answer.content)
            # As bytes: what an endpoint puts into a header need not be ASCII.
            headers = [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in answer.headers.items()]
            return http.Response(answer.status, headers=headers, stream=stream)
        if exchange.asked.recorded:
            answer.response.headers[REQUEST_ID] = exchange.context.request_id
            answer.response.stream = Watched(answer.response.stream, exchange, request)
        return answer.response

    class Transport(http.BaseTransport, http.AsyncBaseTransport):
        """`connect` makes the network's transport. A process that was forked makes its own: two on one socket read each other's answers."""

        def __init__(self, connect: Callable[[], Any], mode: str | None = None) -> None:
            self.connect, self.mode = connect, mode
            self.networks: dict[int, Any] = {}
            self.connecting: dict[int, threading.Lock] = {}

        @property
        def network(self) -> Any:
            process = os.getpid()
            if process not in self.networks:
                with self.connecting.setdefault(process, threading.Lock()):  # each network reads the certificates, which takes a while
                    if process not in self.networks:
                        self.networks[process] = self.connect()
            return self.networks[process]

        def handle_request(self, request: Any) -> Any:
            exchange = begin(request, self.mode)
            steps = exchange.answer()
            with as_errors_of_the_library(request):
                step, answer = advance(steps)
                while answer is None:
                    try:
                        told, error = self.do(step, request), None
                    except BaseException as raised:
                        told, error = None, raised
                    step, answer = advance(steps, told, error)
                return response(answer, exchange, request)

        def do(self, step: Any, request: Any) -> Any:
            if isinstance(step, Send):
                return self.network.handle_request(limited(request, step.timeout_s))
            if isinstance(step, Read):
                try:
                    return b"".join(in_time(part, step.deadline, request) for part in step.response.iter_bytes())
                finally:
                    step.response.close()
            if step.ticket is None:
                return time.sleep(step.seconds)
            try:
                return step.ticket.result(step.seconds)
            except FutureTimeout:
                return None

        async def handle_async_request(self, request: Any) -> Any:
            exchange = begin(request, self.mode)
            steps = exchange.answer()
            with as_errors_of_the_library(request):
                step, answer = advance(steps)
                while answer is None:
                    try:
                        told, error = await self.ado(step, request), None
                    except BaseException as raised:
                        told, error = None, raised
                    step, answer = advance(steps, told, error)
                return response(answer, exchange, request)

        async def ado(self, step: Any, request: Any) -> Any:
            if isinstance(step, Send):
                return await self.network.handle_async_request(limited(request, step.timeout_s))
            if isinstance(step, Read):
                try:
                    return b"".join([in_time(part, step.deadline, request) async for part in step.response.aiter_bytes()])
                finally:
                    await step.response.aclose()
            if step.ticket is None:
                return await asyncio.sleep(step.seconds)
            # Not `wait_for`, which would cancel what is still waited for.
            ended, _ = await asyncio.wait([asyncio.wrap_future(step.ticket)], timeout=step.seconds)
            return ended.pop().result() if ended else None

        def close(self) -> None:
            if network := self.networks.get(os.getpid()):
                network.close()

        async def aclose(self) -> None:
            if network := self.networks.get(os.getpid()):
                await network.aclose()

    return Transport
