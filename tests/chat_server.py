"""A real HTTP server on this machine that speaks OpenAI's protocol, and misbehaves as asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def words_of(request: dict[str, Any]) -> str:
    """Return the user's words of a request."""
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


@dataclass
class Endpoint:
    """How the server behaves, and what it was asked.

    `first` are done one a request before it behaves: a status with headers, "cut", "nonsense", or
    seconds of silence. `answer` makes the answer's text of a request.
    """

    answer: Callable[[dict[str, Any]], str] = lambda request: f"About {words_of(request)}"
    first: list[Any] = field(default_factory=list)
    pause_s: float = 0.0
    finish: str = "stop"
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    endpoint: Endpoint
    lock: threading.Lock

    def do_POST(self) -> None:
        point = self.endpoint
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            point.asked.append(request)
            point.headers.append(dict(self.headers))
            point.paths.append(self.path)
            deed = point.first.pop(0) if point.first else None
            point.at_once += 1
            point.most_at_once = max(point.most_at_once, point.at_once)
        try:
            self._do(request, deed)
        finally:
            with self.lock:
                point.at_once -= 1

    def _do(self, request: dict[str, Any], deed: Any) -> None:
        point = self.endpoint
        if isinstance(deed, tuple):
            status, headers, body = deed
            self._send(status, body, headers)
        elif deed == "nonsense":
            self._send(200, b"<html>not what you wanted</html>", {})
        elif deed == "cut":
            self._send(200, b'{"choices": [{"mess', {"Content-Length": "4000"})
        else:
            time.sleep(deed or point.pause_s)
            message = {"role": "assistant", "content": point.answer(request)}
            found = {"choices": [{"message": message, "finish_reason": point.finish}]}
            self._send(200, json.dumps(found).encode(), {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A client that was killed is part of the test."""


@contextmanager
def serve() -> Iterator[Endpoint]:
    """Yield an endpoint, to be changed while it runs."""
    point = Endpoint()
    parts = {"endpoint": point, "lock": threading.Lock()}
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), parts))
    point.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield point
    finally:
        server.shutdown()
        server.server_close()
