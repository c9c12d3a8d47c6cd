"""Arrays on their way into an engine's process and back: through memory that both see, never as text.

Whoever sends copies them into a segment of its own; whoever receives looks at it there, until the call is over.
Linux: an anonymous file, which the other opens by its owner's descriptor. Windows: a named map. Elsewhere: a
temporary file.
"""

import mmap
import os
import sys
from contextlib import ExitStack, suppress
from typing import Any

from worker.core.sure_lock import SureLock
from worker.core.system_calls import file_in_memory

KEPT_BYTES = 64 * 2**20
"""The largest segment that is kept for the next call: making one costs as much as two copies of what it holds."""

_ALIGNMENT = 64
_MAPS = 2
"""Of the other's segments, that are kept: it keeps one, and makes others where calls come at once."""


class Segment:
    """One end of shared memory."""

    def __init__(self, mapping: mmap.mmap, place: dict[str, Any], fd: int | None = None) -> None:
        self.place = place
        """How the other process finds it."""
        self.size = len(mapping)
        self.map = mapping
        self._fd = fd

    @classmethod
    def create(cls, size: int) -> "Segment":
        """Make one. OSError if the system has none."""
        name = f"memory-worker-arrays-{os.urandom(16).hex()}"
        place: dict[str, Any] = {"name": name, "size": size}
        if sys.platform == "win32":
            return cls(mmap.mmap(-1, size, tagname=name), place)
        with ExitStack() as undo:
            fd = file_in_memory(name) if os.path.isdir("/proc/self/fd") else None  # noqa: PTH112 - as below
            if fd is not None:
                path = f"/proc/{os.getpid()}/fd/{fd}"
            else:
                import tempfile  # noqa: PLC0415 - 8 ms that neither Linux nor Windows needs

                fd, path = tempfile.mkstemp(prefix=name)
                place["temporary"] = True
                undo.callback(os.unlink, path)
            undo.callback(os.close, fd)
            os.ftruncate(fd, size)
            made = cls(mmap.mmap(fd, size), place | {"path": path}, fd)
            undo.pop_all()
            return made

    @classmethod
    def open(cls, place: dict[str, Any]) -> "Segment":
        """Map what the other process made."""
        if sys.platform == "win32":
            return cls(mmap.mmap(-1, place["size"], tagname=place["name"]), place)
        with open(place["path"], "r+b") as file:  # noqa: PTH123 - no file: a descriptor of another process
            return cls(mmap.mmap(file.fileno(), place["size"]), place)

    def close(self) -> None:
        """Give it up; whoever still looks at it keeps it."""
        with suppress(BufferError):
            self.map.close()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            if self.place.get("temporary"):
                with suppress(FileNotFoundError):
                    os.unlink(self.place["path"])  # noqa: PTH108 - as above


class Segments:
    """The segments that one process sends through, and its maps of the other's. Thread-safe."""

    def __init__(self) -> None:
        self._lock = SureLock()
        # All mutable state: what is free, what is under way by place, and maps of the other's segments.
        self._free: list[Segment] = []
        self._under_way: dict[str, Segment] = {}
        self._maps: dict[str, Segment] = {}

    def send(self, value: Any) -> tuple[Any, dict[str, Any] | None]:
        """Return a value without its arrays, and what tells the other where they are; None where it has none."""
        found: list[tuple[list[str | int], str, list[int], memoryview]] = []
        rest = _without(value, [], found)
        if not found:
            return value, None
        items, end = list[dict[str, Any]](), 0
        for path, dtype, shape, content in found:
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            items.append(
                {"at": path, "dtype": dtype, "shape": shape, "start": start, "bytes": content.nbytes}
            )
            end = start + content.nbytes
        segment = self._take(max(1, end))
        arrays = {"place": segment.place, "items": items}
        try:
            for (_, _, _, content), item in zip(found, items, strict=True):
                start = item["start"]
                segment.map[start : start + content.nbytes] = content
        except BaseException:
            self.done(arrays)
            raise
        return rest, arrays

    def receive(self, value: Any, arrays: dict[str, Any] | None, *, copied: bool) -> Any:
        """Put arrays into their places; those that are not ``copied`` are the other's memory, for as long as the call."""
        if arrays is None:
            return value
        view = memoryview(self._map(arrays["place"]).map)
        for item in arrays["items"]:
            part = view[item["start"] : item["start"] + item["bytes"]]
            if copied:
                part = memoryview(bytearray(part))
            array = _array_of(part, item["dtype"], item["shape"])
            if not item["at"]:
                return array
            inside = value
            for key in item["at"][:-1]:
                inside = inside[key]
            inside[item["at"][-1]] = array
        return value

    def done(self, arrays: dict[str, Any] | None) -> None:
        """Take a segment back that the other is done with."""
        if arrays is None:
            return
        with self._lock:
            segment = self._under_way.pop(arrays["place"]["name"], None)
            closing = [] if segment is None else [segment]
            if segment is not None and segment.size <= KEPT_BYTES:  # of two the larger is kept
                *closing, largest = sorted([*self._free, segment], key=lambda each: each.size)
                self._free = [largest]
        for each in closing:
            each.close()

    def clear(self) -> None:
        """Give up what is kept for the next call."""
        with self._lock:
            closing, self._free = [*self._free, *self._maps.values()], []
            self._maps = {}
        for each in closing:
            each.close()

    def _take(self, size: int) -> Segment:
        with self._lock:
            segment = next((each for each in self._free if each.size >= size), None)
            if segment is not None:
                self._free.remove(segment)
        if segment is None:
            segment = Segment.create(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        with self._lock:
            self._under_way[segment.place["name"]] = segment
        return segment

    def _map(self, place: dict[str, Any]) -> Segment:
        with self._lock:
            segment = self._maps.get(place["name"])
            if segment is None:
                segment = Segment.open(place)
                if segment.size <= KEPT_BYTES:
                    self._maps[place["name"]] = segment
                for oldest in list(self._maps)[:-_MAPS]:
                    self._maps.pop(oldest).close()
            return segment


def _without(value: Any, at: list[str | int], found: list[Any]) -> Any:
    """Return a value without its arrays, which are added to ``found``."""
    if isinstance(value, dict):
        return {key: _without(each, [*at, key], found) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without(each, [*at, index], found) for index, each in enumerate(value)]
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray) and not value.dtype.hasobject:
        whole = numpy.ascontiguousarray(value)
        content = memoryview(whole.reshape(-1).view(numpy.uint8)) if whole.size else memoryview(b"")
        found.append((at, value.dtype.str, list(value.shape), content))
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        content = memoryview(value).cast("B")
        found.append((at, "bytes", [content.nbytes], content))
        return None
    return value


def _array_of(part: memoryview, dtype: str, shape: list[int]) -> Any:
    if dtype == "bytes":
        return part
    import numpy as np  # noqa: PLC0415 - only where an array of its was sent

    return np.frombuffer(part, dtype).reshape(shape)
