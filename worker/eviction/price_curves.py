"""What consumers offer as curves of price over bytes: steps that only get dearer, merged, and taken from the front. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import NamedTuple

from worker.core.consumers import Offer, Quote


class Step(NamedTuple):
    """A next part of one consumer's offers, never cheaper per byte than the one before it."""

    price: float
    """Milliseconds per byte that is expected back."""
    consumer: int
    """Its index: the earlier goes first at an equal price."""
    place: int
    """In its chain: so steps sort as they are."""
    expected: float
    cost: float
    divisible: bool
    offers: tuple[Offer, ...]


_make = tuple.__new__

Taken = list[tuple[Step, float]]
"""Steps, each with the share of it that is asked for."""


def steps_of(consumer: int, quote: Quote, wanted: int) -> list[Step]:
    """Return a consumer's steps, each as dear as the one before it or dearer, up to what is wanted: 8 and 9 of the plan."""
    left, share, reached = quote.holding.spare_bytes, quote.expected_yield, 0.0
    steps: list[Step] = []
    for offer in quote.offers:
        size, cost, divisible = offer.bytes, offer.cost_ms, offer.divisible
        if size > left:
            if left <= 0 or not divisible:
                break
            offer = part(offer, left)  # noqa: PLW2901 - what is above its floor
            size, cost = left, offer.cost_ms
        left -= size
        expected = size * share
        if expected <= 0:
            continue
        offers: tuple[Offer, ...] = (offer,)
        while steps and steps[-1].cost * expected > cost * steps[-1].expected:  # 8
            before = steps.pop()
            expected, cost, divisible = expected + before.expected, cost + before.cost, False
            offers = (*before.offers, *offers)
        # As Step(...) makes it, in half the time: there may be thousands.
        steps.append(_make(Step, (cost / expected, consumer, len(steps), expected, cost, divisible, offers)))
        reached += size * share
        if reached >= wanted > 0:
            break
    return steps


def cost_of(wanted: float, merged: list[Step], reached: list[float], spent: list[float]) -> float:
    """Return what so many bytes of the others cost, the cheapest first; infinity where they have too little."""
    if wanted <= 0:
        return 0.0
    index = bisect_left(reached, wanted)
    if index >= len(reached):
        return inf
    last = merged[index - 1]
    share = (wanted - reached[index - 1]) / last.expected if last.divisible else 1.0
    return spent[index - 1] + last.cost * share


def take(steps: Sequence[Step], wanted: float) -> Taken:
    """Take steps from the front until so much is expected back, then spare what is not needed: 11 of the plan."""
    taken: Taken = []
    missing = wanted
    for step in steps:
        if missing <= 0:
            break
        share = min(1.0, missing / step.expected) if step.divisible else 1.0
        taken.append((step, share))
        missing -= step.expected * share
    over, kept = -missing, set[int]()
    for index in range(len(taken) - 1, -1, -1):
        step, share = taken[index]
        given = step.expected * share
        if given <= over and step.consumer not in kept:
            over -= given
            del taken[index]
        else:
            kept.add(step.consumer)  # those before it stay, too: offers are taken from the front
    return taken


def part(offer: Offer, size_bytes: int) -> Offer:
    """Return the front of a divisible offer, at its share of the cost."""
    return replace(offer, bytes=size_bytes, cost_ms=offer.cost_ms * size_bytes / offer.bytes)
