"""Batches over Ray Data: the same answers as without it, whoever is killed, wherever it stopped."""

import json
import os
import random
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from embervlm import bulk, cli
from embervlm.backends import load_backend
from embervlm.bulk import BlockWorker, decide_in_bulk, plan_blocks
from embervlm.intake import MAX_LINE_BYTES, numbered_lines
from embervlm.scenario import Decision, Scenario
from embervlm.selector import Selector

RAW = [
    b'{"id": 1, "task": "look at the roof"}',
    b"",
    b"not json",
    b'{"id": 2, "task": null, "image": "photo.png"}',
    b'{"id": "gone", "image": "gone.png"}',
    b"   ",
    b'{"id": "long", "task": "' + b"x" * MAX_LINE_BYTES + b'"}',
    b'{"id": "\xff"}',
    b'{"id": "last", "task": "carry the 8 kg pump up the stairs"}',
]


def decide(model: Path, *words: object) -> Result:
    arguments = ["decide", *map(str, words), "--model", str(model)]
    return CliRunner().invoke(cli.app, arguments)


@pytest.fixture
def requests(tmp_path: Path, photo: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "photo.png").write_bytes(photo.read_bytes())
    (folder / "requests.jsonl").write_bytes(b"\n".join(RAW * 3))  # the last line has no end
    return folder / "requests.jsonl"


def joined(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("part-*.jsonl")))


def load(model: Path) -> Selector:
    return Selector(load_backend("native", model))


class Killed(Selector):
    """A selector whose process is killed at its third line, as long as a file is there."""

    mark: Path
    seen = 0

    def decide(self, scenario: Scenario, **options: object) -> Decision:  # type: ignore[override]
        self.seen += 1
        if self.seen == 3 and self.mark.exists():
            self.mark.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decide(scenario, **options)  # type: ignore[arg-type]


def load_killed(model: Path, mark: Path) -> Selector:
    selector = Killed(load_backend("native", model))
    selector.mark = mark
    return selector


@pytest.mark.parametrize("seed", range(20))
def test_blocks_are_the_whole_file_and_count_lines_as_a_batch_does(
    tmp_path: Path, seed: int
) -> None:
    source, chance = tmp_path / "in.jsonl", random.Random(seed)
    sizes = (0, 1, 7, MAX_LINE_BYTES - 1, MAX_LINE_BYTES, MAX_LINE_BYTES + 1, 3 * MAX_LINE_BYTES)
    lines = [bytes([97 + i % 26]) * chance.choice(sizes) for i in range(9)]
    source.write_bytes(b"\n".join(lines) + chance.choice((b"", b"\n", b"\n\n")))
    blocks = list(plan_blocks(source, chance.randint(1, 4)))
    assert sum(block.size_bytes for block in blocks) == source.stat().st_size
    found: list[tuple[int, bytes]] = []
    for block in blocks:
        with source.open("rb") as file:
            file.seek(block.offset)
            found += [
                (block.first_line + number - 1, line)
                for number, line in numbered_lines(file)
                if number <= block.lines
            ]
    with source.open("rb") as file:
        assert found == list(numbered_lines(file))


def test_answers_are_those_of_a_batch_byte_for_byte(
    ray_cluster: None, tiny_model: Path, requests: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    plain = decide(tiny_model, "--batch", requests, "--out", tmp_path / "out.jsonl")
    # So that there are several blocks; the default stands in the signature.
    monkeypatch.setattr(bulk, "plan_blocks", lambda source, _: plan_blocks(source, 5))
    on_ray = decide(tiny_model, "--batch", requests, "--ray", "--out", tmp_path / "out")
    assert (plain.exit_code, on_ray.exit_code) == (1, 1), on_ray.stderr
    assert "9 of 21 lines decided" in plain.stderr and "9 of 21 lines decided" in on_ray.stderr
    assert len(list((tmp_path / "out").glob("part-*"))) == 6
    assert joined(tmp_path / "out") == (tmp_path / "out.jsonl").read_bytes()


def test_a_killed_worker_loses_no_line_and_a_second_run_does_only_what_is_missing(
    ray_cluster: None, tiny_model: Path, requests: Path, tmp_path: Path
) -> None:
    decide(tiny_model, "--batch", requests, "--out", tmp_path / "out.jsonl")
    expected = (tmp_path / "out.jsonl").read_bytes()
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not see the tests
    mark, out = tmp_path / "mark", tmp_path / "out"
    mark.touch()
    options = {"settings": {"top_k": None}, "top_k": None, "reasoning": True, "lines_a_block": 5}
    killer = partial(load_killed, tiny_model, mark)
    first = decide_in_bulk(killer, requests, out, **options)
    assert not mark.exists()
    assert (first.decided, first.parts, first.resumed) == (21, 6, 0)
    assert joined(out) == expected
    assert sorted(path.suffix for path in out.iterdir()) == [".jsonl"] * 7

    # Broken off, tampered with, and half a line of the manifest; the sixth part was never told.
    parts = sorted(out.glob("part-*"))
    written = {part.name: part.stat().st_mtime_ns for part in parts}
    parts[1].unlink()
    parts[2].write_bytes(parts[2].read_bytes()[:-9])
    manifest = (out / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    manifest = [line for line in manifest if parts[5].name.encode() not in line]
    (out / "manifest.jsonl").write_bytes(b"".join(manifest) + b'{"part": "par')
    second = decide_in_bulk(partial(load, tiny_model), requests, out, **options)
    assert (second.decided, second.parts, second.resumed) == (21, 6, 3)
    assert joined(out) == expected
    again = [part.name for part in parts if part.stat().st_mtime_ns != written[part.name]]
    assert again == [parts[i].name for i in (1, 2, 5)]

    # Nothing is left to do, so no engine is loaded.
    third = decide_in_bulk(lambda: pytest.fail("loaded"), requests, out, **options)
    assert (third.decided, third.resumed) == (21, 6)

    # The input became shorter: what answers no line any more is gone.
    requests.write_bytes(b"\n".join(RAW[:5]))
    fourth = decide_in_bulk(partial(load, tiny_model), requests, out, **options)
    assert fourth.parts == len(list(out.glob("part-*"))) == 1
    assert expected.startswith(joined(out).rstrip(b"\n"))


def test_an_input_that_changes_meanwhile_is_told(
    tiny_model: Path, requests: Path, tmp_path: Path
) -> None:
    first, *_ = plan_blocks(requests, 3)
    worker = BlockWorker(partial(load, tiny_model), str(tmp_path), None, False)
    requests.write_bytes(requests.read_bytes().replace(b"roof", b"wall"))
    with pytest.raises(ValueError, match="was changed while it was read"):
        worker.decide(first)
    assert not list(tmp_path.glob("part-*"))


def test_a_folder_of_other_settings_or_things_is_refused(
    tiny_model: Path, requests: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="ray is not installed (the extra scale)")
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    (out / "manifest.jsonl").write_text(json.dumps({"settings": {"--top-k": 1}}) + "\n", "utf-8")
    other.mkdir()
    (other / "letter.txt").touch()
    for target, part in (
        (out, "was begun with another --backend"),
        (other, "holds something else"),
        (requests.parent, "is where the input lies"),
        (tmp_path / "no" / "out", "must be a folder"),
        (requests, "must be a folder"),
    ):
        result = decide(tiny_model, "--batch", requests, "--ray", "--out", target)
        assert (result.exit_code, part in " ".join(result.stderr.split())) == (2, True), (
            result.stderr
        )
    result = decide(tiny_model, "--batch", other, "--ray", "--out", out)
    assert (result.exit_code, "no folder with files" in result.stderr) == (2, True)
    assert (other / "letter.txt").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["look", "--ray"], "--ray is for many requests"),
        (["--batch", "in.jsonl", "--out", "out", "--actors", "2"], "--actors goes with --ray"),
    ],
)
def test_options_that_do_not_belong_together_are_told(
    tiny_model: Path, words: list[str], part: str
) -> None:
    result = decide(tiny_model, *words)
    assert (result.exit_code, part in result.stderr) == (2, True)
