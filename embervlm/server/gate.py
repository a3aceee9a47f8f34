"""The gate: what a request must pass before anything of it is parsed, and what goes round it.

In this order: the Host and Origin lists (against DNS rebinding and foreign pages, on this machine
too), the key, whether the server is stopping, the declared size, then the body itself, counted as
it comes and cut off where the client is slower than `ServerSettings` allows. The app behind it gets
the whole body or none. While it works the gate watches the connection: where the client goes away
the app is cancelled, and with it the job that still waits.

HEAD is answered as GET, whose body the server leaves out. Of an address written out
(`GET http://host/path`) the host counts in place of the Host header, and the path goes on.

It compares the path that the router will match, whole and as it is, with `OPEN_PATHS`; it never
builds an address from the Host header (Starlette's CVE-2026-48710 came of that).
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import os
import random
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embervlm.server.errors import RefusalError, error_body, unknown_fault
from embervlm.server.logs import log, log_fault
from embervlm.server.service import Service, stopping

# What answers without a key: whether the server lives, and the page, which asks for the key itself.
OPEN_PATHS = {"/healthz", "/readyz"}
_ADDRESS = re.compile(r"https?://([^/]*)(.*)", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")
# After a refusal what the client still sends is thrown away for a while: it reads only then.
_MAX_IN_FLIGHT = 500
_LINGER_S, _LINGER_BYTES = 2.0, 64_000_000

_SAFE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
_SAFE_PAIRS = [(key.encode(), value.encode()) for key, value in _SAFE_HEADERS.items()]
# Numbers of requests need not be secret, only different: the system is asked once.
_numbers = random.Random(os.urandom(16))


class Gate:
    """ASGI middleware around the whole app. `open_paths` answer without a key."""

    def __init__(self, app: ASGIApp, service: Service, open_paths: Iterable[str] = ()) -> None:
        self._app = app
        self._service = service
        self._settings = service.settings
        self._open = OPEN_PATHS.union(open_paths)
        self._keys = {name: key.encode() for name, key in self._settings.keys.items()}
        self._hosts = {"localhost", *(host.lower() for host in self._settings.hosts)}
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        visit = _Visit(scope, receive, send, self._settings.write_s)
        self._service.in_flight += 1
        try:
            await self._serve(visit)
        except _GoneError:
            self._service.metrics.dropped.inc()
            visit.status = visit.status or 499
        finally:
            self._service.in_flight -= 1
            self._note(visit)

    async def _serve(self, visit: _Visit) -> None:
        held = 0
        try:
            visit.client = self._check(visit)
            preflight = self._preflight(visit)
            if preflight:
                await visit.answer(204, b"", {})
                return
            body = await self._body(visit)
            held = len(body)
            await self._answer(visit, body)
        except RefusalError as refusal:
            await visit.refuse(refusal)
        except _GoneError:
            raise
        # The last resort, so that no fault ends a connection without a word, or tells too much.
        except Exception as error:  # noqa: BLE001
            log_fault(error, visit.id, words=self._settings.log_requests)
            await visit.refuse(unknown_fault(visit.id))
        finally:
            self._held_bytes -= held

    def _check(self, visit: _Visit) -> str:
        """Return the client's name, or refuse it."""
        self._check_host(visit)
        self._check_origin(visit)
        client = self._check_key(visit)
        if self._service.in_flight > _MAX_IN_FLIGHT:
            raise _busy("Too many requests are under way; try again in 1 s.")
        if self._service.is_draining and visit.path not in OPEN_PATHS:
            raise stopping()
        coding = visit.header("content-encoding") or "identity"
        if visit.announces_body and coding.strip().lower() != "identity":
            raise RefusalError(
                415, "media_type", "Content-Encoding is not taken here; send the body as it is."
            )
        length = visit.header("content-length")
        if length is not None and int(length) > self._settings.max_body_bytes:
            raise self._too_large()
        return client

    def _check_host(self, visit: _Visit) -> None:
        hosts = visit.all("host")
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None:
            raise RefusalError(400, "host", "The Host header is missing or no host's name.")
        name = found[1].lower().rstrip(".")
        if name not in self._hosts and not _is_address(name.strip("[]")):
            raise RefusalError(
                403,
                "host",
                "This server does not go by that name; start it with --allow-host to add it.",
            )

    def _check_origin(self, visit: _Visit) -> None:
        origins = visit.all("origin")
        if not origins:
            return
        own = (f"http://{visit.header('host')}", f"https://{visit.header('host')}")
        if len(origins) == 1 and origins[0] in self._settings.origins:
            visit.extra = {"access-control-allow-origin": origins[0], "vary": "Origin"}
        elif len(origins) > 1 or origins[0].lower() not in (o.lower() for o in own):
            raise RefusalError(
                403,
                "origin",
                "Pages of other servers may not call this one; start it with --allow-origin to "
                "let one.",
            )

    def _check_key(self, visit: _Visit) -> str:
        peer = (visit.scope.get("client") or ("unknown",))[0]
        if not self._keys:
            return str(peer)
        kind, _, given = (visit.header("authorization") or "").partition(" ")
        given_bytes = given.strip().encode("utf-8", "replace")
        client = None
        # All of them every time, so that the time tells nothing.
        for name, key in self._keys.items():
            if hmac.compare_digest(given_bytes, key):
                client = name
        if client is not None and kind.lower() == "bearer":
            return client
        if visit.path in self._open or self._preflight(visit):
            return str(peer)
        raise RefusalError(
            401,
            "key",
            "A key is needed: send the header Authorization: Bearer KEY with one that is known.",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _preflight(self, visit: _Visit) -> bool:
        """Say whether this is a browser's question for an allowed page, and note the answer."""
        asks = visit.method == "OPTIONS" and visit.header("access-control-request-method")
        if not asks or not visit.extra:
            return False
        visit.extra |= {
            "access-control-allow-methods": "GET, POST, PUT, DELETE",
            "access-control-allow-headers": "authorization, content-type",
            "access-control-max-age": "600",
        }
        return True

    async def _body(self, visit: _Visit) -> bytes:
        """Read all of a body, within its limits of size and time."""
        settings = self._settings
        if not visit.announces_body:
            return b""
        began = time.monotonic()
        body, is_taken = bytearray(), False
        try:
            while True:
                until = began + settings.body_s + len(body) / settings.min_body_rate
                async with asyncio.timeout(until - time.monotonic()):
                    message = await visit.receive()
                if message["type"] == "http.disconnect":
                    raise _GoneError
                chunk = message.get("body", b"")
                visit.has_whole_body = not message.get("more_body", False)
                if len(body) + len(chunk) > settings.max_body_bytes:
                    raise self._too_large()
                if self._held_bytes + len(chunk) > settings.max_bodies_bytes:
                    raise _busy("Too many large requests are under way; try again in 1 s.")
                body += chunk
                self._held_bytes += len(chunk)
                if visit.has_whole_body:
                    is_taken = True
                    return bytes(body)
        except TimeoutError as error:
            raise RefusalError(
                408, "slow", "The body came too slowly; send it again over a faster line."
            ) from error
        finally:
            if not is_taken:
                self._held_bytes -= len(body)

    async def _answer(self, visit: _Visit, body: bytes) -> None:
        """Run the app with the body; cancel it where the client goes away."""
        delivered = is_gone = False
        app = asyncio.current_task()
        assert app is not None

        async def receive() -> Message:
            nonlocal delivered
            if delivered:
                await asyncio.Event().wait()
            delivered = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def watch() -> None:
            nonlocal is_gone
            while (await visit.receive())["type"] != "http.disconnect":
                pass
            # A server says so too once it has the whole answer.
            if not visit.is_complete:
                is_gone = True
                app.cancel()

        visit.scope["state"]["body"] = body
        watcher = asyncio.ensure_future(watch())
        try:
            await self._app(visit.scope, receive, visit.send)
        except asyncio.CancelledError:
            if not is_gone:
                raise
        except _GoneError:
            raise
        # Whoever answers a fault of ours raises it again for the log.
        except Exception as error:
            if not visit.status:
                raise
            log_fault(error, visit.id, words=self._settings.log_requests)
        finally:
            watcher.cancel()
        if is_gone:
            app.uncancel()
            raise _GoneError

    def _too_large(self) -> RefusalError:
        most = self._settings.max_body_bytes
        return RefusalError(
            413,
            "too_large",
            f"The body has more than {most:,} bytes; send a smaller photo.",
        )

    def _note(self, visit: _Visit) -> None:
        took_s = time.perf_counter() - visit.began
        # The template, not what the client wrote.
        route = getattr(visit.scope.get("route"), "path", "other")
        method = visit.method if visit.method in _KNOWN_METHODS else "other"
        self._service.metrics.note(route, method, visit.status, took_s)
        log(
            "request",
            id=visit.id,
            route=route,
            method=method,
            status=visit.status,
            ms=round(took_s * 1e3, 1),
            client=visit.client,
            **visit.scope["state"].get("facts", {}),
        )


_KNOWN_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")


class _GoneError(Exception):
    """The client went away."""


class _Visit:
    """One request on its way through the gate."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, write_s: float) -> None:
        address = _ADDRESS.fullmatch(scope["path"])
        self.path: str = address[2] or "/" if address else scope["path"]
        self.method: str = scope["method"]
        # A copy: by its own the server tells that the answer to HEAD has no body.
        asked = "GET" if self.method == "HEAD" else self.method
        self.scope = {**scope, "method": asked, "path": self.path}
        self.receive = receive
        self._send = send
        self._write_s = write_s
        self.id = f"{_numbers.getrandbits(64):016x}"
        self.began = time.perf_counter()
        self.client = ""
        self.status = 0
        self.has_whole_body = False
        self.extra: dict[str, str] = {}
        self.is_complete = False
        self._start: Message | None = None
        self._sent: dict[bytes, list[str]] = {}
        for key, value in scope["headers"]:
            self._sent.setdefault(key, []).append(value.decode("latin-1"))
        if address:
            self._sent[b"host"] = [address[1]]
        state = self.scope.setdefault("state", {})
        state["id"], state["visit"] = self.id, self

    def all(self, name: str) -> list[str]:
        return self._sent.get(name.encode(), [])

    def header(self, name: str) -> str | None:
        values = self.all(name)
        return values[0] if values else None

    @property
    def announces_body(self) -> bool:
        chunked = self.header("transfer-encoding") is not None
        return chunked or self.header("content-length") not in (None, "0")

    @property
    def owes_body(self) -> bool:
        """Whether more of the body is to come, which nobody will read."""
        return self.announces_body and not self.has_whole_body

    async def send(self, message: Message) -> None:
        """Send a part of the answer: the headers together with the first part of its body."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        if not message.get("more_body", False):
            self.is_complete = True
        try:
            async with asyncio.timeout(self._write_s):
                if self._start is not None:
                    start, self._start = self._start, None
                    self.status = start["status"]
                    await self._send({**start, "headers": self._headers(start)})
                await self._send(message)
        except (TimeoutError, OSError) as error:
            raise _GoneError from error

    def _headers(self, start: Message) -> list[tuple[bytes, bytes]]:
        """Return the headers of an answer with what every answer has."""
        headers = [(k, v) for k, v in start.get("headers", []) if k != b"server"]
        present = {key for key, _ in headers}
        headers += [pair for pair in _SAFE_PAIRS if pair[0] not in present]
        for key, value in {**self.extra, "x-request-id": self.id}.items():
            if key.encode() not in present:
                headers.append((key.encode(), value.encode()))
        if self.owes_body:
            headers.append((b"connection", b"close"))
        return headers

    async def refuse(self, refusal: RefusalError) -> None:
        """Answer with the error form, unless an answer has begun."""
        if self.status:
            raise _GoneError
        body = json.dumps(error_body(refusal, self.id)).encode()
        headers = {"content-type": "application/json", **refusal.headers}
        await self.answer(refusal.status, body, headers)

    async def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Answer at once; where more of the body is to come, throw it away for a while first, or
        the client, still sending, would never read the answer."""
        pairs = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
        pairs.append((b"content-length", str(len(body)).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body, "more_body": self.owes_body})
        if self.owes_body:
            await self._discard()
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _discard(self) -> None:
        left = _LINGER_BYTES
        try:
            async with asyncio.timeout(_LINGER_S):
                while left > 0:
                    message: dict[str, Any] = dict(await self.receive())
                    left -= len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        return
        except TimeoutError:
            return


def _busy(message: str) -> RefusalError:
    return RefusalError(429, "busy", message, headers={"Retry-After": "1"})


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
