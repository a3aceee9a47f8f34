"""The text formats of `ember-37m`: what is written is read back, whatever the words."""

import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("torch")

from gpt2 import write_gpt2_tokenizer

from embervlm.models.gpt2_tokenizer import Gpt2Tokenizer
from embervlm.models.prefix_formats import (
    IMAGE,
    caption,
    exchange,
    parse_caption,
    parse_exchange,
    parse_reasons,
    parse_request,
    read_request,
    reasons,
)
from embervlm.prompts import Reasoning


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Gpt2Tokenizer:
    folder = tmp_path_factory.mktemp("gpt2")
    write_gpt2_tokenizer(folder)
    return Gpt2Tokenizer.from_published(folder)


REQUESTS = (
    "carry the pump", "carry 16 kg, then 5 kg, 300 m up", "16 kg", "", "one [kg<=20] and 2 m",
    "say <|robot_selection|> and <|image|>", "40 minutes in 50 km/h of wind \N{SNOWMAN}",
)  # fmt: skip


@pytest.mark.parametrize("task", REQUESTS)
@pytest.mark.parametrize("image_tokens", [0, 4])
def test_a_request_comes_back(task: str, image_tokens: int, gpt2: Gpt2Tokenizer) -> None:
    reading = read_request(task, gpt2, 128, image_tokens)
    text = gpt2.decode(reading.tokens)
    if "<|" not in task:
        assert parse_request(text) == task.replace("[", "(").replace("]", ")")
    images = [i for i, token in enumerate(reading.tokens) if token == gpt2.specials[IMAGE]]
    assert images == list(range(image_tokens))
    assert reading.tokens[-1] == gpt2.specials["<|robot_selection|>"]
    assert reading.tokens.count(reading.tokens[-1]) == 1


def test_a_number_is_marked_in_words_at_the_closing_bracket(gpt2: Gpt2Tokenizer) -> None:
    reading = read_request("Carry the 16 kg pump 300 m, or 2 kg", gpt2, 128, 4)
    text = gpt2.decode(reading.tokens[4:])
    assert text == (
        " carry the 16 kg [kg<=20] pump 300 m [m<=300], or 2 kg [kg<=5]<|robot_selection|>"
    )
    assert [mention.value for mention in reading.mentions] == [16, 300, 2]
    for mark, mention in zip(reading.marks, ("20]", "300]", "kg<=5]"), strict=True):
        assert gpt2.decode(reading.tokens[: mark + 1]).endswith(mention)


def test_a_long_request_keeps_its_two_ends_and_all_numbers(gpt2: Gpt2Tokenizer) -> None:
    long = "take 5 kg " + "along the river " * 40 + "over 7 m " + "and on " * 40 + "for 3 hours"
    reading = read_request(long, gpt2, 60, 4)
    assert len(reading.tokens) == 64
    assert [mention.value for mention in reading.mentions] == [5, 7, 3]
    assert all(gpt2.decode([reading.tokens[mark]]) == "]" for mark in reading.marks)
    assert gpt2.decode(reading.tokens).endswith(" 3 hours [h<=8]<|robot_selection|>")


def test_reasons_come_back(gpt2: Gpt2Tokenizer) -> None:
    reasoning = Reasoning(("Drone", "Robot with Legs"), "look  at it", "on a roof", "it can fly")
    told, learnt = reasons(reasoning, gpt2)
    assert gpt2.decode(told) == " Drone; Robot with Legs<|reasoning_start|>"
    text = gpt2.decode((*told, *learnt))
    assert text.endswith(" look at it\n on a roof<|action_plan|> it can fly<|reasoning_end|>")
    found = parse_reasons(text)
    assert found == Reasoning(("Drone", "Robot with Legs"), "look at it", "on a roof", "it can fly")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " Drone<|reasoning_start|>",
        "<|reasoning_start|> a\n b<|action_plan|> c<|reasoning_end|>",
        " Drone<|reasoning_start|> a\n b<|action_plan|> <|reasoning_end|>",
        " Drone<|reasoning_start|> a\n b\n c<|action_plan|> d<|reasoning_end|>",
        " Drone<|reasoning_start|> a\n b<|action_plan|> c<|reasoning_end|> more",
        " Drone<|reasoning_start|> a\n <|image|>b<|action_plan|> c<|reasoning_end|>",
        " Drone a\n b<|action_plan|> c<|reasoning_end|>",
    ],
)  # fmt: skip
def test_other_forms_are_no_reasons(text: str) -> None:
    assert parse_reasons(text) is None


def test_captions_and_exchanges_come_back(gpt2: Gpt2Tokenizer) -> None:
    told, learnt = caption("a road\n in the rain", gpt2, 64, 4)
    assert [gpt2.decode([token]) for token in told] == [IMAGE] * 4
    assert parse_caption(gpt2.decode((*told, *learnt))) == "a road in the rain"
    assert len(caption("long " * 100, gpt2, 64, 0)[1]) == 64
    told, learnt = exchange("What is\nAnswer: this?", "a road, 2 m", gpt2, 64, 4)
    assert gpt2.decode(told).endswith("Answer:")
    assert gpt2.decode(learnt) == " a road, 2 m<|endoftext|>"
    assert parse_exchange(gpt2.decode((*told, *learnt))) == (
        "What is Answer: this?", "a road, 2 m",
    )  # fmt: skip
    for text in ("", "Question: a", "Question: a\nAnswer: b", "a\nAnswer: b<|endoftext|>"):
        assert parse_exchange(text) is None
    assert parse_caption("a road") is None
    assert parse_request("a road") is None
