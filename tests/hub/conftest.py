"""A Hub on this machine, and a process that knows no other one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
from hub_server import TOKEN, HubServer
from hub_worker import COMMAND

WORKER = Path(__file__).with_name("hub_worker.py")


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture(scope="session")
def hub_of_all() -> Iterator[HubServer]:
    server = HubServer()
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(hub_of_all: HubServer) -> HubServer:
    """Return the Hub, empty."""
    hub_of_all.repositories.clear()
    hub_of_all.calls.clear()
    return hub_of_all


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Return the name of a repository that no other test has."""
    return "owner/" + "".join(char if char.isalnum() else "-" for char in request.node.name)[
        5:60
    ].strip("-")


@pytest.fixture(scope="session")
def run(hub_of_all: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Return what runs `embervlm ...`, or Python code, against the Hub of this machine.

    With variables of the environment it is a process of its own.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = {
        **kept,
        "HF_ENDPOINT": hub_of_all.url,
        "HF_HOME": str(tmp_path_factory.mktemp("hf-home")),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }

    def process(more: dict[str, str]) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=pipe,
            stdout=pipe,
            env={**environment, **more},
            text=True,
        )

    with process({}) as worker:

        def start(*words: str, code: str = COMMAND, token: str | None = TOKEN, **more: str) -> Done:
            job = json.dumps({"words": words, "code": code, "token": token}) + "\n"
            if more:
                with process(more) as other:
                    line, _ = other.communicate(job, timeout=60)
            else:
                assert worker.stdin is not None and worker.stdout is not None
                worker.stdin.write(job)
                worker.stdin.flush()
                line = worker.stdout.readline()
            return Done(**json.loads(line))

        yield start
