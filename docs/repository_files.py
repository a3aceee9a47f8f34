"""Let pages of the site link to files of the repository, as they do where the repository is read.

A page of docs/ links to `../benchmarks/bench.json`, and README.md to `docs/plans.md`. For MkDocs,
which knows docs/ alone, this hook brings the linked files in below `repository/` and points the
links there; a Markdown file becomes a page. So one link works in both places, and `--strict` finds
every dead one. A link to a folder becomes its words. Pages that the nav of mkdocs.yml forgets are
put under "More".

When the site is built, whatever in it would load something from another server is a warning, which
ends a strict build, and the links that lead outside are listed.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
BELOW = "repository"
# Pages whether somebody links to them or not, so that their own links are looked at as well.
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "data/README.md",
    "embervlm/weights/README.md",
)
log = logging.getLogger("mkdocs.hooks.repository_files")
LINK = re.compile(r'(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)|(<img src=")([^"]+)')

# What a browser fetches by itself: sources, style sheets, fonts, frames; and what CSS names.
LOADS = re.compile(
    r"""<(?:script|img|iframe|audio|video|source|embed)\b[^>]*\bsrc=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|<link\b(?![^>]*rel=["']?canonical)[^>]*\bhref=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|(?:url\(|@import )["']?((?:https?:)?//[^"')\s]+)"""
)
LEADS_OUT = re.compile(r"""<a\b[^>]*\bhref=["'](https?://[^"']+)""")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add to the nav what it forgets."""
    docs = Path(config.docs_dir)
    named = set(re.findall(r"[\w./-]+\.md", str(config.nav)))
    pages = sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))
    if forgotten := [page for page in pages if page not in named]:
        assert config.nav is not None
        config.nav.append({"More": forgotten})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Bring in the files that pages link to, and what those link to."""
    waiting = [(ROOT / name) for name in PAGES]
    waiting += [Path(file.abs_src_path or "") for file in files.documentation_pages()]
    seen: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        if not path.is_relative_to(config.docs_dir):
            uri = f"{BELOW}/{path.relative_to(ROOT).as_posix()}"
            level = InclusionLevel.INCLUDED if path.suffix == ".md" else InclusionLevel.UNDEFINED
            files.append(File.generated(config, uri, abs_src_path=str(path), inclusion=level))
        if path.suffix == ".md":
            text = path.read_text("utf-8")
            targets = [match[3] or match[5] for match in LINK.finditer(text)]
            waiting += [place for target in targets if (place := _file(target, path)) is not None]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page to where the files stand in the site."""
    source = Path(page.file.abs_src_path or "")
    here = PurePosixPath(page.file.src_uri).parent

    def pointed(match: re.Match[str]) -> str:
        target = match[3] or match[5]
        path = _file(target, source)
        if path is None:
            return match[0]
        if path.is_dir():
            return match[2]
        if path.is_relative_to(config.docs_dir):
            uri = path.relative_to(config.docs_dir).as_posix()
        else:
            uri = f"{BELOW}/{path.relative_to(ROOT).as_posix()}"
        _, mark, anchor = target.partition("#")
        new = os.path.relpath(uri, here) + mark + anchor
        return match[4] + new if match[4] else f"{match[1]}[{match[2]}]({new})"

    return LINK.sub(pointed, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Warn of what would be loaded from elsewhere; list the links that lead there."""
    links: dict[str, str] = {}
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix not in (".html", ".css"):
            continue
        name = path.relative_to(config.site_dir).as_posix()
        text = path.read_text("utf-8")
        for match in LOADS.finditer(text):
            log.warning("%s would load %s", name, match[1] or match[2] or match[3])
        links.update((address, name) for address in LEADS_OUT.findall(text))
    for address in sorted(links):
        log.info("leads outside: %s (%s)", address, links[address])


def _file(target: str, source: Path) -> Path | None:
    """Return what a relative link leads to, or None if it leads to no file of the repository."""
    name = target.partition("#")[0]
    if not name or re.match(r"[a-z]+:", name) or name.startswith("/"):
        return None
    path = Path(os.path.normpath(source.parent / name))
    return path if path.exists() and path.is_relative_to(ROOT) else None
