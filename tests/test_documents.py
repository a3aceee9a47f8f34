"""What the documents tell a reader to type works, and what they show is what comes out."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from documents import DOCUMENTS, PHOTO, ROOT, Block, blocks_of, make_folder, run_block

import embervlm

if shutil.which("bash") is None:
    pytest.skip("needs bash", allow_module_level=True)
pytest.importorskip("torch")

WITH_BLOCKS = [
    document
    for document in DOCUMENTS
    if any(block.language in ("console", "python") for block in blocks_of(document))
]


@pytest.mark.parametrize("document", WITH_BLOCKS, ids=lambda document: document.stem)
def test_blocks_run_as_they_stand(document: Path, tmp_path: Path) -> None:
    make_folder(tmp_path)
    for block in blocks_of(document):
        run_block(block, tmp_path)


def test_every_block_of_commands_is_marked() -> None:
    unmarked = [
        block.place for document in DOCUMENTS for block in blocks_of(document) if block.is_commands
    ]
    assert unmarked == [], "mark them ```console (tests/documents.py)"


def test_what_is_not_run_says_why() -> None:
    text = (
        "embervlm doctor  # here\n"
        "embervlm serve   # a page [runs until it is stopped]\n"
        "embervlm eval \\\n  --report out  # [takes minutes]\n"
        "make demo\n"
        "# [needs a GPU]\n"
        "embervlm train\n"
    )
    assert Block("", "console", "", text).script() == "embervlm doctor  # here"


def test_a_block_that_fails_is_found(tmp_path: Path) -> None:
    block = Block("docs/plans.md:7", "console", "", "embervlm decide absent.jpg look\n")
    with pytest.raises(AssertionError, match=r"docs/plans\.md:7"):
        run_block(block, tmp_path)


def test_every_test_that_a_document_names_is_a_file() -> None:
    absent = []
    for document in (*DOCUMENTS, *ROOT.glob("*.md")):
        text = document.read_text("utf-8")
        stated = re.search(r"All tests lie in `([\w/]+)`", text)
        files = list((ROOT / (stated[1] if stated else "tests")).rglob("test_*.py"))
        for name in re.findall(r"((?:[\w-]+/)*\btest_\w+)(?:\.py)?", text):
            where = [ROOT / f"{name}.py"] if "/" in name else [f for f in files if f.stem == name]
            if not any(file.is_file() for file in where):
                absent.append(f"{document.name}: {name}")
    assert absent == []


def test_the_answer_of_the_readme_is_the_answer() -> None:
    shown = next(block.text for block in blocks_of(ROOT / "README.md") if block.language == "text")
    request = re.search(r"request +(.+)", shown)
    assert request is not None
    done = subprocess.run(
        [sys.executable, "-c", "from embervlm.cli import app; app()", "decide", PHOTO, request[1]],
        capture_output=True, text=True, check=True, env={"COLUMNS": "200", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    printed = _plain(done.stdout)
    for line in shown.splitlines():
        assert _plain(line.removesuffix(" ...")) in printed


def test_the_citation_names_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited["version"] == embervlm.__version__


def test_nothing_is_fetched_by_a_name_that_no_index_has() -> None:
    for path in [*DOCUMENTS, *(ROOT / "deploy").iterdir(), ROOT / "embervlm/export/pi/README.md"]:
        assert not re.search(r"pip install\b[^\n]*?[ '\"]embervlm\b", path.read_text("utf-8")), path


def _plain(text: str) -> str:
    """Return the words, without bars, frames and the width of gaps."""
    return " ".join(re.sub(r"[━╸╺│╭╮╰╯─]", " ", text).split())
