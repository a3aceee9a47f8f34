"""The routes of embervlm's own: select, plan, feedback, lessons, fleet, health; and EmberVLM's
/analyze.

What a route takes and gives are the records of `records`; the answers are built here as plain
values, so that the same request has the same answer, byte for byte. Times and numbers of a request
are in headers.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel

from embervlm.fleet import ACTIONS, CONDITIONS, ENVIRONMENTS, LIMIT_UNITS, STATUSES, Fleet
from embervlm.memory.entries import MemoryEntry
from embervlm.memory.protocol import LessonMemory
from embervlm.scenario import READINGS, Feedback
from embervlm.server import metrics
from embervlm.server.answers import Form
from embervlm.server.bodies import check_query, read_form, read_json, read_record, validated
from embervlm.server.errors import RefusalError, from_mistake
from embervlm.server.records import (
    AnalysisRecord,
    Ask,
    DecisionRecord,
    FeedbackAsk,
    FleetAsk,
    FleetRecord,
    ForgottenRecord,
    LessonRecord,
    LessonsRecord,
    PlanAsk,
    PlanRecord,
    RollbackAsk,
    RollbackRecord,
    SelectAsk,
)
from embervlm.server.service import Service, stopping
from embervlm.server.workers import users_mistakes

router = APIRouter(default_response_class=JSONResponse)

_MOST_LISTED = 500

LessonNumber = Annotated[int, Path(ge=1, lt=2**53)]
Author = Annotated[str, Query(min_length=1, max_length=60)]
Model = TypeVar("Model", bound=BaseModel)


async def service_of(request: Request) -> Service:
    """Return what the routes share; FastAPI would call a plain function in a thread."""
    service: Service = request.app.state.service
    return service


Shared = Annotated[Service, Depends(service_of)]


async def known_query(request: Request) -> None:
    """Refuse a name in the query that the route does not take; of a file of the page any will do.

    Raises:
        RefusalError: see `check_query`.
    """
    route = request.scope["route"]
    if route.include_in_schema:
        check_query(request, [field.alias for field in route.dependant.query_params])


def takes(model: type[BaseModel], *kinds: str) -> dict[str, Any]:
    """Return the part of the OpenAPI schema that says what a body holds."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    content: dict[str, Any] = {}
    for kind in kinds or ("application/json",):
        found = {**schema, "properties": dict(schema["properties"])}
        if "image" in found["properties"]:
            photo: dict[str, Any] = {"type": ["string", "null"], "description": "base64"}
            if kind != "application/json":
                photo = {"type": "string", "format": "binary"}
            found["properties"]["image"] = photo
        content[kind] = {"schema": found}
    return {"requestBody": {"required": True, "content": content}}


JSON_OR_FORM = ("application/json", "multipart/form-data")


@router.post(
    "/v1/select",
    responses={200: {"model": DecisionRecord}},
    openapi_extra=takes(SelectAsk, *JSON_OR_FORM),
)
async def select(request: Request, service: Shared) -> Response:
    """Decide which robots to send, in which order, why these and why not the others."""
    ask = await read_record(request, SelectAsk)
    return await _answer(
        request, service, ask, "decision", top_k=ask.top_k, reasoning=ask.reasoning
    )


@router.post(
    "/v1/plan",
    responses={200: {"model": PlanRecord}},
    openapi_extra=takes(PlanAsk, *JSON_OR_FORM),
)
async def plan(request: Request, service: Shared) -> Response:
    """Say who does what, and after what."""
    ask = await read_record(request, PlanAsk)
    return await _answer(request, service, ask, "plan", reasoning=False)


@router.post(
    "/v1/feedback",
    status_code=201,
    responses={201: {"model": LessonRecord}},
    openapi_extra=takes(FeedbackAsk, *JSON_OR_FORM),
)
async def feedback(request: Request, service: Shared) -> Response:
    """Keep who should have been sent; the next request that means the same follows it.

    The lesson's status is `quarantined` where it breaks a stated limit; its metadata say why.
    """
    ask = await read_record(request, FeedbackAsk)
    note_words(request, service, ask)
    try:
        correction = Feedback(ask.robots, ask.note, ask.author, ask.misread)
        terms = ask.terms()
    except ValueError as error:
        raise from_mistake(error) from error
    entry = await service.learn(client_of(request), ask.scenario, correction, terms=terms)
    record = await service.with_lessons(lambda lessons: _lesson(lessons, entry))
    return JSONResponse(record, status_code=201)


@router.get("/v1/memory", responses={200: {"model": LessonsRecord}})
async def list_lessons(
    service: Shared,
    words: Annotated[str, Query(max_length=200, description="Only those with all of them.")] = "",
    retired: Annotated[bool, Query(description="Also what is no longer in force.")] = False,
    limit: Annotated[int, Query(ge=1, le=_MOST_LISTED, description="The newest so many.")] = 100,
) -> Response:
    """List the lessons in force, the newest last."""

    def find(lessons: LessonMemory) -> dict[str, Any]:
        found = lessons.entries(words=words, retired=retired)
        rows = [_lesson(lessons, entry) for entry in found[-limit:]]
        return {"lessons": rows, "total": len(found)}

    return JSONResponse(await service.with_lessons(find))


@router.get("/v1/memory/{number}", responses={200: {"model": LessonRecord}})
async def show_lesson(service: Shared, number: LessonNumber) -> Response:
    """Show all that is kept of a lesson."""
    found = await service.with_lessons(lambda lessons: _lesson(lessons, _get(lessons, number)))
    return JSONResponse(found)


@router.delete("/v1/memory/{number}", responses={200: {"model": ForgottenRecord}})
async def forget_lesson(
    service: Shared,
    number: LessonNumber,
    erase: Annotated[bool, Query(description="Destroy its words too, for good.")] = False,
    author: Author = "operator",
) -> Response:
    """Take a lesson out of force; a rollback can bring it back unless it is erased.

    What it had replaced is in force again, and named as `restored`.
    """

    def forget(lessons: LessonMemory) -> dict[str, Any]:
        record = _to_forget(lessons, number, erase=erase)
        restored = lessons.forget(number, author=author, erase=erase)
        return {**record, "status": "retired", "restored": list(restored)}

    return JSONResponse(await service.with_lessons(forget))


@router.post(
    "/v1/memory/rollback",
    responses={200: {"model": RollbackRecord}},
    openapi_extra=takes(RollbackAsk),
)
async def roll_back(request: Request, service: Shared) -> Response:
    """Bring back what was in force at a time; a rollback can be rolled back too."""
    ask = validated(RollbackAsk, await read_json(request))
    try:
        when = datetime.fromisoformat(ask.to.strip()).astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise RefusalError(
            422, "time", "`to` is no time; give one such as 2026-05-03T17:30+02:00.", param="to"
        ) from error
    back, went = await service.with_lessons(lambda m: m.rollback(when, author=ask.author))
    return JSONResponse({"came_back": back, "went": went})


@router.get("/v1/fleet", responses={200: {"model": FleetRecord}})
async def show_fleet(service: Shared) -> Response:
    """Show the robots at hand, and the words that describe robots."""
    return JSONResponse(_fleet(service.fleet))


@router.put("/v1/fleet", responses={200: {"model": FleetRecord}}, openapi_extra=takes(FleetAsk))
async def replace_fleet(
    request: Request,
    service: Shared,
    check: Annotated[bool, Query(description="Only say whether it is right.")] = False,
) -> Response:
    """Replace the robots, for all requests from now on, until the server ends; the file stays as it
    is."""
    ask = validated(FleetAsk, await read_json(request))
    try:
        fleet = Fleet.from_record(ask.model_dump(), source="the fleet")
        service.replace_fleet(fleet, check=check)
    except ValueError as error:
        raise from_mistake(error, "fleet") from error
    return JSONResponse(_fleet(fleet))


@router.post(
    "/analyze",
    responses={200: {"model": AnalysisRecord}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "image": {"type": "string", "format": "binary"},
                            "instruction": {"type": "string", "maxLength": 4000},
                        },
                    }
                }
            },
        }
    },
)
async def analyze(request: Request, service: Shared) -> Response:
    """Decide as EmberVLM's server documents it: `image` and `instruction` in a form."""
    fields = await read_form(request)
    if unknown := sorted(set(fields) - {"image", "instruction"}):
        raise RefusalError(
            422,
            "invalid_request",
            f"The form has {len(unknown)} fields too many; it takes `image` and `instruction`.",
        )
    values = {"image": fields.get("image"), "task": fields.get("instruction")}
    ask = validated(Ask, values, strict=False)
    return await _answer(request, service, ask, "analysis")


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """Say that the process lives."""
    return {"status": "ok"}


@router.get("/readyz")
async def ready(service: Shared) -> Response:
    """Say whether requests are wanted: 503 from SIGTERM on."""
    if service.is_draining:
        raise stopping()
    return JSONResponse({"status": "ready"})


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {}}}},
)
async def figures(service: Shared) -> Response:
    """Give Prometheus its figures."""
    return Response(service.metrics.text(), headers={"content-type": metrics.CONTENT_TYPE})


def client_of(request: Request) -> str:
    """Return whose turn in the queue this request takes: a key's name, or an address."""
    client: str = request.state.visit.client
    return client


def note_words(request: Request, service: Service, ask: Ask) -> None:
    """Let the log know the words of a request, where that was asked for; of a photo its digest."""
    if not service.settings.log_requests:
        return
    photo = ask.image.encode() if isinstance(ask.image, str) else ask.image
    digest = hashlib.sha256(photo).hexdigest()[:16] if photo else None
    request.state.facts = {"task": ask.task, "photo": digest}


async def _answer(
    request: Request,
    service: Service,
    ask: Ask,
    form: Form,
    *,
    top_k: int | None = None,
    reasoning: bool = True,
) -> Response:
    """Let a worker decide, and pass on what it wrote."""
    check_query(request)
    note_words(request, service, ask)
    with users_mistakes():
        terms = ask.terms()
    content, timing = await service.answer(
        client_of(request),
        ask.task,
        ask.image,
        top_k=top_k,
        reasoning=reasoning,
        form=form,
        terms=terms,
    )
    headers = {"server-timing": timing.header()}
    return Response(content, media_type="application/json", headers=headers)


def _get(lessons: LessonMemory, number: int) -> MemoryEntry:
    try:
        return lessons.get(number)
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise RefusalError(404, "not_found", str(error)) from error


def _to_forget(lessons: LessonMemory, number: int, *, erase: bool) -> dict[str, Any]:
    """Return a lesson's record; to erase one once more, what is left of it."""
    try:
        return _lesson(lessons, _get(lessons, number))
    except RefusalError as unknown:
        if not erase:
            raise
        try:
            status = lessons.status(number)
        except ValueError as error:
            if type(error) is not ValueError:
                raise
            raise unknown from None
    left = {"entry_type": "erased", "content": "", "confidence": 0.0}
    return {"id": number, **left, "related_to": [], "metadata": {}, "status": status}


def _lesson(lessons: LessonMemory, entry: MemoryEntry) -> dict[str, Any]:
    return {**entry.to_dict(), "status": lessons.status(entry.id)}


def _fleet(fleet: Fleet) -> dict[str, Any]:
    vocabulary = {
        "capabilities": [*ACTIONS, *CONDITIONS],
        "environments": list(ENVIRONMENTS),
        "limits": dict(LIMIT_UNITS),
        "statuses": list(STATUSES),
        "readings": list(READINGS),
    }
    return {**fleet.to_record(), "vocabulary": vocabulary}
