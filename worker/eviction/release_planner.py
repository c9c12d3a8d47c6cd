"""Who gives memory back, the worker's own models and all other consumers compared by one price. Pure.

A price is expected milliseconds of rebuilding per byte that comes back. The models keep the order that their
eviction strategy gives them (``planner``); how much of a need they meet, and how much the others, is decided by price.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, chain
from math import ceil, inf
from typing import NamedTuple

from protocol.record import Record
from protocol.results import KeptConsumer
from worker.core.consumers import ENGINE_PREFIX, Offer, Quote, Release, told_bytes
from worker.eviction.planner import (
    Candidate,
    EvictionPlan,
    Need,
    Ranking,
    choose,
    losses_of,
    plan_eviction,
    ranked,
    why_fixed,
)
from worker.eviction.price_curves import NO_BYTES, Curves, Step, Taken, cost_of, part, steps_of, take
from worker.eviction.release_need import ReleaseNeed
from worker.eviction.release_reasons import kept_of, spared, told_price, why_not_asked, why_nothing


class ReleasePlan(Record):
    """Others' releases, the cheapest first, and the models that go after them."""

    need_bytes: int
    ceiling_bytes: int
    """The most that is expected back within all limits."""
    meetable: bool
    cost_ms: float
    """Of the releases and the evictions together."""
    releases: tuple[Release, ...]
    eviction: EvictionPlan
    why_kept: Callable[[], Iterator[KeptConsumer]]
    """Says of every other consumer that holds anything, and of which nothing is taken, why; of models, ``eviction`` does.

    The cheapest first, then those without a price, then those on other devices.
    """


class _Choice(NamedTuple):
    """A way to meet a need."""

    cost: float
    taken: Taken
    models_bytes: int
    first: str | None = None
    """A model that goes before all others, whatever the strategy says."""


def plan_releases(
    quotes: Sequence[Quote], candidates: Iterable[Candidate], need: ReleaseNeed, ranking: Ranking
) -> ReleasePlan:
    """Decide what every consumer gives back.

      0. What is kept for reuse counts as headroom already: where anything is needed, it goes first, and besides. Below a
         cap of the worker's own, so do idle allocations of its ledger, and meet what they give.
    Of a consumer that is no model of the worker's own nothing is taken, for the first of these that holds:
      1. it is on another device;
      2. it is excluded, or not asked for a while because it was silent;
      3. all that it holds is its floor, or in use;
      4. it offers nothing, or nothing came back of what it promised before;
      5. nothing has to be freed, or only what the models alone can free;
      6. the need cannot be met, and is not forced: then nothing goes at all;
      7. enough is freed without it, for less.
    Otherwise its offers are taken from the front, where
      8. several count as one if a later one is cheaper than those before it;
      9. a promise counts for as much as came back of earlier ones, at its whole cost.
    What an engine keeps beside a model is a consumer, too, and no part of the model then. Below a cap of the worker's own
    it is part of the model, for there the models alone count.
    How a need is divided between the models and the others:
     10. for each number of models, in the order of their strategy, the others give the rest, at the lowest price across
         all of them; the cheapest such division is taken, and between equals the one with the most models, which
         nobody has to be asked for;
     11. what is not needed after all is spared, the dearest first;
     12. unless what is enough alone costs less: one of the others, the models by their strategy, or a single model;
     13. the models' part is then decided as ``plan_eviction`` says; without other consumers that is all of it.
    """
    asked_for = need
    idle = idle_allocations(quotes, need.device_id, need.excluded) if need.models_bytes > 0 else ()
    gone = frozenset(each.consumer_id for each in idle)
    given = sum(each.expected_bytes for each in idle)
    wanted, own = max(0, need.free_bytes - given), max(0, need.models_bytes - given)
    if given:
        need = replace(need, free_bytes=wanted, models_bytes=own)
    everyone = _without_arenas(list(candidates), quotes, need)
    models = ranked((each for each in everyone if why_fixed(each, need.device_id) is None), ranking)
    curves = Curves(quotes, need.device_id, wanted, need.excluded | gone, capped=own > 0)  # 1 to 4
    merged = curves.merged()
    in_models = sum(each.size_bytes for each in models)
    in_others = int(sum([step.expected for step in merged]))
    ceiling = in_models + (min(in_others, max(0, wanted - own)) if wanted else in_others)
    meetable = ceiling >= wanted and in_models >= own
    rest = why_nothing(asked_for, given, ceiling + given)
    if need.forced and not meetable:
        own = min(own, in_models)
        ceiling = in_models + min(in_others, wanted - own)
        wanted = min(wanted, ceiling)
    choice = _Choice(0.0, [], wanted)
    if wanted > own and (meetable or need.forced):  # 5, 6
        choice = _cheapest(models, ranking, curves, merged, wanted, own)
    alone = choice.first is not None
    eviction = plan_eviction(
        [replace(each, expired=False) for each in everyone] if alone else everyone,
        Need(
            need.device_id,
            choice.models_bytes if choice.taken or alone else need.free_bytes,
            forced=need.forced,
            host_headroom_bytes=need.host_headroom_bytes,
        ),
        _InOrder(choice.first, ranking) if choice.taken or alone else ranking,
    )  # 13
    if wanted > own and (meetable or need.forced):  # 0
        kept_for_reuse = [steps_of(index, quotes[index], 0) for index in curves.besides]
        choice.taken[:0] = [(step, 1.0) for step in chain.from_iterable(kept_for_reuse)]
    costs = {each.model_id: each.cost_ms for each in everyone}
    releases = _releases(quotes, choice.taken, _next_price(models, quotes, curves, choice.taken, eviction))
    if meetable or need.forced:
        releases = (*idle, *releases)
    names = {each.consumer_id for each in releases}
    return ReleasePlan(
        need_bytes=asked_for.free_bytes,
        ceiling_bytes=ceiling + given,
        meetable=meetable,
        cost_ms=sum(each.cost_ms for each in releases)
        + sum(costs[each.model_id] for each in eviction.victims),
        releases=releases,
        eviction=spared(eviction, releases),
        why_kept=partial(kept_of, quotes, need, curves, names, rest),
    )


def plan_others(quotes: Sequence[Quote], need: ReleaseNeed) -> ReleasePlan:
    """Decide what others than the worker's own models give back, where those go by what is recommended."""
    return plan_releases(quotes, (), need, _NoModels())


class _NoModels:
    """A ranking of nothing."""

    def worth(self, _candidate: Candidate) -> tuple[float, ...]:
        return ()

    def loss(self, _candidate: Candidate) -> None: ...

    def because(self, _candidate: Candidate) -> str:
        return ""


class _InOrder(Record):
    """A ranking of which only the order counts, as the division was reckoned with, and in which one model may go before all others."""

    model_id: str | None
    others: Ranking

    def worth(self, candidate: Candidate) -> tuple[float, ...]:
        return (candidate.model_id != self.model_id, *self.others.worth(candidate))

    def loss(self, _candidate: Candidate) -> None: ...

    def because(self, candidate: Candidate) -> str:
        if candidate.model_id == self.model_id:
            return "it is enough alone, and costs less than anything else that is"
        return self.others.because(candidate)


def _without_arenas(
    candidates: list[Candidate], quotes: Sequence[Quote], need: ReleaseNeed
) -> list[Candidate]:
    """Return the models without what their engines offer by themselves, so that none of it counts twice."""
    if need.models_bytes > 0 or not candidates:
        return candidates
    offered = {
        quote.consumer_id: 0
        if why_not_asked(quote, need)
        else int(sum(each.bytes for each in quote.offers) * quote.expected_yield)
        for quote in quotes
        if quote.consumer_id.startswith(ENGINE_PREFIX)
    }
    return [
        each
        if (size := offered.get(f"{ENGINE_PREFIX}{each.model_id}")) is None
        else replace(each, size_bytes=max(0, each.size_bytes - size), shrinkable_bytes=0)
        for each in candidates
    ]


def _cheapest(
    models: Sequence[Candidate],
    ranking: Ranking,
    curves: Curves,
    merged: list[Step],
    wanted: int,
    own: int,
) -> _Choice:
    """Choose what is taken of the others, and how much is left for the models: 10 to 12. Some choice is enough."""
    reached = list(accumulate([step.expected for step in merged], initial=0.0))
    spent = list(accumulate([step.cost for step in merged], initial=0.0))
    # The most models come first: at an equal cost no one is asked.
    best: _Choice | None = None
    best_cost, best_rest = inf, 0
    sizes = list(accumulate((each.size_bytes for each in models), initial=0))
    costs = list(accumulate((each.cost_ms for each in models), initial=0.0))
    enough = bisect_left(sizes, wanted)
    if enough < len(costs):  # no one else gives: then which of the models go, 13 decides
        picked = choose([each.size_bytes for each in models], wanted, losses=losses_of(models, ranking))
        costs[enough] = sum(models[index].cost_ms for index in picked)
    for count in range(min(enough, len(models)), -1, -1):  # 10
        if sizes[count] < own:
            break
        rest = max(0, wanted - sizes[count])
        cost = costs[count] + cost_of(rest, merged, reached, spent)
        if cost < best_cost:
            best_cost, best_rest = cost, rest
    if best_cost < inf:
        taken = take(merged, best_rest)  # 11
        others = sum(step.expected * share for step, share in taken)
        best = _Choice(best_cost, taken, max(own, ceil(wanted - others - NO_BYTES)))
    best = best or _Choice(inf, [], wanted)
    return _alone(models, None if own else curves, wanted, best)


def _alone(models: Sequence[Candidate], curves: Curves | None, wanted: int, best: _Choice) -> _Choice:
    """Choose what is enough alone, where that costs less than the best choice: 12."""
    if curves is not None:
        cost, taken = curves.enough_alone(best.cost)
        if taken:
            best = _Choice(cost, taken, 0)
    for model in models if best.taken else ():
        if model.size_bytes >= wanted and model.cost_ms < best.cost:
            best = _Choice(model.cost_ms, [], wanted, model.model_id)
    return best


def idle_allocations(
    quotes: Sequence[Quote], device_id: str, excluded: frozenset[str]
) -> tuple[Release, ...]:
    """Return what costs nothing and is in the ledger, all of it: below a cap of the worker's own it goes before any model."""
    found = []
    for quote in quotes:
        offers = tuple(each for each in quote.offers if not each.cost_ms)
        here = quote.allocated and quote.device_id == device_id and quote.silent is None
        if here and offers and quote.consumer_id not in excluded:
            size = sum(each.bytes for each in offers)
            reason = f"{quote.consumer_id}: {told_bytes(size)} that are kept for the next use, and count towards the cap"
            found.append(
                Release(quote.consumer_id, quote.kind, size, size, 0.0, offers, reason, allocated=True)
            )
    return tuple(found)


def _releases(
    quotes: Sequence[Quote], taken: Taken, following: tuple[float, str] | None
) -> tuple[Release, ...]:
    """Put together what each consumer is asked for, the cheapest first."""
    by_consumer: dict[int, Taken] = {}
    for step, share in taken:
        by_consumer.setdefault(step.consumer, []).append((step, share))
    releases = []
    price, other = (
        (inf, "") if following is None else (following[0], f"{following[1]} at {told_price(following[0])}")
    )
    for consumer, steps in by_consumer.items():
        quote, offers = quotes[consumer], list[Offer]()
        expected, cost = 0.0, 0.0
        for step, share in steps:
            expected += step.expected * share
            cost += step.cost * share
            if share == 1.0:
                offers += step.offers
                continue
            left = ceil(sum([each.bytes for each in step.offers]) * share - NO_BYTES)
            for offer in step.offers:
                if left > 0:
                    offers.append(offer if offer.bytes <= left else part(offer, left))
                    left -= offers[-1].bytes
        size = sum([each.bytes for each in offers])
        reason = f"{quote.consumer_id}: {told_bytes(size)} at {told_price(cost / expected)}"
        if other:
            reason += f", {'before' if cost <= price * expected else 'enough without'} {other}"
        because = (
            quote.because() if quote.because else next((each.reason for each in offers if each.reason), "")
        )
        reason += f" ({because})" if because else ""
        releases.append(
            Release(
                quote.consumer_id,
                quote.kind,
                size,
                ceil(expected - NO_BYTES),
                cost,
                tuple(offers),
                reason,
                quote.counted,
                quote.allocated,
            )
        )
    return tuple(releases)


def _next_price(
    models: Sequence[Candidate], quotes: Sequence[Quote], curves: Curves, taken: Taken,
    eviction: EvictionPlan,
) -> tuple[float, str] | None:  # fmt: skip
    """Return the lowest price of those of which nothing is taken, and whose it is; None where nobody is asked."""
    if not taken:
        return None
    gone = {each.model_id for each in eviction.victims}
    left = [
        (model.cost_ms / model.size_bytes, f"model {model.model_id}")
        for model in models
        if model.model_id not in gone
    ]
    asked = {step.consumer for step, _ in taken}
    if (others := curves.cheapest_but(asked)) is not None:
        left.append((others[0], quotes[others[1]].consumer_id))
    return min(left, default=None)
