"""Whether a request fits, and what is wrong if it does not. Pure."""

from collections.abc import Mapping

from protocol.results import Limits
from protocol.vocabulary import INT64_MAX, Source
from worker.core.consumers import EXTERNAL_PREFIX, POOL_PREFIX
from worker.core.errors import LimitExceededError, OutOfMemoryError
from worker.core.records import AllocationRequest, Readings
from worker.policy.pressure import Headroom, LedgerTotals

_MOVING_BUDGETS = frozenset({Source.DXGI, Source.DXCORE})
"""What the system grants one process there rises and falls with what others need; the device's size does not."""


def admit(request: AllocationRequest, limits: Limits, headroom: Headroom) -> None:
    """Decide whether a request fits.

    1. It fits, or there are no figures and the device itself will say.
    2. It is over the configured cap: no waiting helps, a limit is exceeded.
    3. The device has headroom for it, which the reserve keeps for the host: a limit is exceeded.
    4. The device has no such headroom: out of memory.
    """
    asked = request.size_bytes
    if headroom.available_bytes is None or asked <= headroom.available_bytes:  # 1
        return
    details = {
        "device_id": request.device_id,
        "requested_bytes": asked,
        "available_bytes": headroom.available_bytes,
        "evictable_bytes": 0,
    }
    said = f"{request.device_id} has {headroom.available_bytes} bytes of headroom; {asked} asked for"
    if headroom.below_cap_bytes is not None and asked > headroom.below_cap_bytes:  # 2
        raise LimitExceededError(f"{said} (limit_bytes is {limits.limit_bytes})", **details)
    if asked <= headroom.unreserved_bytes:  # 3
        raise LimitExceededError(f"{said} (reserve_bytes is {limits.reserve_bytes})", **details)
    raise OutOfMemoryError(said, **details)  # 4


def does_not_fit(
    request: AllocationRequest,
    limits: Limits,
    headroom: Headroom,
    evictable_bytes: int,
    asked: Mapping[str, str],
) -> OutOfMemoryError | LimitExceededError:
    """Make the error for what does not fit even by eviction; ``asked``: which consumers give no more, and why."""
    over = headroom.below_cap_bytes is not None and request.size_bytes > headroom.below_cap_bytes
    kind = LimitExceededError if over else OutOfMemoryError
    said = f"{request.device_id} has {headroom.available_bytes} bytes of headroom; {request.size_bytes} asked for"
    said += f" (limit_bytes is {limits.limit_bytes})" if over else ""
    said += f"; unloading models could free {evictable_bytes}"
    owners = {
        each.removeprefix(EXTERNAL_PREFIX): why
        for each, why in asked.items()
        if each.startswith(EXTERNAL_PREFIX)
    }
    others = {each: why for each, why in asked.items() if not each.startswith((EXTERNAL_PREFIX, POOL_PREFIX))}
    said += "".join(f"; {each!r} stays: {why}" for each, why in (owners | others).items())
    return kind(
        said,
        device_id=request.device_id,
        requested_bytes=request.size_bytes,
        available_bytes=headroom.available_bytes,
        evictable_bytes=evictable_bytes,
        **({"owners_asked": list(owners)} if owners else {}),
        **({"consumers_asked": list(others)} if others else {}),
    )


def can_ever_fit(size_bytes: int, readings: Readings, limits: Limits, staying_bytes: int) -> bool:
    """Tell whether a size could fit if all went that may go; true where there are no figures.

    ``staying_bytes``: what no eviction and no waiting frees, pinned models and persistent allocations.
    """
    moving = readings.budget_source in _MOVING_BUDGETS and readings.total_bytes is not None
    budget = readings.total_bytes if moving else readings.budget_bytes
    caps = [] if budget is None else [budget - limits.reserve_bytes]
    caps += [] if limits.limit_bytes is None else [limits.limit_bytes]
    return size_bytes <= min(caps, default=INT64_MAX) - staying_bytes


def count(request: AllocationRequest, counted: int) -> None:
    """Decide whether what the host holds can still be added up: records take no headroom."""
    if request.size_bytes > INT64_MAX - counted:
        message = f"{counted} bytes are recorded or allocated; {request.size_bytes} more cannot be counted,"
        message += f" the sum would be over {INT64_MAX}"
        raise LimitExceededError(
            message, device_id=request.device_id, requested_bytes=request.size_bytes, limit_bytes=INT64_MAX
        )


def missing_bytes(size_bytes: int, readings: Readings, limits: Limits, ledger: LedgerTotals) -> int:
    """Return how many bytes would have to be freed for a size to fit; none where there are no figures."""
    left = left_bytes(readings, limits, ledger)
    return 0 if left is None else max(0, size_bytes - left)


def missing_below_cap(size_bytes: int, limits: Limits, ledger: LedgerTotals) -> int:
    """Return how much of the worker's own would have to be freed for a size to fit below its cap."""
    if limits.limit_bytes is None:
        return 0
    return max(0, size_bytes - (limits.limit_bytes - ledger.allocated_bytes - ledger.reserved_bytes))


def left_bytes(readings: Readings, limits: Limits, ledger: LedgerTotals) -> int | None:
    """Return the headroom without stopping at nothing: what is promised to others is below it, and what was moved out.

    None if unknown.
    """
    headrooms = []
    if readings.free_bytes is not None:
        used = ledger.drift_bytes + ledger.reserved_bytes + limits.reserve_bytes
        headrooms.append(readings.free_bytes - readings.owed_bytes - used)
    if limits.limit_bytes is not None:
        headrooms.append(limits.limit_bytes - ledger.allocated_bytes - ledger.reserved_bytes)
    return min(headrooms, default=None)
