"""What holds a device's memory, and who alone can free it. Pure."""

from collections.abc import Iterable, Sequence

from protocol.record import Record
from protocol.results import Holder
from protocol.vocabulary import FreedBy
from worker.core.clock import NS_PER_MS
from worker.core.records import Allocation, Readings

TOLD_MAX = 64
"""The largest are told."""


class HeldModel(Record):
    """A model's weights on a device."""

    model_id: str
    size_bytes: int
    freed_by: FreedBy


class HeldConsumer(Record):
    """What a consumer in this process holds of a device, by its own word, beside the ledger."""

    consumer_id: str
    kind: str
    size_bytes: int


class Suspects(Record):
    """What looks like a leak on a device."""

    pairs: frozenset[tuple[str | None, str | None]]
    """Owner and purpose."""
    process: bool
    """What the process takes and nothing explains."""


def holders(
    allocations: Iterable[Allocation],
    models: Iterable[HeldModel],
    consumers: Sequence[HeldConsumer],
    readings: Readings,
    unattributed: int | None,
    suspects: Suspects,
    now_ns: int,
) -> tuple[Holder, ...]:
    """Return what holds memory, the largest first: allocations by owner and purpose, models, consumers, and all others."""
    unexplained = unexplained_bytes(unattributed, consumers)
    found = [*_allocations(allocations, suspects, now_ns), *_others(readings, unexplained, suspects)]
    found += [
        Holder(
            each.consumer_id, each.kind, each.size_bytes, None, None, suspected=False, freed_by=FreedBy.WORKER
        )
        for each in consumers
    ]
    found += [
        Holder(each.model_id, "model", each.size_bytes, None, None, suspected=False, freed_by=each.freed_by)
        for each in models
    ]
    return tuple(sorted(found, key=lambda row: -row.bytes)[:TOLD_MAX])


def _allocations(allocations: Iterable[Allocation], suspects: Suspects, now_ns: int) -> Iterable[Holder]:
    groups: dict[tuple[str | None, str | None, FreedBy], list[Allocation]] = {}
    for allocation in allocations:
        request = allocation.request
        freed_by = FreedBy.OWNER
        if allocation.external:
            freed_by = FreedBy.HOST
        elif allocation.expires_ns is not None:
            freed_by = FreedBy.LEASE
        groups.setdefault((request.owner, request.purpose, freed_by), []).append(allocation)
    for (owner, purpose, freed_by), members in groups.items():
        yield Holder(
            owner=owner,
            purpose=purpose,
            bytes=sum(each.size_bytes for each in members),
            allocation_count=len(members),
            oldest_age_ms=max(0, now_ns - min(each.created_ns for each in members)) // NS_PER_MS,
            suspected=freed_by is FreedBy.OWNER and (owner, purpose) in suspects.pairs,
            freed_by=freed_by,
        )


def _others(readings: Readings, unattributed: int | None, suspects: Suspects) -> Iterable[Holder]:
    def row(purpose: str, size: int | None, freed_by: FreedBy, *, suspected: bool = False) -> list[Holder]:
        return [Holder(None, purpose, size, None, None, suspected, freed_by)] if size else []

    process = readings.process_used_bytes
    yield from row("cache", readings.cached_bytes, FreedBy.WORKER)
    yield from row("unattributed", unattributed, FreedBy.PROCESS_END, suspected=suspects.process)
    if readings.used_bytes is not None and process is not None:
        yield from row("other processes", max(0, readings.used_bytes - process), FreedBy.OTHER_PROCESS)


def unexplained_bytes(unattributed: int | None, consumers: Iterable[HeldConsumer]) -> int | None:
    """Return what not even consumers in this process account for, of what ledger, models and caches do not explain."""
    if unattributed is None:
        return None
    return max(0, unattributed - sum(each.size_bytes for each in consumers))


def unattributed_bytes(readings: Readings, object_bytes: int) -> int | None:
    """Return what the process uses beyond what ledger, models and caches explain; None where it is not known.

    ``object_bytes``: of models that are Python objects, which no backend counts.
    """
    held = readings.process_held_bytes
    if held is None:
        return None
    explained = readings.resident_bytes + readings.cached_bytes + object_bytes
    return max(0, held - explained)
