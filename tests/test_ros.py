"""Decisions through rosbridge, against a stand-in that speaks its protocol on a websocket."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opinion import DRONE, LEGS, Opinion, one
from PIL import Image

pytest.importorskip("websockets")
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as listen

from embervlm.fleet import NO_ROBOT
from embervlm.live import FleetState
from embervlm.ros import MAX_MESSAGE_BYTES, RosSettings, answers, serve
from embervlm.selector import Selector

SELECTOR = Selector(Opinion(one(DRONE, LEGS)))
SETTINGS = RosSettings()


class Rosbridge:
    """What rosbridge_server does of its protocol: topics, their types, one service, status."""

    def __init__(self, requests: list[str], drop_first: int = 0) -> None:
        self.requests = requests
        self.drop_first = drop_first
        self.connections = 0
        self.heard: list[dict[str, Any]] = []
        self.decisions: list[dict[str, Any]] = []
        self.over = threading.Event()

    def handle(self, connection: ServerConnection) -> None:
        self.connections += 1
        if self.connections <= self.drop_first:
            return
        advertised: dict[str, str] = {}
        expected = len(self.requests)
        try:
            for raw in connection:
                message = json.loads(raw)
                self.heard.append(message)
                if message["op"] == "advertise":
                    advertised[message["topic"]] = message["type"]
                elif message["op"] == "subscribe":
                    for text in self.requests:
                        connection.send(text)
                elif message["op"] == "publish":
                    assert advertised[message["topic"]] == "std_msgs/String"
                    assert set(message["msg"]) == {"data"}
                    self.decisions.append(json.loads(message["msg"]["data"]))
                elif message["op"] == "call_service":
                    connection.send(
                        json.dumps(
                            {
                                "op": "service_response",
                                "id": message["id"],
                                "service": message["service"],
                                "values": {"success": True, "message": "heard"},
                                "result": True,
                            }
                        )
                    )
                if len(self.decisions) == expected:
                    self.over.set()
        except ConnectionClosed:
            pass


def request(data: Any, topic: str = SETTINGS.request_topic) -> str:
    return json.dumps({"op": "publish", "topic": topic, "msg": {"data": data}})


@contextmanager
def bridge(stand_in: Rosbridge) -> Iterator[str]:
    with listen(stand_in.handle, "127.0.0.1", 0, max_size=MAX_MESSAGE_BYTES) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join(10)


def run(
    stand_in: Rosbridge,
    told: list[str],
    is_over: Callable[[], bool] | None = None,
    **settings: Any,
) -> None:
    with bridge(stand_in) as url:
        serve(
            SELECTOR,
            RosSettings(url, wait_s=0.01, **settings),
            told.append,
            is_over=is_over or stand_in.over.is_set,
        )


def test_a_request_on_the_topic_gets_a_decision_on_the_other() -> None:
    told: list[str] = []
    asked = {"id": 7, "task": "look at the ridge", "exclude": ["drone"]}
    stand_in = Rosbridge([request("look at the ridge"), request(json.dumps(asked))])
    run(stand_in, told)
    assert [message["op"] for message in stand_in.heard[:2]] == ["advertise", "subscribe"]
    plain, with_id = stand_in.decisions
    assert plain["robots"] == [DRONE, LEGS]
    assert plain["id"] is None
    assert with_id["robots"] == [LEGS]
    assert with_id["id"] == 7
    assert told[0].startswith("Connected to ws://127.0.0.1:")


def test_a_lost_connection_is_made_anew_and_opens_the_topics_again() -> None:
    told: list[str] = []
    stand_in = Rosbridge([request("look")], drop_first=2)
    run(stand_in, told)
    assert stand_in.connections == 3
    assert stand_in.decisions[0]["robots"] == [DRONE, LEGS]
    assert sum("trying again" in line for line in told) == 2


def test_a_service_is_called_after_a_decision_and_its_answer_told() -> None:
    told: list[str] = []
    stand_in = Rosbridge([request("look"), request(""), request("look")])
    run(
        stand_in,
        told,
        lambda: sum(line.startswith("/dispatch/wake: done") for line in told) == 2,
        notify="/dispatch/wake",
    )
    calls = [message for message in stand_in.heard if message["op"] == "call_service"]
    assert calls[0]["service"] == "/dispatch/wake"
    assert [("error" in decision) for decision in stand_in.decisions] == [False, True, False]


def test_gives_up_after_so_many_failures_in_a_row() -> None:
    told: list[str] = []
    with pytest.raises(ValueError, match="cannot be reached"):
        serve(SELECTOR, RosSettings("ws://127.0.0.1:9", retries=2, wait_s=0.01), told.append)
    assert len(told) == 2
    with pytest.raises(ValueError, match="is no address of a rosbridge"):
        serve(SELECTOR, RosSettings("http//nonsense"), told.append)


def answered(received: str | bytes, tell: Callable[[str], None] = lambda line: None) -> list[Any]:
    return list(answers(SELECTOR, SETTINGS, received, tell))


@pytest.mark.parametrize(
    "received",
    [
        "",
        "no json",
        "[" * 100_000,
        "5",
        "[]",
        '{"op": 5}',
        '{"op": "fragment", "id": "1", "data": "x", "num": 0, "total": 9}',
        '{"op": "publish", "topic": "/other", "msg": {"data": "look"}}',
        b"\xff\xfe\x00",
        '{"op": "status", "level": "error", "msg": "no such type"}',
    ],
)
def test_what_is_no_request_is_told_and_passed_over(received: str | bytes) -> None:
    told: list[str] = []
    assert answered(received, told.append) == []
    assert len(told) == 1


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (5, "has no text in `data`"),
        (None, "has no text in `data`"),
        ("", "Nothing was asked"),
        ("x" * 5000, "shorten it"),
        ("{", "begins like JSON but is none"),
        ('{"task": 5}', "must be a text, not int"),
        ('{"task": "look", "path": "/etc/passwd"}', "no key 'path'"),
        ('{"task": "look", "image": "/etc/passwd!"}', "is not base64"),
        ('{"task": "look", "image": 5}', "must be a text, the base64"),
        ('{"task": "look", "image": "aGFsbG8="}', ""),
        ('{"task": "look", "exclude": "Drone"}', "must be a list"),
        ('{"task": "look", "exclude": ["Crane"]}', "No robot is called 'Crane'"),
        ('{"task": "look", "require": ["Drone"], "exclude": ["Drone"]}', "is required, but"),
        ('{"task": "look", "state": {"Drone": {}}}', "must have one key"),
        ('{"task": "look", "state": {"robots": {"Drone": {"battery": 9}}}}', "a share"),
        ('{"task": "look", "id": [1]}', "`id` must be"),
        (json.dumps({"task": "look", "id": "x" * 300}), "`id` must be"),
    ],
)
def test_a_wrong_request_is_answered_with_one_sentence(data: Any, part: str) -> None:
    [message] = answered(request(data))
    assert message["op"] == "publish"
    answer = json.loads(message["msg"]["data"])
    assert part in answer["error"]
    assert "robots" not in answer


def test_a_refusal_has_the_id_of_what_it_refuses() -> None:
    [message] = answered(request('{"id": 7, "tasks": "x"}'))
    answer = json.loads(message["msg"]["data"])
    assert answer["id"] == 7
    assert "no key 'tasks'" in answer["error"]


def test_a_photo_and_a_state_come_along() -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "green").save(file, "PNG")
    asked = {
        "image": base64.b64encode(file.getvalue()).decode(),
        "state": {"robots": {"Drone": {"status": "fault"}, "legged": {"status": "busy"}}},
    }
    [message] = answered(request(json.dumps(asked)))
    assert json.loads(message["msg"]["data"])["robots"] == [NO_ROBOT]


def test_the_state_of_the_command_holds_where_a_request_brings_none() -> None:
    state = FleetState({"Drone": {"status": "fault"}})
    [message] = answers(SELECTOR, SETTINGS, request("look"), lambda line: None, state=state)
    assert json.loads(message["msg"]["data"])["robots"] == [LEGS]
