"""A server with the tiny model: behind a test client, or listening on a real socket."""

import asyncio
import base64
import io
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

for needed in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
    pytest.importorskip(needed, reason="needs the server extra")

from starlette.testclient import TestClient  # noqa: E402

from embervlm.backends import load_backend  # noqa: E402
from embervlm.memory.store import LessonStore  # noqa: E402
from embervlm.selector import Selector  # noqa: E402
from embervlm.server.app import App, create_app  # noqa: E402
from embervlm.server.run import server_for  # noqa: E402
from embervlm.server.settings import ServerSettings  # noqa: E402

HERE = "http://127.0.0.1"


@pytest.fixture
def selector(tiny_model: Path, tmp_path: Path) -> Iterator[Selector]:
    with LessonStore(tmp_path / "lessons.sqlite") as store:
        yield Selector(load_backend("native", tiny_model), memory=store)


@pytest.fixture
def app(selector: Selector) -> App:
    return create_app(selector)


@pytest.fixture
def client(app: App) -> Iterator[TestClient]:
    with TestClient(app, base_url=HERE) as client:
        yield client


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise).resize((64, 48)))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def base64_of(photo: bytes) -> str:
    return base64.b64encode(photo).decode()


@dataclass
class Listening:
    """A server on a real socket, in a thread; `stop` is what SIGTERM does."""

    port: int
    app: App
    stop: Callable[[], None]
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"{HERE}:{self.port}"


Listen = Callable[..., AbstractContextManager[Listening]]


@pytest.fixture
def listen(selector: Selector, tiny_model: Path) -> Listen:
    @contextmanager
    def listening(
        settings: ServerSettings | None = None, *, workers: int = 1
    ) -> Iterator[Listening]:
        more = [load_backend("native", tiny_model) for _ in range(workers - 1)]
        app = create_app(selector, settings or ServerSettings(linger_s=0), backends=more)
        server = server_for(app, "127.0.0.1", 0)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield Listening(port, app, lambda: server.handle_exit(15, None), thread)
        finally:
            if thread.is_alive():
                server.handle_exit(15, None)
                server.handle_exit(15, None)
            thread.join(10)
            assert not thread.is_alive()

    return listening


@contextmanager
def working(app: App, *, until: threading.Event) -> Iterator[None]:
    """Keep all workers busy until an event, or the end of the block."""
    began = threading.Barrier(app.service.pool.workers + 1)

    def wait(_: object) -> None:
        began.wait(10)
        until.wait(20)

    for _ in range(app.service.pool.workers):
        app.service.pool.submit("a test", wait)
    began.wait(10)
    try:
        yield
    finally:
        until.set()


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Callable[[str], Sequence[dict[str, object]]]:
    """Return the facts of all logged events of a name."""
    caplog.set_level(logging.INFO, logger="embervlm.server")

    def found(name: str) -> list[dict[str, object]]:
        return [r.facts for r in caplog.records if r.getMessage() == name]  # type: ignore[attr-defined]

    return found


def wait_until(is_so: Callable[[], bool], limit_s: float = 10.0) -> None:
    ends = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < ends, "it did not come to be"
        time.sleep(0.01)


def run(work: object) -> object:
    return asyncio.run(work)  # type: ignore[arg-type]
