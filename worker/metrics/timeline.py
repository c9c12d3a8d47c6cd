"""One device's memory over time at three resolutions: each second, then ten of them, then each minute.

A change costs one comparison: only when a second is over is it folded into its ten seconds, and those
into their minute. Pure; its owner locks.
"""

from collections import deque
from dataclasses import replace
from itertools import pairwise

from protocol.results import TimelinePoint
from worker.core.clock import NS_PER_MS, NS_PER_S

CARRIED_NS = 10 * NS_PER_S
"""What was found is the case for at most this long while nothing samples: in calm it is sampled twice as often.
Longer, and the worker, or the machine, stood still: it is not known."""


class _Span:
    """A span of time: its last point, when that was, and the most that was allocated within."""

    __slots__ = ("at_ns", "peak_bytes", "point", "process_bytes", "start_ns", "width_ns")

    def __init__(
        self,
        start_ns: int,
        width_ns: int,
        at_ns: int,
        point: TimelinePoint,
        peak: int,
        process_bytes: int | None,
    ) -> None:
        self.start_ns = start_ns
        self.width_ns = width_ns
        self.at_ns = at_ns
        self.point = point
        self.peak_bytes = peak
        self.process_bytes = process_bytes
        """The last that the system said within: not every change is followed by readings."""

    def end_ns(self, following_ns: int) -> int:
        """Return how far it holds, where the next one begins at a time."""
        return min(following_ns, self.start_ns + max(self.width_ns, CARRIED_NS))


class _Series:
    """The spans of one width, the last of them still open."""

    def __init__(self, width_ns: int, kept: int) -> None:
        self.width_ns = width_ns
        self.spans: deque[_Span] = deque(maxlen=kept)

    @property
    def is_full(self) -> bool:
        return len(self.spans) == self.spans.maxlen

    def add(
        self, at_ns: int, point: TimelinePoint, peak_bytes: int, process_bytes: int | None
    ) -> _Span | None:
        """Add a point. Returns the span that is over by it."""
        start_ns = at_ns - at_ns % self.width_ns
        last = self.spans[-1] if self.spans else None
        if last is not None and last.start_ns == start_ns:
            last.at_ns, last.point = at_ns, point
            last.peak_bytes = max(last.peak_bytes, peak_bytes)
            if process_bytes is not None:
                last.process_bytes = process_bytes
            return None
        self.spans.append(_Span(start_ns, self.width_ns, at_ns, point, peak_bytes, process_bytes))
        return last


class Timeline:
    """The last minute, hour and day, and as much more as one span of the next resolution: no gap between."""

    def __init__(self) -> None:
        self._series = (_Series(NS_PER_S, 70), _Series(10 * NS_PER_S, 366), _Series(60 * NS_PER_S, 1440))

    def add(self, at_ns: int, point: TimelinePoint) -> None:
        """Add where the memory is."""
        process = point.process_used_bytes
        over: _Span | None = self._series[0].add(at_ns, point, point.peak_allocated_bytes, process)
        for series in self._series[1:]:
            if over is None:
                return
            over = series.add(over.at_ns, over.point, over.peak_bytes, over.process_bytes)

    def points(self, now_ns: int, since_ns: int) -> list[tuple[int, TimelinePoint]]:
        """Return what held at some time from ``since_ns`` on, oldest first, at the finest resolution there is.

        Each point holds until the next one begins: where nothing sampled, nothing had changed.
        """
        spans = self._finest()
        if not spans:
            return []
        ends = [one.end_ns(two.start_ns) for one, two in pairwise(spans)]
        ends.append(spans[-1].end_ns(max(now_ns, spans[-1].start_ns + spans[-1].width_ns)))
        return [
            (span.at_ns, _told(span, end_ns, now_ns))
            for span, end_ns in zip(spans, ends, strict=True)
            if end_ns > since_ns
        ]

    def _finest(self) -> list[_Span]:
        """Return spans that do not overlap, oldest first, each of the finest resolution that has it."""
        found: list[_Span] = []
        until_ns = None
        for series, coarser in zip(self._series, (*self._series[1:], None), strict=True):
            spans = [span for span in series.spans if until_ns is None or span.start_ns < until_ns]
            if coarser is not None and series.is_full:
                # What was pushed out shares a coarser span with what is left: from the next one on it is whole.
                until_ns = -(-series.spans[0].start_ns // coarser.width_ns) * coarser.width_ns
                found[:0] = [span for span in spans if span.start_ns >= until_ns]
            else:
                found[:0] = spans
                return found
        return found

    def peak_bytes(self, since_ns: int) -> int | None:
        """Return the most that was allocated in the seconds from a time on; None where nothing was added."""
        return max(
            (span.peak_bytes for span in self._series[0].spans if span.at_ns >= since_ns), default=None
        )


def _told(span: _Span, end_ns: int, now_ns: int) -> TimelinePoint:
    return replace(
        span.point,
        ms_ago=max(0, now_ns - span.at_ns) // NS_PER_MS,
        span_ms=(end_ns - span.start_ns) // NS_PER_MS,
        peak_allocated_bytes=span.peak_bytes,
        process_used_bytes=span.process_bytes,
    )
