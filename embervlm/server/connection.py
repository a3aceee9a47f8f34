"""One connection of a client, with deadlines that uvicorn does not have.

uvicorn waits for ever for the rest of a request's head, and for a client that takes no answer. Here
a head must be whole `header_s` after its first byte (or after the connection was made), and what
was sent must be taken within `write_s`; else the connection is cut. Bodies are timed by the `gate`.

It also sends the head of an answer and its body by one call, since each costs as much as the rest.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from embervlm.server.errors import RefusalError, error_body
from embervlm.server.settings import ServerSettings

_MAX_CONNECTIONS = 900


def protocol_for(settings: ServerSettings) -> type[H11Protocol]:
    """Return uvicorn's protocol class with these deadlines."""

    class TimedProtocol(H11Protocol):
        def __init__(
            self,
            config: Config,
            server_state: ServerState,
            app_state: dict[str, Any],
            _loop: asyncio.AbstractEventLoop | None = None,
        ) -> None:
            super().__init__(config, server_state, app_state, _loop)
            self._head = _Deadline(self.loop, settings.header_s, self._cut)
            self._write = _Deadline(self.loop, settings.write_s, self._cut)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(cast(asyncio.Transport, _Gathering(transport, self.loop)))
            self._head.start()
            if len(self.connections) > _MAX_CONNECTIONS:
                transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head.stop()
            self._write.stop()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            # Idle: the head of the next request is not whole yet.
            if self.conn.their_state is h11.IDLE and not self._is_between_requests():
                self._head.start()
            else:
                self._head.stop()

        def send_400_response(self, msg: str) -> None:
            """Answer what is no HTTP in the form that all refusals have."""
            refusal = RefusalError(400, "http", "What came is no HTTP/1.1 request.")
            body = json.dumps(error_body(refusal, uuid.uuid4().hex[:16])).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            parts = (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
            for part in parts:
                self.transport.write(self.conn.send(part))
            self.transport.close()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._write.start()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._write.stop()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.transport.is_closing():
                self._write.start()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._write.start()

        def _is_between_requests(self) -> bool:
            return self.timeout_keep_alive_task is not None

        def _cut(self) -> None:
            self.transport.abort()

    return TimedProtocol


class _Gathering:
    """A transport that sends what is written within one turn of the loop together, at its end."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if data:
            if not self._parts:
                self._loop.call_soon(self._flush)
            self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            self._transport.write(data)


class _Deadline:
    """Calls `then` once, `seconds` after the first `start`, unless stopped."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, then: Callable[[], None]
    ) -> None:
        self._loop, self._seconds, self._then = loop, seconds, then
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._then)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
