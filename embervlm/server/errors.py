"""The one form that every refusal and fault has, which is also OpenAI's:

{"error": {"message": "One sentence.", "type": "invalid_request_error", "param": null,
           "code": "photo_unreadable", "id": "5f0c..."}}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# How an object shows itself, with its address in memory.
_OBJECT = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>")


class RefusalError(Exception):
    """A request that is not answered: with which status, why in one sentence, and a short code."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = dict(headers or {})


def error_body(refusal: RefusalError, request_id: str) -> dict[str, Any]:
    """Return the form as plain JSON values."""
    return {
        "error": {
            "message": refusal.message,
            "type": _kind(refusal.status),
            "param": refusal.param,
            "code": refusal.code,
            "id": request_id,
        }
    }


def from_mistake(error: ValueError, code: str = "invalid_request") -> RefusalError:
    """Return the refusal for a sentence that was made for the user."""
    return RefusalError(422, code, _OBJECT.sub("the data", str(error)))


def unknown_fault(request_id: str) -> RefusalError:
    """Return what a client hears of a fault of ours; the log has the rest under the id."""
    return RefusalError(
        500, "internal_error", f"Something went wrong here; the log has it under {request_id}."
    )


def _kind(status: int) -> str:
    if status in (401, 403):
        return "authentication_error" if status == 401 else "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"
