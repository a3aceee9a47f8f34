"""A model of transformers as teacher: real ones, tiny and random, from folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_teachers import save_gpt2, save_llava, tokenizer_of  # noqa: E402

from embervlm.data.teacher_answers import AnswerFile, read_answers  # noqa: E402
from embervlm.imaging import encode_jpeg  # noqa: E402
from embervlm.training.distill import distill  # noqa: E402
from embervlm.training.teacher_prompts import Prompt, answer_prompt  # noqa: E402
from embervlm.training.teacher_questions import Question  # noqa: E402
from embervlm.training.teachers import (  # noqa: E402
    NoAnswerError,
    Teacher,
    TeacherSettings,
    open_teacher,
)
from embervlm.training.top_logits import TEMPERATURE, TopLogits  # noqa: E402

SHORT = TeacherSettings(max_tokens=8)
PROMPT = Prompt("Be short.", "What is it?")


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def seeing(llava: Path) -> Teacher:
    return open_teacher(f"local:{llava}", SHORT)


def picture(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return encode_jpeg(noise, 768)


def test_the_photo_and_the_words_are_read(seeing: Teacher) -> None:
    assert seeing.sees
    first = seeing.ask(PROMPT, picture(1), seed=0)
    assert first == seeing.ask(PROMPT, picture(1), seed=5), "greedy: the seed changes nothing"
    assert first.text
    assert first.top is None
    assert first.cut, "random weights do not end by themselves"
    others = [
        seeing.ask(PROMPT, picture(2), seed=0),
        seeing.ask(PROMPT, None, seed=0),
        seeing.ask(Prompt("Be short.", "Where?"), picture(1), seed=0),
        seeing.ask(Prompt("Be long.", "What is it?"), picture(1), seed=0),
    ]
    assert all(other.text != first.text for other in others)


def test_a_temperature_draws_by_the_seed(llava: Path) -> None:
    warm = open_teacher(f"local:{llava}", TeacherSettings(max_tokens=8, temperature=1.5))
    drawn = [warm.ask(PROMPT, None, seed=seed).text for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_marks_in_a_strangers_words_are_no_marks(seeing: Teacher) -> None:
    asked = Prompt("Be short.", "What is<image> it?</s>")
    assert seeing.ask(asked, picture(1), seed=0).text


def test_without_a_template_too(tmp_path: Path) -> None:
    bare = open_teacher(f"local:{save_llava(tmp_path / 'bare', template=None)}", SHORT)
    assert bare.ask(PROMPT, picture(1), seed=0).text != bare.ask(PROMPT, None, seed=0).text


def test_logits_are_those_of_the_model(gpt2: Path) -> None:
    from transformers import AutoModelForCausalLM

    settings = TeacherSettings(max_tokens=6, logits=5, student=str(gpt2))
    teacher = open_teacher(f"local:{gpt2}", settings)
    assert not teacher.sees
    reply = teacher.ask(PROMPT, None, seed=0)
    top = reply.top
    assert top is not None
    tokenizer, size = tokenizer_of(), len(tokenizer_of())
    assert tokenizer.decode(top.answer_N, skip_special_tokens=True).strip() == reply.text
    read = tokenizer("Be short.\n\nWhat is it?\n", return_tensors="pt")["input_ids"]
    whole = torch.cat([read, torch.from_numpy(top.answer_N).long()[None]], dim=1)
    with torch.no_grad():
        logits_TV = AutoModelForCausalLM.from_pretrained(gpt2)(whole).logits[0, :, :size]
    rows_NV = logits_TV[read.shape[1] - 1 : -1].float()
    log_p_NV = (rows_NV / TEMPERATURE).log_softmax(-1)
    expected = log_p_NV.topk(5)
    np.testing.assert_array_equal(top.tokens_NK, expected.indices.numpy())
    np.testing.assert_allclose(top.log_p_NK, expected.values.numpy(), atol=2e-2)
    assert rows_NV.argmax(-1).tolist() == top.answer_N.tolist(), "greedy takes the likeliest"
    assert top.log_p_NK.dtype == np.float16


def test_the_students_vocabulary_must_be_the_same(gpt2: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    tokenizer_of(("<|mark|>",)).backend_tokenizer.save(str(file))
    more = TeacherSettings(logits=5, student=str(file))
    assert open_teacher(f"local:{gpt2}", more), "marks behind the teacher's tokens are no harm"
    smaller = tmp_path / "smaller.json"
    text = file.read_text("utf-8").replace('"<pad>"', '"<p>"')
    smaller.write_text(text, "utf-8")
    with pytest.raises(ValueError, match="Token 2 is '<pad>' for the teacher and '<p>' for the"):
        open_teacher(f"local:{gpt2}", TeacherSettings(logits=5, student=str(smaller)))


def test_our_own_vocabulary_is_another(gpt2: Path, tokenizer_file: Path) -> None:
    settings = TeacherSettings(logits=5, student=str(tokenizer_file))
    with pytest.raises(ValueError, match="logits pass only between equal vocabularies"):
        open_teacher(f"local:{gpt2}", settings)


def test_a_prompt_that_is_too_long_is_one_question_without_an_answer(seeing: Teacher) -> None:
    with pytest.raises(NoAnswerError, match="the model takes 512") as caught:
        seeing.ask(Prompt("Be short.", "why " * 400), None, seed=0)
    assert not caught.value.out_of_reach


def test_what_is_not_there_gets_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="cannot be loaded .*check the folder"):
        open_teacher(f"local:{tmp_path}", SHORT)
    with pytest.raises(ValueError, match="cannot be loaded .*check the name"):
        open_teacher("local:nobody/nothing", SHORT)
    with pytest.raises(ValueError, match="--device nowhere cannot be used"):
        open_teacher(f"local:{tmp_path}", TeacherSettings(device="nowhere"))


def test_a_run_keeps_the_logits_and_leaves_out_photos_for_a_blind_teacher(
    gpt2: Path, photo: Path, tmp_path: Path
) -> None:
    teacher = open_teacher(
        f"local:{gpt2}", TeacherSettings(max_tokens=4, logits=3, student=str(gpt2))
    )
    prompt = Prompt("", "What?")
    questions = [
        Question("answers", "1", prompt, "What?", None),
        Question("answers", "2", answer_prompt(None), None, photo),
    ]
    with AnswerFile(tmp_path / "answers.jsonl") as file:
        summary = distill(teacher, questions, file)
    assert (summary.asked, summary.left_out.left_out.total()) == (1, 1)
    assert "cannot see" in summary.sentence()
    (answer,) = read_answers(tmp_path / "answers.jsonl")
    assert answer.top is not None
    expected = teacher.ask(prompt, None, seed=0).top
    assert expected is not None
    found = TopLogits.from_dict(answer.top)
    np.testing.assert_array_equal(found.log_p_NK, expected.log_p_NK)
    np.testing.assert_array_equal(found.tokens_NK, expected.tokens_NK)
    np.testing.assert_array_equal(found.answer_N, expected.answer_N)
