"""Memory that a worker and a device's process both see: slots for bulk data, and behind them the page of figures.

Linux: an anonymous file that is inherited. Windows: a named map. Where there is neither, or asked for: a temporary file.
"""

import itertools
import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any, Self

from worker.backends.isolation.figures_page import PAGE_BYTES
from worker.core.sure_lock import SureCondition
from worker.core.system_calls import file_in_memory

SLOT_BYTES = 2 * 2**20
"""A copy is cut into pieces of this size, so that one is on its way while the next is filled."""

SLOTS = 8
_SLOTS_BYTES = SLOTS * SLOT_BYTES
_BYTES = _SLOTS_BYTES + PAGE_BYTES


class Slots:
    """One end of it. The worker's end hands slots out; the device's process only looks into them."""

    def __init__(self, mapping: mmap.mmap, place: dict[str, Any], fd: int | None = None) -> None:
        self.place = place
        """How the other process finds it."""
        self.inherited = () if fd is None else (fd,)
        """Descriptors that the other process has to be given."""
        self._fd = fd
        self._view = memoryview(mapping)
        self.page = self._view[_SLOTS_BYTES:]
        """Where figures are; whichever process has them there says which it is."""
        self._map = mapping
        self._given_back = SureCondition()
        self.lives: Iterator[int] = itertools.repeat(0)
        """A number for each process, which none before had; 0 for one that keeps no figures."""
        # All mutable state: the slots that no caller uses, the warmest last.
        self._free = list(range(SLOTS))

    @classmethod
    def create(cls, *, as_file: bool = False, figures: bool = False) -> Self:
        """Make the memory. OSError if the system has none.

        ``figures``: whether processes keep their devices' on its page, one process at a time.
        """
        made = cls._create(as_file=as_file)
        if figures:
            made.lives = itertools.count(1)
        return made

    @classmethod
    def _create(cls, *, as_file: bool) -> Self:
        fd = None if as_file else file_in_memory("memory-worker-slots")
        if fd is not None:
            with ExitStack() as undo:
                undo.callback(os.close, fd)
                os.ftruncate(fd, _BYTES)
                made = cls(mmap.mmap(fd, _BYTES), {"fd": fd}, fd)
                undo.pop_all()
                return made
        if sys.platform == "win32" and not as_file:
            name = f"memory-worker-slots-{os.urandom(16).hex()}"
            return cls(mmap.mmap(-1, _BYTES, tagname=name), {"name": name})
        import tempfile  # noqa: PLC0415 - 8 ms that neither Linux nor Windows needs

        fd, path = tempfile.mkstemp(prefix="memory-worker-slots-")
        with ExitStack() as undo, os.fdopen(fd, "r+b") as file:
            undo.callback(os.unlink, path)
            file.truncate(_BYTES)
            made = cls(mmap.mmap(fd, _BYTES), {"path": path})
            undo.pop_all()
            return made

    @classmethod
    def open(cls, place: dict[str, Any]) -> Self:
        """Map what another process made."""
        if "fd" in place:
            return cls(mmap.mmap(place["fd"], _BYTES), place)
        if sys.platform == "win32" and "name" in place:
            return cls(mmap.mmap(-1, _BYTES, tagname=place["name"]), place)
        with open(place["path"], "r+b") as file:  # noqa: PTH123 - pathlib is 5 ms that a start need not pay
            return cls(mmap.mmap(file.fileno(), _BYTES), place)

    def take(self, *, wait_s: float) -> int | None:
        """Return a slot; None where there was none within this time.

        Who holds one already must not wait for another: all could.
        """
        with self._given_back:
            if not self._free:
                self._given_back.wait(wait_s)
            return self._free.pop() if self._free else None

    def give_back(self, slot: int) -> None:
        """Let others use a slot."""
        with self._given_back:
            self._free.append(slot)
            self._given_back.notify()

    def view(self, slot: int, length: int) -> memoryview:
        """Return the first bytes of a slot. ValueError for what is not in it."""
        if not (0 <= slot < SLOTS and 0 <= length <= SLOT_BYTES):
            raise ValueError(slot, length)
        return self._view[slot * SLOT_BYTES : slot * SLOT_BYTES + length]

    @property
    def memory(self) -> memoryview:
        """All slots."""
        return self._view[:_SLOTS_BYTES]

    def close(self) -> None:
        """Give the memory up; whoever still looks at it keeps it."""
        self.page.release()
        self._view.release()
        try:
            self._map.close()
        except BufferError:  # a copy that was cut short still looks at it
            return
        finally:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None
            if "path" in self.place:
                with suppress(FileNotFoundError):
                    os.unlink(self.place["path"])  # noqa: PTH108 - as above
