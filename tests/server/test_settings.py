"""What the server is told: keys, names, and that strangers need a key."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from embervlm import cli
from embervlm.server.settings import ServerSettings, check_reach, read_keys

KEY = "0123456789abcdef"


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    file = path / "keys"
    file.write_text(text, "utf-8")
    file.chmod(mode)
    return file


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "127.0.0.1.x", ""])
def test_other_machines_need_a_key(host: str) -> None:
    with pytest.raises(ValueError, match="--api-key-file"):
        check_reach(host, ServerSettings())
    check_reach(host, ServerSettings(keys={"a": KEY}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    check_reach(host, ServerSettings())


def test_a_key_file_has_names_and_keys(tmp_path: Path) -> None:
    text = f"# clients\ncontrol-room {KEY}\n\ntablet {KEY}0\n"
    assert read_keys(write(tmp_path, text)) == {"control-room": KEY, "tablet": KEY + "0"}
    assert read_keys(write(tmp_path, KEY + "\n")) == {"key": KEY}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# none",
        "short",
        f"a {KEY} more",
        f"{KEY}\n{KEY}0",
        f"a {KEY}\nb {KEY}",
        f"A! {KEY}",
        "\xe9",
    ],
)
def test_a_wrong_key_file_is_refused_without_showing_keys(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="--api-key-file") as error:
        read_keys(write(tmp_path, text))
    assert KEY not in str(error.value)


def test_a_key_file_that_everyone_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="chmod"):
        read_keys(write(tmp_path, KEY, 0o644))
    with pytest.raises(ValueError, match="cannot be read"):
        read_keys(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "told"),
    [("robots: {Drone: {battery: 7}}", "a share"), ("robots: {Nobody: {}}", "No robot is called")],
)
def test_a_state_that_does_not_fit_is_told_before_the_first_request(
    tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "state.yaml"
    path.write_text(text, "utf-8")
    words = ["serve", "--port", "0", "--state", str(path), "--memory", str(tmp_path / "lessons")]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2
    assert told in result.output


def test_settings_do_not_show_their_keys() -> None:
    assert KEY not in repr(ServerSettings(keys={"a": KEY}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"queue": 0},
        {"hosts": ("a b",)},
        {"hosts": ("*",)},
        {"origins": ("*",)},
        {"origins": ("a",)},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="--"):
        ServerSettings(**wrong)  # type: ignore[arg-type]
