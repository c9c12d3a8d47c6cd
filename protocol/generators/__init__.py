"""What writes the contract in another language: one package a language, found by its folder.

A language's package offers ``generate()``, which returns each file's text by its path from the project's root,
and ``OWNED``, the patterns of paths where only its files may lie. Nothing else has to know of it.
"""

import importlib
import pkgutil
from typing import Protocol, cast


class Language(Protocol):
    """One language's package."""

    OWNED: tuple[str, ...]

    def generate(self) -> dict[str, str]:
        """Return every file's text by its path. The same contract gives the same text."""


def languages() -> list[Language]:
    """Return the package of each language, by name."""
    names = sorted(one.name for one in pkgutil.iter_modules(__path__) if one.ispkg)
    return [cast(Language, importlib.import_module(f"{__name__}.{name}")) for name in names]
