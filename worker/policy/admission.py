"""Whether a request fits, and what is wrong if it does not. Pure."""

from collections.abc import Mapping

from protocol.results import Limits
from protocol.vocabulary import INT64_MAX
from worker.core.errors import LimitExceededError, OutOfMemoryError
from worker.core.records import AllocationRequest, Readings
from worker.policy.pressure import Books, Headroom


def admit(request: AllocationRequest, limits: Limits, room: Headroom) -> None:
    """Decide whether a request fits.

    1. It fits, or there are no figures and the device itself will say.
    2. It is over the configured cap: no waiting helps, a limit is exceeded.
    3. The device has room for it, which the reserve keeps for the host: a limit is exceeded.
    4. The device has no such room: out of memory.
    """
    asked = request.size_bytes
    if room.available_bytes is None or asked <= room.available_bytes:  # 1
        return
    details = {
        "device_id": request.device_id,
        "requested_bytes": asked,
        "available_bytes": room.available_bytes,
        "evictable_bytes": 0,
    }
    said = f"{request.device_id} has {room.available_bytes} bytes of headroom; {asked} asked for"
    if room.below_cap_bytes is not None and asked > room.below_cap_bytes:  # 2
        raise LimitExceededError(f"{said} (limit_bytes is {limits.limit_bytes})", **details)
    if asked <= room.unreserved_bytes:  # 3
        raise LimitExceededError(f"{said} (reserve_bytes is {limits.reserve_bytes})", **details)
    raise OutOfMemoryError(said, **details)  # 4


def does_not_fit(
    request: AllocationRequest, limits: Limits, room: Headroom, evictable_bytes: int, asked: Mapping[str, str]
) -> OutOfMemoryError | LimitExceededError:
    """Make the error for what does not fit even by eviction; ``asked``: whose owners stay, and why."""
    over = room.below_cap_bytes is not None and request.size_bytes > room.below_cap_bytes
    kind = LimitExceededError if over else OutOfMemoryError
    said = f"{request.device_id} has {room.available_bytes} bytes of headroom; {request.size_bytes} asked for"
    said += f" (limit_bytes is {limits.limit_bytes})" if over else ""
    said += f"; unloading models could free {evictable_bytes}"
    said += "".join(f"; {model_id!r} stays: {why}" for model_id, why in asked.items())
    return kind(
        said,
        device_id=request.device_id,
        requested_bytes=request.size_bytes,
        available_bytes=room.available_bytes,
        evictable_bytes=evictable_bytes,
        **({"owners_asked": list(asked)} if asked else {}),
    )


def count(request: AllocationRequest, counted: int) -> None:
    """Decide whether what the host holds can still be added up: records take no room."""
    if request.size_bytes > INT64_MAX - counted:
        message = f"{counted} bytes are recorded or allocated; {request.size_bytes} more cannot be counted,"
        message += f" the sum would be over {INT64_MAX}"
        raise LimitExceededError(
            message, device_id=request.device_id, requested_bytes=request.size_bytes, limit_bytes=INT64_MAX
        )


def missing_bytes(size_bytes: int, readings: Readings, limits: Limits, books: Books) -> int:
    """Return how many bytes would have to be freed for a size to fit; none where there are no figures.

    Unlike the headroom it does not stop at nothing: room that is promised to others is missing too.
    """
    rooms = []
    if readings.free_bytes is not None:
        taken = books.drift_bytes + books.reserved_bytes + limits.reserve_bytes
        rooms.append(readings.free_bytes - taken)
    if limits.limit_bytes is not None:
        rooms.append(limits.limit_bytes - books.allocated_bytes - books.reserved_bytes)
    return max(0, size_bytes - min(rooms, default=size_bytes))
