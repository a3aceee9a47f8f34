"""What the model loses when a part of it, or of its input, is taken away."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from embervlm.backends.base import Proposal
from embervlm.data.sample import robots_of
from embervlm.evaluation.cases import SEED, Case, decide, placed_photos, watched
from embervlm.evaluation.metrics import Answer, Rows, measure, share
from embervlm.fleet import ENVIRONMENTS, Fleet
from embervlm.imaging import load_image, preprocess
from embervlm.scenario import Scenario
from embervlm.selector import Selector


def without_rules(proposal: Proposal) -> Answer:
    """Return the network's likeliest set as it stands, before any rule of planning."""
    robots = robots_of(int(proposal.subsets.argmax()))
    outcomes = Fleet.default().outcomes
    order = sorted(robots, key=lambda name: -float(proposal.primary[outcomes.index(name)]))
    return Answer(tuple(order), order[0], ENVIRONMENTS[int(proposal.environment.argmax())])


def without_inputs(selector: Selector, cases: Sequence[Case], seed: int = SEED) -> Rows:
    """Return the figures on photo requests with both inputs, one of them, or a wrong photo.

    "grey photo" is of one mid-grey; "another photo" is that of another case, drawn by the seed
    among all of them, so that it may show the same kind of place.
    """
    images = [case.scenario.image for case in cases]
    shuffled = random.Random(seed).sample(images, len(images))
    grey = grey_photo(selector.backend.image_size)
    scenarios = {
        "words and photo": [case.scenario for case in cases],
        "words alone": [Scenario(task=case.scenario.task) for case in cases],
        "photo alone": [Scenario(image=image) for image in images],
        "grey photo": [Scenario(case.scenario.task, grey) for case in cases],
        "another photo": [
            Scenario(case.scenario.task, image) for case, image in zip(cases, shuffled, strict=True)
        ],
    }
    truths = [case.truth for case in cases]
    rows = {}
    for name, asked in scenarios.items():
        known: dict[Scenario, Answer] = {}
        for scenario in watched(asked, name):
            if scenario not in known:
                known[scenario] = Answer.of(decide(selector, scenario)[1])
        rows[name] = measure([known[scenario] for scenario in asked], truths, seed=seed)
    return rows


def grey_photo(size: int) -> bytes:
    """Return a photo of one mid-grey, PNG: the network's pixels are all 0."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), (128, 128, 128)).save(file, "PNG")
    return file.getvalue()


def place_from_photo(selector: Selector, split: str, photos_dir: Path) -> Rows:
    """Return the share of photos whose place the network names, of all and of each place."""
    photos, right = placed_photos(split), []
    for photo in watched(photos, "read the photos"):
        pixels = preprocess(load_image(photos_dir / photo.file), selector.backend.image_size)
        scene = selector.backend.propose(None, pixels).scene
        assert scene is not None, "a proposal for a photo says what place it shows"
        right.append(ENVIRONMENTS[int(scene.argmax())] == photo.environment)
    places = [photo.environment for photo in photos]
    groups = [photo.group for photo in photos]
    rows = {"all photos": {"share": share(right, groups)}}
    for place in ENVIRONMENTS:
        of_place = [i for i, found in enumerate(places) if found == place]
        if of_place:
            found = share([right[i] for i in of_place], [groups[i] for i in of_place])
            rows[place.replace("_", " ")] = {"share": found}
    commonest = max(ENVIRONMENTS, key=places.count)
    always = share([place == commonest for place in places], groups)
    rows[f"always {commonest.replace('_', ' ')}"] = {"share": always}
    return rows
