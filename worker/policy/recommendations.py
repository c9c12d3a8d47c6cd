"""Which actions are worth taking on a device, what each frees, costs, and why. Pure."""

from typing import TypeVar

from protocol.results import Fragmentation
from protocol.vocabulary import OptimizationLevel
from worker.core.actions import (
    ClearCache,
    Defragment,
    EvictBytes,
    Recommended,
    ReleaseMemory,
    UnloadModel,
)
from worker.core.clock import NS_PER_S
from worker.core.records import Readings

IDLE_NS = 60 * NS_PER_S
"""Unloading a model is proposed by name once it was idle for so long."""

RETURN_COST_NS_PER_BYTE = 0.1
"""Unmapping touched 4 KiB pages: 97-110 ms/GiB measured; huge pages take 4 ms/GiB."""

MOVE_COST_NS_PER_BYTE = 0.1
"""Copying within a device: 60-95 ms/GiB measured on a CPU, less on any GPU."""

COPY_COST_NS_PER_BYTE = 2.6
"""Carrying contents over when a process is replaced, read three times and written once: 2.3-2.9 s/GiB measured on
a simulated device and two busy cores."""

START_COST_MS = 1000
"""Starting a device's process: 0.2 s for a simulated one, 1-2 s where it imports torch."""

Way = TypeVar("Way", bound=Recommended | ReleaseMemory)

_WORTH_JOINING = 10.0
"""Fragmentation percentage from which joining free memory is proposed."""


def recommend(device_id: str, readings: Readings) -> tuple[Recommended, ...]:
    """Return what would help, cheapest per byte first; what frees nothing comes last."""
    found = []
    in_restart = (readings.restart_returns_bytes or 0) + readings.stuck_bytes
    # Where caches go back with the process only, what a restart would not return is what it starts with.
    in_place = 0 if readings.restart_returns_bytes is not None else readings.cached_bytes
    if in_place > 0:
        found.append(
            Recommended(
                ClearCache(device_id),
                expected_freed_bytes=in_place,
                cost_ms=_cost_ms(in_place, RETURN_COST_NS_PER_BYTE),
                cost_of="giving the memory back to the system",
                reason=f"{in_place} bytes are kept for reuse and hold nothing",
            )
        )
    pieces = readings.fragmentation
    if in_restart or (readings.restart_returns_bytes is not None and _in_pieces(pieces)):
        found.append(_restart(device_id, readings, in_restart))
    elif pieces is not None and _in_pieces(pieces):
        found.append(_join(device_id, readings, pieces))
    return cheapest_first(tuple(found))


def cheapest_first(ways: tuple[Way, ...]) -> tuple[Way, ...]:
    """Order by cost per byte."""

    def cost_per_byte(way: Way) -> float:
        return (way.cost_ms or 0) / way.expected_freed_bytes if way.expected_freed_bytes else float("inf")

    return tuple(sorted(ways, key=cost_per_byte))


def is_allowed(way: Recommended | ReleaseMemory, level: OptimizationLevel) -> bool:
    """Tell whether ``memory.optimize`` at a level may do it."""
    if isinstance(way, ReleaseMemory):
        return level is not OptimizationLevel.CONSERVATIVE or not way.cost_ms
    match way.action:
        case ClearCache():
            return True
        case UnloadModel() | Defragment(restart=False):
            return level is not OptimizationLevel.CONSERVATIVE
        case EvictBytes() | Defragment():
            return level is OptimizationLevel.AGGRESSIVE


def _in_pieces(pieces: Fragmentation | None) -> bool:
    return pieces is not None and pieces.fragmentation_percentage >= _WORTH_JOINING


def _restart(device_id: str, readings: Readings, freed_bytes: int) -> Recommended:
    carried = readings.resident_bytes
    return Recommended(
        Defragment(device_id, restart=True),
        expected_freed_bytes=freed_bytes,
        cost_ms=START_COST_MS + _cost_ms(carried, COPY_COST_NS_PER_BYTE),
        cost_of="starting a process and carrying the contents over",
        reason=(
            f"{freed_bytes} bytes are kept by the device's process until it ends; it is replaced,"
            f" and {carried} bytes are carried over through host memory"
        ),
    )


def _join(device_id: str, readings: Readings, pieces: Fragmentation) -> Recommended:
    return Recommended(
        Defragment(device_id),
        expected_freed_bytes=0,
        cost_ms=_cost_ms(readings.resident_bytes, MOVE_COST_NS_PER_BYTE),
        cost_of="moving the contents together",
        reason=(
            f"{pieces.free_bytes} bytes are free, but only {pieces.largest_free_block_bytes} in one piece;"
            " joining them frees none, but lets larger allocations fit"
        ),
    )


def _cost_ms(size: int, ns_per_byte: float) -> int:
    return round(size * ns_per_byte / 1e6)
