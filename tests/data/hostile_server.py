"""A real HTTP server on this machine that misbehaves as a test asks it to."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """A file on the server, and how it is served.

    `answers` are (status, headers) given first, one a request; `cuts` are numbers of body bytes
    after which the connections of the next requests are cut; `claimed` is a false Content-Length.
    """

    data: bytes
    etag: str | None = '"1"'
    last_modified: str | None = None
    ranges: bool = True
    if_range: bool = True
    length: bool = True
    claimed: int | None = None
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    pause_s: float = 0.0
    asked: list[dict[str, str]] = field(default_factory=list)

    @property
    def starts(self) -> list[int]:
        """From which byte each request asked."""
        return [int(h.get("Range", "bytes=0-")[6:].partition("-")[0]) for h in self.asked]


class _Handler(BaseHTTPRequestHandler):
    pages: dict[str, Page]

    def do_GET(self) -> None:
        page = self.pages.get(self.path)
        if page is None:
            self.send_error(404)
            return
        page.asked.append(dict(self.headers))
        if page.answers:
            status, headers = page.answers.pop(0)
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            return
        start, wanted = 0, self.headers.get("Range")
        condition = self.headers.get("If-Range")
        same = not page.if_range or condition in (page.etag, page.last_modified)
        if page.ranges and wanted and same:
            start = int(wanted[6:].partition("-")[0])
            if start >= len(page.data):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        body = page.data[start:]
        if start:
            last = len(page.data) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(page.data)}")
        if page.length:
            self.send_header("Content-Length", str(page.claimed or len(body)))
        if page.etag:
            self.send_header("ETag", page.etag)
        if page.last_modified:
            self.send_header("Last-Modified", page.last_modified)
        self.end_headers()
        body = body[: page.cuts.pop(0)] if page.cuts else body
        for i in range(0, len(body), 1 << 16):
            self.wfile.write(body[i : i + (1 << 16)])
            time.sleep(page.pause_s)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that was killed is part of the test."""


@contextmanager
def serve() -> Iterator[tuple[str, dict[str, Page]]]:
    """Yield the server's address and its pages, to be filled and changed while it runs."""
    pages: dict[str, Page] = {}
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"pages": pages}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", pages
    finally:
        server.shutdown()
        server.server_close()
