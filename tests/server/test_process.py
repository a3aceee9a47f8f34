"""On real sockets: slow clients are cut, a full queue refuses, what goes away is dropped, SIGTERM
loses nothing, and the answers are the same whoever asks beside."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Listen, Listening, base64_of, wait_until, working

import embervlm
from embervlm.server.settings import ServerSettings

DEMO = Path(embervlm.__file__).parent / "demo" / "seabed.jpg"

HASTY = ServerSettings(header_s=0.4, body_s=0.4, idle_s=1, write_s=0.4, linger_s=0)


def connect(server: Listening, sent: bytes = b"") -> socket.socket:
    line = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    line.sendall(sent)
    return line


def answer_of(line: socket.socket) -> bytes:
    """Read until the server ends the connection."""
    parts = []
    try:
        while part := line.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def post(server: Listening, ask: object, path: str = "/v1/select") -> tuple[int, bytes]:
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        line.request("POST", path, json.dumps(ask), {"Content-Type": "application/json"})
        answer = line.getresponse()
        return answer.status, answer.read()
    finally:
        line.close()


HEAD = b"POST /v1/select HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_slow_and_half_open_clients_are_cut(listen: Listen) -> None:
    with listen(HASTY) as server:
        stuck = {
            "says nothing": connect(server),
            "half a head": connect(server, b"GET /healthz HT"),
            "half a body": connect(server, HEAD + b"Content-Length: 100\r\n\r\n{"),
            "half a chunk": connect(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"),
            "a second head": connect(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGE"),
            "rests": connect(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        }
        drips = connect(server, HEAD + b"Content-Length: 1000\r\n\r\n")
        drips.settimeout(0.1)
        began, dripped = time.monotonic(), b""
        while time.monotonic() - began < 8 and b"408" not in dripped:
            try:
                drips.sendall(b" ")
                dripped += drips.recv(65536)
            except TimeoutError:
                continue
        assert b"408" in dripped
        answers = {name: answer_of(line) for name, line in stuck.items()}
        assert time.monotonic() - began < 10
        assert answers["says nothing"] == answers["half a head"] == b""
        assert b"408" in answers["half a body"]
        assert b"408" in answers["half a chunk"]
        assert b"200 OK" in answers["rests"]
        wait_until(lambda: server.app.service.in_flight == 0)


def test_a_client_that_takes_no_answer_is_cut(listen: Listen) -> None:
    with listen(HASTY) as server:
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", server.port))
        line.settimeout(0.2)
        ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 400
        with pytest.raises(OSError):
            for _ in range(100):
                line.sendall(ask)
                time.sleep(0.05)
                try:
                    line.sendall(b"")
                    if line.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        raise ConnectionResetError
                except TimeoutError:
                    continue
        wait_until(lambda: server.app.service.in_flight == 0)
        assert post(server, {"task": "look"})[0] == 200


def test_what_is_no_http_is_told_so_in_the_same_form(listen: Listen) -> None:
    with listen(HASTY) as server:
        for sent in (
            b"\x16\x03\x01 tls\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n: c\r\n\r\n",
        ):
            answer = answer_of(connect(server, sent))
            assert b"400" in answer.splitlines()[0]
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "http"


def test_head_is_answered_as_get_without_a_body(listen: Listen) -> None:
    with listen() as server:
        for path in ("/healthz", "/readyz", "/", "/v1/fleet", "/nowhere"):
            heads = []
            for method in ("GET", "HEAD"):
                ask = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
                head, _, body = answer_of(connect(server, ask.encode())).partition(b"\r\n\r\n")
                assert bool(body) == (method == "GET"), path
                varies = (b"x-request-id", b"date")
                heads.append([line for line in head.splitlines() if not line.startswith(varies)])
            assert heads[0] == heads[1]


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("http://localhost/healthz", b"200"),
        ("HTTP://127.0.0.1:8000/healthz?a=1", b"422"),
        ("http://localhost", b"200"),
        ("http://evil.example/healthz", b"403"),
        ("http://a@localhost/healthz", b"400"),
        ("http:///healthz", b"400"),
        ("localhost/healthz", b"404"),
    ],
)
def test_an_address_written_out_counts_before_the_host_header(
    listen: Listen, address: str, status: bytes
) -> None:
    with listen() as server:
        ask = f"GET {address} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert answer_of(connect(server, ask.encode())).split()[1] == status


def test_a_client_that_sends_too_much_still_reads_why(listen: Listen) -> None:
    with listen(ServerSettings(max_body_bytes=10_000, linger_s=0)) as server:
        status, body = post(server, {"task": "look", "image": "A" * 4_000_000})
        assert status == 413
        assert b"smaller photo" in body


def test_a_full_queue_refuses_and_recovers(listen: Listen) -> None:
    with listen(ServerSettings(queue=4, linger_s=0)) as server:
        go = threading.Event()
        with working(server.app, until=go), ThreadPoolExecutor(12) as clients:
            asked = [clients.submit(post, server, {"task": "look"}) for _ in range(12)]
            wait_until(lambda: sum(one.done() for one in asked) == 8)
            assert server.app.service.pool.waiting == 4
            go.set()
            statuses = sorted(one.result()[0] for one in asked)
        assert statuses == [200] * 4 + [429] * 8
        assert post(server, {"task": "look"})[0] == 200


def test_what_a_client_left_behind_is_dropped(listen: Listen) -> None:
    with listen() as server:
        go = threading.Event()
        with working(server.app, until=go):
            body = json.dumps({"task": "look"}).encode()
            head = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode()
            lines = [connect(server, head + body) for _ in range(30)]
            wait_until(lambda: server.app.service.pool.waiting == 30)
            for line in lines:
                line.close()
            wait_until(lambda: server.app.service.pool.waiting == 0)
            wait_until(lambda: server.app.service.in_flight == 0)
        assert post(server, {"task": "look"})[0] == 200


def test_stopping_answers_what_was_accepted(listen: Listen) -> None:
    with listen(ServerSettings(linger_s=0.2)) as server:
        go = threading.Event()
        with working(server.app, until=go), ThreadPoolExecutor(5) as clients:
            asked = [clients.submit(post, server, {"task": "look"}) for _ in range(5)]
            wait_until(lambda: server.app.service.pool.waiting == 5)
            server.stop()
            assert post(server, {"task": "look"})[0] == 503
            go.set()
            assert [one.result()[0] for one in asked] == [200] * 5
        server.thread.join(10)
        assert not server.thread.is_alive()


def test_answers_are_the_same_whoever_asks_beside(listen: Listen, jpeg: bytes) -> None:
    ask = {"task": "carry the 8 kg pump up the stairs", "image": base64_of(jpeg)}
    loud = {"task": "LOOK! " * 300, "image": base64_of(jpeg)}
    with listen() as alone:
        expected = post(alone, ask)
    with listen(ServerSettings(queue=500, linger_s=0), workers=3) as server:
        with ThreadPoolExecutor(12) as clients:
            asked = [clients.submit(post, server, ask if i % 2 else loud) for i in range(120)]
        assert {one.result() for one in asked[1::2]} == {expected}


def start(*words: str, limit_kb: int | None = None, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "embervlm.server", "--port", "0", *words]
    if limit_kb:
        command = ["prlimit", f"--as={limit_kb * 1024}", *command]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def port_of(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    return int(json.loads(process.stderr.readline())["port"])


def ask_by_hand(port: int) -> int:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    line.request("POST", "/v1/select", '{"task": "look"}', {"Content-Type": "application/json"})
    status = line.getresponse().status
    line.close()
    return status


def test_sigterm_ends_the_process_with_code_0() -> None:
    with start() as process:
        assert ask_by_hand(port_of(process)) == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit of util-linux")
def test_400_mb_of_addresses_are_enough() -> None:
    with start(limit_kb=400_000) as process:
        port = port_of(process)
        assert [ask_by_hand(port) for _ in range(50)] == [200] * 50
        process.terminate()
        assert process.wait(20) == 0


def test_strangers_are_not_let_in_without_a_key() -> None:
    with start("--host", "0.0.0.0") as process:
        assert process.wait(20) == 2
        assert process.stderr is not None
        told = process.stderr.read()
    assert told.startswith("embervlm: --host 0.0.0.0")
    assert told.count("\n") == 1


def _can_cut_the_network() -> bool:
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return tried.returncode == 0


@pytest.mark.skipif(
    shutil.which("unshare") is None or not _can_cut_the_network(),
    reason="needs unshare of util-linux and the right to use it",
)
def test_it_decides_and_learns_without_a_network(tmp_path: Path) -> None:
    script = f"""
import embervlm, sys
from embervlm.scenario import Feedback
from starlette.testclient import TestClient
from embervlm.server.app import create_app
sys.addaudithook(lambda event, args: sys.exit(event) if event in
    ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname") else None)
model = embervlm.EmberVLM.from_pretrained(memory={str(tmp_path / "lessons.sqlite")!r})
with TestClient(create_app(model), base_url="http://127.0.0.1") as client:
    photo = open({str(DEMO)!r}, "rb").read()
    for path in ("/v1/select", "/v1/plan"):
        assert client.post(path, data={{"task": "look"}}, files={{"image": photo}}).is_success
    assert client.post("/v1/feedback", json={{"task": "look", "robots": ["Drone"]}}).is_success
"""
    command = ["unshare", "--net", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
