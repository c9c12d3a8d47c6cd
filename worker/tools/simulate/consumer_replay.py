"""Replays uses of several consumers through the planner and the prices that decide in the worker."""

from dataclasses import dataclass, field
from heapq import heappop, heappush

from protocol.record import Record
from worker.core.clock import NS_PER_MS
from worker.core.consumers import Holding, Quote, front_of
from worker.eviction.entry_prices import PricedEntries
from worker.eviction.release_need import ReleaseNeed
from worker.eviction.release_planner import ReleasePlan, plan_others
from worker.eviction.unmet_demand import UnmetDemand
from worker.eviction.use_rate import HALF_LIFE_NS
from worker.tools.simulate.consumer_trace import ConsumerTrace, Key

_DEVICE = "sim:0"

_USE_NS = HALF_LIFE_NS // 2000
"""For how long a use is taken in a trace without times: a lull of some hundreds of uses is outlasted."""


@dataclass
class ConsumerCost:
    """What the uses cost in one arrangement."""

    rebuild_ms: dict[str, float] = field(default_factory=dict)
    """Of each consumer: over all its uses of what was not kept, each entry's first one included."""
    rebuilds: int = 0
    evictions: int = 0
    held_byte_ms: int | None = None
    """Bytes kept by the milliseconds for which they were; None where that is not known."""
    longest_idle_ms: dict[str, int] = field(default_factory=dict)
    """Of each consumer: for how long an entry was kept without a use, at most. A keep-alive above that changes nothing."""
    longest_kept_ms: dict[str, int] = field(default_factory=dict)
    """And since it was built: a time to live above that changes nothing."""

    @property
    def total_ms(self) -> float:
        """Of all consumers."""
        return sum(self.rebuild_ms.values())

    def count(self, consumer: str, cost_ms: float) -> None:
        """Count a rebuild."""
        self.rebuild_ms[consumer] = self.rebuild_ms.get(consumer, 0.0) + cost_ms
        self.rebuilds += 1

    def add(self, other: "ConsumerCost") -> None:
        """Count another's, too."""
        for consumer, cost_ms in other.rebuild_ms.items():
            self.rebuild_ms[consumer] = self.rebuild_ms.get(consumer, 0.0) + cost_ms
        self.rebuilds += other.rebuilds
        self.evictions += other.evictions


class Rules(Record):
    """What makes entries go by themselves, whatever headroom there is."""

    idle_ms: int | None = None
    """Without a use for so long."""
    ttl_ms: int | None = None
    """Built so long ago."""
    consumer: str | None = None
    """Whose; None for everybody's."""


def replay_planned(trace: ConsumerTrace, rules: Rules | None = None) -> ConsumerCost:
    """Use the entries in their order. The same trace costs the same every time.

    1. What the rules make go, goes at its time. Without times in the trace, nothing does.
    2. A use of what is kept costs nothing; of anything else, its ``cost_ms``.
    3. One above the capacity is never kept.
    4. What was built is kept where there is headroom for it, or where what goes for it, as planned, is worth less:
       less than it, or much less than it and those together that were not kept lately and fit, too.

    Prices count the trace's times, as they do in the worker; in a trace without, a use is taken for 300 ms.
    """
    return _Replay(trace, rules or Rules()).run()


class _Replay:
    """One run through a trace."""

    def __init__(self, trace: ConsumerTrace, rules: Rules) -> None:
        self._trace = trace
        self._rules = rules
        self._timed = trace.timed
        # All mutable state.
        self._cost = ConsumerCost(dict.fromkeys(trace.entries, 0.0), held_byte_ms=0 if self._timed else None)
        self._prices = {consumer: PricedEntries() for consumer in trace.entries}
        self._unmet = UnmetDemand()
        self._held = 0
        self._clock_ms = 0
        self._built: dict[Key, int] = {}
        self._last: dict[Key, int] = {}
        self._due: dict[Key, int] = {}
        self._queue: list[tuple[int, Key]] = []

    def run(self) -> ConsumerCost:
        trace = self._trace
        for index, key in enumerate(trace.uses):
            t_ms = trace.times[index] if trace.times else None
            now_ns = t_ms * NS_PER_MS if self._timed and t_ms is not None else index * _USE_NS
            self._pass(t_ms)  # 1
            own = self._prices[key[0]]
            own.used(key[1], now_ns)
            if key[1] in own:
                self._note_stay(key)
            else:  # 2
                self._build(key, own, now_ns)
                if t_ms is not None:
                    self._built[key] = t_ms
            if t_ms is not None and key[1] in own:
                self._last[key] = t_ms
                self._set_due(key, t_ms)
        for key in tuple(self._last):
            self._note_stay(key)
        return self._cost

    def _build(self, key: Key, own: PricedEntries, now_ns: int) -> None:
        entry, capacity = self._trace.entry(key), self._trace.capacity_bytes
        self._cost.count(key[0], entry.cost_ms)
        missing = self._held + entry.size_bytes - capacity
        if entry.size_bytes > capacity:  # 3
            return
        if missing > 0:
            plan, worth = self._plan(missing, now_ns), own.price_ms(key[1], entry.cost_ms, now_ns)
            if plan.cost_ms >= worth:  # 4
                together = self._unmet.plan(
                    missing, worth, plan, lambda need: self._plan(need, now_ns), now_ns
                )
                if together is None:
                    self._unmet.refuse(key, entry.size_bytes, worth, now_ns)
                    return
                plan = together
            for release in plan.releases:
                for offer in release.offers:
                    self._remove((release.consumer_id, str(offer.tag)))
        self._unmet.forget(key)
        own.add(key[1], entry.size_bytes, entry.cost_ms)
        self._held += entry.size_bytes

    def _plan(self, need_bytes: int, now_ns: int) -> ReleasePlan:
        quotes = []
        for name, each in self._prices.items():
            if each.held_bytes:
                offers, holding = each.offers(need_bytes, now_ns), Holding(each.held_bytes)
                quotes.append(Quote(name, name, _DEVICE, holding, offers, front=front_of(offers, holding)))
        return plan_others(quotes, ReleaseNeed(_DEVICE, need_bytes))

    def _note_stay(self, key: Key) -> None:
        """Note for how long a kept entry was not used, up to now, and since when it is kept."""
        last = self._last.pop(key, None)
        if last is not None:
            cost, consumer = self._cost, key[0]
            idle, kept = self._clock_ms - last, self._clock_ms - self._built[key]
            cost.longest_idle_ms[consumer] = max(idle, cost.longest_idle_ms.get(consumer, 0))
            cost.longest_kept_ms[consumer] = max(kept, cost.longest_kept_ms.get(consumer, 0))

    def _remove(self, key: Key) -> None:
        self._note_stay(key)
        self._prices[key[0]].remove(key[1])
        self._held -= self._trace.entry(key).size_bytes
        self._cost.evictions += 1
        self._due.pop(key, None)

    def _set_due(self, key: Key, t_ms: int) -> None:
        rules = self._rules
        if rules.consumer not in {None, key[0]}:
            return
        times = [] if rules.idle_ms is None else [t_ms + rules.idle_ms]
        if rules.ttl_ms is not None:
            times.append(self._built[key] + rules.ttl_ms)
        if times and self._due.get(key) != min(times):
            self._due[key] = min(times)
            heappush(self._queue, (min(times), key))

    def _pass(self, t_ms: int | None) -> None:
        """Have time go on: entries go when they are due, the earliest first."""
        if t_ms is None:
            return
        while self._queue and self._queue[0][0] <= t_ms:
            due, key = heappop(self._queue)
            if self._due.get(key) == due:
                self._hold(due)
                self._remove(key)
        self._hold(t_ms)

    def _hold(self, t_ms: int) -> None:
        passed = max(0, t_ms - self._clock_ms)
        self._clock_ms += passed
        if self._cost.held_byte_ms is not None:
            self._cost.held_byte_ms += self._held * passed
