"""Small copies of what the publishers ship: the same names, fields and nesting.

Each builder writes a set into a folder and returns what to open it with and what must come out. All
but the smallest hold, besides good records, an image that is missing, a name that leads out of the
folder where the publisher's file has names, and a broken record.
"""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Published:
    """What to open, the ids, questions and answers that must come, and what is left out and why."""

    given: dict[str, Any]
    turns: dict[str, list[tuple[str | None, str]]]
    left_out: dict[str, int] = field(default_factory=dict)


def picture(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg())
    return path.name


def jpeg(shade: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), (shade, 40, 40)).save(buffer, "JPEG")
    return buffer.getvalue()


def write(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")
    return str(path)


def coco_image(image_id: int, name: str) -> dict[str, Any]:
    return {
        "license": 4,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/val2017/{name}",
        "height": 8,
        "width": 12,
        "date_captured": "2013-11-14 17:02:52",
        "flickr_url": "http://farm7.staticflickr.com/6116/6255196340_da26cf2c9e_z.jpg",
        "id": image_id,
    }


def coco_captions(home: Path) -> Published:
    picture(home / "val2017" / "000000179765.jpg")
    # The same image under its name of 2014.
    picture(home / "val2017" / "COCO_val2014_000000190236.jpg")
    whole = {
        "info": {"description": "COCO 2017 Dataset", "version": "1.0", "year": 2017},
        "licenses": [{"url": "http://creativecommons.org/licenses/by-nc/2.0/", "id": 4}],
        "images": [
            coco_image(179765, "000000179765.jpg"),
            coco_image(190236, "000000190236.jpg"),
            coco_image(331352, "000000331352.jpg"),
            coco_image(517069, "../secret/000000517069.jpg"),
        ],
        "annotations": [
            {"image_id": 179765, "id": 38, "caption": "A black motorcycle in front of a garage."},
            {"image_id": 179765, "id": 182, "caption": "A motorcycle parked  on the\ngrass.\n"},
            {"image_id": 190236, "id": 401, "caption": "An office cubicle."},
            {"image_id": 331352, "id": 1, "caption": "A small closed toilet."},
            {"image_id": 517069, "id": 2, "caption": "Two women."},
            {"image_id": 182417, "id": 3, "caption": "Not among the images."},
            {"image_id": 179765, "id": 4},
            {"image_id": 179765, "id": 5, "caption": "  "},
            "not a record",
        ],
    }
    return Published(
        {
            "annotations": write(home / "annotations" / "captions_val2017.json", whole),
            "images": str(home / "val2017"),
        },
        {
            "38": [(None, "A black motorcycle in front of a garage.")],
            "182": [(None, "A motorcycle parked on the grass.")],
            "401": [(None, "An office cubicle.")],
        },
        {
            "missing image": 1,
            "image outside the folder": 1,
            "image not listed": 1,
            "no caption": 1,
            "empty caption": 1,
            "no image_id": 1,
        },
    )


def flickr30k(home: Path) -> Published:
    picture(home / "flickr30k-images" / "1000092795.jpg")
    path = home / "results_20130124.token"
    path.write_text(
        "1000092795.jpg#0\tTwo young guys with shaggy hair look at their hands .\n"
        "1000092795.jpg#1\tTwo young , White males are outside near many bushes .\n"
        "10002456.jpg#0\tSeveral men in hard hats .\n"
        "../10002456.jpg#0\tSeveral men in hard hats .\n"
        "1000092795.jpg#2 no tab\n"
        "\n",
        "utf-8",
    )
    return Published(
        {"tokens": str(path), "images": str(home / "flickr30k-images")},
        {
            "1000092795.jpg#0": [(None, "Two young guys with shaggy hair look at their hands .")],
            "1000092795.jpg#1": [(None, "Two young , White males are outside near many bushes .")],
        },
        {"missing image": 1, "image outside the folder": 1, "broken line": 1},
    )


def flickr30k_karpathy(home: Path) -> Published:
    picture(home / "flickr30k-images" / "1000092795.jpg")

    def image(number: int, filename: str, split: str) -> dict[str, Any]:
        sentences = [
            {
                "tokens": ["two", "men", str(i)],
                "raw": f"Two men {i}.",
                "imgid": number,
                "sentid": number * 5 + i,
            }
            for i in range(2)
        ]
        return {
            "sentids": [number * 5, number * 5 + 1],
            "imgid": number,
            "sentences": sentences,
            "split": split,
            "filename": filename,
        }

    whole = {
        "images": [
            image(0, "1000092795.jpg", "train"),
            image(1, "1000092795.jpg", "val"),
            image(2, "10002456.jpg", "train"),
            image(3, "/etc/passwd", "train"),
            {"imgid": 4, "split": "train"},
        ],
        "dataset": "flickr30k",
    }
    return Published(
        {
            "annotations": write(home / "dataset_flickr30k.json", whole),
            "images": str(home / "flickr30k-images"),
            "split": "train",
        },
        {"0": [(None, "Two men 0.")], "1": [(None, "Two men 1.")]},
        # A record is a caption: each of the two images has two.
        {"missing image": 2, "image outside the folder": 2, "no filename": 1},
    )


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


def fetched(key: str, caption: str, **more: Any) -> dict[str, Any]:
    """The columns that img2dataset writes beside each image."""
    return {
        "caption": caption,
        "url": f"http://example.org/{key}.jpg",
        "key": key,
        "status": "success",
        "error_message": None,
        "width": 12,
        "height": 8,
        "original_width": 12,
        "original_height": 8,
        "exif": "{}",
        "sha256": "00",
        **more,
    }


def cc3m(home: Path) -> Published:
    def columns(key: str, caption: str) -> bytes:
        return json.dumps(fetched(key, caption), indent=4).encode()

    tar(
        home / "cc3m" / "00000.tar",
        {
            "000000000.jpg": jpeg(),
            "000000000.txt": b"a very typical bus station",
            "000000000.json": columns("000000000", "a very typical bus station"),
            "000000001.jpg": jpeg(),
            "000000001.json": columns("000000001", "sierra looked stunning in this top"),
            "000000002.txt": b"no image",
            "000000002.json": columns("000000002", "no image"),
            "000000003.jpg": jpeg(),
            "000000003.txt": b"\xff\xfe not UTF-8",
            "../../escaped.jpg": jpeg(),
            "../../escaped.txt": b"out of the folder",
        },
    )
    tar(
        home / "cc3m" / "00001.tar",
        {"000010000.jpg": jpeg(), "000010000.txt": b"young confused girl"},
    )
    return Published(
        {"folder": str(home / "cc3m")},
        {
            "000000000": [(None, "a very typical bus station")],
            "000000001": [(None, "sierra looked stunning in this top")],
            "000010000": [(None, "young confused girl")],
        },
        {"missing image": 1, "broken words beside the image": 1, "image outside the folder": 1},
    )


def laion_coco(home: Path) -> Published:
    """As files in folders, without the tables beside them; for those see test_shards.py."""
    for key, more in {
        "000000000": {"top_caption": "a dog on a couch", "all_captions": ["a dog on a couch"]},
        "000000001": {},
        "000000002": {"top_caption": "no image"},
    }.items():
        if key != "000000002":
            picture(home / "laion" / "00000" / f"{key}.jpg")
        write(home / "laion" / "00000" / f"{key}.json", fetched(key, "BUY NOW", **more))
        (home / "laion" / "00000" / f"{key}.txt").write_text("BUY NOW", "utf-8")
    write(home / "laion" / "00000_stats.json", {"count": 3})
    (home / "laion" / "_tmp").mkdir()
    return Published(
        {"folder": str(home / "laion")},
        {"00000/000000000": [(None, "a dog on a couch")]},
        {"missing image": 1, "no top_caption": 1},
    )


def vqa_question(question_id: int, image_id: int, question: str) -> dict[str, Any]:
    return {"image_id": image_id, "question": question, "question_id": question_id}


def vqa_answer(question_id: int, image_id: int, answers: list[str], **more: Any) -> dict[str, Any]:
    return {
        "question_type": "what is",
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": i}
            for i, answer in enumerate(answers, start=1)
        ],
        "image_id": image_id,
        "answer_type": "other",
        "question_id": question_id,
        **more,
    }


def vqa_v2(home: Path) -> Published:
    picture(home / "train2014" / "COCO_train2014_000000458752.jpg")
    about = {
        "info": {"description": "This is v2.0 of the VQA dataset.", "version": "2.0"},
        "license": {"name": "Creative Commons Attribution 4.0 International License"},
        "data_subtype": "train2014",
        "data_type": "mscoco",
    }
    questions = {
        **about,
        "task_type": "Open-Ended",
        "questions": [
            vqa_question(458752000, 458752, "What is this photo taken looking through?"),
            vqa_question(458752001, 458752, "What position is this man playing?"),
            vqa_question(262146000, 262146, "What color is the snow?"),
            vqa_question(458752002, 458752, "Nobody answered this?"),
            vqa_question(458752003, 458752, "Of which image?"),
            {"image_id": 458752, "question_id": 458752001},
        ],
    }
    first = ["net", "netting", "net", "mesh", "net", "net", "net", "net", "net", "net"]
    annotations = {
        **about,
        "annotations": [
            vqa_answer(458752000, 458752, first, multiple_choice_answer="net"),
            vqa_answer(458752001, 458752, ["pitcher"] * 10, multiple_choice_answer="pitcher"),
            vqa_answer(262146000, 262146, ["white"] * 10, multiple_choice_answer="white"),
            vqa_answer(458752003, 7, ["other"] * 10, multiple_choice_answer="other"),
        ],
    }
    return Published(
        {
            "questions": write(home / "v2_OpenEnded_mscoco_train2014_questions.json", questions),
            "annotations": write(home / "v2_mscoco_train2014_annotations.json", annotations),
            "images": str(home / "train2014"),
        },
        {
            "458752000": [("What is this photo taken looking through?", "net")],
            "458752001": [("What position is this man playing?", "pitcher")],
        },
        {
            "missing image": 1,
            "question without an answer": 1,
            "answer about another image": 1,
            "no question": 1,
        },
    )


def ok_vqa(home: Path) -> Published:
    # Images of 2017, and the folder above them.
    picture(home / "coco" / "train2017" / "000000051606.jpg")
    about = {
        "info": {"description": "This is v1.1 of the OK-VQA dataset."},
        "license": {"name": "Creative Commons Attribution 4.0 International License"},
        "data_subtype": "train2014",
        "data_type": "mscoco",
    }
    questions = {
        **about,
        "task_type": "Open-Ended",
        "questions": [
            vqa_question(516065, 51606, "What is the hairstyle of the blond called?"),
            vqa_question(816065, 81606, "How old do you have to be?"),
        ],
    }
    answer = vqa_answer(516065, 51606, ["pony tail", "pony tail", "braid"], confidence=3)
    answer["answers"] = [{**given, "raw_answer": given["answer"]} for given in answer["answers"]]
    annotations = {**about, "annotations": [answer, vqa_answer(816065, 81606, ["18"])]}
    return Published(
        {
            "questions": write(home / "OpenEnded_mscoco_train2014_questions.json", questions),
            "annotations": write(home / "mscoco_train2014_annotations.json", annotations),
            "images": str(home / "coco"),
        },
        {"516065": [("What is the hairstyle of the blond called?", "pony tail")]},
        {"missing image": 1},
    )


def a_okvqa(home: Path) -> Published:
    picture(home / "coco" / "train2017" / "000000299207.jpg")
    good = {
        "split": "train",
        "image_id": 299207,
        "question_id": "22MexNkBPpdZGX6sxbxVBH",
        "question": "What is the man by the bags awaiting?",
        "choices": ["skateboarder", "train", "delivery", "cab"],
        "correct_choice_idx": 3,
        "direct_answers": ["ride", "ride", "bus", "taxi", "travelling", "traffic", "cab", "cab"],
        "difficult_direct_answer": False,
        "rationales": ["A train would not be on the street."],
    }
    rows = [
        good,
        {**good, "question_id": "missing", "image_id": 1},
        {**good, "question_id": "as in test", "direct_answers": []},
        {key: found for key, found in good.items() if key != "direct_answers"},
        None,
    ]
    return Published(
        {
            "annotations": write(home / "aokvqa_v1p0_train.json", rows),
            "images": str(home / "coco"),
        },
        {"22MexNkBPpdZGX6sxbxVBH": [("What is the man by the bags awaiting?", "ride")]},
        {"missing image": 1, "no answers": 1, "no direct_answers": 2},
    )


def gqa(home: Path) -> Published:
    picture(home / "images" / "2354786.jpg")
    picture(home / "images" / "n161313.jpg")

    def question(image_id: Any, words: str, answer: str) -> dict[str, Any]:
        return {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "sky (2486325)"}],
            "entailed": [],
            "equivalent": ["02930152"],
            "question": words,
            "imageId": image_id,
            "isBalanced": True,
            "groups": {"global": None, "local": "06-sky_dark"},
            "answer": answer,
            "semanticStr": "select: sky (2486325)",
            "annotations": {"answer": {}, "question": {"2": "2486325"}, "fullAnswer": {}},
            "types": {"detailed": "verifyAttr", "semantic": "attr", "structural": "verify"},
            "fullAnswer": f"It is {answer}.",
        }

    rows = {
        "02930152": question("2354786", "Is the sky dark?", "yes"),
        "201307251": question("n161313", "Who is wearing the dress?", "woman"),
        "1": question("2375429", "What is white?", "wall"),
        "2": question("../images/2354786", "What is out?", "name"),
        "3": question(2354786, "Is the id a number?", "yes"),
        "4": {"imageId": "2354786", "question": "As in test?", "isBalanced": True},
    }
    return Published(
        {
            "questions": write(home / "train_balanced_questions.json", rows),
            "images": str(home / "images"),
        },
        {
            "02930152": [("Is the sky dark?", "yes")],
            "201307251": [("Who is wearing the dress?", "woman")],
        },
        {
            "missing image": 1,
            "image outside the folder": 1,
            "imageId is no str": 1,
            "no answer": 1,
        },
    )


def ocr_vqa(home: Path) -> Published:
    picture(home / "images" / "761183272.jpg")
    picture(home / "images" / "1421585561.gif")

    def cover(name: str, split: Any, ending: str = ".jpg") -> dict[str, Any]:
        return {
            "imageURL": f"http://ecx.images-amazon.com/images/I/{name}{ending}",
            "questions": ["Who wrote this book?", "Is this a games related book?"],
            "answers": ["Sandra Boynton", "No"],
            "title": "Mom's Family Wall Calendar 2016",
            "authorName": "Sandra Boynton",
            "genre": "Calendars",
            "split": split,
        }

    both = [("Who wrote this book?", "Sandra Boynton"), ("Is this a games related book?", "No")]
    rows = {
        "761183272": cover("61Y5cOdHJbL", 1),
        "1421585561": cover("x", 1, ".gif"),
        "76118": cover("of the test", 3),
        "7": cover("missing", 1),
        "../images/761183272": cover("out", 1),
        "9": cover("unknown split", 4),
        "10": {**cover("uneven", 1), "answers": ["one"]},
    }
    return Published(
        {
            "annotations": write(home / "dataset.json", rows),
            "images": str(home / "images"),
            "split": "train",
        },
        {"761183272": both, "1421585561": both},
        {
            "missing image": 2,
            "image outside the folder": 1,
            "questions and answers differ in number": 1,
        },
    )


def refcoco(home: Path) -> Published:
    name = "COCO_train2014_000000581857.jpg"
    picture(home / "train2014" / name)

    def reference(ref_id: int, ann_id: int, split: str, *sentences: str) -> dict[str, Any]:
        sent_ids = [ref_id * 10 + i for i in range(len(sentences))]
        return {
            "sent_ids": sent_ids,
            # Not the name of an image: the number of the region stands behind it.
            "file_name": f"COCO_train2014_000000581857_{ann_id}.jpg",
            "ann_id": ann_id,
            "ref_id": ref_id,
            "image_id": 581857,
            "split": split,
            "sentences": [
                {"tokens": words.split(), "raw": words, "sent_id": sent_id, "sent": words}
                for sent_id, words in zip(sent_ids, sentences, strict=True)
            ],
            "category_id": 1,
        }

    def region(ann_id: int, box: list[float], image_id: int = 581857) -> dict[str, Any]:
        return {
            "segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]],
            "area": 197.29,
            "iscrowd": 0,
            "image_id": image_id,
            "bbox": box,
            "category_id": 1,
            "id": ann_id,
        }

    references = [
        reference(0, 1719310, "train", "navy blue shirt", "lady in the back"),
        reference(1, 1719310, "testA", "only to be tested"),
        reference(2, 11, "train", "a region that is not there"),
        reference(3, 12, "train", "a box without width"),
        reference(4, 13, "train", "a region of another image"),
        {"ref_id": 5, "split": "train"},
    ]
    folder = home / "refcoco"
    folder.mkdir(parents=True)
    # Protocol 2 is what the publisher's Python 2 wrote.
    (folder / "refs(unc).p").write_bytes(pickle.dumps(references, protocol=2))
    instances = {
        "info": {"description": "This is stable 1.0 version of the 2014 MS COCO dataset."},
        "images": [coco_image(581857, name)],
        "licenses": [],
        "annotations": [
            region(1719310, [10.83, 37, 5.5, 4]),
            region(12, [1, 1, 0, 4]),
            region(13, [1, 1, 2, 4], image_id=3),
        ],
        "categories": [{"supercategory": "person", "id": 1, "name": "person"}],
    }
    return Published(
        {
            "references": str(folder / "refs(unc).p"),
            "instances": write(folder / "instances.json", instances),
            "images": str(home / "train2014"),
            "split": "train",
        },
        {"0": [(None, "navy blue shirt")], "1": [(None, "lady in the back")]},
        {"not in instances.json": 2, "empty box": 1, "no ann_id": 1},
    )


def llava_instruct(home: Path) -> Published:
    picture(home / "train2017" / "000000033471.jpg")

    def record(image: str | None, *values: str) -> dict[str, Any]:
        speakers = ("human", "gpt") * len(values)
        said = [
            {"from": speaker, "value": words}
            for speaker, words in zip(speakers, values, strict=False)
        ]
        return {
            "id": f"id {image}",
            **({"image": image} if image else {}),
            "conversations": said,
        }

    rows = [
        record(
            "000000033471.jpg",
            "<image>\nWhat are the colors of the bus?",
            "The bus is white and red.",
            "What is on its back?",
            "An advertisement.",
        ),
        # As in the mixture of LLaVA 1.5: a longer path, and words without an image.
        record("coco/train2017/000000033471.jpg", "Name it.\n<image>", "A bus."),
        record(None, "Write a poem.", "Roses are red."),
        record("000000000001.jpg", "<image>\nWhat is missing?", "This image."),
        record("../../etc/passwd", "<image>\nWhat is out?", "This image."),
        record("000000033471.jpg", "<image>\nWho answers?"),
        record("000000033471.jpg", "<image>", "Of what?"),
        {"id": "no conversation", "image": "000000033471.jpg"},
        {
            "id": "turned",
            "image": "000000033471.jpg",
            "conversations": [{"from": "gpt", "value": "A"}, {"from": "human", "value": "B"}],
        },
    ]
    return Published(
        {
            "conversations": write(home / "llava_instruct_150k.json", rows),
            "images": str(home / "train2017"),
        },
        {
            "id 000000033471.jpg": [
                ("What are the colors of the bus?", "The bus is white and red."),
                ("What is on its back?", "An advertisement."),
            ],
            "id coco/train2017/000000033471.jpg": [("Name it.", "A bus.")],
            "id None": [("Write a poem.", "Roses are red.")],
        },
        {
            "missing image": 1,
            "image outside the folder": 1,
            "conversation without a last answer": 1,
            "empty value": 1,
            "no conversations": 1,
            "speakers out of turn": 1,
        },
    )


def incidents1m(home: Path) -> Published:
    for name in ("8e7edea3da", "1", "2"):
        picture(home / "images" / "track_crash_in_library_outdoor" / f"{name}.jpg")

    def labels(incidents: Any, places: Any) -> dict[str, Any]:
        return {"incidents": incidents, "places": places, "url": "https://example.org/a.jpg"}

    folder = "track_crash_in_library_outdoor"
    rows = {
        f"{folder}/8e7edea3da.jpg": labels({"truck accident": 0}, {}),
        f"{folder}/1.jpg": labels({"flooded": 1, "damaged": 1}, {"street": 1, "beach": 0}),
        f"{folder}/2.jpg": labels({}, {"forest": 1}),
        f"{folder}/3.jpg": labels({"flooded": 1}, {}),
        "../images/1.jpg": labels({"flooded": 1}, {}),
        f"{folder}/4.jpg": labels({}, {}),
        f"{folder}/5.jpg": labels({"flooded": -1}, {}),
        f"{folder}/6.jpg": {"url": "https://example.org/b.jpg"},
    }
    return Published(
        {
            "annotations": write(home / "multi_label_train.json", rows),
            "images": str(home / "images"),
        },
        {
            f"{folder}/8e7edea3da.jpg": [("Does it show truck accident?", "no")],
            f"{folder}/1.jpg": [
                ("What incident does the picture show?", "flooded, damaged"),
                ("What kind of place does it show?", "street"),
                ("Does it show beach?", "no"),
            ],
            f"{folder}/2.jpg": [
                ("What incident does the picture show?", "none"),
                ("What kind of place does it show?", "forest"),
            ],
        },
        {
            "missing image": 1,
            "image outside the folder": 1,
            "no labels": 1,
            "label neither 0 nor 1": 1,
            "no incidents": 1,
        },
    )


def single_robot(home: Path) -> Published:
    about = {"instruction": "Robots: Drone, Underwater Robot, ... Which is the most suited?"}
    rows = [
        {**about, "input": "Task: Look at the roof.", "output": "Drone"},
        {**about, "input": "Task: Search the ruin.", "output": "Robot with Legs, Drone"},
        {**about, "input": "Task: Look at the roof.", "output": "Humanoid"},
        {**about, "input": "Task: Fire.", "output": "Tank"},
        {**about, "input": "Task: Nothing."},
    ]
    return Published(
        {"rows": write(home / "single_robot_selection.json", rows)},
        {
            "em-001": [("Look at the roof.", "Drone")],
            "em-002": [("Search the ruin.", "Robot with Legs; Drone")],
        },
        {"unknown robot": 1, "no output": 1},
    )


def multi_robot(home: Path) -> Published:
    def row(task: str, *steps: tuple[str, str, int]) -> dict[str, Any]:
        return {
            "instruction": "Robots: Drone, Underwater Robot, ...",
            "input": f"Task: {task}",
            "subtasks": [
                {"subtask": what, "assigned_robot": robot, "execution_order": order}
                for what, robot, order in steps
            ],
            "original_single_robot_output": "Drone",
        }

    rows = [
        row("Inspect the tower.", ("Close look", "Drone", 2), ("Overview", "Drone", 1)),
        row("Fire.", ("Fire", "Tank", 1)),
        row("Nothing."),
        {"input": "Task: No subtasks."},
    ]
    return Published(
        {"rows": write(home / "multi_robot_selection_dataset.json", rows)},
        {"em-plan-001": [("Inspect the tower.", "1. Drone: Overview\n2. Drone: Close look")]},
        {"unknown robot": 1, "no subtasks": 2},
    )


def lines(home: Path) -> Published:
    path = home / "captions.txt"
    said = ["A boat lies in the  harbour.", "No.", "word " * 50, "Two men carry a ladder."]
    path.write_text("\n".join(said), "utf-8")
    first, last = "A boat lies in the harbour.", said[3]
    return Published(
        {"texts": path},
        {"captions.txt-1": [(first, first)], "captions.txt-4": [(last, last)]},
        {"line too short or too long": 2},
    )


PUBLISHERS: dict[str, Callable[[Path], Published]] = {
    "coco_captions": coco_captions,
    "flickr30k": flickr30k,
    "flickr30k_karpathy": flickr30k_karpathy,
    "cc3m": cc3m,
    "laion_coco": laion_coco,
    "vqa_v2": vqa_v2,
    "ok_vqa": ok_vqa,
    "a_okvqa": a_okvqa,
    "gqa": gqa,
    "ocr_vqa": ocr_vqa,
    "refcoco": refcoco,
    "refcoco+": refcoco,
    "refcocog": refcoco,
    "llava_instruct": llava_instruct,
    "incidents1m": incidents1m,
    "lines": lines,
    "single_robot": single_robot,
    "multi_robot": multi_robot,
}
