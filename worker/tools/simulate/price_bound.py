"""A proven bound of what could be saved by keeping things, without a solver and for traces of any length.

Memory is given a price at each moment. Whatever the prices are, no choice of intervals that fits saves more than what
each interval saves above its own price, where that is positive, and the price of all memory there is (Lagrangian
duality). Prices are raised where too much would be kept, and lowered where there is headroom; the least bound counts.
They are whole numbers, so that no sum is rounded.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

from worker.tools.simulate.interval_flow import Interval

_WORK = 4_000_000
"""Intervals and moments that are looked at, over all rounds: some seconds."""
_ROUNDS = (20, 150)
_STEP, _CALMER = 0.3, 0.98
_MOST_OVER = 3.0

_SCALE = 64
"""Binary places of a price, in time per byte."""


def bound_by_prices(intervals: Sequence[Interval], headroom: Sequence[int]) -> int:
    """Return a bound on what intervals save together that fit into the headroom, in bytes, at each moment."""
    moments = len(headroom)
    if not intervals or not moments:
        return 0
    least = sum(one.saved for one in intervals) << _SCALE
    dearest = max((one.saved << _SCALE) // one.size_bytes for one in intervals) + 1
    prices = [_level(intervals, headroom)] * moments
    step = _STEP
    for _ in range(max(_ROUNDS[0], min(_ROUNDS[1], _WORK // (len(intervals) + moments)))):
        reached = list(accumulate(prices, initial=0))
        bound = sum(map(int.__mul__, prices, headroom))
        change = [0] * (moments + 1)
        for one in intervals:
            above = (one.saved << _SCALE) - one.size_bytes * (reached[one.last + 1] - reached[one.first])
            if above > 0:
                bound += above
                change[one.first] += one.size_bytes
                change[one.last + 1] -= one.size_bytes
        least = min(least, bound)
        for moment, kept in enumerate(accumulate(change[:-1])):
            # Relative, so that one step suits bytes of any size.
            over = kept / headroom[moment] - 1 if headroom[moment] else (_MOST_OVER if kept else 0.0)
            raised = int(prices[moment] * math.exp(step * min(over, _MOST_OVER)))
            prices[moment] = min(max(raised, 1), dearest)
        step *= _CALMER
    return -(-least >> _SCALE)


def _level(intervals: Sequence[Interval], headroom: Sequence[int]) -> int:
    """Return one price for all moments: that at which what is worth more takes up all bytes of all moments."""
    left, price = sum(headroom), 1
    for worth, taken in sorted((_worth(one) for one in intervals), reverse=True):
        left -= taken
        price = max(worth, 1)
        if left <= 0:
            break
    return price


def _worth(one: Interval) -> tuple[int, int]:
    """Return what a byte and moment of it saves, and how many there are."""
    taken = one.size_bytes * (one.last + 1 - one.first)
    return (one.saved << _SCALE) // taken, taken
