"""OpenAI's /v1/chat/completions and /v1/models, so that any tool that talks to a model can ask.

    client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any, if none is needed")
    client.chat.completions.create(model="embervlm", messages=[...], response_format=...)

The last message of the user is the request, its image the photo; what stands before it, the
system's words among it, changes nothing, because the network reads one request at a time. The
answer is the four lines of reasons and the lesson that it follows, or with `response_format` the
decision as JSON, in the shape of a schema if one is given (`schema_fit`). What would change the
answer elsewhere and cannot here is refused (`n`, tools, log probabilities); the decision has no
randomness, so temperature, seed and penalties are accepted.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from embervlm.prompts import Encoder
from embervlm.scenario import Decision, Scenario
from embervlm.server.answers import analysis
from embervlm.server.asked import decode_photo
from embervlm.server.bodies import check_query, read_json, validated
from embervlm.server.errors import RefusalError
from embervlm.server.records import Ask
from embervlm.server.routes import Shared, client_of, note_words, takes
from embervlm.server.schema_fit import fit
from embervlm.server.service import Service

router = APIRouter(default_response_class=JSONResponse)

MODEL = "embervlm"
_CREATED = 1_795_910_400  # 2026-11-29: a model that ships has a date, not a time of start
_MOST_MESSAGES = 200
# What a choice of tools may be where there are none.
_WITHOUT_A_CALL = (None, "none", "auto")


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class ImageUrl(_Lenient):
    """A photo as a data URI."""

    url: str


class Part(_Lenient):
    """A part of a message."""

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None


class ChatMessage(_Lenient):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None


class JsonSchema(_Lenient):
    """A schema for the answer, with its name."""

    name: str = Field("answer", max_length=64)
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(_Lenient):
    """What the answer shall be."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class StreamOptions(_Lenient):
    """What a stream has beside the answer."""

    include_usage: bool = False


class ChatAsk(_Lenient):
    """What /v1/chat/completions takes."""

    model: str = Field(max_length=200)
    messages: list[ChatMessage] = Field(min_length=1, max_length=_MOST_MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    functions: list[Any] | None = None
    function_call: str | dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    def refused(self) -> str:
        """Return the name of a setting that cannot be honoured, or nothing."""
        asked = {
            "n": self.n not in (None, 1),
            "tools": bool(self.tools),
            "tool_choice": self.tool_choice not in _WITHOUT_A_CALL,
            "functions": bool(self.functions),
            "function_call": self.function_call not in _WITHOUT_A_CALL,
            "logprobs": bool(self.logprobs),
            "top_logprobs": bool(self.top_logprobs),
        }
        return next((name for name, is_asked in asked.items() if is_asked), "")


@router.get("/v1/models")
async def list_models() -> dict[str, Any]:
    """List the one model that there is."""
    return {"object": "list", "data": [_model()]}


@router.get("/v1/models/{name}")
async def show_model(name: str) -> dict[str, Any]:
    """Show the one model that there is."""
    if name != MODEL:
        raise _no_model()
    return _model()


@router.post(
    "/v1/chat/completions",
    responses={200: {"content": {"application/json": {}, "text/event-stream": {}}}},
    openapi_extra=takes(ChatAsk),
)
async def complete(request: Request, service: Shared) -> Response:
    """Answer a conversation's last message with a decision."""
    try:
        return await _complete(request, service)
    except RefusalError as refusal:
        if refusal.status == 422:
            refusal.status = 400  # as OpenAI has it
        raise


async def _complete(request: Request, service: Service) -> Response:
    check_query(request)
    ask = validated(ChatAsk, await read_json(request))
    if ask.model != MODEL:
        raise _no_model()
    if name := ask.refused():
        raise RefusalError(
            422, "unsupported", f"`{name}` cannot be honoured here; leave it out.", param=name
        )
    wanted = ask.response_format or ResponseFormat()
    if wanted.type == "json_schema" and wanted.json_schema is None:
        raise RefusalError(
            422,
            "invalid_request",
            "`response_format.json_schema` is missing; give a schema, or ask for json_object.",
            param="response_format.json_schema",
        )
    scenario = _scenario(ask.messages)
    note_words(request, service, Ask.model_construct(task=scenario.task, image=scenario.image))
    decision, timing = await service.decide(client_of(request), lambda: scenario)
    content = _content(decision, wanted)
    content, finish, used = _cut(content, ask, service.backend.tokenizer)
    asked_tokens = len(service.backend.tokenizer.encode(scenario.task or ""))
    usage = {
        "prompt_tokens": asked_tokens,
        "completion_tokens": used,
        "total_tokens": asked_tokens + used,
    }
    head = {
        "id": f"chatcmpl-{request.state.id}",
        "created": int(time.time()),
        "model": MODEL,
    }
    headers = {"server-timing": timing.header()}
    if ask.stream:
        with_usage = ask.stream_options is not None and ask.stream_options.include_usage
        events = _events(head, content, finish, usage if with_usage else None)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    answer = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
    return JSONResponse(answer, headers=headers)


def _scenario(messages: list[ChatMessage]) -> Scenario:
    """Return the request of the user's last message.

    Raises:
        RefusalError: the user has said nothing that can be decided.
    """
    last = next((m for m in reversed(messages) if m.role == "user"), None)
    if last is None:
        raise RefusalError(422, "invalid_request", "No message is the user's.", param="messages")
    parts = last.content if isinstance(last.content, list) else []
    words = [part.text for part in parts if part.type == "text" and part.text]
    task = last.content if isinstance(last.content, str) else "\n".join(words)
    photos = [part.image_url for part in parts if part.type == "image_url"]
    if len(photos) > 1 or None in photos:
        raise RefusalError(
            422,
            "invalid_request",
            f"The message has {len(photos)} images; give one photo as image_url.",
            param="messages",
        )
    try:
        # An empty text would be a request; its absence lets the photo speak alone.
        image = decode_photo(photos[0].url) if photos and photos[0] else None
        return Scenario(task=task if task.strip() else None, image=image)
    except ValueError as error:
        raise RefusalError(422, "invalid_request", str(error), param="messages") from error


def _content(decision: Decision, wanted: ResponseFormat) -> str:
    if wanted.type == "text":
        return "\n".join((*decision.reasoning, *decision.memory))
    record = {**decision.to_dict(), **analysis(decision)}
    if wanted.json_schema is None:
        return json.dumps(decision.to_dict(), ensure_ascii=False)
    try:
        return json.dumps(fit(record, wanted.json_schema.schema_), ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        sentence = str(error) if isinstance(error, ValueError) else "The schema is too deep."
        raise RefusalError(422, "schema", sentence, param="response_format.json_schema") from error


def _cut(content: str, ask: ChatAsk, tokenizer: Encoder) -> tuple[str, str, int]:
    """Return the content up to a stop text or the greatest length, why it ends, and its tokens."""
    stops = [ask.stop] if isinstance(ask.stop, str) else ask.stop or []
    ends = [content.find(stop) for stop in stops if stop and stop in content]
    content = content[: min(ends)] if ends else content
    most = ask.max_completion_tokens or ask.max_tokens
    count = len(tokenizer.encode(content))
    if most is None or count <= most:
        return content, "stop", count
    size = bisect_right(
        range(len(content)), most, key=lambda end: len(tokenizer.encode(content[:end]))
    )
    content = content[: max(0, size - 1)]
    return content, "length", len(tokenizer.encode(content))


async def _events(
    head: dict[str, Any], content: str, finish: str, usage: dict[str, int] | None
) -> AsyncIterator[bytes]:
    """Yield the answer as server-sent events, a line of it at a time."""

    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        chunk = {**head, "object": "chat.completion.chunk", "choices": choices, **more}
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    def delta(part: dict[str, Any], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": part, "logprobs": None, "finish_reason": reason}]

    yield event(delta({"role": "assistant", "content": ""}))
    for line in content.splitlines(keepends=True):
        yield event(delta({"content": line}))
    yield event(delta({}, finish))
    if usage is not None:
        yield event([], usage=usage)
    yield b"data: [DONE]\n\n"


def _model() -> dict[str, Any]:
    return {"id": MODEL, "object": "model", "created": _CREATED, "owned_by": "embervlm"}


def _no_model() -> RefusalError:
    return RefusalError(
        404, "model_not_found", f"There is no such model; there is {MODEL}.", param="model"
    )
