"""Listening and stopping: uvicorn with our deadlines, and an end that loses nothing accepted.

On SIGTERM or SIGINT /readyz says 503 and new requests are refused, while those that were accepted
are answered; then the socket is closed and the process ends with code 0. A second signal ends it at
once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

import uvicorn

from embervlm.server.app import App
from embervlm.server.connection import protocol_for
from embervlm.server.logs import log

_MAX_HEAD_BYTES = 32_768
_BACKLOG = 256
# A thread that comes back from the engine waits at most this long for the interpreter.
_SWITCH_S = 0.0005
_COLLECT_EVERY = 20_000


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which answers what it accepted before it ends."""

    def __init__(self, config: uvicorn.Config, app: App) -> None:
        super().__init__(config)
        self._app = app
        self._signals = 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals that end a server, and do not raise them again: the exit code is 0."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread alone; there `handle_exit` is for others to call
            return
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {sig: signal.signal(sig, self.handle_exit) for sig in handled}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; the second time, end."""
        self._signals += 1
        self._app.service.is_draining = True
        if self._signals > 1:
            self.should_exit = self.force_exit = True

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Listen, and say where."""
        await super().startup(None)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            pool = self._app.service.pool
            log("ready", host=host, port=port, workers=pool.workers)

    async def main_loop(self) -> None:
        """Serve until a signal comes, then until nothing accepted is left."""
        service, settings = self._app.service, self._app.service.settings
        ticks = 0
        while not service.is_draining:
            await self.on_tick(ticks)
            ticks += 1
            await asyncio.sleep(0.1)
        began = time.monotonic()
        log("draining", in_flight=service.in_flight)
        while not self.should_exit:
            waited_s = time.monotonic() - began
            is_done = waited_s >= settings.linger_s and not service.in_flight
            if is_done or waited_s >= settings.drain_s:
                break
            await asyncio.sleep(0.05)
        log("stopping", in_flight=service.in_flight)


def server_for(app: App, host: str, port: int) -> DrainingServer:
    """Return a server for an app, which does not listen yet."""
    settings = app.service.settings
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol_for(settings),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        timeout_keep_alive=int(settings.idle_s),
        timeout_graceful_shutdown=int(settings.drain_s),
    )
    return DrainingServer(config, app)


def serve(app: App, host: str, port: int) -> None:
    """Serve an app until a signal ends it.

    Raises:
        ValueError: nothing can listen at that address.
    """
    sys.setswitchinterval(_SWITCH_S)
    # What is there now stays, and what a request leaves is gone with it but for a few rings.
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)
    try:
        server_for(app, host, port).run()
    except SystemExit as error:
        if error.code:
            raise ValueError(
                f"Nothing can listen at {host} port {port}; it may be taken: choose another --port."
            ) from error
