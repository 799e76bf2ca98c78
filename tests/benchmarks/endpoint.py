"""A loopback endpoint that answers chat completions after a fixed latency: what benchmarks are timed against.

    python tests/benchmarks/endpoint.py --latency 0.05      # prints its port; ends with its standard input

A question is a text with a number in it. `reply_to` is the rule of its answer, wrong for every tenth number, so that
whoever drops, doubles or mixes up cases reports another accuracy. `GET /asked` returns how many completions were sent.
Only what the benchmark needs is here: no streams, no keys, no faults.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

SHARE_RIGHT = 0.9


def question(number: int) -> str:
    return f"What stands in line {number} of the list? Answer with its words alone."


def answer(number: int) -> str:
    return f"entry {number * 7919}"


def reply_to(prompt: str) -> str:
    """Return the right answer, or a wrong one for the numbers 3, 13, 23, ... and where there is none."""
    found = re.search(r"\d+", prompt)
    return "nothing at all" if found is None or found[0].endswith("3") else answer(int(found[0]))


class Connection(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection; requests on it come one after the other."""

    asked = 0

    def __init__(self, latency_s: float) -> None:
        self.latency_s, self.received = latency_s, b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if not end or len(body) < (int(length[1]) if length else 0):
            return
        self.received = b""
        if head.startswith(b"POST") and b"/chat/completions" in head.split(b"\r\n")[0]:
            asyncio.get_running_loop().call_later(self.latency_s, self._send, _completion(json.loads(body)))
            Connection.asked += 1
        else:
            self._send({"asked": Connection.asked, "object": "list", "data": []})

    def _send(self, answer: dict[str, object]) -> None:
        content = json.dumps(answer).encode()
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content) + content
            )


def _completion(request: dict[str, object]) -> dict[str, object]:
    prompt = request["messages"][-1]["content"]
    message = {"role": "assistant", "content": reply_to(prompt)}
    usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": 4, "total_tokens": len(prompt) // 4 + 4}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": request["model"], "choices": choices, "usage": usage}


async def listen(latency_s: float) -> None:
    """Serve on a free port, print it, and return when standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(latency_s), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def serving(latency_s: float) -> Iterator[str]:
    """Run the endpoint as a process of its own and give its base URL."""
    command = [sys.executable, __file__, "--latency", str(latency_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.stdin.close()


def asked(base_url: str) -> int:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{base_url}/asked") as response:
        return json.load(response)["asked"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, required=True, help="seconds")
    asyncio.run(listen(parser.parse_args().latency))
