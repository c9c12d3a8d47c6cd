"""One device's memory over time at three resolutions: each second, then ten of them, then each minute.

A change costs one comparison: only when a second is over is it folded into its ten seconds, and those
into their minute. Pure; its owner locks.
"""

from collections import deque
from dataclasses import replace

from protocol.results import TimelinePoint
from worker.clock import NS_PER_MS, NS_PER_S


class _Span:
    """A span of time: its last point, when that was, and the most that was allocated within."""

    __slots__ = ("at_ns", "number", "peak_bytes", "point")

    def __init__(self, number: int, at_ns: int, point: TimelinePoint, peak_bytes: int) -> None:
        self.number = number
        self.at_ns = at_ns
        self.point = point
        self.peak_bytes = peak_bytes


class _Series:
    """The spans of one width, the last of them still open."""

    def __init__(self, width_ns: int, kept: int) -> None:
        self.width_ns = width_ns
        self.spans: deque[_Span] = deque(maxlen=kept)

    def add(self, at_ns: int, point: TimelinePoint, peak_bytes: int) -> _Span | None:
        """Enter a point. Returns the span that is over by it."""
        number = at_ns // self.width_ns
        last = self.spans[-1] if self.spans else None
        if last is not None and last.number == number:
            last.at_ns, last.point = at_ns, point
            last.peak_bytes = max(last.peak_bytes, peak_bytes)
            return None
        self.spans.append(_Span(number, at_ns, point, peak_bytes))
        return last


class Timeline:
    """The last minute, hour and day, and as much more as one span of the next resolution: no gap between."""

    def __init__(self) -> None:
        self._series = (_Series(NS_PER_S, 70), _Series(10 * NS_PER_S, 366), _Series(60 * NS_PER_S, 1440))

    def add(self, at_ns: int, point: TimelinePoint) -> None:
        """Enter where the memory is."""
        over: _Span | None = self._series[0].add(at_ns, point, point.peak_allocated_bytes)
        for series in self._series[1:]:
            if over is None:
                return
            over = series.add(over.at_ns, over.point, over.peak_bytes)

    def points(self, now_ns: int, since_ns: int) -> list[tuple[int, TimelinePoint]]:
        """Return the points from a time on, oldest first, each at the finest resolution there is."""
        found: list[tuple[int, TimelinePoint]] = []
        until_ns = now_ns + 1
        for series in self._series:
            spans = [span for span in series.spans if since_ns <= span.at_ns < until_ns]
            found[:0] = [(span.at_ns, _told(span, series.width_ns, now_ns)) for span in spans]
            if series.spans:
                until_ns = min(until_ns, series.spans[0].at_ns)
        return found

    def peak_bytes(self, since_ns: int) -> int | None:
        """Return the most that was allocated in the seconds from a time on; None where nothing was entered."""
        return max(
            (span.peak_bytes for span in self._series[0].spans if span.at_ns >= since_ns), default=None
        )


def _told(span: _Span, width_ns: int, now_ns: int) -> TimelinePoint:
    return replace(
        span.point,
        ms_ago=max(0, now_ns - span.at_ns) // NS_PER_MS,
        span_ms=width_ns // NS_PER_MS,
        peak_allocated_bytes=span.peak_bytes,
    )
