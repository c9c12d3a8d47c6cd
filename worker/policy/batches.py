"""How to cut work into batches that fit. Pure."""

from fractions import Fraction
from math import ceil

from protocol.results import PlanBatchesResult
from protocol.vocabulary import INT64_MAX
from worker.core.errors import InvalidRequestError, OutOfMemoryError, UnsupportedError


def batch_size(available_bytes: int, bytes_per_item: int, fixed_bytes: int, max_fraction: float) -> int:
    """Return how many items fit into a share of the headroom; less than 1 for none."""
    return (int(available_bytes * max_fraction) - fixed_bytes) // bytes_per_item


def least_headroom(bytes_per_item: int, fixed_bytes: int, max_fraction: float) -> int:
    """Return the headroom below which not even one item fits into a share of it."""
    return ceil((fixed_bytes + bytes_per_item) / Fraction(max_fraction))  # a float's quotient may be infinite


def plan_batches(
    item_count: int,
    bytes_per_item: int,
    fixed_bytes: int,
    max_fraction: float,
    device_id: str,
    available_bytes: int | None,
) -> PlanBatchesResult:
    """Return the largest batch that fits into ``max_fraction`` of the headroom; of no items, none.

    Raises:
        UnsupportedError: the device's headroom can't be told.
        InvalidRequestError: all at once would be more bytes than can be counted.
        OutOfMemoryError: not even one item fits.
    """
    if not item_count:
        return PlanBatchesResult(0, 0, 0, 0, 0.0)
    if available_bytes is None:
        message = f"the headroom of {device_id} can't be told, so nothing can be planned on it"
        raise UnsupportedError(message, device_id=device_id)
    unbatched = fixed_bytes + item_count * bytes_per_item
    if unbatched > INT64_MAX:
        message = f"{item_count} x {bytes_per_item} + {fixed_bytes} bytes is more than {INT64_MAX}"
        raise InvalidRequestError.at("data.item_count", message)
    usable = int(available_bytes * max_fraction)
    size = min(item_count, batch_size(available_bytes, bytes_per_item, fixed_bytes, max_fraction))
    if size < 1:
        needed = fixed_bytes + bytes_per_item
        message = f"{device_id} has {available_bytes} bytes of headroom, {usable} of them usable;"
        message += f" a batch of one item needs {needed}"
        raise OutOfMemoryError(
            message,
            device_id=device_id,
            requested_bytes=needed,
            available_bytes=usable,
            evictable_bytes=0,
        )
    peak = fixed_bytes + size * bytes_per_item
    return PlanBatchesResult(
        batch_size=size,
        batch_count=-(-item_count // size),
        peak_bytes=peak,
        unbatched_bytes=unbatched,
        savings_percentage=round(100 * (1 - peak / unbatched), 3),
    )
