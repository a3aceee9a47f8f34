"""The doctor tells what is here and calls a fault what keeps a decision from being made."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from embervlm import checkpoint, cli, doctor, engine


def test_names_the_parts_and_their_versions() -> None:
    found = {finding.what: finding for finding in doctor.examine()}
    assert {"Python", "model", "engine", "SQLite", "numpy", "pillow", "torch", "gguf"} <= set(found)
    assert not found["numpy"].fault


def test_a_damaged_model_and_a_missing_engine_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path)

    def absent() -> None:
        raise ValueError("not compiled here: install a C compiler")

    monkeypatch.setattr(engine, "library", absent)
    found = {finding.what: finding for finding in doctor.examine()}
    assert found["model"].fault
    assert "cannot be read" in found["model"].found
    assert "compiler" in found["engine"].found
    assert not found["engine"].fault, "the other backends still decide"


def test_the_engine_with_its_file_is_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path
) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(tiny_model.read_bytes())
    monkeypatch.setattr(checkpoint, "SHIPPED", file)
    whole = doctor._version_of
    monkeypatch.setattr(doctor, "_version_of", lambda name: name != "gguf" and whole(name) or None)
    findings = doctor.examine()
    found = {finding.what: finding.found for finding in findings}
    assert not any(finding.fault for finding in findings)
    assert f"m.gguf: f32, {file.stat().st_size:,} bytes, SHA-256 " in found["model"]
    for name in engine.kernel_sets():
        assert name in found["engine"]
    assert str(engine.library_path()) in found["engine build"]
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    damaged = {finding.what: finding for finding in doctor.examine()}
    assert damaged["model"].fault and "damaged" in damaged["model"].found


def test_without_engine_and_gguf_package_no_decision_can_be_made(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    monkeypatch.setattr(checkpoint, "SHIPPED", tiny_model)
    monkeypatch.setattr(doctor, "_engine", lambda: ({"engine": "not compiled here"}, False))
    whole = doctor._version_of
    assert not any(finding.fault for finding in doctor.examine())
    monkeypatch.setattr(doctor, "_version_of", lambda name: name != "gguf" and whole(name) or None)
    assert [finding.what for finding in doctor.examine() if finding.fault] == ["engine"]


def test_json_and_exit_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["doctor", "--json"])
    report = json.loads(result.stdout)
    assert result.exit_code == (not report["can_decide"])
    assert {row["what"] for row in report["findings"]} >= {"processor", "photos", "model"}
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path)
    result = CliRunner().invoke(cli.app, ["doctor", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["can_decide"] is False


def test_a_missing_package_is_a_line_and_not_a_crash() -> None:
    program = (
        "import sys\n"
        "from importlib import metadata\n"
        "whole = metadata.version\n"
        "def version(name):\n"
        "    if name == 'numpy': raise metadata.PackageNotFoundError(name)\n"
        "    return whole(name)\n"
        "metadata.version = version\n"
        "sys.modules['numpy'] = None\n"
        "from embervlm import doctor\n"
        "faults = [f.what for f in doctor.examine() if f.fault]\n"
        "assert faults == ['numpy'], faults\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_reads_a_pis_processor_memory_and_temperature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.platform, "machine", lambda: "aarch64")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n\n"
        "Model\t\t: Raspberry Pi Zero 2 W Rev 1.0\n"
    )
    (tmp_path / "proc/meminfo").write_text("MemTotal:  431000 kB\nMemAvailable: 262144 kB\n")
    for i, text in enumerate(["48312\n", "broken", "51000\n"]):
        zone = tmp_path / f"sys/class/thermal/thermal_zone{i}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(text)
    found = {finding.what: finding.found for finding in doctor._machine(tmp_path)}
    assert "Raspberry Pi Zero 2 W" in found["processor"]
    assert "has asimd; not asimddp, i8mm" in found["processor"]
    assert found["memory"] == "420 MiB, 256 available"
    assert found["temperature"].startswith("51 degrees")
    (tmp_path / "empty").mkdir()
    assert [f.what for f in doctor._machine(tmp_path / "empty")] == ["processor"]


def test_names_the_extra_that_brings_a_package() -> None:
    path = Path(__file__).parents[1] / "pyproject.toml"
    extras = tomllib.loads(path.read_text("utf-8"))["project"]["optional-dependencies"]
    for package, extra in doctor._EXTRAS.items():
        assert any(line.startswith(package) for line in extras[extra]), package
    assert set(doctor._EXTRAS.values()) == set(extras) - {"docs", "dev"}


def test_a_path_and_a_digest_stay_whole_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = "/a/" + "b" * 120 + "/ember-nano.gguf, SHA-256 " + "c" * 64
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding("model", long)])
    monkeypatch.setenv("COLUMNS", "60")
    printed = CliRunner().invoke(cli.app, ["doctor"]).stdout
    assert "".join(re.findall(r"[\w/.,-]", printed)) == f"whatfoundmodel{long.replace(' ', '')}"
    assert "\N{HORIZONTAL ELLIPSIS}" not in CliRunner().invoke(cli.app, ["fleet", "show"]).stdout


def test_a_terminal_that_is_not_utf_8_gets_question_marks(tmp_path: Path) -> None:
    fleet = tmp_path / "f.yaml"
    default = Path(cli.__file__).parent / "default_fleet.yaml"
    fleet.write_text(default.read_text("utf-8").replace("name: Drone", "name: K\u00e4fer"), "utf-8")
    lesson = ["--task", "film the roof", "--robots", "Drone", "--note", "\u6f22 it flies"]
    place = ["--memory", str(tmp_path / "l.sqlite")]
    for encoding, words, part in (
        ("ascii", ["doctor"], "engine"),
        ("ascii", ["fleet", "show", "--fleet", str(fleet)], "K?fer"),
        ("latin-1", ["memory", "add", *lesson, *place], "? it flies"),
        ("latin-1", ["memory", "show", "1", *place], "? it flies"),
        ("latin-1", ["decide", "--help"], "--batch"),
    ):
        ran = subprocess.run(
            [sys.executable, "-m", "embervlm", *words],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True, encoding=encoding,
        )  # fmt: skip
        assert (ran.returncode, ran.stderr) == (0, ""), words
        assert part in ran.stdout
