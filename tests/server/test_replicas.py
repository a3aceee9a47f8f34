"""Replicas on Ray Serve: the same answers, and whoever is killed, no accepted request is lost."""

import http.client
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import base64_of
from starlette.testclient import TestClient
from typer.testing import CliRunner

from embervlm import cli
from embervlm.backends import load_backend
from embervlm.fleet import Fleet
from embervlm.live import FleetState
from embervlm.scenario import Scenario
from embervlm.selector import Selector
from embervlm.server import replicas as on_ray
from embervlm.server.app import App, create_app
from embervlm.server.asked import Terms
from embervlm.server.errors import RefusalError
from embervlm.server.replicas import RemoteWorker, Replica, ReplicaOptions, replicas
from embervlm.server.run import server_for
from embervlm.server.settings import ServerSettings
from embervlm.server.workers import LocalWorker

pytest.importorskip("ray", reason="ray is not installed (the extra scale)")

KEY = "a key of sixteen"
HEADERS = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lessons") / "lessons.sqlite"


@pytest.fixture(scope="module")
def remote(ray_cluster: None, tiny_model: Path, home: Path) -> Iterator[list[RemoteWorker]]:
    """Start two replicas, once for all tests here; these are on one machine, so a file will do."""
    options = ReplicaOptions(model=tiny_model, lessons=str(home))
    own = Selector(load_backend("native", tiny_model))
    with replicas(options, own, 2, 2, name="test") as workers:
        yield workers


@pytest.fixture
def app(remote: list[RemoteWorker], tiny_model: Path, home: Path) -> App:
    selector = Selector(load_backend("native", tiny_model), memory=home)
    settings = ServerSettings(keys={"room": KEY}, queue=300, linger_s=0)
    return create_app(selector, settings, workers=remote)


def pid_of_a_replica() -> int:
    rows = subprocess.run(["ps", "-eo", "pid,args"], stdout=subprocess.PIPE, text=True, check=True)
    mine = [row for row in rows.stdout.splitlines() if "ray::ServeReplica:test:engine" in row]
    return int(mine[0].split()[0])


def test_a_killed_replica_loses_no_accepted_request(
    app: App, tiny_model: Path, jpeg: bytes
) -> None:
    asks: list[dict[str, Any]] = [{"task": f"carry the {i % 7} kg pump"} for i in range(200)]
    for ask in asks[::5]:
        ask["image"] = base64_of(jpeg)
    with TestClient(
        create_app(Selector(load_backend("native", tiny_model))), base_url="http://127.0.0.1"
    ) as client:
        expected = [client.post("/v1/select", json=ask).content for ask in asks]
    server = server_for(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    answered = threading.Semaphore(0)

    def post(ask: object) -> tuple[int, bytes]:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
        try:
            line.request("POST", "/v1/select", json.dumps(ask), HEADERS)
            answer = line.getresponse()
            return answer.status, answer.read()
        finally:
            line.close()
            answered.release()

    with ThreadPoolExecutor(16) as pool:
        found = [pool.submit(post, ask) for ask in asks]
        for _ in range(30):
            answered.acquire(timeout=60)
        replica = pid_of_a_replica()
        os.kill(replica, signal.SIGSTOP)  # so that it has requests when it dies
        for _ in range(10):
            answered.acquire(timeout=60)
        os.kill(replica, signal.SIGKILL)
        results = [one.result() for one in found]
    server.handle_exit(15, None)
    thread.join(30)
    assert [status for status, _ in results] == [200] * len(asks)
    assert [body for _, body in results] == expected


def test_replicas_stand_behind_the_gate_and_follow_lessons_and_fleet(app: App) -> None:
    with TestClient(app, base_url="http://127.0.0.1") as client:
        ask = {"task": "look at the roof of the barn"}
        assert client.post("/v1/select", json=ask).status_code == 401
        client.headers = HEADERS
        assert client.get("/readyz").status_code == 200
        wrong = client.post("/v1/select", json={"image": base64_of(b"\xff\xd8\xff no photo")})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "invalid_request")

        first = client.post("/v1/select", json=ask).json()
        other = next(name for name in Fleet.default().names if name not in first["robots"])
        learnt = client.post("/v1/feedback", json={**ask, "robots": [other], "note": "as told"})
        assert (learnt.status_code, learnt.json()["status"]) == (201, "in force")
        followed = [client.post("/v1/select", json=ask).json() for _ in range(6)]
        assert all(one["lessons"] == [learnt.json()["id"]] for one in followed)

        robots = [r for r in client.get("/v1/fleet").json()["robots"] if r["name"] == other]
        assert client.put("/v1/fleet", json={"robots": robots}).status_code == 200
        for _ in range(6):
            assert set(client.post("/v1/select", json=ask).json()["robots"]) <= {other, "No Robot"}


@dataclass
class Handle:
    """Stands for Serve's handle: its replicas die so many times, then one answers."""

    replica: Replica
    deaths: int
    asked: list[str] = field(default_factory=list)

    def __getattr__(self, method: str) -> Any:
        from ray.exceptions import RayActorError

        handle = self

        class Response:
            def __init__(self, values: tuple[Any, ...]) -> None:
                self.values = values

            def result(self, timeout_s: float) -> Any:
                handle.asked.append(method)
                if len(handle.asked) <= handle.deaths:
                    raise RayActorError
                return getattr(handle.replica, method)(*self.values)

        class Method:
            def remote(self, *values: Any) -> Response:
                return Response(values)

        return Method()


def worker_with(model: Path, deaths: int) -> tuple[RemoteWorker, Handle]:
    handle = Handle(Replica(ReplicaOptions(model=model)), deaths)
    own = LocalWorker(load_backend("native", model))
    return RemoteWorker(handle, own, threading.Lock()), handle


def test_a_request_that_kills_every_replica_is_given_up(tiny_model: Path, jpeg: bytes) -> None:
    selector = Selector(load_backend("native", tiny_model))
    asked = Scenario(task="look at the roof", image=jpeg)
    worker, handle = worker_with(tiny_model, 2)
    assert worker.decide(selector, asked, top_k=1, reasoning=True) == selector.decide(
        asked, top_k=1
    )
    terms = Terms(FleetState({"Drone": {"battery": 0.1}}), exclude=("Humanoid",))
    found = worker.decide(selector, asked, top_k=None, reasoning=True, terms=terms)
    assert found == selector.decide(asked, state=terms.state, exclude=terms.exclude)
    worker, handle = worker_with(tiny_model, 99)
    with pytest.raises(RefusalError, match="No engine answered in 4 tries") as refused:
        worker.occlude(selector, asked)
    assert (refused.value.status, handle.asked) == (503, ["occlude"] * 4)


def test_a_fault_in_a_replica_is_told_by_its_kind_alone(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("the words of a request")

    worker, handle = worker_with(tiny_model, 0)
    monkeypatch.setattr(Selector, "answer", fails)
    selector = Selector(load_backend("native", tiny_model))
    with pytest.raises(on_ray.ReplicaFaultError, match="^ZeroDivisionError$"):
        worker.decide(selector, Scenario(task="look"), top_k=None, reasoning=False)
    handle.replica.check_health()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--ray", "--max-replicas", "2"], "give --memory postgresql://"),
        (["--ray", "--max-replicas", "2", "--memory", "a.sqlite"], "or --max-replicas 1"),
        (["--ray", "--min-replicas", "3", "--max-replicas", "2"], "not fewer at most"),
        (["--ray", "--min-replicas", "0"], "--min-replicas is 0"),
        (["--ray", "--workers", "2"], "with --ray give --max-replicas"),
        (["--max-replicas", "2"], "go with --ray"),
    ],
)
def test_options_that_do_not_fit_are_told(words: list[str], part: str) -> None:
    result = CliRunner().invoke(cli.app, ["serve", *words])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert part in result.stderr
