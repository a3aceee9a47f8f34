"""Show the `>>>` examples of docstrings as code, where Markdown would take them for quotations.

An extension of griffe, which reads the docstrings for the site's reference.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

# From a line with >>> to the next empty line. One that is indented is code to Markdown already.
_EXAMPLE = re.compile(r"^>>> .*(?:\n.*\S.*)*", re.MULTILINE)


def fenced(text: str) -> str:
    """Return a docstring with a fence, ```pycon, around each example."""
    return _EXAMPLE.sub(lambda match: f"```pycon\n{match[0]}\n```", text)


class Doctests(griffe.Extension):
    """Puts every docstring of what is read through `fenced`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
