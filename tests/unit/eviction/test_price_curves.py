"""Curves of price over bytes: only what a plan looks at is made, and it is what all of it would have been."""

from itertools import accumulate, chain, takewhile

from hypothesis import given
from hypothesis import strategies as st

from worker.core.consumers import Holding, Offer, Quote
from worker.eviction.price_curves import Curves, steps_of, take

_OFFERS = st.lists(
    st.builds(Offer, st.integers(0, 40), st.integers(0, 20).map(float), st.just(""), divisible=st.booleans()),
    min_size=1,
    max_size=5,
)


def _quotes(offers: list[list[Offer]], floors: list[int]) -> list[Quote]:
    return [
        Quote(f"c{index}", "cache", "sim:0", Holding(sum(each.bytes for each in own), floor), tuple(own))
        for index, (own, floor) in enumerate(zip(offers, floors, strict=False))
    ]


@given(
    st.lists(_OFFERS, max_size=6), st.lists(st.integers(0, 60), min_size=6, max_size=6), st.integers(1, 200)
)
def test_what_is_merged_is_the_front_of_all(
    offers: list[list[Offer]], floors: list[int], wanted: int
) -> None:
    """In whatever order offers come, with floors: the cheapest steps of all, as many as are needed, and no more."""
    quotes = _quotes(offers, floors)
    merged = Curves(quotes, range(len(quotes)), wanted).merged()
    every = sorted(chain.from_iterable(steps_of(index, quote, wanted) for index, quote in enumerate(quotes)))
    reached = accumulate((step.expected for step in every), initial=0.0)
    needed = len(list(takewhile(lambda each: each < wanted, reached)))
    assert merged == every[:needed]
    assert Curves(quotes, range(len(quotes)), 0).merged() == sorted(
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
    cost, taken = Curves(quotes, range(len(quotes)), wanted).enough_alone(25.0)
    costs = [
        sum(step.cost * share for step, share in take(steps, wanted))
        for steps in (steps_of(index, quote, wanted) for index, quote in enumerate(quotes))
        if sum(step.expected for step in steps) >= wanted
    ]
    assert cost == min([*costs, 25.0])
    assert bool(taken) == (cost < 25.0)
