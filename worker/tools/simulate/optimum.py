"""The least that any policy could have reloaded, knowing the whole trace beforehand.

Between two uses of a model, it is either kept, which saves its load, or not. So the least cost is the
cost of loading at every use, less the heaviest set of such intervals that fits: at every use, the
models kept across it and the one in use must not be above the capacity. An interval between two uses
with none in between takes no memory beside them and is always kept. A model that has gone by itself
meanwhile, past its keep-alive or as asked, could not be kept.

Where all sizes and the capacity are equal throughout, this is a flow: each of the ``capacity / size - 1`` places that the model in
use leaves is a path through the intervals, and successive heaviest paths are exact. Otherwise it is an
integer program, solved by HiGHS (extra ``optimum``). Where that is too large, not installed or out of time, what is
proven is a bound by prices (``price_bound``).
"""

import importlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from protocol.record import Record
from worker.tools.simulate.interval_flow import Interval, heaviest_overlap
from worker.tools.simulate.price_bound import bound_by_prices
from worker.tools.simulate.trace import Trace

TIME_LIMIT_S = 30.0


_PROGRAM_SIZE = 500_000
"""Intervals that may be kept, over all uses: a larger program takes minutes and gigabytes to build."""


class Optimum(Record):
    """The least cost, or what is proven of it."""

    reload_ms: int
    proven: bool
    """True: the exact optimum. False: a lower bound, so that no policy can be below it."""
    method: str
    """Where the figure comes from, in words."""


def offline_optimum(trace: Trace, time_limit_s: float = TIME_LIMIT_S) -> Optimum:
    """Give the least cost of a trace.

    1. Everything that is used fits at once, or nothing comes back that could be kept: first loads and
       what cannot be saved. Exact.
    2. Sizes are equal, and the capacity stays: flow. Exact, in time of places x uses.
    3. HiGHS is installed and the program not too large: exact within ``time_limit_s``.
    4. Else a bound: the better of what the program and prices prove.
    Where the capacity falls at some time, all of these are bounds.
    """
    best = _optimum(trace, time_limit_s)
    return replace(best, proven=best.proven and not trace.capacity_falls)


def _optimum(trace: Trace, time_limit_s: float) -> Optimum:
    used = set(trace.uses)
    capacities = trace.capacities()
    sizes = {trace.models[model_id].size_bytes for model_id in used}
    all_loads = sum(trace.models[model_id].load_ms for model_id in trace.uses)
    intervals, adjacent_ms = _intervals(trace)
    dearest = all_loads - adjacent_ms
    first_loads = dearest - sum(one.saved for one in intervals)
    if sum(trace.models[model_id].size_bytes for model_id in used) <= min(capacities, default=0):  # 1
        return Optimum(first_loads, proven=True, method="all models fit")
    if not intervals:  # 1
        return Optimum(dearest, proven=True, method="nothing to keep")
    if len(sizes) == len(set(capacities)) == 1:  # 2
        places = capacities[0] // sizes.pop() - 1
        saved = heaviest_overlap(intervals, len(trace.uses), places)
        return Optimum(dearest - saved, proven=True, method="minimum-cost flow")
    headroom = [
        max(0, capacity - trace.models[model_id].size_bytes)
        for capacity, model_id in zip(capacities, trace.uses, strict=True)
    ]
    saved, proven, method = most_saved(intervals, headroom, time_limit_s)  # 3, 4
    # A bound may lie above the exact value only by rounding: no trace costs less than where all is kept.
    return Optimum(max(dearest - saved, first_loads), proven=proven, method=method)


def most_saved(
    intervals: Sequence[Interval], headroom: Sequence[int], time_limit_s: float
) -> tuple[int, bool, str]:
    """Return the most that intervals save which fit beside one another, in bytes at each use.

    Also whether that is exact, not a bound above it, and how it was found.
    """
    crowded = _crowded(intervals, headroom)
    if crowded is None:
        return (
            bound_by_prices(intervals, headroom),
            False,
            "bound by prices, too large for an integer program",
        )
    if not crowded:
        return sum(one.saved for one in intervals), True, "everything fits"
    solved = _solve(intervals, crowded, time_limit_s)
    if solved is None:
        return bound_by_prices(intervals, headroom), False, "bound by prices; install the extra 'optimum'"
    saved, proven = solved
    if proven:
        return saved, True, "integer program"
    return min(saved, bound_by_prices(intervals, headroom)), False, "bound of an integer program, out of time"


def _intervals(trace: Trace) -> tuple[list[Interval], int]:
    """Give what may be kept, by its first use, and the savings of uses that follow one another."""
    previous: dict[str, int] = {}
    intervals = []
    adjacent_ms = 0
    lapsed = trace.lapsed()
    for index, model_id in enumerate(trace.uses):
        before = None if index in lapsed else previous.get(model_id)
        model = trace.models[model_id]
        if before == index - 1:
            adjacent_ms += model.load_ms
        elif before is not None:
            intervals.append(Interval(before + 1, index - 1, model.size_bytes, model.load_ms))
        previous[model_id] = index
    intervals.sort(key=lambda one: (one.first, one.last))
    return intervals, adjacent_ms


_Crowded = list[tuple[list[int], int]]
"""Intervals of which not all can be kept, by index, and the bytes that there are for them."""


def _solve(intervals: Sequence[Interval], crowded: _Crowded, time_limit_s: float) -> tuple[int, bool] | None:
    """Give the greatest saving and whether it is exact, else a bound; None where HiGHS is not installed."""
    try:
        highspy: Any = importlib.import_module("highspy")  # an extra, slow to import, without types
    except ImportError:
        return None
    unit = max(one.size_bytes for one in intervals)  # rows of order 1: bytes would swamp the tolerances
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)  # noqa: FBT003 - the library's signature
    solver.setOptionValue("threads", 1)
    solver.setOptionValue("time_limit", time_limit_s)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("mip_abs_gap", 0.5)  # costs are whole milliseconds
    for index, one in enumerate(intervals):
        solver.addVar(0.0, 1.0)
        solver.changeColCost(index, -float(one.saved))
        solver.changeColIntegrality(index, highspy.HighsVarType.kInteger)
    for kept, headroom in crowded:
        values = [intervals[index].size_bytes / unit for index in kept]
        solver.addRow(-highspy.kHighsInf, headroom / unit, len(kept), kept, values)
    solver.run()
    if solver.getModelStatus() == highspy.HighsModelStatus.kOptimal:
        taken = [value > 0.5 for value in solver.getSolution().col_value]  # noqa: PLR2004 - 0 or 1
        saved = sum(one.saved for one, keep in zip(intervals, taken, strict=True) if keep)
        # In whole bytes: within its tolerance, the solver may fill a device to a little above its headroom.
        fits = all(
            sum(intervals[index].size_bytes for index in kept if taken[index]) <= headroom
            for kept, headroom in crowded
        )
        return saved, fits
    bound = -solver.getInfo().mip_dual_bound
    if not math.isfinite(bound):
        return sum(one.saved for one in intervals), False
    return math.floor(bound + 1e-6 * abs(bound)), False


def _crowded(intervals: Sequence[Interval], headroom: Sequence[int]) -> _Crowded | None:
    """Return the uses at which not everything can be kept; None where that is more than a program may have.

    Of uses whose crowd is part of a neighbour's with no more headroom, only the neighbour's is needed; that
    is left to the solver's presolve.
    """
    starting: dict[int, list[int]] = {}
    ending: dict[int, list[int]] = {}
    for index, one in enumerate(intervals):
        starting.setdefault(one.first, []).append(index)
        ending.setdefault(one.last + 1, []).append(index)
    open_now: dict[int, None] = {}
    rows: _Crowded = []
    size = open_bytes = 0
    for use, most in enumerate(headroom):
        for index in ending.get(use, ()):
            del open_now[index]
            open_bytes -= intervals[index].size_bytes
        for index in starting.get(use, ()):
            open_now[index] = None
            open_bytes += intervals[index].size_bytes
        if open_bytes > most:
            rows.append((list(open_now), most))
            size += len(open_now)
            if size > _PROGRAM_SIZE:
                return None
    return rows
