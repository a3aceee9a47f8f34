"""Faults stay where they are: no stack for the client, no words in the log, no lesson that
blocks."""

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import HERE, base64_of, working
from starlette.testclient import TestClient

from embervlm.backends import load_backend
from embervlm.memory.store import LessonStore
from embervlm.selector import Selector
from embervlm.server.app import App, create_app
from embervlm.server.logs import _JsonLines
from embervlm.server.settings import ServerSettings

Events = Callable[[str], list[dict[str, object]]]
TASK = "look at the roof"
HOSTILE = 'a\r\n{"event": "forged"}\x1b[2J\u202e\u2028 roof'


def test_a_fault_of_ours_is_500_with_an_id_and_no_stack(
    client: TestClient, selector: Selector, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    answer_of = Selector.answer

    def fail(self: Selector, proposal: object, scenario: object, **options: object) -> object:
        if getattr(scenario, "task", "") == "fail":
            raise ValueError(f"of {scenario} in /secret/place")
        return answer_of(self, proposal, scenario, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Selector, "answer", fail)
    client = TestClient(client.app, base_url=HERE, raise_server_exceptions=False)
    before = client.post("/v1/select", json={"task": TASK})
    answer = client.post("/v1/select", json={"task": "fail"})
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["message"] == f"Something went wrong here; the log has it under {error['id']}."
    fault = events("fault")[0]
    assert fault["id"] == error["id"]
    assert fault["kind"] == "ValueError"
    assert "secret" not in json.dumps(fault["at"]) + json.dumps(fault.get("message", ""))
    assert client.post("/v1/select", json={"task": TASK}).content == before.content


def test_a_fault_in_a_route_is_500_too(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embervlm.server.routes._fleet", lambda fleet: fleet.nothing)
    answer = client.get("/v1/fleet")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "nothing" not in answer.text


@pytest.fixture(params=["damaged", "folder"])
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LessonStore]:
    """Return a store that cannot be used."""
    path = tmp_path / "lessons.sqlite"
    if request.param == "damaged":
        path.write_bytes(b"no database at all, but long enough to look at" * 100)
    else:
        path.mkdir()
    with LessonStore(path) as store:
        yield store


def test_lessons_that_cannot_be_used_change_no_decision(
    tiny_model: Path, broken: LessonStore, events: Events
) -> None:
    def served(memory: LessonStore | None) -> TestClient:
        selector = Selector(load_backend("native", tiny_model), memory=memory)
        return TestClient(create_app(selector), base_url=HERE)

    with served(broken) as client, served(None) as sound:
        for ask in ({"task": TASK}, {"task": "carry 8 kg"}):
            assert (
                client.post("/v1/select", json=ask).content
                == sound.post("/v1/select", json=ask).content
            )
        for answer in (
            client.post("/v1/feedback", json={"task": TASK, "robots": ["Drone"]}),
            client.get("/v1/memory"),
            client.delete("/v1/memory/1"),
        ):
            assert answer.status_code == 503, answer.text
            assert "sqlite" not in answer.text
        assert client.get("/readyz").status_code == 200
    assert "lessons.sqlite" in str(events("lessons_unusable")[0]["why"])


def logged(app: App, **requests: object) -> list[str]:
    """Return the lines that a server writes while it answers."""
    stream, logger = io.StringIO(), logging.getLogger("embervlm.server")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonLines())
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with TestClient(app, base_url=HERE, raise_server_exceptions=False) as client:
            client.post("/v1/select", **requests)
            client.post("/v1/select", json={"task": HOSTILE, "wrong": HOSTILE})
            client.get(f"/{quote(HOSTILE)}?words={quote(HOSTILE)}")
            client.get("/v1/memory", params={"words": HOSTILE})
            client.request("PROPFIND", "/v1/select")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    return stream.getvalue().splitlines()


def test_one_request_is_one_line_of_json(selector: Selector) -> None:
    app = create_app(selector, ServerSettings(log_requests=True))
    rows = [json.loads(line) for line in logged(app, json={"task": HOSTILE})]
    requests = [row for row in rows if row["event"] == "request"]
    assert len(requests) == 5
    assert {row["event"] for row in rows} == {"request"}
    assert requests[0]["task"] == HOSTILE
    for line in logged(create_app(selector), json={"task": TASK}):
        assert line.isascii()
        assert line.isprintable()


def test_no_words_and_no_photo_reach_the_log_unless_asked(selector: Selector, jpeg: bytes) -> None:
    ask = {"task": "a word that is a secret", "image": base64_of(jpeg)}
    silent = "\n".join(logged(create_app(selector), json=ask))
    assert "secret" not in silent
    assert "forged" not in silent
    assert base64_of(jpeg)[:30] not in silent
    told = "\n".join(logged(create_app(selector, ServerSettings(log_requests=True)), json=ask))
    assert "secret" in told
    assert base64_of(jpeg)[:30] not in told


def test_the_queue_says_when_to_come_again(selector: Selector) -> None:
    app = create_app(selector, ServerSettings(queue=1))
    with TestClient(app, base_url=HERE) as client, working(app, until=threading.Event()):
        app.service.pool.submit("testclient", lambda _: None)
        answer = client.post("/v1/select", json={"task": TASK})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "queue_full"
