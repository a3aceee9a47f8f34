"""The NumPy network is the PyTorch network."""

import numpy as np
import pytest

from embervlm.backends.convolution import mobilenet_v2_places

torch = pytest.importorskip("torch")
MobileNetV2 = pytest.importorskip("embervlm.models.vision").MobileNetV2


def lively(last_channels: int) -> "torch.nn.Module":
    """Return a random network whose activations neither vanish nor all saturate."""
    torch.manual_seed(0)
    model = MobileNetV2(last_channels).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0, 0.3)
        else:
            fan_in = parameter[0].numel()
            torch.nn.init.normal_(parameter, 0, (2 / fan_in) ** 0.5)
    return model


@pytest.mark.parametrize("last_channels", [0, 1280])
@pytest.mark.parametrize(("height", "width"), [(160, 160), (64, 96), (33, 47), (4, 4)])
def test_equals_the_network_in_pytorch(last_channels: int, height: int, width: int) -> None:
    model = lively(last_channels)
    pixels = np.random.default_rng(0).uniform(-1, 1, (3, height, width)).astype(np.float32)
    weights = {f"vision.{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    with torch.inference_mode():
        expected = model(torch.from_numpy(pixels)[None])[0].numpy()
    features = mobilenet_v2_places(weights, pixels).mean((0, 1))
    assert features.shape == (last_channels or 320,)
    assert features.dtype == np.float32
    assert expected.std() > 0.1
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_leaves_pixels_and_weights_as_they_were() -> None:
    model = lively(0)
    weights = {f"vision.{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    copies = {name: tensor.copy() for name, tensor in weights.items()}
    pixels = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32)).astype(np.float32)
    before = pixels.copy()
    first = mobilenet_v2_places(weights, pixels)
    assert np.array_equal(first, mobilenet_v2_places(weights, pixels))
    assert np.array_equal(pixels, before)
    assert all(np.array_equal(copies[name], weights[name]) for name in weights)


def test_refuses_pixels_in_another_layout() -> None:
    with pytest.raises(ValueError, match=r"\(3, H, W\)"):
        mobilenet_v2_places({}, np.zeros((160, 160, 3), dtype=np.float32))
