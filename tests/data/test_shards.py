"""Shards are read in every form of img2dataset, from front to back, as far as they are sound."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from publishers import fetched, jpeg, picture, tar

from embervlm.data.example import Example, Part, Report
from embervlm.data.public import open_set
from embervlm.imaging import MAX_FILE_BYTES, load_image


def rows(*keys: str) -> list[dict[str, Any]]:
    return [fetched(key, f"web {key}", top_caption=f"top {key}") for key in keys]


def write_table(path: Path, content: list[dict[str, Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(content), path)


def read(folder: Path, **more: Any) -> tuple[dict[str, str], Report]:
    report = Report("laion_coco")
    examples = list(open_set("laion_coco", report=report, folder=str(folder), **more))
    return {e.id: e.turns[0].answer for e in examples}, report


def members(content: list[dict[str, Any]]) -> dict[str, bytes]:
    return {
        f"{row['key']}.{ending}": body
        for row in content
        for ending, body in (
            ("jpg", jpeg()),
            ("txt", row["caption"].encode()),
            ("json", json.dumps(row).encode()),
        )
    }


def test_the_archive_is_read_and_the_table_beside_it_is_not(tmp_path: Path) -> None:
    tar(tmp_path / "00000.tar", members(rows("000000000", "000000001")))
    (tmp_path / "00000.parquet").write_bytes(b"not looked at")
    assert read(tmp_path)[0] == {"000000000": "top 000000000", "000000001": "top 000000001"}
    assert read(tmp_path, caption="caption")[0]["000000001"] == "web 000000001"


def test_the_table_tells_of_the_folder_beside_it(tmp_path: Path) -> None:
    content = rows("000000000", "000000001", "000000002", "../../x")
    content[1]["status"] = "failed_to_download"
    write_table(tmp_path / "00000.parquet", content)
    picture(tmp_path / "00000" / "000000000.jpg")
    found, report = read(tmp_path)
    assert found == {"00000/000000000": "top 000000000"}
    assert report.left_out == {
        "not fetched (failed_to_download)": 1,
        "missing image": 1,
        "image outside the folder": 1,
    }


def test_images_inside_a_table_are_bytes(tmp_path: Path) -> None:
    content = [{**row, "jpg": jpeg(shade)} for shade, row in enumerate(rows("0", "1"))]
    write_table(tmp_path / "00000.parquet", content)
    examples = list(open_set("laion_coco", folder=str(tmp_path)))
    assert [e.image for e in examples] == [jpeg(0), jpeg(1)]
    assert isinstance(examples[0].image, bytes)
    assert load_image(examples[0].image).shape == (8, 12, 3)


def test_the_list_of_addresses_is_no_set_of_images(tmp_path: Path) -> None:
    listed = [{"URL": "http://example.org/a.jpg", "TEXT": "a", "top_caption": "b"}]
    write_table(tmp_path / "part-00000-2256f782-c000.snappy.parquet", listed)
    with pytest.raises(ValueError, match="list of addresses; fetch the images with img2dataset"):
        read(tmp_path)


def test_tables_need_pyarrow_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "00000.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install 'embervlm\[parquet\]'"):
        read(tmp_path)


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "00000.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="is not a parquet file"):
        read(tmp_path)


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(ValueError, match="holds no shards; expected 00000.tar"):
        read(tmp_path)


def test_of_a_shard_that_is_cut_short_the_rest_is_counted_once(tmp_path: Path) -> None:
    good = tar(tmp_path / "00001.tar", members(rows("000010000", "000010001")))
    content = good.read_bytes()
    whole = set(read(tmp_path)[0])
    for cut in range(0, len(content), 700):
        (tmp_path / "00000.tar").write_bytes(content[:cut])
        found, report = read(tmp_path)
        assert whole <= set(found)
        # A few bytes, or none, are an archive that ends early; its end cannot be told from a cut.
        assert len(report.left_out) <= 2
        parts = [Report("laion_coco") for _ in range(3)]
        for i, part_report in enumerate(parts):
            list(open_set("laion_coco", folder=str(tmp_path), report=part_report, part=Part(i, 3)))
        assert sum((p.left_out for p in parts), start=type(report.left_out)()) == report.left_out


def test_garbage_in_place_of_a_shard_is_counted(tmp_path: Path) -> None:
    tar(tmp_path / "00001.tar", members(rows("000010000")))
    (tmp_path / "00000.tar").write_bytes(bytes(range(256)) * 40)
    found, report = read(tmp_path)
    assert set(found) == {"000010000"}
    assert report.left_out == {"rest of a damaged shard": 1}


def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    content = members(rows("0", "1"))
    content["0.jpg"] = bytes(MAX_FILE_BYTES + 1)
    tar(tmp_path / "00000.tar", content)
    found, report = read(tmp_path)
    assert set(found) == {"1"}
    assert report.left_out == {f"file above {MAX_FILE_BYTES:,} bytes": 1}


def test_links_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(jpeg())
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "00000.tar", "w") as archive:
        for name, kind in (("0.jpg", tarfile.SYMTYPE), ("1.jpg", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, str(secret)
            archive.addfile(link)
            words = tarfile.TarInfo(name.replace("jpg", "txt"))
            words.size = 1
            archive.addfile(words, io.BytesIO(b"a"))
    with pytest.raises(ValueError, match="2 missing image"):
        read(tmp_path / "shards", caption="caption")


def test_an_image_is_only_read_by_the_part_that_yields_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar(tmp_path / "00000.tar", members(rows(*"0123456789")))
    taken: list[str] = []
    extract = tarfile.TarFile.extractfile
    monkeypatch.setattr(
        tarfile.TarFile,
        "extractfile",
        lambda archive, member: taken.append(member.name) or extract(archive, member),
    )
    found: list[Example] = list(open_set("laion_coco", folder=str(tmp_path), part=Part(1, 5)))
    assert [e.id for e in found] == ["1", "6"]
    assert {name[0] for name in taken} == {"1", "6"}
