"""A client of `embervlm serve`, with the same records that the selector has; standard library only.

    with Client("http://127.0.0.1:8000") as client:
        decision = client.select("reach the people on the roof", image="flood.jpg")
        client.learn(decision, Feedback(["Drone"], note="the boat cannot pass the bridge"))

It keeps one connection open and is not for use from several threads at a time. Where the server is
busy it waits as long as it is told and asks again.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from embervlm.fleet import Fleet
from embervlm.live import FleetState
from embervlm.scenario import FLAGS, QUANTITIES, Decision, Feedback, Needs, Scenario, Subtask
from embervlm.web import LOCAL_HOSTS, MAX_PAUSE_S, reason_of, retry_after_s

_MAX_PHOTO_BYTES = 20_000_000
_MAX_ANSWER_BYTES = 20_000_000
_FOR_A_WHILE = (429, 503)


class ServerError(ValueError):
    """The server refused a request, or had a fault: its sentence, with `status` and `code`."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class UnreachableError(OSError):
    """There was no answer; says why."""


class Client:
    """Talks to one server; `key` is what its --api-key-file has for this client.

    `timeout_s` is for each answer, `retries` how often a busy server is asked again.

    Raises:
        ValueError: the address is none, the key cannot be sent, or it would travel in the open.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 3,
    ) -> None:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname or address.query:
            raise ValueError(f"{url!r} is no server's address; expected http://127.0.0.1:8000.")
        if key and address.scheme == "http" and address.hostname not in LOCAL_HOSTS:
            raise ValueError(f"{url} is not https, so the key would travel in the open; use https.")
        key = (key or "").strip()
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise ValueError(
                "The key has a space or a sign that a header cannot carry; give it as the server's "
                "--api-key-file has it."
            )
        self._path = address.path.rstrip("/")
        self._key = key
        self._retries = retries
        self._connection: http.client.HTTPConnection
        if address.scheme == "https":
            self._connection = http.client.HTTPSConnection(
                address.hostname,
                address.port,
                timeout=timeout_s,
                context=ssl.create_default_context(),
            )
        else:
            self._connection = http.client.HTTPConnection(
                address.hostname, address.port, timeout=timeout_s
            )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._connection.close()

    def select(
        self,
        task: str | None = None,
        image: str | Path | bytes | None = None,
        *,
        top_k: int | None = None,
        reasoning: bool = True,
        state: FleetState | None = None,
        exclude: Sequence[str] = (),
        require: Sequence[str] = (),
    ) -> Decision:
        """Decide for a request, a photo (a path, or the file's bytes), or both.

        What else there is means what it means for `Selector.decide`, for this request alone.

        Raises:
            ServerError: the server refused it.
            UnreachableError: there was no answer.
        """
        scenario = Scenario(task=task, image=_photo(image))
        ask = {**_asked(scenario), **_terms(state, exclude, require), "reasoning": reasoning}
        if top_k is not None:
            ask["top_k"] = top_k
        return decision_from(self._call("POST", "/v1/select", ask), scenario)

    def plan(
        self,
        task: str | None = None,
        image: str | Path | bytes | None = None,
        *,
        state: FleetState | None = None,
        exclude: Sequence[str] = (),
        require: Sequence[str] = (),
    ) -> tuple[Subtask, ...]:
        """Return who does what, and after what."""
        scenario = Scenario(task=task, image=_photo(image))
        ask = {**_asked(scenario), **_terms(state, exclude, require)}
        return _plan(self._call("POST", "/v1/plan", ask)["plan"])

    def learn(
        self,
        decision: Decision,
        feedback: Feedback,
        *,
        state: FleetState | None = None,
        exclude: Sequence[str] = (),
        require: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Keep a correction of a decision that this client got, asked with the same `state`,
        `exclude` and `require` as then; return the lesson.

        Raises:
            ValueError: the decision carries no scenario.
        """
        if decision.scenario is None:
            raise ValueError("This decision carries no scenario; give the one that select gave.")
        ask = {
            **_asked(decision.scenario),
            **_terms(state, exclude, require),
            "robots": list(feedback.robots),
            "note": feedback.note,
            "author": feedback.author,
            "misread": list(feedback.misread),
        }
        return self._call("POST", "/v1/feedback", ask)

    def lessons(
        self, words: str = "", *, retired: bool = False, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Return lessons, the newest last."""
        asked = urlencode({"words": words, "retired": retired, "limit": limit})
        found: list[dict[str, Any]] = self._call("GET", f"/v1/memory?{asked}")["lessons"]
        return found

    def forget(self, number: int, *, erase: bool = False, author: str = "operator") -> None:
        """Take a lesson out of force."""
        asked = urlencode({"erase": erase, "author": author})
        self._call("DELETE", f"/v1/memory/{quote(str(number), safe='')}?{asked}")

    def fleet(self) -> Fleet:
        """Return the robots that the server decides for."""
        found = self._call("GET", "/v1/fleet")
        return Fleet.from_record(
            {key: found[key] for key in ("robots", "objective") if key in found},
            source="the server's fleet",
        )

    def replace_fleet(self, fleet: Fleet, *, check: bool = False) -> None:
        """Let the server decide for these robots from now on; with `check`, only say whether it
        could."""
        self._call("PUT", f"/v1/fleet?{urlencode({'check': check})}", fleet.to_record())

    def is_ready(self) -> bool:
        """Say whether the server wants requests."""
        try:
            return bool(self._once("GET", "/readyz", None)[0] == 200)
        except UnreachableError:
            return False

    def _call(self, method: str, path: str, ask: Mapping[str, Any] | None = None) -> dict[str, Any]:
        body = None if ask is None else json.dumps(ask).encode("utf-8")
        for failed in range(self._retries + 1):
            status, pause, content = self._once(method, path, body)
            if status not in _FOR_A_WHILE or failed == self._retries:
                break
            pause_s = retry_after_s(pause)
            time.sleep(min(1.0 if pause_s is None else pause_s, MAX_PAUSE_S))
        try:
            found = json.loads(content)
            if status < 300:
                return dict(found)
            told = found["error"]
            raise ServerError(str(told["message"]), status, str(told["code"]))
        except (ValueError, LookupError, TypeError) as error:
            if isinstance(error, ServerError):
                raise
            message = f"The server answered {status}, and what came is none of its answers."
            raise ServerError(message, status, "unknown") from error

    def _once(self, method: str, path: str, body: bytes | None) -> tuple[int, str, bytes]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        is_fresh = self._connection.sock is None
        try:
            self._connection.request(method, self._path + path, body, headers)
            answer = self._connection.getresponse()
            content = answer.read(_MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            # The server ends connections that rest; it has not seen this request.
            if not is_fresh and isinstance(error, http.client.RemoteDisconnected | BrokenPipeError):
                return self._once(method, path, body)
            raise UnreachableError(f"No answer from the server ({reason_of(error)}).") from error
        return answer.status, answer.headers.get("Retry-After", ""), content


def decision_from(record: Mapping[str, Any], scenario: Scenario | None = None) -> Decision:
    """Build a decision from `Decision.to_dict`'s form; the policy is not in it."""
    return Decision(
        robots=tuple(record["robots"]),
        primary=record["primary"],
        environment=record["environment"],
        confidence=record["confidence"],
        probabilities=dict(record["probabilities"]),
        ask=record["ask"],
        needs=_needs(record["needs"]),
        reasoning=tuple(record["reasoning"]),
        plan=_plan(record["plan"]),
        rejected=dict(record["rejected"]),
        memory=tuple(record["memory"]),
        lessons=tuple(record["lessons"]),
        scenario=scenario,
        read_as=dict(record["read_as"]),
    )


def _needs(record: Mapping[str, Any]) -> Needs:
    limits = record["limits"]
    return Needs(
        actions=tuple(record["actions"]),
        environment=record["environment"],
        quantities={key: limits[key] for key in QUANTITIES if key in limits},
        flags=frozenset(flag for flag in FLAGS if flag in limits),
    )


def _plan(steps: Sequence[Mapping[str, Any]]) -> tuple[Subtask, ...]:
    return tuple(
        Subtask(
            step["subtask"],
            step["robot"],
            tuple(step["after"]),
            needs=_needs(step["needs"]) if "needs" in step else None,
            start_min=step.get("start_min"),
            duration_min=step.get("duration_min"),
            unit=step.get("unit", 1),
            why=step.get("why", ""),
            done=step.get("done", False),
            place=(step["place"]["x_m"], step["place"]["y_m"]) if "place" in step else None,
            minutes=step.get("minutes"),
            barred=tuple(step.get("barred", ())),
            unsuited=tuple(step.get("unsuited", ())),
        )
        for step in steps
    )


def _asked(scenario: Scenario) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if scenario.task is not None:
        asked["task"] = scenario.task
    if isinstance(scenario.image, bytes):
        asked["image"] = base64.b64encode(scenario.image).decode("ascii")
    return asked


def _terms(
    state: FleetState | None, exclude: Sequence[str], require: Sequence[str]
) -> dict[str, Any]:
    terms: dict[str, Any] = {"exclude": list(exclude), "require": list(require)}
    if state is not None:
        terms["state"] = {"robots": {name: dict(row) for name, row in state.robots.items()}}
    return {key: value for key, value in terms.items() if value}


def _photo(image: str | Path | bytes | None) -> bytes | None:
    if image is None or isinstance(image, bytes):
        return image
    try:
        with Path(image).open("rb") as file:
            return file.read(_MAX_PHOTO_BYTES)
    except OSError as error:
        raise ValueError(f"The photo {image} cannot be read ({reason_of(error)}).") from error
