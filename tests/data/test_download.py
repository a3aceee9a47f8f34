"""Downloads end with the right bytes or with a sentence, whatever the server, disk or user does."""

import email.utils
import hashlib
import io
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile_server import Page, serve
from typer.testing import CliRunner, Result

from embervlm import cli
from embervlm.data import transfer, unpacking
from embervlm.data.download import Job, check, download, plan
from embervlm.data.public_sets import SETS, PublicSet, RemoteFile

DATA = random.Random(0).randbytes(3_000_001)
SHA256 = hashlib.sha256(DATA).hexdigest()


class Heard:
    """A report that keeps the sentences."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def advance(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        assert done_bytes <= (total_bytes or 1 << 40), name

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def server() -> Iterator[tuple[str, dict[str, Page]]]:
    with serve() as running:
        yield running


@pytest.fixture
def heard() -> Heard:
    return Heard()


Server = tuple[str, dict[str, Page]]
Get = Callable[..., int]


@pytest.fixture
def get(server: Server, tmp_path: Path, heard: Heard) -> Get:
    """Fetch /a.bin, or what else is named, into tmp_path/tiny."""

    def fetch(path: str = "/a.bin", retries: int = 5, **known: object) -> int:
        job = Job(RemoteFile(server[0] + path, **known), tmp_path / "tiny")  # type: ignore[arg-type]
        return download([job], heard, retries=retries)

    return fetch


@pytest.fixture
def got(tmp_path: Path) -> Path:
    return tmp_path / "tiny" / "a.bin"


# What is fetched.


def test_fetches_verifies_and_records(
    get: Get, got: Path, server: Server, tmp_path: Path, heard: Heard
) -> None:
    server[1]["/a.bin"] = Page(DATA)
    assert get(size_bytes=len(DATA), sha256=SHA256) == 0
    assert got.read_bytes() == DATA
    record = json.loads(got.with_name("a.bin.fetched.json").read_text("utf-8"))
    assert (record["size_bytes"], record["sha256"]) == (len(DATA), SHA256)
    assert sorted(path.name for path in got.parent.iterdir()) == [
        ".lock",
        "a.bin",
        "a.bin.fetched.json",
    ]
    assert get() == 0
    assert len(server[1]["/a.bin"].asked) == 1
    assert "there already" in heard.text


@pytest.mark.parametrize("seed", range(5))
def test_goes_on_where_the_line_was_cut(seed: int, get: Get, got: Path, server: Server) -> None:
    choose = random.Random(seed)
    cuts = [choose.randrange(1, 900_000) for _ in range(4)]
    page = server[1]["/a.bin"] = Page(DATA, cuts=list(cuts))
    assert get() == 0
    assert got.read_bytes() == DATA
    assert page.starts == [sum(cuts[:i]) for i in range(5)]


def test_resumes_by_date_where_there_is_no_strong_etag(get: Get, got: Path, server: Server) -> None:
    date = email.utils.formatdate(0, usegmt=True)
    page = server[1]["/a.bin"] = Page(DATA, etag='W/"1"', last_modified=date, cuts=[1000])
    assert get() == 0
    assert got.read_bytes() == DATA
    assert page.starts == [0, 1000]
    assert page.asked[1]["If-Range"] == date


@pytest.mark.parametrize("how", ["knows no ranges", "says nothing of its file"])
def test_a_server_that_cannot_resume_begins_anew(
    how: str, get: Get, got: Path, server: Server
) -> None:
    if how == "knows no ranges":
        server[1]["/a.bin"] = Page(DATA, ranges=False, cuts=[1000, 2000])
    else:
        server[1]["/a.bin"] = Page(DATA, etag=None, cuts=[1000, 2000])
    assert get() == 0
    assert got.read_bytes() == DATA


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changed_on_the_server_begins_anew(
    if_range: bool, get: Get, got: Path, server: Server
) -> None:
    server[1]["/a.bin"] = Page(DATA[::-1], etag='"old"', cuts=[1_500_000])
    assert get(retries=0) == 1
    server[1]["/a.bin"] = Page(DATA, etag='"new"', if_range=if_range)
    assert get() == 0
    assert got.read_bytes() == DATA


def test_a_part_of_another_address_is_not_gone_on_with(get: Get, got: Path, server: Server) -> None:
    server[1]["/old/a.bin"] = Page(DATA[::-1], cuts=[1000])
    assert get("/old/a.bin", retries=0) == 1
    page = server[1]["/a.bin"] = Page(DATA)
    assert get() == 0
    assert got.read_bytes() == DATA
    assert page.starts == [0]


def test_a_part_that_is_whole_is_not_asked_for_again(get: Get, got: Path, server: Server) -> None:
    page = server[1]["/a.bin"] = Page(DATA)
    assert get() == 0
    state = {"url": f"{server[0]}/a.bin", "etag": '"1"', "total": len(DATA)}
    got.rename(got.with_name("a.bin.part"))
    got.with_name("a.bin.part.json").write_text(json.dumps(state), "utf-8")
    assert get() == 0
    assert got.read_bytes() == DATA
    assert len(page.asked) == 1


def test_a_part_longer_than_the_file_begins_anew(get: Get, got: Path, server: Server) -> None:
    page = server[1]["/a.bin"] = Page(DATA)
    got.parent.mkdir()
    got.with_name("a.bin.part").write_bytes(DATA + b"more")
    state = {"url": f"{server[0]}/a.bin", "etag": '"1"', "total": len(DATA)}
    got.with_name("a.bin.part.json").write_text(json.dumps(state), "utf-8")
    assert get() == 0
    assert got.read_bytes() == DATA
    assert page.starts == [len(DATA) + 4, 0]


def test_a_length_that_is_not_said_is_no_matter(get: Get, got: Path, server: Server) -> None:
    server[1]["/a.bin"] = Page(DATA, length=False)
    assert get() == 0
    assert got.read_bytes() == DATA


def test_goes_on_as_long_as_more_comes(
    get: Get, got: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PROGRESS_BYTES", 100_000)
    server[1]["/a.bin"] = Page(DATA, cuts=[150_000] * 15)
    assert get(retries=1) == 0
    assert got.read_bytes() == DATA


def test_many_files_at_once(server: Server, tmp_path: Path, heard: Heard) -> None:
    jobs = []
    for i in range(12):
        data = DATA[i * 1000 :]
        server[1][f"/{i}.bin"] = Page(data, cuts=[500_000 + i], pause_s=0.001)
        jobs.append(Job(RemoteFile(f"{server[0]}/{i}.bin"), tmp_path / f"set{i % 3}"))
    assert download(jobs, heard, workers=6) == 0
    for i, job in enumerate(jobs):
        assert job.target.read_bytes() == DATA[i * 1000 :]


# What the server refuses, and lies.


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_what_may_pass_is_tried_again(status: int, get: Get, got: Path, server: Server) -> None:
    server[1]["/a.bin"] = Page(DATA, answers=[(status, {}), (status, {})])
    assert get() == 0
    assert got.read_bytes() == DATA


@pytest.mark.parametrize("status", [404, 403, 401, 410])
def test_what_will_not_pass_is_not(
    status: int, get: Get, got: Path, server: Server, heard: Heard
) -> None:
    page = server[1]["/a.bin"] = Page(DATA, answers=[(status, {})] * 2)
    assert get() == 1
    assert len(page.asked) == 1
    assert f"answered {status}" in heard.text
    assert not got.exists()


def test_gives_up_after_so_many_tries(get: Get, server: Server, heard: Heard) -> None:
    page = server[1]["/a.bin"] = Page(DATA, answers=[(500, {})] * 9)
    assert get(retries=3) == 1
    assert len(page.asked) == 4
    assert "given up after 4 tries" in heard.text


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_waits_as_long_as_the_server_asks_and_no_longer(
    form: str, get: Get, server: Server, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MAX_PAUSE_S", 1.0)
    asked = "3600" if form == "seconds" else email.utils.formatdate(time.time() + 3600)
    server[1]["/a.bin"] = Page(DATA, answers=[(429, {"Retry-After": asked})])
    before = time.monotonic()
    assert get() == 0
    assert 1.0 <= time.monotonic() - before < 5.0
    assert "again in 1 s" in heard.text


@pytest.mark.parametrize("claimed", [len(DATA) + 10, len(DATA) - 10])
def test_a_false_length_never_makes_a_file(
    claimed: int, get: Get, got: Path, server: Server, heard: Heard
) -> None:
    server[1]["/a.bin"] = Page(DATA, claimed=claimed)
    assert get(retries=1, sha256=SHA256) == 1
    assert not got.exists()
    assert get(retries=1, size_bytes=len(DATA)) == 1
    assert "the server offers" in heard.text


def test_a_body_longer_than_the_file_is_refused(
    get: Get, got: Path, server: Server, heard: Heard
) -> None:
    server[1]["/a.bin"] = Page(DATA, length=False)
    assert get(size_bytes=1000) == 1
    assert "sends more than 1,000 bytes" in heard.text
    assert not got.exists()


def test_another_file_of_the_same_size_is_thrown_away(
    get: Get, got: Path, server: Server, heard: Heard
) -> None:
    server[1]["/a.bin"] = Page(DATA[::-1])
    assert get(size_bytes=len(DATA), sha256=SHA256) == 1
    assert "thrown away" in heard.text
    assert not got.exists() and not got.with_name("a.bin.part").exists()


@pytest.mark.parametrize(
    ("to", "part"),
    [
        ("http://example.org/a.bin", "not https"),
        ("ftp://example.org/a.bin", "not https"),
        ("file:///etc/passwd", "answered 302"),
        ("/a.bin", "answered 302"),
        ("http://[", "malformed"),
    ],
)
def test_redirects_stay_on_https_and_end(
    to: str, part: str, get: Get, got: Path, server: Server, heard: Heard
) -> None:
    server[1]["/a.bin"] = Page(DATA, answers=[(302, {"Location": to})] * 20)
    assert get() == 1
    assert part in heard.text
    assert len(server[1]["/a.bin"].asked) <= 1 + transfer.MAX_REDIRECTS


def test_a_redirect_keeps_the_range(get: Get, got: Path, server: Server) -> None:
    server[1]["/a.bin"] = Page(b"", answers=[(302, {"Location": "/b"})] * 3)
    page = server[1]["/b"] = Page(DATA, cuts=[1000, 1000])
    assert get() == 0
    assert got.read_bytes() == DATA
    assert page.starts == [0, 1000, 2000]


def test_plain_http_to_another_machine_is_refused(tmp_path: Path, heard: Heard) -> None:
    job = Job(RemoteFile("http://example.org/a.bin"), tmp_path / "tiny")
    assert download([job], heard) == 1
    assert "not https" in heard.text


def test_no_server_is_a_sentence(tmp_path: Path, heard: Heard) -> None:
    job = Job(RemoteFile("http://127.0.0.1:9/a.bin"), tmp_path / "tiny")
    assert download([job], heard, retries=1) == 1
    assert "no connection" in heard.text


# Disks and other processes.

Usage = namedtuple("Usage", "total used free")


def test_a_disk_too_small_is_said_before_anything_comes(
    get: Get, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = server[1]["/a.bin"] = Page(DATA)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 9, 1))
    with pytest.raises(ValueError, match="disk is full .*to come and 1 are free"):
        get(size_bytes=len(DATA))
    assert page.asked == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_keeps_what_is_there(
    server: Server, tmp_path: Path, heard: Heard, get: Get
) -> None:
    server[1]["/a.bin"] = Page(DATA, cuts=[1000])
    assert get(retries=0) == 1
    server[1]["/b.bin"] = Page(DATA)
    (tmp_path / "tiny" / "b.bin.part").symlink_to("/dev/full")
    jobs = [Job(RemoteFile(f"{server[0]}/{n}.bin"), tmp_path / "tiny") for n in ("b", "a")]
    with pytest.raises(ValueError, match="The disk is full .No space left") as said:
        download(jobs, heard, workers=1)
    assert "Kept: 1,000 bytes in" in str(said.value)
    assert (tmp_path / "tiny" / "a.bin.part").read_bytes() == DATA[:1000]


def test_two_processes_do_not_share_a_folder(get: Get, got: Path, server: Server) -> None:
    server[1]["/a.bin"] = Page(DATA)
    got.parent.mkdir()
    program = (
        "import fcntl, sys, time\n"
        "file = open(sys.argv[1], 'ab')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    words = [sys.executable, "-c", program, str(got.parent / ".lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="another process"):
            get()
        holder.kill()
    assert get() == 0


# Archives.


def zip_of(members: dict[str, bytes], **links: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        for name, to in links.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, to)
    return buffer.getvalue()


def tar_of(
    *members: tuple[str, bytes | None], kind: bytes = tarfile.REGTYPE, to: str = ""
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.linkname = kind, to
                archive.addfile(info)
            else:
                info.size, info.mode = len(data), 0o7777
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_unpacks_once_and_after_the_checksum(
    form: str, get: Get, server: Server, tmp_path: Path, heard: Heard
) -> None:
    files = {"val/1.jpg": DATA[:1000], "val/sub/2.jpg": b"", "notes.json": b"{}"}
    packed = zip_of(files) if form == "zip" else tar_of(*files.items())
    server[1]["/a.bin"] = Page(packed, cuts=[100])
    assert get(unpack=True) == 0
    unpacked = tmp_path / "tiny" / "unpacked"
    found = {str(p.relative_to(unpacked)): p.read_bytes() for p in unpacked.rglob("*.*")}
    assert found == files
    assert not any(path.stat().st_mode & 0o7111 for path in unpacked.rglob("*.*"))
    assert "3 files unpacked" in heard.text
    (unpacked / "notes.json").unlink()
    assert get(unpack=True) == 0
    assert not (unpacked / "notes.json").exists()


def test_a_zip_broken_off_is_unpacked_on(get: Get, server: Server, tmp_path: Path) -> None:
    server[1]["/a.bin"] = Page(zip_of({"1": b"one", "2": b"two", "3": b"three"}))
    unpacked = tmp_path / "tiny" / "unpacked"
    unpacked.mkdir(parents=True)
    (unpacked / "1").write_bytes(b"one")
    (unpacked / "2").write_bytes(b"tw\0")
    before = (unpacked / "1").stat().st_ino
    assert get(unpack=True) == 0
    assert [(unpacked / name).read_bytes() for name in "123"] == [b"one", b"two", b"three"]
    assert (unpacked / "1").stat().st_ino == before


HOSTILE = {
    "zip out": zip_of({"good": b"1", "../evil": b"2"}),
    "zip absolute": zip_of({"good": b"1", "/tmp/embervlm-evil": b"2"}),
    "zip itself": zip_of({"good": b"1", "a/..": b"2"}),
    "zip nameless": zip_of({"good": b"1", ".": b"2"}),
    "zip link": zip_of({"good": b"1"}, evil="/etc/passwd"),
    "zip bomb": zip_of({"good": bytes(2_000_000)}),
    "zip both": zip_of({"good/x": b"1", "good": b"2"}),
    "zip damaged": zip_of({"good": DATA[:100_000]}).replace(DATA[50_000:50_010], bytes(10)),
    "tar out": tar_of(("good", b"1"), ("../evil", b"2")),
    "tar absolute": tar_of(("good", b"1"), ("/tmp/embervlm-evil", b"2")),
    "tar link": tar_of(("good", b"1"), ("evil", None), kind=tarfile.SYMTYPE, to="../../x"),
    "tar link within": tar_of(("good", b"1"), ("evil", None), kind=tarfile.SYMTYPE, to="good"),
    "tar hard link": tar_of(("good", b"1"), ("evil", None), kind=tarfile.LNKTYPE, to="good"),
    "tar device": tar_of(("good", b"1"), ("evil", None), kind=tarfile.CHRTYPE),
    "tar pipe": tar_of(("good", b"1"), ("evil", None), kind=tarfile.FIFOTYPE),
    "tar bomb": tar_of(("good", bytes(2_000_000))),
    "tar short": tar_of(("good", DATA[:100_000]))[:50_000],
    "neither": DATA[:1000],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_writes_nothing(
    name: str,
    get: Get,
    server: Server,
    tmp_path: Path,
    heard: Heard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unpacking, "HARMLESS_BYTES", 1_000_000)
    server[1]["/a.bin"] = Page(HOSTILE[name])
    assert get(unpack=True) == 1
    assert "was not unpacked" in heard.text
    unpacked = tmp_path / "tiny" / "unpacked"
    if name not in ("zip both", "zip damaged"):  # these are found out while they are written
        assert list(unpacked.rglob("*")) == []
    assert not list(tmp_path.rglob("*evil*")) and not Path("/tmp/embervlm-evil").exists()


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_a_damaged_archive_is_a_sentence(form: str, tmp_path: Path) -> None:
    choose = random.Random(1)
    files = {"val/1.txt": b"one " * 500, "val/2.jpg": DATA[:500]}
    whole = zip_of(files) if form == "zip" else tar_of(*files.items())
    damaged = 0
    for i in range(300):
        data = bytearray(whole)
        for _ in range(choose.randrange(1, 4)):
            data[choose.randrange(len(data))] = choose.randrange(256)
        (tmp_path / "a").write_bytes(data)
        try:
            unpacking.unpack(tmp_path / "a", tmp_path / "into" / str(i))
        except unpacking.ArchiveError:
            damaged += 1
    assert damaged > 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "into"]


def test_an_archive_cannot_overwrite_its_own_record(
    get: Get, server: Server, tmp_path: Path
) -> None:
    server[1]["/a.bin"] = Page(zip_of({"a.bin": b"x", "a.bin.fetched.json": b"x", ".lock": b"x"}))
    assert get(unpack=True) == 0
    assert zipfile.is_zipfile(tmp_path / "tiny" / "a.bin")
    assert (tmp_path / "tiny" / "unpacked" / "a.bin").read_bytes() == b"x"


def test_a_link_that_lies_there_is_not_written_through(
    get: Get, server: Server, tmp_path: Path, heard: Heard
) -> None:
    (tmp_path / "tiny" / "unpacked").mkdir(parents=True)
    (tmp_path / "tiny" / "unpacked" / "val").symlink_to(tmp_path)
    server[1]["/a.bin"] = Page(zip_of({"val/evil": b"x"}))
    assert get(unpack=True) == 1
    assert not (tmp_path / "evil").exists()


# What is checked.


def test_check_finds_one_flipped_bit(
    get: Get, got: Path, server: Server, tmp_path: Path, heard: Heard
) -> None:
    server[1]["/a.bin"] = Page(DATA)
    known = Job(RemoteFile(f"{server[0]}/a.bin", sha256=SHA256), tmp_path / "tiny")
    recorded = Job(RemoteFile(f"{server[0]}/a.bin"), tmp_path / "tiny")
    assert check([known], heard) == 1
    assert "is missing" in heard.text
    assert get() == 0
    asked = len(server[1]["/a.bin"].asked)
    assert check([known, recorded], heard) == 0
    flipped = bytearray(DATA)
    flipped[1_234_567] ^= 4
    got.write_bytes(flipped)
    assert check([known, recorded], heard) == 2
    assert heard.text.count("is damaged") == 2
    got.with_name("a.bin.fetched.json").unlink()
    assert check([recorded], heard) == 1
    assert "no record" in heard.text
    assert len(server[1]["/a.bin"].asked) == asked


def test_a_file_of_unknown_origin_is_not_taken_for_the_right_one(
    get: Get, got: Path, server: Server, heard: Heard
) -> None:
    server[1]["/a.bin"] = Page(DATA)
    got.parent.mkdir()
    got.write_bytes(b"mine")
    assert get() == 1
    assert "move it away" in heard.text
    assert got.read_bytes() == b"mine"
    got.write_bytes(DATA)
    assert get(sha256=SHA256) == 0


# The table.


def test_the_table_is_sound() -> None:
    for name, one in SETS.items():
        assert bool(one.files) != bool(one.instead), name
        assert one.photos_in is None or one.photos_in in SETS
        assert not one.files or any(remote.minimal for remote in one.files)
        assert len({remote.name for remote in one.files}) == len(one.files)
        assert one.checksums or not any(r.sha256 or r.size_bytes for r in one.files)
        for remote in one.files:
            assert remote.url.startswith("https://") and remote.name
            assert remote.sha256 is None or len(bytes.fromhex(remote.sha256)) == 32
            assert remote.unpack == remote.name.endswith((".zip", ".tar.gz"))


def test_no_other_module_opens_connections() -> None:
    package = Path(cli.__file__).parent
    asks = r"ftplib|urllib\.request|http\b|requests|httpx"
    network = re.compile(rf"^\s*(?:import|from) (?:socket|ssl|asyncio|{asks})", re.MULTILINE)
    asking = re.compile(rf"^\s*(?:import|from) (?:{asks})", re.MULTILINE)
    texts = {path: path.read_text("utf-8") for path in package.rglob("*.py")}
    users = {
        p.name for p, text in texts.items() if network.search(text) and "server" not in p.parts
    }
    # A model or a server is asked, and lessons are kept, where the user says (`ros.py` does so too,
    # by a library); the program for the Pi talks with its own service over a socket in the file
    # system.
    assert users == {
        "transfer.py", "endpoint.py", "postgres.py", "run_inference.py", "client.py",
    }  # fmt: skip
    # The server is asked, and asks nobody.
    assert not [p for p, text in texts.items() if "server" in p.parts and asking.search(text)]


def test_minimal_is_less(tmp_path: Path) -> None:
    names = [name for name, one in SETS.items() if one.files]
    assert set(plan(names, tmp_path, minimal=True)) < set(plan([*names, "coco"], tmp_path))


# The command.


@pytest.fixture
def tiny(server: Server, monkeypatch: pytest.MonkeyPatch) -> Page:
    """Return the page of a set `tiny` of one file."""
    remote = RemoteFile(f"{server[0]}/a.bin", len(DATA), SHA256, minimal=True)
    one = PublicSet("Tiny", "https://example.org", "CC BY 4.0", "its page", (remote,), "us")
    monkeypatch.setitem(SETS, "tiny", one)
    page = server[1]["/a.bin"] = Page(DATA)
    return page


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, ["data", "download", *(str(word) for word in words)])


def test_the_command_shows_fetches_and_checks(tiny: Page, got: Path, tmp_path: Path) -> None:
    result = run("tiny", "--yes", "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    for part in ("Tiny", "CC BY 4.0", "3,000,001 bytes"):
        assert part in result.stdout
    for part in ("tiny/a.bin: 3,000,001 bytes, as published", "tiny/a.bin: 3,000,001 of"):
        assert part in result.stderr
    assert got.read_bytes() == DATA
    assert run("tiny", "--check-only", "--out", tmp_path).exit_code == 0
    got.write_bytes(DATA[::-1])
    result = run("tiny", "--check-only", "--out", tmp_path)
    assert result.exit_code == 1
    assert "damaged" in result.stderr and "1 of 1 files" in result.stderr
    assert len(tiny.asked) == 1


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["tiny"], "give --yes"),
        ([], "Name one set or more"),
        (["tiny", "moon", "--yes"], "Unknown set 'moon'"),
        (["tiny", "flickr30k", "--yes"], "forms.illinois.edu"),
        (["incidents1m", "--check-only"], "incidentsdataset@"),
        (["cc3m", "laion-coco", "--yes"], "list"),
    ],
)
def test_the_command_says_what_is_wrong(
    words: list[str], part: str, tiny: Page, tmp_path: Path
) -> None:
    result = run(*words, "--out", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith("embervlm: ") and result.stderr.count("\n") == 1
    assert part in result.stderr
    assert tiny.asked == [] and list(tmp_path.iterdir()) == []


def test_the_command_fails_with_1(tiny: Page, tmp_path: Path) -> None:
    tiny.answers = [(404, {})]
    result = run("tiny", "--yes", "--out", tmp_path)
    assert result.exit_code == 1
    assert "answered 404" in result.stderr and "Traceback" not in result.stderr


# In a process of its own, with a set `tiny` and pauses that are short.
# A run in the background is born deaf to SIGINT; this one listens again.
PROGRAM = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from embervlm.cli import app
from embervlm.data import public_sets as p
address, *words = sys.argv[1:]
remote = p.RemoteFile(address + "/a.bin", {len(DATA)}, {SHA256!r})
p.SETS["tiny"] = p.PublicSet("Tiny", "https://example.org", None, "its page", (remote,), "us")
app(["data", "download", "tiny", *words])
"""


def start(address: str, *words: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", PROGRAM, address, *words], stderr=subprocess.PIPE, **options
    )


def wait_for(part: Path, size_bytes: int) -> None:
    for _ in range(1000):
        if part.exists() and part.stat().st_size >= size_bytes:
            return
        time.sleep(0.01)
    raise AssertionError(f"{part} did not grow")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_was_stopped_is_gone_on_with(
    how: signal.Signals, tiny: Page, server: Server, got: Path, tmp_path: Path
) -> None:
    tiny.pause_s = 0.05
    process = start(server[0], "--yes", "--out", str(tmp_path), stdout=subprocess.DEVNULL)
    wait_for(got.with_name("a.bin.part"), 400_000)
    process.send_signal(how)
    _, said = process.communicate(timeout=10)
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert b"Stopped. Kept: " in said and b"Traceback" not in said
    assert not got.exists()
    kept = got.with_name("a.bin.part").stat().st_size
    tiny.pause_s = 0.0
    result = run("tiny", "--yes", "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert got.read_bytes() == DATA
    assert tiny.starts == [0, kept]


@pytest.mark.parametrize("answer", ["y", "n"])
def test_on_a_terminal_it_asks_and_shows_a_bar(
    answer: str, tiny: Page, server: Server, got: Path, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    words = [sys.executable, "-c", PROGRAM, server[0], "--out", str(tmp_path)]
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                seen += os.read(ours, 1 << 16)
            except OSError:
                break
            if b"[y/N]" in seen and answer:
                os.write(ours, answer.encode() + b"\n")
                answer = ""
    os.close(ours)
    if process.returncode == 0:
        assert got.read_bytes() == DATA
        assert b"3.0" in seen and b"MB" in seen
    else:
        assert process.returncode == 2 and b"Nothing was fetched" in seen
        assert tiny.asked == []
