"""Ways to run a trained model; `load_backend` chooses one by name, never by silent fallback."""

from __future__ import annotations

from pathlib import Path

from embervlm.backends.base import Backend, Proposal

BACKENDS = ("native", "reference", "pytorch", "onnx")

__all__ = ["BACKENDS", "Backend", "Proposal", "load_backend"]


def load_backend(
    name: str = "native", path: str | Path | None = None, *, threads: int = 1
) -> Backend:
    """Load a model file (None: the one that ships) with the backend of this name.

    Args:
        name: one of BACKENDS.
        path: a model file; for onnx also a folder that `embervlm export onnx` wrote, for pytorch
            also the `network.safetensors` of a run.
        threads: how many native and onnx use; for the others say OMP_NUM_THREADS.

    Raises:
        ValueError: an unknown name, a damaged file, or a backend whose library is not installed.
    """
    if name == "native":
        from embervlm.backends.native import NativeBackend

        return NativeBackend.load(path, threads=threads)
    if name == "reference":
        from embervlm.backends.reference import ReferenceBackend

        return ReferenceBackend.load(path)
    if name == "pytorch":
        try:
            from embervlm.backends.pytorch import load_pytorch
        except ModuleNotFoundError as error:
            raise ValueError(
                "The pytorch backend needs PyTorch: pip install 'embervlm[train]', "
                "or choose --backend native."
            ) from error
        return load_pytorch(path)
    if name == "onnx":
        try:
            from embervlm.backends.onnx import OnnxBackend

            return OnnxBackend.load(path, threads=threads)
        except ModuleNotFoundError as error:
            raise ValueError(
                "The onnx backend needs ONNX Runtime: pip install 'embervlm[onnx]', "
                "or choose --backend native."
            ) from error
    raise ValueError(f"Unknown backend {name!r}; there are {', '.join(BACKENDS)}.")
