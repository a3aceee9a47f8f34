"""Questions about pictures, and expressions that single out a thing: VQA v2 and its kin, RefCOCO.

VQA v2 (Goyal et al. 2017), OK-VQA (Marino et al. 2019) and A-OKVQA (Schwenk et al. 2022) ask of
COCO's images and have about ten annotators, of whom all answers are kept for scoring; GQA (Hudson
and Manning 2019) asks of Visual Genome's, OCR-VQA (Mishra et al. 2019) of book covers. RefCOCO, +
and g (Yu et al. 2016; Mao et al. 2016) say words of a region of one of COCO's images.

The files of the test splits have no answers; there is nothing to learn from them.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from embervlm.data.example import (
    WHOLE,
    Example,
    ImageFolder,
    Part,
    Report,
    Turn,
    UnusableError,
    by_number,
    each,
    examples_of,
    number,
    of_split,
    read_json,
    read_section,
    split_in_name,
    split_named,
    text,
    texts,
    told_split,
    value,
)


def vqa(
    questions: str | Path,
    annotations: str | Path,
    images: str | Path,
    *,
    report: Report,
    part: Part = WHOLE,
) -> Iterator[Example]:
    """Yield one example a question of VQA v2 or OK-VQA, whose files have one form.

    They are `v2_OpenEnded_mscoco_train2014_questions.json` with
    `v2_mscoco_train2014_annotations.json`, and the same without `v2_`. The answer is the
    publisher's most common one; OK-VQA does not name it, so it is counted.

    Raises:
        ValueError: see `example.py`; or the two files are not of the same split.
    """
    asked, about = read_section(questions, "questions", "VQA's OpenEnded_*_questions.json")
    answered, theirs = read_section(annotations, "annotations", "VQA's *_annotations.json")
    subset = about.get("data_subtype")
    if subset != theirs.get("data_subtype"):
        raise ValueError(
            f"{questions} is of {subset!r} and {annotations} of {theirs.get('data_subtype')!r}; "
            "give the two files of one split."
        )
    folder, split = ImageFolder(images), split_in_name(str(subset))
    answers = by_number(answered, "question_id")

    def make(row: Any) -> Example:
        question_id = value(row, "question_id", int)
        found = answers.get(question_id)
        image_id = value(row, "image_id", int)
        if found is None:
            raise UnusableError("question without an answer", row)
        if found.get("image_id") != image_id:
            raise UnusableError("answer about another image", row)
        given = tuple(text(answer, "answer") for answer in value(found, "answers", list))
        best = _most_common(given, row)
        if "multiple_choice_answer" in found:
            best = text(found, "multiple_choice_answer")
        turns = (Turn(text(row, "question"), best),)
        image = folder.find_coco(image_id, f"COCO_{subset}_{image_id:012d}.jpg")
        return Example(str(question_id), report.source, image, turns, given, split=split)

    return examples_of(asked, make, report=report, part=part)


def aokvqa(
    annotations: str | Path, images: str | Path, *, report: Report, part: Part = WHOLE
) -> Iterator[Example]:
    """Yield one example a question of `aokvqa_v1p0_train.json` or `..._val.json`, answered freely.

    The choices are not shown, and the rationales are not used.

    Raises:
        ValueError: see `example.py`.
    """
    rows: list[Any] = read_json(annotations, list, "A-OKVQA's aokvqa_v1p0_*.json, which is a list")
    folder = ImageFolder(images)

    def make(row: Any) -> Example:
        given = texts(row, "direct_answers")
        turns = (Turn(text(row, "question"), _most_common(given, row)),)
        image_id, split = value(row, "image_id", int), text(row, "split")
        image = folder.find_coco(image_id, f"{split}2017/{image_id:012d}.jpg")
        name = text(row, "question_id")
        return Example(name, report.source, image, turns, given, split=split_named(split))

    return examples_of(rows, make, report=report, part=part)


def gqa(
    questions: str | Path,
    images: str | Path,
    *,
    report: Report,
    part: Part = WHOLE,
    sentences: bool = False,
) -> Iterator[Example]:
    """Yield one example a question of `train_balanced_questions.json`, a dict by question id.

    The answer is one word or two, or with `sentences` the publisher's full sentence. An image id is
    a text, such as `2354786` or, in testdev, `n161313`.

    Raises:
        ValueError: see `example.py`.
    """
    rows: dict[str, Any] = read_json(questions, dict, "GQA's *_questions.json, a dict by id")
    folder, split = ImageFolder(images), split_in_name(questions)

    def make(item: tuple[str, Any]) -> Example:
        name, row = item
        turns = (Turn(text(row, "question"), text(row, "fullAnswer" if sentences else "answer")),)
        image = folder.find(f"{text(row, 'imageId')}.jpg")
        return Example(name, report.source, image, turns, split=split)

    return examples_of(rows.items(), make, report=report, part=part)


def ocr_vqa(
    annotations: str | Path,
    images: str | Path,
    *,
    report: Report,
    part: Part = WHOLE,
    split: str | None = None,
) -> Iterator[Example]:
    """Yield one example a book cover of OCR-VQA's `dataset.json`, with all its questions.

    The images are those that the publisher's `loadDataset.py` saves: the id, with the ending of the
    address. Of the splits, 1 is train, 2 validation and 3 test.

    Raises:
        ValueError: see `example.py`.
    """
    rows: dict[str, Any] = read_json(annotations, dict, "OCR-VQA's dataset.json, a dict by id")
    folder = ImageFolder(images)

    def make(item: tuple[str, Any]) -> Example:
        name, row = item
        asked, answered = texts(row, "questions"), texts(row, "answers")
        if len(asked) != len(answered) or not asked:
            raise UnusableError("questions and answers differ in number", name)
        ending = Path(urlsplit(text(row, "imageURL")).path).suffix
        turns = tuple(Turn(*pair) for pair in zip(asked, answered, strict=True))
        image = folder.find(f"{name}{ending}", f"{name}.jpg")
        if (said := told(item)) is None:
            raise UnusableError("unknown split", name)
        return Example(name, report.source, image, turns, split=said)

    def told(item: tuple[str, Any]) -> str | None:
        said = item[1].get("split") if isinstance(item[1], dict) else None
        return _OCR_VQA_SPLITS.get(said) if isinstance(said, int) else None

    return examples_of(of_split(rows.items(), split, told), make, report=report, part=part)


_OCR_VQA_SPLITS = {1: "train", 2: "validation", 3: "test"}


def refcoco(
    references: str | Path,
    instances: str | Path,
    images: str | Path,
    *,
    report: Report,
    part: Part = WHOLE,
    split: str | None = None,
) -> Iterator[Example]:
    """Yield one example an expression of RefCOCO, RefCOCO+ or RefCOCOg, with the box it speaks of.

    Args:
        references: `refs(unc).p`, `refs(google).p` or `refs(umd).p`, a pickle. Only lists, dicts,
            numbers and texts are read from it, so that it can run nothing.
        instances: the `instances.json` beside it, which knows the boxes. A reference's own
            `file_name` ends in the number of the region and is no image's name.
        images: COCO's train2014, or a folder above it.
        report: counts what is left out.
        part: what of it to read.
        split: train, validation, test, testA or testB; None for all.

    Raises:
        ValueError: see `example.py`; or the pickle holds more than data.
    """
    rows = _read_pickle(Path(references))
    regions, whole = read_section(instances, "annotations", "RefCOCO's instances.json")
    listed = whole.get("images")
    if not isinstance(listed, list):
        raise ValueError(f"{instances} has no list 'images'; expected RefCOCO's instances.json.")
    regions_by_id, listed_by_id = by_number(regions, "id"), by_number(listed, "id")
    folder = ImageFolder(images)

    def make(pair: tuple[Any, Any]) -> Example:
        row, sentence = pair
        region = regions_by_id.get(value(row, "ann_id", int))
        image_id = value(row, "image_id", int)
        if region is None or region.get("image_id") != image_id or image_id not in listed_by_id:
            raise UnusableError("not in instances.json", row)
        sides = value(region, "bbox", list)
        if len(sides) != 4:
            raise UnusableError("broken box", region)
        left, top, width, height = (number(sides, i) for i in range(4))
        if min(width, height) <= 0:
            raise UnusableError("empty box", region)
        image = folder.find_coco(image_id, value(listed_by_id[image_id], "file_name", str))
        return Example(
            str(value(sentence, "sent_id", int)),
            report.source,
            image,
            (Turn(None, text(sentence, "sent")),),
            box_xywh=(left, top, width, height),
            split=told_split(row),
        )

    sentences = each(of_split(rows, split, told_split), "sentences")
    return examples_of(sentences, make, report=report, part=part)


class _DataOnly(pickle.Unpickler):
    """Reads built-in containers, numbers and texts; whatever names a class or function is refused.

    A pickle can call any function by its name while it is read; without names it cannot.
    """

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def _read_pickle(path: Path) -> list[Any]:
    expected = "RefCOCO's refs(unc).p, refs(google).p or refs(umd).p, a pickled list"
    try:
        with path.open("rb") as file:
            # Python 2 wrote it; its texts are bytes to Python 3.
            found = _DataOnly(file, encoding="utf-8", errors="replace").load()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); give {expected}.") from error
    except _NOT_DATA as error:
        raise ValueError(
            f"{path} is not a pickle of plain data ({error}); give {expected}."
        ) from error
    if not isinstance(found, list):
        raise ValueError(f"{path} holds a {type(found).__name__}; give {expected}.")
    return found


# What reading bytes that are no pickle, or a hostile one, raises.
_NOT_DATA = (
    pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError,
    OverflowError, MemoryError, RecursionError, ImportError,
)  # fmt: skip


def _most_common(answers: tuple[str, ...], row: Any) -> str:
    """Return the answer that most annotators gave; of several, the one that came first."""
    if not answers:
        raise UnusableError("no answers", row)
    return Counter(answers).most_common(1)[0][0]
