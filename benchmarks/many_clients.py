"""Many clients in one thread that cost little: plain sockets and one epoll, no coroutines.

    outcome = ask_from_many(8000, 64, time.monotonic() + 120, photo_request())

They share the cores with the server that they measure, so what they take is missing there. A client
asks one request behind the other; one who is refused waits a quarter second.
"""

from __future__ import annotations

import heapq
import re
import select
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_PAUSE_S = 0.25
_CHUNK_BYTES = 1 << 16
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: close", re.IGNORECASE)


@dataclass
class Outcome:
    """What clients saw: how often each status, and the seconds of each answer with 200."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0

    def record(self) -> dict[str, Any]:
        """Return the figures."""
        milliseconds = np.array(self.seconds) * 1e3
        return {
            "seconds": round(self.elapsed_s, 1),
            "statuses": dict(sorted(self.statuses.items())),
            "answers_per_s": round(len(self.seconds) / self.elapsed_s, 1),
            **{
                f"p{q}_ms": round(float(np.percentile(milliseconds, q)), 1)
                if self.seconds
                else None
                for q in (50, 99)
            },
        }


def ask_from_many(port: int, clients: int, until: float, sent: bytes) -> Outcome:
    """Let clients ask until a time of the monotonic clock, and wait for what is asked by then."""
    outcome, began = Outcome(), time.monotonic()
    with select.epoll() as poll:
        ready = [(began, i, _Client(port, sent, poll)) for i in range(clients)]
        busy: dict[int, tuple[int, _Client]] = {}
        while True:
            now = time.monotonic()
            while ready and (ready[0][0] <= now or now >= until):
                _, i, client = heapq.heappop(ready)
                if now < until:
                    busy[client.ask()] = i, client
                else:
                    client.close()
            if not (ready or busy):
                break
            wait_s = max(0.0, min(ready[0][0], until) - time.monotonic()) if ready else -1
            for number, _ in poll.poll(wait_s):
                i, client = busy[number]
                status = client.go_on()
                if not status:
                    continue
                del busy[number]
                done = time.monotonic()
                outcome.statuses[status] += 1
                if status == "200":
                    outcome.seconds.append(done - client.asked_at)
                is_refusal = status.isdigit() and status != "200"
                heapq.heappush(ready, (done + _PAUSE_S if is_refusal else done, i, client))
    outcome.elapsed_s = time.monotonic() - began
    return outcome


class _Client:
    """A connection, which is made anew when the server has ended it."""

    def __init__(self, port: int, sent: bytes, poll: select.epoll) -> None:
        self._port, self._sent, self._poll = port, sent, poll
        self._line: socket.socket | None = None
        self._left, self._wanted = memoryview(b""), 0
        self._parts: list[bytes] = []
        self.asked_at = 0.0

    def ask(self) -> int:
        """Send the request, as much as goes at once; return the socket's number."""
        if self._line is None:
            self._line = socket.create_connection(("127.0.0.1", self._port))
            self._line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._line.setblocking(False)
            self._wanted = select.EPOLLIN
            self._poll.register(self._line, self._wanted)
        self._left, self._parts = memoryview(self._sent), []
        self.asked_at = time.monotonic()
        self._send()
        return self._line.fileno()

    def go_on(self) -> str:
        """Send or take what can be; return the status once the answer is whole, or the name of the
        error that ended the connection, else nothing."""
        assert self._line is not None
        try:
            if self._left:
                self._send()
                if self._left:
                    return ""
            part = self._line.recv(_CHUNK_BYTES)
            if not part:
                raise EOFError
        except BlockingIOError:
            return ""
        except (OSError, EOFError) as error:
            self.close()
            return type(error).__name__
        self._parts.append(part)
        data = part if len(self._parts) == 1 else b"".join(self._parts)
        end = data.find(b"\r\n\r\n")
        length = _LENGTH.search(data, 0, end) if end >= 0 else None
        if end < 0 or len(data) < end + 4 + (int(length[1]) if length else 0):
            return ""
        if _CLOSE.search(data, 0, end):
            self.close()
        return data[9:12].decode("ascii")

    def close(self) -> None:
        """End the connection; epoll forgets it."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _send(self) -> None:
        assert self._line is not None
        try:
            self._left = self._left[self._line.send(self._left) :]
        except BlockingIOError:
            pass
        except OSError:
            return  # what ended the connection is read next
        wanted = select.EPOLLIN | (select.EPOLLOUT if self._left else 0)
        if wanted != self._wanted:
            self._poll.modify(self._line, wanted)
            self._wanted = wanted
