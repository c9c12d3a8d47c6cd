"""Whether something grows without end: its low-water mark rises, whatever comes and goes above it. Pure."""

import math
from collections.abc import Sequence

from protocol.record import Record
from worker.core.clock import NS_PER_S
from worker.core.records import LowWaterMark

MIN_WINDOWS = 8
MIN_CONFIDENCE = 0.999
"""Below this nothing is suspected: it is asked again and again, and chance must not answer in the end."""

MIN_GROWTH_BYTES = 2**20
_MIN_GROWTH_SHARE = 0.02


class Growth(Record):
    """How a low-water mark rose."""

    confidence: float
    """0 to 1: how unlikely it is that what merely varies would have risen so."""
    bytes_per_second: float
    grown_bytes: int
    span_ns: int
    windows: int


def growth(marks: Sequence[LowWaterMark]) -> Growth | None:
    """Return how the low-water mark rises, None where it does not.

    1. Too few windows, or too little growth to matter.
    2. Kendall's rank test over all windows: rising more steadily than chance would have it.
    3. The same over the last half: what grew and stopped is a cache that is warm.
    """
    if len(marks) < MIN_WINDOWS:  # 1
        return None
    grown = marks[-1].bytes - marks[0].bytes
    if grown < max(MIN_GROWTH_BYTES, _MIN_GROWTH_SHARE * marks[-1].bytes):
        return None
    confidence = _rising([mark.bytes for mark in marks])
    if confidence < MIN_CONFIDENCE:  # 2
        return None
    late = marks[len(marks) // 2 :]
    if _rising([mark.bytes for mark in late]) < _LATE_CONFIDENCE or not _still(marks):  # 3
        return None
    slopes = [
        (after.bytes - before.bytes) / (after.from_ns - before.from_ns) * NS_PER_S
        for index, before in enumerate(marks)
        for after in marks[index + 1 :]
    ]
    span = marks[-1].from_ns - marks[0].from_ns
    from statistics import median  # noqa: PLC0415 - 4 ms of a start, and few workers come this far

    return Growth(round(confidence, 4), round(median(slopes), 3), grown, span, len(marks))


_LATE_CONFIDENCE = 0.9


def _still(marks: Sequence[LowWaterMark]) -> bool:
    """Tell whether a fair share of the growth came in the last third of the time."""
    since = marks[-1].from_ns - (marks[-1].from_ns - marks[0].from_ns) // 3
    before = next(mark for mark in reversed(marks) if mark.from_ns <= since)
    return (marks[-1].bytes - before.bytes) * 6 >= marks[-1].bytes - marks[0].bytes


def _rising(values: Sequence[int]) -> float:
    """Return the confidence of the one-sided test by Mann and Kendall."""
    count = len(values)
    score = sum(
        (after > before) - (after < before)
        for index, before in enumerate(values)
        for after in values[index + 1 :]
    )
    if score <= 0:
        return 0.0
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    return 0.5 * (1 + math.erf((score - 1) / deviation / math.sqrt(2)))
