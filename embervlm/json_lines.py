"""Lines of a JSON Lines file: they end at a line feed and nowhere else.

`str.splitlines` cuts at U+0085, U+2028 and U+2029 too, which JSON leaves as they are in a text, so
that a request with one of them would be torn in two.

    for number, line in json_lines("data/scenarios.jsonl"):
        row = json.loads(line)
"""

from __future__ import annotations

from pathlib import Path


def json_lines(path: str | Path, errors: str = "strict") -> list[tuple[int, str]]:
    """Return the lines of a UTF-8 file that are not empty, each with its number from 1 on.

    `errors` says what becomes of other bytes, as in `bytes.decode`.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is not UTF-8, and `errors` is strict.
    """
    lines = Path(path).read_text("utf-8", errors).split("\n")
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
