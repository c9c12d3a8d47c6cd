"""Durations in buckets whose width grows with the value: bounded memory, quantiles within 3 %."""

_SUB_BITS = 5
"""32 buckets per power of two, so that a bucket is at most 1/32 of its value wide."""
_EXACT_BELOW = 1 << (_SUB_BITS + 1)

Counts = dict[int, int]
"""How many values fell into each bucket."""


def bucket(value: int) -> int:
    """Return the bucket of a value >= 0. Below 64 each value has its own."""
    if value < _EXACT_BELOW:
        return value
    shift = value.bit_length() - _SUB_BITS - 1
    return (shift << _SUB_BITS) + (value >> shift)


def highest_value(index: int) -> int:
    """Return the highest value of a bucket."""
    if index < _EXACT_BELOW:
        return index
    shift = (index >> _SUB_BITS) - 1
    return (((index & ((1 << _SUB_BITS) - 1)) + (1 << _SUB_BITS) + 1) << shift) - 1


def quantile(counts: Counts, fraction: float) -> int | None:
    """Return the value that this share of the values does not exceed; None without values."""
    total = sum(counts.values())
    rank, seen = fraction * total, 0
    for index in sorted(counts):
        seen += counts[index]
        if seen >= rank:
            return highest_value(index)
    return None


def merge(into: Counts, counts: Counts) -> None:
    """Add counts up."""
    for index, count in counts.items():
        into[index] = into.get(index, 0) + count
