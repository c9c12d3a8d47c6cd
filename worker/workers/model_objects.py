"""Models that the operator's own code makes: Python objects, whose bytes only the process as a whole shows."""

import gc
import threading
from collections.abc import Callable

from worker.core.records import Block


class ModelObjects:
    """Holds them by handle. What one takes is what the process grew by, so it is only about right."""

    def __init__(self, process_bytes: Callable[[], int | None]) -> None:
        self._process_bytes = process_bytes
        self._measuring = threading.Lock()
        """Held while one is made or dropped, so that no two are mistaken for one another."""
        # All mutable state: the objects by handle.
        self._objects: dict[str, object] = {}

    def load(self, handle: str, make: Callable[[], object]) -> Block:
        """Make one, and measure it; the maker's error goes on, and nothing is kept."""
        with self._measuring:
            before = self._process_bytes()
            value = make()
            after = self._process_bytes()
            self._objects[handle] = value
            return Block(0 if before is None or after is None else max(0, after - before))

    def get(self, handle: str) -> object:
        """Return one."""
        return self._objects[handle]

    def unload(self, handle: str) -> int | None:
        """Drop one. Returns what the process shrank by; a leaser who kept it keeps its memory too."""
        with self._measuring:
            before = self._process_bytes()
            del self._objects[handle]
            gc.collect()
            after = self._process_bytes()
            return None if before is None or after is None else max(0, before - after)

    def live(self) -> frozenset[str]:
        """Return the handles of all."""
        return frozenset(self._objects)
