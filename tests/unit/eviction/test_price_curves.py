"""Curves of price over bytes: only what a plan looks at is made, and it is what all of it would have been."""

from dataclasses import replace
from itertools import accumulate, chain, takewhile

from hypothesis import given
from hypothesis import strategies as st

from worker.core.consumers import Holding, Offer, Quote, front_of
from worker.eviction.price_curves import Curves, steps_of, take

_OFFERS = st.lists(
    st.builds(Offer, st.integers(0, 40), st.integers(0, 20).map(float), st.just(""), divisible=st.booleans()),
    min_size=1,
    max_size=5,
)


def _quotes(offers: list[list[Offer]], floors: list[int], times: float = 1.0) -> list[Quote]:
    """Return consumers, every second of which says its front."""
    found = []
    for index, (own, floor) in enumerate(zip(offers, floors, strict=False)):
        holding = Holding(sum(each.bytes for each in own), floor)
        front = front_of(own, holding, times) if index % 2 else None
        found.append(Quote(f"c{index}", "cache", "sim:0", holding, tuple(own), times=times, front=front))
    return found


@given(
    st.lists(_OFFERS, max_size=6), st.lists(st.integers(0, 60), min_size=6, max_size=6), st.integers(1, 200),
    st.sampled_from([0.0, 0.25, 1.0, 3.0]),
)  # fmt: skip
def test_what_is_merged_is_the_front_of_all(
    offers: list[list[Offer]], floors: list[int], wanted: int, times: float
) -> None:
    """In whatever order offers come, with floors: the cheapest steps of all, as many as are needed, and no more."""
    quotes = _quotes(offers, floors, times)
    merged = Curves(quotes, "sim:0", wanted).merged()
    every = sorted(chain.from_iterable(steps_of(index, quote, wanted) for index, quote in enumerate(quotes)))
    reached = accumulate((step.expected for step in every), initial=0.0)
    needed = len(list(takewhile(lambda each: each < wanted, reached)))
    assert merged == every[:needed]
    assert Curves(quotes, "sim:0", 0).merged() == sorted(
        chain.from_iterable(steps_of(index, quote, 0) for index, quote in enumerate(quotes))
    )


@given(
    st.lists(_OFFERS, max_size=6), st.lists(st.integers(0, 60), min_size=6, max_size=6), st.integers(1, 60)
)
def test_who_is_enough_alone_is_the_cheapest_of_those(
    offers: list[list[Offer]], floors: list[int], wanted: int
) -> None:
    """Whoever is passed over unlooked at could not have been cheaper."""
    quotes = _quotes(offers, floors)
    cost, taken = Curves(quotes, "sim:0", wanted).enough_alone(25.0)
    costs = [
        sum(step.cost * share for step, share in take(steps, wanted))
        for steps in (steps_of(index, quote, wanted) for index, quote in enumerate(quotes))
        if sum(step.expected for step in steps) >= wanted
    ]
    assert cost == min([*costs, 25.0])
    assert bool(taken) == (cost < 25.0)


@given(st.lists(_OFFERS, max_size=6), st.lists(st.integers(0, 60), min_size=6, max_size=6), st.integers(0, 8))
def test_a_cost_counts_for_its_times(offers: list[list[Offer]], floors: list[int], times: int) -> None:
    """Said of a consumer once, or of each of its offers: the prices, and what is taken, are the same."""
    priced = [[replace(each, cost_ms=each.cost_ms * times) for each in own] for own in offers]
    one = Curves(_quotes(offers, floors, times), "sim:0", 30)
    each = Curves(_quotes(priced, floors), "sim:0", 30)
    assert one.first_prices == each.first_prices
    assert [step[:-1] for step in one.merged()] == [step[:-1] for step in each.merged()]
    assert one.first_prices == sorted(
        (steps[0].price, index)
        for index, quote in enumerate(_quotes(priced, floors))
        if (steps := steps_of(index, quote, 30))
    )
