"""The documentation as a site: every page is in it, and every link leads somewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.e2e.process import ROOT

QUIET = {"NO_MKDOCS_2_WARNING": "1"}
"""No word about the generator's own future."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the site, built with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


class Links(HTMLParser):
    """What a page leads to and asks for, and the places in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.page = page
        self.targets: set[str] = set()
        self.places: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.targets |= {told[name] or "" for name in ("href", "src") if told.get(name)}
        self.places |= {told["id"] or ""} if "id" in told else set()


def test_no_link_is_dead(site: Path) -> None:
    """Each link within the site leads to a file, and to a place that is in it."""
    pages = {page: Links(page) for page in site.rglob("*.html") if page.name != "404.html"}
    assert len(pages) > 20
    dead = []
    for page, links in pages.items():
        for target in links.targets:
            if re.match(r"[a-z]+:", target):
                continue
            path, _, place = unquote(target).partition("#")
            found = (page.parent / path).resolve() if path else page
            found = found / "index.html" if found.is_dir() else found
            if not found.is_file() or (place and found in pages and place not in pages[found].places):
                dead.append(f"{page.relative_to(site)}: {target}")
    assert dead == []


def test_no_page_asks_another_site(site: Path) -> None:
    """Scripts, styles, fonts and pictures are the site's own."""
    asked = [
        target
        for page in site.rglob("*.html")
        for target in re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="([^"]+)"', page.read_text()
        )
        if target.startswith(("http:", "https:", "//"))
    ]
    assert asked == []


def test_every_page_is_in_it(site: Path) -> None:
    """The pages of docs/, the first page, the host's and the project's."""
    pages = {page.stem for page in (ROOT / "docs").rglob("*.md")}
    assert {name for name in pages if not list(site.rglob(f"{name}/index.html"))} == set()
    assert "kv-cache" in (site / "index.html").read_text(encoding="utf-8")
    assert "ApiResponse" in (site / "csharp" / "index.html").read_text(encoding="utf-8")
