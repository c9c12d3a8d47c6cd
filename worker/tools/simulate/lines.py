"""Lines of a trace: JSON objects, and the sentence for one that is not what it should be."""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from protocol.vocabulary import INT64_MAX


class TraceError(ValueError):
    """A trace that cannot be replayed; the message names the line."""


def at(number: int, text: str) -> str:
    """Return a message with the line that it is about."""
    return f"line {number}: {text}"


def objects(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Return the object on each line that is not empty, with the line's number. TraceError."""
    for number, line in enumerate(lines, 1):
        text = line.strip("\ufeff \t\r\n")
        if text:
            yield number, _object(text, number)


def whole(lines: TextIO) -> Iterator[str]:
    """Return the lines of a file, but for half a last one, which stderr tells: a worker that was killed, or still writes, leaves it."""
    for number, line in enumerate(lines, 1):
        if number > 1 and line.startswith("{") and not line.endswith("\n"):
            try:
                json.loads(line)
            except (ValueError, RecursionError):
                sys.stderr.write(f"line {number} is cut short, and passed over\n")
                return
        yield line


def first_object(lines: TextIO) -> dict[str, Any]:
    """Return the first object of a file, and go back to its beginning. Empty where there is none. TraceError."""
    found = next((line for _, line in objects(lines)), {})
    lines.seek(0)
    return found


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TraceError(at(number, f"not JSON: {error}")) from None
    if not isinstance(found, dict):
        raise TraceError(at(number, "not a JSON object"))
    return found


def integer(value: object, number: int, name: str, lowest: int) -> int:
    """Return a value that must be an integer of at least ``lowest``. TraceError."""
    if type(value) is not int or not lowest <= value <= INT64_MAX:  # a bool is no size
        raise TraceError(at(number, f"{name} must be an integer of at least {lowest}, not {value!r}"))
    return value
