"""One device's ledger: live allocations, what is reserved, and the peaks. Pure; its owner locks.

A change is worked out first, as the values to be stored (``adding``, ``removing`` …), and stored all together: where
memory runs out amid its sums, nothing has changed. Whoever changes more along with it stores that with it.
"""

from collections.abc import Iterator, MutableMapping
from typing import Any

from protocol.record import Record
from protocol.results import UsageGroup
from protocol.vocabulary import GroupBy, MemoryType
from worker.core.atomic import GONE, Store, store_together
from worker.core.records import Allocation, AllocationRequest, OwnerFlow, Reservation

_EMPTY_GROUPS_KEPT = 1024
"""Groups with nothing live that are remembered for their peak, per grouping."""


class _Group(Record):
    allocated: int = 0
    peak: int = 0
    count: int = 0
    made_bytes: int = 0
    made_count: int = 0


_NO_GROUP = _Group()


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
        self.pinned: dict[str, None] = {}
        """Handles of weights that stay until they are unloaded by name."""
        self.objects: dict[str, int] = {}
        """What the process grew by for each of them that is an object of Python's, by handle."""
        self.external_models: dict[str, int] = {}
        """Bytes of each model that another process holds, by handle. They are external bytes too."""
        self.made_count = self.made_bytes = 0
        self.unleased: dict[tuple[str | None, str | None], tuple[int, int]] = {}
        """Bytes and count by owner and purpose of what has no end that is known: neither persistent nor leased."""
        self._freed: dict[tuple[str | None, str | None], int] = {}
        self._groups: dict[GroupBy, dict[str | None, _Group]] = {group: {} for group in GroupBy}

    @property
    def drift_bytes(self) -> int:
        """Bytes committed less given back since the last readings."""
        return self.committed_bytes - self.noted_bytes

    def reserving(self, reservation: Reservation) -> list[Store]:
        """Return what holds headroom for an allocation that is being made."""
        return [
            (self.reservations, reservation.allocation_id, reservation),
            *self._counts(changes=1, reserved_bytes=_headroom_of(reservation.request)),
        ]

    def releasing(self, reservation: Reservation) -> list[Store]:
        """Return what gives held headroom back: nothing if it went with the device."""
        if not self.holds(reservation):
            return []
        return [
            (self.reservations, reservation.allocation_id, GONE),
            *self._counts(changes=1, reserved_bytes=-_headroom_of(reservation.request)),
        ]

    def holds(self, reservation: Reservation) -> bool:
        """Tell whether headroom is still held: it is not once the device was lost."""
        return reservation.allocation_id in self.reservations

    def drop_reservations(self) -> None:
        """Give all held headroom back, but for what the host holds: what was being made there went with the device."""
        for reservation in tuple(self.reservations.values()):
            if reservation.request.memory_type is not MemoryType.EXTERNAL:
                store_together(self.releasing(reservation))
        self.samples.clear()

    def adding(self, allocation: Allocation, *, anew: bool = True) -> list[Store]:
        """Return what adds a live allocation; not ``anew``: one that was removed, as if it had not been."""
        size_bytes, made = allocation.size_bytes, int(anew)
        stores: list[Store] = [
            (self.allocations, allocation.allocation_id, allocation),
            *self._counts(made_count=made, made_bytes=made * size_bytes),
        ]
        if allocation.external:
            stores += self._counts(external_bytes=size_bytes)
        else:
            stores += self._counts(allocated_bytes=size_bytes, committed_bytes=allocation.block.actual_bytes)
            peak = max(self.peak_allocated_bytes, self.allocated_bytes + size_bytes)
            stores += [(vars(self), "peak_allocated_bytes", peak), *self._counting_unleased(allocation, 1)]
        if not anew:
            pair = (allocation.request.owner, allocation.request.purpose)
            if pair in self._freed:
                stores.append((self._freed, pair, self._freed[pair] - 1 or GONE))
        for groups, key in self._group_entries(allocation.request):
            before = groups.get(key, _NO_GROUP)
            allocated = before.allocated + size_bytes
            group = _Group(
                allocated=allocated,
                peak=max(before.peak, allocated),
                count=before.count + 1,
                made_bytes=before.made_bytes + made * size_bytes,
                made_count=before.made_count + made,
            )
            stores.append((groups, key, group))
        return stores

    def removing(self, allocation: Allocation) -> list[Store]:
        """Return what removes a live allocation."""
        size_bytes = allocation.size_bytes
        stores: list[Store] = [(self.allocations, allocation.allocation_id, GONE)]
        if allocation.external:
            stores += self._counts(external_bytes=-size_bytes)
        else:
            stores += self._counts(allocated_bytes=-size_bytes)
            stores += self._giving_back(allocation.block.actual_bytes)
            stores += self._counting_unleased(allocation, -1)
        pair = (allocation.request.owner, allocation.request.purpose)
        if pair in self._freed or len(self._freed) < _EMPTY_GROUPS_KEPT:
            stores.append((self._freed, pair, self._freed.get(pair, 0) + 1))
        for groups, key in self._group_entries(allocation.request):
            before = groups[key]
            forgotten = before.count == 1 and len(groups) > _EMPTY_GROUPS_KEPT
            group = _Group(
                allocated=before.allocated - size_bytes,
                peak=before.peak,
                count=before.count - 1,
                made_bytes=before.made_bytes,
                made_count=before.made_count,
            )
            stores.append((groups, key, GONE if forgotten else group))
        return stores

    def replacing(self, allocation: Allocation) -> list[Store]:
        """Return what puts another record in the place of a live allocation of the same id, bytes and owner."""
        before = self.allocations[allocation.allocation_id]
        stores: list[Store] = [(self.allocations, allocation.allocation_id, allocation)]
        if not allocation.external and _endless(before) != _endless(allocation):
            stores += self._counting_unleased(before, -1)
            stores += self._counting_unleased(allocation, 1)
        return stores

    def _counting_unleased(self, allocation: Allocation, sign: int) -> list[Store]:
        if not _endless(allocation):
            return []
        pair = (allocation.request.owner, allocation.request.purpose)
        held_bytes, count = self.unleased.get(pair, (0, 0))
        after = (held_bytes + sign * allocation.size_bytes, count + sign)
        return [(self.unleased, pair, after if after[1] else GONE)]

    def _giving_back(self, actual_bytes: int) -> list[Store]:
        """Count what the device has back. Readings on their way may show it already: not a second time."""
        return [
            *self._counts(changes=1, committed_bytes=-actual_bytes),
            *((self.samples, sample, shown - actual_bytes) for sample, shown in self.samples.items()),
        ]

    def _counts(self, **by: int) -> list[Store]:
        """Return what adds to figures of the ledger."""
        figures: MutableMapping[str, Any] = vars(self)
        return [(figures, name, figures[name] + more) for name, more in by.items()]

    def adding_weights(
        self, handle: str, size_bytes: int, actual_bytes: int, *, is_object: bool, working_bytes: int
    ) -> list[Store]:
        """Return what adds a model's weights, and the working memory that is kept free for it."""
        return [
            *([(self.objects, handle, actual_bytes)] if is_object else []),
            (self.weights, handle, (size_bytes, actual_bytes, working_bytes)),
            *self._counts(model_bytes=size_bytes, working_bytes=working_bytes, committed_bytes=actual_bytes),
        ]

    def resizing_weights(self, handle: str, more_bytes: int, working_bytes: int) -> list[Store]:
        """Return what counts a model's weights with more bytes, or fewer, and with what is kept free by now."""
        size_bytes, actual_bytes, kept_bytes = self.weights[handle]
        size, actual = max(0, size_bytes + more_bytes), max(0, actual_bytes + more_bytes)
        more_actual = actual - actual_bytes
        return [
            (self.weights, handle, (size, actual, working_bytes)),
            *self._counts(model_bytes=size - size_bytes, working_bytes=working_bytes - kept_bytes),
            *(
                self._giving_back(-more_actual)
                if more_actual < 0
                else self._counts(committed_bytes=more_actual)
            ),
        ]

    def removing_weights(self, handle: str) -> list[Store]:
        """Return what removes a model's weights, if they are there."""
        size_bytes, actual_bytes, working_bytes = self.weights.get(handle, (0, 0, 0))
        return [
            (self.weights, handle, GONE),
            (self.objects, handle, GONE),
            (self.pinned, handle, GONE),
            *self._counts(model_bytes=-size_bytes, working_bytes=-working_bytes),
            *self._giving_back(actual_bytes),
        ]

    @property
    def staying_bytes(self) -> int:
        """What no eviction and no waiting frees: pinned models, and allocations that are kept for good."""
        kept = (each for each in self.allocations.values() if each.request.persistent and not each.external)
        return sum(each.size_bytes for each in kept) + sum(self.weights[each][0] for each in self.pinned)

    def drop_weights(self) -> None:
        """Remove all weights: they went with the device."""
        for handle in tuple(self.weights):
            store_together(self.removing_weights(handle))

    def adding_external_model(self, handle: str, size_bytes: int) -> list[Store]:
        """Return what records a model that another process holds."""
        return [(self.external_models, handle, size_bytes), *self._counts(external_bytes=size_bytes)]

    def removing_external_model(self, handle: str) -> list[Store]:
        """Return what removes the record."""
        return [
            (self.external_models, handle, GONE),
            *self._counts(external_bytes=-self.external_models[handle]),
        ]

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


def _endless(allocation: Allocation) -> bool:
    """Tell whether an allocation has no end that is known: it is neither persistent nor leased."""
    return not allocation.request.persistent and allocation.expires_ns is None
