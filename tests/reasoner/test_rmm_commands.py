"""`embervlm rmm`: what it prints and writes, and one sentence for every mistake."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from embervlm import cli

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True, raising=False)
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, ["rmm", *(str(word) for word in words)])


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    found = run("simulate", "--out", tmp_path / "sim", "--rows", 20, "--problems", 16)
    assert found.exit_code == 0, found.output
    assert "problems.jsonl: 16 rows." in found.output
    return tmp_path / "sim" / "problems.jsonl"


def test_a_model_is_measured_over_http_and_its_memory_goes_on(
    problems: Path, tmp_path: Path
) -> None:
    from scripted_model import ScriptedModel, Skill, serve

    from embervlm.reasoner.data_sets import load_set

    class Parrot(ScriptedModel):
        def answer(self, words: str) -> str:
            self.prompts.append(words)
            return "2 * 2 = 5\nAnswer: 5"

    model = Parrot(Skill(0.5), [], 0)
    report, traces, memory = (tmp_path / name for name in ("r.json", "t.jsonl", "m.json"))
    with serve(model) as url:
        words = (
            "evaluate", "--model", f"openai:{url}#m", "--data", f"simulated:{problems}",
            "--limit", 5, "--memory", memory, "--traces", traces, "--json", report,
        )  # fmt: skip
        found = run(*words)
        again = run(*words)
        hinted = run(*words, "--feedback", "hint", "--manager", "rules")
    assert found.exit_code == 0, found.output
    assert "5 problems, feedback: self" in found.output
    assert "Stopped: 5 unchanged. Entries: 1." in found.output
    assert again.exit_code == 0
    assert "2 * 2 is not 5: calculate it again." in model.prompts[-1] or hinted.exit_code == 0
    assert "feedback: hint (oracle)" in hinted.output
    written = json.loads(report.read_text())
    assert (written["feedback"], written["oracle"], written["problems"]) == ("hint", True, 5)
    assert written["figures"]["accuracy"]["n"] == 5
    assert written["entries"]["before"] == 1
    lines = [json.loads(line) for line in traces.read_text().splitlines()]
    golds = [list(case.gold.answers) for case in load_set(f"simulated:{problems}").cases[:5]]
    assert [line["gold"] for line in lines] == golds
    assert len(json.loads(memory.read_text())["entries"]) == written["entries"]["after"] > 1


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("model", "more", "says"),
    [
        ("gpt", (), "There is no model 'gpt'; give openai:URL#model"),
        ("openai:localhost", (), "is no endpoint"),
        ("openai:http://127.0.0.1:PORT/v1#m", (), "cannot be reached (no connection"),
        ("local:nobody/nothing", (), "cannot be loaded"),
        ("local:FOLDER", (), "cannot be loaded"),
        ("embervlm:nowhere.gguf", (), "nowhere.gguf"),
        (
            "openai:http://127.0.0.1:PORT/v1#m",
            ("--feedback", "gold"),
            "There is no feedback 'gold'",
        ),
        ("openai:http://127.0.0.1:PORT/v1#m", ("--data", "gsm8k:nowhere"), "nowhere is not there"),
        ("openai:http://127.0.0.1:PORT/v1#m", ("--data", "x"), "There is no set 'x'"),
        ("openai:http://127.0.0.1:PORT/v1#m", ("--json", "no/where.json"), "cannot be written"),
        ("openai:http://127.0.0.1:PORT/v1#m", ("--memory", "PROBLEMS"), "holds no saved entries"),
        ("openai:http://127.0.0.1:PORT/v1#m", ("--temperature", "9"), "temperature is 9"),
        (
            "openai:http://127.0.0.1:PORT/v1#m",
            ("--manager", "nobody"),
            "There is no model 'nobody'",
        ),
        (
            "openai:http://127.0.0.1:PORT/v1#m",
            ("--manager", "openai:http://localhost/v1#m", "--ask-again"),
            "--ask-again is for",
        ),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_code_2(
    model: str, more: tuple[str, ...], says: str, problems: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    model = model.replace("PORT", str(free_port())).replace("FOLDER", str(empty))
    words = ["--model", model, "--data", f"simulated:{problems}", "--retries", "0"]
    found = run("evaluate", *words, *(word.replace("PROBLEMS", str(problems)) for word in more))
    assert found.exit_code == 2, found.output
    last = found.stderr.strip().splitlines()[-1]
    assert says in last
    assert "Traceback" not in found.output
    assert last.startswith("embervlm: ")


def test_training_without_data_gets_a_sentence(tmp_path: Path) -> None:
    found = run("train", "--model", "x", "--data", tmp_path, "--out", tmp_path / "out")
    assert found.exit_code == 2
    assert "write it with 'embervlm rmm simulate'" in found.stderr


def test_help_and_simulating_need_no_torch(tmp_path: Path) -> None:
    code = f"""
import sys
for name in ("torch", "transformers", "peft", "scipy"):
    sys.modules[name] = None
from typer.testing import CliRunner
from embervlm import cli
runner = CliRunner()
simulate = ["rmm", "simulate", "--out", {str(tmp_path / "s")!r}, "--rows", "20"]
for words in (["--help"], ["rmm", "--help"], ["rmm", "evaluate", "--help"], simulate):
    found = runner.invoke(cli.app, words)
    assert found.exit_code == 0, found.output
    assert "numpy" not in sys.modules or "simulate" in words, words
found = runner.invoke(cli.app, ["rmm", "train", "--model", "m", "--data", {str(tmp_path / "s")!r},
                                "--out", {str(tmp_path / "o")!r}])
assert found.exit_code == 2 and "embervlm[train]" in found.stderr, found.output
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
