"""RepViT-M0.9: timm's names, a second implementation, and the fused form."""

import hashlib

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from embervlm.models.published import Published  # noqa: E402
from embervlm.models.repvit import RepViT, fuse, load_repvit  # noqa: E402

SMALL = ((8, 16, 24), (2, 1, 3))
# sha256 of the sorted lines "name shape" of timm 1.0.26's repvit_m0_9().state_dict() less head.*
TIMM_NAMES = "eeb94836d7eb2f06c4ded1099ca18616211907a86ecd8336772a9cc595a1c93f"


def lively(vision: RepViT) -> RepViT:
    """Give every norm its own statistics, as after training; fresh ones would hide mistakes."""
    torch.manual_seed(0)
    for norm in vision.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
            nn.init.normal_(norm.running_mean, std=0.2)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return vision.eval()


@pytest.fixture(scope="module")
def vision() -> RepViT:
    return lively(RepViT())


def test_has_the_parameters_of_timm_by_name_and_shape(vision: RepViT) -> None:
    lines = sorted(f"{name} {tuple(x.shape)}" for name, x in vision.state_dict().items())
    assert len(lines) == 699
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == TIMM_NAMES
    assert sum(parameter.numel() for parameter in vision.parameters()) == 4_717_792


def by_hand(weights: dict[str, Tensor], pixels_BCHW: Tensor) -> Tensor:
    """Run the paper's network on tensors by their names, without a module."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        groups = x.shape[1] // kernel.shape[1]
        bias = weights.get(f"{name}.bias")
        return F.conv2d(x, kernel, bias, stride, kernel.shape[2] // 2, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        kinds = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(weights[f"{name}.{kind}"] for kind in kinds))

    def both(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return norm(conv(x, f"{name}.c", stride), f"{name}.bn")

    def ffn(x: Tensor, name: str) -> Tensor:
        return x + both(F.gelu(both(x, f"{name}.conv1")), f"{name}.conv2")

    def block(x: Tensor, name: str) -> Tensor:
        mixer = f"{name}.token_mixer"
        x = norm(both(x, f"{mixer}.conv") + conv(x, f"{mixer}.conv1") + x, f"{mixer}.bn")
        if f"{name}.se.fc1.weight" in weights:
            narrow = F.relu(conv(x.mean((2, 3), keepdim=True), f"{name}.se.fc1"))
            x = x * torch.sigmoid(conv(narrow, f"{name}.se.fc2"))
        return ffn(x, f"{name}.channel_mixer")

    red_green_blue = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    mean, std = red_green_blue.to(pixels_BCHW).view(2, 3, 1, 1)
    x = ((pixels_BCHW * 128 + 128) / 255 - mean) / std
    x = both(F.gelu(both(x, "stem.conv1", 2)), "stem.conv2", 2)
    for stage, depth in enumerate((2, 2, 14, 2)):
        if stage:
            down = f"stages.{stage}.downsample"
            x = both(block(x, f"{down}.pre_block"), f"{down}.spatial_downsample", 2)
            x = ffn(both(x, f"{down}.channel_downsample"), f"{down}.ffn")
        for i in range(depth):
            x = block(x, f"stages.{stage}.blocks.{i}")
    return x.flatten(2).transpose(1, 2)


@torch.inference_mode()
def test_says_what_the_paper_s_network_says(vision: RepViT) -> None:
    pixels = torch.rand(1, 3, 96, 64) * 2 - 1
    expected_BNC = by_hand(vision.state_dict(), pixels)
    assert expected_BNC.shape == (1, 6, 384)
    error = (vision(pixels) - expected_BNC).abs().max() / expected_BNC.abs().max()
    assert error < 1e-5


def test_every_other_block_from_the_first_squeezes_and_excites(vision: RepViT) -> None:
    has = [[hasattr(block.se, "fc1") for block in stage.blocks] for stage in vision.stages]
    assert has == [[True, False] * (depth // 2) for depth in (2, 2, 14, 2)]
    assert not any(hasattr(stage.downsample.pre_block.se, "fc1") for stage in vision.stages[1:])


@torch.inference_mode()
def test_the_fused_form_says_the_same_without_a_norm(vision: RepViT) -> None:
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    fused = fuse(vision)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    expected_BNC = vision(pixels)
    assert (fused(pixels) - expected_BNC).abs().max() / expected_BNC.abs().max() < 1e-5


@torch.inference_mode()
def test_fusing_is_exact_but_for_rounding() -> None:
    vision = lively(RepViT(*SMALL)).double()
    pixels = torch.rand(2, 3, 64, 64, dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(fuse(vision)(pixels), vision(pixels), atol=1e-12, rtol=1e-12)


@torch.inference_mode()
def test_a_photo_means_the_same_alone_and_in_a_batch(vision: RepViT) -> None:
    pixels = torch.rand(3, 3, 64, 64) * 2 - 1
    alone = torch.cat([vision(photo[None]) for photo in pixels])
    torch.testing.assert_close(vision(pixels), alone, atol=1e-4, rtol=1e-4)


def test_all_but_the_classifiers_of_a_checkpoint_is_loaded() -> None:
    theirs, ours = lively(RepViT(*SMALL)), RepViT(*SMALL)
    heads = {"head.head.l.weight": torch.zeros(1000, 24), "head.head_dist.bn.bias": torch.zeros(24)}
    report = load_repvit(ours, Published("a folder", {}, theirs.state_dict() | heads))
    assert set(report.loaded) == set(theirs.state_dict())
    assert set(report.dropped) == set(heads)
    assert all(torch.equal(x, ours.state_dict()[name]) for name, x in theirs.state_dict().items())
