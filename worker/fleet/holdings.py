"""What the host has on the nodes, by the fleet's ids: so that it can be told what went with one, and count instead of read."""

import re
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, TypeGuard

from worker.core.cancellation import CancelToken, wait_for_change
from worker.core.sure_lock import SureCondition, SureLock
from worker.fleet.names import split

COUNTED_MAX = 10_000
"""Ids of a kind that can be named by their number: the last ones."""
LATEST = "~"
"""After any start of a worker."""
_SOON_SECONDS = 1.0
"""How long who reads waits for an id in the making that is named by its number: so long the order of requests is kept."""
_BY_COUNT = re.compile(r"(alloc|batches|operation|plan|transfer)-([0-9]+)", re.ASCII)


class Holdings:
    """Live allocations by device, those that were lost, and ids by their number. Thread-safe."""

    def __init__(self) -> None:
        self._lock = SureLock()
        self._changed = SureCondition(self._lock)
        # All mutable state.
        self._devices: dict[str, tuple[str, str]] = {}
        self._models: dict[tuple[str, str], str] = {}
        self._lost: OrderedDict[str, str] = OrderedDict()
        self._counts: dict[str, int] = {}
        self._counted: dict[str, OrderedDict[int, str | None]] = {}
        self._making: dict[tuple[str, int], float] = {}

    # ---- what is there ----

    def add(self, allocation_id: str, device_id: str, incarnation: str) -> None:
        """Note an allocation, and which start of its node's worker has it."""
        with self._lock:
            self._devices[allocation_id] = (device_id, incarnation)

    def remove(self, allocation_ids: Iterable[str]) -> None:
        """Note that allocations were freed."""
        with self._lock:
            for each in allocation_ids:
                self._devices.pop(each, None)

    def lose(self, device_id: str, why: str, before: str = LATEST) -> tuple[str, ...]:
        """Return what was on a device that is gone, but what a worker has that was started at ``before`` or later.

        It is remembered as lost.
        """
        with self._lock:
            gone = tuple(
                each
                for each, (where, incarnation) in self._devices.items()
                if where == device_id and incarnation < before
            )
            for each in gone:
                del self._devices[each]
                self._lost[each] = why
            while len(self._lost) > COUNTED_MAX:
                self._lost.popitem(last=False)
        return gone

    def loaded(self, model_id: str, device_id: str, incarnation: str) -> None:
        """Note a model that was loaded for the host: a node's view shows it a moment later."""
        with self._lock:
            self._models[model_id, device_id] = incarnation

    def unloaded(self, model_id: str) -> None:
        """Note that a model was unloaded."""
        with self._lock:
            for each in [each for each in self._models if each[0] == model_id]:
                del self._models[each]

    def lose_models(self, device_id: str, before: str = LATEST) -> tuple[str, ...]:
        """Return the models that were on a device, likewise."""
        with self._lock:
            gone = [each for each, at in self._models.items() if each[1] == device_id and at < before]
            for each in gone:
                del self._models[each]
        return tuple(model_id for model_id, _ in gone)

    def why_lost(self, allocation_id: str) -> str | None:
        """Say how an allocation was lost; None for one that was not."""
        return self._lost.get(allocation_id)

    def on_node(self, node_id: str) -> dict[str, str]:
        """Return the allocations on a node, with their devices."""
        with self._lock:
            return {each: where for each, (where, _) in self._devices.items() if split(where)[0] == node_id}

    # ---- by count ----

    def number(self, kind: str) -> int:
        """Return the number of the next of a kind."""
        with self._lock:
            number = self._counts[kind] = self._counts.get(kind, 0) + 1
            self._making[kind, number] = time.monotonic()
            return number

    def name(self, kind: str, number: int, made: str | None) -> None:
        """Note which id has a number; None where nothing was made."""
        with self._changed:
            self._changed.notify_all()
            self._making.pop((kind, number), None)
            counted = self._counted.setdefault(kind, OrderedDict())
            counted[number] = made
            while len(counted) > COUNTED_MAX:
                counted.popitem(last=False)

    def meant(self, given: str) -> str | None:
        """Return the id that is meant by a number, such as ``alloc-1``; None where none is, or is made yet."""
        kind, number = _kind_and_number(given)
        with self._lock:
            return self._counted.get(kind, OrderedDict()).get(number)

    def is_made(self, given: Iterable[str]) -> bool:
        """Tell whether all that these numbers name is made by now, or soon: its request waits no longer than a moment."""
        keys = tuple(map(_kind_and_number, given))
        with self._changed:
            begun = [self._making[each] for each in keys if each in self._making]
            left = max(begun, default=0.0) + _SOON_SECONDS - time.monotonic()
            return not begun or self._changed.wait_for(
                lambda: self._making.keys().isdisjoint(keys), max(0.0, left)
            )

    def await_made(self, given: Iterable[str], token: CancelToken) -> None:
        """Wait until all of it is made, or is not going to be. Raises what the token raises."""
        keys = tuple(map(_kind_and_number, given))
        with self._changed:
            while not self._making.keys().isdisjoint(keys):
                wait_for_change(self._changed, token)


def _kind_and_number(given: str) -> tuple[str, int]:
    kind, _, number = given.rpartition("-")
    return kind, int(number)


def is_by_count(given: Any) -> TypeGuard[str]:
    """Tell whether an id only counts: ``alloc-1`` is the first that this gateway handed out."""
    return isinstance(given, str) and _BY_COUNT.fullmatch(given) is not None
