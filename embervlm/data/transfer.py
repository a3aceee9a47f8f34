"""Bring one file from a server to the disk, however often the line breaks.

    receive(Part(remote, Path("coco/val2017.zip.part"), "coco/val2017.zip"), report, retries=5)

Beside `a.part` lies `a.part.json`: what the server said of the file of which it is a part. The rest
is asked for by range (RFC 9110, section 14) on the condition that the file is still the same
(`If-Range`, with its ETag or date). A server that has another file by now, or knows no ranges,
sends it from the start. The part is only written at its end, so that it may be cut at any byte.

Only https is spoken and followed, at most `MAX_REDIRECTS` times; http only within this machine, for
tests. Only `endpoint` and `memory/postgres` open a connection to a network too, to what the user
names.
"""

import http.client
import json
import os
import random
import re
import shutil
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from embervlm.data.public_sets import RemoteFile
from embervlm.web import LOCAL_HOSTS, MAX_PAUSE_S, reason_of, retry_after_s

TIMEOUT_S = 30.0
FIRST_PAUSE_S = 1.0
MAX_REDIRECTS = 5
# A try that brings at least so much more than any before it does not count as failed.
PROGRESS_BYTES = 1 << 20
# For a server that does not say how long its file is; the longest in the table has 19 GB.
MAX_FILE_BYTES = 40_000_000_000
# What a download leaves free on the disk.
RESERVED_BYTES = 50_000_000
_CHUNK_BYTES = 1 << 18


class DownloadError(Exception):
    """One file cannot be had, or is not what it should be; the message is the sentence to show."""


class StoppedError(Exception):
    """Another thread, or Ctrl-C, has ended the work."""


class Report(Protocol):
    """Who is told how far the work is; called from several threads."""

    def say(self, sentence: str) -> None:
        """Show a sentence."""

    def advance(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """Show how much of a file is there."""


@dataclass(frozen=True)
class Part:
    """What has come so far of a file, and `name`, which people are shown."""

    remote: RemoteFile
    path: Path
    name: str

    @property
    def state(self) -> Path:
        """The file with what the server said: address, ETag, date, total length."""
        return self.path.with_name(self.path.name + ".json")

    @property
    def size_bytes(self) -> int:
        """How much has come."""
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        """Throw it away."""
        self.path.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)


class _TryAgainError(Exception):
    """A failure that may pass. `pause_s` is what the server asks for; `restart`: from byte 0."""

    def __init__(self, reason: str, *, pause_s: float | None = None, restart: bool = False):
        super().__init__(reason)
        self.pause_s = pause_s
        self.restart = restart


def receive(part: Part, report: Report, *, retries: int, stop: threading.Event) -> None:
    """Bring a part to its full length; cut lines, 5xx and 429 are tried again, with pauses.

    Raises:
        DownloadError: the server refuses, offers another file, or fails once too often.
        StoppedError: `stop` was set.
        OSError: the disk is full.
    """
    furthest, failed = part.size_bytes, 0
    while True:
        try:
            return _try_once(part, report, stop)
        except _TryAgainError as again:
            if part.size_bytes >= furthest + PROGRESS_BYTES:
                furthest, failed = part.size_bytes, 0
            failed += 1
            if failed > retries:
                raise DownloadError(
                    f"{part.name}: {again}; given up after {failed} tries, and "
                    f"{part.size_bytes:,} bytes are kept for the next run."
                ) from again
            if again.restart:
                part.discard()
            pause_s = again.pause_s
            if pause_s is None:  # half to all of 1, 2, 4, ... s, so that many do not come at once
                pause_s = FIRST_PAUSE_S * 2 ** min(failed - 1, 20) * random.uniform(0.5, 1)
            pause_s = min(pause_s, MAX_PAUSE_S)
            report.say(f"{part.name}: {again}; again in {pause_s:.0f} s.")
            if stop.wait(pause_s):
                raise StoppedError from None


def _try_once(part: Part, report: Report, stop: threading.Event) -> None:
    """Make one request, and write what it brings."""
    url, expected, have = part.remote.url, part.remote.size_bytes, part.size_bytes
    before = read_json(part.state)
    if before.get("url") != url:
        before = {}
    if have and have == before.get("total"):
        return
    # RFC 9110, 13.1.5: a weak ETag does not promise that the bytes are the same.
    etag = before.get("etag") or ""
    validator = etag if etag and not etag.startswith("W/") else before.get("last_modified")
    resumed = bool(have and validator)
    headers = {"Range": f"bytes={have}-", "If-Range": str(validator)} if resumed else {}
    with _open(url, headers) as response:
        if response.status != 206:
            have = 0
        total = _total(response, have)
        now = {
            "url": url,
            "etag": response.headers.get("ETag"),
            "last_modified": response.headers.get("Last-Modified"),
            "total": total,
        }
        if have and _differ(before, now):
            raise _TryAgainError("the file changed on the server", pause_s=0.0, restart=True)
        if None not in (expected, total) and total != expected:
            raise DownloadError(
                f"{part.name}: the server offers {total:,} bytes, expected {expected:,}; its "
                "publisher has changed the file."
            )
        expected = expected or total
        check_space(part.path.parent, (expected or 0) - have)
        with part.path.open("ab" if have else "wb") as file:
            if not have:  # the part is empty by now: old bytes never get a new ETag
                write_json(part.state, now)
            for chunk in _chunks(response):
                have += len(chunk)
                limit = expected or MAX_FILE_BYTES
                if have > limit:
                    raise DownloadError(f"{part.name}: the server sends more than {limit:,} bytes.")
                file.write(chunk)
                report.advance(part.name, have, expected)
                if stop.is_set():
                    raise StoppedError
    if expected is not None and have < expected:
        raise _TryAgainError(f"the line was cut after {have:,} of {expected:,} bytes")
    write_json(part.state, {**now, "total": have})


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(_CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _TryAgainError(f"the line was cut ({reason_of(error)})") from error
        if not chunk:
            return
        yield chunk


def _total(response: http.client.HTTPResponse, start: int) -> int | None:
    """Return how many bytes the whole file has, or None where the server does not say."""
    if response.status == 206:
        said = response.headers.get("Content-Range", "").strip()
        found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", said)
        if found is None or int(found[1]) != start or int(found[2]) + 1 != int(found[3]):
            raise _TryAgainError("the server sent another range than was asked for", restart=True)
        return int(found[3])
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether the server speaks of another file; a 206 may leave out what is known."""
    return any(None not in (before.get(key), now[key]) and before[key] != now[key] for key in now)


def _open(url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    _check_address(url, came_from=url)
    own = {"User-Agent": "embervlm", "Accept-Encoding": "identity"}
    opener = urllib.request.build_opener(_Redirects)
    try:
        response: http.client.HTTPResponse = opener.open(
            urllib.request.Request(url, headers={**own, **headers}), timeout=TIMEOUT_S
        )
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:
                raise _TryAgainError("the server has no such range", restart=True) from error
            if error.code in (408, 425, 429) or error.code >= 500:
                pause_s = retry_after_s(error.headers.get("Retry-After", ""))
                reason = f"the server answered {error.code}"
                raise _TryAgainError(reason, pause_s=pause_s) from error
            raise DownloadError(
                f"{url}: the server answered {error.code} ({error.reason}); its publisher may have "
                "moved the file."
            ) from error
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise DownloadError(f"{url}: {cause.verify_message}.") from error
        raise _TryAgainError(f"no connection ({reason_of(cause)})") from error
    except ValueError as error:
        raise DownloadError(f"{url}: the server's answer is malformed ({error}).") from error
    if response.status not in ((200, 206) if "Range" in headers else (200,)):
        with response:
            raise DownloadError(f"{url}: the server answered {response.status}, expected 200.")
    return response


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _check_address(newurl, came_from=req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(url: str, *, came_from: str) -> None:
    """Let https pass, and http within this machine.

    Raises:
        DownloadError: another scheme or host.
    """
    to, origin = urlsplit(url), urlsplit(came_from)
    within = all(a.scheme == "http" and a.hostname in LOCAL_HOSTS for a in (to, origin))
    if to.scheme != "https" and not within:
        raise DownloadError(f"{came_from} leads to {url}, which is not https; it is not followed.")


def check_space(folder: Path, missing_bytes: int) -> None:
    """Fail before the disk is full.

    Raises:
        OSError: ENOSPC, as the disk itself would say.
    """
    free = shutil.disk_usage(folder).free
    if missing_bytes > 0 and missing_bytes + RESERVED_BYTES > free:
        said = f"{missing_bytes:,} bytes are to come and {free:,} are free"
        raise OSError(ENOSPC, said, str(folder))


def read_json(path: Path) -> dict[str, Any]:
    """Return what is in one of our small files; nothing if it is missing or damaged."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write one of our small files; it is there whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
