"""What a process measures is complete, and what is made of several is their middle."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from embervlm.evaluation import bench
from embervlm.evaluation.bench import measure, run, summary

KEYS = {
    "load_ms", "first_ms", "vision_ms", "prefill_ms", "token_ms", "request_ms", "p95_ms",
    "worded_ms", "peak_rss_mb", "decide_ms", "decide_rss_mb", "joules", "file_bytes",
}  # fmt: skip


def test_the_middle_of_several_processes() -> None:
    runs = [
        {
            **dict.fromkeys(KEYS - {"request_ms", "p95_ms"}, float(i)),
            "joules": None,
            "request_ms": [float(i), 10.0 * i],
            "file_bytes": 5,
        }
        for i in (1, 2, 9)
    ]
    row = summary(runs)
    assert set(row) == KEYS
    assert row["load_ms"] == 2.0
    assert row["request_ms"] == 9.5
    assert row["p95_ms"] == 20.0
    assert row["joules"] is None


@pytest.mark.parametrize("backend", ["reference", "pytorch"])
def test_measures_every_figure(tiny_model: Path, photo: Path, backend: str) -> None:
    found = measure(backend, tiny_model, 1, photo)
    assert set(found) == KEYS - {"p95_ms", "decide_ms", "decide_rss_mb"}
    assert all(ms > 0 for ms in found["request_ms"])
    assert found["token_ms"] > 0
    assert found["file_bytes"] == tiny_model.stat().st_size


def test_rows_in_turn_and_a_failed_process_speaks(tiny_model: Path, photo: Path) -> None:
    lines: list[str] = []
    report = run([("reference", tiny_model)], [1, 2], photo, 1, lines.append)
    assert [(row["backend"], row["threads"]) for row in report["results"]] == [
        ("reference", 1),
        ("reference", 2),
    ]
    assert len(lines) == 2
    with pytest.raises(ValueError, match="reference: .*absent"):
        run([("reference", tiny_model / "absent")], [1], photo, 1)


def test_the_processes_import_the_package_that_runs_whatever_lies_around(
    tiny_model: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "embervlm").mkdir()
    (tmp_path / "embervlm/__init__.py").write_text("raise SystemExit('another embervlm')")
    monkeypatch.chdir(tmp_path)
    assert len(run([("reference", tiny_model)], [1], photo, 1)["results"]) == 1


def test_without_gguf_the_engine_is_measured_and_its_floor_left_out(
    tiny_model: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_in_process", lambda *_: {"request_ms": [1.0]})
    monkeypatch.setattr(bench, "_decide", lambda *_: {})
    monkeypatch.setattr(bench, "summary", lambda found: {"request_ms": found[0]["request_ms"]})
    monkeypatch.setitem(sys.modules, "gguf", None)
    lines: list[str] = []
    report = run([("native", tiny_model)], [1], photo, 1, lines.append)
    assert "floor" not in report and len(report["results"]) == 1
    assert lines[-1] == "no floor: it needs gguf, pip install 'embervlm[export]'"
