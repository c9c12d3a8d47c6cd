"""What registered consumers offer is worked out when something is said, not for every plan."""

import pytest

from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_S, FixedClock
from worker.core.consumers import MIB, Offer, Quote
from worker.core.sure_lock import SureRLock
from worker.eviction.price_curves import steps_of
from worker.eviction.release_need import ReleaseNeed
from worker.eviction.release_planner import plan_others
from worker.manager.consumer_table import ConsumerTable, Registration

OFFERS = (Offer(MIB, 1.0, "", divisible=True), Offer(MIB, 4.0, "", divisible=True))


@pytest.fixture
def clock() -> FixedClock:
    """Return a clock that stands."""
    return FixedClock()


@pytest.fixture
def table(clock: FixedClock) -> ConsumerTable:
    """Return a table without consumers."""
    return ConsumerTable(SureRLock(), clock)


def later(clock: FixedClock, passed_ns: int) -> None:
    """Have time go on."""
    clock.wait(passed_ns / NS_PER_S, CancelToken(clock.now_ns))


def quote(table: ConsumerTable, **said: float) -> Quote:
    """Register what holds 2 MiB, where anything is said of it, and return what it offers."""
    if said:
        told = {"hits": None, "misses": None, "saved_ms": None, **said}
        table.register(Registration("c", "cache", "cpu", 2 * MIB, 0, OFFERS, **told))
    (found,) = table.quotes("cpu")
    return found


def test_a_quote_stands_until_something_is_said(table: ConsumerTable, clock: FixedClock) -> None:
    """Without a history nothing else changes it; what is given back, or said anew, does at once."""
    first = quote(table, hits=0)
    later(clock, 3600 * NS_PER_S)
    assert quote(table) is first
    table.released("c", MIB)
    assert quote(table).offers == OFFERS[1:]
    assert quote(table).front == 4.0 / MIB
    assert quote(table, hits=0).offers == OFFERS


def test_a_price_by_its_history_stands_for_a_second(table: ConsumerTable, clock: FixedClock) -> None:
    """What was saved counts less as time goes on: by a thousandth in a second, and by half in ten minutes."""
    quote(table, saved_ms=0.0)
    first = quote(table, saved_ms=500.0)
    assert first.times > 1
    later(clock, NS_PER_S - 1)
    assert quote(table) is first
    later(clock, 1)
    assert 0.998 < quote(table).times / first.times < 1
    later(clock, 600 * NS_PER_S)
    assert quote(table).times / first.times == pytest.approx(0.5, rel=0.01)
    (release,) = plan_others([quote(table)], ReleaseNeed("cpu", MIB)).releases
    assert release.reason.endswith("(its hits save 87 ms/MiB in ten minutes)")
    assert release.cost_ms == pytest.approx(quote(table).times * 1.0)


@pytest.mark.parametrize("said", [{"hits": 0}, {"saved_ms": 7.0}, {"hits": 3, "misses": 1}])
def test_its_front_is_its_first_step(table: ConsumerTable, said: dict[str, float]) -> None:
    """With a history and without, and where half came back of what it promised; nothing where nothing did."""
    quote(table, hits=0, misses=0, saved_ms=0.0)
    found = quote(table, **said)
    assert found.front == steps_of(0, found, 0)[0].price
    table.note("c", 2 * MIB, MIB)
    assert quote(table).front == steps_of(0, quote(table), 0)[0].price == 4 / 3 * (found.front or 0)
    for _ in range(9):
        table.note("c", 2 * MIB, 0)
    assert (quote(table).front, quote(table).expected_yield) == (None, 0.0)
