"""What was asked, as it came, and the scenario that it is: read where it is decided, so that the
loop that all clients share never decodes a photo.

    scenario_of("look at the roof", "data:image/jpeg;base64,/9j/4AAQ...")
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass

from embervlm.live import FleetState
from embervlm.scenario import Scenario

_DATA_URI = re.compile(r"data:image/(?:jpeg|jpg|png|webp);base64,", re.IGNORECASE)


@dataclass(frozen=True)
class Terms:
    """What holds for one request alone, as `Selector.decide` takes it: the robots as they are now,
    whom to leave out, whom to send in any case."""

    state: FleetState | None = None
    exclude: tuple[str, ...] = ()
    require: tuple[str, ...] = ()


NO_TERMS = Terms()


def scenario_of(task: str | None, image: str | bytes | None) -> Scenario:
    """Return the request as the selector takes it; a text is the photo in base64.

    Raises:
        ValueError: nothing was asked, or the photo is no base64 or empty.
    """
    photo = decode_photo(image) if isinstance(image, str) else image
    if photo is not None and not photo:
        raise ValueError("The photo is empty; give its file again, or leave it out.")
    return Scenario(task=task, image=photo)


def decode_photo(text: str) -> bytes:
    """Return the bytes of a photo given as base64, in lines or not, or as a data URI.

    Raises:
        ValueError: it is an address, or no base64.
    """
    if found := _DATA_URI.match(text):
        text = text[found.end() :]
    elif ":" in text[:200]:
        raise ValueError(
            "The photo must be base64, or a data URI of a JPEG, PNG or WebP file; addresses are "
            "never fetched."
        )
    text = text.replace("\r", "").replace("\n", "")
    try:
        if len(text) % 4:
            raise binascii.Error("not whole groups of four")
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("The photo is not base64; encode the file's bytes again.") from error
