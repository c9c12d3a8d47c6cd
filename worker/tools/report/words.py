"""Sizes, rates and times for people."""

UNKNOWN = "–"  # noqa: RUF001 - an en dash, as tables have it
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def mebibytes(size: int) -> str:
    """Write a size in at most nine characters."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"


def size(value: object) -> str:
    """Write a size that may not be known."""
    return mebibytes(value) if type(value) is int else "unknown"


def rate(bytes_per_second: float) -> str:
    """Write how fast use grows; with a minus where it shrinks."""
    sign = "+" if bytes_per_second >= 0 else "-"
    return f"{sign}{mebibytes(int(abs(bytes_per_second)))}/s"


def duration(milliseconds: int) -> str:
    """Write a time in at most eight characters."""
    seconds = milliseconds // 1000
    if seconds < _MINUTE_S:
        return f"{seconds}s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S}m{seconds % _MINUTE_S:02}s"
    if seconds < _DAY_S:
        return f"{seconds // _HOUR_S}h{seconds % _HOUR_S // _MINUTE_S:02}m"
    return f"{seconds // _DAY_S}d{seconds % _DAY_S // _HOUR_S:02}h"


def end(seconds: float, low_seconds: float | None, high_seconds: float | None) -> str:
    """Write when a device is full, with the interval where there is one."""
    text = f"full in {duration(round(seconds * 1000))}"
    if low_seconds is None or high_seconds is None:
        return text
    return f"{text} ({duration(round(low_seconds * 1000))} to {duration(round(high_seconds * 1000))})"


def count(number: int, name: str) -> str:
    """Write a number of things."""
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"
