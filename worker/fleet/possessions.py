"""What each gateway has on a node, so that it can be given up when the gateway is gone. Knows ids, not bytes."""

from typing import Any

from worker.core.sure_lock import SureLock

MAKES = frozenset({"memory.transfer", "memory.get_transfer"})
"""Actions whose answer names an allocation that was made, in ``destination_allocation_id``."""


class Possessions:
    """Allocations and consumers by the gateway whose host asked for them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = SureLock()
        # All mutable state: of each allocation its gateway and whether it is leased; of each consumer its gateway.
        self._allocations: dict[str, tuple[str, bool]] = {}
        self._consumers: dict[str, str] = {}

    def note(self, gateway: str, action: str, data: dict[str, Any], answer: dict[str, Any]) -> None:
        """Take over what a request that succeeded made or freed."""
        with self._lock:
            if action == "memory.allocate":
                self._allocations[answer["allocation_id"]] = (gateway, data.get("lease_ms") is not None)
            elif action in MAKES and answer.get("destination_allocation_id") is not None:
                leased = self._allocations.get(answer["source_allocation_id"], (gateway, False))[1]
                self._allocations.setdefault(answer["destination_allocation_id"], (gateway, leased))
                if data.get("transfer_type") == "move":
                    self._allocations.pop(answer["source_allocation_id"], None)
            elif action == "memory.renew_lease" and answer["allocation_id"] in self._allocations:
                self._allocations[answer["allocation_id"]] = (
                    self._allocations[answer["allocation_id"]][0],
                    True,
                )
            elif action == "memory.deallocate":
                self._allocations.pop(answer["allocation_id"], None)
            elif action == "memory.clear":
                for each in answer.get("allocation_ids") or ():
                    self._allocations.pop(each, None)
            elif action == "memory.register_consumer":
                self._consumers[answer["consumer_id"]] = gateway
            elif action == "memory.unregister_consumer":
                self._consumers.pop(answer["consumer_id"], None)

    def expired(self, allocation_id: str) -> None:
        """Note that a lease ran out."""
        with self._lock:
            self._allocations.pop(allocation_id, None)

    def of(self, gateway: str, *, leased_too: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return a gateway's allocations and consumers; the leased only where asked for."""
        with self._lock:
            allocations = tuple(
                each
                for each, (whose, leased) in self._allocations.items()
                if whose == gateway and (leased_too or not leased)
            )
            consumers = tuple(each for each, whose in self._consumers.items() if whose == gateway)
        return allocations, consumers

    def gateways(self) -> frozenset[str]:
        """Return who has something here."""
        with self._lock:
            return frozenset((*(whose for whose, _ in self._allocations.values()), *self._consumers.values()))

    def any_leased(self) -> bool:
        """Tell whether an allocation waits for the end of its lease."""
        with self._lock:
            return any(leased for _, leased in self._allocations.values())

    def clear(self) -> None:
        """Forget all: the worker that had it is gone."""
        with self._lock:
            self._allocations.clear()
            self._consumers.clear()
