"""The page in a real browser: what an operator clicks, types and hears.

The server is ours with the shipped model; the browser is a Chromium that is installed here.
"""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from conftest import HERE, wait_until
from playwright import sync_api

from embervlm.ember_vlm import EmberVLM
from embervlm.engine import library_path
from embervlm.fleet import Fleet
from embervlm.server.app import App, create_app
from embervlm.server.run import server_for
from embervlm.server.settings import ServerSettings

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here"),
    pytest.mark.skipif(library_path() is None, reason="the engine is not compiled here"),
]

PHOTO = resources.files("embervlm").joinpath("demo/seabed.jpg")
TASK = "Our sensor came off its mooring somewhere here. Find it and cut the line."
TEAM_TASK = "Map the collapsed block from above, then search the rubble for survivors."
PATIENCE_MS = 90_000  # of a machine that does much else
KEY = "a-key-of-enough-letters"
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}
Page = Any


class Served:
    """A server in a thread, at a port that was free."""

    def __init__(self, app: App) -> None:
        self._server = server_for(app, "127.0.0.1", 0)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started, limit_s=60)
        self.address = f"{HERE}:{self._server.servers[0].sockets[0].getsockname()[1]}/"

    def stop(self) -> None:
        self._server.handle_exit(15, None)
        self._thread.join(30)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    lessons = tmp_path_factory.mktemp("lessons") / "lessons.sqlite"
    server = Served(
        create_app(EmberVLM.from_pretrained(memory=lessons), ServerSettings(linger_s=0))
    )
    yield server.address
    server.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    # Chromium's own sandbox does not run as root.
    own = ["--no-sandbox"] if os.geteuid() == 0 else []
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*own, *camera])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def desktop(chromium: Any) -> Iterator[Any]:
    context = chromium.new_context(reduced_motion="reduce", viewport=DESKTOP)
    yield context
    context.close()


@pytest.fixture
def page(desktop: Any, served: str) -> Iterator[Page]:
    with opened(desktop, served) as page:
        yield page


@contextmanager
def opened(context: Any, address: str) -> Iterator[Page]:
    """Open the page; it may ask no other server, and may have no fault of its own."""
    page, strangers, faults = context.new_page(), [], []
    page.set_default_timeout(PATIENCE_MS)
    page.on("request", lambda r: strangers.append(r.url) if not is_own(r.url, address) else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    page.on("console", lambda m: faults.append(m.text) if "Policy" in m.text else None)
    page.goto(address)
    yield page
    page.close()
    assert not strangers
    assert not faults


def is_own(url: str, address: str) -> bool:
    return url.startswith((address, f"blob:{address}", "data:"))


def ask(page: Page, task: str) -> None:
    page.get_by_label("What is to be done?").fill(task)
    page.keyboard.press("Control+Enter")
    page.locator(".chosen").wait_for()


def faults_found(page: Page) -> list[str]:
    """Return what axe-core finds, of any weight, and where."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:120]}" for v in found]


def test_the_click_path(page: Page) -> None:
    page.locator("#file").set_input_files(
        {"name": "seabed.jpg", "mimeType": "image/jpeg", "buffer": PHOTO.read_bytes()}
    )
    page.locator("#photo-shown").wait_for()
    ask(page, TASK)
    sent = page.locator(".card.sent")
    assert sent.locator(".name").inner_text() == "Underwater Robot"
    assert "can dive" in sent.locator(".why").inner_text().lower()
    others = page.locator(".cards.small .card")
    assert others.count() == len(Fleet.default())
    assert "under water" in others.filter(has_text="Drone").inner_text()
    assert page.locator(".reasons dt").all_inner_texts() == [
        "Task", "Environment", "Robots", "Decision",
    ]  # fmt: skip
    assert "Send Underwater Robot" in page.get_by_role("status").first.inner_text()
    assert " ms" in page.locator(".latency").inner_text()

    page.get_by_role("button", name="Show which parts counted").click()
    page.locator(".heat").wait_for()
    assert "The network alone gives" in page.locator(".looked").inner_text()

    page.get_by_role("button", name="That’s wrong").click()
    page.get_by_role("button", name="Store this lesson").click()
    assert "Choose who is right" in page.locator(".correction").inner_text()
    page.get_by_label("No Robot", exact=True).check()
    page.get_by_label("Why, in a few words").fill("<img src=x onerror=alert(1)> the line is ours")
    page.get_by_role("button", name="Store this lesson").click()
    stored = page.locator(".stored")
    stored.get_by_text("the line is ours").wait_for()
    page.get_by_role("button", name="Ask the same again").click()
    page.locator(".note.lesson").wait_for()
    assert page.locator(".card.sent .name").inner_text() == "No Robot"
    assert page.evaluate("document.activeElement.id") == "answer-title"

    page.get_by_role("link", name="Lessons", exact=True).click()
    lesson = page.locator(".lesson-item")
    assert "onerror" in lesson.inner_text(), "a note is shown as it was written"
    assert page.locator("img[src=x]").count() == 0
    lesson.get_by_role("button", name="Forget").click()
    page.get_by_role("button", name="Forget it").click()
    page.get_by_text("There are no lessons yet").or_(page.get_by_text("is forgotten")).wait_for()
    assert lesson.count() == 0
    page.get_by_role("link", name="Decide").click()
    ask(page, TASK)
    page.get_by_text("Send Underwater Robot").first.wait_for()


def test_a_lesson_is_undone_where_it_was_stored(page: Page) -> None:
    ask(page, "Haul 320 kg of sandbags along the sealed road to the pumping station.")
    page.get_by_role("button", name="That’s wrong").click()
    page.get_by_label("Humanoid", exact=True).check()
    page.get_by_label("Your name").fill("Ada")
    page.get_by_role("button", name="Store this lesson").click()
    stored = page.locator(".stored")
    stored.wait_for()
    # 320 kg are more than it carries: kept, never followed, and the page says why.
    assert "will not be followed" in stored.inner_text()
    assert "20 kg" in stored.inner_text()
    with page.expect_request(lambda request: request.method == "DELETE") as undone:
        stored.get_by_role("button", name="Undo").click()
    assert "author=Ada" in undone.value.url
    stored.get_by_text("is undone").wait_for()
    assert page.evaluate("document.activeElement.tagName") == "H3"


def test_bars_are_as_long_as_the_shares_beside_them(page: Page) -> None:
    ask(page, "Check whether anyone is left on the third floor; the lift is out.")
    # They grow for a quarter of a second.
    page.evaluate("Promise.all(document.getAnimations().map((one) => one.finished))")
    for bar in page.get_by_role("meter").all():
        share = int(bar.get_attribute("aria-valuenow"))
        whole, inner = bar.bounding_box(), bar.locator(".bar-fill").bounding_box()
        rounded = 0.005 * whole["width"]  # the share is told in whole percent
        assert inner["width"] == pytest.approx(whole["width"] * share / 100, abs=rounded + 0.1)


def test_no_accessibility_fault_that_axe_knows(page: Page) -> None:
    ask(page, TEAM_TASK)
    page.get_by_role("button", name="That’s wrong").click()
    assert faults_found(page) == []
    for view in ("Lessons", "Fleet"):
        page.get_by_role("link", name=view, exact=True).click()
        page.locator(f"#{view.lower()}-title:focus").wait_for()
        assert faults_found(page) == []


def test_fits_a_phone_and_can_be_read_in_the_dark(chromium: Any, served: str) -> None:
    context = chromium.new_context(viewport=PHONE, color_scheme="dark", has_touch=True)
    with opened(context, served) as page:
        ask(page, TEAM_TASK)
        page.get_by_role("button", name="That’s wrong").click()
        assert faults_found(page) == []
        for view in ("Decide", "Lessons", "Fleet"):
            page.get_by_role("link", name=view, exact=True).click()
            page.locator(f"#view-{view.lower()}").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_keyboard_goes_through_the_form_in_order(page: Page) -> None:
    page.locator("#examples button").first.wait_for()
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim().slice(0, 14)"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"no focus is seen on {reached[-1]}"
    assert reached[:4] == ["Skip to the co", "Decide", "Lessons", "Fleet"]
    assert reached[5:] == ["Choose a photo", "Camera", "", "Decide"]


def test_a_fleet_is_checked_while_it_is_written(page: Page) -> None:
    page.get_by_role("link", name="Fleet").click()
    text = page.get_by_label("Fleet file (YAML)")
    page.get_by_text("In use: 5 robots").wait_for()
    written = text.input_value()
    use = page.get_by_role("button", name="Use this fleet")
    text.fill(written.replace("payload_kg: 5,", "payload_kg: five,"))
    page.get_by_text("robot 'Drone', key `limits.payload_kg`").wait_for()
    assert use.is_disabled()
    assert text.get_attribute("aria-invalid") == "true"
    text.fill(written.replace("name: Drone", "name: Kite"))
    page.get_by_text("Sound, not in use yet: 5 robots: Kite").wait_for()
    use.click()
    page.get_by_text("In use: 5 robots: Kite").wait_for()
    page.get_by_role("link", name="Decide").click()
    ask(page, "Reach the people on the roof and tell them that help is coming.")
    assert page.locator(".card.sent .name").inner_text() == "Kite"
    page.get_by_role("link", name="Fleet").click()
    text.fill(written)
    use.click()
    page.get_by_text("In use: 5 robots: Drone").wait_for()


def test_what_is_written_while_the_fleet_is_fetched_stays(page: Page) -> None:
    held: list[Any] = []
    page.route("**/v1/fleet/text", lambda route: held.append(route))
    with page.expect_request("**/v1/fleet/text"):
        page.get_by_role("link", name="Fleet").click()
    text = page.get_by_label("Fleet file (YAML)")
    text.fill("robots:\n- name: Crawler\n")
    held[0].continue_()
    page.get_by_text("Sound, not in use yet: 1 robot: Crawler").wait_for()
    assert "Crawler" in text.input_value()


def test_a_plan_is_drawn_with_its_times_and_without(page: Page) -> None:
    steps: list[dict[str, Any]] = [
        {"subtask": "map", "robot": "Drone", "after": [], "start_min": 0, "duration_min": 30},
        {"subtask": "clear", "robot": "Legs", "after": [], "start_min": 0, "duration_min": 15},
        {"subtask": "carry", "robot": "Legs", "after": [0, 1], "start_min": 30, "duration_min": 30},
        {"subtask": "lift", "robot": None, "after": [2], "why": "lifts 20 kg, asked 90 kg"},
    ]
    show = """async (steps) => {
        const { planView } = await import("/page/plan.js");
        document.getElementById("decision").replaceChildren(planView(steps));
    }"""
    page.evaluate(show, steps)
    assert page.locator(".node").count() == 4
    assert page.locator(".edge").count() == 3
    track = page.locator(".gantt-track").first.bounding_box()
    bars = {b.inner_text(): b.bounding_box() for b in page.locator(".gantt-bar").all()}
    assert sorted(bars) == ["1", "2", "3"]
    assert bars["1"]["width"] == pytest.approx(track["width"] / 2, abs=2)
    assert bars["2"]["width"] == pytest.approx(track["width"] / 4, abs=2)
    assert bars["3"]["x"] == pytest.approx(track["x"] + track["width"] / 2, abs=2)
    assert "Nobody: lift" in page.locator(".steps").inner_text()
    assert "asked 90 kg" in page.locator(".steps").inner_text()
    page.evaluate(show, [{k: s[k] for k in ("subtask", "robot", "after")} for s in steps[:3]])
    assert "No times are stated" in page.locator(".plan").inner_text()
    # Steps that wait for one another in a ring, which no server sends, must not hang the page.
    page.evaluate(show, [{**steps[0], "after": [1]}, {**steps[1], "after": [0]}])
    assert page.locator(".node").count() == 2


def test_says_plainly_when_a_person_should_decide(page: Page) -> None:
    def doubt(route: Any) -> None:
        answer = route.fetch()
        body = {**answer.json(), "ask": True, "confidence": 0.412}
        route.fulfill(response=answer, body=json.dumps(body))

    page.route("**/v1/select", doubt)
    ask(page, TASK)
    assert page.locator(".note.person").inner_text().startswith("Ask a person.")
    assert "41 %" in page.locator(".note.person").inner_text()
    assert "Ask a person" in page.get_by_role("status").first.inner_text()


def test_a_refusal_is_shown_as_the_sentence_that_the_server_said(page: Page) -> None:
    page.get_by_role("button", name="Decide", exact=True).click()
    page.get_by_text("Nothing was asked").wait_for()
    page.get_by_label("What is to be done?").fill("look")
    page.route("**/v1/select", lambda route: route.abort())
    page.keyboard.press("Control+Enter")
    page.get_by_text("The server cannot be reached").wait_for()
    page.locator("#file").set_input_files(
        {"name": "fake.jpg", "mimeType": "image/jpeg", "buffer": b"no photo"}
    )
    page.get_by_text("no photo that can be shown").wait_for()


def test_a_photo_too_large_for_a_request_is_made_smaller(page: Page) -> None:
    # What stands behind a JPEG's end is no part of the picture.
    photo = PHOTO.read_bytes() + bytes(8_000_000)
    page.locator("#file").set_input_files(
        {"name": "large.jpg", "mimeType": "image/jpeg", "buffer": photo}
    )
    page.get_by_text("made smaller to be sent").wait_for()
    ask(page, TASK)


def test_a_photo_is_taken_with_the_camera(page: Page) -> None:
    page.get_by_role("button", name="Camera").click()
    page.locator("#take:not([disabled])").click()
    page.locator("#photo-shown").wait_for()
    assert "camera.jpg" in page.locator("#photo-caption").inner_text()
    assert page.evaluate("document.activeElement.id") == "use-camera"


def test_works_where_the_browser_keeps_nothing_for_pages(chromium: Any, served: str) -> None:
    context = chromium.new_context(viewport=DESKTOP)
    context.add_init_script(
        "for (const store of ['localStorage', 'sessionStorage'])"
        " Object.defineProperty(window, store,"
        " { get() { throw new DOMException('blocked', 'SecurityError'); } });"
    )
    with opened(context, served) as page:
        page.locator("#theme").select_option("dark")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        ask(page, TASK)
    context.close()


def test_asks_for_the_key_where_the_server_wants_one(chromium: Any, tmp_path: Path) -> None:
    selector = EmberVLM.from_pretrained(memory=tmp_path / "lessons.sqlite")
    server = Served(create_app(selector, ServerSettings(keys={"room": KEY}, linger_s=0)))
    with opened(chromium.new_context(), server.address) as page:
        page.get_by_label("What is to be done?").fill(TASK)
        page.keyboard.press("Control+Enter")
        page.get_by_label("Key", exact=True).fill("a-wrong-key-of-some-length")
        page.keyboard.press("Enter")
        page.wait_for_function("document.getElementById('key').value === ''")
        page.get_by_label("Key", exact=True).fill(KEY)
        page.keyboard.press("Enter")
        page.locator(".chosen").wait_for()
        assert KEY not in page.url
    server.stop()
