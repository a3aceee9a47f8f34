"""A real PostgreSQL for tests: a cluster of its own on a Unix socket, or the reason why not."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER = "ember"


class NoServerError(Exception):
    """PostgreSQL cannot be run here; the message says why."""


@dataclass(frozen=True)
class Server:
    """A running cluster in `folder`; `programs` holds initdb and pg_ctl."""

    folder: Path
    programs: Path
    account: dict[str, Any]

    def address(self, user: str = USER, database: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def control(self, action: str, *flags: str) -> None:
        """Run pg_ctl and wait for it. fsync stays on: what is tested is that nothing is lost."""
        self.run("pg_ctl", action, "-D", str(self.folder / "data"), "-w", *flags)

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}'"
        self.control("start", "-l", str(self.folder / "log"), "-o", options)

    def run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [str(self.programs / program), *words], cwd=self.folder, **self.account,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            text=True, check=False, timeout=120,
        )  # fmt: skip
        if done.returncode:
            raise NoServerError(f"{program} {words[0]} failed: {done.stderr.strip()[-300:]}")


def programs() -> Path:
    """Return the folder of PostgreSQL's programs: of PATH's initdb, else Debian's newest."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not debian:
        raise NoServerError("there is no PostgreSQL on this machine (no initdb)")
    return debian[-1].parent


def account() -> dict[str, Any]:
    """Return as whom the server runs: it refuses to run as root."""
    if os.geteuid():
        return {}
    names = {one.pw_name: one for one in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in names:
            return {"user": names[name].pw_uid, "group": names[name].pw_gid, "extra_groups": []}
    raise NoServerError("root cannot run PostgreSQL, and there is no user postgres or nobody")


@contextmanager
def running() -> Iterator[Server]:
    """Yield a fresh cluster that is running.

    Raises:
        NoServerError: this machine cannot; see the message.
    """
    # Not under pytest's folder, which the server's user may not enter; a socket's path is short.
    folder = Path(tempfile.mkdtemp(prefix="ember-pg-"))
    try:
        server = Server(folder, programs(), account())
        if server.account:
            os.chown(folder, server.account["user"], server.account["group"])
        server.run(
            "initdb", "--no-sync", "-D", str(folder / "data"), "-U", USER, "--auth=trust",
            "-E", "UTF8", "--locale=C",
        )  # fmt: skip
        rules = folder / "data" / "pg_hba.conf"
        rules.write_text(f"local all guarded scram-sha-256\n{rules.read_text()}")
        server.start()
        try:
            yield server
        finally:
            server.control("stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
