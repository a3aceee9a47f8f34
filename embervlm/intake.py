"""How a request comes in: as the words of a command line, or as a line of JSON.

    sort_words("flood.jpg", "reach the people on the roof", None, None)
    decide_line(selector, 1, b'{"id": 7, "task": "look at the roof", "image": null}', Path())

The command line and the folder for a Raspberry Pi (`export.package`) share these.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from embervlm.scenario import Scenario

if TYPE_CHECKING:
    from embervlm.selector import Selector

# A request has at most 4,000 characters, a path a few hundred; escaped as JSON that is below this.
MAX_LINE_BYTES = 100_000

# What json.loads makes of 1e400, and json.dumps could not write.
_ENDLESS = (float("inf"), float("-inf"))

# Also formats that `imaging` refuses: its sentence says what to do, while as a request "photo.gif"
# would be decided.
_PHOTO_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".heic",
    ".avif",
)


def sort_words(
    photo: str | None, request: str | None, image: str | None, task: str | None
) -> tuple[str | None, str | None]:
    """Return the photo and the request, whichever of the four ways they were given in.

    A single word is a photo if it names a file or ends like one, else the request.

    Raises:
        ValueError: one of them was given twice, or both words are photos.
    """
    for word in (photo, request):
        if word is None:
            continue
        is_photo = looks_like_photo(word)
        if word is photo and request is not None and task is None and image is None:
            # Two words: the photo stands first, unless only the second looks like one.
            is_photo = is_photo or not looks_like_photo(request)
        if is_photo and image is None:
            image = word
        elif not is_photo and task is None:
            task = word
        else:
            raise ValueError(
                "One photo and one request at most: something was given twice. A request that "
                "names a file goes behind --task."
            )
    return image, None if task is None else _encodable(task)


def looks_like_photo(word: str) -> bool:
    """Say whether a word names an existing file or ends in the suffix of a usual format."""
    return word.lower().endswith(_PHOTO_SUFFIXES) or os.path.isfile(word)


def numbered_lines(lines: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not empty, each cut one byte above the limit, with their numbers."""
    number = 0
    while line := lines.readline(MAX_LINE_BYTES + 1):
        number += 1
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = lines.readline(MAX_LINE_BYTES + 1)
        if line.strip():
            yield number, line


def decide_line(
    selector: Selector,
    number: int,
    line: bytes,
    folder: Path,
    *,
    top_k: int | None,
    reasoning: bool,
) -> dict[str, Any]:
    """Return the decision for one line, or its error, with the line's id.

    The path of its photo counts from `folder`.
    """
    name = None
    try:
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"longer than {MAX_LINE_BYTES:,} bytes; shorten it.")
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON ({' '.join(str(error).split())[:80]}).") from error
        if not isinstance(row, dict):
            raise ValueError("not a JSON object; expected id, task and image.")
        name = row.get("id")
        if isinstance(name, bool) or not isinstance(name, str | int | float) or name in _ENDLESS:
            name = None
            raise ValueError("no `id`; give each line a text or a number.")
        task, image = row.get("task"), row.get("image")
        if image is not None and not isinstance(image, str):
            raise ValueError(f"`image` must be a path or null, not {type(image).__name__}.")
        if image and "://" not in image:
            image = str(folder / image)
        scenario = Scenario(task=task, image=image)
        decision = selector.decide(scenario, top_k=top_k, reasoning=reasoning)
    # The one place that may catch everything: a fault of ours on one line must not lose the others.
    except Exception as error:  # noqa: BLE001
        sentence = str(error) if isinstance(error, ValueError) else f"internal error: {error!r}"
        return {"id": name, "error": f"line {number}: {sentence}"}
    return {"id": name, **decision.to_dict()}


def _refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which json.loads takes though JSON has no such numbers."""
    raise ValueError(f"{name} is no number of JSON")


def _encodable(words: str) -> str:
    """Return a text without the lone surrogates that bytes outside UTF-8 become in arguments."""
    return words.encode("utf-8", errors="replace").decode("utf-8")
