"""A line of JSON ends where its writer ended it."""

import json
from pathlib import Path

import pytest

from embervlm.json_lines import json_lines


def test_every_row_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [chr(code) for code in range(0x3000) if not 0xD800 <= code <= 0xDFFF]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    assert [json.loads(line) for _, line in json_lines(path)] == rows


def test_empty_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"1\r\n\n \n2\n\xff")
    assert json_lines(path, "replace") == [(1, "1"), (4, "2"), (5, "\ufffd")]
    with pytest.raises(UnicodeDecodeError):
        json_lines(path)
