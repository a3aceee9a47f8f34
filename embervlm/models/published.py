"""Published weights: read a checkpoint's tensors safely, and fill a module with them strictly.

A checkpoint is a directory with `config.json` and `model.safetensors`, or several files of weights
and `model.safetensors.index.json` that says which tensor lies in which. A hub name such as
`tinyllm/30M-0.4` is downloaded where `huggingface_hub` is installed and online. Only safetensors
are read; a pickle can run code.

    published = load_published("tinyllm/30M-0.4")        # or a directory
    report = load_gpt2(decoder, published)               # of `decoder_lm`; `load_repvit` likewise
    print(report)                                        # so many loaded, which new, which dropped

Nothing is filled by halves: a tensor too many, too few or of another shape is a ValueError, unless
the caller has named it as new or dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
CONFIG = "config.json"
# All that is downloaded: never a pickle, nor a model in another format.
DOWNLOADED = (CONFIG, INDEX, "model*.safetensors")
GIVE_A_DIRECTORY = f"give a directory with {CONFIG} and {WEIGHTS}"
# How many names a message holds before it counts the rest.
NAMES_SHOWN = 3
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Published:
    """A checkpoint as it came: where from, its config.json, its tensors by their published names.

    `source` is the directory, or the hub name and commit.
    """

    source: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint: names loaded, new (not in it) and dropped (not in the module).

    Of a table that was resized, the new and dropped rows are named.
    """

    source: str
    loaded: tuple[str, ...]
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.source}: {len(self.loaded)} tensors loaded"]
        parts += [f"new: {_some(self.new)}"] if self.new else []
        parts += [f"dropped: {_some(self.dropped)}"] if self.dropped else []
        return "; ".join(parts)


def load_published(name_or_path: str | Path) -> Published:
    """Read a checkpoint from a directory, or from the hub by its name ("owner/model").

    An existing directory goes before a hub name.

    Raises:
        ValueError: there is no such directory or download, a file is missing, damaged or no
            safetensors, or the index and its files disagree; the message says what to do.
    """
    folder, source = published_folder(name_or_path, DOWNLOADED)
    return Published(source, _read_json(folder / CONFIG), _read_tensors(folder))


def published_folder(name_or_path: str | Path, wanted: Sequence[str]) -> tuple[Path, str]:
    """Return the directory of a checkpoint, and where it is from (see `Published.source`).

    Of a hub name only the files that `wanted` names are downloaded, as patterns.

    Raises:
        ValueError: there is no such directory or download.
    """
    folder, source = Path(name_or_path), str(name_or_path)
    if folder.is_dir():
        return folder, source
    if not _HUB_NAME.fullmatch(source):
        raise ValueError(
            f"{source!r} is neither a directory nor a hub name (owner/model); {GIVE_A_DIRECTORY}."
        )
    folder = _download(source, wanted)
    return folder, f"{source}@{folder.name}"


def fill(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    new: Sequence[str] = (),
    dropped: Sequence[str] = (),
) -> LoadReport:
    """Copy `tensors` into all parameters and buffers of `module`, and report.

    Numbers become the module's type (float32, say, of bfloat16). `new` and `dropped` only go into
    the report: what the caller has made or taken away before.

    Raises:
        ValueError: names, shapes or kinds of number differ, or a number is not finite; the module
            is then unchanged.
    """
    ours = module.state_dict()
    if missing := ours.keys() - tensors.keys():
        raise ValueError(f"{source} lacks {_some(missing)}; give the checkpoint of this network.")
    if unknown := tensors.keys() - ours.keys():
        raise ValueError(
            f"{source} has {_some(unknown)}, which this network has not; "
            "give the checkpoint of this network."
        )
    for name, theirs in tensors.items():
        if theirs.shape != ours[name].shape:
            raise ValueError(
                f"{source} has {name} of shape {tuple(theirs.shape)}, expected "
                f"{tuple(ours[name].shape)}; give the checkpoint of this network."
            )
        if theirs.is_floating_point() != ours[name].is_floating_point():
            raise ValueError(
                f"{source} has {name} in {theirs.dtype}, expected {ours[name].dtype}; "
                "give a checkpoint that is not quantised."
            )
        if not theirs.to(ours[name].dtype).isfinite().all():
            raise ValueError(f"{source} has numbers in {name} that are not finite; get it again.")
    module.load_state_dict(tensors)
    return LoadReport(source, tuple(tensors), tuple(new), tuple(dropped))


def _download(name: str, wanted: Sequence[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(
            f"{name!r} is no directory here, and huggingface_hub, which would download it, is not "
            f"installed; install it or {GIVE_A_DIRECTORY}."
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=list(wanted)))
    except (OSError, ValueError) as error:  # all of huggingface_hub's: offline, unknown, closed
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{name!r} is no directory here and cannot be downloaded ({reason}); "
            f"{GIVE_A_DIRECTORY}."
        ) from error


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return _read_weights(folder / WEIGHTS)
    index = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()):
        raise ValueError(f"{folder / INDEX} has no weight_map of file names; get it again.")
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(index.values())):
        if Path(file).name != file:
            raise ValueError(f"{folder / INDEX} names {file!r}, which lies outside; get it again.")
        tensors |= _read_weights(folder / file)
    if differing := tensors.keys() ^ index.keys():
        raise ValueError(
            f"{folder / INDEX} and its files disagree on {_some(differing)}; get them again."
        )
    return tensors


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        pickles = sorted(p.name for p in path.parent.glob("*.bin"))
        found = f" (a pickle such as {pickles[0]} is never read)" if pickles else ""
        raise ValueError(f"{path} is missing{found}; {GIVE_A_DIRECTORY}.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is damaged or no safetensors file ({error}); get it again as safetensors."
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; {GIVE_A_DIRECTORY}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); get it again.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object; get it again.")
    return values


def _some(names: Sequence[str] | set[str]) -> str:
    shown = sorted(names)[:NAMES_SHOWN]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
