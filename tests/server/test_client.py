"""Our own client says what the selector says, waits where it is told to, and keeps its key."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import Listen

from embervlm.client import Client, ServerError, UnreachableError, decision_from
from embervlm.fleet import Fleet
from embervlm.live import FleetState
from embervlm.scenario import Decision, Feedback, Needs, Scenario, Subtask
from embervlm.selector import Selector
from embervlm.server.records import DecisionRecord
from embervlm.server.settings import ServerSettings

TASK = "carry the 8 kg pump up the stairs"
KEY = "a-key-of-the-control-room"


def test_decides_learns_and_forgets_as_the_selector_does(
    listen: Listen, selector: Selector, photo: Path
) -> None:
    with listen(ServerSettings(keys={"a": KEY}, linger_s=0)) as server:
        with Client(server.url, key=f"{KEY}\n") as client:  # as a file has it
            assert client.is_ready()
            decision = client.select(TASK, photo)
            expected = selector.decide(Scenario(task=TASK, image=photo.read_bytes()))
            assert decision.to_dict() == expected.to_dict()
            assert decision.needs == expected.needs
            assert client.plan(TASK, photo) == expected.plan
            state = FleetState({"Drone": {"battery": 0.1, "location": {"x_m": 40, "y_m": -12.5}}})
            terms = {"state": state, "exclude": ["Humanoid"]}
            expected = selector.decide(Scenario(task=TASK), **terms)
            assert client.select(TASK, **terms).to_dict() == expected.to_dict()
            assert client.plan(TASK, **terms) == expected.plan
            with pytest.raises(ServerError, match="is required, but cannot be sent"):
                client.select(TASK, exclude=["Drone"], require=["Drone"])
            lesson = client.learn(decision, Feedback(["No Robot"], note="the lift is out"))
            assert client.select(TASK, photo).robots == ("No Robot",)
            assert [row["id"] for row in client.lessons()] == [lesson["id"]]
            client.forget(lesson["id"])
            assert client.lessons() == []
            assert client.fleet() == Fleet.default()
            small = Fleet(Fleet.default().robots[:2])
            client.replace_fleet(small, check=True)
            assert len(client.fleet()) == 5
            client.replace_fleet(small)
            assert client.fleet() == small
        with pytest.raises(ServerError) as refused:
            Client(server.url, key=KEY + "x").select(TASK)
        assert (refused.value.status, refused.value.code) == (401, "key")


def test_a_plan_comes_back_with_all_that_is_known_of_it(selector: Selector) -> None:
    known = Subtask(
        "shut the valve",
        "Humanoid",
        (0,),
        Needs(("handle",), "indoor_flat", {"hours": 0.5}, frozenset({"doors"})),
        start_min=10.0,
        duration_min=30.0,
        unit=2,
        why="why",
        done=True,
        place=(1.0, 2.0),
        minutes=30.0,
        barred=("Drone",),
        unsuited=("Robot with Legs",),
    )
    assert {f.name for f in fields(known) if getattr(known, f.name) == f.default} == set()
    decision = replace(selector.decide(Scenario(task=TASK)), plan=(known,))
    record = json.loads(json.dumps(decision.to_dict()))
    assert DecisionRecord.model_validate(record).model_dump(exclude_none=True) == record
    assert decision_from(record, decision.scenario).plan == (known,)


def test_asks_again_over_a_connection_that_rested_too_long(listen: Listen) -> None:
    with listen(ServerSettings(idle_s=1, linger_s=0)) as server, Client(server.url) as client:
        client.select(TASK)
        time.sleep(1.3)
        assert client.select(TASK, top_k=1, reasoning=False).reasoning == ()


def test_says_what_is_wrong_before_it_sends(tmp_path: Path) -> None:
    client = Client()
    for wrong in (lambda: client.select(), lambda: client.select(image=tmp_path / "none.jpg")):
        with pytest.raises(ValueError, match=r"\.$"):
            wrong()
    bare = Decision(("Drone",), "Drone", "none", 1.0, {}, False, needs=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scenario"):
        client.learn(bare, Feedback(["Drone"]))
    for url in ("127.0.0.1:8000", "ftp://a", "http://", "http://a/?q"):
        with pytest.raises(ValueError, match="address"):
            Client(url)
    with pytest.raises(ValueError, match="https"):
        Client("http://example.org", key=KEY)
    for key in (f"{KEY}\nX: y", f"{KEY} y", f"{KEY}é", f"{KEY}\0"):
        with pytest.raises(ValueError, match="--api-key-file") as refused:
            Client(key=key)
        assert KEY not in str(refused.value)
    with pytest.raises(UnreachableError):
        Client("http://127.0.0.1:1").select(TASK)
    assert not Client("http://127.0.0.1:1").is_ready()


@pytest.fixture
def odd() -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Serve the given answers one after the other."""
    answers: list[tuple[int, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.pop(0)
            self.send_response(status)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", answers
        server.shutdown()


def test_waits_for_a_busy_server_and_gives_up_in_the_end(
    odd: tuple[str, list[tuple[int, str]]],
) -> None:
    url, answers = odd
    busy = json.dumps({"error": {"message": "Full.", "code": "queue_full"}})
    answers += [(429, busy), (503, busy), (200, '{"lessons": []}')]
    assert Client(url).lessons() == []
    answers += [(429, busy)] * 3
    with pytest.raises(ServerError, match="Full"):
        Client(url, retries=2).lessons()
    assert answers == []


@pytest.mark.parametrize("body", ["", "no JSON", "[]", "[1]", '{"a": 1}', '"x"'])
def test_what_is_no_answer_is_told_so(odd: tuple[str, list[tuple[int, str]]], body: str) -> None:
    url, answers = odd
    answers.append((500, body))
    with pytest.raises(ServerError, match="none of its answers"):
        Client(url).lessons()
