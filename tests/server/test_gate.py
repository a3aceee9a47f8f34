"""Who is let in, from where, with what key, and how much they may send."""

import asyncio
import gzip
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import HERE, base64_of
from starlette.testclient import TestClient

from embervlm.selector import Selector
from embervlm.server.app import App, create_app
from embervlm.server.settings import ServerSettings

KEY = "a-key-of-the-control-room"
JSON = {"content-type": "application/json"}
OPEN = {"/healthz", "/readyz"}


@pytest.fixture
def locked(selector: Selector) -> Iterator[TestClient]:
    settings = ServerSettings(
        keys={"control-room": KEY, "tablet": "another-key-of-a-tablet"},
        hosts=("ember.lan",),
        origins=("https://desk.lan",),
    )
    with TestClient(create_app(selector, settings), base_url=HERE) as client:
        yield client


def routes_of(client: TestClient) -> set[tuple[str, str]]:
    """Return every method and path, of the OpenAPI schema and of the app itself."""
    app = client.app
    assert isinstance(app, App)
    found = {
        (method, route.path.replace("{number}", "1").replace("{name}", "embervlm"))
        for route in app.fastapi.routes
        for method in getattr(route, "methods", None) or ()
        if hasattr(route, "path")
    }
    for path, methods in app.fastapi.openapi()["paths"].items():
        path = path.replace("{number}", "1").replace("{name}", "embervlm")
        found |= {(method.upper(), path) for method in methods}
    assert len(found) > 15
    return found


def test_every_route_but_health_needs_a_key(locked: TestClient) -> None:
    wrong = [
        {},
        {"authorization": "Bearer "},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": KEY},
        {"authorization": "Bearer \u00e9\u00e9"},
    ]
    for method, path in routes_of(locked):
        for headers in wrong:
            raw = {name: value.encode("utf-8") for name, value in headers.items()}
            answer = locked.request(method, path, headers=raw)
            assert answer.status_code == (200 if path in OPEN else 401), (method, path)
    for path in ("/v1/select/", "//v1/select", "/V1/SELECT", "/healthz/../v1/fleet", "/healthz/x"):
        assert locked.get(path).status_code == 401


def test_a_known_key_opens_the_routes(locked: TestClient) -> None:
    for key in (KEY, "another-key-of-a-tablet"):
        headers = {"authorization": f"Bearer {key}"}
        assert locked.get("/v1/fleet", headers=headers).status_code == 200


def test_all_keys_are_compared_in_constant_time(
    locked: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hmac

    asked: list[bytes] = []
    compare = hmac.compare_digest

    def noting(given: bytes, key: bytes) -> bool:
        asked.append(key)
        return compare(given, key)

    monkeypatch.setattr("embervlm.server.gate.hmac.compare_digest", noting)
    for key in (KEY, "no-key-that-is-known"):
        locked.get("/v1/fleet", headers={"authorization": f"Bearer {key}"})
    assert len(asked) == 4


BAD_HOSTS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost@evil.example",
    "localhost/../",
    "localhost?x",
    "localhost#x",
    "localhost:80:80",
    "2130706433",
    "",
    "local host",
    "[::1",
]


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_foreign_and_malformed_hosts_are_refused_on_every_route(
    locked: TestClient, host: str
) -> None:
    for method, path in routes_of(locked):
        headers = {"host": host, "authorization": f"Bearer {KEY}"}
        assert locked.request(method, path, headers=headers).status_code in (400, 401, 403)


def test_two_hosts_are_refused(app: App) -> None:
    head = [(b"host", b"localhost"), (b"host", b"evil.example")]
    assert status_of(app, head) == 400
    assert status_of(app, []) == 400


def test_known_names_and_addresses_are_let_in(locked: TestClient) -> None:
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "EMBER.lan", "192.168.1.7:9"):
        assert locked.get("/healthz", headers={"host": host}).status_code == 200


def test_pages_of_other_servers_are_refused(client: TestClient) -> None:
    for origin in ("http://evil.example", "null", "http://127.0.0.1:81", "http://127.0.0.1.evil"):
        for method in ("GET", "POST", "OPTIONS", "PUT"):
            answer = client.request(method, "/v1/fleet", headers={"origin": origin})
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers


def test_the_servers_own_page_is_let_in(client: TestClient) -> None:
    assert client.get("/v1/fleet", headers={"origin": HERE}).status_code == 200


def test_no_origin_is_allowed_unless_it_was_named(locked: TestClient, client: TestClient) -> None:
    ask = {"access-control-request-method": "POST"}
    for asked in (client, locked):
        answer = asked.options("/v1/select", headers={"origin": "https://x.example", **ask})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    answer = locked.options("/v1/select", headers={"origin": "https://desk.lan", **ask})
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "https://desk.lan"
    assert "access-control-allow-credentials" not in answer.headers


def test_a_simple_form_of_another_page_is_no_request(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = client.post("/v1/select", content=b'{"task": "a"}', headers={"content-type": kind})
        assert answer.status_code == 415


def test_every_answer_has_the_safe_headers(client: TestClient) -> None:
    for answer in (client.get("/healthz"), client.get("/nowhere"), client.post("/v1/select")):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers


LIMIT = 100_000


@pytest.fixture
def narrow(selector: Selector) -> App:
    return create_app(selector, ServerSettings(max_body_bytes=LIMIT, max_bodies_bytes=2 * LIMIT))


def chunks(size: int, count: int) -> list[bytes]:
    return [b"x" * size] * count


def test_a_declared_size_above_the_limit_is_refused_unread(narrow: App) -> None:
    head = [(b"host", b"localhost"), (b"content-length", b"200000000"), (b"content-type", b"a/b")]
    read: list[int] = []
    assert status_of(narrow, head, chunks(65536, 3000), read) == 413
    assert read[0] == 0


def test_a_body_without_a_size_is_read_up_to_the_limit(narrow: App) -> None:
    head = [(b"host", b"localhost"), (b"transfer-encoding", b"chunked")]
    read: list[int] = []
    assert status_of(narrow, head, chunks(65536, 3000), read) == 413
    assert read[0] <= LIMIT + 65536


def test_bodies_are_limited_together(narrow: App, jpeg: bytes) -> None:
    narrow.gate._held_bytes = 2 * LIMIT - 10
    body = json.dumps({"task": "look", "image": base64_of(jpeg)}).encode()
    head = [(b"host", b"localhost"), (b"content-length", str(len(body)).encode())]
    assert status_of(narrow, head, [body]) == 429
    narrow.gate._held_bytes = 0
    head.append((b"content-type", b"application/json"))
    assert status_of(narrow, head, [body]) == 200
    assert narrow.gate._held_bytes == 0


def status_of(
    app: App,
    headers: list[tuple[bytes, bytes]],
    body: list[bytes] | None = None,
    read_before_answer: list[int] | None = None,
) -> int:
    """Send a request straight to the app; note how much it had read when it answered."""
    left, got, statuses = list(body or [b""]), [0], []

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        chunk = left.pop()
        got[0] += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
            if read_before_answer is not None:
                read_before_answer.append(got[0])

    scope = {
        "type": "http", "method": "POST", "path": "/v1/select", "raw_path": b"/v1/select",
        "query_string": b"", "headers": headers, "client": ("127.0.0.1", 1), "scheme": "http",
        "server": ("127.0.0.1", 80), "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return statuses[0]


BAD_JSON = {
    "deep": b'{"task": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deeper than told": b'{"task": ' + b"[" * 40 + b"]" * 40 + b"}",
    "wide": b'{"task": [' + b"[]," * 50_000 + b"[]]}",
    "digits": b'{"task": "a", "top_k": ' + b"9" * 10_000 + b"}",
    "big": b'{"task": "a", "top_k": 1e999}',
    "nan": b'{"task": "a", "top_k": NaN}',
    "infinity": b'{"task": "a", "top_k": -Infinity}',
    "twice": b'{"task": "a", "task": "b"}',
    "surrogate": b'{"task": "\\ud800"}',
    "bytes": b'{"task": "\xff\xfe"}',
    "utf-16": '{"task": "a"}'.encode("utf-16"),
    "half": b'{"task": "a"',
    "more": b'{"task": "a"} {}',
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "text": b'"look"',
    "wrong type": b'{"task": 7}',
    "yes": b'{"task": "a", "reasoning": "yes"}',
    "unknown key": b'{"task": "a", "\\u0000<script>": 1}',
}


def test_a_byte_order_mark_and_a_packed_body_are_told_by_name(client: TestClient) -> None:
    marked = client.post("/v1/select", content=b"\xef\xbb\xbf{}", headers=JSON)
    assert "byte order mark; leave that out" in marked.json()["error"]["message"]
    packed = gzip.compress(b'{"task": "look"}')
    headers = JSON | {"content-encoding": "gzip"}
    answer = client.post("/v1/select", content=packed, headers=headers)
    assert answer.status_code == 415
    assert "Content-Encoding is not taken" in answer.json()["error"]["message"]
    headers = JSON | {"content-encoding": "identity"}
    assert client.post("/v1/select", content=b'{"task": "look"}', headers=headers).is_success


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON.keys())
def test_bad_json_is_refused_everywhere(client: TestClient, body: bytes) -> None:
    posts = ("/v1/select", "/v1/plan", "/v1/feedback", "/v1/memory/rollback")
    for method, path in [("POST", path) for path in posts] + [("PUT", "/v1/fleet")]:
        answer = client.request(method, path, content=body, headers=JSON)
        assert answer.status_code == 422, (path, answer.text)
        assert len(answer.text) < 600
    assert client.post("/v1/chat/completions", content=body, headers=JSON).status_code == 400


def form(*parts: bytes, boundary: bytes = b"b") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


FIELD = b'Content-Disposition: form-data; name="%s"\r\n\r\n%s'
BAD_FORMS = {
    "2,000 fields": form(*(FIELD % (b"f%d" % i, b"x") for i in range(2000))),
    "5,000 files": form(
        *(FIELD.replace(b'%s"', b'image"; filename="a"', 1) % b"x" for _ in range(5000))
    ),
    "200,000 headers": form(b"X: y\r\n" * 200_000 + FIELD % (b"task", b"a")),
    "line ends": b"\r\n" * 1_000_000,
    "long field": form(FIELD % (b"task", b"x" * 2_000_000)),
    "twice": form(FIELD % (b"task", b"a"), FIELD % (b"task", b"b")),
    "no name": form(b"Content-Disposition: form-data\r\n\r\na"),
    "no disposition": form(b"X: y\r\n\r\na"),
    "unfinished": b'--b\r\nContent-Disposition: form-data; name="task"\r\n\r\na',
    "empty": b"",
    "unknown": form(FIELD % (b"path", b"/etc/passwd")),
    "number": form(FIELD % (b"top_k", b"many"), FIELD % (b"task", b"a")),
}


@pytest.mark.parametrize("body", BAD_FORMS.values(), ids=BAD_FORMS.keys())
def test_bad_forms_are_refused_at_once(client: TestClient, body: bytes) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    for path in ("/v1/select", "/analyze"):
        began = time.process_time()
        answer = client.post(path, content=body, headers=headers)
        assert 400 <= answer.status_code < 500, answer.text
        assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 5000,
        "multipart/form-data; boundary=\u00e9; charset=nonsense",
        "multipart/form-data; boundary=c; charset=nonsense",
    ],
)
def test_forms_with_bad_boundaries_are_refused(client: TestClient, kind: str) -> None:
    body = form(FIELD % (b"task", b"\xff\xff"))
    answer = client.post("/v1/select", content=body, headers={b"content-type": kind.encode()})
    assert 400 <= answer.status_code < 500, answer.text


def test_while_it_stops_only_health_is_answered(client: TestClient, app: App) -> None:
    assert client.get("/readyz").status_code == 200
    app.service.is_draining = True
    stopping = client.get("/readyz")
    assert (stopping.status_code, stopping.json()["error"]["code"]) == (503, "stopping")
    assert client.get("/healthz").status_code == 200
    answer = client.post("/v1/select", json={"task": "look"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
