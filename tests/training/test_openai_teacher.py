"""An endpoint that cuts, refuses, babbles or sleeps: asked again where that may help."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from chat_server import Endpoint, serve

from embervlm.endpoint import KEY_VARIABLE
from embervlm.imaging import encode_jpeg, load_image
from embervlm.training.teacher_prompts import Prompt
from embervlm.training.teachers import (
    NoAnswerError,
    Reply,
    Teacher,
    TeacherSettings,
    open_teacher,
)

QUICK = TeacherSettings(retries=3, first_pause_s=0.01, timeout_s=5.0)
PROMPT = Prompt("Be short.", "What is it?")
KEY = "sk-a-secret"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serve() as found:
        yield found


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def teacher_of(endpoint: Endpoint, settings: TeacherSettings = QUICK) -> Teacher:
    return open_teacher(f"openai:{endpoint.url}#tiny", settings)


def test_the_request_is_openais(
    endpoint: Endpoint, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    jpeg = encode_jpeg(load_image(photo), 32)
    settings = replace(QUICK, temperature=0.5, max_tokens=7)
    assert teacher_of(endpoint, settings).ask(PROMPT, jpeg, seed=3) == Reply("About What is it?")
    asked = endpoint.asked[0]
    assert (asked["model"], asked["max_tokens"], asked["temperature"], asked["seed"]) == (
        "tiny", 7, 0.5, 3,
    )  # fmt: skip
    assert asked["messages"][0] == {"role": "system", "content": "Be short."}
    image, words = asked["messages"][1]["content"]
    assert words == {"type": "text", "text": "What is it?"}
    kind, _, data = image["image_url"]["url"].partition(",")
    assert kind == "data:image/jpeg;base64"
    sent = load_image(base64.b64decode(data))
    assert sent.shape == (24, 32, 3)
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert endpoint.paths == ["/v1/chat/completions"]


def test_without_a_key_none_is_sent_and_words_alone_are_a_text(endpoint: Endpoint) -> None:
    teacher_of(endpoint).ask(PROMPT, None, seed=0)
    assert "Authorization" not in endpoint.headers[0]
    assert endpoint.asked[0]["messages"][1]["content"] == "What is it?"
    assert "seed" not in endpoint.asked[0]


@pytest.mark.parametrize(
    "fault", [(429, {}, b""), (500, {}, b"{}"), (503, {}, b"busy"), "cut", "nonsense", 0.7]
)
def test_what_may_pass_is_asked_again(fault: object, endpoint: Endpoint) -> None:
    endpoint.first = [fault, fault]
    settings = replace(QUICK, timeout_s=0.3) if isinstance(fault, float) else QUICK
    assert teacher_of(endpoint, settings).ask(PROMPT, None, seed=0).text == "About What is it?"
    assert len(endpoint.asked) == 3


def test_retry_after_is_honoured(endpoint: Endpoint) -> None:
    endpoint.first = [(429, {"Retry-After": "1"}, b"")]
    begun = time.monotonic()
    teacher_of(endpoint).ask(PROMPT, None, seed=0)
    assert time.monotonic() - begun >= 1.0


def test_pauses_grow(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("embervlm.endpoint.time.sleep", pauses.append)
    endpoint.first = [(500, {}, b"")] * 9
    with pytest.raises(NoAnswerError, match="the server answered 500, 7 times in a row"):
        teacher_of(endpoint, TeacherSettings(retries=6)).ask(PROMPT, None, seed=0)
    assert len(pauses) == 6
    for i, pause_s in enumerate(pauses):
        assert 2**i / 2 <= pause_s <= 2**i


def test_a_question_that_the_server_does_not_want_is_not_repeated(endpoint: Endpoint) -> None:
    endpoint.first = [(400, {}, b'{"error": "context too long"}')]
    with pytest.raises(NoAnswerError, match="answered 400 .*context too long") as caught:
        teacher_of(endpoint).ask(PROMPT, None, seed=0)
    assert not caught.value.out_of_reach
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize("status", [301, 307, 401, 403, 404])
def test_a_refusal_ends_it_without_the_key_in_the_sentence(
    status: int, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    headers = {"Location": f"{endpoint.url}/elsewhere"} if status < 400 else {}
    endpoint.first = [(status, headers, f"bad key {KEY}\x1b[31m\n".encode())]
    with pytest.raises(ValueError, match=f"the server answered {status}") as caught:
        teacher_of(endpoint).ask(PROMPT, None, seed=0)
    assert KEY not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(endpoint.asked) == 1, "no redirection is followed"


def test_an_empty_answer_is_none_and_a_cut_one_says_so(endpoint: Endpoint) -> None:
    endpoint.finish = "length"
    assert teacher_of(endpoint).ask(PROMPT, None, seed=0).cut
    endpoint.answer = lambda request: " "
    with pytest.raises(NoAnswerError, match=r"an empty answer \(length\)"):
        teacher_of(endpoint).ask(PROMPT, None, seed=0)


def test_a_server_that_is_not_there(endpoint: Endpoint) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        name = f"openai:http://127.0.0.1:{free.getsockname()[1]}/v1#tiny"
        with pytest.raises(NoAnswerError, match="no connection .*refused") as caught:
            open_teacher(name, replace(QUICK, retries=1)).ask(PROMPT, None, seed=0)
    assert caught.value.out_of_reach


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("http://localhost/v1#m", "There is no teacher"),
        ("openai:", "There is no teacher"),
        ("openai:localhost/v1#m", "is no endpoint; expected such as"),
        ("openai:http://localhost/v1", "is no endpoint"),
        ("openai:ftp://localhost/v1#m", "is no endpoint"),
        ("openai:https://me:secret@example.com/v1#m", "give the key in the variable"),
        ("openai:http://example.com/v1#m", "would travel in the open"),
    ],
)
def test_a_wrong_name_gets_a_sentence(
    name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with pytest.raises(ValueError, match=says) as caught:
        open_teacher(name, QUICK)
    assert "secret" not in str(caught.value)


def test_without_a_key_a_server_of_the_local_network_may_speak_http() -> None:
    assert open_teacher("openai:http://192.168.0.7:8000/v1#m", QUICK).sees


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"temperature": float("nan")}, {"max_tokens": 0}, {"timeout_s": 0},
     {"logits": 5}, {"student": "x"}],
)  # fmt: skip
def test_wrong_settings_get_a_sentence(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be|together"):
        TeacherSettings(**wrong)  # type: ignore[arg-type]


def test_an_endpoint_gives_no_logits() -> None:
    settings = TeacherSettings(logits=4, student="tokenizer.json")
    with pytest.raises(ValueError, match="words alone; leave out --logits"):
        open_teacher("openai:http://localhost/v1#m", settings)
