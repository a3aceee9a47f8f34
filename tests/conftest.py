"""Small parts that many tests share: a tokenizer, a random model and a photo."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bpe import TEXT, learn_bpe
from PIL import Image

from embervlm.backends.reference import ReferenceBackend
from embervlm.checkpoint import Checkpoint
from embervlm.tokenizer import Tokenizer

CALIBRATION = {"temperature": 1.0, "ask_below": 0.5, "certain_flag": 0.9, "same_request": 0.97}


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's own lessons out of the tests; return where they would lie."""
    home = tmp_path_factory.getbasetemp() / "home-that-is-not-there"
    monkeypatch.setenv("EMBERVLM_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    learn_bpe(TEXT, 80).save(path)
    return path


@pytest.fixture(scope="session")
def tokenizer(tokenizer_file: Path) -> Tokenizer:
    return Tokenizer.from_file(tokenizer_file)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path) -> Path:
    """Return a model file with all the parts of the real one, small and random."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("gguf")
    from embervlm.export.gguf import write_gguf
    from embervlm.models.configuration import EmberConfig
    from embervlm.models.modeling import EmberNetwork
    from embervlm.models.photo_recall import PhotoRecall
    from embervlm.models.plan_steps import PlanSteps

    torch.manual_seed(0)
    config = EmberConfig(
        vocabulary_size=len(Tokenizer.from_file(tokenizer_file)),
        text_layers=2,
        text_width=32,
        text_heads=4,
        text_hidden=64,
        decoder_layers=2,
        decoder_width=24,
        decoder_heads=2,
        decoder_hidden=48,
        image_size=32,
        ngram_rows=128,
    )
    network = EmberNetwork(config)
    for name, parameter in network.named_parameters():
        # Lively enough that the answers differ from request to request.
        head = name.startswith("heads.") and name.endswith("weight")
        if head or name == "image.no_photo" or name.startswith("ngrams."):
            torch.nn.init.normal_(parameter, 0, 0.5)
        elif name.startswith("vision.") and name.endswith("weight"):
            torch.nn.init.normal_(parameter, 0, (2 / parameter[0].numel()) ** 0.5)
    torch.nn.init.uniform_(network.ngrams.importance, 1, 9)
    # The part that splits comes last, so that it changes none of the others.
    config = replace(config, plan_width=32, plan_layers=2, plan_readers=1)
    network.plan = PlanSteps(config)
    # And behind it the table of looks.
    config = replace(config, recall_width=32, recall_rows=48)
    network.recall = PhotoRecall(config)
    for part in (network.plan.answers, network.plan.waits):
        torch.nn.init.normal_(part.weight, 0, 0.5)
    weights = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    tokenizer = Tokenizer.from_file(tokenizer_file)
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_gguf(Checkpoint(config.to_dict(), CALIBRATION, tokenizer, weights), path, "f32")
    return path


@pytest.fixture(scope="session")
def bitmar_checkpoint(tokenizer: Tokenizer) -> Checkpoint:
    """Return a small and random `bitmar` with all its parts: gates open, three slots in use.

    Its photos of 96 pixels end in 3 x 3 places, which a grid of 2 x 2 shares out unevenly.
    """
    torch = pytest.importorskip("torch")
    pytest.importorskip("gguf")
    from embervlm.export.gguf import checkpoint_of
    from embervlm.models.configuration import BitMarConfig
    from embervlm.models.modeling import EmberNetwork

    torch.manual_seed(0)
    config = BitMarConfig(
        vocabulary_size=len(tokenizer), text_layers=2, text_width=96, text_heads=4, text_hidden=64,
        decoder_layers=2, decoder_width=32, decoder_heads=2, decoder_hidden=64, image_size=96,
        image_grid=2, image_tokens=5, embed_width=64, fusion_width=32, fusion_heads=2,
        memory_slots=4, memory_width=32, reasoning_width=32, ngram_rows=128,
    )  # fmt: skip
    network = EmberNetwork(config)
    for name, parameter in network.named_parameters():
        head = name.startswith("heads.") and name.endswith("weight")
        if head or name == "image.no_photo" or name.startswith("ngrams."):
            torch.nn.init.normal_(parameter, 0, 0.5)
        elif name.startswith("vision.") and name.endswith("weight"):
            torch.nn.init.normal_(parameter, 0, (2 / parameter[0].numel()) ** 0.5)
        elif name.endswith("gate"):
            torch.nn.init.constant_(parameter, 0.5)
    torch.nn.init.uniform_(network.ngrams.importance, 1, 9)
    assert network.memory is not None
    network.memory.write(torch.randn(3, config.memory_width))
    return checkpoint_of(network, tokenizer, CALIBRATION)


@pytest.fixture(scope="session")
def reference(tiny_model: Path) -> ReferenceBackend:
    return ReferenceBackend.load(tiny_model)


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small photo of coloured noise, smooth enough to be a picture."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(noise).resize((64, 48)).save(path)
    return path


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Start a Ray of two workers on this machine; without Ray the test is skipped and says why."""
    pytest.importorskip("ray", reason="ray is not installed (the extra scale)")
    import logging
    import os

    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=80_000_000,
    )
    try:
        yield
    finally:
        ray.shutdown()
