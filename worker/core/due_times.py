"""Due times by key, in a heap that forgets what was removed or set anew. Its owner locks."""

import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

_STALE_KEPT = 64
"""Entries of removed keys that may stay in the heap, beside one for each live key, before it is made anew."""

Key = TypeVar("Key", bound=Hashable)


class DueTimes(Generic[Key]):
    """At most one due time a key, in nanoseconds of the worker's clock. Memory follows the live keys alone."""

    def __init__(self) -> None:
        # All mutable state: the live keys, and a heap of (due, order of setting, key) that may have stale entries.
        self._due: dict[Key, int] = {}
        self._heap: list[tuple[int, int, Key]] = []
        self._orders = itertools.count()

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: Key, due_ns: int) -> bool:
        """Set, or replace, the time of a key. Returns whether it is now the earliest of all."""
        self._due[key] = due_ns
        heapq.heappush(self._heap, (due_ns, next(self._orders), key))
        self._sweep()
        return self.next_ns() == due_ns

    def remove(self, key: Key) -> None:
        """Forget a key; nothing happens if it has no time."""
        if self._due.pop(key, None) is not None:
            self._sweep()

    def next_ns(self) -> int | None:
        """Return the earliest time; None where there is none."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_ns: int) -> Key | None:
        """Take out the earliest key that is due by now, in the order of setting among equals; None where none is."""
        due_ns = self.next_ns()
        if due_ns is None or due_ns > now_ns:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._due[key]
        return key

    def _sweep(self) -> None:
        if len(self._heap) > 2 * len(self._due) + _STALE_KEPT:
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)
