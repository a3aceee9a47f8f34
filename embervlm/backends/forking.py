"""Locks of backends in a forked process: whoever held one of them is not in it.

self._lock = Lock()
free_in_a_fork(self)
"""

from __future__ import annotations

import os
from threading import Lock
from typing import Any
from weakref import WeakSet

_OPEN: WeakSet[Any] = WeakSet()


def free_in_a_fork(backend: Any) -> None:
    """Give a backend's `_lock` anew to every process that is forked from this one."""
    _OPEN.add(backend)


def _free() -> None:
    for backend in _OPEN:
        backend._lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free)
