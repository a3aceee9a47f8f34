"""The documentation site shows examples as code, and would notice what it loads from elsewhere.

Dead links are found by `make docs`, which CI runs: MkDocs looks at them, with --strict.
"""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

pytest.importorskip("mkdocs", reason="needs the docs extra")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.delitem(sys.modules, request.param, raising=False)
    return __import__(request.param)


@pytest.mark.parametrize("module", ["doctests"], indirect=True)
def test_examples_get_a_fence_and_indented_ones_stay(module: ModuleType) -> None:
    assert module.fenced("One.\n\n    >>> 1\n    1\n") == "One.\n\n    >>> 1\n    1\n"
    assert module.fenced(">>> 1\n1\n\nMore.") == "```pycon\n>>> 1\n1\n```\n\nMore."


@pytest.mark.parametrize("module", ["repository_files"], indirect=True)
@pytest.mark.parametrize(
    ("html", "found"),
    [
        ('<script src="https://cdn.example/a.js">', True),
        ("<img alt=x src=//cdn.example/a.png>", True),
        ('<link rel="stylesheet" href="https://fonts.example/css?family=A">', True),
        ('<link rel="preconnect" href="https://fonts.example">', True),
        ("@import 'https://fonts.example/a.css';", True),
        ("a { background: url(https://cdn.example/a.png) }", True),
        ('<script src="assets/a.js"></script><img src="../a.png">', False),
        ('<a href="https://example.org">there</a>', False),
        ('<link rel="canonical" href="https://example.org/a.html">', False),
    ],
)
def test_what_a_browser_would_fetch_elsewhere_is_noticed(
    module: ModuleType, html: str, found: bool
) -> None:
    assert bool(module.LOADS.search(html)) == found


@pytest.mark.parametrize("module", ["repository_files"], indirect=True)
def test_links_lead_to_files_of_the_repository_alone(module: ModuleType) -> None:
    source = ROOT / "docs" / "plans.md"
    assert module._file("../benchmarks/plans.json", source) == ROOT / "benchmarks" / "plans.json"
    assert module._file("server.md#routes", source) == ROOT / "docs" / "server.md"
    for target in ("absent.md", "#routes", "https://example.org/a.md", "/etc/passwd", "../../x"):
        assert module._file(target, source) is None


def test_the_nav_names_pages_that_are_there() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    named = re.findall(r"[\w./-]+\.md", str(nav))
    assert len(named) == len(set(named))
    for name in named:
        place = name.removeprefix("repository/") if "repository/" in name else f"docs/{name}"
        assert (ROOT / place).is_file(), name
