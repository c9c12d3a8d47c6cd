"""Complaints about a file of models: where in it, under which key, and in which words."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from worker.core.text import nearest

if TYPE_CHECKING:
    from pydantic import BaseModel

    from worker.loaders.marked_yaml import MarkedYaml

Place = tuple[str | int, ...]
"""The keys that lead to something in the file."""

Problem = tuple[Place, str]
"""Where something is wrong, and what."""

_TEXT_WANTED = frozenset({"string_type", "literal_error", "path"})
"""Complaints of pydantic's, and of ours, about what may be right as it is written."""

MAX_PROBLEMS = 100
MAX_ID_CHARACTERS = 256
_SHOWN_CHARACTERS = 80
_ALIKE = 0.6
"""Less, and a key is no other one mistyped."""
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


Entry = TypeVar("Entry", bound="BaseModel")


def entry_of(
    kind: type[Entry], place: Place, said: Any, document: "MarkedYaml", nearest: "Nearest"
) -> tuple[Entry | None, list[Problem]]:
    """Read what stands at a place; None, and what is wrong with it, for what is no such entry.

    Where text is wanted, the text that is written counts: ``off`` and ``2024-01-01`` are names, too.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - costs start-up time

    try:
        return kind.model_validate(said), []
    except ValidationError as error:
        faults = error.errors(include_url=False)
    mended = copy.deepcopy(said)
    for each in faults:
        text = document.written(*place, *each["loc"])
        if each["type"] in _TEXT_WANTED and each["loc"] and text is not None:
            _put(mended, each["loc"], text)
    try:
        return kind.model_validate(mended), []
    except ValidationError as error:
        faults = error.errors(include_url=False)
    return None, [problem_of(kind, place, dict(each), nearest, document) for each in faults]


def _put(said: Any, loc: tuple[int | str, ...], text: str | list[str]) -> None:
    for step in loc[:-1]:
        said = said[step]
    said[loc[-1]] = text


def problem_of(
    kind: "type[BaseModel]", above: Place, error: dict[str, Any], nearest: "Nearest", document: "MarkedYaml"
) -> Problem:
    """Say what pydantic found wrong below a place."""
    place: Place = (*above, *error["loc"])
    match error["type"]:
        case "value_error":
            # The rules between keys begin with the key that they are about.
            key, _, text = str(error["ctx"]["error"]).partition(": ")
            return (*place, key), text
        case "extra_forbidden" | "invalid_key":
            near = nearest(str(place[-1]), kind.model_fields, alike=_ALIKE)
            return place, f"is no known key{near}"
        case "missing":
            return place, "is missing"
        case "model_type":
            such = (
                ", such as {path: …}"
                if isinstance(error["input"], str) and "path" in kind.model_fields
                else ""
            )
            return place, f"must be keys and values{such}, not {shown_value(error['input'])}"
        case _:
            text, value = str(error["msg"]), error["input"]
            written = None if isinstance(value, str) else document.written(*place)
            shown = written[:_SHOWN_CHARACTERS] if isinstance(written, str) else shown_value(value)
            known = kind.model_fields.get(str(place[-1]))
            if error["type"] == "string_pattern_mismatch" and known is not None and known.examples:
                text = f"must be such as {known.examples[0]}"  # a pattern is nothing to read
            return place, f"{text[0].lower()}{text[1:]}, not {shown}"


class Nearest:
    """Finds the name that was probably meant; for the first mistakes of a file, as it takes long."""

    def __init__(self) -> None:
        self._left = _MAX_SUGGESTIONS

    def __call__(self, name: str, known: Iterable[str], *, alike: float = 0) -> str:
        """Say which it is; where none is so much ``alike`` (of 1), which there are. Empty where none is looked for."""
        names = list(known)
        if not self._left or not names or len(names) > _SUGGESTED_FROM or len(name) > MAX_ID_CHARACTERS:
            return ""
        self._left -= 1
        near = nearest(name, names, alike)
        return f"; the nearest is {near!r}" if near else f"; there are {', '.join(names)}"


def shown_value(value: object) -> str:
    """Show a value, but no whole table."""
    if isinstance(value, dict | list) and value:
        return "a list" if isinstance(value, list) else "keys and values"
    text = "null" if value is None else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
