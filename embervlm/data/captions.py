"""Pictures with captions: COCO, Flickr30k, CC3M and LAION-COCO. A caption answers no question.

COCO (Chen et al. 2015) and Flickr30k (Young et al. 2014) are one file of words and a folder of
images. CC3M (Sharma et al. 2018) and LAION-COCO are lists of addresses; what is read here is what
img2dataset makes of them (`shards.py`). LAION's own captions must be kept when it runs:

    img2dataset --url_list laion-coco --input_format parquet --url_col URL --caption_col TEXT \\
        --output_format webdataset --output_folder laion --save_additional_columns '["top_caption"]'
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embervlm.data import shards
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
    of_split,
    read_section,
    split_in_name,
    text,
    told_split,
    value,
)


def coco_captions(
    annotations: str | Path, images: str | Path, *, report: Report, part: Part = WHOLE
) -> Iterator[Example]:
    """Yield one example a caption of `captions_train2017.json`, or of another split and year.

    Raises:
        ValueError: see `example.py`; so do all functions here.
    """
    expected = "COCO's captions_*.json, with the lists images and annotations"
    listed, whole = read_section(annotations, "images", expected)
    captions = whole.get("annotations")
    if not isinstance(captions, list):
        raise ValueError(f"{annotations} has no list 'annotations'; expected {expected}.")
    listed_by_id = by_number(listed, "id")
    folder, split = ImageFolder(images), split_in_name(annotations)

    def make(row: Any) -> Example:
        image_id = value(row, "image_id", int)
        caption = text(row, "caption")
        if image_id not in listed_by_id:
            raise UnusableError("image not listed", row)
        image = folder.find_coco(image_id, value(listed_by_id[image_id], "file_name", str))
        name = str(value(row, "id", int))
        return Example(name, report.source, image, (Turn(None, caption),), split=split)

    return examples_of(captions, make, report=report, part=part)


def flickr30k(
    tokens: str | Path, images: str | Path, *, report: Report, part: Part = WHOLE
) -> Iterator[Example]:
    """Yield one example a line of `results_20130124.token`: `1000092795.jpg#0<TAB>Two men ...`.

    The publisher gives no split; for the usual one see `flickr30k_karpathy`.
    """
    path = Path(tokens)
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); give results_20130124.token."
        ) from error
    if "\t" not in first or "#" not in first.partition("\t")[0]:
        raise ValueError(
            f"{path} begins with {first[:60]!r}; expected results_20130124.token, whose lines are "
            "an image, # and a number, a tab, and a caption."
        )
    folder = ImageFolder(images)

    def make(line: str) -> Example:
        name, tab, caption = line.partition("\t")
        image, mark, _ = name.rpartition("#")
        if not tab or not mark or not caption.strip():
            raise UnusableError("broken line", repr(line))
        turn = Turn(None, " ".join(caption.split()))
        return Example(name, report.source, folder.find(image), (turn,))

    def lines() -> Iterator[str]:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from (line for line in file if line.strip())

    return examples_of(lines(), make, report=report, part=part)


def flickr30k_karpathy(
    annotations: str | Path,
    images: str | Path,
    *,
    report: Report,
    part: Part = WHOLE,
    split: str | None = None,
) -> Iterator[Example]:
    """Yield one example a caption of Karpathy's `dataset_flickr30k.json`, of one split or all."""
    rows, whole = read_section(annotations, "images", "Karpathy's dataset_flickr30k.json")
    if whole.get("dataset") != "flickr30k":
        raise ValueError(
            f"{annotations} says that it is {whole.get('dataset')!r}; expected Karpathy's "
            "dataset_flickr30k.json."
        )
    folder = ImageFolder(images)

    def make(pair: tuple[Any, Any]) -> Example:
        row, sentence = pair
        image = folder.find(value(row, "filename", str))
        name, turn = str(value(sentence, "sentid", int)), Turn(None, text(sentence, "raw"))
        return Example(name, report.source, image, (turn,), split=told_split(row))

    sentences = each(of_split(rows, split, told_split), "sentences")
    return examples_of(sentences, make, report=report, part=part)


def cc3m(
    folder: str | Path, *, report: Report, part: Part = WHOLE, split: str | None = None
) -> Iterator[Example]:
    """Yield one example an image of CC3M, as WebDataset shards or in another form of img2dataset.

    `split` is what the examples are said to be, since one folder holds one split.
    """
    return shards.captioned(folder, "caption", report=report, part=part, split=split)


def laion_coco(
    folder: str | Path,
    *,
    report: Report,
    part: Part = WHOLE,
    split: str | None = None,
    caption: str = "top_caption",
) -> Iterator[Example]:
    """Yield one example an image of LAION-COCO, in any form of img2dataset.

    `caption` is the column to learn: LAION's best one, or `caption`, which is the web page's.
    """
    return shards.captioned(folder, caption, report=report, part=part, split=split)
