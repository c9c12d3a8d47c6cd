"""What has happened lately, in bounded memory: how requests went, how memory moved, what expired.

Latencies are kept by the minute for an hour and by the hour for two days; memory by the second for a
minute and by the minute for a day. Pure; thread-safe.
"""

import threading
from collections import deque
from dataclasses import replace

from protocol.results import ActionStatistics, Eviction, Expiration, TimelinePoint
from worker.books.histogram import Counts, bucket, merge, quantile
from worker.clock import NS_PER_MS, NS_PER_S, NS_PER_US, Clock

_MINUTE_NS, _HOUR_NS = 60 * NS_PER_S, 3600 * NS_PER_S
_DECISIONS_KEPT = 1024


class _ActionSlot:
    """One action in one span of time."""

    __slots__ = ("counts", "errors")

    def __init__(self) -> None:
        self.counts: Counts = {}
        self.errors = 0

    def add(self, other: "_ActionSlot") -> None:
        merge(self.counts, other.counts)
        self.errors += other.errors


_Span = tuple[int, dict[str, _ActionSlot]]
"""When a span of time began, and what each action did in it."""


class History:
    """The record that ``memory.get_analytics`` answers from."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._started_ns = clock.now_ns()
        # All mutable state.
        self._minutes: deque[_Span] = deque(maxlen=60)
        self._hours: deque[_Span] = deque(maxlen=48)
        self._minute: _Span = (0, {})
        self._minute_ends_ns = 0
        self._timelines: dict[str, _Timeline] = {}
        self._expirations: deque[tuple[int, Expiration]] = deque(maxlen=_DECISIONS_KEPT)
        self._evictions: deque[tuple[int, Eviction]] = deque(maxlen=_DECISIONS_KEPT)

    def record_action(self, action: str, now_ns: int, duration_ns: int, *, failed: bool) -> None:
        """Note how a request went that ended now."""
        index = bucket(duration_ns // NS_PER_US)
        with self._lock:
            if now_ns >= self._minute_ends_ns:
                self._next_minute(now_ns)
            slots = self._minute[1]
            slot = slots.get(action)
            if slot is None:
                slot = slots[action] = _ActionSlot()
            slot.counts[index] = slot.counts.get(index, 0) + 1
            slot.errors += failed

    def record_memory(self, point: TimelinePoint) -> None:
        """Note where a device's memory is."""
        with self._lock:
            timeline = self._timelines.setdefault(point.device_id, _Timeline())
            timeline.add(self._clock.now_ns(), point)

    def record_expiration(self, expiration: Expiration) -> None:
        """Note that a lease ran out."""
        with self._lock:
            self._expirations.append((self._clock.now_ns(), expiration))

    def record_eviction(self, eviction: Eviction) -> None:
        """Note that a model was dropped."""
        with self._lock:
            self._evictions.append((self._clock.now_ns(), eviction))

    def _next_minute(self, now_ns: int) -> None:
        """Add the minute that is over to its hour, and begin the present one."""
        start, slots = self._minute
        hour = start - start % _HOUR_NS
        if slots:
            if not self._hours or self._hours[-1][0] < hour:
                self._hours.append((hour, {}))
            for action, slot in slots.items():
                self._hours[-1][1].setdefault(action, _ActionSlot()).add(slot)
        begun = now_ns - now_ns % _MINUTE_NS
        self._minute = (begun, {})
        self._minute_ends_ns = begun + _MINUTE_NS
        self._minutes.append(self._minute)

    def covered_ms(self, range_ms: int) -> int:
        """Return how far back the record reaches, at most the range."""
        return min(range_ms, (self._clock.now_ns() - self._started_ns) // NS_PER_MS)

    def actions(self, range_ms: int) -> tuple[ActionStatistics, ...]:
        """Return statistics per action, over the spans that the range touches."""
        short = range_ms * NS_PER_MS <= _HOUR_NS
        spans, width = (self._minutes, _MINUTE_NS) if short else (self._hours, _HOUR_NS)
        since = self._clock.now_ns() - range_ms * NS_PER_MS
        totals: dict[str, _ActionSlot] = {}
        with self._lock:
            # The hours get a minute when it is over.
            for start, slots in (*spans, *(() if short else (self._minute,))):
                if start + width > since:
                    for action, slot in slots.items():
                        totals.setdefault(action, _ActionSlot()).add(slot)
        return tuple(_statistics(action, totals[action]) for action in sorted(totals))

    def timeline(self, device_ids: tuple[str, ...], range_ms: int) -> tuple[TimelinePoint, ...]:
        """Return the points of these devices within the range, oldest first."""
        now = self._clock.now_ns()
        with self._lock:
            points = [
                (at, replace(point, ms_ago=(now - at) // NS_PER_MS))
                for device_id in device_ids
                if device_id in self._timelines
                for at, point in self._timelines[device_id].points()
                if at >= now - range_ms * NS_PER_MS
            ]
        return tuple(point for _, point in sorted(points, key=lambda entry: entry[0]))

    def expirations(self, device_ids: tuple[str, ...], range_ms: int) -> tuple[Expiration, ...]:
        """Return the leases that ran out within the range, oldest first."""
        now = self._clock.now_ns()
        with self._lock:
            return tuple(
                replace(expiration, ms_ago=(now - at) // NS_PER_MS)
                for at, expiration in self._expirations
                if expiration.device_id in device_ids and at >= now - range_ms * NS_PER_MS
            )

    def evictions(self, device_ids: tuple[str, ...], range_ms: int) -> tuple[Eviction, ...]:
        """Return the models that were dropped within the range, oldest first."""
        now = self._clock.now_ns()
        with self._lock:
            return tuple(
                replace(eviction, ms_ago=(now - at) // NS_PER_MS)
                for at, eviction in self._evictions
                if eviction.device_id in device_ids and at >= now - range_ms * NS_PER_MS
            )


class _Timeline:
    """One device: the last point of each second, then of each minute."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, TimelinePoint]] = deque(maxlen=60)
        self._minutes: deque[tuple[int, TimelinePoint]] = deque(maxlen=1440)

    def add(self, now_ns: int, point: TimelinePoint) -> None:
        for series, width in ((self._seconds, NS_PER_S), (self._minutes, _MINUTE_NS)):
            if series and series[-1][0] // width == now_ns // width:
                series.pop()
            series.append((now_ns, point))

    def points(self) -> list[tuple[int, TimelinePoint]]:
        oldest_second = self._seconds[0][0] if self._seconds else 0
        return [entry for entry in self._minutes if entry[0] < oldest_second] + list(self._seconds)


def _statistics(action: str, slot: _ActionSlot) -> ActionStatistics:
    return ActionStatistics(
        action=action,
        count=sum(slot.counts.values()),
        errors=slot.errors,
        p50_us=quantile(slot.counts, 0.50),
        p95_us=quantile(slot.counts, 0.95),
        p99_us=quantile(slot.counts, 0.99),
    )
