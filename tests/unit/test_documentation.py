"""The pages that say where things are name only what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/architecture.md", "CONTRIBUTING.md")
BASES = (ROOT, ROOT / "worker")
"""What a page's paths begin at: the project, or, in the pages about the worker, its package."""
PATH = re.compile(r"[\w./-]+(?:/|\.(?:py|md|jsonl|txt|toml|props|cs|yaml))")


def named(page: str) -> list[str]:
    """Return what a page has in backticks that is a path."""
    text = (ROOT / page).read_text(encoding="utf-8")
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [each for each in quoted if PATH.fullmatch(each)]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_exists(page: str) -> None:
    """A folder or file in backticks is one of the project's, or of the worker's."""
    paths = named(page)
    assert len(paths) > 10
    assert [each for each in paths if not any((base / each).exists() for base in BASES)] == []


def test_every_folder_of_the_worker_has_its_row() -> None:
    """The table of folders leaves none out."""
    rows = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = {each.parent.name for each in (ROOT / "worker").glob("*/__init__.py")}
    assert {each for each in folders if f"`{each}/`" not in rows} == set()


def test_pictures_are_whole() -> None:
    """They ask for nothing from elsewhere: whoever looks at a page asks its own server alone."""
    pictures = sorted((ROOT / "docs" / "pictures").glob("*.svg"))
    assert pictures
    for picture in pictures:
        asked = re.findall(
            r"""(?:url\(|href=|src=|@import)\s*["']?(?!#)[\w:/]+""", picture.read_text(encoding="utf-8")
        )
        assert [one for one in asked if "#" not in one] == [], picture.name


def test_each_question_is_asked_once_and_answered() -> None:
    """A number that leads to its thread, what is asked, and a sentence or two of answer."""
    page = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")
    asked = re.findall(
        r"^\*\*\[([\w-]*#\d+)\]\((https://github\.com/[\w./-]+/(?:issues|pull)/(\d+))\)\*\* “.+”<br>\n(.+)$",
        page,
        re.MULTILINE,
    )
    assert len(asked) == page.count("**[") == 39
    assert len({link for _, link, *_ in asked}) == len(asked)
    assert all(name.endswith(f"#{number}") and len(answer) > 60 for name, _, number, answer in asked)
