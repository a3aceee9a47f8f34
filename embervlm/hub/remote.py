"""Models to and from the Hugging Face Hub, through its own client.

    commit = push(Path("m"), "owner/name", private=True)
    found = pull("owner/name", revision=commit)          # Pulled(folder=..., commit=...)

What comes is `config.json` of one commit, then of that commit the files that it lists, each checked
against its size and SHA-256. A branch or a tag is resolved once, and the commit is told, so that a
later call can name it. Nothing is run, and no pickle is read. What is there already is taken from
the client's cache, offline too. A token is the client's business: `hf auth login` or HF_TOKEN.

`HF_ENDPOINT` names another Hub, `HF_HUB_OFFLINE=1` forbids all connections.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embervlm.hub.folder import CARD, CONFIG, check, read_description, save

# As the Hub has them: an owner and a name, each of at most 96 letters, digits, "-", "_" and ".".
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
SOURCE = "source.json"
_TIMEOUT_S = 10.0
_MISSING = "This needs huggingface_hub: pip install 'embervlm[hub]'."


@dataclass(frozen=True)
class Pulled:
    """A checked folder, and the whole commit that it is of."""

    folder: Path
    commit: str


def is_name(words: str | Path) -> bool:
    """Return whether this is a name on the Hub, and not a path.

    >>> is_name("owner/name"), is_name("./owner/name"), is_name("models/m.gguf")
    (True, False, False)
    """
    return (
        isinstance(words, str)
        and _NAME.fullmatch(words) is not None
        and not words.endswith((".gguf", ".safetensors"))
        and not Path(words).exists()
    )


def push(
    folder: Path,
    name: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Upload a model of embervlm",
) -> str:
    """Upload a folder that `folder.save` wrote, in one commit; return the commit.

    Only the card, the configuration and the files that it lists are sent.

    Args:
        folder: the folder; it is checked first.
        name: "owner/name"; the repository is made if it is not there.
        private: True or False for a repository that is made now; True also refuses one that is
            there and public. None is the account's own default.
        token: of an account that may write; None is the one that is logged in.
        message: of the commit.

    Raises:
        ValueError: the folder is not sound, there is no token, or the Hub refuses.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name on the Hub; give one such as owner/name.")
    listed = check(folder).files
    try:
        from huggingface_hub import CommitOperationAdd, HfApi, get_token
    except ImportError as error:
        raise ValueError(_MISSING) from error
    if not (token or get_token()):
        raise ValueError(
            f"{name} needs a token to be written to; log in with 'hf auth login', or set HF_TOKEN."
        )
    present = [CARD] if (folder / CARD).is_file() else []
    names = [*present, CONFIG, *listed]
    try:
        api = HfApi(token=token)
        api.create_repo(name, private=private, exist_ok=True)
        is_refused = private and not api.model_info(name).private
        if not is_refused:
            additions = [CommitOperationAdd(file, str(folder / file)) for file in names]
            return str(api.create_commit(name, additions, commit_message=message).oid)
    except Exception as error:  # the client's own, those of its HTTP library, and OSError
        raise ValueError(
            f"{name} was not uploaded ({_reason(error)}); {folder} is whole, try again."
        ) from error
    raise ValueError(
        f"{name} is there already and public; nothing was uploaded. Make it private on the Hub, or "
        "choose another name."
    )


def pull(
    name: str,
    *,
    revision: str | None = None,
    out: Path | None = None,
    token: str | None = None,
) -> Pulled:
    """Fetch a model and check it; what is in the client's cache is not fetched again.

    Args:
        name: "owner/name".
        revision: a commit, a tag or a branch; None is the newest of the main branch.
        out: a folder, new or empty, that gets the files and a `source.json` that names repository
            and commit; None leaves them in the cache.
        token: for a private repository; None is the one that is logged in.

    Raises:
        ValueError: it is not there, cannot be reached, or is not what its configuration says.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name on the Hub; give one such as owner/name.")
    if out is not None and (out.is_file() or out.is_dir() and any(out.iterdir())):
        raise ValueError(f"{out} is there already: give a new folder, or an empty one.")
    unreached = _unreached(name, revision, token)
    folder = _fetch(name, CONFIG, revision, token, unreached)
    commit = folder.name
    for file in read_description(folder / CONFIG).files:
        _fetch(name, file, commit, token, unreached)
    try:
        description = check(folder)
    except ValueError as error:
        raise ValueError(f"{name} at {commit}: {error}") from error
    if out is None:
        return Pulled(folder, commit)
    out.mkdir(parents=True, exist_ok=True)
    for file in (*description.files, CONFIG):
        shutil.copyfile(folder / file, out / file)
    source = json.dumps({"repository": name, "commit": commit}, indent=2) + "\n"
    (out / SOURCE).write_text(source, "utf-8")
    return Pulled(out, commit)


def upload_to_huggingface(
    model_path: str | Path,
    repo_id: str,
    metrics: Mapping[str, Any] | str | Path | None = None,
    step: int | None = None,
    token: str | None = None,
) -> str:
    """Upload a model under the name that EmberVLM documented; return the commit.

    Args:
        model_path: a GGUF file, or a folder that `EmberVLM.save_pretrained` wrote.
        repo_id: "owner/name".
        metrics: a report of `embervlm eval --json`, its path or its content: the card tells its
            figures. Plain numbers by name are told as stated by the one who uploads.
        step: of the training; stands in the commit's message.
        token: of an account that may write; None is the one that is logged in.

    Raises:
        ValueError: see `push`; or metrics were given with a folder, whose card is written already.
    """
    path = Path(model_path)
    message = "Upload a model of embervlm" + ("" if step is None else f", step {step}")
    if path.is_dir():
        if metrics is not None:
            raise ValueError(
                f"{path} has its card already; give the metrics when it is saved, or its GGUF file."
            )
        return push(path, repo_id, token=token, message=message)
    is_report = isinstance(metrics, str | Path) or metrics is not None and "about" in metrics
    given = metrics if isinstance(metrics, Mapping) and not is_report else {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        report = Path(metrics) if isinstance(metrics, str) else metrics if is_report else None
        save(folder, [path], report=report, given=given)
        return push(folder, repo_id, token=token, message=message)


def _unreached(name: str, revision: str | None, token: str | None) -> str:
    """Return why the Hub cannot be asked for a model, or nothing.

    A download tries again for half a minute before it gives up; this asks once.
    """
    try:
        from huggingface_hub import HfApi, errors
    except ImportError as error:
        raise ValueError(_MISSING) from error
    try:
        HfApi(token=token).model_info(name, revision=revision, timeout=_TIMEOUT_S)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        return ""  # it answers; the download says what it answers
    except Exception as error:  # noqa: BLE001  # of its HTTP library, not the same in all versions
        return _reason(error)
    return ""


def _fetch(name: str, file: str, revision: str | None, token: str | None, unreached: str) -> Path:
    """Return the folder of one commit in the client's cache, with this file in it.

    Its name is the whole commit (huggingface.co/docs/huggingface_hub/guides/manage-cache).
    """
    from huggingface_hub import errors, hf_hub_download

    at = "" if revision is None else f" at {revision}"
    try:
        path = hf_hub_download(
            name, file, revision=revision, token=token, local_files_only=bool(unreached)
        )
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{name} is not on the Hub, or is private; check the name, or log in with 'hf auth "
            "login' or HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(
            f"{name} has no revision {revision}; check its commits and tags."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ValueError(
            f"{file} of {name}{at} cannot be reached and is not in the cache "
            f"({unreached or _reason(error)}); connect, or give a folder."
        ) from error
    except errors.EntryNotFoundError as error:
        raise ValueError(
            f"{name}{at} holds no {file}; it is no model that 'embervlm hub push' uploaded, or not "
            "a whole one."
        ) from error
    except Exception as error:  # the client's own, those of its HTTP library, and OSError
        raise ValueError(f"{name}{at} cannot be downloaded ({_reason(error)}).") from error
    return Path(path).parent


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
