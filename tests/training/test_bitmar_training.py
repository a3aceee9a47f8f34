"""bitmar in the trainer: it begins with what ember-nano knows, learns, goes on, says how it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from small_run import data_of, recipe_of  # noqa: E402
from torch.nn.utils import parametrize  # noqa: E402

from embervlm.checkpoint import Checkpoint  # noqa: E402
from embervlm.data.scenarios import load  # noqa: E402
from embervlm.export.gguf import write_gguf  # noqa: E402
from embervlm.models.bitnet import ternary, ternary_layers  # noqa: E402
from embervlm.models.configuration import BitMarConfig, EmberConfig  # noqa: E402
from embervlm.models.modeling import EmberNetwork, ImageTokens, load_network  # noqa: E402
from embervlm.tokenizer import Tokenizer  # noqa: E402
from embervlm.training import decisions, run  # noqa: E402
from embervlm.training.bitmar import BITMAR_STAGES, figures  # noqa: E402
from embervlm.training.bitmar_start import narrowed, start, switched  # noqa: E402
from embervlm.training.carry_over import load_start, read_config  # noqa: E402
from embervlm.training.rounding import round_parts  # noqa: E402
from embervlm.training.stages import StageModule, cosines, nearness_sums  # noqa: E402
from embervlm.training.trainer import EmberTrainer, checkpoints  # noqa: E402

SIZES = {
    "text_width": 32,
    "text_heads": 4,
    "text_hidden": 64,
    "text_positions": 400,
    "decoder_layers": 1,
    "decoder_width": 32,
    "decoder_heads": 2,
    "decoder_hidden": 64,
    "dropout": 0.0,
}


def network_of(tokenizer: Tokenizer) -> EmberNetwork:
    torch.manual_seed(0)
    # Our tiny runs have photos without a grid: the fusion has a test of its own below.
    config = BitMarConfig(
        vocabulary_size=len(tokenizer), text_layers=2, **SIZES, embed_width=32, fusion="prefix",
        image_grid=0, image_tokens=2, memory_slots=4, memory_width=32, reasoning_width=32,
    )  # fmt: skip
    return EmberNetwork(config)


def trainer_of(tokenizer: Tokenizer, folder: Path, stage: str, **more: object) -> EmberTrainer:
    torch.set_num_threads(1)
    row, network = BITMAR_STAGES[stage], network_of(tokenizer)
    recipe = recipe_of(folder, stage=stage, **more)
    return EmberTrainer(
        StageModule(network, row),
        row.phases[-1],
        recipe,
        data_of(stage, network.config, tokenizer, 8),
        data_of(stage, network.config, tokenizer, 8) if recipe.eval_steps else None,
        folder=folder,
        epochs=recipe.epochs,
    )


@pytest.mark.parametrize("stage", ["select", "reason"])
def test_over_fits_eight_requests(stage: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    started = trainer_of(
        tokenizer, tmp_path, stage, batch_size=8, epochs=150.0, learning_rate=3e-3,
        head_learning_rate=1e-2, weight_decay=0.0, save_steps=1000, average=0.0,
    )  # fmt: skip
    started.train()
    lines = [line for line in started.state.log_history if "loss" in line]
    name = "loss_subsets" if stage == "select" else "loss_words"
    # Smoothing leaves the sets a loss of their own.
    least = 0.32 if stage == "select" else 0.05
    assert min(line[name] for line in lines) < least
    assert lines[-1]["loss_value"] < lines[0]["loss_value"]


def test_a_run_that_goes_on_ends_as_if_it_had_not_stopped(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    whole = trainer_of(tokenizer, tmp_path / "whole", "select", epochs=3.0, save_steps=2)
    whole.train()
    found = checkpoints(tmp_path / "whole")
    again = trainer_of(tokenizer, tmp_path / "again", "select", epochs=3.0, save_steps=2)
    again.train(resume_from_checkpoint=str(found[0]))
    assert int(whole.module.network.memory.clock) == 24
    for name, value in whole.module.network.state_dict().items():
        assert torch.equal(value, again.module.network.state_dict()[name]), name


def test_a_look_at_validation_says_how_the_parts_are(tokenizer: Tokenizer, tmp_path: Path) -> None:
    started = trainer_of(tokenizer, tmp_path, "select", eval_steps=1, max_steps=1)
    started.train()
    (line,) = (line for line in started.state.log_history if "eval_loss" in line)
    assert line["eval_ternary/layers"] == 22
    assert 1 <= line["eval_memory/active_slots"] <= 4
    assert 0 < line["eval_ternary/sparsity"] < 1
    assert line["eval_ternary/bits"] == 2.0625
    # One step of four requests, none of validation.
    assert int(started.module.network.memory.clock) == 4


def test_figures_say_how_words_look_at_a_photo() -> None:
    torch.manual_seed(0)
    config = replace(
        BitMarConfig(vocabulary_size=64, text_layers=1, **SIZES),
        embed_width=32, fusion_width=32, image_grid=2, image_tokens=5, memory_slots=4,
        memory_width=32, reasoning_width=32,
    )  # fmt: skip
    batch = {
        "tokens": torch.randint(0, 64, (3, 6)),
        "mask": torch.ones(3, 6, dtype=torch.bool),
        "features": torch.randn(3, 4, 320),
        "scene": torch.rand(3, 10).softmax(-1),
        "has_photo": torch.tensor([True, True, False]),
        "has_view": torch.tensor([True, False, False]),
    }
    found = figures(EmberNetwork(config).eval(), batch)
    assert 0 < found["fusion/attention_entropy"] <= 1
    assert 1 / 5 <= found["fusion/attention_peak"] <= 1
    assert found["fusion/text_gate"] == pytest.approx(0.7616, abs=1e-4)  # tanh 1
    batch["has_view"][:] = False
    assert "fusion/attention_peak" not in figures(EmberNetwork(config).eval(), batch)


def test_it_begins_with_what_the_teacher_knows() -> None:
    torch.manual_seed(0)
    teacher = EmberNetwork(EmberConfig(vocabulary_size=64, text_layers=3, **SIZES, ngram_rows=64))
    config = replace(
        switched(linear="full", fusion="prefix", memory=False, steps=False),
        vocabulary_size=64, text_layers=3, **SIZES, embed_width=0, ngram_rows=64,
    )  # fmt: skip
    inputs = {
        "tokens_BT": torch.randint(0, 64, (3, 6)),
        "mask_BT": torch.ones(3, 6, dtype=torch.bool),
        "features_BC": torch.randn(3, 320),
        "scene_BE": torch.rand(3, 10).softmax(-1),
        "has_photo_B": torch.tensor([True, True, False]),
        "has_view_B": torch.tensor([True, False, False]),
    }
    network = start(teacher, config, (0, 1, 2)).eval()
    torch.testing.assert_close(
        network.encode(**inputs).pooled_BD, teacher.eval().encode(**inputs).pooled_BD
    )
    fewer = start(teacher, replace(config, text_layers=2), (0, 2))
    torch.testing.assert_close(fewer.text.layers[1].up.weight, teacher.text.layers[2].up.weight)
    with pytest.raises(ValueError, match="2 layers were chosen of 3; bitmar has 3"):
        start(teacher, config, (0, 2))
    with pytest.raises(ValueError, match=r"text.layers.0.down.weight.* do not fit"):
        start(teacher, replace(config, text_hidden=32), (0, 1, 2))


def test_a_narrow_table_is_the_nearest_of_its_width() -> None:
    torch.manual_seed(0)
    table_VD = torch.randn(50, 16) @ torch.randn(16, 16)
    table_VE, widen_DE = narrowed(table_VD, 6)
    u_VD, s_D, v_DD = torch.linalg.svd(table_VD, full_matrices=False)
    torch.testing.assert_close(
        table_VE @ widen_DE.T, u_VD[:, :6] @ torch.diag(s_D[:6]) @ v_DD[:6], rtol=1e-3, atol=1e-4
    )


def test_nearness_asks_for_sizes_of_cosines() -> None:
    cosine_BB = torch.tensor([[0.9, 0.5, 0.1], [0.2, 0.6, 0.3], [0.0, -0.4, 1.0]])
    found = {name: float(value) for name, value in nearness_sums(cosine_BB).items()}
    assert found["cosine_matched"] == pytest.approx(2.5)
    assert found["cosine_mismatched"] == pytest.approx(0.35)
    assert found["matched"] == pytest.approx(0.25)
    assert found["mismatched"] == pytest.approx((0.25 + 0.05) / 2)
    same = torch.eye(3)
    torch.testing.assert_close(cosines(same, same * 4), torch.eye(3))


def test_ternary_weights_learn_behind_their_values(tokenizer: Tokenizer, tmp_path: Path) -> None:
    started = trainer_of(tokenizer, tmp_path, "select", max_steps=3)
    layer = started.module.network.text.layers[0].up
    before = layer.weight.detach().clone()
    started.train()
    assert not torch.equal(layer.weight, before)
    assert len(ternary(layer.weight).reshape(-1, 256)[0].abs().unique()) == 2


def test_a_recipe_switches_parts_of_a_new_network(
    tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = load("scenarios", "train")[:8]
    monkeypatch.setattr(decisions, "load_own", lambda kind, *_: rows if kind == "scenarios" else [])
    monkeypatch.setattr(run, "_measure", lambda *_: None)
    sizes = {**SIZES, "text_layers": 1, "memory_width": 32, "reasoning_width": 32, "ngram_rows": 64}
    flags = ["--preset", "bitmar", "--tokenizer", str(tokenizer_file), "--report-to", "none",
             "--max-steps", "1", "--batch-size", "4", "--threads", "1"]  # fmt: skip

    def switched_by(**switches: object) -> BitMarConfig:
        told = json.dumps({**sizes, "embed_width": 32, "fusion_width": 32, **switches})
        path = run.run([*flags, "--switches", told, "--output-dir", str(tmp_path / "out"),
                        "--no-resume"])  # fmt: skip
        return load_network(path).config

    assert switched_by().memory_slots == 32
    found = switched_by(memory_slots=0, linear="full", fusion="prefix", image_grid=0,
                        image_tokens=2)  # fmt: skip
    assert (found.memory_slots, found.linear, found.fusion) == (0, "full", "prefix")
    with pytest.raises(ValueError, match=r"Unknown configuration keys \['slots'\]"):
        switched_by(slots=3)
    with pytest.raises(ValueError, match="switches are of a new network, and m brings its own"):
        run.run([*flags, "--switches", '{"linear": "full"}', "--model", "m"])


def test_dinov2_comes_from_its_publisher_s_files(tmp_path: Path) -> None:
    transformers.Dinov2Model(
        transformers.Dinov2Config(
            hidden_size=384, num_hidden_layers=1, num_attention_heads=6, image_size=56
        )
    ).save_pretrained(tmp_path)
    config = BitMarConfig(vocabulary_size=64, text_layers=1, decoder_layers=1, ngram_rows=64)
    network = EmberNetwork(config)
    with pytest.raises(ValueError, match="the network sees with mobilenet-v2"):
        run._see_as_published(network, str(tmp_path))
    network.config = replace(config, vision="dinov2-small", image_width=320)
    with pytest.raises(ValueError, match="gives 384 features and image_width is 320"):
        run._see_as_published(network, str(tmp_path))
    network.config = replace(config, vision="dinov2-small", image_width=384)
    network.image = ImageTokens(network.config)
    run._see_as_published(network, str(tmp_path))
    features_BPC, scene_BE = network.look(torch.zeros(1, 3, 70, 70))
    assert (features_BPC.shape, scene_BE.shape) == ((1, 25, 384), (1, 10))


def test_training_goes_on_from_a_file_with_its_ternary_values(
    bitmar_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    write_gguf(bitmar_checkpoint, tmp_path / "bitmar.gguf", "f32")
    config = read_config(tmp_path / "bitmar.gguf")
    network = EmberNetwork(config)
    load_start(network, tmp_path / "bitmar.gguf")
    for name, layer in ternary_layers(network).items():
        expected = torch.from_numpy(bitmar_checkpoint.weights[f"{name}.weight"])
        assert torch.equal(ternary(layer.weight), expected), name


def test_four_bits_round_what_is_not_ternary(tokenizer: Tokenizer) -> None:
    network = network_of(tokenizer)
    round_parts(network, ("text.", "decoder."))
    parts = dict(network.named_modules())
    rounded = {name for name in parts if parametrize.is_parametrized(parts[name], "weight")}
    assert "text.embed" in rounded
    assert not rounded & ternary_layers(network).keys()
