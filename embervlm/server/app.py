"""The app: `create_app(selector)` gives an ASGI app with every route, behind the gate.

    app = create_app(EmberVLM.from_pretrained())
    uvicorn.run(app)                                   # or embervlm serve, which also drains

Other routes go to `app.fastapi`; paths that answer without a key to `open_paths`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

import embervlm
from embervlm.backends.base import Backend
from embervlm.selector import Selector
from embervlm.server import chat, page, routes
from embervlm.server.bodies import wrong_value
from embervlm.server.errors import RefusalError, error_body, unknown_fault
from embervlm.server.gate import OPEN_PATHS, Gate
from embervlm.server.records import ErrorRecord
from embervlm.server.service import Service
from embervlm.server.settings import ServerSettings
from embervlm.server.workers import LocalWorker, Worker

_SENTENCES = {
    404: ("not_found", "There is no such path here; GET /openapi.json lists them."),
    405: ("method", "This path does not take that method; GET /openapi.json lists them."),
}


# What is asked most: path -> the function of its POST.
_DIRECT: Mapping[str, Callable[[Request, Service], Awaitable[Response]]] = {
    "/v1/select": routes.select,
    "/v1/plan": routes.plan,
    "/analyze": routes.analyze,
    "/v1/chat/completions": chat.complete,
}


class App:
    """The ASGI app: the gate, then FastAPI. `service` is what the routes share."""

    def __init__(self, fastapi: FastAPI, service: Service, open_paths: Iterable[str]) -> None:
        self.fastapi = fastapi
        self.service = service
        self.gate = Gate(self._route, service, open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event; see the ASGI specification."""
        await self.gate(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call what is asked most at once, the rest by way of FastAPI, whose steps round each
        request (six middlewares, an exit stack, the dependencies) take longer than its answer."""
        call = _DIRECT.get(scope["path"]) if scope.get("method") == "POST" else None
        if call is None:
            await self.fastapi(scope, receive, send)
            return
        scope["route"] = _Named(scope["path"])
        request = Request(scope, receive, send)
        try:
            response = await call(request, self.service)
        except RefusalError as refusal:
            response = _answer(request, refusal)
        # As Starlette does: the client gets a 500 of ours, the gate's log the exception.
        except Exception as error:
            await (await _fault(request, error))(scope, receive, send)
            raise
        await response(scope, receive, send)


@dataclass(frozen=True)
class _Named:
    """What the gate's figures and log want to know of a route."""

    path: str


class _Routes(FastAPI):
    """FastAPI, whose schema of all this also has what the bodies are made of, and the key."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI schema; a reference of a body leads to the shared components."""
        if self.openapi_schema is None:
            schema = super().openapi()
            shared = schema["components"]["schemas"]
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    for content in operation.get("requestBody", {}).get("content", {}).values():
                        shared.update(content["schema"].pop("$defs", {}))
                    if path not in OPEN_PATHS and self.state.service.settings.keys:
                        operation["security"] = [{"key": []}]
            key = {"type": "http", "scheme": "bearer", "description": "Of --api-key-file."}
            schema["components"]["securitySchemes"] = {"key": key}
            self.openapi_schema = schema
        return self.openapi_schema


def create_app(
    selector: Selector,
    settings: ServerSettings | None = None,
    *,
    backends: Sequence[Backend] = (),
    workers: Sequence[Worker] = (),
    open_paths: Iterable[str] = (),
) -> App:
    """Return the server for a selector.

    Args:
        selector: its fleet is the first one, its lessons are kept and followed.
        settings: None are those of `ServerSettings`: no key, so for this machine alone.
        backends: more engines of the same model; each adds a worker.
        workers: who does the jobs instead of the engines of this process; see `replicas`.
        open_paths: what answers without a key beside /healthz, /readyz and the page's files.
    """
    engines = [LocalWorker(backend) for backend in (selector.backend, *backends)]
    service = Service(selector, workers or engines, settings or ServerSettings())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    fastapi = _Routes(
        title="embervlm",
        version=embervlm.__version__,
        description="Decides which robots to send, from a photo and a request.",
        docs_url=None,
        redoc_url=None,
        # It would send the client to an address made from the Host header.
        redirect_slashes=False,
        dependencies=[Depends(routes.known_query)],
        lifespan=lifespan,
        responses={"default": {"model": ErrorRecord, "description": "Why there is no answer."}},
    )
    fastapi.state.service = service
    fastapi.add_exception_handler(RefusalError, _refusal)
    fastapi.add_exception_handler(RequestValidationError, _wrong_value)
    fastapi.add_exception_handler(HTTPException, _http_error)
    fastapi.add_exception_handler(Exception, _fault)
    fastapi.include_router(routes.router)
    fastapi.include_router(chat.router)
    fastapi.include_router(page.router)
    return App(fastapi, service, page.PATHS.union(open_paths))


def _answer(request: Request, refusal: RefusalError) -> JSONResponse:
    body = error_body(refusal, request.state.id)
    return JSONResponse(body, status_code=refusal.status, headers=refusal.headers)


async def _refusal(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusalError)
    return _answer(request, error)


async def _wrong_value(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _answer(request, wrong_value(tuple(first["loc"]), first["type"], first["msg"]))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code, sentence = _SENTENCES.get(error.status_code, ("http", "This request cannot be served."))
    headers = dict(error.headers or {})
    return _answer(request, RefusalError(error.status_code, code, sentence, headers=headers))


async def _fault(request: Request, _: Exception) -> JSONResponse:
    return _answer(request, unknown_fault(request.state.id))
