"""Levels: up at once, down late and only when clear, from every sign of pressure there is."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.results import PressureThresholds
from protocol.vocabulary import PressureLevel, Source
from worker.core.records import Signal, SignalKind
from worker.policy.levels import (
    DWELL_NS,
    MARGIN,
    HeldLevel,
    as_signals,
    is_another_demotion,
    settle,
    settle_all,
    signal_level,
)
from worker.policy.pressure import DEFAULT_LIMITS, SEVERITY

LOW, MODERATE, HIGH, CRITICAL = (
    PressureLevel.LOW,
    PressureLevel.MODERATE,
    PressureLevel.HIGH,
    PressureLevel.CRITICAL,
)
THRESHOLDS = DEFAULT_LIMITS.thresholds
S = 10**9
MIB = 2**20
SHORT, LONG = DWELL_NS - 1, DWELL_NS


def signal(value: float, kind: SignalKind = SignalKind.USED) -> Signal:
    """Make a signal."""
    return Signal("budget_used_percentage", value, Source.OS, kind)


def play(steps: list[tuple[int, float]], thresholds: PressureThresholds = THRESHOLDS) -> list[PressureLevel]:
    """Follow (nanoseconds later, percentage) and return the level told after each."""
    held: dict[str, HeldLevel] = {}
    now, told = 0, []
    for later, value in steps:
        now += later
        held = settle_all(held, (signal(value),), thresholds, now, DWELL_NS)
        told.append(held["budget_used_percentage"].level)
    return told


@pytest.mark.parametrize("before", [60.0, 80.0, 92.0, 99.0])
@pytest.mark.parametrize("after", [60.0, 80.0, 92.0, 99.0])
def test_every_transition(before: float, after: float) -> None:
    """A rise is told at once; a fall once it has lasted, and straight to where it fell to."""
    levels = {60.0: LOW, 80.0: MODERATE, 92.0: HIGH, 99.0: CRITICAL}
    was, is_ = levels[before], levels[after]
    at_once = is_ if SEVERITY[is_] > SEVERITY[was] else was
    assert play([(0, before), (1, after), (SHORT, after), (1, after)]) == [was, at_once, at_once, is_]


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        pytest.param([(0, 95.0), (S, 94.999), (60 * S, 94.0), (60 * S, 93.001)], [CRITICAL] * 4, id="within the margin for ever"),
        pytest.param([(0, 95.0), (S, 92.999), (LONG, 92.999)], [CRITICAL, CRITICAL, HIGH], id="clear by the margin"),
        pytest.param([(0, 95.0), (S, 80.0), (SHORT, 93.5), (1, 80.0), (SHORT, 80.0), (1, 80.0)], [CRITICAL] * 5 + [MODERATE], id="back within the margin begins anew"),
        pytest.param([(0, 95.0), (S, 91.0), (S, 80.0), (LONG - S, 60.0), (S, 60.0), (LONG - S, 60.0)], [CRITICAL, CRITICAL, CRITICAL, HIGH, MODERATE, LOW], id="each lower level has its own time"),
        pytest.param([(0, 80.0), (S, 60.0), (SHORT, 96.0), (1, 60.0), (SHORT, 60.0)], [MODERATE, MODERATE, CRITICAL, CRITICAL, CRITICAL], id="a rise ends the fall"),
        pytest.param([(0, 60.0), (S, 74.999), (S, 75.0)], [LOW, LOW, MODERATE], id="a level begins at its threshold"),
    ],
)  # fmt: skip
def test_falling(steps: list[tuple[int, float]], told: list[PressureLevel]) -> None:
    """A level falls when the signal has been clear of its threshold all the time."""
    assert play(steps) == told


@given(st.lists(st.tuples(st.integers(0, 2 * S), st.floats(93.001, 99)), min_size=1, max_size=60))
def test_no_flapping_around_a_threshold(steps: list[tuple[int, float]]) -> None:
    """What swings around a threshold by less than the margin changes its level once at most."""
    told = play(steps)
    assert sum(one is not other for one, other in itertools.pairwise(told)) <= 1


@given(st.lists(st.tuples(st.integers(0, S), st.floats(0, 100)), min_size=2, max_size=80))
def test_falls_are_rare_whatever_happens(steps: list[tuple[int, float]]) -> None:
    """The level is never below what the figures say now, and rises do not come oftener than falls and one."""
    told = play(steps)
    for (_, value), level in zip(steps, told, strict=True):
        assert SEVERITY[level] >= SEVERITY[signal_level(signal(value), THRESHOLDS)]
    seconds = sum(later for later, _ in steps[1:]) / S
    back_up = sum(
        SEVERITY[b] > SEVERITY[a] and any(SEVERITY[c] >= SEVERITY[b] for c in told[: i + 1])
        for i, (a, b) in enumerate(itertools.pairwise(told))
    )
    assert back_up <= seconds / (DWELL_NS / S) + 1


def test_unknown_is_told_at_once_when_it_is_known() -> None:
    """What had no level gets one with the first figure; what is not measured any more has none."""
    held = settle_all({}, (signal(99.0),), THRESHOLDS, 0, DWELL_NS)
    assert settle_all(held, (), THRESHOLDS, 1, DWELL_NS) == {}
    assert settle(HeldLevel(PressureLevel.UNKNOWN), LOW, LOW, 0, DWELL_NS).level is LOW


def test_thresholds_are_the_devices_own() -> None:
    """Levels go by configured thresholds, and there is a way down from the lowest of them."""
    low = PressureThresholds(1.0, 2.0, 3.0)
    assert low.moderate <= MARGIN
    assert play([(0, 2.5), (1, 0.0), (LONG, 0.0)], low) == [HIGH, HIGH, LOW]
    held = settle_all({}, (signal(50.0),), PressureThresholds(10.0, 20.0, 50.0), 0, DWELL_NS)
    assert held["budget_used_percentage"].level is CRITICAL


@pytest.mark.parametrize(
    ("kind", "value", "level"),
    [
        (SignalKind.SWAP_USED, 50.0, LOW),
        (SignalKind.SWAP_USED, 100.0, MODERATE),
        (SignalKind.SOME_STALLED, 9.99, LOW),
        (SignalKind.SOME_STALLED, 10.0, MODERATE),
        (SignalKind.SOME_STALLED, 100.0, HIGH),
        (SignalKind.ALL_STALLED, 0.0, LOW),
        (SignalKind.ALL_STALLED, 1.0, MODERATE),
        (SignalKind.ALL_STALLED, 10.0, HIGH),
        (SignalKind.ALL_STALLED, 40.0, CRITICAL),
        (SignalKind.NOTIFIED, 0.0, LOW),
        (SignalKind.NOTIFIED, 1.0, HIGH),
        (SignalKind.NOTIFIED, 2.0, CRITICAL),
    ],
)
def test_other_signs(kind: SignalKind, value: float, level: PressureLevel) -> None:
    """Stalls go by time lost, swap alone is no emergency, and the system's own word is taken as it is."""
    assert signal_level(signal(value, kind), THRESHOLDS) is level


def test_the_worst_is_named_first() -> None:
    """Signals say whose figure each is, and the one that makes the level comes first."""
    signals = (signal(10.0), Signal("machine_used_percentage", 96.0, Source.CGROUP))
    held = settle_all({}, signals, THRESHOLDS, 0, DWELL_NS)
    worst, other = as_signals(signals, held)
    assert (worst.name, worst.value, worst.level, worst.source) == (
        "machine_used_percentage", 96.0, CRITICAL, Source.CGROUP,
    )  # fmt: skip
    assert other.level is LOW


@pytest.mark.parametrize(
    ("percentage", "level"), [(0.05, LOW), (0.1, MODERATE), (9.9, MODERATE), (10.0, HIGH), (50.0, CRITICAL)]
)
def test_demotion_has_thresholds_of_its_own(percentage: float, level: PressureLevel) -> None:
    """A tenth of device memory out of the device is much, whatever share of a budget would be."""
    assert signal_level(signal(percentage, SignalKind.DEMOTED), THRESHOLDS) is level


@pytest.mark.parametrize(
    ("told", "now", "another"),
    [
        (0, 0, False),
        (0, 1, True),
        (1, 0, True),
        (MIB, 16 * MIB, False),
        (MIB, 17 * MIB, True),
        (17 * MIB, MIB, True),
    ],
)
def test_a_demotion_is_told_by_steps(told: int, now: int, another: bool) -> None:
    """Its beginning and its end are told of, and in between each 16 MiB."""
    assert is_another_demotion(told, now) is another
