"""The decoder says the same with and without its cache."""

import pytest

torch = pytest.importorskip("torch")

from embervlm.models.configuration import EmberConfig  # noqa: E402
from embervlm.models.language import ReasoningDecoder  # noqa: E402


@torch.inference_mode()
def test_cached_steps_say_what_the_whole_says() -> None:
    torch.manual_seed(0)
    config = EmberConfig(
        vocabulary_size=50, text_width=16, decoder_width=12, decoder_heads=2, decoder_hidden=24
    )
    decoder = ReasoningDecoder(config).eval()
    table_VD = torch.randn(50, 16)
    tokens_BT, states_BSD = torch.randint(50, (3, 9)), torch.randn(3, 7, 16)
    source_BS = torch.randint(50, (3, 7))
    mask_BS = torch.ones(3, 7, dtype=torch.bool)
    mask_BS[1, 5:] = False
    source_BS[:, :2] = -1
    source_BS[1, 5:] = -1
    whole_BTV = decoder(tokens_BT, states_BSD, mask_BS, source_BS, table_VD)
    cache = decoder.begin(states_BSD, mask_BS, source_BS)
    for t in range(9):
        assert cache.position == t
        step_BV = decoder.step(tokens_BT[:, t : t + 1], cache, table_VD)
        torch.testing.assert_close(step_BV, whole_BTV[:, t], atol=1e-5, rtol=1e-5)
