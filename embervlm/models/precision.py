"""Which number type the networks are run in while they train."""

import torch


def autocast() -> torch.autocast:
    """Return a context in bfloat16 where the processor multiplies it fast, else in float32.

    Below AVX-512 PyTorch computes bfloat16 step by step: tens of times slower than float32.
    """
    fast = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.autocast("cpu", torch.bfloat16, enabled=fast)
