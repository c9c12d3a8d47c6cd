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
    """Return the object on each line that is not empty, with the line's number. TraceError.

    A last line that has no end and is no JSON is passed over, which stderr tells: a worker that was killed leaves one, and
    so does one that still writes.
    """
    for number, line in enumerate(lines, 1):
        text = line.strip("\ufeff \t\r\n")
        if text:
            try:
                found = _object(text, number)
            except TraceError:
                if number == 1 or line.endswith("\n"):
                    raise
                print(f"line {number} is cut short, and passed over", file=sys.stderr)
                return
            yield number, found


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
