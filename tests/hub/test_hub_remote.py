"""To the Hub and from it, by the real client over HTTP, against `hub_server.py`."""

import json
from pathlib import Path

import pytest
from conftest import Run
from hub_server import TOKEN, HubServer

from embervlm import hub as hub_package

pytest.importorskip("huggingface_hub")

LOAD = """
import json, sys, embervlm
model = embervlm.EmberVLM.from_pretrained(sys.argv[1], revision=(sys.argv[2:] or [None])[0])
decision = model.select_robots(task="carry the 8 kg pump up the stairs").to_dict()
print(json.dumps({"commit": model.revision, "source": str(model.source), "decision": decision}))
"""


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    hub_package.save(tmp_path / "m", [tiny_model])
    return tmp_path / "m"


def push(run: Run, folder: Path, name: str, *more: str) -> str:
    done = run("hub", "push", str(folder), name, *more)
    assert done.status == 0, done.err
    return done.out.strip()


def test_what_is_pushed_is_pulled(
    run: Run, hub: HubServer, folder: Path, name: str, tmp_path: Path
) -> None:
    commit = push(run, folder, name)
    repository = hub.repositories[name]
    assert list(repository.commits) == [commit] and len(commit) == 40
    sent = repository.commits[commit]
    assert sent == {path.name: path.read_bytes() for path in folder.iterdir()}

    done = run("hub", "pull", name, "--out", str(tmp_path / "out"), token=None)
    assert done.status == 0, done.err
    assert f"commit  {commit}" in done.out
    for path in (tmp_path / "out").iterdir():
        if path.name == "source.json":
            assert json.loads(path.read_text()) == {"repository": name, "commit": commit}
        else:
            assert path.read_bytes() == sent[path.name]


def test_from_pretrained_takes_a_name_and_then_needs_no_net(
    run: Run, hub: HubServer, folder: Path, name: str
) -> None:
    commit = push(run, folder, name)
    here = json.loads(run(str(folder), code=LOAD).out)
    online = run(name, code=LOAD, token=None)
    assert online.status == 0, online.err
    found = json.loads(online.out)
    assert found["decision"] == here["decision"] and found["commit"] == commit
    assert commit in found["source"]
    hub.calls.clear()
    offline = run(name, code=LOAD, token=None, HF_HUB_OFFLINE="1")
    assert json.loads(offline.out) == found
    assert hub.calls == []


def test_a_pinned_revision_stays(
    run: Run, hub: HubServer, folder: Path, name: str, tmp_path: Path
) -> None:
    first = push(run, folder, name)
    hub.repositories[name].refs["v1"] = first
    newer = tmp_path / "newer"
    hub_package.save(newer, [next(folder.glob("*.gguf"))], given={"loss": 1.0}, licence="mit")
    second = push(run, newer, name)
    assert second != first
    for revision, commit in ((first, first), ("v1", first), ("main", second), (None, second)):
        words = [] if revision is None else ["--revision", revision]
        done = run("hub", "pull", name, *words)
        assert f"commit  {commit}" in done.out, done.err
    wrong = run("hub", "pull", name, "--revision", "v9")
    assert wrong.status == 2 and f"{name} has no revision v9" in wrong.err


@pytest.mark.parametrize("same_size", [True, False])
def test_a_file_with_another_hash_is_refused(
    run: Run, hub: HubServer, folder: Path, name: str, same_size: bool
) -> None:
    commit = push(run, folder, name)
    files = hub.repositories[name].commits[commit]
    fleet = files["fleet.yaml"]
    files["fleet.yaml"] = fleet.replace(b"Drone", b"Drohn" if same_size else b"Dr")
    done = run("hub", "pull", name)
    what = "SHA-256" if same_size else "size"
    assert done.status == 2 and f"{what}" in done.err and commit in done.err
    loaded = run(name, code=LOAD)
    assert loaded.status != 0 and "is not the file that config.json lists" in loaded.err


def test_without_a_net_it_says_so_in_one_sentence(run: Run, folder: Path, name: str) -> None:
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    for more in (nobody, {"HF_HUB_OFFLINE": "1"}):
        done = run("hub", "pull", name, **more)
        assert done.status == 2
        assert done.err.count("\n") == 1
        assert f"config.json of {name} cannot be reached and is not in the cache" in done.err
    done = run("hub", "push", str(folder), name, **nobody)
    assert done.status == 2 and f"{name} was not uploaded" in done.err
    assert done.err.count("\n") == 1


def test_a_private_model_needs_a_token(run: Run, hub: HubServer, folder: Path, name: str) -> None:
    push(run, folder, name, "--private")
    assert hub.repositories[name].private
    done = run("hub", "pull", name, token=None)
    assert done.status == 2 and "is private; check the name, or log in" in done.err
    assert run("hub", "pull", name).status == 0


def test_private_is_never_put_where_all_can_see(
    run: Run, hub: HubServer, folder: Path, name: str
) -> None:
    first = push(run, folder, name)
    done = run("hub", "push", str(folder), name, "--private")
    assert done.status == 2 and "there already and public; nothing was uploaded" in done.err
    assert list(hub.repositories[name].commits) == [first]


def test_pushing_needs_a_token_and_a_sound_folder(
    run: Run, hub: HubServer, folder: Path, name: str, tmp_path: Path
) -> None:
    done = run("hub", "push", str(folder), name, token=None)
    assert done.status == 2 and "needs a token" in done.err
    (folder / "fleet.yaml").write_text("robots: []")
    done = run("hub", "push", str(folder), name)
    assert done.status == 2 and "is not the file that config.json lists" in done.err
    assert hub.calls == [] and name not in hub.repositories


def test_nothing_but_what_is_listed_is_sent(
    run: Run, hub: HubServer, folder: Path, name: str
) -> None:
    (folder / "lessons.sqlite").write_bytes(b"what operators said")
    commit = push(run, folder, name)
    assert "lessons.sqlite" not in hub.repositories[name].commits[commit]


def test_embervlms_name_for_it_works(
    run: Run, hub: HubServer, tiny_model: Path, folder: Path
) -> None:
    code = f"""
import embervlm
model, given = {str(tiny_model)!r}, {{"loss": 0.5}}
print(embervlm.upload_to_huggingface(model, "owner/a", given, 300, {TOKEN!r}))
print(embervlm.upload_to_huggingface(model_path={str(folder)!r}, repo_id="owner/b"))
model = embervlm.EmberVLM.from_pretrained(model)
print(model.push_to_hub("owner/c", private=True, licence="apache-2.0"))
"""
    done = run(code=code)
    assert done.status == 0, done.err
    for name, commit in zip(("a", "b", "c"), done.out.split(), strict=True):
        assert list(hub.repositories[f"owner/{name}"].commits) == [commit]
    cards = [
        next(iter(hub.repositories[f"owner/{name}"].commits.values()))["README.md"].decode()
        for name in "abc"
    ]
    assert "| loss | 0.5 |" in cards[0] and "license: apache-2.0" in cards[2]
    assert hub.repositories["owner/c"].private and not hub.repositories["owner/a"].private
