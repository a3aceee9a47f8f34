"""An engine in a process of its own, at the other end of a socket: what `processes` starts.

    python -m embervlm.server.engine_process 7      # 7: the socket, inherited

It is told what to load, then answers one job behind the other until the socket is closed: by its
server, or by the end of its server, however that came. It knows nothing of HTTP and imports none of
it. Signals are not for it: Ctrl-C and systemd send them to all processes of a group, and what was
accepted is to be answered first.

A message is its length in four bytes, then a pickle: (what, fleet, values), where the fleet is None
as long as it stays the one that was told last. The answer is what the worker gave, or a `Refused`
or `Fault`.
"""

from __future__ import annotations

import gc
import pickle
import signal
import socket
import struct
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from embervlm.backends import load_backend
from embervlm.fleet import Fleet
from embervlm.memory.store import LessonStore
from embervlm.scenario import Decision, Scenario
from embervlm.selector import Selector
from embervlm.server.logs import log_to_stderr
from embervlm.server.workers import LocalWorker, safely

_LENGTH = struct.Struct("!I")
_CHUNK_BYTES = 1 << 18
# The engine makes few objects that refer to each other: to look for them more rarely saves time.
_COLLECT_EVERY = 20_000


@dataclass(frozen=True)
class EngineOptions:
    """What an engine process loads, as plain values; `lessons` is a whole path, or an address."""

    backend: str
    model: Path | None
    lessons: str
    site: str = "default"

    def load(self) -> Selector:
        """Return the selector, for the default fleet.

        Raises:
            ValueError: the model is missing or wrong.
        """
        store = LessonStore(self.lessons, site=self.site)
        return Selector(load_backend(self.backend, self.model), memory=store)


class Engine:
    """The jobs of an engine process; see `workers.Worker`."""

    def __init__(self, selector: Selector) -> None:
        self._selector = selector
        self._worker = LocalWorker(selector.backend)

    def do(self, what: str, fleet: Fleet | None, values: dict[str, Any]) -> Any:
        """Do a job for a fleet; None: for the one of the job before."""
        if fleet is not None:
            self._selector = self._selector.with_fleet(fleet)
        return safely(lambda: getattr(self, what)(**values))

    def answer(self, **values: Any) -> bytes:
        """Decide, and write the answer."""
        return self._worker.answer(self._selector, **values)

    def decide(self, scenario: Scenario, **values: Any) -> Decision:
        """Decide; the scenario, with its photo, need not be sent back."""
        found = self._worker.decide(self._selector, scenario, **values)
        return replace(found, scenario=None)

    def occlude(self, scenario: Scenario) -> Any:
        """Measure which parts of a photo counted."""
        return self._worker.occlude(self._selector, scenario)


def send(line: socket.socket, message: Any) -> None:
    """Send a message.

    Raises:
        OSError: the other end is gone.
    """
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    line.sendall(_LENGTH.pack(len(data)) + data)


def receive(line: socket.socket) -> Any:
    """Return the next message.

    Raises:
        EOFError: the other end is gone.
        OSError: nothing came in the socket's time, or the other end was lost.
    """
    # Nobody sends a second message before the first is answered, so nothing more can come with it.
    data = _some(line, _CHUNK_BYTES)
    while len(data) < _LENGTH.size:
        data += _some(line, _CHUNK_BYTES)
    missing = _LENGTH.size + _LENGTH.unpack_from(data)[0] - len(data)
    if missing:
        parts = [data]
        while missing:
            parts.append(_some(line, missing))
            missing -= len(parts[-1])
        data = b"".join(parts)
    return pickle.loads(memoryview(data)[_LENGTH.size :])


def _some(line: socket.socket, most: int) -> bytes:
    data = line.recv(most)
    if not data:
        raise EOFError("the other end is gone")
    return data


def serve(line: socket.socket) -> None:
    """Load what is told, say so by sending None, and answer until the other end is gone."""
    options: EngineOptions = receive(line)
    loaded = safely(options.load)
    if not isinstance(loaded, Selector):
        send(line, loaded)
        return
    engine = Engine(loaded)
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY)
    send(line, None)
    while True:
        what, fleet, values = receive(line)
        send(line, engine.do(what, fleet, values))


if __name__ == "__main__":
    for _signal in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_signal, signal.SIG_IGN)
    log_to_stderr()
    with socket.socket(fileno=int(sys.argv[1])) as _line:
        try:
            serve(_line)
        except (EOFError, OSError):
            sys.exit(0)
