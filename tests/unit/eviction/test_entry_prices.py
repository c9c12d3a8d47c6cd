"""Prices of a consumer's entries: what is learned from uses, and what is offered."""

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.eviction import entry_prices
from worker.eviction.entry_prices import PricedEntries, ReuseRates


def test_what_comes_back_is_worth_more_than_what_does_not() -> None:
    """A few entries are used in turn, beside a stream of others that are used once."""
    rates = ReuseRates()
    for index in range(400):
        rates.used(f"often-{index % 4}")
        rates.used(f"once-{index}")
    assert min(rates.rate(f"often-{index}") for index in range(4)) > 5 * rates.rate("once-399")


def test_of_a_loop_what_comes_next_is_worth_most() -> None:
    """Where a hundred entries are used in turn, the one used longest ago comes soonest."""
    rates = ReuseRates()
    for index in range(1000):
        rates.used(str(index % 100))
    assert rates.rate("0") > 3 * rates.rate("99")


def test_demand_that_moves_moves_the_price() -> None:
    """Of two consumers used alike before, the one that is no longer used gets cheaper, and dearer again after."""
    first, second = PricedEntries(), PricedEntries()
    for now in range(2000):
        (first, second)[now % 2].used(str(now // 2 % 5), now)
    before = first.worth_ms("0", 10, 2000)
    for now in range(2000, 6000):
        second.used(str(now % 5), now)
    assert first.worth_ms("0", 10, 6000) < before / 3
    for now in range(6000, 8000):
        first.used(str(now % 5), now)
    assert first.worth_ms("0", 10, 8000) > before / 2


def test_what_is_known_is_bounded() -> None:
    """Entries used longest ago are forgotten, and still count as ones that did not come back."""
    rates = ReuseRates()
    for index in range(entry_prices.KNOWN + 50):
        rates.used(str(index))
    assert len(rates._known) == entry_prices.KNOWN
    assert sum(rates._lost[0]) > 0
    assert rates.rate("0") > 0


@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.integers(1, 10**6), st.floats(0, 1e4), st.booleans()), max_size=300
    ),
    st.integers(1, 10**7),
)
@settings(max_examples=60, deadline=None)
def test_offers_are_cheapest_first_and_enough(
    events: list[tuple[int, int, float, bool]], need_bytes: int
) -> None:
    """Of what is kept and nothing else, each once; enough where there is enough; and no more than that needs."""
    entries, kept = PricedEntries(), dict[str, int]()
    for now, (name, size_bytes, cost_ms, gone) in enumerate(events):
        entry_id = str(name)
        entries.used(entry_id, now)
        if gone and entry_id in entries:
            entries.remove(entry_id)
            del kept[entry_id]
        elif entry_id not in entries:
            entries.add(entry_id, size_bytes, cost_ms)
            kept[entry_id] = size_bytes
    assert entries.held_bytes == sum(kept.values())
    offers = entries.offers(need_bytes, len(events))
    assert len({offer.tag for offer in offers}) == len(offers)
    assert all(kept[str(offer.tag)] == offer.bytes for offer in offers)
    prices = [offer.cost_ms / offer.bytes for offer in offers]
    assert prices == sorted(prices)
    total = sum(offer.bytes for offer in offers)
    assert total >= min(need_bytes, entries.held_bytes)
    assert not offers or total - offers[-1].bytes < need_bytes


def test_the_same_events_give_the_same_offers() -> None:
    """Sampling follows a fixed sequence."""
    both = PricedEntries(), PricedEntries()
    for entries in both:
        for index in range(500):
            entries.used(str(index), index)
            entries.add(str(index), 10 + index, 5.0)
    assert both[0].offers(100, 500) == both[1].offers(100, 500)
