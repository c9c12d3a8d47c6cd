"""What a host maps, mapped by a device's process too and kept: copies to and from it go through no slot.

That is a file, which the host may cut short at any time (``TouchGuard`` has the process outlive that), or on Windows a
named section.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

from worker.backends.isolation.guarded_map import GuardedMap
from worker.backends.isolation.section_map import PREFIX, SectionMap
from worker.backends.isolation.touch_guard import TouchGuard
from worker.core.errors import UnsupportedError
from worker.core.sure_lock import SureLock

_KEPT = 64
"""Files and sections that are mapped at once, at most, beside those in use."""


class _FileMap(GuardedMap):
    """One file."""

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size
        own = path.startswith("/proc/")  # the worker's descriptor: a link, and nobody else's to put there
        descriptor = os.open(path, os.O_RDWR | (0 if own else getattr(os, "O_NOFOLLOW", 0)))
        try:
            found = os.fstat(descriptor)
            self._links, self._bytes = found.st_nlink, found.st_size
            super().__init__(descriptor, mmap.mmap(descriptor, size), size)
        except BaseException:
            os.close(descriptor)
            raise

    @property
    def view(self) -> memoryview:
        """The bytes."""
        return memoryview(self._map)

    def check(self) -> None:
        """Raise UnsupportedError where not all of the file is there any more."""
        left = os.fstat(self.descriptor).st_size
        if self.spoiled or left < self.size:
            message = f"{self.path} was cut short from outside: {min(left, self.size)} of {self.size} bytes are left;"
            message += " free the allocation and make it anew"
            raise UnsupportedError(message, path=self.path, size_bytes=self.size, left_bytes=left)

    @property
    def is_freed(self) -> bool:
        """Whether the file was removed, which is kept by those alone who map it, or given up by its maker."""
        found = os.fstat(self.descriptor)
        given_up = not found.st_size or found.st_size > self._bytes
        return self.spoiled or found.st_nlink < self._links or given_up


def _mapped(path: str, size: int) -> _FileMap | SectionMap:
    """Map a file, or the section of that name. OSError or ValueError where it can't be."""
    return SectionMap(path, size) if path.startswith(PREFIX) else _FileMap(path, size)


class SharedMaps:
    """All that is mapped here. Thread-safe."""

    def __init__(self, guard: TouchGuard) -> None:
        self._guard = guard
        self._lock = SureLock()
        # All mutable state: the maps by path, least recently used first. One that a copy uses may not be among them
        # any more: a file may be another by then, and have another map.
        self._maps: dict[str, _FileMap | SectionMap] = {}

    def add(self, path: str, size: int) -> None:
        """Map a file, unless it is mapped. OSError or ValueError where it can't be."""
        with self._lock:
            known = self._maps.get(path)
            if known is not None and known.is_freed and not self._guard.guards(known):
                del self._maps[path]  # a path of the worker's descriptors is used again
                known.close()
            self._known(path, size)

    @contextmanager
    def using(self, path: str, size: int) -> Iterator[memoryview]:
        """Hand out a file's bytes, to copy from or to. UnsupportedError where they are not all there."""
        with self._lock:
            used = self._known(path, size)
            used.check()
            self._guard.begin(used)
        try:
            yield used.view
            used.check()
        finally:
            with self._lock:
                self._guard.end(used)
                if not self._guard.guards(used) and self._maps.get(path) is not used:
                    used.close()

    def prune(self) -> None:
        """Give up what is not in use, and was removed or is one too many."""
        with self._lock:
            unused = [each for each in self._maps.values() if not self._guard.guards(each)]
            for each in unused:
                if each.is_freed or len(self._maps) > _KEPT:
                    del self._maps[each.path]
                    each.close()

    def _known(self, path: str, size: int) -> _FileMap | SectionMap:
        known = self._maps.pop(path, None)
        if known is not None and (known.size != size or known.spoiled):
            if not self._guard.guards(known):
                known.close()
            known = None
        found = self._maps[path] = _mapped(path, size) if known is None else known
        return found
