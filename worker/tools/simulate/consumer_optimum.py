"""The least that any arrangement could have cost several consumers, knowing the whole trace beforehand."""

from protocol.record import Record
from worker.tools.simulate.consumer_trace import ConsumerTrace, Key
from worker.tools.simulate.interval_flow import Interval, heaviest_overlap
from worker.tools.simulate.optimum import most_saved


class LeastCost(Record):
    """The least cost, or what is proven of it."""

    rebuild_ms: float
    proven: bool
    """True: the exact optimum. False: a lower bound, so that nothing can be below it."""
    method: str
    """Where the figure comes from, in words."""


def least_cost(trace: ConsumerTrace, time_limit_s: float) -> LeastCost:
    """Return the least cost of a trace.

    Between two uses of an entry it is kept, which saves its ``cost_ms``, or not. At every moment, what is kept must
    fit; what is built for a use need not be kept. So it is the heaviest set of such intervals that fits
    (``optimum``), of all sizes that do.
    """
    # In whole units of time, which sums don't blur: milliseconds where all costs are such, else microseconds.
    costs = [entry.cost_ms for own in trace.entries.values() for entry in own.values()]
    per_ms = 1 if all(cost.is_integer() for cost in costs) else 1000
    spent, intervals, last = 0, list[Interval](), dict[Key, int]()
    for use, key in enumerate(trace.uses):
        entry = trace.entry(key)
        cost = round(entry.cost_ms * per_ms)
        spent += cost
        if key in last and entry.size_bytes <= trace.capacity_bytes:
            intervals.append(Interval(last[key], use - 1, entry.size_bytes, cost))
        last[key] = use
    intervals.sort(key=lambda one: (one.first, one.last))
    saved, proven, method = _most_saved(
        trace, intervals, {key for key in last if _fits(trace, key)}, time_limit_s
    )
    return LeastCost((spent - saved) / per_ms, proven, method)


def _most_saved(
    trace: ConsumerTrace, intervals: list[Interval], kept: set[Key], time_limit_s: float
) -> tuple[int, bool, str]:
    everything = sum(one.saved for one in intervals)
    sizes = {trace.entry(key).size_bytes for key in kept}
    if sum(trace.entry(key).size_bytes for key in kept) <= trace.capacity_bytes:
        return everything, True, "everything fits"
    if len(sizes) == 1:
        places = trace.capacity_bytes // sizes.pop()
        return heaviest_overlap(intervals, len(trace.uses), places), True, "minimum-cost flow"
    saved, proven, method = most_saved(intervals, [trace.capacity_bytes] * len(trace.uses), time_limit_s)
    return min(saved, everything), proven, method


def _fits(trace: ConsumerTrace, key: Key) -> bool:
    return trace.entry(key).size_bytes <= trace.capacity_bytes
