"""What makes a site of the pages as they are: those outside ``docs/``, and links that leave it.

A link to another page leads to that page of the site; one to a file of the project, to a copy of the file. A link to what
is not there is left as it is, for ``mkdocs build --strict`` to refuse.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {
    "README.md": "index.md",
    "csharp_host/README.md": "csharp.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Pages that have their place elsewhere in the project, and what they are on the site."""
SOURCES = {page: source for source, page in OUTSIDE.items()}
DECISIONS = "decisions.md"
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?=[)#])")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside, the list of decisions, and every file that a page links to."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, DECISIONS, content=_decisions()))
    for page in [one.src_uri for one in files.documentation_pages()]:
        for target in LINK.findall(_source(page).read_text(encoding="utf-8")) if page != DECISIONS else ():
            copy = _copy_of(page, target)
            if copy and files.get_file_from_path(copy) is None:
                path = ROOT / _in_project(page, target)
                files.append(File.generated(config, copy, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead the links of a page to where their targets are on the site."""
    name = page.file.src_uri
    if name == DECISIONS:
        return markdown
    if name in SOURCES:
        markdown = "".join(
            part if part.startswith("```") else re.sub(r"^  (?=\S| +\S)", "    ", part, flags=re.MULTILINE)
            for part in FENCE.split(markdown)
        )  # in a list, two spaces belong to it on a code host, and four do here
    return LINK.sub(lambda found: _on_site(name, found[1]), markdown)


def _on_site(page: str, target: str) -> str:
    if ":" in target:
        return target
    inside = _in_project(page, target)
    place = OUTSIDE.get(inside) or _copy_of(page, target) or inside.removeprefix("docs/")
    return posixpath.relpath(place, posixpath.dirname(page) or ".")


def _copy_of(page: str, target: str) -> str | None:
    """Return where a file of the project that is no page is on the site; None for anything else."""
    inside = _in_project(page, target)
    is_copied = ":" not in target and not inside.startswith("docs/") and inside not in OUTSIDE
    return f"source/{inside}.txt" if is_copied and (ROOT / inside).is_file() else None


def _in_project(page: str, target: str) -> str:
    """Return what a page's link is to, from the project's root."""
    folder = posixpath.dirname(SOURCES.get(page, f"docs/{page}"))
    return posixpath.normpath(posixpath.join(folder, target))


def _source(page: str) -> Path:
    return ROOT / SOURCES.get(page, f"docs/{page}")


def _decisions() -> str:
    """List the decisions, by number."""
    titles = {
        path.name: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))
    }
    rows = "\n".join(f"- [{title}](decisions/{name})" for name, title in titles.items())
    return f"# Decisions\n\nWhy it is as it is, one page each.\n\n{rows}\n"
