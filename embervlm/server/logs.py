"""The log: one JSON object a line on stderr, without photos and, unless asked for, without words.

    {"time": "...", "level": "info", "event": "request", "id": "5f0c...", "route": "/v1/select",
     "status": 200, "ms": 14.2, "client": "control-room"}

Line ends, colours and signs that turn the writing round are escaped by JSON, so that no request can
write a line of its own.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

LOGGER = logging.getLogger("embervlm.server")
_MOST_FRAMES = 12
_written = json.JSONEncoder(default=str).encode


def log(event: str, *, level: int = logging.INFO, **facts: Any) -> None:
    """Write an event with its facts."""
    if LOGGER.isEnabledFor(level):
        # Not LOGGER.log, which walks the stack for the caller's line: every request is an event.
        record = LOGGER.makeRecord(LOGGER.name, level, "", 0, event, (), None)
        record.facts = facts
        LOGGER.handle(record)


def log_fault(error: BaseException, request_id: str, *, words: bool) -> None:
    """Write where an exception came from; what it says, which may quote a request, only with
    `words`."""
    facts = {"id": request_id, "kind": type(error).__name__, "at": frames_of(error.__traceback__)}
    if words:
        facts["message"] = str(error)[:1000]
    log("fault", level=logging.ERROR, **facts)


def log_to_stderr() -> None:
    """Send this server's events to stderr as JSON, and the warnings of everything else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    LOGGER.setLevel(logging.INFO)
    # What a record would ask the system for, and no line tells (logging, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        row = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            row["kind"] = type(record.exc_info[1]).__name__
            row["at"] = frames_of(record.exc_info[2])
        return _written(row)


def frames_of(trace: TracebackType | None) -> list[str]:
    """Return where an exception came from, without what it says."""
    frames = traceback.extract_tb(trace)[-_MOST_FRAMES:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
