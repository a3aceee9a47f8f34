"""Where lessons lie unless told otherwise: `lessons.sqlite` in EMBERVLM_HOME.

Without that variable it is the folder that the system keeps for a user's data: XDG_DATA_HOME or
~/.local/share (XDG Base Directory Specification 0.8), ~/Library/Application Support, %APPDATA%.
Told otherwise, they lie in another file, or at an address in PostgreSQL.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

LESSONS_FILE = "lessons.sqlite"


def home(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Return the folder of what embervlm keeps for this user; it need not be there yet.

    Raises:
        ValueError: no variable names it, and the user has no home folder.
    """
    if chosen := environment.get("EMBERVLM_HOME"):
        return Path(chosen)
    if platform == "win32":
        return Path(environment.get("APPDATA") or _user() / "AppData/Roaming") / "embervlm"
    if platform == "darwin":
        return _user() / "Library/Application Support/embervlm"
    # The specification: a path that is not absolute is to be ignored.
    told = environment.get("XDG_DATA_HOME", "")
    return (Path(told) if told.startswith("/") else _user() / ".local/share") / "embervlm"


def lessons_path() -> Path:
    """Return the path of this user's lessons; it need not be there yet.

    Raises:
        ValueError: the user has no home folder.
    """
    return home() / LESSONS_FILE


def is_address(place: str | Path) -> bool:
    """Say whether lessons at this place lie in PostgreSQL and not in a file.

    >>> is_address("postgresql://ember@localhost/fleet"), is_address("postgresql.sqlite")
    (True, False)
    """
    return str(place).startswith(("postgresql:", "postgres:"))


def may_be_there(place: str | Path) -> bool:
    """Say whether a store may be at a place: its file is there, or it is an address."""
    return is_address(place) or Path(place).exists()


def _user() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:  # a user by number alone, as in some containers
        raise ValueError(
            "There is no home folder for lessons; set EMBERVLM_HOME, or give --memory F.sqlite."
        ) from error
