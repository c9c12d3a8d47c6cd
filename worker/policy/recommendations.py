"""Which actions are worth taking on a device, what each frees, costs, and why. Pure."""

from protocol.results import Fragmentation, Recommendation
from worker.clock import NS_PER_S
from worker.records import Readings

IDLE_NS = 60 * NS_PER_S
"""Unloading a model is proposed by name when nobody used it for so long."""

RETURN_COST_NS_PER_BYTE = 0.1
"""Unmapping touched 4 KiB pages: 97-110 ms/GiB measured; huge pages take 4 ms/GiB."""

MOVE_COST_NS_PER_BYTE = 0.1
"""Copying within a device: 60-95 ms/GiB measured on a CPU, less on any GPU."""

_WORTH_JOINING = 10.0
"""Fragmentation percentage from which joining free memory is proposed."""


def recommend(device_id: str, readings: Readings) -> tuple[Recommendation, ...]:
    """Return what would help, cheapest per byte first; what frees nothing comes last."""
    found = []
    if readings.cached_bytes:
        found.append(
            Recommendation(
                action="memory.clear",
                data={"device_id": device_id, "clear_type": "cache"},
                expected_freed_bytes=readings.cached_bytes,
                cost_ms=_cost_ms(readings.cached_bytes, RETURN_COST_NS_PER_BYTE),
                reason=f"{readings.cached_bytes} bytes are kept for reuse and hold nothing",
            )
        )
    pieces = readings.fragmentation
    if pieces is not None and pieces.fragmentation_percentage >= _WORTH_JOINING:
        found.append(_join(device_id, readings, pieces))
    return cheapest_first(tuple(found))


def cheapest_first(recommendations: tuple[Recommendation, ...]) -> tuple[Recommendation, ...]:
    """Order by cost per byte."""

    def cost_per_byte(row: Recommendation) -> float:
        if not row.expected_freed_bytes:
            return float("inf")
        return (row.cost_ms or 0) / row.expected_freed_bytes

    return tuple(sorted(recommendations, key=cost_per_byte))


def _join(device_id: str, readings: Readings, pieces: Fragmentation) -> Recommendation:
    return Recommendation(
        action="memory.defragment",
        data={"device_id": device_id},
        expected_freed_bytes=0,
        cost_ms=_cost_ms(readings.resident_bytes, MOVE_COST_NS_PER_BYTE),
        reason=(
            f"{pieces.free_bytes} bytes are free, but only {pieces.largest_free_block_bytes} in one piece;"
            " joining them frees none, but lets larger allocations fit"
        ),
    )


def _cost_ms(size: int, ns_per_byte: float) -> int:
    return round(size * ns_per_byte / 1e6)
