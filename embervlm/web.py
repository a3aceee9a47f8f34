"""What every talk with a server goes by: who counts as this machine, how long to pause, what went
wrong."""

from __future__ import annotations

import datetime
import email.utils
import re

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
# However long a server asks one to stay away.
MAX_PAUSE_S = 120.0


def retry_after_s(value: str) -> float | None:
    """Read a Retry-After header (seconds, or a date), or None if it says nothing clear."""
    if re.fullmatch(r"\d{1,18}", value.strip()):
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())


def reason_of(error: object) -> str:
    """Return in few words what an error of the system or of a connection is."""
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
