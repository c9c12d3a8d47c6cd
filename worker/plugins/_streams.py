"""Files larger than memory, in windows: ``with host.stream(path) as windows: for window in windows:``.

A window is a buffer of the worker's: counted in the ledger, smaller where there is less headroom, and back before the
next is read.
"""

import hashlib
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from protocol.record import Record
from protocol.vocabulary import PressureLevel
from worker.core.cancellation import CancelToken
from worker.core.clock import Clock
from worker.core.errors import InvalidRequestError, LimitExceededError, OutOfMemoryError
from worker.core.records import HOST, no_report
from worker.plugins._buffer_views import Buffer
from worker.plugins._buffers import Buffers
from worker.plugins._stream_formats import FORMATS, Source, format_of, object_bytes
from worker.stream.work import Call

WINDOW_BYTES = 512 * 2**20
LEAST_BYTES = 64 * 2**10
_ITEM_SHARE = 16
"""An item may be so many times shorter than a window: its text takes more as objects, up to 21 times (``{},``)."""

_SHARES = {PressureLevel.MODERATE: 2, PressureLevel.HIGH: 4, PressureLevel.CRITICAL: 16}
"""Under pressure a window is so many times smaller."""

_HEADROOM_SHARE = 2
"""A window takes at most half of what there is."""

_LOOKS, _LOOK_SECONDS = 10, 0.1
"""How often, and how far apart, it is looked whether a critical level has passed, before each window."""

_CHECKED_ITEMS = 256
_HEAD_BYTES = 4096
_NO_ITEM = object()


class Window(Record):
    """A next part of a file, in memory until the next is asked for."""

    items: list[Any]
    """What was read: values of JSON, or a dict a row of CSV. Empty for a binary file, and once the next window is asked for."""
    data: memoryview
    """A binary file's bytes; empty for others. They are the next window's afterwards: copy what is to be kept."""
    position: dict[str, Any]
    """Where the next window begins, as JSON can say it: ``host.stream(path, after=position)`` goes on there."""


class _Reading(Record):
    """One file that is being read."""

    source: Source
    file: BufferedReader
    kind: str
    size_bytes: int
    head: dict[str, Any]
    window_bytes: int
    token: CancelToken
    report: Callable[[int, int], None]

    def position(self, offset: int, items: int) -> dict[str, Any]:
        """Return where the next window begins."""
        return {"format": self.kind, "offset": offset, "items": items, **self.head}

    def tell(self, offset: int) -> None:
        """Tell of the progress."""
        self.report(min(offset, self.size_bytes), self.size_bytes)


class Streams:
    """``host.stream``."""

    def __init__(
        self,
        buffers: Buffers,
        clock: Clock,
        available_bytes: Callable[[], int | None],
        level: Callable[[], PressureLevel],
    ) -> None:
        self._buffers = buffers
        self._clock = clock
        self._available_bytes = available_bytes
        self._level = level

    @contextmanager
    def stream(
        self,
        path: str | Path,
        *,
        format: str | None = None,  # noqa: A002 - what it is called everywhere
        at: str = "",
        window_bytes: int = WINDOW_BYTES,
        after: dict[str, Any] | None = None,
        call: Call | None = None,
    ) -> Iterator[Iterator[Window]]:
        """Open a file to be read in windows of at most so many bytes, items counted as the objects they become.

        ``format`` is ``json``, ``jsonl``, ``csv`` or ``binary``; left out, the file's name says it. ``at`` is where a
        JSON file's items lie, in ijson's words (left out: ``item``, an array's elements), or a CSV file's delimiter.
        ``call`` has its progress told, in bytes of the file, and ends the reading when it is cancelled.

        Raises:
            ValueError: the format or the window is none.
            OSError: the file can't be read.
            InvalidRequestError: an item can't be read, or ``after`` is no position in this file.
            LimitExceededError: an item is larger than a window may be.
            OutOfMemoryError: there is no headroom for the smallest window, 64 KiB.
            UnsupportedError: ijson, which reads JSON files, is not installed.
        """
        name = str(path)
        kind = format or format_of(name)
        if kind not in {*FORMATS, "binary"}:
            raise ValueError(f"the format {kind!r} is not known; there is binary, {', '.join(FORMATS)}")
        if window_bytes < LEAST_BYTES:
            raise ValueError(f"a window of {window_bytes} bytes; it has at least {LEAST_BYTES}")
        with Path(path).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if after is not None:
                _check_position(after, name, kind, size, file)
            head_bytes = min(size, _HEAD_BYTES)
            reading = _Reading(
                Source(file, name, window_bytes // _ITEM_SHARE),
                file,
                kind,
                size,
                {"head_bytes": head_bytes, "head_sha256": _digest(file, head_bytes)},
                window_bytes,
                CancelToken(self._clock.now_ns) if call is None else call.token,
                no_report if call is None else call.report,
            )
            file.seek(0)
            windows = self._binary(reading, after) if kind == "binary" else self._items(reading, after, at)
            with closing(windows):
                yield windows

    def _items(
        self, reading: _Reading, after: dict[str, Any] | None, at: str
    ) -> Generator[Window, None, None]:
        source = reading.source
        read = FORMATS[reading.kind](source, after, at)
        item = next(read, _NO_ITEM)
        size = object_bytes(item)
        while item is not _NO_ITEM:
            with self._window(reading, size) as window:
                found, left = list[Any](), window.size_bytes
                while item is not _NO_ITEM and size <= left:
                    found.append(item)
                    left -= size
                    position = reading.position(source.consumed, source.items)
                    if not source.items % _CHECKED_ITEMS:
                        reading.token.check()
                    item = next(read, _NO_ITEM)
                    size = object_bytes(item)
                yield Window(found, memoryview(b""), position)
                found.clear()  # whoever still has the window has its list, and not what was in it
            reading.tell(position["offset"])

    def _binary(self, reading: _Reading, after: dict[str, Any] | None) -> Generator[Window, None, None]:
        offset = reading.file.seek(0 if after is None else after["offset"])
        while offset < reading.size_bytes:
            with self._window(reading, 0) as window:
                count = reading.file.readinto(window.memory)
                if not count:  # it was cut short meanwhile
                    return
                offset += count
                data = window.memory[:count]
                yield Window([], data, reading.position(offset, 0))
                with suppress(BufferError):  # an array over it keeps it, and its memory
                    data.release()
            reading.tell(offset)

    @contextmanager
    def _window(self, reading: _Reading, item_bytes: int) -> Iterator[Buffer]:
        """Lend the memory of a window: what is asked for, less under pressure, enough for one item at least."""
        if item_bytes > reading.window_bytes:
            message = (
                f"{reading.source.path}: item {reading.source.items} takes {item_bytes} bytes as objects,"
            )
            message += f" and a window {reading.window_bytes} at most; ask for a larger window_bytes"
            raise LimitExceededError(message, requested_bytes=item_bytes, limit_bytes=reading.window_bytes)
        self._wait_for_relief(reading.token)
        least = max(item_bytes, LEAST_BYTES)
        size, available = reading.window_bytes // _SHARES.get(self._level(), 1), self._available_bytes()
        if (
            available is not None
        ):  # what is kept of windows before is given up for it, where it is of another size
            size = min(size, (available + self._buffers.idle_bytes(HOST)) // _HEADROOM_SHARE)
        size = max(size, least)
        with ExitStack() as stack:
            while True:
                lending = self._buffers.take(size, device=HOST, fallback=None, token=reading.token)
                try:
                    buffer = stack.enter_context(lending)
                    break
                except (OutOfMemoryError, LimitExceededError):  # others took what there was
                    if size == least:
                        raise
                    size = max(size // 2, least)
            yield buffer

    def _wait_for_relief(self, token: CancelToken) -> None:
        """Let others go first while there is least left, for a second at most."""
        token.check()
        for _ in range(_LOOKS):
            if self._level() is not PressureLevel.CRITICAL:
                return
            self._clock.wait(_LOOK_SECONDS, token)


def _check_position(
    after: dict[str, Any], path: str, kind: str, size_bytes: int, file: BufferedReader
) -> None:
    """Raise InvalidRequestError where a position is not one in this file, which may have grown since."""
    try:
        offset, items, head = int(after["offset"]), int(after["items"]), int(after["head_bytes"])
        digest, of_kind = str(after["head_sha256"]), after["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequestError.at("after", f"it is no position of a window: {error!r}") from None
    there = 0 <= offset <= size_bytes and items >= 0 and 0 <= head <= _HEAD_BYTES
    if not there or of_kind != kind or _digest(file, head) != digest:
        message = (
            f"{path} is another file than the one of this position, or read as another format: begin anew"
        )
        raise InvalidRequestError.at("after", message)


def _digest(file: BufferedReader, size_bytes: int) -> str:
    """Return what a file is known again by: the digest of its first bytes."""
    file.seek(0)
    return hashlib.sha256(file.read(size_bytes)).hexdigest()
