"""Write two sets of a few examples in their publishers' layouts, for `runs/tiny.sh`.

    python runs/tiny_data.py FOLDER

Eight cuts of the demo's photo, with captions (COCO) and questions (LLaVA-Instruct) written by hand:
enough to show that every stage runs, not to learn anything from.
"""

import json
import sys
from pathlib import Path

from PIL import Image

PHOTO = Path(__file__).parents[1] / "embervlm" / "demo" / "seabed.jpg"
CAPTIONS = (
    "A ray lies on the sandy bottom of the sea.",
    "Sand and small stones under clear water.",
    "The tail of a ray over pale sand.",
    "A flat fish rests on the sea bed.",
    "Ripples of light on sand below the water.",
    "The sea bed, empty but for shells.",
    "A ray seen from above, under water.",
    "Pale sand on the bottom of a tank.",
)


def main() -> None:
    """Write `images`, `captions_tiny.json` and `llava_tiny.json`."""
    folder = Path(sys.argv[1])
    (folder / "images").mkdir(parents=True, exist_ok=True)
    photo = Image.open(PHOTO).convert("RGB")
    side = min(photo.size) // 2
    images, captions, talks = [], [], []
    for i, caption in enumerate(CAPTIONS):
        left = (photo.width - side) * (i % 2)
        top = (photo.height - side) * (i // 2) // 3
        name = f"{i:012d}.jpg"
        photo.crop((left, top, left + side, top + side)).save(folder / "images" / name)
        images.append({"id": i, "file_name": name})
        captions.append({"id": i, "image_id": i, "caption": caption})
        turns = [
            {"from": "human", "value": "<image>\nWhat does the photo show?"},
            {"from": "gpt", "value": caption},
        ]
        talks.append({"id": f"{i:012d}", "image": name, "conversations": turns})
    content = {"images": images, "annotations": captions}
    (folder / "captions_tiny.json").write_text(json.dumps(content), "utf-8")
    (folder / "llava_tiny.json").write_text(json.dumps(talks), "utf-8")


if __name__ == "__main__":
    main()
