"""What it would cost if each consumer had a memory of its own, or all shared one without prices."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf

from worker.tools.simulate.consumer_replay import ConsumerCost
from worker.tools.simulate.consumer_trace import ConsumerTrace, Key

_UNITS = 1024
"""Parts of the capacity that a partition is made of."""
_PER_OCTAVE = 4


def replay_lru(trace: ConsumerTrace) -> ConsumerCost:
    """Evict what was used longest ago, whoever's it is. One above the capacity is not kept."""
    cost = ConsumerCost(dict.fromkeys(trace.entries, 0.0))
    kept: OrderedDict[Key, int] = OrderedDict()
    left = trace.capacity_bytes
    for key in trace.uses:
        if key in kept:
            kept.move_to_end(key)
            continue
        entry = trace.entry(key)
        cost.count(key[0], entry.cost_ms)
        if entry.size_bytes > trace.capacity_bytes:
            continue
        while left < entry.size_bytes:
            left += kept.popitem(last=False)[1]
            cost.evictions += 1
        kept[key] = entry.size_bytes
        left -= entry.size_bytes
    return cost


def replay_equal(trace: ConsumerTrace, replay: Callable[[ConsumerTrace], ConsumerCost]) -> ConsumerCost:
    """Give each consumer the same share."""
    share = trace.capacity_bytes // max(1, len(trace.entries))
    return _replay_each(trace, dict.fromkeys(trace.entries, share), replay)


def best_partition(trace: ConsumerTrace) -> tuple[dict[str, int], ConsumerCost]:
    """Return the fixed partition that costs the least, known only in hindsight, and what it costs with an LRU in each.

    Of shares that are steps of a fourth of an octave or a 32nd of the capacity, as multiples of a 1024th of it.
    """
    unit = trace.capacity_bytes / _UNITS
    steps = sorted({0, *(round(2 ** (each / _PER_OCTAVE)) for each in range(41)), *range(0, _UNITS + 1, 32)})
    least = [0.0] * (_UNITS + 1)
    chosen: list[list[int]] = []
    for consumer in trace.entries:
        costs = _costs(trace, consumer, [int(unit * step) for step in steps])
        following, taken = [inf] * (_UNITS + 1), [0] * (_UNITS + 1)
        for step, cost_ms in zip(steps, costs, strict=True):
            for total in range(step, _UNITS + 1):
                if least[total - step] + cost_ms < following[total]:
                    following[total], taken[total] = least[total - step] + cost_ms, step
        least = following
        chosen.append(taken)
    left, shares = _UNITS, dict[str, int]()
    for consumer, taken in zip(reversed(trace.entries), reversed(chosen), strict=True):
        shares[consumer] = int(unit * taken[left])
        left -= taken[left]
    shares = {consumer: shares[consumer] for consumer in trace.entries}
    return shares, _replay_each(trace, shares, replay_lru)


def _costs(trace: ConsumerTrace, consumer: str, shares: Sequence[int]) -> list[float]:
    """Return what a consumer costs with each share; beyond one that is enough for everything, nothing changes."""
    costs, alone = list[float](), trace.of(consumer, 0)
    enough = sum(entry.size_bytes for entry in trace.entries[consumer].values())
    for index, share in enumerate(shares):
        if index and shares[index - 1] >= enough:
            costs.append(costs[-1])
        else:
            costs.append(replay_lru(replace(alone, capacity_bytes=share)).total_ms)
    return costs


def _replay_each(
    trace: ConsumerTrace, shares: dict[str, int], replay: Callable[[ConsumerTrace], ConsumerCost]
) -> ConsumerCost:
    cost = ConsumerCost()
    for consumer, share in shares.items():
        cost.add(replay(trace.of(consumer, share)))
    return cost
