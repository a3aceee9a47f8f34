"""The table of photos keeps train, validation and test apart: by duplicate group and by source."""

import hashlib
import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embervlm.data.photos import (
    EXCLUDED,
    MAX_TEST_PHOTOS,
    SAME,
    TABLE,
    Photo,
    assign_splits,
    load_captions,
    load_photos,
    pack,
    write_table,
)
from embervlm.imaging import crop_square, load_image

ROOT = Path(__file__).parents[2]
SHARED = ROOT / os.environ.get("EMBERVLM_SHARED", "../shared")
needs_photos = pytest.mark.skipif(
    not (SHARED / "photos" / "manifest.jsonl").exists(),
    reason="the photos lie beside the repository only where it is developed",
)


def row(number: int, place: str = "street", source: str = "a", group: str = "") -> dict[str, str]:
    return {
        "file": f"{place}/{source}{number}.jpg",
        "class": place,
        "source": source,
        "group": group or f"g-{place}-{source}-{number}",
    }


@pytest.fixture(scope="module")
def photos() -> list[Photo]:
    return load_photos(ROOT / TABLE)


def test_a_class_with_one_source_is_split_about_70_15_15() -> None:
    splits = list(assign_splits([row(number) for number in range(4000)]).values())
    shares = [splits.count(split) / 4000 for split in ("train", "validation", "test")]
    assert shares == pytest.approx([0.70, 0.15, 0.15], abs=0.02)


def test_the_smallest_source_is_the_test_and_is_seen_nowhere_else() -> None:
    rows = [row(n, source="big") for n in range(300)] + [row(n, source="few") for n in range(50)]
    splits = assign_splits(rows)
    assert {splits[r["file"]] for r in rows if r["source"] == "few"} == {"test"}
    assert {splits[r["file"]] for r in rows if r["source"] == "big"} == {"train", "validation"}


def test_surplus_photos_of_the_held_out_source_are_unused() -> None:
    rows = [row(n, source="big") for n in range(300)] + [row(n, source="few") for n in range(200)]
    splits = assign_splits(rows)
    assert list(splits.values()).count("test") == MAX_TEST_PHOTOS
    assert len(splits) == 300 + MAX_TEST_PHOTOS


def test_near_duplicates_stay_together() -> None:
    rows = [row(number, group=f"g{number // 4}") for number in range(400)]
    splits = assign_splits(rows)
    of_group = defaultdict(set)
    for r in rows:
        of_group[r["group"]].add(splits[r["file"]])
    assert all(len(found) == 1 for found in of_group.values())


def test_a_group_with_two_classes_or_with_two_sources_of_one_class_is_left_out() -> None:
    rows = [row(n, source="big") for n in range(30)] + [row(n, source="few") for n in range(10)]
    rows += [row(91, "street", group="two"), row(92, "urban", group="two")]
    rows += [row(93, source="big", group="both"), row(94, source="few", group="both")]
    assert set(assign_splits(rows)) == {r["file"] for r in rows[:40]}


def test_joined_groups_stay_together() -> None:
    rows = [row(number, group=f"g{number}") for number in range(400)]
    same = {f"g{number}": f"g{number - number % 4}" for number in range(400) if number % 4}
    splits = assign_splits(rows, same=same)
    for first in range(0, 400, 4):
        assert len({splits[rows[number]["file"]] for number in range(first, first + 4)}) == 1


def test_an_excluded_source_does_not_become_the_test() -> None:
    rows = [row(n, source="good") for n in range(200)] + [row(n, source="odd") for n in range(20)]
    splits = assign_splits(rows, excluded=[r["file"] for r in rows if r["source"] == "odd"])
    assert set(splits) == {r["file"] for r in rows if r["source"] == "good"}
    assert set(splits.values()) == {"train", "validation", "test"}


def test_the_order_of_the_manifest_changes_nothing() -> None:
    rows = [row(n, source=source) for source in "ab" for n in range(200)]
    assert assign_splits(rows) == assign_splits(rows[::-1])


def test_no_group_and_no_photo_of_the_table_is_in_two_splits(photos: list[Photo]) -> None:
    for key in ("group", "sha256", "file"):
        found = defaultdict(set)
        for photo in photos:
            found[getattr(photo, key)].add(photo.split)
        assert all(len(splits) == 1 for splits in found.values()), key


def test_every_environment_and_class_of_the_table_is_in_every_split(photos: list[Photo]) -> None:
    for key in ("environment", "place"):
        found = defaultdict(set)
        for photo in photos:
            found[getattr(photo, key)].add(photo.split)
        assert set(map(len, found.values())) == {3}, key


def test_no_excluded_photo_is_in_the_table(photos: list[Photo]) -> None:
    excluded = json.loads((ROOT / EXCLUDED).read_text(encoding="utf-8"))
    assert all(excluded.values())
    assert not excluded.keys() & {photo.file for photo in photos}


def test_the_split_is_the_one_that_results_were_reported_on(photos: list[Photo]) -> None:
    lines = "\n".join(sorted(f"{photo.file} {photo.split}" for photo in photos))
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == "95d7949a409edc2d"


@needs_photos
def test_train_and_test_share_no_source_of_a_class_with_several(photos: list[Photo]) -> None:
    text = (SHARED / "photos" / "manifest.jsonl").read_text(encoding="utf-8")
    source = {r["file"]: r["source"] for r in map(json.loads, text.splitlines())}
    used = defaultdict(lambda: defaultdict(set))
    for photo in photos:
        used[photo.place][photo.split].add(source[photo.file])
    several = [place for place, by in used.items() if len(set().union(*by.values())) > 1]
    assert len(several) == 11
    for place in several:
        assert not used[place]["test"] & (used[place]["train"] | used[place]["validation"])


@needs_photos
def test_the_committed_table_is_what_the_code_writes(tmp_path: Path) -> None:
    table = tmp_path / "photos.jsonl"
    write_table(SHARED / "photos", table, excluded=ROOT / EXCLUDED, same=ROOT / SAME)
    assert table.read_bytes() == (ROOT / TABLE).read_bytes()


def test_reads_back_what_it_writes_and_refuses_unknown_fields(tmp_path: Path) -> None:
    (tmp_path / "street").mkdir()
    rows = []
    for number in range(20):
        image = Image.new("RGB", (40, 30), (number, 0, 0))
        entry = row(number)
        image.save(tmp_path / entry["file"])
        rows.append({**entry, "environment": "paved", "licence": "none", "captions": ["a road"]})
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "excluded.json").write_text(json.dumps({rows[0]["file"]: "odd"}), encoding="utf-8")
    table = tmp_path / "photos.jsonl"
    (tmp_path / "same.json").write_text("{}", encoding="utf-8")
    written = write_table(
        tmp_path, table, excluded=tmp_path / "excluded.json", same=tmp_path / "same.json"
    )
    assert load_photos(table) == written
    assert [photo.file for photo in written] == [r["file"] for r in rows[1:]]
    assert load_captions(tmp_path)[rows[0]["file"]] == ("a road",)
    table.write_text('{"file": "a.jpg", "colour": "red"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 1"):
        load_photos(table)


def test_packs_the_pixels_that_a_request_would_have(tmp_path: Path) -> None:
    (tmp_path / "street").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), dtype=np.uint8)
    for number in range(3):
        Image.fromarray(noise[number]).save(tmp_path / row(number)["file"])
    lines = "\n".join(json.dumps(row(number)) for number in range(3))
    (tmp_path / "manifest.jsonl").write_text(lines, encoding="utf-8")
    archived = tmp_path / "not there yet" / "photos.npz"
    pack(tmp_path, archived, size=32)
    with np.load(archived, allow_pickle=False) as archive:
        assert archive["files"].tolist() == [row(number)["file"] for number in range(3)]
        for number in range(3):
            expected = crop_square(load_image(tmp_path / row(number)["file"]), 32)
            assert np.array_equal(archive["pixels"][number], expected)
