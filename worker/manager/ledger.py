"""One device's ledger: live allocations, what is reserved, and the peaks. Pure; its owner locks."""

from collections import Counter
from collections.abc import Iterator

from protocol.results import UsageGroup
from protocol.vocabulary import GroupBy, MemoryType
from worker.core.records import Allocation, AllocationRequest, OwnerFlow, Reservation

_EMPTY_GROUPS_KEPT = 1024
"""Groups with nothing live that are remembered for their peak, per grouping."""


class _Group:
    __slots__ = ("allocated", "count", "made_bytes", "made_count", "peak")

    def __init__(self) -> None:
        self.allocated = self.peak = self.count = 0
        self.made_bytes = self.made_count = 0


class DeviceLedger:
    """What the worker holds on one device, as asked for."""

    def __init__(self) -> None:
        # All mutable state.
        self.allocations: dict[str, Allocation] = {}
        self.reservations: dict[str, Reservation] = {}
        self.allocated_bytes = 0
        self.external_bytes = 0
        self.reserved_bytes = 0
        self.peak_allocated_bytes = 0
        self.committed_bytes = 0
        """Bytes committed less given back since ever, as the device rounds them."""
        self.noted_bytes = 0
        """What of that the last readings show."""
        self.changes = 0
        """How often headroom was held, used or given back."""
        self.samples: dict[int, int] = {}
        """What readings that are being taken now will show of it, at the least."""
        self.weights: dict[str, tuple[int, int, int]] = {}
        """Bytes as asked for and as the device rounds them, of each model's weights by handle; and its working memory."""
        self.model_bytes = 0
        self.working_bytes = 0
        """What models were declared to take beside their weights."""
        self.pinned: set[str] = set()
        """Handles of weights that stay until they are unloaded by name."""
        self.objects: dict[str, int] = {}
        """What the process grew by for each of them that is an object of Python's, by handle."""
        self.external_models: dict[str, int] = {}
        """Bytes of each model that another process holds, by handle. They are external bytes too."""
        self.made_count = self.made_bytes = 0
        self.unleased: dict[tuple[str | None, str | None], list[int]] = {}
        """Bytes and count by owner and purpose of what has no end that is known: neither persistent nor leased."""
        self._freed: Counter[tuple[str | None, str | None]] = Counter()
        self._groups: dict[GroupBy, dict[str | None, _Group]] = {group: {} for group in GroupBy}

    @property
    def drift_bytes(self) -> int:
        """Bytes committed less given back since the last readings."""
        return self.committed_bytes - self.noted_bytes

    def reserve(self, reservation: Reservation) -> None:
        """Hold headroom for an allocation that is being made."""
        self.changes += 1
        self.reservations[reservation.allocation_id] = reservation
        self.reserved_bytes += _headroom_of(reservation.request)

    def release(self, reservation: Reservation) -> None:
        """Give held headroom back; nothing happens if it went with the device."""
        if self.reservations.pop(reservation.allocation_id, None) is not None:
            self.changes += 1
            self.reserved_bytes -= _headroom_of(reservation.request)

    def holds(self, reservation: Reservation) -> bool:
        """Tell whether headroom is still held: it is not once the device was lost."""
        return reservation.allocation_id in self.reservations

    def drop_reservations(self) -> None:
        """Give all held headroom back, but for what the host holds: what was being made there went with the device."""
        for reservation in tuple(self.reservations.values()):
            if reservation.request.memory_type is not MemoryType.EXTERNAL:
                self.release(reservation)
        self.samples.clear()

    def add(self, allocation: Allocation) -> None:
        """Add a live allocation."""
        self.allocations[allocation.allocation_id] = allocation
        self.made_count += 1
        self.made_bytes += allocation.size_bytes
        if allocation.external:
            self.external_bytes += allocation.size_bytes
        else:
            self.allocated_bytes += allocation.size_bytes
            self.committed_bytes += allocation.block.actual_bytes
            self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)
            self._count_unleased(allocation, 1)
        for groups, key in self._group_entries(allocation.request):
            group = groups.setdefault(key, _Group())
            group.allocated += allocation.size_bytes
            group.count += 1
            group.made_bytes += allocation.size_bytes
            group.made_count += 1
            group.peak = max(group.peak, group.allocated)

    def put_back(self, allocation: Allocation) -> None:
        """Add an allocation that was removed, as if it had not been."""
        made = self.made_count, self.made_bytes
        self.add(allocation)
        self.made_count, self.made_bytes = made
        pair = (allocation.request.owner, allocation.request.purpose)
        self._freed[pair] -= self._freed[pair] > 0
        if not self._freed[pair]:
            del self._freed[pair]
        for groups, key in self._group_entries(allocation.request):
            groups[key].made_bytes -= allocation.size_bytes
            groups[key].made_count -= 1

    def remove(self, allocation_id: str) -> Allocation:
        """Remove an allocation. KeyError if it is not live."""
        allocation = self.allocations.pop(allocation_id)
        if allocation.external:
            self.external_bytes -= allocation.size_bytes
        else:
            self.allocated_bytes -= allocation.size_bytes
            self._give_back(allocation.block.actual_bytes)
            self._count_unleased(allocation, -1)
        pair = (allocation.request.owner, allocation.request.purpose)
        if pair in self._freed or len(self._freed) < _EMPTY_GROUPS_KEPT:
            self._freed[pair] += 1
        for groups, key in self._group_entries(allocation.request):
            group = groups[key]
            group.allocated -= allocation.size_bytes
            group.count -= 1
            if group.count == 0 and len(groups) > _EMPTY_GROUPS_KEPT:
                del groups[key]
        return allocation

    def replace(self, allocation: Allocation) -> None:
        """Put another record in the place of a live allocation of the same id, bytes and owner."""
        before = self.allocations[allocation.allocation_id]
        self.allocations[allocation.allocation_id] = allocation
        if not allocation.external:
            self._count_unleased(before, -1)
            self._count_unleased(allocation, 1)

    def _count_unleased(self, allocation: Allocation, sign: int) -> None:
        request = allocation.request
        if request.persistent or allocation.expires_ns is not None:
            return
        pair = (request.owner, request.purpose)
        held = self.unleased.setdefault(pair, [0, 0])
        held[0] += sign * allocation.size_bytes
        held[1] += sign
        if not held[1]:
            del self.unleased[pair]

    def _give_back(self, actual_bytes: int) -> None:
        """Count what the device has back. Readings on their way may show it already: not a second time."""
        self.changes += 1
        self.committed_bytes -= actual_bytes
        for sample in self.samples:
            self.samples[sample] -= actual_bytes

    def add_weights(
        self, handle: str, size_bytes: int, actual_bytes: int, *, is_object: bool, working_bytes: int = 0
    ) -> None:
        """Add a model's weights, and the working memory that is kept free for it."""
        if is_object:
            self.objects[handle] = actual_bytes
        self.weights[handle] = (size_bytes, actual_bytes, working_bytes)
        self.model_bytes += size_bytes
        self.working_bytes += working_bytes
        self.committed_bytes += actual_bytes

    def remove_weights(self, handle: str) -> None:
        """Remove a model's weights, if they are there."""
        size_bytes, actual_bytes, working_bytes = self.weights.pop(handle, (0, 0, 0))
        self.objects.pop(handle, None)
        self.model_bytes -= size_bytes
        self.working_bytes -= working_bytes
        self.pinned.discard(handle)
        self._give_back(actual_bytes)

    @property
    def staying_bytes(self) -> int:
        """What no eviction and no waiting frees: pinned models, and allocations that are kept for good."""
        kept = (each for each in self.allocations.values() if each.request.persistent and not each.external)
        return sum(each.size_bytes for each in kept) + sum(self.weights[each][0] for each in self.pinned)

    def drop_weights(self) -> None:
        """Remove all weights: they went with the device."""
        for handle in tuple(self.weights):
            self.remove_weights(handle)

    def add_external_model(self, handle: str, size_bytes: int) -> None:
        """Record a model that another process holds."""
        self.external_models[handle] = size_bytes
        self.external_bytes += size_bytes

    def remove_external_model(self, handle: str) -> None:
        """Remove the record."""
        self.external_bytes -= self.external_models.pop(handle)

    def never_freed(self, owner: str | None, purpose: str | None) -> bool:
        """Tell whether no allocation of an owner and purpose was ever freed; False where it isn't known."""
        return (owner, purpose) not in self._freed and len(self._freed) < _EMPTY_GROUPS_KEPT

    def groups(self, group_by: GroupBy) -> tuple[UsageGroup, ...]:
        """Return the groups, largest first, then by name."""
        rows = [
            UsageGroup(key, group.allocated, group.peak, group.count)
            for key, group in self._groups[group_by].items()
        ]
        return tuple(sorted(rows, key=lambda row: (-row.allocated_bytes, row.key or "")))

    def flows(self) -> tuple[OwnerFlow, ...]:
        """Return what each owner has and ever had, largest first, then by name; forgotten ones left out."""
        rows = [
            OwnerFlow(owner, group.allocated, group.count, group.made_bytes, group.made_count)
            for owner, group in self._groups[GroupBy.OWNER].items()
        ]
        return tuple(sorted(rows, key=lambda row: (-row.allocated_bytes, row.owner or "")))

    def _group_entries(
        self, request: AllocationRequest
    ) -> Iterator[tuple[dict[str | None, _Group], str | None]]:
        yield self._groups[GroupBy.OWNER], request.owner
        yield self._groups[GroupBy.PURPOSE], request.purpose
        yield self._groups[GroupBy.MEMORY_TYPE], request.memory_type


def _headroom_of(request: AllocationRequest) -> int:
    """Return the headroom that a request takes on its device: what the host holds takes none."""
    return 0 if request.memory_type is MemoryType.EXTERNAL else request.size_bytes
