"""Prices of a consumer's entries: what is learned from uses, and what is offered."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.eviction import reuse_rates
from worker.eviction.entry_prices import ExpectedUses, PricedEntries
from worker.eviction.reuse_rates import MORE_USES, ReuseRates
from worker.eviction.use_rate import HALF_LIFE_NS

USE_NS = HALF_LIFE_NS // 2000


def _rate(rates: ReuseRates, entry_id: str) -> float:
    rate = rates.now(1.0, -1.0, 0, HALF_LIFE_NS)(entry_id)
    assert rate >= 0
    return rate


def test_what_comes_back_is_worth_more_than_what_does_not() -> None:
    """A few entries are used in turn, beside a stream of others that are used once."""
    rates = ReuseRates()
    for index in range(400):
        rates.used(f"often-{index % 4}", 0)
        rates.used(f"once-{index}", 0)
    assert min(_rate(rates, f"often-{index}") for index in range(4)) > 5 * _rate(rates, "once-399")


def test_who_looks_may_go_by_what_was_learned_last() -> None:
    """What was seen since changes nothing for them until it is learned from; where nothing was, it is learned from at once."""
    uses = ExpectedUses()
    for index in range(400):
        uses.used(index, 0)

    def expected() -> float:
        return uses.at(0, as_learned=True)(399)

    assert expected() == uses.at(0)(399)
    uses.used(399, 0)
    for _ in range(100):
        for entry in range(4):
            uses.used(entry, 0)
    before = expected()
    assert expected() == before
    uses.learn()
    assert expected() == uses.at(0)(399) != before


def test_of_a_loop_what_comes_next_is_worth_most() -> None:
    """Where a hundred entries are used in turn, the one used longest ago comes soonest."""
    rates = ReuseRates()
    for index in range(1000):
        rates.used(str(index % 100), 0)
    assert _rate(rates, "0") > 3 * _rate(rates, "99")


def test_demand_that_moves_moves_the_price() -> None:
    """Of two consumers used alike before, the one that is no longer used gets cheaper, and dearer again after."""
    first, second = PricedEntries(), PricedEntries()
    for now in range(2000):
        (first, second)[now % 2].used(str(now // 2 % 5), now * USE_NS)
    before = first.price_ms("0", 10, 2000 * USE_NS)
    for now in range(2000, 6000):
        second.used(str(now % 5), now * USE_NS)
    assert first.price_ms("0", 10, 6000 * USE_NS) < before / 3
    for now in range(6000, 8000):
        first.used(str(now % 5), now * USE_NS)
    assert first.price_ms("0", 10, 8000 * USE_NS) > before / 2


def test_what_is_known_is_bounded() -> None:
    """Entries used longest ago are forgotten, and still count as ones that did not come back."""
    rates = ReuseRates()
    for index in range(reuse_rates.KNOWN + 50):
        rates.used(str(index), 0)
    assert len(rates._known) == reuse_rates.KNOWN
    assert sum(rates._lost[0]) > 0
    assert _rate(rates, "0") > 0


def test_what_was_never_used_counts_as_used_once_in_ten_minutes() -> None:
    """What is not known is dear: as dear as what is built again once."""
    entries = PricedEntries()
    assert entries.price_ms("new", 40.0, 0) == 40.0
    entries.used("other", 0)
    assert entries.price_ms("new", 40.0, 0) == 40.0


def test_what_is_in_use_is_not_offered() -> None:
    """Whoever keeps the entries says which of them can't go just now."""
    entries = PricedEntries()
    for index in range(4):
        entries.used(str(index), index)
        entries.add(str(index), 10, 1.0)
    assert {offer.tag for offer in entries.offers(40, 4, in_use={"1", "3"})} == {"0", "2"}


def test_what_is_used_in_bursts_is_not_expected_to_go_on_like_that() -> None:
    """Three uses at once every ten minutes, among a thousand of others: not hundreds in the next ten, though the next may be at once."""
    uses = ExpectedUses()
    for burst in range(12):
        for second in range(600):
            now = (600 * burst + second) * 10**9
            uses.used("bursts" if second < 6 and second % 2 else f"steady-{second % 2}", now)
    now = 7206 * 10**9
    for second in (7201, 7203, 7205):
        uses.used("bursts", second * 10**9)
    assert 3 < uses.within("bursts", now) < 3 + MORE_USES + 1
    assert uses.within("steady-0", now) > 3 * uses.within("bursts", now)


def test_an_entry_is_kept_once() -> None:
    """Adding it again would count its bytes twice: it is refused, and nothing changes."""
    entries = PricedEntries()
    entries.add("a", 10, 1.0)
    with pytest.raises(ValueError, match="remove it first"):
        entries.add("a", 20, 1.0)
    assert entries.held_bytes == 10


def test_a_model_used_more_often_is_dearer_whatever_its_keep_alive_beyond_ten_minutes() -> None:
    """Prices look ahead for ten minutes, or until it would go by itself: then it costs nothing that it goes now."""
    uses = ExpectedUses()
    for minute in range(100):
        uses.used("often" if minute % 10 else "seldom", minute * 60 * 10**9)
    now = 100 * 60 * 10**9
    assert uses.within("often", now) > 1.5 * uses.within("seldom", now) > 0
    assert uses.within("often", now, 10**9) < uses.within("often", now) / 100
    assert uses.within("often", now, 0) == uses.within("often", now, -1) == 0


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


def test_what_is_remembered_takes_no_more_for_long_names() -> None:
    """Of each there is its hash."""
    rates = ReuseRates()
    tracemalloc.start()
    for index in range(2000):
        rates.used(f"{index:05}" + "x" * 4000, 0)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(rates._known) == 2000
    assert held < 2000 * 400


def test_what_was_used_again_is_known_as_long_as_its_uses_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its hash; what is forgotten, and used once after that, is not."""
    monkeypatch.setattr(reuse_rates, "KNOWN", 4)
    uses = ExpectedUses()
    for now, name in enumerate((1, 2, 1, 3, 2, 1)):
        uses.used(name, now)
    assert uses.again == {1, 2}
    for now, name in enumerate((4, 5, 6), 10):
        uses.used(name, now)
    assert uses.again == {1}
    uses.used(2, 20)
    assert 2 not in uses.again
    assert set(uses.again) <= set(uses._rates._known)


def test_learning_ahead_changes_no_price() -> None:
    """Whoever looks next is told what it would have been told anyway."""
    ahead, late = ExpectedUses(), ExpectedUses()
    for now in range(2000):
        for each in (ahead, late):
            each.used(now * 7 % 90 if now % 3 else now, now * 10**7)
    ahead.learn()
    prices = [[each.at(2 * 10**10)(name) for name in range(100)] for each in (ahead, late)]
    assert prices[0] == prices[1]
    assert len(set(prices[0])) > 3
