"""What the server bears: start, rest, load, overload, a long mixed run, and clients that dawdle.

    python benchmarks/server.py --json benchmarks/server.json
    python benchmarks/server.py --only load --seconds 120 --workers 2

Each part starts `python -m embervlm.server` anew on this machine, with the model that ships, and
asks it from this process over raw sockets (`many_clients`), so that asking costs little; it costs
some all the same, on the same cores. Memory is that of the server with its engine processes. Parts:

    rest      seconds from the start of the process to "ready" (median of three), memory before and
              behind the first decision
    load      64 clients with a photo each, one request behind the other, for `--seconds`: statuses,
              answers a second, 50th and 99th percentile, beside what `Selector.decide` takes alone
              in a process of its own on this machine; the bounds of issue 8 are worked out
    overload  200 clients, 16 places, for half the time; then how long until one request has 200
    mixed     10,000 requests, half of them wrong (nine kinds): memory against their number, by a
              straight line through the second half
    slow      300 connections with half a head and 30 that send a byte a second: when each is cut,
              and the 95th percentile of other requests beside them
    soak      only by name: 4 clients for `--seconds`, to be left for hours; memory, descriptors
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from many_clients import Outcome, ask_from_many

import embervlm

DEMO = Path(embervlm.__file__).parent / "demo" / "seabed.jpg"
TASK = "Our sensor came off its mooring somewhere here. Find it and cut the line."
PARTS = ("rest", "load", "overload", "mixed", "slow")
MIXED = 10_000


@dataclass(frozen=True)
class Server:
    """A server that runs: its port, its process, and the seconds until it was ready."""

    port: int
    pid: int
    ready_s: float

    def memory_kb(self) -> int:
        """Return the memory of the process and its engine processes; what they share counts once.

        A process alone: its resident memory. Several: their proportional shares (PSS of Linux).
        """
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text("ascii").split()
        found, pids = ("Pss:", [self.pid, *children]) if children else ("Rss:", [self.pid])
        rows = (
            row.split()
            for pid in pids
            for row in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
        )
        return sum(int(row[1]) for row in rows if row[0] == found)

    def descriptors(self) -> int:
        """Return how many files and sockets the process holds."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


@contextmanager
def running(*words: str) -> Iterator[Server]:
    """Start a server and end it by SIGTERM, which must give exit code 0."""
    began = time.monotonic()
    command = [sys.executable, "-m", "embervlm.server", "--port", "0", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = json.loads(process.stderr.readline())
        ready_s = time.monotonic() - began
        # Nobody reads the log: a thread must take it, or the pipe is full one day.
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        try:
            yield Server(told["port"], process.pid, ready_s)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
            drain.wait(10)
            assert code == 0, f"the server ended with {code}"


def request(body: bytes, path: str = "/v1/select", kind: str = "application/json") -> bytes:
    """Return the bytes of a POST."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def photo_request() -> bytes:
    """Return a request with the demo's photo and words."""
    image = base64.b64encode(DEMO.read_bytes()).decode()
    return request(json.dumps({"task": TASK, "image": image}).encode())


async def exchange(
    line: tuple[asyncio.StreamReader, asyncio.StreamWriter], sent: bytes
) -> tuple[str, dict[str, str]]:
    """Send a request over an open connection; return the status and the headers."""
    reader, writer = line
    writer.write(sent)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(row.lower().split(": ", 1) for row in head[1:] if ": " in row)
    await reader.readexactly(int(headers.get("content-length", "0")))
    return head[0].split()[1], headers


async def ask(port: int, clients: int, until: float, sent: bytes) -> Outcome:
    """Do what `ask_from_many` does, beside other coroutines."""
    outcome, began = Outcome(), time.monotonic()

    async def client() -> None:
        line = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < until:
            sent_at = time.monotonic()
            try:
                status, headers = await exchange(line, sent)
            except (OSError, asyncio.IncompleteReadError) as error:
                outcome.statuses[type(error).__name__] += 1
                line = await asyncio.open_connection("127.0.0.1", port)
                continue
            outcome.statuses[status] += 1
            if status == "200":
                outcome.seconds.append(time.monotonic() - sent_at)
            else:
                await asyncio.sleep(0.25)
            if headers.get("connection") == "close":
                line = await asyncio.open_connection("127.0.0.1", port)
        line[1].close()

    await asyncio.gather(*(client() for _ in range(clients)))
    outcome.elapsed_s = time.monotonic() - began
    return outcome


def engine_s() -> float:
    """Return the seconds of one decision on photo and words, alone in a process; mean of 100."""
    code = f"""
import sys, time, embervlm
model, photo = embervlm.EmberVLM.from_pretrained(), open({str(DEMO)!r}, "rb").read()
for n in (20, 100):
    began = time.perf_counter()
    for _ in range(n):
        model.select_robots(photo, {TASK!r})
print((time.perf_counter() - began) / 100)
"""
    return float(subprocess.check_output([sys.executable, "-c", code], text=True))


def measure_rest(_: argparse.Namespace) -> dict[str, Any]:
    """Start three times."""
    ready, before, behind = [], [], []
    for _i in range(3):
        with running() as server:
            ready.append(server.ready_s)
            before.append(server.memory_kb())
            outcome = ask_from_many(server.port, 1, time.monotonic() + 0.5, photo_request())
            assert outcome.statuses["200"]
            time.sleep(1)
            behind.append(server.memory_kb())
    return {
        "ready_s": round(float(np.median(ready)), 2),
        "rest_mb": round(float(np.median(before)) / 1024, 1),
        "behind_a_decision_mb": round(float(np.median(behind)) / 1024, 1),
    }


def measure_load(options: argparse.Namespace) -> dict[str, Any]:
    """Ask from 64 clients."""
    alone_s = engine_s()
    words = ("--workers", str(options.workers), "--queue", str(options.queue))
    with running(*words) as server:
        ends = time.monotonic() + options.seconds
        outcome = ask_from_many(server.port, 64, ends, photo_request())
        memory = server.memory_kb()
    most = (options.queue + 1) * alone_s * 1.5
    return {
        "clients": 64,
        "workers": options.workers,
        "queue": options.queue,
        **outcome.record(),
        "memory_mb": round(memory / 1024, 1),
        "engine_alone_ms": round(alone_s * 1e3, 2),
        "share_of_engine": round(
            len(outcome.seconds) / outcome.elapsed_s * alone_s / options.workers, 3
        ),
        "bound_p99_ms": round(most * 1e3, 1),
    }


def measure_overload(options: argparse.Namespace) -> dict[str, Any]:
    """Ask from 200 clients for 16 places, then wait for one good answer."""
    with running("--workers", str(options.workers), "--queue", "16") as server:
        ends = time.monotonic() + options.seconds / 2
        outcome = ask_from_many(server.port, 200, ends, photo_request())
        began = time.monotonic()
        ask_from_many(server.port, 1, began + 0.01, photo_request())
        recovered_s = time.monotonic() - began
    return {"clients": 200, "queue": 16, **outcome.record(), "recovered_s": round(recovered_s, 2)}


def mixed_requests() -> list[bytes]:
    """Return right and wrong requests in turn."""
    good = [photo_request(), request(b'{"task": "look at the roof"}')]
    wrong = [
        request(b"{"),
        request(b'{"task": 7}'),
        request(b'{"task": "a", "a": 1}'),
        request(b"[" * 10_000),
        request(json.dumps({"task": "x" * 4001}).encode()),
        request(json.dumps({"image": base64.b64encode(os.urandom(50_000)).decode()}).encode()),
        request(
            json.dumps({"image": base64.b64encode(DEMO.read_bytes()[:5000]).decode()}).encode()
        ),
        request(b"--b\r\nno form", kind="multipart/form-data; boundary=b"),
        request(b"{}", "/nowhere"),
    ]
    return [r for pair in zip(cycle(good), wrong * 2, strict=False) for r in pair]


def measure_mixed(options: argparse.Namespace) -> dict[str, Any]:
    """Ask 10,000 times, and note the memory."""
    sent = cycle(mixed_requests())
    statuses: Counter[str] = Counter()
    points: list[tuple[int, int]] = []

    async def run(server: Server) -> None:
        line = await asyncio.open_connection("127.0.0.1", server.port)
        for number in range(MIXED):
            status, headers = await exchange(line, next(sent))
            statuses[status] += 1
            if headers.get("connection") == "close":
                line = await asyncio.open_connection("127.0.0.1", server.port)
            if number % 100 == 0:
                points.append((number, server.memory_kb()))

    with running("--workers", str(options.workers)) as server:
        asyncio.run(run(server))
        descriptors = server.descriptors()
    half = np.array(points[len(points) // 2 :])
    return {
        "requests": MIXED,
        "statuses": dict(sorted(statuses.items())),
        "memory_mb_first_and_last": [round(kb / 1024, 1) for _, kb in (points[1], points[-1])],
        "slope_bytes_per_request": round(float(np.polyfit(half[:, 0], half[:, 1], 1)[0]) * 1024),
        "descriptors_at_the_end": descriptors,
    }


def measure_slow(_: argparse.Namespace) -> dict[str, Any]:
    """Hold 330 connections open; ask beside them."""
    head = b"POST /v1/select HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    cut: list[float] = []

    async def hold(port: int, sent: bytes, *, drips: bool) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = time.monotonic()
        writer.write(sent)
        gone = asyncio.ensure_future(reader.read())
        while drips and not gone.done():
            writer.write(b" ")
            await asyncio.wait((gone,), timeout=1)
        with suppress(ConnectionError):
            await asyncio.wait_for(gone, 30)
        cut.append(time.monotonic() - began)
        writer.close()

    async def run(port: int) -> tuple[Outcome, Outcome]:
        words = request(b'{"task": "look at the roof"}')
        idle = await ask(port, 1, time.monotonic() + 3, words)
        held = [asyncio.ensure_future(hold(port, b"GET / HT", drips=False)) for _ in range(300)]
        held += [asyncio.ensure_future(hold(port, head, drips=True)) for _ in range(30)]
        await asyncio.sleep(1)
        beside = await ask(port, 1, time.monotonic() + 6, words)
        await asyncio.gather(*held)
        return idle, beside

    with running() as server:
        idle, beside = asyncio.run(run(server.port))

    def p95_ms(outcome: Outcome) -> float:
        return round(float(np.percentile(outcome.seconds, 95)) * 1e3, 1)

    return {
        "connections": len(cut),
        "cut_after_s_at_most": round(max(cut), 1),
        "p95_ms_idle_and_beside": [p95_ms(idle), p95_ms(beside)],
        "statuses_beside": dict(beside.statuses),
    }


def measure_soak(options: argparse.Namespace) -> dict[str, Any]:
    """Ask from 4 clients for as long as told."""
    with running("--workers", str(options.workers)) as server:
        first = ask_from_many(server.port, 4, time.monotonic() + 60, photo_request())
        memory, descriptors = server.memory_kb(), server.descriptors()
        ends = time.monotonic() + options.seconds
        outcome = ask_from_many(server.port, 4, ends, photo_request())
        memory_end, descriptors_end = server.memory_kb(), server.descriptors()
    return {
        "first_minute": first.record(),
        **outcome.record(),
        "memory_mb": [round(memory / 1024, 1), round(memory_end / 1024, 1)],
        "descriptors": [descriptors, descriptors_end],
    }


MEASURES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "rest": measure_rest,
    "load": measure_load,
    "overload": measure_overload,
    "mixed": measure_mixed,
    "slow": measure_slow,
    "soak": measure_soak,
}


def main() -> None:
    """Measure the parts, print them, and write them with the machine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=MEASURES, help="only these parts")
    parser.add_argument("--seconds", type=float, default=120, help="of load; half of overload")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write the figures there, beside what it has")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if options.json and options.json.exists():
        found = json.loads(options.json.read_text("utf-8"))
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip()
    for name in options.only or PARTS:
        loads = [round(share, 1) for share in os.getloadavg()]
        figures = MEASURES[name](options)
        found[name] = {
            **figures,
            "commit": commit,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "load_average_before": loads,
        }
        sys.stdout.write(f"{name} {json.dumps(found[name], indent=2)}\n")
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
