"""Why something is taken of a consumer, or nothing: the sentences of ``release_planner``, by its numbers."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from math import inf

from protocol.results import KeptConsumer
from worker.core.consumers import ENGINE_PREFIX, MIB, Quote, Release
from worker.eviction.planner import NOTHING_NEEDED, EvictionPlan
from worker.eviction.price_curves import Curves, steps_of
from worker.eviction.release_need import ReleaseNeed


def why_not_asked(quote: Quote, need: ReleaseNeed) -> str | None:
    """Say why nothing is taken of a consumer whatever is needed; None if something may be."""
    why = None
    if quote.device_id != need.device_id:  # 1
        why = f"it is on {quote.device_id}, memory is needed on {need.device_id}"
    elif quote.consumer_id in need.excluded:  # 2
        why = "it was asked before, or is excluded"
    elif quote.consumer_id.startswith(ENGINE_PREFIX) and need.models_bytes > 0:
        why = "below a cap of the worker's own it goes with its model"
    elif quote.silent is not None:
        why = quote.silent
    elif quote.holding.spare_bytes <= 0:  # 3
        held = quote.holding
        why = (
            f"of its {held.held_bytes} bytes {held.floor_bytes} are its floor and {held.in_use_bytes} in use"
        )
    elif not quote.offers:  # 4
        why = "it offers nothing"
    elif quote.expected_yield <= 0:
        why = "nothing came back of what it promised before"
    return why


def spared(eviction: EvictionPlan, releases: tuple[Release, ...]) -> EvictionPlan:
    """Say of models that stay because others give all that is needed, that this is why."""
    if not releases or eviction.victims or not eviction.survivors:
        return eviction
    names = ", ".join(each.consumer_id for each in releases)
    survivors = tuple(
        replace(each, reason=f"stays: what is needed is had for less from {names}")
        if each.reason == NOTHING_NEEDED
        else each
        for each in eviction.survivors
    )
    return replace(eviction, survivors=survivors)


def kept_of(
    quotes: Sequence[Quote], need: ReleaseNeed, curves: Curves, asked: Container[str], rest: str | None
) -> Iterator[KeptConsumer]:
    """Say why nothing is taken of those of which nothing is: 1 to 4, ``rest`` (5 and 6), or 7."""
    kept = list[tuple[bool, float, int, str | None]]()
    prices = {consumer: price for price, consumer in curves.first_prices}
    for index, quote in enumerate(quotes):
        if quote.consumer_id not in asked and quote.holding.held_bytes > 0:
            fixed = why_not_asked(quote, need)
            price = None if fixed else prices.get(index)
            if price is None and not fixed:  # what goes besides, or before all others, is on no curve
                price = next((step.price for step in steps_of(index, quote, 0)), None)
            kept.append((quote.device_id != need.device_id, inf if price is None else price, index, fixed))
    for _, price, index, fixed in sorted(kept):
        told = None if price == inf else round(price * MIB, 6)
        dearer = (
            "it offers too little" if told is None else f"enough is freed without it, at {told_price(price)}"
        )
        quote = quotes[index]
        yield KeptConsumer(quote.consumer_id, quote.kind, told, f"stays: {fixed or rest or dearer}")


def why_nothing(need: ReleaseNeed, given: int, ceiling_bytes: int) -> str | None:
    """Say why nothing is taken of anyone that may be asked: 5 and 6; None where something is."""
    why = None
    if need.free_bytes <= 0:  # 5
        why = "nothing has to be freed"
    elif need.free_bytes <= given:
        why = "idle allocations of the worker's own are enough"
    elif need.free_bytes <= need.models_bytes:
        why = "only the worker's own models can free what is missing below its cap"
    elif need.forced:
        pass
    elif ceiling_bytes < need.free_bytes:  # 6
        why = f"{need.free_bytes} bytes are needed and at most {ceiling_bytes} can be had"
    return why


def told_price(price: float) -> str:
    """Return a price per byte as it is told."""
    return f"{price * MIB:.3g} ms/MiB"
