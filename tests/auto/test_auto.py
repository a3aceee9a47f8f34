"""The networks in transformers: saved and loaded to the bit, and the same as the backends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from gpt2 import write_gpt2_tokenizer  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoModel, AutoProcessor  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from embervlm import hub  # noqa: E402
from embervlm.auto import EmberVLMConfig, EmberVLMModel, EmberVLMProcessor  # noqa: E402
from embervlm.backends.pytorch import PyTorchBackend  # noqa: E402
from embervlm.backends.pytorch_prefix import PrefixBackend  # noqa: E402
from embervlm.cli import app  # noqa: E402
from embervlm.imaging import load_image, preprocess  # noqa: E402
from embervlm.models.configuration import BitMarConfig, PrefixConfig  # noqa: E402
from embervlm.models.ember_37m import Ember37M  # noqa: E402
from embervlm.models.gpt2_tokenizer import Gpt2Tokenizer  # noqa: E402
from embervlm.models.modeling import EmberNetwork  # noqa: E402
from embervlm.tokenizer import Tokenizer  # noqa: E402

TASK = "carry the 8 kg pump 40 m up the stairs"
SIZES: dict[str, Any] = {
    "text_layers": 1, "text_width": 32, "text_heads": 2, "text_hidden": 64,
    "decoder_layers": 1, "decoder_width": 32, "decoder_heads": 2, "decoder_hidden": 64,
    "image_size": 32, "ngram_rows": 32, "embed_width": 32, "fusion_layers": 1, "fusion_width": 32,
    "fusion_heads": 2, "image_grid": 2, "image_tokens": 5, "memory_slots": 2, "memory_width": 32,
    "reasoning_width": 32,
}  # fmt: skip


def nano(tiny_model: Path, tokenizer: Tokenizer, folder: Path) -> tuple[Any, Any]:
    backend = PyTorchBackend.load(tiny_model)
    return backend, backend.tokenizer


def bitmar(tiny_model: Path, tokenizer: Tokenizer, folder: Path) -> tuple[Any, Any]:
    from embervlm.export.gguf import checkpoint_of

    network = EmberNetwork(BitMarConfig(vocabulary_size=len(tokenizer), **SIZES))
    return PyTorchBackend(checkpoint_of(network, tokenizer, {})), tokenizer


def prefix(tiny_model: Path, tokenizer: Tokenizer, folder: Path) -> tuple[Any, Any]:
    write_gpt2_tokenizer(folder)
    words = Gpt2Tokenizer.from_file(folder / "tokenizer.json")
    network = Ember37M(
        PrefixConfig(
            vocabulary_size=len(words), text_layers=2, text_width=32, text_heads=2, text_hidden=64,
            text_positions=200, image_size=32, image_widths=(8, 8, 16, 16),
            image_depths=(1, 1, 1, 1), image_tokens=1, dropout=0.0,
        )
    )  # fmt: skip
    return PrefixBackend(network, words, {}), words


Made = tuple[Any, EmberVLMModel, EmberVLMProcessor]


@pytest.fixture(params=[nano, bitmar, prefix])
def made(
    request: pytest.FixtureRequest, tiny_model: Path, tokenizer: Tokenizer, tmp_path: Path
) -> Made:
    """Return a backend with a random network of a family, and its model and processor."""
    torch.manual_seed(1)
    make: Callable[..., tuple[Any, Any]] = request.param
    backend, words = make(tiny_model, tokenizer, tmp_path / "words")
    model = EmberVLMModel.from_network(backend.network)
    return backend, model, EmberVLMProcessor(words, model.config.network)


def logits_of(model: EmberVLMModel, batch: Any) -> dict[str, Any]:
    with torch.no_grad():
        return dict(model(**batch))


def test_what_is_saved_comes_back_to_the_bit(made: Made, photo: Path, tmp_path: Path) -> None:
    _, model, processor = made
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    assert not list((tmp_path / "m").glob("*.bin"))
    again = AutoModel.from_pretrained(tmp_path / "m")
    reader = AutoProcessor.from_pretrained(tmp_path / "m")
    assert isinstance(again, EmberVLMModel) and isinstance(reader, EmberVLMProcessor)
    assert not again.training
    for words, image in ((TASK, photo), (TASK, None), (None, photo)):
        batch, same = processor(image, words), reader(image, words)
        assert batch.keys() == same.keys()
        assert all(torch.equal(batch[name], same[name]) for name in batch)
        before, after = logits_of(model, batch), logits_of(again, same)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    for (name, first), (_, second) in zip(
        model.named_buffers(), again.named_buffers(), strict=True
    ):
        assert torch.equal(first, second), name


def test_the_logits_are_those_of_the_backend(made: Made, photo: Path) -> None:
    backend, model, processor = made
    pixels = preprocess(load_image(photo), backend.image_size)
    for words, image in ((TASK, photo), (TASK, None), (None, photo)):
        said = backend.propose(words, None if image is None else pixels)
        logits = logits_of(model, processor(image, words))
        for name in ("subsets", "primary", "environment", "actions", "flags", "roles", "embedding"):
            assert np.array_equal(logits[name][0].numpy(), getattr(said, name)), name
        assert float(logits["team"][0]) == said.team
        if "value" in logits:
            assert float(logits["value"][0]) == said.value


def test_a_batch_says_what_its_rows_say(made: Made, photo: Path) -> None:
    _, model, processor = made
    tasks, photos = [TASK, "look at the roof", None, "dive"], [None, photo, photo, None]
    together = logits_of(model, processor(photos, tasks))
    for i, (words, image) in enumerate(zip(tasks, photos, strict=True)):
        alone = logits_of(model, processor(image, words))
        for name in ("subsets", "primary", "environment", "actions", "flags", "team"):
            assert torch.allclose(together[name][i], alone[name][0], atol=1e-5), name
        marks = alone["roles"].shape[1]
        assert torch.allclose(together["roles"][i, :marks], alone["roles"][0], atol=1e-5)
        assert (together["roles"][i, marks:] == 0).all()


def test_photos_come_in_several_forms(made: Made, photo: Path) -> None:
    processor = made[2]
    opened = Image.open(photo)
    forms = [photo, str(photo), photo.read_bytes(), opened, np.asarray(opened.convert("RGB"))]
    pixels = [processor(form)["pixel_values"] for form in forms]
    assert all(torch.equal(pixels[0], other) for other in pixels[1:])


def test_an_opened_photo_is_turned_and_laid_on_white_as_its_file_is(
    made: Made, tmp_path: Path
) -> None:
    processor, turned = made[2], Image.Exif()
    turned[0x0112] = 6
    noise = np.random.default_rng(1).integers(0, 256, (24, 40, 4), np.uint8)
    Image.fromarray(noise).save(tmp_path / "glass.png")
    Image.fromarray(noise[..., :3]).save(tmp_path / "turned.jpg", exif=turned)
    for name in ("glass.png", "turned.jpg"):
        file, opened = (
            processor(form)["pixel_values"]
            for form in (tmp_path / name, Image.open(tmp_path / name))
        )
        assert torch.equal(file, opened), name


def test_its_weights_can_be_trained(made: Made, photo: Path) -> None:
    _, model, processor = made
    output = model.train()(**processor([photo, photo], [TASK, "look"]))
    output.subsets.logsumexp(-1).sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    as_tuple = model.eval()(**processor(photo, TASK), return_dict=False)
    assert isinstance(as_tuple, tuple)


def test_what_cannot_be_read_is_said(made: Made, photo: Path, tmp_path: Path) -> None:
    _, model, processor = made
    with pytest.raises(ValueError, match="lists of one length"):
        processor([photo], [TASK, TASK])
    with pytest.raises(ValueError, match="takes images and text"):
        processor(photo, TASK, videos=[1])
    with pytest.raises(ValueError, match="they must be of one model"):
        EmberVLMProcessor(processor.tokenizer, {**processor.network, "vocabulary_size": 7})
    with pytest.raises(ValueError, match="there are ember-nano"):
        EmberVLMConfig(network={"family": "other"})
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(OSError, match="processor_config.json"):
        EmberVLMProcessor.from_pretrained(tmp_path / "m")


def test_a_folder_for_others_can_hold_it_too(tiny_model: Path, photo: Path, tmp_path: Path) -> None:
    words = ["hub", "save", "--out", str(tmp_path / "m"), "--model", str(tiny_model)]
    done = CliRunner().invoke(app, [*words, "--safetensors"])
    assert done.exit_code == 0, done.output
    hub.check(tmp_path / "m")
    model = AutoModel.from_pretrained(tmp_path / "m")
    processor = AutoProcessor.from_pretrained(tmp_path / "m")
    said = PyTorchBackend.load(tiny_model).propose(TASK, preprocess(load_image(photo), 32))
    logits = logits_of(model, processor(photo, TASK))
    assert np.array_equal(logits["subsets"][0].numpy(), said.subsets)
    model.save_pretrained(tmp_path / "n")
    assert "embervlm" not in json.loads((tmp_path / "n" / "config.json").read_text("utf-8"))
