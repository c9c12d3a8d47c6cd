"""Requests of a gateway that are under way and may give memory back: what was asked for after them may count on it."""

import itertools
from typing import Any
from weakref import WeakKeyDictionary

from worker.core.cancellation import CancelToken, wait_for_change
from worker.core.sure_lock import SureCondition

_GIVE_BACK = frozenset({
    "memory.clear", "memory.deallocate", "memory.defragment", "memory.model_optimize", "memory.optimize",
    "memory.released", "memory.set_limits", "memory.transfer", "memory.unload_model",
})  # fmt: skip


class Freeing:
    """Which there are. Thread-safe."""

    def __init__(self) -> None:
        self._changed = SureCondition()
        self._numbers = itertools.count(1)
        # All mutable state: those without an answer, by whoever waits for it; one that is waited for no more is not among them.
        self._under_way: WeakKeyDictionary[Any, int] = WeakKeyDictionary()

    def sent(self, action: str, waiting: object) -> None:
        """Note a request, where it may give anything back, by whoever waits for its answer."""
        if action in _GIVE_BACK:
            with self._changed:
                self._under_way[waiting] = next(self._numbers)

    def answered(self, waiting: object) -> None:
        """Note that it was answered, or never will be."""
        with self._changed:
            if self._under_way.pop(waiting, None) is not None:
                self._changed.notify_all()

    def numbers(self) -> frozenset[int]:
        """Return which are under way."""
        with self._changed:
            return frozenset(self._under_way.values())

    def wait(self, numbers: frozenset[int], token: CancelToken) -> None:
        """Wait until all of these are answered. Raises what the token raises."""
        with self._changed:
            while not numbers.isdisjoint(self._under_way.values()):
                wait_for_change(self._changed, token)
