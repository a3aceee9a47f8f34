"""The command line: what it prints, how it fails, and what it never loads."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import embervlm
from embervlm import cli
from embervlm.checkpoint import SHIPPED
from embervlm.fleet import Fleet
from embervlm.intake import sort_words
from embervlm.prompts import describe_needs, parse_thinking
from embervlm.scenario import Needs

Run = Callable[..., Result]
KEYS = [
    "robots", "primary", "environment", "confidence", "probabilities", "ask", "needs", "reasoning",
    "plan", "rejected", "memory", "lessons", "read_as",
]  # fmt: skip


@pytest.fixture
def run(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command; `decide` gets the tiny model."""
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*words: object) -> Result:
        arguments = [str(word) for word in words]
        if arguments[0] == "decide" and "--model" not in arguments:
            arguments += ["--model", str(tiny_model)]
        return CliRunner().invoke(cli.app, arguments)

    return invoke


def assert_is_one_sentence(result: Result, part: str) -> None:
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("embervlm: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    assert part in result.stderr


def test_prints_a_decision_for_people(run: Run, photo: Path) -> None:
    result = run("decide", photo, "carry the 8 kg pump")
    assert result.exit_code == 0, result.stderr
    for part in (*Fleet.default().outcomes, "photo.png", "carry the 8 kg pump", "confidence"):
        assert part in result.stdout
    for line in ("Task: ", "Environment: ", "Robots: ", "Decision: "):
        assert line in result.stdout


def test_prints_a_decision_as_json(run: Run, photo: Path) -> None:
    result = run("decide", photo, "look at the roof", "--json", "--top-k", 1)
    record = json.loads(result.stdout)
    assert list(record) == KEYS
    assert list(record["probabilities"]) == list(Fleet.default().outcomes)
    assert len(record["robots"]) == 1
    assert len(record["reasoning"]) == 4
    assert set(record["needs"]) == {"actions", "environment", "limits"}
    bare = json.loads(run("decide", "look at the roof", "--json", "--no-reasoning").stdout)
    assert bare["reasoning"] == []


def test_prints_the_same_reasons_in_tags(run: Run, photo: Path) -> None:
    words = ("decide", photo, "carry the 8 kg pump past the <old> mill")
    record = json.loads(run(*words, "--json").stdout)
    told = parse_thinking(run(*words, "--tags").stdout)
    assert told is not None
    assert list(told.lines) == record["reasoning"]
    assert list(told.robots) == record["robots"]
    assert told.confidence == record["confidence"]


def test_the_backends_decide_alike(run: Run, photo: Path) -> None:
    words = ("decide", photo, "look at the roof", "--json", "--backend")
    native = json.loads(run(*words, "native").stdout)
    for name in ("reference", "pytorch", "onnx"):
        other = json.loads(run(*words, name).stdout)
        for key in ("robots", "environment", "needs", "reasoning", "plan"):
            assert other[key] == native[key]
        assert other["confidence"] == pytest.approx(native["confidence"], abs=1e-4)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a.jpg", "look"], ("a.jpg", "look")),
        (["look", "a.jpg"], ("a.jpg", "look")),
        (["a.JPEG"], ("a.JPEG", None)),
        (["a.heic"], ("a.heic", None)),
        (["look at a.jpg there"], (None, "look at a.jpg there")),
        (["flood", "look"], ("flood", "look")),
        (["--image", "flood", "look"], ("flood", "look")),
        (["a.jpg", "--task", "b.jpg"], ("a.jpg", "b.jpg")),
        (["--image", "flood", "--task", "a.jpg"], ("flood", "a.jpg")),
    ],
)
def test_tells_photos_from_requests(
    words: list[str], expected: tuple[str | None, str | None]
) -> None:
    positional, options = [], {}
    names = iter(words)
    for word in names:
        if word.startswith("--"):
            options[word.removeprefix("--")] = next(names)
        else:
            positional.append(word)
    first, second = (*positional, None, None)[:2]
    assert sort_words(first, second, options.get("image"), options.get("task")) == expected


def test_a_file_of_any_name_is_a_photo(run: Run, photo: Path, tmp_path: Path) -> None:
    unnamed = tmp_path / "flood"
    unnamed.write_bytes(photo.read_bytes())
    alone = json.loads(run("decide", unnamed, "--json").stdout)
    assert alone == json.loads(run("decide", "--image", photo, "--json").stdout)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["decide"], "Nothing was asked"),
        (["decide", "absent.jpg"], "'absent.jpg' cannot be read"),
        (["decide", "absent", "look"], "'absent' cannot be read"),
        (["decide", "https://example.org/a.jpg", "look"], "never fetched"),
        (["decide", "x" * 4001], "4,001 characters"),
        (["decide", "look", "--top-k", "0"], "--top-k is 0"),
        (["decide", "look", "--tags", "--json"], "--tags prints one reasoning: leave out --json"),
        (["decide", "look", "--tags", "--no-reasoning"], "--tags prints one reasoning"),
        (["decide", "--batch", "a", "--out", "b", "--tags"], "--tags prints one reasoning"),
        (["decide", "look", "--own-words", "--no-reasoning"], "--own-words are of the reasons"),
        (["decide", "look", "--own-words", "--format", "rmf"], "--own-words are of the reasons"),
        (["decide", "look", "--rmf-fleet", "yard"], "--rmf-fleet goes with --format rmf"),
        (
            ["decide", "--batch", "a", "--out", "b", "--rmf-fleet", "yard"],
            "--rmf-fleet goes with --format rmf",
        ),
        (["decide", "look", "--backend", "tpu"], "Unknown backend 'tpu'"),
        (["decide", "look", "--model", "absent"], "absent: cannot be opened"),
        (["decide", "look", "--fleet", "absent.yaml"], "fleet file absent.yaml cannot be read"),
        (["decide", "look", "carry"], "'look' cannot be read"),
        (["decide", "a.jpg", "look", "--task", "carry"], "given twice"),
        (["decide", "a.jpg", "b.jpg"], "given twice. A request that names a file goes behind"),
        (["decide", "b.jpg", "--image", "a.jpg"], "given twice"),
        (["decide", "a.jpg", "look", "--image", "b.jpg"], "given twice"),
        (["decide", "--batch", "in.jsonl"], "--batch and --out belong together"),
        (["decide", "look", "--out", "out.jsonl"], "--batch and --out belong together"),
        (["decide", "look", "--batch", "a", "--out", "b"], "leave out the others"),
        (["decide", "--batch", "absent", "--out", "b"], "absent is not a file"),
        (["fleet", "show", "--fleet", "absent.yaml"], "cannot be read"),
        (["eval", "--split", "exam"], "--split is 'exam'; it is validation or test"),
        (["eval", "--split", "train"], "--split is 'train'; it is validation or test"),
        (["eval", "--split", "train", "--model", "openai:http://x#y"], "it is validation or test"),
        (["plot", "absent.json", "--out", "pictures"], "absent.json cannot be read as a report"),
        (["eval", "--only", "poems"], "Unknown parts ['poems']"),
        (["eval", "--no-baselines", "--model", "absent"], "absent: cannot be opened"),
        (["eval", "--model", "openai:http://127.0.0.1:9#m", "--json", "/"], "/ cannot be written"),
        (["suite", "mme", "absent.tsv", "--model", "x", "--json", "/"], "/ cannot be written"),
        (["bench", "--json", "/"], "/ cannot be written"),
        (["data", "check", "--dir", "absent"], "is not there"),
    ],
)
def test_says_what_is_wrong_in_one_sentence(run: Run, words: list[str], part: str) -> None:
    assert_is_one_sentence(run(*words), part)


def test_says_which_key_of_a_fleet_is_wrong(run: Run, tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("robots: [{name: Mule, limits: {payload_kg: heavy}}]", "utf-8")
    assert_is_one_sentence(
        run("decide", "look", "--fleet", fleet), "'Mule', key `limits.payload_kg`"
    )


def test_decides_for_another_fleet(run: Run, tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("robots: [{name: Mule, capabilities: [carry]}]", "utf-8")
    record = json.loads(run("decide", "carry it", "--fleet", fleet, "--json").stdout)
    assert list(record["probabilities"]) == ["Mule", "No Robot"]
    assert "Mule" in run("fleet", "show", "--fleet", fleet).stdout


def test_a_request_cannot_steer_the_terminal(run: Run) -> None:
    result = run("decide", "look \x1b[2J\x07 [bold]there[/bold] \udcff")
    assert result.exit_code == 0, result.stderr
    assert "\x1b[2J" not in result.stdout and "\x07" not in result.stdout
    assert "[bold]there[/bold]" in result.stdout


def write_lines(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes("\n".join(texts).encode("utf-8", errors="surrogatepass") + b"\n")
    return path


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_batch_has_a_line_for_each_line_in_order(run: Run, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(photo.read_bytes())
    source = write_lines(
        tmp_path / "in.jsonl",
        {"id": "a", "task": "look at the roof", "image": None},
        {"id": "b", "task": None, "image": "photo.png"},
        {"id": 3, "task": "carry the 8 kg pump", "image": "photo.png", "suited": ["Drone"]},
        "",
        {"id": "a", "task": "again"},
    )
    result = run("decide", "--batch", source, "--out", tmp_path / "out.jsonl")
    assert result.exit_code == 0, result.stderr
    assert "4 of 4 lines decided" in result.stderr
    records = read_lines(tmp_path / "out.jsonl")
    assert [record["id"] for record in records] == ["a", "b", 3, "a"]
    for record in records:
        assert list(record) == ["id", *KEYS]
    single = json.loads(run("decide", tmp_path / "photo.png", "--json").stdout)
    assert {"id": "b", **single} == records[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl",
        "out.jsonl",
        "photo.png",
    ]


def test_a_bad_line_of_a_batch_costs_no_good_one(run: Run, tmp_path: Path) -> None:
    good = {"id": "good", "task": "look at the roof"}
    bad = [
        ("not json", None, "line 2: not JSON"),
        ("[" * 50_000, None, "not JSON"),
        ("[1]", None, "not a JSON object"),
        ({"task": "look"}, None, "no `id`"),
        ({"id": ["x"], "task": "look"}, None, "no `id`"),
        ({"id": True, "task": "look"}, None, "no `id`"),
        ('{"id": NaN, "task": "look"}', None, "line 8: not JSON (NaN is no number of JSON)"),
        ('{"id": 1e400, "task": "look"}', None, "no `id`; give each line a text or a number"),
        ('{"id": 5, "task": "look", "other": -Infinity}', None, "not JSON"),
        ({"id": "nothing"}, "nothing", "Nothing was asked"),
        ({"id": "blank", "task": "  "}, "blank", "Nothing was asked"),
        ({"id": "number", "task": 7}, "number", "must be a text"),
        ({"id": "list", "image": ["a.jpg"]}, "list", "`image` must be a path"),
        ({"id": "gone", "image": "gone.jpg"}, "gone", "gone.jpg' cannot be read"),
        ({"id": "nul", "image": "a\0.jpg"}, "nul", "x00.jpg' cannot be read (no file has such"),
        ({"id": "lone", "image": "\ud800.jpg"}, "lone", "cannot be read (no file has such a name)"),
        ({"id": "empty", "image": ""}, "empty", "the photo '' is not a file"),
        ({"id": "web", "image": "http://example.org/a.jpg"}, "web", "never fetched"),
        ({"id": "long", "task": "x" * 4001}, "long", "4,001 characters"),
        ({"id": "huge", "task": "x" * 300_000}, None, "longer than 100,000 bytes"),
    ]
    lines = [good, *(line for line, _, _ in bad), {"id": "\ud800", "task": "\ud800 look"}, good]
    source = write_lines(tmp_path / "in.jsonl", *lines)
    with source.open("ab") as file:
        file.write(b'{"id": "\xff"}\n')
    result = run("decide", "--batch", source, "--out", tmp_path / "out.jsonl")
    assert result.exit_code == 1
    assert f"{len(bad) + 1} lines failed" in result.stderr
    records = read_lines(tmp_path / "out.jsonl")
    assert len(records) == len(lines) + 1
    for record, (_, name, part) in zip(records[1:], bad, strict=False):
        assert list(record) == ["id", "error"]
        assert record["id"] == name
        assert part in str(record["error"])
        assert "internal error" not in str(record["error"])
    for at in (0, len(bad) + 1, len(bad) + 2):
        assert list(records[at]) == ["id", *KEYS]
    assert "not JSON" in str(records[-1]["error"])


def test_a_fault_of_ours_costs_one_line_and_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embervlm.selector import Selector

    whole = Selector.decide

    def breaks(selector: Selector, scenario: embervlm.Scenario, **options: object) -> object:
        if scenario.task == "break":
            raise ZeroDivisionError("oh")
        return whole(selector, scenario, **options)

    monkeypatch.setattr(Selector, "decide", breaks)
    source = write_lines(
        tmp_path / "in.jsonl", *({"id": t, "task": t} for t in ("look", "break", "search"))
    )
    assert run("decide", "--batch", source, "--out", tmp_path / "out.jsonl").exit_code == 1
    records = read_lines(tmp_path / "out.jsonl")
    assert ["error" in record for record in records] == [False, True, False]
    assert "internal error: ZeroDivisionError" in str(records[1]["error"])


def test_a_batch_that_is_broken_off_keeps_what_was_done(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embervlm.selector import Selector

    whole = Selector.decide

    def stops(selector: Selector, scenario: embervlm.Scenario, **options: object) -> object:
        if scenario.task == "stop":
            raise KeyboardInterrupt
        return whole(selector, scenario, **options)

    monkeypatch.setattr(Selector, "decide", stops)
    source = write_lines(tmp_path / "in.jsonl", *({"id": t, "task": t} for t in ("look", "stop")))
    (tmp_path / "out.jsonl").write_text("older\n", "utf-8")
    assert run("decide", "--batch", source, "--out", tmp_path / "out.jsonl").exit_code != 0
    assert (tmp_path / "out.jsonl").read_text("utf-8") == "older\n"
    assert [r["id"] for r in read_lines(tmp_path / "out.jsonl.unfinished")] == ["look"]


def test_a_batch_never_overwrites_its_input(run: Run, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", {"id": 1, "task": "look"})
    before = source.read_bytes()
    for target in (source, tmp_path / "sub" / ".." / "in.jsonl", tmp_path, tmp_path / "sub" / "o"):
        result = run("decide", "--batch", source, "--out", target)
        assert result.exit_code == 2
    assert source.read_bytes() == before


def test_shows_the_default_fleet(run: Run) -> None:
    result = run("fleet", "show")
    assert result.exit_code == 0
    for part in (*Fleet.default().names, "payload 500 kg", "max wind 50 km/h", "endurance 40 min"):
        assert part in result.stdout


def test_data_check_counts_and_fails_on_faults(run: Run, tmp_path: Path) -> None:
    row = {
        "id": "one", "task": "Send the drone over the mill.", "suited": ["Drone"],
        "primary": "Drone", "environment": "airborne", "actions": ["look"], "limits": {},
        "split": "train", "kind": "choice",
    }  # fmt: skip
    write_lines(tmp_path / "scenarios.jsonl", row)
    for name in ("plans", "photo_requests"):
        (tmp_path / f"{name}.jsonl").write_text("", "utf-8")
    (tmp_path / "splits.sha256").write_text("of other splits\n", "utf-8")
    result = run("data", "check", "--dir", tmp_path)
    assert result.exit_code == 1
    assert "scenarios" in result.stdout
    assert "2 faults" in result.stdout
    assert "one: the request names 'Drone'" in result.stderr


def test_describes_needs_with_their_units() -> None:
    needs = Needs(
        ("carry", "look"),
        "rough",
        {"load_kg": 8.0, "wind_kmh": 70.0, "step_cm": 20.0, "hours": 2.0},
        frozenset({"stairs", "mud"}),
    )
    line = "carry, look; load 8 kg, wind 70 km/h, step 20 cm, 2 hours; mud, stairs"
    assert describe_needs(needs) == line
    assert describe_needs(Needs()) == "nothing in particular"


def test_help_and_version_say_enough(run: Run) -> None:
    assert run("--version").stdout.strip() == embervlm.__version__
    help_text = run("--help").stdout
    for part in ("decide", "eval", "data", "fleet", "--version", "photo.jpg"):
        assert part in help_text
    decide_help = " ".join(run("decide", "--help").stdout.split())
    assert "Needs the train extra" in " ".join(run("distill", "--help").stdout.split())
    for part in ("--batch", "--fleet", "--json", "--top-k", "requests.jsonl", "Exit code", "pump"):
        assert part in decide_help


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_what_cannot_be_written_is_one_sentence() -> None:
    for words in (["--help"], ["--version"], ["export", "gguf", "--help"], ["fleet", "show"]):
        with Path("/dev/full").open("w") as full:
            ran = subprocess.run(
                [sys.executable, "-m", "embervlm", *words],
                stdout=full, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        said = "embervlm: The output: No space left on device.\n"
        assert (ran.returncode, ran.stderr) == (2, said), words


def test_a_missing_extra_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embervlm.backends.pytorch", None)
    assert_is_one_sentence(
        run("decide", "look", "--backend", "pytorch"), "pip install 'embervlm[train]'"
    )


def test_help_names_no_path_of_this_machine(run: Run) -> None:
    help_text = "".join(run("look", "--help").stdout.split())
    assert "thedemo's" in help_text
    assert "seabed" not in help_text


@pytest.mark.skipif(not SHIPPED.is_file(), reason="no weights ship with this tree")
def test_the_photo_of_the_demo_sends_the_robot_that_dives() -> None:
    photo = Path(cli.__file__).parent / "demo" / "seabed.jpg"
    request = "Our sensor came off its mooring somewhere here. Find it and cut the line."
    result = CliRunner().invoke(cli.app, ["decide", str(photo), request, "--json"])
    record = json.loads(result.stdout)
    assert record["robots"] == ["Underwater Robot"]
    assert record["environment"] == "underwater"


@pytest.mark.skipif(not SHIPPED.is_file(), reason="no weights ship with this tree")
def test_the_example_of_a_team_sends_who_can_do_each_step(run: Run) -> None:
    request = "look at the roof from above, then shut the valve in the pump room"
    assert f'"{request}"' in run("decide", "--help").stdout
    result = CliRunner().invoke(cli.app, ["decide", request, "--json", "--no-memory"])
    record = json.loads(result.stdout)
    assert [step["robot"] for step in record["plan"]] == ["Drone", "Humanoid"]
    assert record["ask"] is False


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is that of Linux")
def test_decides_within_256_mb_of_addresses(photo: Path) -> None:
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))\n"
        "from embervlm.cli import app\n"
        "app(sys.argv[1:])\n"
    )
    words = ("decide", str(photo), "look at the roof", "--json")
    said = subprocess.run(
        [sys.executable, "-c", program, *words], check=True, capture_output=True, text=True
    )
    assert json.loads(said.stdout)["robots"]


def test_deciding_never_loads_pytorch(tiny_model: Path, photo: Path) -> None:
    program = (
        "import sys, embervlm.cli, embervlm.selector\n"
        "assert 'numpy' in sys.modules\n"
        "model = embervlm.EmberVLM.from_pretrained(sys.argv[1])\n"
        "print(model.select_robots(image=sys.argv[2], task='look at the roof').robots)\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tiny_model), str(photo)], check=True)


def test_help_loads_nothing_heavy() -> None:
    program = "import sys, embervlm.cli; assert not {'numpy', 'torch', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_python_runs_the_package_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "embervlm", "--version"], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == embervlm.__version__
