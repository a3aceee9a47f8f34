"""The code blocks of README.md and docs/, and what of them a test can run.

A block of commands is marked `console`; a line of it is run as it stands unless its comment ends in
the reason why not: `[needs a GPU]`, `[takes minutes]`, `[runs until it is stopped]`. A line of that
comment alone keeps all lines below it from being run. A block with a `title` is a file, which is
written for the blocks behind it. Blocks marked `python` are run too, under the same rule.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What CI runs itself; make would build a whole environment again.
RUN_BY_CI = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
PROGRAMS = (
    "accelerate", "bash", "curl", "docker", "embervlm", "make", "mkdocs", "pip", "pytest", "python",
    "python3", "scp", "ssh", "sudo", "torchrun",
)  # fmt: skip
PHOTO = ROOT / "embervlm" / "demo" / "seabed.jpg"

_BLOCK = re.compile(
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
_REASON = re.compile(r"#.*\[(?:needs|takes|runs) [^\]]+\]\s*$")


@dataclass(frozen=True)
class Block:
    """A code block: where it begins, its mark, the file that it is (or ""), what it holds."""

    place: str
    language: str
    title: str
    text: str

    @property
    def is_commands(self) -> bool:
        """Whether somebody would type it: its first word is a program, or set for one."""
        words = re.sub(r"^(?:#.*\n|[A-Z_]+=\S+ )+", "", self.text).split()
        return self.language in ("", "bash", "sh", "shell") and words[:1] != [] and (
            words[0] in PROGRAMS
        )  # fmt: skip

    def script(self) -> str:
        """Return the lines that are run; "" if none is."""
        kept: list[str] = []
        for line in self.text.replace("\\\n", "").splitlines():
            has_reason = _REASON.search(line) is not None
            if has_reason and line.startswith("#"):
                break
            if not has_reason and line.split("#")[0].strip() not in RUN_BY_CI:
                kept.append(line)
        return "\n".join(kept).strip()


def blocks_of(document: Path) -> Iterator[Block]:
    text = document.read_text("utf-8")
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Block(
            f"{document.relative_to(ROOT)}:{line}",
            match["language"],
            match["title"] or "",
            match["text"],
        )


def make_folder(folder: Path) -> None:
    """Lay out what a reader has: the repository's files, two photos and some requests."""
    for path in ROOT.iterdir():
        if path.name != "build" and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    for name in ("photo.jpg", "flood.jpg"):
        shutil.copyfile(PHOTO, folder / name)
    line = '{"id": 1, "task": "look at the roof", "image": "photo.jpg"}\n'
    (folder / "requests.jsonl").write_text(line, "utf-8")


def run_block(block: Block, folder: Path) -> None:
    """Write a block's file, or run it as a reader would.

    Raises:
        AssertionError: it ended with a fault; says where the block stands and what it printed.
    """
    if block.title:
        path = folder / block.title
        path.parent.mkdir(exist_ok=True)
        path.write_text(block.text, "utf-8")
        return
    script = block.script() if block.language in ("console", "python") else ""
    if not script:
        return
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "EMBERVLM_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
    }
    command = ["bash", "-euo", "pipefail", "-c", script]
    if block.language == "python":
        command = [sys.executable, "-c", f"import embervlm\n{script}"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{block.place}:\n{script}\n{done.stdout}{done.stderr}"
