"""What the server is told when it starts, and the one rule about it: no key, no strangers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embervlm.live import FleetState
from embervlm.web import LOCAL_HOSTS

_NAME = re.compile(r"[a-z0-9._-]{1,64}")
_MIN_KEY_CHARACTERS = 16
_MAX_KEY_FILE_BYTES = 100_000


@dataclass(frozen=True)
class ServerSettings:
    """How the server behaves.

    `keys` maps each client's name to its key; empty, no key is asked for. `queue` is how many
    requests may wait. `hosts` are the names that may stand in a Host header, beside localhost and
    plain IP addresses; `origins` the pages of other servers whose scripts may call this one.
    `log_requests` lets the words of requests into the log. `state` is how the robots are where a
    request does not say it. A body has at most `max_body_bytes`, all
    bodies together `max_bodies_bytes`.

    Of a client's time: `header_s` for a request's head, `body_s` for its body with a second more
    for each `min_body_rate` bytes, `idle_s` between two requests, `write_s` to take an answer.
    After SIGTERM the server says for `linger_s` that it is not ready before it stops listening, and
    gives accepted requests `drain_s` to end.
    """

    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    queue: int = 64
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    log_requests: bool = False
    state: FleetState | None = None
    max_body_bytes: int = 12_000_000
    max_bodies_bytes: int = 120_000_000
    header_s: float = 10.0
    body_s: float = 10.0
    min_body_rate: int = 20_000
    idle_s: float = 5.0
    write_s: float = 10.0
    linger_s: float = 1.0
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        if self.queue < 1:
            raise ValueError(f"--queue is {self.queue}; let 1 request or more wait.")
        for host in self.hosts:
            if not _NAME.fullmatch(host.lower()):
                raise ValueError(f"--allow-host {host!r} is no name; give one such as ember.lan.")
        for origin in self.origins:
            if not re.fullmatch(r"https?://[a-z0-9._\[\]:-]{1,80}", origin):
                raise ValueError(
                    f"--allow-origin {origin!r} is no origin; give one such as https://ember.lan."
                )


def check_reach(host: str, settings: ServerSettings) -> None:
    """Refuse to listen to other machines without a key.

    Raises:
        ValueError: `host` is not this machine alone, and there is no key.
    """
    if not settings.keys and not is_loopback(host):
        raise ValueError(
            f"--host {host} lets other machines in: give --api-key-file too, or leave --host out."
        )


def is_loopback(host: str) -> bool:
    """Say whether an address is this machine's own.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host in LOCAL_HOSTS:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_keys(path: Path) -> dict[str, str]:
    """Read a file with a key on each line, behind the client's name if there are several clients.

        control-room 5f0c...
        tablet 91ab...

    Empty lines and such that begin with # are skipped. A key without a name is the client `key`.

    Raises:
        ValueError: the file cannot be read, others may read it, or a line is wrong.
    """
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            text = file.read(_MAX_KEY_FILE_BYTES).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--api-key-file {path} cannot be read as text; give the path of a file with a key."
        ) from error
    if mode & 0o007:
        raise ValueError(
            f"--api-key-file {path} can be read or changed by everyone here; run chmod o= on it."
        )
    keys: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name, key = ("key", words[0]) if len(words) == 1 else (words[0], words[1])
        told = f"--api-key-file {path}, line {number}:"
        if len(words) > 2 or not _NAME.fullmatch(name) or name in keys:
            raise ValueError(f"{told} expected a name of its own and a key, or one key alone.")
        if len(key) < _MIN_KEY_CHARACTERS:
            raise ValueError(f"{told} a key has {_MIN_KEY_CHARACTERS} characters or more.")
        if key in keys.values():
            raise ValueError(f"{told} this key is there already; give each client its own.")
        keys[name] = key
    if not keys:
        raise ValueError(f"--api-key-file {path} holds no key; write one on a line.")
    return keys
