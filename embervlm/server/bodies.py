"""Bodies of requests, read strictly: JSON or a form, never both, never more than was asked for.
So is the query of an address.

JSON is refused with duplicate keys, NaN, numbers of thousands of digits, nesting deeper than
`MAX_DEPTH`, or so many parts that they would fill the memory (`[[],[],...` takes twenty times its
own size). Forms stay in memory; the photo is a file in them, a list is a field for each of its
values, and a mapping is JSON.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Collection
from typing import Any, NoReturn, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from embervlm.server.errors import RefusalError

MAX_DEPTH = 32
MAX_PARTS = 20_000
_MAX_FIELDS = 300  # of two lists with 100 names, and the rest
_MAX_FIELD_BYTES = 200_000

Model = TypeVar("Model", bound=BaseModel)


class _FormParser(MultiPartParser):
    # A body has its limit already; nothing is written to a disk that may be read-only.
    spool_max_size = 1 << 30


async def read_json(request: Request) -> Any:
    """Return the JSON value of a body.

    Raises:
        RefusalError: it is another kind of body, or no JSON that is accepted.
    """
    if _media_type(request) != "application/json":
        raise RefusalError(
            415, "media_type", "The body must be JSON, with Content-Type: application/json."
        )
    # The gate has it; Starlette would ask for it part by part.
    return parse_json(request.scope["state"]["body"])


def parse_json(body: bytes) -> Any:
    """Parse JSON from a stranger.

    Raises:
        RefusalError: it is no JSON that is accepted.
    """
    if _has_too_many_parts(body):
        _no_json(f"it has more than {MAX_PARTS:,} parts")
    if body.startswith(codecs.BOM_UTF8):
        _no_json("it begins with a byte order mark; leave that out")
    try:
        # As text: given bytes, json would take UTF-16 and UTF-32 too.
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_constant
        )
    except RecursionError:
        _no_json(f"it is nested deeper than {MAX_DEPTH} levels")
    except UnicodeDecodeError:
        _no_json("it is not UTF-8")
    except json.JSONDecodeError as error:
        _no_json(f"{error.msg.lower()} at character {error.pos:,}")
    except ValueError:
        _no_json("a number in it has too many digits")
    if _depth(value) > MAX_DEPTH:
        _no_json(f"it is nested deeper than {MAX_DEPTH} levels")
    return value


async def read_form(request: Request, lists: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of a multipart form; a file is its bytes, what is named in `lists` a list.

    Raises:
        RefusalError: it is another kind of body, or a broken or overlong form.
    """
    if _media_type(request) != "multipart/form-data":
        raise RefusalError(
            415, "media_type", "The body must be a form, with Content-Type: multipart/form-data."
        )
    parser = _FormParser(
        request.headers,
        request.stream(),
        max_files=1,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RefusalError(422, "form_broken", "The form cannot be read; send it again.") from error
    # What a header of a part may hold, and its charset, is the client's word: all of it may be
    # wrong.
    except (KeyError, ValueError, LookupError) as error:
        raise RefusalError(422, "form_broken", "The form cannot be read; send it again.") from error
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        content = await value.read() if isinstance(value, UploadFile) else value
        if name in lists:
            fields.setdefault(name, []).append(content)
            continue
        if name in fields:
            raise RefusalError(422, "duplicate", "A field is in the form twice; leave one out.")
        fields[name] = content
    await form.close()
    return fields


async def read_record(request: Request, model: type[Model]) -> Model:
    """Return a record from a JSON body or a form.

    Raises:
        RefusalError: the body or a value in it is not as expected.
    """
    if _media_type(request) != "multipart/form-data":
        return validated(model, await read_json(request))
    lists = [
        name for name, field in model.model_fields.items() if get_origin(field.annotation) is list
    ]
    values = await read_form(request, lists)
    for name, field in model.model_fields.items():
        if name in values and _is_mapping(field.annotation):
            values[name] = _json_field(name, values[name])
    return validated(model, values, strict=False)


def check_query(request: Request, known: Collection[str] = ()) -> None:
    """Refuse a name in an address's query that the route does not know.

    Raises:
        RefusalError: names the first one.
    """
    if request.scope["query_string"]:
        for name in request.query_params:
            if name not in known:
                raise wrong_value(("query", name), "extra_forbidden", "")


def validated(model: type[Model], values: Any, *, strict: bool = True) -> Model:
    """Return a record of these values.

    Raises:
        RefusalError: names the first value that is wrong, and what was expected.
    """
    try:
        return model.model_validate(values, strict=strict)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise wrong_value(first["loc"], first["type"], first["msg"]) from error


def wrong_value(place: tuple[int | str, ...], kind: str, why: str) -> RefusalError:
    """Return the refusal of a value; a name in it that the client made up is shortened."""
    param = ".".join(str(part)[:40] for part in place)
    param = "".join(char if char.isprintable() else "?" for char in param)[:120]
    why = why.removeprefix("Value error, ").rstrip(".")
    if kind == "extra_forbidden":
        why = "there is no such key; leave it out"
    if kind == "model_type":
        why = "expected an object with named values"
    where = f"`{param}`: " if param else "The body: "
    return RefusalError(422, "invalid_request", f"{where}{why}.", param=param or None)


def _is_mapping(kind: Any) -> bool:
    """Say whether a field holds a record of its own, or may."""
    kinds = get_args(kind) or (kind,)
    return any(isinstance(one, type) and issubclass(one, BaseModel) for one in kinds)


def _json_field(name: str, content: str | bytes) -> Any:
    try:
        return parse_json(content if isinstance(content, bytes) else content.encode())
    except RefusalError as error:
        raise wrong_value((name,), "json", "expected JSON, a mapping") from error


def _media_type(request: Request) -> str:
    kind: str = request.scope["state"]["visit"].header("content-type") or ""
    return kind.partition(";")[0].strip().lower()


def _has_too_many_parts(body: bytes) -> bool:
    """Say whether there are more marks than `MAX_PARTS`; a photo has none and is passed at once."""
    found = 0
    for mark in (b",", b"[", b"{", b":"):
        place = body.find(mark)
        while place >= 0:
            found += 1
            if found > MAX_PARTS:
                return True
            place = body.find(mark, place + 1)
    return False


def _no_json(why: str) -> NoReturn:
    raise RefusalError(422, "json_broken", f"The body is not JSON that is accepted: {why}.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        _no_json("a key is in it twice")
    return found


def _constant(_: str) -> NoReturn:
    _no_json("NaN and Infinity are no numbers here")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH + 1:
        inner = (list(v.values()) if isinstance(v, dict) else v for v in level)
        level = [item for v in inner if isinstance(v, list) for item in v]
        depth += 1
    return depth
