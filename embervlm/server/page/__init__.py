"""The page: one HTML file, one style sheet and a few scripts, served as they lie in this folder.

    embervlm serve          # then open http://127.0.0.1:8000/

No build step, and nothing from outside: the policy in the gate's headers lets a browser load only
what comes from here. The files answer without a key; the page asks for one and sends it with every
call. Beside them stand the routes that only a page needs: the fleet as the text of a YAML file, and
which parts of a photo counted.
"""

from __future__ import annotations

from functools import partial
from importlib import resources
from typing import Annotated, Any

import yaml
from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from embervlm.fleet import Fleet
from embervlm.server.bodies import MAX_PARTS, read_record
from embervlm.server.errors import RefusalError, from_mistake
from embervlm.server.records import Ask, Record
from embervlm.server.routes import JSON_OR_FORM, Shared, client_of, note_words, takes

router = APIRouter(default_response_class=JSONResponse)

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}
_EXAMPLE_PHOTO = "seabed.jpg"
# YAML is slow to read: a megabyte of it can take minutes, and what is allowed here some tenths of a
# second.
_MAX_FLEET_CHARACTERS = 200_000


class OcclusionAsk(Ask):
    """What /v1/occlusion takes: the request again, with its photo."""


class OcclusionRecord(BaseModel):
    """Which parts counted; see embervlm.occlusion.Occlusion."""

    robots: list[str]
    chance: float
    drops: list[list[float]]


class FleetTextAsk(Record):
    """What PUT /v1/fleet/text takes."""

    text: str = Field(max_length=_MAX_FLEET_CHARACTERS, description="A fleet file, YAML.")


class FleetTextRecord(BaseModel):
    """A fleet file, and the robots in it."""

    text: str
    robots: list[str]


def _load() -> dict[str, tuple[str, bytes]]:
    """Return address -> (media type, bytes) of all that the page consists of."""
    files = {}
    folder = resources.files(__name__)
    for file in folder.iterdir():
        kind = _KINDS.get("." + file.name.rpartition(".")[2])
        if kind is not None:
            path = "/" if file.name == "page.html" else f"/page/{file.name}"
            files[path] = kind, file.read_bytes()
    photo = resources.files("embervlm").joinpath("demo", _EXAMPLE_PHOTO)
    files[f"/page/{_EXAMPLE_PHOTO}"] = _KINDS[".jpg"], photo.read_bytes()
    return files


_FILES = _load()
PATHS = frozenset(_FILES)


async def show_file(request: Request) -> Response:
    """Send a file of the page."""
    kind, content = _FILES[request.scope["path"]]
    return Response(content, headers={"content-type": kind, "cache-control": "no-cache"})


for _path in sorted(PATHS):
    router.add_api_route(_path, show_file, methods=["GET"], include_in_schema=False)


@router.post(
    "/v1/occlusion",
    responses={200: {"model": OcclusionRecord}},
    openapi_extra=takes(OcclusionAsk, *JSON_OR_FORM),
)
async def occlude(request: Request, service: Shared) -> Response:
    """Say which parts of the photo counted, by covering each; takes as long as 26 decisions."""
    ask = await read_record(request, OcclusionAsk)
    note_words(request, service, ask)
    found, timing = await service.occlude(client_of(request), ask.scenario)
    return JSONResponse(found.to_dict(), headers={"server-timing": timing.header()})


@router.get("/v1/fleet/text", responses={200: {"model": FleetTextRecord}})
async def show_fleet_text(service: Shared) -> Response:
    """Show the robots at hand as the text of a fleet file."""
    return JSONResponse(_as_text(service.fleet))


@router.put(
    "/v1/fleet/text",
    responses={200: {"model": FleetTextRecord}},
    openapi_extra=takes(FleetTextAsk),
)
async def replace_fleet_text(
    request: Request,
    service: Shared,
    check: Annotated[bool, Query(description="Only say whether it is right.")] = False,
) -> Response:
    """Replace the robots by those of a fleet file's text, until the server ends."""
    ask = await read_record(request, FleetTextAsk)
    if sum(ask.text.count(mark) for mark in ",:-[{\n") > MAX_PARTS:
        raise RefusalError(
            422, "fleet", f"The fleet has more than {MAX_PARTS:,} parts; give --fleet its file."
        )
    try:
        fleet = await to_thread.run_sync(partial(Fleet.from_text, ask.text, source="The fleet"))
        service.replace_fleet(fleet, check=check)
    except ValueError as error:
        raise from_mistake(error, "fleet") from error
    return JSONResponse(_as_text(fleet))


def _as_text(fleet: Fleet) -> dict[str, Any]:
    """Return the fleet's names, and its file: each robot a block, lists and limits on one line."""
    record = fleet.to_record()
    for robot in record["robots"]:
        robot["limits"] = {key: _short(value) for key, value in robot["limits"].items()}
        if "speed_kmh" in robot:
            robot["speed_kmh"] = _short(robot["speed_kmh"])
    text = yaml.safe_dump(
        record, sort_keys=False, allow_unicode=True, default_flow_style=None, width=200
    )
    return {"text": text, "robots": list(fleet.names)}


def _short(value: float) -> float:
    """Return 5 for 5.0, as people write it."""
    return int(value) if value.is_integer() else value
