"""Where lessons lie on each system."""

from pathlib import Path

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
