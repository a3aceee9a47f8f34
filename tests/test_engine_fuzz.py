"""Mutated model files, some with the digest that fits them, under the sanitizers.

`make fuzz` runs 50,000 of them; this runs a few, so that CI sees the harness work.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf")

ROOT = Path(__file__).parents[1]
COUNT = 400


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    program = tmp_path_factory.mktemp("fuzz") / "fuzz"
    engine = ROOT / "embervlm" / "engine"
    sources = [*map(str, sorted(engine.glob("*.c"))), str(ROOT / "tests" / "engine" / "fuzz.c")]
    flags = ["-std=c11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run(
        ["cc", *flags, "-ffp-contract=off", "-pthread", f"-I{engine}", *sources]
        + ["-o", str(program), "-lm"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot find" in built.stderr:
        pytest.skip("the sanitizers' libraries are not installed")
    assert built.returncode == 0, built.stderr
    return program


@pytest.mark.parametrize("family", ["ember-nano", "bitmar"])
def test_mutated_files_are_refused_with_a_sentence_or_run(
    program: Path, tmp_path: Path, family: str
) -> None:
    seed = tmp_path / "seed.gguf"
    script = ROOT / "tests" / "engine" / "write_seed.py"
    subprocess.run([sys.executable, str(script), str(seed), family], check=True)
    done = subprocess.run(
        [str(program), str(seed), str(COUNT), "7"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    refused, ran = (int(part.split()[0]) for part in done.stdout.split(",")[:2])
    assert refused + ran == COUNT
    assert refused > COUNT / 3
    assert ran > 10
