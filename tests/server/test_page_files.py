"""What the page is made of, and the routes that only it needs; no browser takes part."""

import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
from opinion import DRONE, Opinion
from starlette.testclient import TestClient

from embervlm.fleet import Fleet
from embervlm.memory.lessons import MAX_NOTE_CHARACTERS
from embervlm.selector import Selector
from embervlm.server import page
from embervlm.server.app import create_app
from embervlm.server.settings import ServerSettings

FILES = sorted(
    path
    for path in Path(str(resources.files(page.__name__))).iterdir()
    if path.suffix in (".html", ".css", ".js", ".svg")
)
# What would read a text as markup or as code.
SINKS = (
    "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "eval(",
    "Function(", "createContextualFragment", "srcdoc", "javascript:",
)  # fmt: skip


def client(settings: ServerSettings | None = None) -> TestClient:
    selector = Selector(Opinion({frozenset({DRONE}): 1.0}, image_size=60))
    return TestClient(create_app(selector, settings), base_url="http://localhost")


@pytest.fixture
def visitor() -> TestClient:
    return client()


def test_every_file_is_served_with_its_type_and_the_policy(visitor: TestClient) -> None:
    for path in sorted(page.PATHS):
        answer = visitor.get(path)
        assert answer.status_code == 200, path
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert visitor.get("/").headers["content-type"].startswith("text/html")
    assert visitor.get("/page/page.js").headers["content-type"].startswith("text/javascript")


def test_every_file_is_packaged() -> None:
    toml = Path(__file__).parents[2] / "pyproject.toml"
    patterns = tomllib.loads(toml.read_text())["tool"]["setuptools"]["package-data"]["embervlm"]
    assert "server/page/*" in patterns


def test_the_page_opens_without_a_key_and_its_routes_do_not() -> None:
    locked = client(ServerSettings(keys={"room": "k" * 20}))
    assert all(locked.get(path).status_code == 200 for path in page.PATHS)
    assert locked.get("/v1/fleet/text").status_code == 401
    assert locked.put("/v1/fleet/text", json={"text": "robots: []"}).status_code == 401
    assert locked.post("/v1/occlusion", json={"task": "look"}).status_code == 401


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_text_never_becomes_markup_and_nothing_comes_from_elsewhere(path: Path) -> None:
    text = path.read_text("utf-8")
    assert not [sink for sink in SINKS if sink in text]
    addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"')]*", text)
    assert set(addresses) <= {"http://www.w3.org/2000/svg", "//www.w3.org/2000/svg"}
    if path.suffix == ".html":
        assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)", text)


def test_only_what_may_fail_touches_what_a_browser_keeps() -> None:
    for path in FILES:
        if path.name != "dom.js":
            found = re.findall(r"(?:local|session)Storage[.\[]", path.read_text("utf-8"))
            assert not found, path.name


def test_a_note_may_be_as_long_as_a_lesson_keeps() -> None:
    script = next(path for path in FILES if path.name == "correction.js").read_text("utf-8")
    assert f"maxlength: {MAX_NOTE_CHARACTERS} }}" in script


def test_what_a_script_imports_is_there() -> None:
    for path in FILES:
        for found in re.findall(r'from "\./([\w.]+)"', path.read_text("utf-8")):
            assert f"/page/{found}" in page.PATHS


def test_all_scripts_are_asked_for_at_once() -> None:
    html = next(path for path in FILES if path.suffix == ".html").read_text("utf-8")
    assert all(
        f'href="page/{path.name}"' in html or path.name == "page.js"
        for path in FILES
        if path.suffix == ".js"
    )


def test_fleet_text_comes_back_as_the_same_fleet(visitor: TestClient) -> None:
    text = visitor.get("/v1/fleet/text").json()["text"]
    assert Fleet.from_text(text) == Fleet.default()
    assert "payload_kg: 5," in text


def test_checking_a_fleet_changes_nothing_and_using_it_does(visitor: TestClient) -> None:
    text = "robots:\n- name: Crawler\n  capabilities: [look]\n"
    checked = visitor.put("/v1/fleet/text?check=true", json={"text": text})
    assert checked.json()["robots"] == ["Crawler"]
    assert DRONE in visitor.get("/v1/fleet/text").json()["robots"]
    visitor.put("/v1/fleet/text", json={"text": text})
    assert visitor.get("/v1/fleet/text").json()["robots"] == ["Crawler"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("robots: [", "not YAML"),
        ("robots:\n- name: Crawler\n  limits: {payload_kg: five}\n", "payload_kg"),
        ("robots: &all\n- name: A\nmore: *all\n", "aliases"),
        ("", "robots"),
        ("[" * 5_000, "not YAML"),
        ("a," * 20_001, "more than 20,000 parts"),
        ("#" * 200_001, "200000"),
    ],
)
def test_a_wrong_fleet_is_refused_in_a_sentence(visitor: TestClient, text: str, told: str) -> None:
    answer = visitor.put("/v1/fleet/text?check=true", json={"text": text})
    assert answer.status_code == 422
    assert told in answer.json()["error"]["message"]


def test_occlusion_takes_a_photo_and_refuses_words_alone(visitor: TestClient) -> None:
    photo = resources.files("embervlm").joinpath("demo/seabed.jpg").read_bytes()
    found = visitor.post("/v1/occlusion", files={"image": photo}, data={"task": "look"})
    assert found.status_code == 200
    assert found.json()["robots"] == [DRONE]
    assert len(found.json()["drops"]) == len(found.json()["drops"][0]) == 6
    assert "decide;dur=" in found.headers["server-timing"]
    refused = visitor.post("/v1/occlusion", json={"task": "look"})
    assert refused.status_code == 422
    assert "no photo" in refused.json()["error"]["message"]
