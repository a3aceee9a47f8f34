"""Where lessons lie on each system."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from embervlm import cli
from embervlm.memory.home import home, lessons_path


def test_the_variable_comes_first_then_the_systems_own_rule(own_home: Path) -> None:
    assert lessons_path() == own_home / "lessons.sqlite"
    for system in ("linux", "darwin", "win32"):
        assert home({"EMBERVLM_HOME": "/else"}, system) == Path("/else")
    user = Path.home()
    assert home({}, "linux") == user / ".local/share/embervlm"
    assert home({"EMBERVLM_HOME": "", "XDG_DATA_HOME": "/data"}, "linux") == Path("/data/embervlm")
    assert home({"XDG_DATA_HOME": "not/absolute"}, "linux") == user / ".local/share/embervlm"
    assert home({}, "darwin") == user / "Library/Application Support/embervlm"
    assert home({"APPDATA": "/roaming"}, "win32") == Path("/roaming/embervlm")
    assert home({}, "win32") == user / "AppData/Roaming/embervlm"


def test_without_a_home_it_is_decided_without_lessons_and_the_rest_says_so(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    for name in ("EMBERVLM_HOME", "XDG_DATA_HOME", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    for system in ("linux", "darwin", "win32"):
        with pytest.raises(ValueError, match="no home folder for lessons; set EMBERVLM_HOME"):
            home({}, system)
    words = ["decide", "look at the roof", "--json", "--model", str(tiny_model)]
    decided = CliRunner().invoke(cli.app, words)
    assert (decided.exit_code, decided.stderr) == (0, "")
    listed = CliRunner().invoke(cli.app, ["memory", "list"])
    assert listed.exit_code == 2
    assert listed.stderr.startswith("embervlm: There is no home folder for lessons")
