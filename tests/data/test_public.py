"""Every set is read as its publisher ships it; what cannot be used is counted, not dropped."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from publishers import PUBLISHERS, Published, jpeg, write

from embervlm.data.example import Example, Part, Report
from embervlm.data.public import SETS, open_set, takes
from embervlm.imaging import load_image

SHARED = Path(__file__).parents[3] / "shared" / "public"
NEEDS_IMAGES = [name for name in PUBLISHERS if "images" in takes(name)]
JSON_SETS = [
    name for name in PUBLISHERS if name not in ("flickr30k", "cc3m", "laion_coco", "lines")
]


@pytest.fixture(params=PUBLISHERS)
def published(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Published]:
    return request.param, PUBLISHERS[request.param](tmp_path)


def read(name: str, given: dict[str, Any], part: Part | None = None) -> list[Example]:
    return list(open_set(name, **given, **({"part": part} if part else {})))


def test_the_tests_know_every_set() -> None:
    assert {*PUBLISHERS, "scenarios", "teacher_answers"} == set(SETS)


def test_reads_what_the_publisher_ships_and_counts_the_rest(
    published: tuple[str, Published],
) -> None:
    name, small = published
    report = Report(name)
    examples = list(open_set(name, report=report, **small.given))
    assert {e.id: [tuple(turn) for turn in e.turns] for e in examples} == small.turns
    assert report.left_out == small.left_out
    assert report.kept == len(examples)
    assert {e.source for e in examples} == {name}
    for reason in small.left_out:
        assert reason in report.summary()
    for example in examples:
        if example.image is not None:
            assert load_image(example.image).shape == (8, 12, 3)


def test_parts_are_disjoint_and_together_the_set(published: tuple[str, Published]) -> None:
    name, small = published
    whole = read(name, small.given)
    for count in (2, 3, 50):
        parts = [e.id for i in range(count) for e in read(name, small.given, Part(i, count))]
        assert sorted(parts) == sorted(e.id for e in whole)


def test_reading_again_gives_the_same_order(published: tuple[str, Published]) -> None:
    name, small = published
    assert read(name, small.given) == read(name, small.given)


@pytest.mark.parametrize("name", NEEDS_IMAGES)
def test_a_set_without_any_of_its_images_is_refused(name: str, tmp_path: Path) -> None:
    given = PUBLISHERS[name](tmp_path).given
    if name == "llava_instruct":
        rows = json.loads(Path(given["conversations"]).read_text())
        write(Path(given["conversations"]), [row for row in rows if "image" in row])
    shutil.rmtree(given["images"])
    with pytest.raises(ValueError, match=r"is not a folder; give the one that holds the images"):
        read(name, given)
    Path(given["images"]).mkdir()
    with pytest.raises(ValueError, match=r"None of the records .* missing image"):
        read(name, given)


@pytest.mark.parametrize(
    ("name", "other"), [(a, b) for a in JSON_SETS for b in JSON_SETS if SETS[a] is not SETS[b]]
)
def test_the_file_of_another_set_is_refused(name: str, other: str, tmp_path: Path) -> None:
    mine = PUBLISHERS[name](tmp_path / "mine").given
    theirs = PUBLISHERS[other](tmp_path / "theirs").given
    wrong = next(iter(theirs.values()))
    with pytest.raises(ValueError, match=r"expected|give|None of the records"):
        read(name, {**mine, next(iter(mine)): wrong})


@pytest.mark.parametrize("content", ["", "{", "7", "[]", "{}", "\x00", "[" * 100_000])
@pytest.mark.parametrize("name", [*JSON_SETS, "flickr30k"])
def test_a_file_that_holds_nothing_of_use_is_refused(
    name: str, content: str, tmp_path: Path
) -> None:
    small = PUBLISHERS[name](tmp_path)
    first = next(iter(small.given))
    Path(small.given[first]).write_text(content)
    with pytest.raises(ValueError, match=r"expected|give|holds no records"):
        read(name, small.given)


def test_a_path_that_is_not_there_is_refused_at_once(published: tuple[str, Published]) -> None:
    name, small = published
    for key in small.given.keys() - {"split"}:
        with pytest.raises(ValueError, match="nowhere"):
            open_set(name, **{**small.given, key: "/nowhere/at/all"})


@pytest.mark.parametrize(
    "junk", [None, 7, "text", [], {}, [[]], {"image_id": []}, {"image_id": True, "split": []}]
)
@pytest.mark.parametrize("name", JSON_SETS)
def test_a_record_of_any_shape_is_counted(name: str, junk: Any, tmp_path: Path) -> None:
    small = PUBLISHERS[name](tmp_path)
    if name.startswith("refcoco"):
        path = Path(small.given["references"])
        path.write_bytes(pickle.dumps([*pickle.loads(path.read_bytes()), junk]))
    else:
        path = Path(next(iter(small.given.values())))
        whole = json.loads(path.read_text())
        _append(whole, junk)
        write(path, whole)
    report = Report(name)
    examples = list(open_set(name, report=report, **small.given))
    assert {e.id for e in examples} == set(small.turns)
    assert report.left_out.total() == sum(small.left_out.values()) + 1


def _append(whole: Any, junk: Any) -> None:
    if isinstance(whole, list):
        whole.append(junk)
        return
    lists = [key for key in ("annotations", "questions", "images") if key in whole]
    if lists:
        whole[lists[0]].append(junk)
    else:
        whole["junk"] = junk


def test_the_split_is_the_one_that_the_publisher_means(tmp_path: Path) -> None:
    expected = {
        "coco_captions": "validation", "flickr30k": None, "flickr30k_karpathy": "train",
        "vqa_v2": "train", "a_okvqa": "train", "gqa": "train", "ocr_vqa": "train",
        "refcoco": "train", "llava_instruct": "train", "incidents1m": "train", "cc3m": None,
    }  # fmt: skip
    for name, split in expected.items():
        examples = read(name, PUBLISHERS[name](tmp_path / name).given)
        assert {e.split for e in examples} == {split}, name


def test_another_split_is_neither_read_nor_counted(tmp_path: Path) -> None:
    given = PUBLISHERS["refcoco"](tmp_path).given
    report = Report("refcoco")
    examples = list(open_set("refcoco", report=report, **{**given, "split": "testA"}))
    assert [e.turns[0].answer for e in examples] == ["only to be tested"]
    assert not report.left_out
    with pytest.raises(ValueError, match="holds no records; check the file and the split"):
        read("refcoco", {**given, "split": "exam"})
    assert len(read("refcoco", {**given, "split": None})) == 3


def test_keeps_all_answers_for_scoring_and_the_box_in_pixels(tmp_path: Path) -> None:
    first = read("vqa_v2", PUBLISHERS["vqa_v2"](tmp_path / "v").given)[0]
    assert first.answers is not None
    assert first.answers == ("net", "netting", "net", "mesh", *["net"] * 6)
    assert len(read("a_okvqa", PUBLISHERS["a_okvqa"](tmp_path / "a").given)[0].answers or ()) == 8
    referred = read("refcoco", PUBLISHERS["refcoco"](tmp_path / "r").given)
    assert {e.box_xywh for e in referred} == {(10.83, 37.0, 5.5, 4.0)}


def test_the_questions_of_one_split_are_not_answered_from_another(tmp_path: Path) -> None:
    given = PUBLISHERS["vqa_v2"](tmp_path).given
    path = Path(given["annotations"])
    write(path, {**json.loads(path.read_text()), "data_subtype": "val2014"})
    with pytest.raises(ValueError, match="give the two files of one split"):
        read("vqa_v2", given)


@pytest.mark.parametrize("name", ["gqa", "llava_instruct", "coco_captions", "vqa_v2"])
def test_half_a_surrogate_pair_is_counted(name: str, tmp_path: Path) -> None:
    small = PUBLISHERS[name](tmp_path)
    path = Path(next(iter(small.given.values())))
    first = next(iter(small.turns.values()))[0]
    sound, broken = (first[0] or first[1]), r"half \ud83d of it"
    path.write_text(path.read_text().replace(sound, broken))
    report = Report(name)
    examples = list(open_set(name, report=report, **small.given))
    assert len(examples) == len(small.turns) - 1
    assert any(reason.startswith("broken character") for reason in report.left_out)
    report.summary().encode()


def test_gqa_gives_full_sentences_when_asked(tmp_path: Path) -> None:
    given = PUBLISHERS["gqa"](tmp_path).given
    assert [e.turns[0].answer for e in read("gqa", {**given, "sentences": True})] == [
        "It is yes.",
        "It is woman.",
    ]


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(Path(__file__).with_name("ran.txt")), "w"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_cannot_run_anything(protocol: int, tmp_path: Path) -> None:
    given = PUBLISHERS["refcoco"](tmp_path).given
    Path(given["references"]).write_bytes(pickle.dumps([Malicious()], protocol=protocol))
    with pytest.raises(ValueError, match=r"is not a pickle of plain data \(it wants "):
        read("refcoco", given)
    assert not Path(__file__).with_name("ran.txt").exists()


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    given = PUBLISHERS["refcoco"](tmp_path).given
    # Python 2's str, here an é in UTF-8, is BINSTRING, which Python 3 does not write any more.
    text = b"U\x05caf\xc3\xa9"
    row = (
        b"}(U\x06ann_idJ\x0e\x3c\x1a\x00U\x08image_idJ\xe1\xe0\x08\x00U\x05splitU\x05train"
        b"U\tsentences](}(U\x07sent_idK\x07U\x04sent" + text + b"ueu"
    )
    Path(given["references"]).write_bytes(b"\x80\x02](" + row + b"e.")
    assert [e.turns[0].answer for e in read("refcoco", given)] == ["café"]


def test_only_a_good_many_useless_records_condemn_a_part(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    row = {"question": "Q?", "answer": "a", "imageId": "1"}
    given = {"images": str(tmp_path / "images")}
    few = write(tmp_path / "few.json", {str(i): row for i in range(100)})
    assert read("gqa", {**given, "questions": few}, Part(0, 2)) == []
    many = write(tmp_path / "many.json", {str(i): row for i in range(200)})
    with pytest.raises(ValueError, match="None of the records of gqa can be used"):
        read("gqa", {**given, "questions": many}, Part(0, 2))


def test_says_what_a_set_takes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no set 'coco'; there are coco_captions, "):
        open_set("coco")
    with pytest.raises(ValueError, match=r"takes annotations, images, \[split\]; .*given images"):
        open_set("ocr_vqa", images=str(tmp_path))
    with pytest.raises(ValueError, match="given annotations, colour, images"):
        open_set("ocr_vqa", images="", annotations="", colour="red")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the files lie beside the repository")
def test_reads_the_real_files_that_lie_beside_the_repository(tmp_path: Path) -> None:
    for name, file in {
        "single_robot": "single_robot_selection.json",
        "multi_robot": "multi_robot_selection_dataset.json",
    }.items():
        report = Report(name)
        assert len(list(open_set(name, report=report, rows=str(SHARED / file)))) == 244
        assert not report.left_out
    (tmp_path / "000000397133.jpg").write_bytes(jpeg())
    report = Report("coco_captions")
    found = list(
        open_set(
            "coco_captions",
            report=report,
            annotations=str(SHARED / "captions_val2017.json"),
            images=str(tmp_path),
        )
    )
    assert len(found) == 5
    assert report.left_out == {"missing image": 25_009}
