"""What has happened lately, in bounded memory: how requests went, how memory moved, what expired.

Latencies are kept by the minute for an hour, by the hour for two days, and as totals since the start;
memory as ``Timeline`` says. Pure; thread-safe.
"""

from collections import Counter, deque
from dataclasses import replace

from protocol.record import Record
from protocol.results import ActionStatistics, Eviction, Expiration, TimelinePoint
from worker.core.clock import NS_PER_MS, NS_PER_S, NS_PER_US, Clock
from worker.core.sure_lock import SureLock
from worker.metrics.histogram import Counts, bucket, merge, quantile
from worker.metrics.timeline import Timeline
from worker.metrics.totals import ActionTotals

_MINUTE_NS, _HOUR_NS = 60 * NS_PER_S, 3600 * NS_PER_S
_DECISIONS_KEPT = 1024
_REFUSALS_KEPT = 256
_OPERATIONS_KEPT = 256
OPERATION = "operation:"
"""Before the name of an operation of in-process code, where it stands among the actions."""


class _ActionSlot:
    """One action in one span of time."""

    __slots__ = ("counts", "delta_bytes", "errors", "peak_bytes", "total_us")

    def __init__(self) -> None:
        self.counts: Counts = {}
        self.errors = self.total_us = 0
        self.peak_bytes: int | None = None
        self.delta_bytes: int | None = None

    def add(self, other: "_ActionSlot") -> None:
        merge(self.counts, other.counts)
        self.errors += other.errors
        self.total_us += other.total_us
        self.note_memory(other.peak_bytes, other.delta_bytes)

    def note_memory(self, peak_bytes: int | None, delta_bytes: int | None) -> None:
        if peak_bytes is not None:
            self.peak_bytes = max(self.peak_bytes or 0, peak_bytes)
        if delta_bytes is not None:
            self.delta_bytes = (self.delta_bytes or 0) + delta_bytes


class Refusal(Record):
    """Work that began and failed."""

    at_ns: int
    action: str
    code: str
    message: str
    device_id: str | None


_Span = tuple[int, dict[str, _ActionSlot]]
"""When a span of time began, and what each action did in it."""


class History:
    """The record that ``memory.get_analytics`` answers from."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = SureLock()
        self._started_ns = clock.now_ns()
        # All mutable state.
        self._minutes: deque[_Span] = deque(maxlen=60)
        self._hours: deque[_Span] = deque(maxlen=48)
        self._minute: _Span = (0, {})
        self._minute_ends_ns = 0
        self._before: dict[str, _ActionSlot] = {}
        """Each action since the start, up to the present minute."""
        self._operations: Counter[str] = Counter()
        """What the process had grown by at the ends of each, added up."""
        self._timelines: dict[str, Timeline] = {}
        self._expirations: deque[tuple[int, Expiration]] = deque(maxlen=_DECISIONS_KEPT)
        self._evictions: deque[tuple[int, Eviction]] = deque(maxlen=_DECISIONS_KEPT)
        self._ended: Counter[tuple[str, str]] = Counter()
        """Evictions and expirations of each device since the start."""
        self._interventions: Counter[str] = Counter()
        self._refusals: deque[Refusal] = deque(maxlen=_REFUSALS_KEPT)
        self._refused = 0

    def record_action(self, action: str, now_ns: int, duration_ns: int, *, failed: bool) -> None:
        """Note how a request went that ended now."""
        duration_us = duration_ns // NS_PER_US
        index = bucket(duration_us)
        self._lock.acquire()
        try:
            slot = self._minute[1].get(action) if now_ns < self._minute_ends_ns else None
            if slot is None:
                slot = self._slot(action, now_ns)
            slot.counts[index] = slot.counts.get(index, 0) + 1
            slot.errors += failed
            slot.total_us += duration_us
        finally:
            self._lock.release()

    def record_operation(
        self, name: str, duration_ns: int, peak_bytes: int | None, delta_bytes: int | None, *, failed: bool
    ) -> None:
        """Note how an operation of in-process code went, among the actions; names beyond 256 are one."""
        now_ns, duration_us = self._clock.now_ns(), duration_ns // NS_PER_US
        index = bucket(duration_us)
        with self._lock:
            if name not in self._operations and len(self._operations) >= _OPERATIONS_KEPT:
                name = "other"
            self._operations[name] += delta_bytes or 0
            slot = self._slot(OPERATION + name, now_ns)
            slot.counts[index] = slot.counts.get(index, 0) + 1
            slot.errors += failed
            slot.total_us += duration_us
            slot.note_memory(peak_bytes, delta_bytes)

    def operations_grown(self) -> dict[str, int]:
        """Return what the process had grown by at the ends of each operation since the start, in sum, by name."""
        with self._lock:
            return {OPERATION + name: grown for name, grown in self._operations.items()}

    def _slot(self, action: str, now_ns: int) -> _ActionSlot:
        """Return an action's slot in the present minute. The lock is held."""
        if now_ns >= self._minute_ends_ns:
            self._next_minute(now_ns)
        slots = self._minute[1]
        slot = slots.get(action)
        if slot is None:
            slot = slots[action] = _ActionSlot()
        return slot

    def record_memory(self, point: TimelinePoint) -> None:
        """Note where a device's memory is."""
        self._lock.acquire()
        try:
            timeline = self._timelines.get(point.device_id)
            if timeline is None:
                timeline = self._timelines[point.device_id] = Timeline()
            timeline.add(self._clock.now_ns(), point)
        finally:
            self._lock.release()

    def record_expiration(self, expiration: Expiration) -> None:
        """Note that a lease ran out."""
        with self._lock:
            self._expirations.append((self._clock.now_ns(), expiration))
            self._ended["expirations", expiration.device_id] += 1

    def record_eviction(self, eviction: Eviction) -> None:
        """Note that a model was dropped."""
        with self._lock:
            self._evictions.append((self._clock.now_ns(), eviction))
            self._ended["evictions", eviction.device_id] += 1

    def record_intervention(self, action: str) -> None:
        """Note that something was done to free memory, or to what may be taken."""
        with self._lock:
            self._interventions[action] += 1

    def record_refusal(self, action: str, code: str, message: str, device_id: str | None) -> None:
        """Note why work failed."""
        with self._lock:
            self._refused += 1
            self._refusals.append(Refusal(self._clock.now_ns(), action, code, message, device_id))

    def refusals(self, after: int) -> tuple[tuple[Refusal, ...], int]:
        """Return those past the first ``after``, as far as they are still known, and how many there were."""
        with self._lock:
            new = min(self._refused - after, len(self._refusals))
            return tuple(self._refusals)[len(self._refusals) - new :], self._refused

    def _next_minute(self, now_ns: int) -> None:
        """Add the minute that is over to its hour, and begin the present one."""
        start, slots = self._minute
        hour = start - start % _HOUR_NS
        if slots:
            if not self._hours or self._hours[-1][0] < hour:
                self._hours.append((hour, {}))
            for action, slot in slots.items():
                self._hours[-1][1].setdefault(action, _ActionSlot()).add(slot)
                self._before.setdefault(action, _ActionSlot()).add(slot)
        begun = now_ns - now_ns % _MINUTE_NS
        self._minute = (begun, {})
        self._minute_ends_ns = begun + _MINUTE_NS
        self._minutes.append(self._minute)

    def uptime_ns(self) -> int:
        """Return how long the record goes on."""
        return self._clock.now_ns() - self._started_ns

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

    def totals(self) -> tuple[ActionTotals, ...]:
        """Return how each action went since the start."""
        sums: dict[str, _ActionSlot] = {}
        with self._lock:
            for slots in (self._before, self._minute[1]):
                for action, slot in slots.items():
                    sums.setdefault(action, _ActionSlot()).add(slot)
        return tuple(
            ActionTotals(action, sums[action].counts, sums[action].errors, sums[action].total_us)
            for action in sorted(sums)
        )

    def interventions(self) -> dict[str, int]:
        """Return how often each of what was done to free memory was carried out since the start."""
        with self._lock:
            return dict(self._interventions)

    def evicted(self, device_id: str) -> int:
        """Return how many models were dropped from a device since the start."""
        with self._lock:
            return self._ended["evictions", device_id]

    def expired(self, device_id: str) -> int:
        """Return how many leases ran out on a device since the start."""
        with self._lock:
            return self._ended["expirations", device_id]

    def timeline(self, device_ids: tuple[str, ...], range_ms: int) -> tuple[TimelinePoint, ...]:
        """Return the points of these devices within the range, oldest first."""
        now = self._clock.now_ns()
        with self._lock:
            points = [
                entry
                for device_id in device_ids
                if device_id in self._timelines
                for entry in self._timelines[device_id].points(now, now - range_ms * NS_PER_MS)
            ]
        return tuple(point for _, point in sorted(points, key=lambda entry: entry[0]))

    def peak_bytes(self, device_id: str, since_ns: int) -> int | None:
        """Return the most that was allocated on a device since a time of the last minute, if that is known."""
        with self._lock:
            timeline = self._timelines.get(device_id)
            return None if timeline is None else timeline.peak_bytes(since_ns)

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


def _statistics(action: str, slot: _ActionSlot) -> ActionStatistics:
    return ActionStatistics(
        action=action,
        count=sum(slot.counts.values()),
        errors=slot.errors,
        p50_us=quantile(slot.counts, 0.50),
        p95_us=quantile(slot.counts, 0.95),
        p99_us=quantile(slot.counts, 0.99),
        peak_bytes=slot.peak_bytes,
        delta_bytes=slot.delta_bytes,
    )
