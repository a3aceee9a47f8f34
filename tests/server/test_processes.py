"""Engine processes: the same answers, and whichever is killed, no accepted request is lost."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import HERE, base64_of, encoded, wait_until
from PIL import Image
from starlette.testclient import TestClient

from embervlm.backends import load_backend
from embervlm.fleet import Fleet
from embervlm.live import FleetState
from embervlm.memory.store import LessonStore
from embervlm.scenario import Scenario
from embervlm.selector import Selector
from embervlm.server.app import App, create_app
from embervlm.server.asked import Terms
from embervlm.server.engine_process import EngineOptions
from embervlm.server.processes import EngineFaultError, ProcessWorker, engine_processes
from embervlm.server.run import server_for
from embervlm.server.settings import ServerSettings

Events = Callable[[str], Sequence[dict[str, object]]]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lessons") / "lessons.sqlite"


@pytest.fixture(scope="module")
def engines(tiny_model: Path, lessons: Path) -> Iterator[list[ProcessWorker]]:
    """Start two processes, once for all tests here."""
    options = EngineOptions("native", tiny_model, str(lessons))
    with engine_processes(options, Selector(load_backend("native", tiny_model)), 2) as workers:
        yield workers


@pytest.fixture
def app(engines: list[ProcessWorker], tiny_model: Path, lessons: Path) -> App:
    selector = Selector(load_backend("native", tiny_model), memory=LessonStore(lessons))
    return create_app(selector, ServerSettings(queue=200, linger_s=0), workers=engines)


@pytest.fixture
def near(tiny_model: Path) -> Iterator[TestClient]:
    """Return a client of a server whose engine is a thread."""
    selector = Selector(load_backend("native", tiny_model))
    with TestClient(create_app(selector), base_url=HERE) as client:
        yield client


@pytest.fixture
def far(app: App) -> Iterator[TestClient]:
    """Return a client of a server whose engines are processes."""
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as client:
        yield client


def post(port: int, ask: object) -> tuple[int, bytes]:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        line.request("POST", "/v1/select", json.dumps(ask), JSON)
        answer = line.getresponse()
        return answer.status, answer.read()
    finally:
        line.close()


def test_a_killed_process_loses_no_accepted_request(
    app: App, near: TestClient, engines: list[ProcessWorker], jpeg: bytes, events: Events
) -> None:
    kinds: list[dict[str, Any]] = [{"task": f"carry the {i} kg pump"} for i in range(7)]
    kinds.append({"task": "look at the roof", "image": base64_of(jpeg)})
    asks = kinds * 25
    expected = [near.post("/v1/select", json=ask).content for ask in kinds] * 25
    server = server_for(app, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    with ThreadPoolExecutor(12) as clients:
        found = [clients.submit(post, port, ask) for ask in asks]
        wait_until(lambda: sum(one.done() for one in found) > 10)
        victim = engines[0].pid
        os.kill(victim, signal.SIGSTOP)  # so that it has a request when it dies
        done = sum(one.done() for one in found)
        wait_until(lambda: sum(one.done() for one in found) >= min(done + 10, len(asks) - 1))
        os.kill(victim, signal.SIGKILL)
        results = [one.result() for one in found]
    server.handle_exit(15, None)
    thread.join(20)
    assert [status for status, _ in results] == [200] * len(asks)
    assert [body for _, body in results] == expected
    assert [row["code"] for row in events("engine_lost")] == [-signal.SIGKILL]
    assert engines[0].pid != victim


def test_lessons_and_fleet_count_at_once_everywhere(far: TestClient) -> None:
    ask = {"task": "look at the roof of the barn"}

    def answers() -> list[Any]:
        with ThreadPoolExecutor(4) as clients:  # so that both processes are asked
            found = [clients.submit(far.post, "/v1/select", json=ask) for _ in range(8)]
            return [one.result().json() for one in found]

    first = far.post("/v1/select", json=ask).json()
    other = next(name for name in Fleet.default().names if name not in first["robots"])
    learnt = far.post("/v1/feedback", json={**ask, "robots": [other], "note": "as told"})
    assert (learnt.status_code, learnt.json()["status"]) == (201, "in force")
    number = learnt.json()["id"]
    assert all((one["robots"], one["lessons"]) == ([other], [number]) for one in answers())
    assert far.delete(f"/v1/memory/{number}").status_code == 200
    assert answers() == [first] * 8
    robots = [r for r in far.get("/v1/fleet").json()["robots"] if r["name"] == other]
    assert far.put("/v1/fleet", json={"robots": robots}).status_code == 200
    for one in answers():
        assert set(one["probabilities"]) == {other, "No Robot"}


def test_answers_and_refusals_are_those_of_a_thread(
    near: TestClient, far: TestClient, jpeg: bytes
) -> None:
    photo = base64_of(jpeg)
    task = "carry the 8 kg pump up the stairs"
    state = {"robots": {"Humanoid": {"status": "fault"}}}
    uri = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{photo}"}}
    asks: list[tuple[str, dict[str, Any]]] = [
        ("/v1/select", {"json": {"task": task, "image": photo, "top_k": 1}}),
        ("/v1/select", {"json": {"image": photo, "reasoning": False}}),
        ("/v1/select", {"data": {"task": task}, "files": {"image": jpeg}}),
        ("/v1/plan", {"json": {"task": task}}),
        ("/v1/plan", {"json": {"task": task, "state": state, "exclude": ["Drone"]}}),
        ("/v1/select", {"json": {"task": task, "exclude": ["Drone"], "require": ["Drone"]}}),
        ("/v1/select", {"json": {"task": task, "require": ["Humanoid"], "state": state}}),
        ("/v1/select", {"json": {"task": task, "exclude": ["Nobody"]}}),
        ("/analyze", {"data": {"instruction": task}, "files": {"image": jpeg}}),
        ("/v1/occlusion", {"json": {"task": task, "image": photo}}),
        ("/v1/select", {"json": {}}),
        ("/v1/select", {"json": {"image": photo[:-3]}}),
        ("/v1/select", {"json": {"image": "https://example.org/a.jpg"}}),
        ("/v1/select", {"json": {"image": base64_of(jpeg[:200])}}),
        ("/v1/select", {"json": {"image": base64_of(encoded(Image.new("RGB", (2, 2))))}}),
        ("/v1/select", {"json": {"task": "\u2028 \x00 \U0001f6f8"}}),
        ("/v1/occlusion", {"json": {"task": task}}),
    ]
    for path, sent in asks:
        one, other = near.post(path, **sent), far.post(path, **sent)
        assert one.status_code == other.status_code, (path, other.text)
        if one.status_code == 200:
            assert one.content == other.content
        else:
            known = one.json()["error"], other.json()["error"]
            assert [{**error, "id": ""} for error in known[:1]] == [{**known[1], "id": ""}]
    chat = {"model": "embervlm", "messages": [{"role": "user", "content": [uri]}]}
    told = [c.post("/v1/chat/completions", json=chat).json()["choices"] for c in (near, far)]
    assert told[0] == told[1]


def test_a_decision_comes_back_with_its_scenario(
    engines: list[ProcessWorker], tiny_model: Path, jpeg: bytes
) -> None:
    selector, asked = Selector(load_backend("native", tiny_model)), Scenario("look", jpeg)
    found = engines[0].decide(selector, asked, top_k=1, reasoning=True)
    assert found == selector.decide(asked, top_k=1)
    terms = Terms(FleetState({"Drone": {"battery": 0.1}}), exclude=("Humanoid",))
    found = engines[0].decide(selector, asked, top_k=None, reasoning=True, terms=terms)
    assert found == selector.decide(asked, state=terms.state, exclude=terms.exclude)


def test_a_fault_there_is_told_by_its_kind_alone(
    engines: list[ProcessWorker], tiny_model: Path, events: Events
) -> None:
    selector = Selector(load_backend("native", tiny_model))
    no_form: Any = "a word that is a secret"
    with pytest.raises(EngineFaultError, match="^KeyError$"):
        engines[0].answer(selector, "look", None, top_k=None, reasoning=True, form=no_form)
    fault = events("engine_fault")[0]
    assert fault["kind"] == "KeyError"
    assert "secret" not in str(fault)
    assert engines[0].decide(selector, Scenario("look"), top_k=None, reasoning=False).robots


def test_a_request_that_no_process_outlives_is_a_fault_of_ours(
    far: TestClient,
    engines: list[ProcessWorker],
    monkeypatch: pytest.MonkeyPatch,
    events: Events,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", shutil.which("false"))
        for engine in engines:
            os.kill(engine.pid, signal.SIGKILL)
        answer = far.post("/v1/select", json={"task": "look"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert [row["attempt"] for row in events("engine_lost")] == [1, 2, 3]
    assert len(events("engine_given_up")) == 1
    assert [far.post("/v1/select", json={"task": "look"}).status_code for _ in range(4)] == [
        200
    ] * 4


def test_what_cannot_be_started_is_told(tiny_model: Path, tmp_path: Path) -> None:
    options = EngineOptions("native", tmp_path / "no.gguf", str(tmp_path / "lessons.sqlite"))
    selector = Selector(load_backend("native", tiny_model))
    with (
        pytest.raises(ValueError, match="engine processes cannot be started"),
        engine_processes(options, selector, 1),
    ):
        pass


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
    return [int(child) for child in text.split()]


def is_there(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for children in /proc")
@pytest.mark.parametrize("ends", ["a signal to the group", "a killed server"])
def test_no_process_is_left_behind(ends: str, tiny_model: Path, tmp_path: Path) -> None:
    words = ["--port", "0", "--workers", "2", "--model", str(tiny_model)]
    command = [sys.executable, "-m", "embervlm.server", *words]
    environment = {**os.environ, "EMBERVLM_HOME": str(tmp_path)}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stderr is not None
        told = json.loads(process.stderr.readline())
        assert told["workers"] == 2
        children = children_of(process.pid)
        assert len(children) == 2
        if ends == "a killed server":
            process.kill()
            process.wait(10)
        else:
            with ThreadPoolExecutor(30) as clients:
                asked = [clients.submit(post, told["port"], {"task": "look"}) for _ in range(30)]
                wait_until(lambda: any(one.done() for one in asked))
                os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
                statuses = {one.result()[0] for one in asked}
            assert statuses <= {200, 503}  # 503: it came when the server had begun to stop
            assert process.wait(20) == 0
            assert "engine_lost" not in process.stderr.read()
    wait_until(lambda: not any(is_there(child) for child in children))
