"""Files as items, read one after another, never more of them than an item at a time: JSON, JSON lines, CSV."""

import codecs
import csv
import sys
from collections.abc import Callable, Iterator
from io import BufferedReader
from typing import Any

import orjson

from worker.core.errors import InvalidRequestError, LimitExceededError, UnsupportedError

_READ_BYTES = 2**16
_SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv",
}  # fmt: skip


def format_of(path: str) -> str:
    """Return the format that a file's name says: what says none is ``binary``."""
    return next((name for suffix, name in _SUFFIXES.items() if path.lower().endswith(suffix)), "binary")


class Source:
    """A file that is read an item at a time, with a bound on an item's own bytes."""

    def __init__(self, file: BufferedReader, path: str, item_bytes: int) -> None:
        self.path = path
        self._file = file
        self._item_bytes = item_bytes
        # All mutable state: the offset of what was read up to, where the present item began, and its number.
        self.consumed = 0
        self._began = 0
        self.items = 0

    def seek(self, offset: int, items: int) -> None:
        """Go on at an item."""
        self._file.seek(offset)
        self.consumed = self._began = offset
        self.items = items

    def next_item(self) -> None:
        """Note that an item is whole."""
        self._began = self.consumed
        self.items += 1

    def read(self, size: int = _READ_BYTES) -> bytes:
        """Read on. LimitExceededError where one item is longer than it may be."""
        self._check(_READ_BYTES)
        return self._taken(self._file.read(min(size, _READ_BYTES)))

    def readline(self) -> bytes:
        """Read a line, with its end; nothing at the end of the file."""
        found = self._taken(self._file.readline(self._item_bytes + 1))
        self._check(0)
        return found

    def _taken(self, found: bytes) -> bytes:
        """Count what was read, and return it without the byte order mark that some write at the start of a text in UTF-8."""
        first, self.consumed = self.consumed == 0, self.consumed + len(found)
        return found.removeprefix(codecs.BOM_UTF8) if first else found

    def _check(self, spare: int) -> None:
        if self.consumed - self._began > self._item_bytes + spare:
            message = f"{self.path}: item {self.items + 1} is longer than {self._item_bytes} bytes,"
            message += " a sixteenth of the window: read, it might not fit; ask for a larger window_bytes"
            raise LimitExceededError(message, limit_bytes=self._item_bytes)

    def broken(self, why: object) -> InvalidRequestError:
        """Return the error for an item that can't be read."""
        return InvalidRequestError.at(f"{self.path}, item {self.items + 1}", str(why))


Format = Callable[[Source, "dict[str, Any] | None", str], Iterator[Any]]
"""Reads items on from a position; each is whole in the source when it is given. The last is where or how, as asked."""


def _json_lines(source: Source, after: dict[str, Any] | None, _at: str) -> Iterator[Any]:
    if after is not None:
        source.seek(after["offset"], after["items"])
    while line := source.readline():
        if not line.strip():
            continue
        try:
            item = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise source.broken(error) from None
        source.next_item()
        yield item


def _csv(source: Source, after: dict[str, Any] | None, at: str) -> Iterator[Any]:
    def lines() -> Iterator[str]:
        while line := source.readline():
            yield line.decode()

    delimiter = at or ("\t" if source.path.lower().endswith(".tsv") else ",")
    try:
        names = next(csv.reader(lines(), delimiter=delimiter), [])
        if after is None:
            source.next_item()
            source.items = 0
        else:
            source.seek(after["offset"], after["items"])
        for row in csv.DictReader(lines(), names, delimiter=delimiter):
            source.next_item()
            yield row
    except (csv.Error, UnicodeDecodeError) as error:
        raise source.broken(error) from None


def _json(source: Source, after: dict[str, Any] | None, at: str) -> Iterator[Any]:
    try:
        import ijson  # noqa: PLC0415 - only for who reads JSON
    except ImportError:
        message = "a JSON file is read by ijson, which is not installed: pip install memory-worker[stores]"
        raise UnsupportedError(message) from None
    try:
        for item in ijson.items(source, at or "item", use_float=True, buf_size=_READ_BYTES):
            source.next_item()
            if after is None or source.items > after["items"]:
                yield item
    except ijson.JSONError as error:
        raise source.broken(error) from None


FORMATS: dict[str, Format] = {"jsonl": _json_lines, "csv": _csv, "json": _json}


def object_bytes(item: Any, size_of: Callable[[Any], int] = sys.getsizeof) -> int:
    """Return what an item takes as Python objects: at most that, for small numbers and equal keys are shared."""
    total, left = 0, [item]
    while left:
        each = left.pop()
        total += size_of(each)
        if isinstance(each, dict):
            left += each.keys()
            left += each.values()
        elif isinstance(each, list):
            left += each
    return total
