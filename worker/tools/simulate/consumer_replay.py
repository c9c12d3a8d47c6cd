"""Replays uses of several consumers through the planner and the prices that decide in the worker."""

from dataclasses import dataclass, field

from worker.core.consumers import Holding, Quote
from worker.eviction.entry_prices import PricedEntries
from worker.eviction.planner import Candidate
from worker.eviction.release_planner import ReleaseNeed, plan_releases
from worker.tools.simulate.consumer_trace import ConsumerTrace

_DEVICE = "sim:0"


@dataclass
class ConsumerCost:
    """What the uses cost in one arrangement."""

    rebuild_ms: dict[str, float] = field(default_factory=dict)
    """Of each consumer: over all its uses of what was not kept, each entry's first one included."""
    rebuilds: int = 0
    evictions: int = 0

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


class _NoModels:
    """Ranks no one: every consumer has a price."""

    def worth(self, candidate: Candidate) -> tuple[float, ...]:
        raise KeyError(candidate.model_id)

    def because(self, candidate: Candidate) -> str:
        raise KeyError(candidate.model_id)


def replay_planned(trace: ConsumerTrace) -> ConsumerCost:
    """Use the entries in their order. The same trace costs the same every time.

    1. A use of what is kept costs nothing; of anything else, its ``cost_ms``.
    2. What was built is kept where there is headroom for it, or where what goes for it, as planned, is worth less.
    3. One above the capacity is never kept.

    Times are counted in uses, so that a trace without ``t_ms`` is replayed like one with it.
    """
    cost, held = ConsumerCost(dict.fromkeys(trace.entries, 0.0)), 0
    prices = {consumer: PricedEntries() for consumer in trace.entries}
    for now, key in enumerate(trace.uses):
        (consumer, entry_id), entry = key, trace.entry(key)
        own = prices[consumer]
        own.used(entry_id, now)
        if entry_id in own:  # 1
            continue
        cost.count(consumer, entry.cost_ms)
        if entry.size_bytes > trace.capacity_bytes:  # 3
            continue
        missing = held + entry.size_bytes - trace.capacity_bytes
        if missing > 0:
            quotes = [
                Quote(name, name, _DEVICE, Holding(each.held_bytes), each.offers(missing, now))
                for name, each in prices.items()
                if each.held_bytes
            ]
            plan = plan_releases(quotes, (), ReleaseNeed(_DEVICE, missing), _NoModels())
            if plan.cost_ms > own.worth_ms(entry_id, entry.cost_ms, now):  # 2
                continue
            for release in plan.releases:
                for offer in release.offers:
                    prices[release.consumer_id].remove(str(offer.tag))
                    held -= offer.bytes
                    cost.evictions += 1
        own.add(entry_id, entry.size_bytes, entry.cost_ms)
        held += entry.size_bytes
    return cost
