"""OpenAI's routes: its official client reads them, and schemas are kept or refused."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Listen
from starlette.testclient import TestClient

from embervlm.scenario import Scenario
from embervlm.selector import Selector
from embervlm.server.schema_fit import fit

TASK = "carry the 8 kg pump up the stairs"


def messages(task: str = TASK, photo: bytes | None = None) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": task}]
    if photo is not None:
        uri = "data:image/jpeg;base64," + base64.b64encode(photo).decode()
        parts.append({"type": "image_url", "image_url": {"url": uri, "detail": "low"}})
    return [{"role": "system", "content": "You are kind."}, {"role": "user", "content": parts}]


def chat(client: TestClient, **ask: Any) -> Any:
    return client.post(
        "/v1/chat/completions", json={"model": "embervlm", "messages": messages(), **ask}
    )


def said(client: TestClient, **ask: Any) -> str:
    answer = chat(client, **ask)
    assert answer.status_code == 200, answer.text
    content: str = answer.json()["choices"][0]["message"]["content"]
    return content


def test_the_reasons_are_the_answer(client: TestClient, selector: Selector) -> None:
    assert said(client) == "\n".join(selector.decide(Scenario(task=TASK)).reasoning)
    client.post("/v1/feedback", json={"task": TASK, "robots": ["No Robot"]})
    followed = selector.decide(Scenario(task=TASK))
    assert said(client) == "\n".join((*followed.reasoning, *followed.memory))
    assert len(followed.memory) == 1


def test_a_json_object_is_the_decision(client: TestClient, selector: Selector, jpeg: bytes) -> None:
    content = said(client, messages=messages(photo=jpeg), response_format={"type": "json_object"})
    assert json.loads(content) == selector.decide(Scenario(task=TASK, image=jpeg)).to_dict()


def test_words_before_the_last_message_change_nothing(client: TestClient) -> None:
    before = [{"role": "user", "content": "dive"}, {"role": "assistant", "content": "Drone"}]
    assert said(client, messages=before + messages()) == said(client)


def test_length_and_stop_end_the_answer(client: TestClient) -> None:
    whole = said(client)
    answer = chat(client, max_tokens=7).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] <= 7
    assert whole.startswith(answer["choices"][0]["message"]["content"])
    assert said(client, stop=["\n"]) == whole.splitlines()[0]


@pytest.mark.parametrize(
    "ask",
    [
        {"messages": []},
        {"messages": [{"role": "system", "content": "a"}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "user", "content": "x" * 4001}]},
        {"messages": messages() * 101},
        {"n": 2},
        {"tools": [{"type": "function"}]},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "send"}}},
        {"function_call": {"name": "send"}},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"max_tokens": 0},
        {"response_format": {"type": "json_schema"}},
        {"response_format": {"type": "grammar"}},
        {"temperature": float("1e400")} | {"stream": "yes"},
    ],
)
def test_what_cannot_be_honoured_is_refused(client: TestClient, ask: dict[str, Any]) -> None:
    body = json.dumps({"model": "embervlm", "messages": messages(), **ask})
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"].endswith(".")


def test_a_choice_that_takes_no_tool_is_taken(client: TestClient) -> None:
    choices = {"tool_choice": "auto", "function_call": "none", "logprobs": False, "top_logprobs": 0}
    assert chat(client, **choices).status_code == 200


def test_another_model_is_not_found(client: TestClient) -> None:
    assert chat(client, model="gpt-4o").status_code == 404
    assert client.get("/v1/models/gpt-4o").status_code == 404


RECORD = {"primary": "Drone", "robots": ["Drone", "Humanoid"], "confidence": 0.9, "ask": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"properties": {"primary": {"type": "string"}}}, {"primary": "Drone"}),
        ({"properties": {"robots": {"type": "array", "maxItems": 1}}}, {"robots": ["Drone"]}),
        ({"properties": {"confidence": {"minimum": 0, "maximum": 1}}}, {"confidence": 0.9}),
        ({"properties": {"ask": {"enum": [0, False]}}}, {"ask": False}),
        ({"properties": {"ask": {"anyOf": [{"type": "null"}, {"const": False}]}}}, {"ask": False}),
        (
            {
                "properties": {"primary": {"$ref": "#/$defs/name"}, "new": {}},
                "required": ["primary"],
                "$defs": {"name": {"type": ["string", "null"], "enum": ["Drone"]}},
            },
            {"primary": "Drone"},
        ),
        (True, RECORD),
        ({"type": "object"}, RECORD),
        ({"type": "object", "required": ["primary"]}, RECORD),
        ({"type": "object", "additionalProperties": False}, {}),
        ({"type": "object", "additionalProperties": {"minLength": 5}}, RECORD),
        ({"properties": {"ask": {}}, "additionalProperties": False}, {"ask": False}),
        ({"allOf": [{"properties": {"ask": {}}}], "title": "one"}, {"ask": False}),
    ],
)
def test_a_schema_chooses_among_the_fields(schema: Any, expected: Any) -> None:
    assert fit(RECORD, schema) == expected


CIRCLE: dict[str, Any] = {"$ref": "#"}
WIDE: dict[str, Any] = {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(40)}
WIDE["a40"] = {"type": "null"}
PRIMARY, ROBOTS = ({"properties": {name: {}}} for name in ("primary", "robots"))


@pytest.mark.parametrize(
    "schema",
    [
        {"required": ["wings"], "properties": {}},
        {"properties": {"primary": {"type": "number"}}},
        {"properties": {"primary": {"enum": ["Humanoid"]}}},
        {"properties": {"primary": {"pattern": "(a+)+$"}}},
        {"properties": {"confidence": {"exclusiveMinimum": 0.9}}},
        {"properties": {"robots": {"minItems": 3}}},
        {"properties": {"primary": {"maxLength": "9"}}},
        {"properties": {"confidence": {"exclusiveMinimum": True}}},
        {"type": "object", "required": ["wings"]},
        {"additionalProperties": {"type": "string"}},
        {"additionalProperties": 7},
        {"allOf": [PRIMARY, ROBOTS]},
        {"anyOf": [PRIMARY], **ROBOTS},
        {"anyOf": [PRIMARY], "oneOf": [ROBOTS]},
        {"properties": {"robots": {"$ref": "#/$defs/any", "minItems": 5}}, "$defs": {"any": {}}},
        {"properties": {"robots": {"items": {"const": "Drone"}}}},
        {"properties": {"ask": {"type": "number"}}},
        {"properties": {"ask": {"const": 0}}},
        {"properties": {"ask": {"enum": [0, 0.0]}}},
        {"properties": {"primary": {"$ref": "http://127.0.0.1:9/schema"}}},
        {"$ref": "#/$defs/nothing"},
        {"properties": []},
        {"enum": 7},
        {"anyOf": []},
        False,
        [],
        CIRCLE,
        {"$ref": "#/$defs/a0", "$defs": WIDE},
    ],
)
def test_a_schema_that_cannot_be_met_is_refused(client: TestClient, schema: Any) -> None:
    with pytest.raises((ValueError, RecursionError)):
        fit(RECORD, schema)
    asked = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    # Whether values and lengths fit is the decision's matter; a fault it is never.
    assert chat(client, response_format=asked).status_code in (200, 400)


@pytest.fixture
def official(listen: Listen) -> Iterator[Any]:
    openai = pytest.importorskip("openai")
    with listen() as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        with client:
            yield client


def test_the_official_client_reads_answers_streams_and_schemas(official: Any, jpeg: bytes) -> None:
    from pydantic import BaseModel

    class Step(BaseModel):
        subtask: str
        robot: str

    class Answer(BaseModel):
        robots: list[str]
        confidence: float
        plan: list[Step]

    asked = {"model": "embervlm", "messages": messages(photo=jpeg)}
    whole = official.chat.completions.create(**asked, temperature=0, seed=1)
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.total_tokens > whole.usage.completion_tokens > 0
    parts = list(
        official.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
    )
    streamed = "".join(p.choices[0].delta.content or "" for p in parts if p.choices)
    assert streamed == whole.choices[0].message.content
    assert parts[-1].usage == whole.usage
    parsed = official.chat.completions.parse(**asked, response_format=Answer).choices[0].message
    assert isinstance(parsed.parsed, Answer)
    assert parsed.parsed.plan
    assert [model.id for model in official.models.list()] == ["embervlm"]


def test_the_official_client_raises_its_own_errors(official: Any) -> None:
    import openai

    with pytest.raises(openai.BadRequestError) as wrong:
        official.chat.completions.create(model="embervlm", messages=messages(), n=2)
    assert wrong.value.param == "n"
    with pytest.raises(openai.NotFoundError) as missing:
        official.chat.completions.create(model="gpt-4o", messages=messages())
    assert missing.value.code == "model_not_found"
