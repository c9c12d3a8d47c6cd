"""What the pages show: every fenced block, and why it is not run where its page says so.

A block is run, sent, built or loaded by the test of its language. One that cannot be, here or alone, has a comment on the
line before it, ``<!-- not run: REASON -->``, and is held to what can be checked without running it.
"""

import re
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_REASON = re.compile(r"<!-- not run: (.+) -->\n$")


@dataclass(frozen=True)
class Snippet:
    """One block."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def pages() -> tuple[Path, ...]:
    """Return every page that a reader may open."""
    folders = ("docs", "csharp_host", "tests/rigs", "examples", "benchmarks")
    found = [*ROOT.glob("*.md"), *(page for folder in folders for page in (ROOT / folder).rglob("*.md"))]
    return tuple(sorted(found))


@cache
def snippets(*languages: str) -> tuple[Snippet, ...]:
    """Return the blocks of all pages in some languages; in all where none is named."""
    found = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for block in _FENCE.finditer(text):
            reason = _REASON.search(text[: block.start()])
            found.append(
                Snippet(
                    page=str(page.relative_to(ROOT)),
                    line=text.count("\n", 0, block.start()) + 1,
                    language=block[2],
                    text=textwrap.dedent(block[3]),
                    not_run=reason[1] if reason else None,
                )
            )
    return tuple(one for one in found if not languages or one.language in languages)
