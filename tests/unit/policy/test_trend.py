"""Where the room is heading: what is said of curves whose end is known, and of those that have none."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.forecast import looks
from benchmarks.forecast_curves import Curve, generated, recorded
from protocol.results import PressureTrend
from worker.core.records import HeadroomSample
from worker.policy.forecast_alarm import (
    ALARM_SECONDS,
    CONFIRM_NS,
    WITHDRAW_NS,
    ForecastAlarm,
    consider,
)
from worker.policy.polling import CALM_NS, NEAR_NS, SOONEST_NS, TIDY_NS, next_sample_ns
from worker.policy.trend import CONFIDENCE, MIN_SAMPLES, forecast, may_run_out
from worker.watch.headroom_series import CAPACITY, REACH_NS, STEP_NS, HeadroomSeries

S = 10**9
MIB = 2**20
ENDLESS = {
    "steady, white noise",
    "steady, lasting noise",
    "waves",
    "growth, then a plateau",
    "one step",
}


def line(
    count: int, slope: float, start: float = 1e9, noise: float = 0.0, seed: int = 0
) -> list[HeadroomSample]:
    """Sample a straight line every half second."""
    r = random.Random(seed)
    return [
        HeadroomSample(i * S // 2, max(0, round(start + slope * i / 2 + r.gauss(0, noise))))
        for i in range(count)
    ]


def test_a_straight_leak() -> None:
    """A leak without noise is foretold to the second."""
    said = forecast(line(60, -10e6))
    assert said is not None
    assert said.seconds_to_exhaustion == pytest.approx(1e9 / 10e6 - 29.5, rel=0.01)
    assert said.bytes_per_second == pytest.approx(10e6, rel=0.01)
    assert said.low_seconds is not None
    assert said.high_seconds is not None
    assert said.low_seconds <= said.seconds_to_exhaustion <= said.high_seconds


@pytest.mark.parametrize("count", range(MIN_SAMPLES))
def test_too_few_readings(count: int) -> None:
    """Nothing is said of next to nothing."""
    assert forecast(line(count, -10e6)) is None
    assert not may_run_out(line(count, -10e6))


@pytest.mark.parametrize("slope", [0.0, 1e6, -1e3])
def test_no_number_where_there_is_none(slope: float) -> None:
    """Room that stays, grows, or shrinks too slowly has a slope and no end."""
    said = forecast(line(40, slope))
    assert said is not None
    assert (said.seconds_to_exhaustion, said.low_seconds, said.high_seconds) == (None, None, None)
    assert said.bytes_per_second == pytest.approx(-slope, abs=1.0)


def test_no_further_ahead_than_was_seen() -> None:
    """Ten seconds of a leak do not tell of the next five minutes."""
    said = forecast(line(20, -1e9 / 300))
    assert said is not None
    assert said.seconds_to_exhaustion is None
    longer = forecast(line(200, -1e9 / 300))
    assert longer is not None
    assert longer.seconds_to_exhaustion == pytest.approx(300 - 99.5, rel=0.02)


def test_gone_already() -> None:
    """Where nothing is left, nothing is left to wait for."""
    said = forecast(line(60, -50e6))
    assert said is not None
    assert said.seconds_to_exhaustion in {0.0, None}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5 * S), st.integers(0, 2**45)), max_size=70))
def test_any_readings(steps: list[tuple[int, int]]) -> None:
    """Whatever is read, the answer is in order, and what cannot run out is not foretold."""
    now, samples = 0, []
    for later, room in steps:
        now += later
        samples.append(HeadroomSample(now, room))
    said = forecast(samples)
    if said is None or said.seconds_to_exhaustion is None:
        return
    assert said.low_seconds is not None
    assert said.high_seconds is not None
    assert 0 <= said.low_seconds <= said.seconds_to_exhaustion <= said.high_seconds
    assert may_run_out(samples)


def test_readings_a_moment_apart() -> None:
    """Several readings within nanoseconds, between others seconds apart, break nothing."""
    moment = S // 1000
    times = (
        2,
        2,
        2,
        4,
        S + 4,
        S + moment + 4,
        S + moment + 5,
        S + moment + 7,
        S + moment + 8,
        S + 2 * moment + 8,
    )
    taken = (0, 10**7, 10004096, 20004096, 30004096, 30008192, 30012288, 30016384, 30020480, 30020480)
    forecast([HeadroomSample(at, 10**9 - size) for at, size in zip(times, taken, strict=True)])


CURVES = [curve for seed in (3, 5) for curve in generated(seed)]


@pytest.mark.parametrize("curve", [curve for curve in CURVES if curve.name in ENDLESS], ids=lambda c: c.name)
def test_what_never_ends_gives_no_alarm(curve: Curve) -> None:
    """Noise, waves, plateaus and single steps are no alarm: at most one look in fifty says otherwise."""
    said = looks(curve, forecast, 8.0)
    assert sum(look.number is not None for look in said) <= len(said) // 50


def test_the_interval_holds_the_truth_at_the_stated_rate() -> None:
    """Of all that is foretold of what does end, the stated share is right."""
    said = [
        look
        for curve in CURVES
        if curve.ends is not None and curve.name != "saw-tooth with a leak"
        for look in looks(curve, forecast, 8.0)
        if look.number is not None
    ]
    assert len(said) > 30
    assert sum(look.covered for look in said) >= CONFIDENCE * len(said)


@pytest.mark.parametrize("curve", recorded(), ids=lambda c: c.name)
def test_recorded_curves(curve: Curve) -> None:
    """What real processes did: the one that leaked is found out, the others are let be."""
    said = looks(curve, forecast, 8.0)
    numbers = [look for look in said if look.number is not None]
    if curve.ends is None:
        assert len(numbers) <= max(1, len(said) // 20)
    else:
        assert len(numbers) > 0
        assert sum(look.covered for look in numbers) >= CONFIDENCE * len(numbers)


# ---- the samples that are kept ----


@given(st.lists(st.integers(0, 3 * S), max_size=300))
def test_the_series_is_bounded_and_keeps_the_ends(steps: list[int]) -> None:
    """However many readings come, few are kept: in order, dense lately, and the last as it is."""
    series, now = HeadroomSeries(), 0
    for number, later in enumerate(steps):
        now += later
        series.add(HeadroomSample(now, number))
    kept = series.samples()
    assert len(kept) <= CAPACITY
    assert [each.at_ns for each in kept] == sorted(each.at_ns for each in kept)
    if steps:
        assert kept[-1] == HeadroomSample(now, len(steps) - 1)
        assert now - kept[0].at_ns <= REACH_NS + 3 * S


def test_the_series_thins_with_age() -> None:
    """After an hour of readings twice a second the last seconds are dense and the quarter of an hour is covered."""
    series = HeadroomSeries()
    for number in range(7200):
        series.add(HeadroomSample(number * S // 2, 0))
    kept = series.samples()
    now = kept[-1].at_ns
    assert sum(now - each.at_ns <= 5 * S for each in kept) >= 8
    assert now - kept[0].at_ns >= 0.8 * REACH_NS


def test_a_burst_does_not_push_the_past_out() -> None:
    """Thousands of changes within a moment are one or two samples."""
    series = HeadroomSeries()
    for number in range(20):
        series.add(HeadroomSample(number * S, number))
    for number in range(5000):
        series.add(HeadroomSample(20 * S + number * STEP_NS // 5000, 100 + number))
    assert len(series.samples()) <= 23
    assert series.samples()[-1].headroom_bytes == 5099


# ---- when it is told ----


def ends_in(seconds: float | None) -> PressureTrend:
    """Make a forecast."""
    return PressureTrend(1.0, seconds, seconds, seconds)


def tell(steps: list[tuple[int, float | None]]) -> list[bool]:
    """Follow (nanoseconds later, seconds left) and return whether it was told."""
    alarm, now, told = ForecastAlarm(), 0, []
    for later, seconds in steps:
        now += later
        alarm, say = consider(alarm, ends_in(seconds), now)
        told.append(say)
    return told


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        pytest.param([(0, 60.0), (CONFIRM_NS - 1, 59.0), (1, 59.0), (S, 58.0)], [False, False, True, False], id="once, when it stood"),
        pytest.param([(0, 60.0), (S // 2, None), (S // 2, 60.0), (S // 2, 60.0)], [False] * 4, id="not when it came and went"),
        pytest.param([(0, ALARM_SECONDS + 1), (S, ALARM_SECONDS + 1)], [False, False], id="not what is far off"),
        pytest.param([(0, 100.0), (S, 100.0), (S, 99.0), (S, 60.0), (S, 59.0)], [False, True, False, False, True], id="again when it is nearer"),
        pytest.param([(0, 60.0), (S, 60.0), (S, None), (WITHDRAW_NS - 1, None), (1, None), (S, None)], [False, True, False, False, True, False], id="taken back once"),
        pytest.param([(0, 60.0), (S, 60.0), (S, None), (S, 57.0), (S, 56.0)], [False, True, False, False, False], id="a gap is no end"),
    ],
)  # fmt: skip
def test_forecasts_are_told(steps: list[tuple[int, float | None]], told: list[bool]) -> None:
    """A forecast is told once it stood, again when it got worse, and taken back when it is gone."""
    assert tell(steps) == told


# ---- how often it is looked ----


@pytest.mark.parametrize(
    ("left", "speed", "cached", "wait"),
    [
        (500, 0.0, False, CALM_NS),
        (None, 0.0, False, CALM_NS),
        (500, -100.0, False, CALM_NS),
        (19, 0.0, False, NEAR_NS),
        (500, 0.0, True, TIDY_NS),
        (500, 500 / 8 / 2, False, 2 * S),
        (500, 1e6, False, SOONEST_NS),
        (0, 1.0, False, SOONEST_NS),
    ],
)
def test_polling(left: int | None, speed: float, cached: bool, wait: int) -> None:
    """Tight when a threshold is near or coming fast, slow when all is calm."""
    assert next_sample_ns(left, 1000, speed, cached=cached) == wait
