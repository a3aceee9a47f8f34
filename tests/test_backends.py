"""Every backend runs the same network, and what is written always parses."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from embervlm.backends import Backend, load_backend
from embervlm.backends.base import MAX_TASK_TOKENS, Proposal
from embervlm.backends.decoding import MAX_SECTION_TOKENS
from embervlm.backends.reference import ReferenceBackend
from embervlm.checkpoint import load_checkpoint
from embervlm.fleet import NO_ROBOT, Fleet
from embervlm.imaging import load_image, preprocess
from embervlm.prompts import END, SECTIONS, parse_reasoning, read_task, reasoning_prefix
from embervlm.tokenizer import Tokenizer

torch = pytest.importorskip("torch")

TASKS = [
    None,
    "look",
    "carry the 8 kg pump up the stairs, 40 m, wind 70 km/h",
    "Überprüfe den Fluss 🚁 at 3 knots",
    "search the ruins for people " * 60,
]


@pytest.fixture(scope="module")
def pytorch(tiny_model: Path) -> Backend:
    return load_backend("pytorch", tiny_model)


@pytest.fixture(scope="module")
def pixels(photo: Path) -> np.ndarray:
    return preprocess(load_image(photo), 32)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("with_photo", [False, True])
def test_numpy_says_what_pytorch_says(
    reference: ReferenceBackend,
    pytorch: Backend,
    pixels: np.ndarray,
    task: str | None,
    with_photo: bool,
) -> None:
    photo = pixels if with_photo else None
    ours, theirs = reference.propose(task, photo), pytorch.propose(task, photo)
    assert ours.mentions == theirs.mentions
    assert ours.unread == theirs.unread
    assert len(ours.roles) == len(ours.mentions)
    assert (ours.scene is not None) == (theirs.scene is not None) == with_photo
    for field in fields(Proposal):
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if field.name == "states":
            assert np.array_equal(mine[1], other[1])
            mine, other = mine[0], other[0]
        if field.name not in ("mentions", "unread") and mine is not None:
            assert np.shape(mine) == np.shape(other), field.name
            np.testing.assert_allclose(mine, other, atol=1e-4, err_msg=field.name)


def test_photo_and_words_both_change_what_is_said(
    reference: ReferenceBackend, pixels: np.ndarray
) -> None:
    plain = reference.propose("look at the roof", None)
    seen = reference.propose("look at the roof", pixels)
    other = reference.propose("carry the pump", None)
    assert np.abs(plain.subsets - seen.subsets).max() > 1e-3
    assert np.abs(plain.subsets - other.subsets).max() > 1e-3


def test_ngrams_speak_for_words_and_are_silent_beside_a_photo(
    tiny_model: Path, pixels: np.ndarray
) -> None:
    checkpoint = load_checkpoint(tiny_model)
    silent = {
        name: np.zeros_like(value) if name in ("ngrams.table.weight", "ngrams.bias") else value
        for name, value in checkpoint.weights.items()
    }
    loud, without = (
        ReferenceBackend(checkpoint),
        ReferenceBackend(replace(checkpoint, weights=silent)),
    )
    for name in ("subsets", "environment"):
        for task, photo, differ in [
            ("look at the roof", None, True),
            ("look at the roof", pixels, False),
            ("?!", None, False),
            (None, pixels, False),
        ]:
            ours, theirs = (getattr(b.propose(task, photo), name) for b in (loud, without))
            assert (np.abs(ours - theirs).max() > 1e-3) == differ, (name, task)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("robots", [("Drone",), ("Robot with Legs", "Drone"), (NO_ROBOT,)])
@pytest.mark.parametrize("with_photo", [False, True])
def test_writes_what_a_greedy_decoder_in_pytorch_writes(
    reference: ReferenceBackend,
    pytorch: Backend,
    pixels: np.ndarray,
    tokenizer: Tokenizer,
    task: str | None,
    robots: tuple[str, ...],
    with_photo: bool,
) -> None:
    proposal = reference.propose(task, pixels if with_photo else None)
    written = reference.write(proposal, robots)
    assert written == greedy_in_pytorch(pytorch.network, tokenizer, proposal, robots)
    assert pytorch.write(proposal, robots) == written


@torch.no_grad()
def greedy_in_pytorch(
    network: "torch.nn.Module", tokenizer: Tokenizer, proposal: Proposal, robots: tuple[str, ...]
) -> str:
    """Decode without a cache, each step over everything that is written so far.

    The grammar: three sections behind the robots, each begins with a letter or a digit, holds no
    control character, no "|" and no mark, never says a token twice running or four tokens in a row
    again, and ends in the next mark after at most MAX_SECTION_TOKENS.
    """
    specials = tokenizer.specials
    texts = {number: tokenizer.decode([number]) for number in range(len(tokenizer))}
    forbidden = {
        number
        for number, text in texts.items()
        if number in specials.values() or any(char < " " or char in "|\x7f" for char in text)
    }
    begins = {
        n for n, text in texts.items() if (first := text.strip()[:1]).isalnum() and first.isascii()
    }
    states_BSD, source_BS = (torch.from_numpy(array)[None] for array in proposal.states)
    mask_BS = torch.ones(states_BSD.shape[:2], dtype=torch.bool)
    tokens = reasoning_prefix(robots, tokenizer)
    room = network.config.decoder_positions - len(tokens)
    marks = [*SECTIONS[2:], END]
    for i, mark in enumerate(marks):
        length, end = 0, specials[mark]
        while tokens[-1] != end:
            section = tokens[len(tokens) - length :] if length else []
            again = {
                section[j]
                for j in range(3, len(section))
                if section[j - 3 : j] == section[-3:] and len(section) >= 3
            }
            stutter = again | set(section[-1:])
            allowed = (begins if length == 0 else set(texts)) - forbidden - stutter | (
                {end} if length else set()
            )
            if length == min(MAX_SECTION_TOKENS, room // (len(marks) - i) - 1):
                allowed = {end}
            logits_BTV = network.decoder(
                torch.tensor([tokens]), states_BSD, mask_BS, source_BS, network.text.embed.weight
            )
            choices = sorted(allowed)
            tokens.append(choices[int(logits_BTV[0, -1, choices].argmax())])
            length += 1
        room -= length
    return tokenizer.decode(tokens)


def test_whatever_the_weights_what_is_written_parses(
    tiny_model: Path, tokenizer: Tokenizer
) -> None:
    checkpoint = load_checkpoint(tiny_model)
    random = np.random.default_rng(0)
    robots = Fleet.default().names
    hostile = ["<", "|", "\n", " ", "é", "\x1b", "\x00", "<|end|>"]
    for _ in range(60):
        table = checkpoint.weights["text.embed.weight"].copy()
        table[:] = random.normal(0, 1, table.shape)
        # Without a grammar, a decoder would write nothing but these bytes.
        for token in tokenizer.encode(str(random.choice(hostile))):
            table[token] *= 20
        backend = ReferenceBackend(
            replace(checkpoint, weights={**checkpoint.weights, "text.embed.weight": table})
        )
        written = backend.write(backend.propose("look at the roof", None), robots)
        reasoning = parse_reasoning(written)
        assert reasoning is not None, written
        assert reasoning.robots == robots
        for line in (reasoning.task, reasoning.environment, reasoning.decision):
            assert line.strip() == line != ""
            assert "\n" not in line


@pytest.mark.parametrize("name", ["native", "pytorch", "reference"])
def test_four_threads_are_told_what_one_is(tiny_model: Path, pixels: np.ndarray, name: str) -> None:
    backend = load_backend(name, tiny_model)

    def said(asked: tuple[str | None, np.ndarray | None]) -> tuple[object, ...]:
        proposal = backend.propose(*asked)
        steps = backend.split(proposal)
        written = backend.write(proposal, ("Drone", "Robot with Legs"))
        return proposal.subsets.tolist(), [step.pointer.tolist() for step in steps], written

    asked = [(task, photo) for task in TASKS for photo in (None, pixels)]
    alone = [said(one) for one in asked]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(said, asked * 5)) == alone * 5


def test_reads_at_most_its_limit_of_tokens(tokenizer: Tokenizer) -> None:
    assert len(read_task("search " * 500, tokenizer, MAX_TASK_TOKENS).tokens) == MAX_TASK_TOKENS


def test_names_the_backends_there_are(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="'tpu'.*reference, pytorch"):
        load_backend("tpu", tiny_model)
