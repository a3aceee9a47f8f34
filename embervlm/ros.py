"""A door for ROS: requests come in on a topic and decisions go out on one, through rosbridge.

The rosbridge v2 protocol (RobotWebTools, ROSBRIDGE_PROTOCOL.md) is JSON over a websocket, so ROS
itself need not be installed here. Both topics carry std_msgs/String. A request is plain words, or
JSON with any of `id`, `task`, `image` (base64 of a JPEG, PNG or WebP), `state`, `exclude`,
`require`; paths are not taken from strangers. The answer is the decision as JSON with the same
`id`, or `{"id": ..., "error": ...}`.

    ros2 topic pub --once /embervlm/request std_msgs/String "data: 'look at the roof'"
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from embervlm.live import FleetState
from embervlm.scenario import Scenario
from embervlm.selector import Selector

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
MAX_ID_CHARACTERS = 200
_STRING = "std_msgs/String"
_KEYS = ("id", "task", "image", "state", "exclude", "require")
_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True)
class RosSettings:
    """Where rosbridge listens, and what the topics are called.

    `notify` is a service of type std_srvs/Trigger that is called after each decision (empty: none).
    `retries` is how often in a row a connection may fail (None: for ever), `wait_s` how long is
    waited before the first new try; the wait doubles up to half a minute.
    """

    url: str = "ws://localhost:9090"
    request_topic: str = "/embervlm/request"
    decision_topic: str = "/embervlm/decision"
    notify: str = ""
    retries: int | None = None
    wait_s: float = 1.0
    timeout_s: float = 10.0


def serve(
    selector: Selector,
    settings: RosSettings,
    tell: Callable[[str], None],
    *,
    state: FleetState | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Answer requests until `is_over` says so; a lost connection is made anew.

    `state` holds for requests that bring none of their own. `is_over` is asked once a second.

    Raises:
        ValueError: the address is none, or no connection came about in `retries` tries.
    """
    from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException
    from websockets.sync.client import connect

    failures, wait_s = 0, settings.wait_s
    while not is_over():
        try:
            with connect(
                settings.url,
                open_timeout=settings.timeout_s,
                max_size=MAX_MESSAGE_BYTES,
                proxy=None,
            ) as bridge:
                tell(f"Connected to {settings.url}.")
                failures, wait_s = 0, settings.wait_s
                for message in _opening(settings):
                    bridge.send(json.dumps(message))
                while not is_over():
                    try:
                        received = bridge.recv(timeout=1.0)
                    except TimeoutError:
                        continue
                    for message in answers(selector, settings, received, tell, state=state):
                        bridge.send(json.dumps(message))
                return
        except InvalidURI as error:
            raise ValueError(
                f"{settings.url!r} is no address of a rosbridge; it looks like ws://host:9090."
            ) from error
        except (OSError, TimeoutError, InvalidHandshake, WebSocketException) as error:
            failures += 1
            reason = " ".join(str(error).split()) or type(error).__name__
            if settings.retries is not None and failures > settings.retries:
                raise ValueError(f"{settings.url} cannot be reached ({reason}).") from error
            tell(f"The connection to {settings.url} failed ({reason}); trying again.")
            time.sleep(wait_s)
            wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)


def answers(
    selector: Selector,
    settings: RosSettings,
    received: str | bytes,
    tell: Callable[[str], None],
    *,
    state: FleetState | None = None,
) -> Iterator[dict[str, Any]]:
    """Return the messages with which one message of the bridge is answered."""
    message = _parsed(received)
    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        tell("A message that is no rosbridge message was passed over.")
        return
    operation = message["op"]
    if operation == "status":
        tell(f"rosbridge says ({message.get('level')}): {str(message.get('msg'))[:500]}")
    elif operation == "service_response":
        result = "done" if message.get("result") is True else "failed"
        tell(f"{settings.notify}: {result} {str(message.get('values', ''))[:500]}".strip())
    elif operation == "publish" and message.get("topic") == settings.request_topic:
        body = message.get("msg")
        data = body.get("data") if isinstance(body, dict) else None
        answer = _answer(selector, data, state)
        yield {
            "op": "publish",
            "topic": settings.decision_topic,
            "msg": {"data": json.dumps(answer)},
        }
        if settings.notify and "error" not in answer:
            yield {
                "op": "call_service",
                "id": "embervlm-notify",
                "service": settings.notify,
                "type": "std_srvs/Trigger",
                "args": {},
            }
    else:
        tell(f"A message with the operation {operation[:40]!r} was passed over.")


def _opening(settings: RosSettings) -> list[dict[str, Any]]:
    return [
        {"op": "advertise", "topic": settings.decision_topic, "type": _STRING},
        {
            "op": "subscribe",
            "topic": settings.request_topic,
            "type": _STRING,
            "queue_length": 10,
            "compression": "none",
        },
    ]


def _answer(selector: Selector, data: Any, state: FleetState | None) -> dict[str, Any]:
    request: dict[str, Any] = {}
    try:
        request = _request(data)
        _check_keys(request)
        image = request.get("image")
        if isinstance(image, str):
            try:
                image = base64.b64decode(image, validate=True)
            except binascii.Error as error:
                raise ValueError("`image` is not base64; send the photo's bytes in it.") from error
        elif image is not None:
            raise ValueError("`image` must be a text, the base64 of a photo.")
        if "state" in request:
            rows = request["state"]
            if not isinstance(rows, dict) or set(rows) != {"robots"}:
                raise ValueError("`state` must have one key, `robots`.")
            state = FleetState(rows["robots"])
        decision = selector.decide(
            Scenario(task=request.get("task"), image=image),
            state=state,
            exclude=_names(request, "exclude"),
            require=_names(request, "require"),
        )
    except ValueError as error:
        return {"id": request.get("id"), "error": str(error)}
    return {"id": request.get("id"), **decision.to_dict()}


def _request(data: Any) -> dict[str, Any]:
    """Read the text of a request: JSON if it begins like it, else plain words."""
    if not isinstance(data, str):
        raise ValueError("The request has no text in `data`; the topic carries std_msgs/String.")
    if not data.lstrip().startswith("{"):
        return {"task": data}
    request = _parsed(data)
    if not isinstance(request, dict):
        raise ValueError("The request begins like JSON but is none.")
    name = request.get("id")
    is_number = isinstance(name, int) and not isinstance(name, bool)
    if not (name is None or is_number or isinstance(name, str)) or (
        len(str(name)) > MAX_ID_CHARACTERS
    ):
        del request["id"]
        raise ValueError(f"`id` must be a number or a text of at most {MAX_ID_CHARACTERS}.")
    return request


def _check_keys(request: dict[str, Any]) -> None:
    for key in request:
        if key not in _KEYS:
            raise ValueError(f"A request has no key {key[:40]!r}; it has {', '.join(_KEYS)}.")


def _names(request: dict[str, Any], key: str) -> list[str]:
    names = request.get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`{key}` must be a list of robots' names.")
    return names


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
