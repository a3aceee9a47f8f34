"""One writer at a time, over all threads and processes that write the same store.

SQLite has its own locks, but up to 3.51.2 a commit could meet another connection's checkpoint in a
way that damages a database in WAL mode (sqlite.org/wal.html, "the WAL-reset bug"), and Debian 12
has 3.40. A checkpoint runs inside the commit that causes it, so a lock around each commit keeps
them apart. It lies in a file of its own: to close the database's file a second time would drop
SQLite's locks.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from embervlm.memory.protocol import StoreFaultError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_PAUSE_S = 0.002
_NOTHING = nullcontext()


@contextmanager
def locked(
    path: Path, timeout_s: float, guard: AbstractContextManager[Any] = _NOTHING
) -> Iterator[None]:
    """Hold the lock file `path`, which is made if it is not there and stays, and with it `guard`.

    While the file is waited for, `guard` is let go: whoever wants that alone goes on.

    Raises:
        StoreFaultError: somebody else has held it for `timeout_s` seconds.
        OSError: the file cannot be written.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        ends = time.monotonic() + timeout_s
        while True:
            with guard:
                if _try(file):
                    try:
                        yield
                        return
                    finally:
                        _give_back(file)
            if time.monotonic() > ends:
                raise StoreFaultError(
                    f"{path} has been held by another process for {timeout_s:g} s; try again, or "
                    "end that process."
                )
            time.sleep(_PAUSE_S)
    finally:
        # The end of the process gives the lock back too.
        os.close(file)


def _try(file: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _give_back(file: int) -> None:
    """Let go of the lock; closing alone does not where a process was forked meanwhile, which has
    the file open too."""
    if sys.platform == "win32":
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_UN)
