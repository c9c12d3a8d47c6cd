"""Touched buffers that are kept for reuse, where a size is seen to come and go.

A free gives its pages back at once unless the same size was asked for again within two seconds of
such a free before: then that size is churning, and its next free is kept. What is kept and not
reused for two seconds goes back too. So a single free is always a real one, and a loop pays for
fresh pages (120-470 ms/GiB measured) only once, then for zeroing (25-45 ms/GiB).
"""

from collections.abc import Callable

from worker.backends.host_memory import AnonymousBuffer
from worker.backends.size_churn import KEEP_NS, SizeChurn
from worker.core.sure_lock import SureLock

MIN_BYTES = 2**20
"""Below this, mapping fresh pages costs less than keeping a ledger."""


class BufferPool:
    """Bounded by ``max_bytes``; thread-safe."""

    def __init__(self, max_bytes: int, now_ns: Callable[[], int]) -> None:
        self.max_bytes = max_bytes
        self._now_ns = now_ns
        self._lock = SureLock()
        # All mutable state: the buffers kept, oldest first, and which sizes churn.
        self._kept: list[tuple[int, AnonymousBuffer]] = []
        self._churn = SizeChurn(now_ns)
        self.cached_bytes = 0

    def take(self, actual_bytes: int) -> AnonymousBuffer | None:
        """Return a kept buffer of exactly this size, newest first: its pages are the warmest."""
        if actual_bytes < MIN_BYTES:
            return None
        with self._lock:
            for index in range(len(self._kept) - 1, -1, -1):
                if self._kept[index][1].actual_bytes == actual_bytes:
                    _, buffer = self._kept.pop(index)
                    self.cached_bytes -= actual_bytes
                    return buffer
            self._churn.asked(actual_bytes)
            return None

    def offer(self, buffer: AnonymousBuffer) -> bool:
        """Keep a buffer that is being freed, if its size is churning and there is headroom."""
        size = buffer.actual_bytes
        if size < MIN_BYTES or not buffer.touched:
            return False
        with self._lock:
            if not self._churn.freed(size) or self.cached_bytes + size > self.max_bytes:
                return False
            self._kept.append((self._now_ns(), buffer))
            self.cached_bytes += size
            return True

    def drop(self) -> int:
        """Give everything up. Returns the bytes that went back."""
        with self._lock:
            dropped, self._kept = self._kept, []
            self._churn.settle_all()
            self.cached_bytes = 0
        return _close_all(dropped)

    def drop_idle(self) -> int:
        """Give up what was not reused in time, and forget that its size was churning."""
        with self._lock:
            limit = self._now_ns() - KEEP_NS
            idle = [entry for entry in self._kept if entry[0] < limit]
            self._kept = self._kept[len(idle) :]
            for _, buffer in idle:
                self.cached_bytes -= buffer.actual_bytes
                self._churn.settle(buffer.actual_bytes)
        return _close_all(idle)


def _close_all(entries: list[tuple[int, AnonymousBuffer]]) -> int:
    return sum(buffer.close() or 0 for _, buffer in entries)
