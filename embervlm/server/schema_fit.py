"""A decision in the shape that a client's JSON schema asks for (`response_format` json_schema).

The decision has fixed fields; a schema chooses among them and says what each must be. What the
schema does not name is left out, what it demands and a decision lacks is an error, and so is every
keyword that is not listed here, rather than one that is silently not kept. No address in a `$ref`
is ever opened, and patterns, which can be made to run for ever, are refused.

    >>> schema = {"type": "object", "properties": {"primary": {"enum": ["Drone", "No Robot"]}}}
    >>> fit({"primary": "Drone", "confidence": 0.9}, schema)
    {'primary': 'Drone'}
"""

from __future__ import annotations

from typing import Any

_NOTES = (
    "$schema $id $defs definitions title description default examples format deprecated strict"
).split()
_BOUNDS = (
    "minimum maximum exclusiveMinimum exclusiveMaximum minItems maxItems minLength maxLength"
).split()
# Each leaves something out, so that two of them would see what the other left.
_ANOTHER = "$ref anyOf oneOf allOf".split()
_PARTS = "properties additionalProperties items maxItems".split()
_RULES = [*_ANOTHER, *_PARTS, *_BOUNDS, *"type required enum const nullable".split()]
_MOST_STEPS = 5000


def fit(record: dict[str, Any], schema: Any) -> Any:
    """Return the part of a record that a schema asks for.

    Raises:
        ValueError: the schema cannot be met; says by which field, and why.
    """
    return _Fitter(schema).fit(record, schema, "")


class _Fitter:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._steps = 0

    def fit(self, value: Any, schema: Any, path: str) -> Any:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise ValueError("The schema goes round in circles or is too long; simplify it.")
        if schema is True:
            return value
        if not isinstance(schema, dict):
            raise ValueError(f"The schema of {_named(path)} is no object; give one.")
        for key in schema:
            if key not in _RULES and key not in _NOTES:
                raise ValueError(
                    f"The schema's keyword {key[:40]!r} is not supported; take it out."
                )
        _check_alone(schema, path)
        if "$ref" in schema:
            return self.fit(value, self._target(schema["$ref"]), path)
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                value = self._first_that_fits(value, _listed(schema[key], key), path)
        _check_type(value, schema, path)
        if isinstance(value, dict):
            value = self._object(value, schema, path)
        if isinstance(value, list):
            value = self._list(value, schema, path)
        if "enum" in schema and _marked(value) not in map(_marked, _listed(schema["enum"], "enum")):
            raise ValueError(f"The schema's enum of {_named(path)} lacks {value!r}; add it.")
        if "const" in schema and _marked(value) != _marked(schema["const"]):
            raise ValueError(f"{_named(path)} is {value!r}, which the schema's const forbids.")
        _check_bounds(value, schema, path)
        return value

    def _object(self, value: dict[str, Any], schema: dict[str, Any], path: str) -> dict[str, Any]:
        # Without properties all is asked for that may be there.
        rest = schema.get("additionalProperties", True)
        properties = schema.get("properties", {} if rest is False else dict.fromkeys(value, rest))
        if not isinstance(properties, dict):
            raise ValueError(f"The schema's properties of {_named(path)} are no object.")
        found = {
            name: self.fit(value[name], inner, f"{path}.{name}" if path else name)
            for name, inner in properties.items()
            if name in value
        }
        for name in _listed(schema.get("required", []), "required"):
            if name not in found:
                raise ValueError(
                    f"The schema requires {str(name)[:40]!r}, which {_named(path)} lacks; there "
                    f"are {', '.join(value)}."
                )
        return found

    def _list(self, value: list[Any], schema: dict[str, Any], path: str) -> list[Any]:
        # The best stand in front, so a shorter list is still an answer.
        most = schema.get("maxItems")
        if isinstance(most, int) and most >= 0:
            value = value[:most]
        if "items" in schema:
            value = [self.fit(item, schema["items"], f"{path}[]") for item in value]
        return value

    def _first_that_fits(self, value: Any, options: list[Any], path: str) -> Any:
        why = f"The schema gives {_named(path)} no choice."
        for option in options:
            try:
                return self.fit(value, option, path)
            except ValueError as error:
                why = str(error)
        raise ValueError(why)

    def _target(self, reference: Any) -> Any:
        found = self._root
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise ValueError("A $ref of the schema leads elsewhere; define it within the schema.")
        for part in reference.removeprefix("#").split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or part not in found:
                raise ValueError("A $ref of the schema leads nowhere; define what it names.")
            found = found[part]
        return found


def _check_alone(schema: dict[str, Any], path: str) -> None:
    """Refuse what beside another schema would be lost."""
    others = [key for key in _ANOTHER if key in schema]
    if not others:
        return
    beside = [*others[1:], *(key for key in _PARTS if key in schema)]
    if others[0] == "$ref":
        beside = [key for key in schema if key in _RULES and key != "$ref"]
    if beside:
        raise ValueError(
            f"The schema of {_named(path)} has {beside[0]!r} beside {others[0]!r}, which cannot "
            "both be kept; write them as one."
        )
    if len(_listed(schema.get("allOf", []), "allOf")) > 1:
        raise ValueError(
            f"The schema's allOf of {_named(path)} has several parts; write them as one."
        )


def _check_type(value: Any, schema: dict[str, Any], path: str) -> None:
    wanted = schema.get("type")
    if wanted is None or (value is None and schema.get("nullable") is True):
        return
    kinds = wanted if isinstance(wanted, list) else [wanted]
    if not any(_is_kind(value, kind) for kind in kinds):
        has = next(kind for kind in _KINDS if _is_kind(value, kind))
        raise ValueError(f"{_named(path)} is of type {has}, which the schema does not allow.")


def _check_bounds(value: Any, schema: dict[str, Any], path: str) -> None:
    bounds = {key: schema[key] for key in _BOUNDS if key in schema}
    for key, bound in bounds.items():
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise ValueError(f"The schema's {key} of {_named(path)} is no number; give one.")
    above, below = bounds.get("exclusiveMinimum"), bounds.get("exclusiveMaximum")
    low, high, size = bounds.get("minimum"), bounds.get("maximum"), value
    if isinstance(value, list | str):
        unit = "Items" if isinstance(value, list) else "Length"
        above = below = None
        low, high, size = bounds.get(f"min{unit}"), bounds.get(f"max{unit}"), len(value)
    if isinstance(size, bool) or not isinstance(size, int | float):
        return
    if (
        (low is not None and size < low)
        or (high is not None and size > high)
        or (above is not None and size <= above)
        or (below is not None and size >= below)
    ):
        raise ValueError(f"{_named(path)} lies outside the schema's bounds; widen them.")


_KINDS = ("null", "boolean", "integer", "number", "string", "array", "object")


def _is_kind(value: Any, kind: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return bool(kind == ("null" if value is None else "boolean"))
    types: dict[Any, Any] = {"string": str, "array": list, "object": dict, "number": (int, float)}
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(kind, str) and kind in types and isinstance(value, types[kind])


def _marked(value: Any) -> Any:
    """Return a value with its booleans told from numbers; Python holds 1 and True for equal."""
    if isinstance(value, dict):
        return {key: _marked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_marked(inner) for inner in value]
    return isinstance(value, bool), value


def _listed(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"The schema's {key} is no list; give one.")
    return value


def _named(path: str) -> str:
    return f"`{path[:80]}`" if path else "the decision"
