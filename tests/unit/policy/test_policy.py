"""Headroom, pressure, batches and recommendations: numbers in, decisions out."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.results import Fragmentation, Limits, PressureThresholds
from protocol.vocabulary import INT64_MAX, OptimizationLevel, PressureLevel, Source
from worker.core.actions import ClearCache, Defragment, EvictBytes, Recommended, ReleaseMemory, UnloadModel
from worker.core.consumers import Release
from worker.core.errors import InvalidRequestError, OutOfMemoryError, UnsupportedError
from worker.core.records import Readings
from worker.policy.batches import least_headroom, plan_batches
from worker.policy.pressure import (
    DEFAULT_LIMITS,
    LedgerTotals,
    default_limits,
    follow_budget,
    headroom,
    level_of,
    worst,
)
from worker.policy.recommendations import cheapest_first, is_allowed, recommend

CALM = DEFAULT_LIMITS.thresholds
GIB = 2**30


def reads(
    free: int | None = 1000,
    budget: int | None = 1000,
    largest: int | None = None,
    *,
    cached: int = 0,
    pieces: Fragmentation | None = None,
) -> Readings:
    """Make readings."""
    source = None if budget is None else Source.OS
    return Readings(2000, budget, source, None, None, free, largest, 0, cached, pieces)


@pytest.mark.parametrize(
    ("readings", "limits", "ledger", "available", "percentage", "source"),
    [
        (reads(), Limits(None, 0, CALM), LedgerTotals(0, 0, 0), 1000, 0.0, Source.OS),
        (reads(250), Limits(None, 0, CALM), LedgerTotals(0, 0, 0), 250, 75.0, Source.OS),
        (reads(), Limits(None, 0, CALM), LedgerTotals(300, 100, 300), 600, 40.0, Source.OS),
        (reads(), Limits(None, 0, CALM), LedgerTotals(0, 0, -50), 1050, 0.0, Source.OS),
        (reads(), Limits(None, 400, CALM), LedgerTotals(0, 0, 0), 600, 40.0, Source.OS),
        (reads(), Limits(None, 4000, CALM), LedgerTotals(0, 0, 0), 0, 100.0, Source.OS),
        (reads(), Limits(500, 0, CALM), LedgerTotals(100, 50, 100), 350, 30.0, Source.CONFIG),
        (reads(), Limits(5000, 0, CALM), LedgerTotals(0, 0, 0), 1000, 0.0, Source.OS),
        (reads(), Limits(500, 0, CALM), LedgerTotals(700, 0, 700), 0, 100.0, Source.CONFIG),
        (reads(largest=10), Limits(None, 0, CALM), LedgerTotals(0, 0, 0), 10, 0.0, Source.OS),
        (reads(0), Limits(None, 0, CALM), LedgerTotals(0, 0, 9), 0, 100.0, Source.OS),
        (reads(None, None), Limits(None, 0, CALM), LedgerTotals(0, 0, 0), None, None, None),
        (reads(None, None), Limits(500, 0, CALM), LedgerTotals(100, 0, 0), 400, 20.0, Source.CONFIG),
        (reads(None, 1000), Limits(None, 0, CALM), LedgerTotals(0, 0, 0), None, None, Source.OS),
        (reads(0, 0), Limits(None, 0, CALM), LedgerTotals(0, 0, 0), 0, 100.0, Source.OS),
    ],
)
def test_headroom(
    readings: Readings,
    limits: Limits,
    ledger: LedgerTotals,
    available: int | None,
    percentage: float | None,
    source: Source | None,
) -> None:
    """The room is the smaller of what the hardware gives and what the cap leaves; unknown stays unknown."""
    room = headroom(readings, limits, ledger)
    assert (room.available_bytes, room.pressure_percentage, room.budget_source) == (
        available,
        percentage,
        source,
    )


@given(
    free=st.none() | st.integers(0, 10**6),
    budget=st.none() | st.integers(0, 10**6),
    largest=st.none() | st.integers(0, 10**6),
    limit=st.none() | st.integers(1, 10**6),
    reserve=st.integers(0, 10**6),
    ledger=st.builds(
        LedgerTotals, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(-(10**6), 10**6)
    ),
)
def test_headroom_is_sane(
    free: int | None,
    budget: int | None,
    largest: int | None,
    limit: int | None,
    reserve: int,
    ledger: LedgerTotals,
) -> None:
    """Room is never negative or more than any source allows, and pressure is a percentage."""
    room = headroom(reads(free, budget, largest), Limits(limit, reserve, CALM), ledger)
    if room.available_bytes is not None:
        assert 0 <= room.available_bytes <= (room.total_bytes or 0)
        assert limit is None or room.available_bytes <= limit
        assert largest is None or room.available_bytes <= largest
        assert free is None or room.available_bytes <= max(0, free - ledger.drift_bytes)
    assert room.pressure_percentage is None or 0 <= room.pressure_percentage <= 100
    assert (room.pressure_percentage is None) == (room.total_bytes is None or room.budget_bytes is None)


@pytest.mark.parametrize(
    ("percentage", "level"),
    [
        (None, PressureLevel.UNKNOWN),
        (0, PressureLevel.LOW),
        (74.999, PressureLevel.LOW),
        (75, PressureLevel.MODERATE),
        (90, PressureLevel.HIGH),
        (94.999, PressureLevel.HIGH),
        (95, PressureLevel.CRITICAL),
        (100, PressureLevel.CRITICAL),
    ],
)
def test_levels(percentage: float | None, level: PressureLevel) -> None:
    """A level begins at its threshold."""
    assert level_of(percentage, CALM) is level


def test_thresholds_are_configured() -> None:
    """The thresholds are those of the device, not the defaults."""
    assert level_of(50, PressureThresholds(10, 20, 50)) is PressureLevel.CRITICAL


def test_worst() -> None:
    """The worst level counts; unknown is none of them unless it is all there is."""
    assert worst([]) is PressureLevel.UNKNOWN
    assert worst([PressureLevel.UNKNOWN]) is PressureLevel.UNKNOWN
    assert worst([PressureLevel.UNKNOWN, PressureLevel.LOW]) is PressureLevel.LOW
    assert worst([PressureLevel.HIGH, PressureLevel.CRITICAL, PressureLevel.LOW]) is PressureLevel.CRITICAL


def test_default_limits() -> None:
    """The CPU keeps 1/64 of its budget for the system, at most 256 MiB; other devices nothing."""
    assert default_limits().reserve_bytes == 0
    assert default_limits(cpu_budget_bytes=GIB).reserve_bytes == GIB // 64
    assert default_limits(cpu_budget_bytes=1024 * GIB, limit_bytes=5) == Limits(5, 256 * 2**20, CALM)


def test_a_default_reserve_follows_the_budget() -> None:
    """Moved into a group of 512 MiB, a worker does not keep half of it free; what somebody set stays as it is."""
    big, small = 1024 * GIB, GIB // 2
    limits = default_limits(cpu_budget_bytes=big, limit_bytes=5)
    assert follow_budget(limits, big, small) == Limits(5, small // 64, CALM)
    assert follow_budget(follow_budget(limits, big, small), small, big) == limits
    for before, now in ((None, small), (big, None), (big, big)):
        assert follow_budget(limits, before, now) is limits
    chosen = Limits(None, 100 * 2**20, CALM)
    assert follow_budget(chosen, big, small) is chosen


# ---- batches ----


@given(
    count=st.integers(1, 10**6),
    each=st.integers(1, 10**9),
    fixed=st.integers(0, 10**9),
    fraction=st.floats(0.01, 1),
    available=st.integers(0, 2**45),
)
def test_batches_fit(count: int, each: int, fixed: int, fraction: float, available: int) -> None:
    """A planned batch fits, one item more would not, and the batches hold all items."""
    try:
        plan = plan_batches(count, each, fixed, fraction, "cpu", available)
    except OutOfMemoryError:
        assert fixed + each > int(available * fraction)
        return
    assert plan.peak_bytes == fixed + plan.batch_size * each <= available * fraction
    assert plan.batch_size == count or plan.peak_bytes + each > int(available * fraction)
    assert (plan.batch_count - 1) * plan.batch_size < count <= plan.batch_count * plan.batch_size
    assert plan.unbatched_bytes == fixed + count * each
    assert 0 <= plan.savings_percentage <= 100


def test_the_smallest_share_of_the_headroom() -> None:
    """A share so small that no float is its inverse is a number like any other."""
    least = least_headroom(1000, 0, 5e-324)
    assert least * Fraction(5e-324) >= 1000 > (least - 1) * Fraction(5e-324)


def test_batches_that_cannot_be_planned() -> None:
    """Unknown headroom is unsupported, more bytes than can be counted is the request's fault."""
    with pytest.raises(UnsupportedError):
        plan_batches(1, 1, 0, 0.9, "cpu", None)
    with pytest.raises(InvalidRequestError):
        plan_batches(INT64_MAX, 2, 0, 0.9, "cpu", 10)


# ---- recommendations ----


def test_recommendations() -> None:
    """Caches are proposed where there are any, joining where memory is in pieces, cheapest per byte first."""
    assert recommend("d", reads()) == ()
    assert recommend("d", reads(pieces=Fragmentation(100, 95, 5.0))) == ()
    clear, join = recommend("d", reads(cached=GIB, pieces=Fragmentation(100, 50, 50.0)))
    assert (clear.action, clear.expected_freed_bytes) == (ClearCache("d"), GIB)
    assert (join.action, join.expected_freed_bytes) == (Defragment("d"), 0)
    assert cheapest_first((join, clear)) == (clear, join)


def test_what_each_level_may_do() -> None:
    """Conservative loses nothing, normal what nobody uses, aggressive also what was used lately and a process."""
    allowed = {
        ClearCache("d"): 3,
        UnloadModel("m"): 2,
        Defragment("d"): 2,
        EvictBytes("d", 1): 1,
        Defragment("d", restart=True): 1,
    }
    for action, levels in allowed.items():
        row = Recommended(action, 1, 1, "", "")
        assert [each for each in OptimizationLevel if is_allowed(row, each)] == [*OptimizationLevel][
            3 - levels :
        ]
    for cost_ms, levels in ((0.0, 3), (0.2, 2)):
        way = ReleaseMemory("d", Release("c", "cache", 1, 1, cost_ms, (), ""))
        assert [each for each in OptimizationLevel if is_allowed(way, each)] == [*OptimizationLevel][
            3 - levels :
        ]
