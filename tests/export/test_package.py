"""The folder for a Raspberry Pi decides as the package does, alone and with little installed."""

import hashlib
import json
import shutil
import socket
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from embervlm import cli, engine
from embervlm.checkpoint import load_checkpoint
from embervlm.export import package as package_module
from embervlm.export.package import FILES, package

gguf_export = pytest.importorskip("embervlm.export.gguf", reason="needs the gguf package")
if shutil.which("make") is None:
    pytest.skip("needs make", allow_module_level=True)

JOB = "Map the flood from above, then take 8 kg through the mud."
REQUEST = "carry the 8 kg pump up the stairs"
# A board with Debian's python3-numpy, -pil and -yaml: no .pth file is read, so that an editable
# install is not seen, and what a board does not have cannot be imported.
ALONE = """
import runpy, sys
site, folder, *words = sys.argv[1:]
sys.path.append(site)
absent = "torch typer rich click safetensors gguf transformers tokenizers onnxruntime scipy sklearn"
sys.modules.update(dict.fromkeys(absent.split()))
sys.argv = [folder + "/run_inference.py", *words]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    for name, module in sys.modules.items():
        if name.startswith("embervlm"):
            assert module.__file__.startswith(folder), module.__file__
"""


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    gguf_export.write_gguf(load_checkpoint(tiny_model), path, "q4_0", smallest=256)
    return path


@pytest.fixture(scope="module")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a written folder, its engine compiled by its first decision."""
    folder = tmp_path_factory.mktemp("package") / "ember-pi"
    package(folder, model=model)
    check_sums(folder)
    first = alone(folder, REQUEST, "--json")
    assert "Compiling the engine, once" in first.stderr
    assert (folder / "embervlm/engine/libember.so").is_file()
    return folder


def command(folder: Path, *words: object) -> list[str]:
    site = sysconfig.get_path("purelib")
    return [sys.executable, "-I", "-S", "-c", ALONE, site, str(folder), *map(str, words)]


def alone(
    folder: Path, *words: object, exit_code: int = 0, text: str = ""
) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run(command(folder, *words), capture_output=True, text=True, input=text)
    assert ran.returncode == exit_code, ran.stderr
    return ran


def here(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def check_sums(folder: Path) -> None:
    named = {}
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        named[name] = digest
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files == {*named, "SHA256SUMS"}


def test_decides_as_the_native_backend_does(folder: Path, model: Path, photo: Path) -> None:
    for words in ([photo, REQUEST], [REQUEST], [photo], [JOB]):
        said = alone(folder, *words, "--json")
        assert said.stderr == ""
        known = here("decide", *words, "--backend", "native", "--model", model, "--json")
        assert json.loads(said.stdout) == json.loads(known.stdout)


def test_holds_the_words_beside_the_model(folder: Path) -> None:
    assert (folder / "embervlm" / "weights" / "words.npz").is_file()


def test_holds_the_licences_of_code_and_model(folder: Path) -> None:
    for name in ("LICENSE", "NOTICE", "Apache-2.0.txt"):
        assert (folder / name).is_file()


def test_prints_a_decision_for_people(folder: Path, photo: Path) -> None:
    said = alone(folder, photo, REQUEST).stdout
    for part in ("send  ", "confidence  ", "Task: ", "Decision: "):
        assert part in said


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "Nothing was asked"),
        (["gone.jpg"], "cannot be read"),
        (["look", "--fleet", "gone.yaml"], "fleet file"),
        (["look", "--model", "gone.gguf"], "gone.gguf"),
        (["look", "--lines"], "stand alone"),
        (["--listen", "/gone/socket"], "Cannot listen"),
    ],
)
def test_a_mistake_is_one_sentence(folder: Path, words: list[str], part: str) -> None:
    failed = alone(folder, *words, exit_code=2)
    assert failed.stdout == ""
    assert failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("embervlm: ") and part in failed.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_where_it_cannot_write_there_is_one_sentence_or_silence(folder: Path) -> None:
    line = json.dumps({"id": 1, "task": REQUEST, "image": None}) + "\n"
    full = "embervlm: The output: No space left on device.\n"
    for words in ([REQUEST], [REQUEST, "--json"], ["--lines"]):
        for end, said in (("> /dev/full", (2, full)), (">&-", (0, "")), ("| true", (1, ""))):
            script = f'set -o pipefail; "$@" {end}'
            ran = subprocess.run(
                ["bash", "-c", script, "bash", *command(folder, *words)],
                input=line, capture_output=True, text=True,
            )  # fmt: skip
            assert (ran.returncode, ran.stderr) == said, (words, end)
    empty = subprocess.run(
        ["bash", "-c", '"$@" <&-', "bash", *command(folder, "--lines")], capture_output=True
    )
    assert (empty.returncode, empty.stdout, empty.stderr) == (0, b"", b"")


def test_lines_are_answered_in_order_and_a_bad_one_costs_no_other(
    folder: Path, photo: Path
) -> None:
    good = [{"id": 1, "task": REQUEST, "image": str(photo)}, {"id": "b", "task": REQUEST}]
    lines = [json.dumps(good[0]), "not JSON", json.dumps(good[1])]
    said = alone(folder, "--lines", text="\n".join(lines) + "\n").stdout
    records = [json.loads(line) for line in said.splitlines()]
    assert [record["id"] for record in records] == [1, None, "b"]
    assert "not JSON" in records[1]["error"]
    single = json.loads(alone(folder, photo, REQUEST, "--json").stdout)
    assert records[0] == {"id": 1, **single}


def test_a_socket_answers_one_client_after_another(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with subprocess.Popen(command(folder, "--listen", path), stderr=subprocess.PIPE) as server:
        try:
            assert server.stderr is not None
            assert b"Listening" in server.stderr.readline()
            said = [ask(path, b'{"id": 1, "task": "look"}\n') for _ in range(2)]
            assert said[0] == said[1]
            assert said[0]["id"] == 1 and said[0]["robots"]
            assert "not JSON" in str(ask(path, b"\xff\n")["error"])
        finally:
            server.terminate()
    alone_again = subprocess.Popen(command(folder, "--listen", path), stderr=subprocess.PIPE)
    with alone_again as server:  # the socket's file was left behind
        assert server.stderr is not None
        assert b"Listening" in server.stderr.readline()
        server.terminate()


def ask(path: Path, line: bytes) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(path))
        client.sendall(line)
        with client.makefile("rb") as stream:
            answer: dict[str, object] = json.loads(stream.readline())
    return answer


def test_the_operators_fleet_is_packed_and_obeyed(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    text = (FILES.parents[1] / "default_fleet.yaml").read_text("utf-8")
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(text.replace("name: Drone", "name: Kite"), "utf-8")
    result = here(
        "export", "package", "--target", "pi", "--out", tmp_path / "out", "--model", model,
        "--fleet", fleet,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "out/fleet.yaml").read_bytes() == fleet.read_bytes()
    said = json.loads(alone(folder, REQUEST, "--json", "--fleet", fleet).stdout)
    assert "Kite" in said["probabilities"] and "Drone" not in said["probabilities"]


def test_refuses_a_full_folder_and_leaves_nothing_behind(model: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("kept")
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(model.read_bytes()[:-1] + b"\xff")
    wrong_fleet = tmp_path / "fleet.yaml"
    wrong_fleet.write_text("robots: 3")
    before = sorted(tmp_path.rglob("*"))
    for words, part in [
        (["--out", full, "--model", model], "is there already"),
        (["--out", tmp_path / "new", "--model", damaged], "damaged"),
        (["--out", tmp_path / "new", "--model", model, "--fleet", wrong_fleet], "fleet"),
        (["--out", tmp_path / "new", "--model", model, "--target", "moon"], "Unknown target"),
    ]:
        target = [] if "--target" in words else ["--target", "pi"]
        result = here("export", "package", *target, *words)
        assert result.exit_code == 2
        assert part in result.stderr and result.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    empty = tmp_path / "empty"
    empty.mkdir()
    package(empty, model=model)
    check_sums(empty)


def test_writes_the_folder_where_no_engine_is_compiled(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> None:
        raise ValueError("not compiled here")

    monkeypatch.setattr(engine, "library", absent)
    monkeypatch.setattr(package_module, "library_path", lambda: None)
    package(tmp_path / "out", model=model)
    assert "type q4_0" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_asks_for_what_the_package_asks_for() -> None:
    asked = (FILES / "requirements.txt").read_text().splitlines()
    project = tomllib.loads((FILES.parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(asked[1:]) <= set(project["dependencies"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_is_sound(tmp_path: Path) -> None:
    # The program that the unit starts is not installed here.
    unit = (FILES / "embervlm.service").read_text().replace("/usr/bin/python3 ", "/bin/true ")
    (tmp_path / "embervlm.service").write_text(unit)
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "embervlm.service")],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0 and "embervlm" not in checked.stderr, checked.stderr
