"""Complaints about a file of models: where in it, under which key, and in which words."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

    from worker.loaders.marked_yaml import MarkedYaml

Place = tuple[str | int, ...]
"""The keys that lead to something in the file."""

Problem = tuple[Place, str]
"""Where something is wrong, and what."""

MAX_PROBLEMS = 100
MAX_ID_CHARACTERS = 256
_SHOWN_CHARACTERS = 80
_SUGGESTED_FROM = 1000
"""Names that the nearest is looked for among: that takes long, and the nearest of many is nothing near."""
_MAX_SUGGESTIONS = 100


def located(path: Path, document: "MarkedYaml", problems: list[Problem]) -> list[str]:
    """Write problems in the order of their lines, the first hundred."""
    located = sorted((document.line(*place), key_of(place), text) for place, text in problems[:MAX_PROBLEMS])
    lines = [f"{path}:{line}: {key}: {text}" for line, key, text in located]
    more = len(problems) - MAX_PROBLEMS
    return [*lines, f"{path}: and {more} more"] if more > 0 else lines


def key_of(place: Place) -> str:
    """Write a place as ``models[0].device``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return text.removeprefix(".") or "the file"


def problem_of(kind: "type[BaseModel]", above: Place, error: dict[str, Any], nearest: "Nearest") -> Problem:
    """Say what pydantic found wrong below a place."""
    place: Place = (*above, *error["loc"])
    match error["type"]:
        case "value_error":
            # The rules between keys begin with the key that they are about.
            key, _, text = str(error["ctx"]["error"]).partition(": ")
            return (*place, key), text
        case "extra_forbidden" | "invalid_key":
            near = nearest(str(place[-1]), kind.model_fields)
            return place, f"is no known key{near}"
        case "missing":
            return place, "is missing"
        case "model_type":
            return place, f"must be keys and values, not {shown_value(error['input'])}"
        case _:
            text = str(error["msg"])
            return place, f"{text[0].lower()}{text[1:]}, not {shown_value(error['input'])}"


class Nearest:
    """Finds the name that was probably meant; for the first mistakes of a file, as it takes long."""

    def __init__(self) -> None:
        self._left = _MAX_SUGGESTIONS

    def __call__(self, name: str, known: Iterable[str]) -> str:
        """Say which it is. Empty where none is looked for."""
        names = list(known)
        if not self._left or not names or len(names) > _SUGGESTED_FROM or len(name) > MAX_ID_CHARACTERS:
            return ""
        self._left -= 1
        (near,) = difflib.get_close_matches(name, names, n=1, cutoff=0)
        return f"; the nearest is {near!r}"


def shown_value(value: object) -> str:
    """Show a value, but no whole table."""
    if isinstance(value, dict | list) and value:
        return "a list" if isinstance(value, list) else "keys and values"
    text = "null" if value is None else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
