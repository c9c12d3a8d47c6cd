"""A model's ``params`` as its loader reads them: each is checked, and one that is not known is refused by name."""

from collections.abc import Iterable
from typing import Any

from worker.core.errors import ModelLoadFailedError
from worker.core.models import ModelSpec
from worker.core.text import nearest, size_bytes
from worker.loaders.base import load_failed


def unknown(spec: ModelSpec, place: str, name: str, what: str, known: Iterable[str]) -> ModelLoadFailedError:
    """Make the error for one of the ``params``, at this place, that is not known; it names the nearest that is."""
    known = list(known)
    near = nearest(name, known)
    there = f"there are {', '.join(known)}" if known else "it has none: leave it out"
    hint = f"did you mean {near!r}?" if near else there
    return load_failed(spec, f"{place}{name} is no {what}; {hint}")


def text_of(value: object) -> str:
    """Return an option as libraries read it that take texts alone: 1 and 0 for yes and no."""
    return str(int(value)) if isinstance(value, bool) else str(value)


class Params:
    """What is declared, taken one by one; ``check`` refuses what is left over."""

    def __init__(self, spec: ModelSpec, loader: str) -> None:
        self._spec = spec
        self._loader = loader
        self._given = dict(spec.params)
        # Mutable: the names that were asked for.
        self._known: list[str] = []

    def whole(self, name: str, least: int, most: int, otherwise: int = 0) -> int:
        """Take a whole number."""
        value = self._take(name, otherwise)
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(name, value, f"a whole number from {least} to {most}")
        return value

    def size(self, name: str) -> int:
        """Take a size in bytes, as ``256MiB`` or a number; 0 where it is not there."""
        value = self._take(name, 0)
        try:
            found = size_bytes(value) if isinstance(value, str) else value
        except ValueError:
            found = None
        if type(found) is not int or not 0 <= found < 2**63:
            raise self._wrong(name, value, "a size in bytes, as 256MiB")
        return found

    def flag(self, name: str, *, otherwise: bool) -> bool:
        """Take a yes or no."""
        value = self._take(name, otherwise)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def word(self, name: str, words: Iterable[str], otherwise: str | None) -> Any:
        """Take one of some words; YAML's ``on`` and ``off`` are words here."""
        value = self._take(name, otherwise)
        value = {True: "on", False: "off"}[value] if isinstance(value, bool) else value
        words = tuple(words)
        if value is not otherwise and value not in words:
            raise self._wrong(name, value, f"one of {', '.join(words)}")
        return value

    def texts(self, name: str) -> dict[str, str]:
        """Take texts or numbers by name."""
        value = self._take(name, {})
        if not isinstance(value, dict) or not all(
            isinstance(each, str | int | float) for each in value.values()
        ):
            raise self._wrong(name, value, "texts or numbers by name")
        return {str(key): text_of(each) for key, each in value.items()}

    def whatever(self, name: str, otherwise: Any) -> Any:
        """Take what its reader checks."""
        return self._take(name, otherwise)

    def check(self) -> None:
        """Refuse what no one asked for. ModelLoadFailedError."""
        for name in self._given:
            if name not in self._known:
                raise unknown(
                    self._spec, "params.", name, f"option of the loader {self._loader}", self._known
                )

    def _take(self, name: str, otherwise: Any) -> Any:
        self._known.append(name)
        return self._given.get(name, otherwise)

    def _wrong(self, name: str, value: Any, wanted: str) -> Exception:
        return load_failed(self._spec, f"params.{name} is to be {wanted}, not {str(value)[:80]!r}")
