"""A folder that holds a model for others: written whole, read back, and checked file by file.

    README.md         the card; the one file that may be edited later
    config.json       which file is what, the size and SHA-256 of each, the network's sizes
    ember-nano.gguf   weights, tokenizer, calibration, labels: all that a decision takes; there may
                      be several, of which the first is loaded
    fleet.yaml        the robots
    report.json       the measurements that the card tells, if there are any
    LICENSE, NOTICE, Apache-2.0.txt   with the model that ships: what it is under and began from

`config.json` has the form that transformers reads (`embervlm/auto.py`), and beside it, under
"embervlm", the list of files. Its own content is pinned by the commit that it lies in.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from embervlm.checkpoint import SHIPPED, checked_bytes, text_in
from embervlm.fleet import Fleet
from embervlm.hub.card import ModelFile, model_card, read_report

CARD, CONFIG, FLEET, REPORT = "README.md", "config.json", "fleet.yaml", "report.json"
MODEL_TYPE = "embervlm"
FORMAT = 1
LICENCES = Path(__file__).parents[1] / "licences"
LICENCE_FILES = ("LICENSE", "NOTICE", "Apache-2.0.txt")
# A plain name of a kind that is read without being run.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.(gguf|json|safetensors|yaml)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    """What `config.json` says of one file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Description:
    """What `config.json` says of its folder: the model to load, the fleet, and every file."""

    model: str
    fleet: str
    files: Mapping[str, FileRecord]

    def models(self) -> list[str]:
        """Return the names of the GGUF files, the one to load first."""
        others = [name for name in self.files if name.endswith(".gguf") and name != self.model]
        return [self.model, *others]


def save(
    out: Path,
    models: Sequence[Path] = (SHIPPED,),
    *,
    fleet: Fleet | None = None,
    report: Path | Mapping[str, Any] | None = None,
    given: Mapping[str, float] | None = None,
    licence: str | None = None,
    extra: Iterable[Path] = (),
) -> Description:
    """Write the folder `out`, which is not there yet or is empty; return what its config says.

    Args:
        out: the folder.
        models: GGUF files, each with its own name; the first is the one that is loaded.
        fleet: the robots; None is the default five.
        report: what `embervlm eval --json` wrote of one of the models; without it the card has no
            figures.
        given: figures that nobody here has checked, which the card sets apart.
        licence: as the Hub names them, such as "mit"; None is that of the model that ships, and
            for another one the card says that none is stated.
        extra: further files, taken as they are.

    Raises:
        ValueError: a file is missing or damaged, the report is of another model, or `out` holds
            something.
    """
    if out.is_symlink() or out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} is there already: give a new folder, or an empty one.")
    if not models:
        raise ValueError("No model was given; give a GGUF file that 'embervlm export gguf' wrote.")
    extra = list(extra)
    _check_names([*(path.name for path in [*models, *extra]), FLEET, REPORT])
    contents = {path.name: checked_bytes(path) for path in models}
    network = json.loads(text_in(contents[models[0].name], "embervlm.config"))
    told = [_model_file(name, content) for name, content in contents.items()]
    measured = None if report is None else read_report(report, told)

    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    try:
        unfinished.chmod(0o755)
        for name, content in contents.items():
            (unfinished / name).write_bytes(content)
        if any(file.is_shipped for file in told):
            for name in LICENCE_FILES:
                shutil.copyfile(LICENCES / name, unfinished / name)
        for path in extra:
            shutil.copyfile(path, unfinished / path.name)
        robots = fleet or Fleet.default()
        written = yaml.safe_dump(robots.to_record(), sort_keys=False, allow_unicode=True)
        (unfinished / FLEET).write_text(written, "utf-8")
        if measured is not None:
            text = json.dumps(measured.report, indent=2, ensure_ascii=False) + "\n"
            (unfinished / REPORT).write_text(text, "utf-8")
        files = {path.name: _record(path) for path in sorted(unfinished.iterdir())}
        description = Description(models[0].name, FLEET, files)
        _write_config(unfinished / CONFIG, description, network)
        card = model_card(told, robots.names, measured, given or {}, licence)
        (unfinished / CARD).write_text(card, "utf-8")
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
    return description


def read_description(path: Path) -> Description:
    """Read the `config.json` of a folder.

    Raises:
        ValueError: it is missing, or lists no files of an embervlm model.
    """
    try:
        found = json.loads(path.read_text("utf-8"))["embervlm"]
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']!r}, this version reads {FORMAT}")
        files = {
            str(name): FileRecord(int(record["size_bytes"]), str(record["sha256"]))
            for name, record in found["files"].items()
        }
        for name, record in files.items():
            is_plain = _NAME.fullmatch(name) or name in LICENCE_FILES
            if not is_plain or not _SHA256.fullmatch(record.sha256):
                raise ValueError(f"it lists {name!r}, which is no plain file with a SHA-256")
        description = Description(str(found["model"]), str(found["fleet"]), files)
        if not {description.model, description.fleet} <= set(files):
            raise ValueError("model and fleet are not among its files")
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); give a folder that 'embervlm hub save' "
            "wrote."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} does not describe a model of embervlm ({error}); 'embervlm hub save' writes "
            "one that does."
        ) from error
    return description


def check(folder: Path, names: Iterable[str] | None = None) -> Description:
    """Hold files of a folder (None: all that it lists) against their sizes and SHA-256.

    Raises:
        ValueError: one is missing or differs.
    """
    description = read_description(folder / CONFIG)
    for name in description.files if names is None else names:
        if name not in description.files:
            raise ValueError(
                f"{folder} lists no {name}; there are {', '.join(description.models())}."
            )
        expected = description.files[name]
        try:
            size = (folder / name).stat().st_size
            found = _record(folder / name) if size == expected.size_bytes else None
        except OSError as error:
            raise ValueError(
                f"{folder / name} cannot be read ({error.strerror}); get the folder again."
            ) from error
        if found != expected:
            what = "SHA-256" if found else f"size ({size:,} bytes, not {expected.size_bytes:,})"
            raise ValueError(
                f"{folder / name} is not the file that {CONFIG} lists: its {what} differs; get the "
                "folder again, from somebody whom you trust."
            )
    return description


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name) or name == CONFIG or names.count(name) > 1:
            raise ValueError(
                f"A file cannot be called {name!r} in such a folder; it needs a plain name of its "
                "own that ends in .gguf, .json, .safetensors or .yaml."
            )


def _model_file(name: str, content: bytearray) -> ModelFile:
    return ModelFile(
        name,
        kind=text_in(content, "embervlm.type"),
        size_bytes=len(content),
        digest=text_in(content, "embervlm.sha256"),
        is_shipped=SHIPPED.is_file() and content == SHIPPED.read_bytes(),
    )


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(path.stat().st_size, digest)


def _write_config(path: Path, description: Description, network: Mapping[str, Any]) -> None:
    config = {
        "model_type": MODEL_TYPE,
        "architectures": ["EmberVLMModel"],
        "network": dict(network),
        "is_ternary": network.get("linear") == "ternary",
        "embervlm": {
            "format": FORMAT,
            "model": description.model,
            "fleet": description.fleet,
            "files": {name: asdict(record) for name, record in description.files.items()},
        },
    }
    path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
