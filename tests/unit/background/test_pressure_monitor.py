"""Looking unasked: how often, what is seen at once without it, and what is told."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedBackend, SimulatedDevice
from worker.background.pressure_monitor import PressureMonitor
from worker.core.events import BudgetChanged, ExhaustionForecast, LeakSuspected, PressureChanged
from worker.policy.polling import CALM_NS, NEAR_NS, SOONEST_NS

S = 10**9
TOTAL = 1024 * MIB


class Rig:
    """A machine whose simulated device others use, too, and a watch over it."""

    def __init__(self, folder: Path) -> None:
        self.machine = Machine(folder, SimulatedDevice(total_bytes=TOTAL))
        self.memory = self.machine.memory
        self.looks: list[int] = []
        self.others = 0
        """Bytes that another process takes."""
        backend = self.machine.backends["sim:0"]
        assert isinstance(backend, SimulatedBackend)
        read = backend.readings

        def readings(device_id: str) -> Any:
            now = self.machine.clock.now_ns()
            if not self.looks or self.looks[-1] != now:
                self.looks.append(now)
            seen = read(device_id)
            assert seen.free_bytes is not None
            return replace(seen, free_bytes=max(0, seen.free_bytes - self.others), largest_block_bytes=None)

        backend.readings = readings
        self.told = self.machine.told
        parts = self.machine.parts
        self.monitor = PressureMonitor(parts.core, self.memory, parts.trends, parts.leaks, parts.pace)
        parts.pace.set(self.machine.clock.now_ns())
        self.monitor.run_due()
        self.looks.clear()

    def run(self, seconds: float, grow: float = 0.0) -> None:
        """Let time pass in steps of 10 ms, while others take ``grow`` bytes a second."""
        for _ in range(round(seconds * 100)):
            self.others += round(grow / 100)
            self.machine.pass_time(S // 100)
            self.monitor.run_due()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Return one."""
    made = Rig(tmp_path)
    yield made
    made.machine.close()


def test_calm(rig: Rig) -> None:
    """While nothing moves it looks every five seconds, and tells nothing."""
    rig.run(60)
    assert len(rig.looks) == pytest.approx(60 * S / CALM_NS, abs=1)
    assert rig.machine.events == []


def test_what_changed_from_outside_is_looked_at_at_once(rig: Rig) -> None:
    """As when a device's process tells of it: nobody waits for the next time, also right after the last."""
    rig.run(CALM_NS / S + 0.01)
    rig.looks.clear()
    for _ in range(2):
        rig.machine.watch._sample_soon("sim:0")
        rig.run(0.01)
    assert len(rig.looks) == 2
    rig.machine.watch._sample_soon("sim:1")
    rig.run(1)
    assert len(rig.looks) == 2, "it is nobody's device"


def test_near_a_threshold(rig: Rig) -> None:
    """Just below a threshold it looks twice a second."""
    rig.others = int(0.74 * TOTAL)
    rig.run(2 * CALM_NS / S)
    rig.looks.clear()
    rig.run(10)
    assert len(rig.looks) == pytest.approx(10 * S / NEAR_NS, abs=1)


def test_moving_fast(rig: Rig) -> None:
    """When another process takes memory fast, looks come closer and closer, down to the shortest interval."""
    rig.run(CALM_NS / S, grow=20 * MIB)
    rig.run(35, grow=20 * MIB)
    gaps = [b - a for a, b in zip(rig.looks, rig.looks[1:], strict=False)]
    assert min(gaps) <= 2 * SOONEST_NS
    first = next(data for data in rig.told(PressureChanged))
    assert (first.before, first.after) == ("low", "moderate")
    assert first.pressure_percentage < 76


def test_own_changes_are_seen_at_once(rig: Rig) -> None:
    """What the worker itself does is told without waiting for a look, and brings the next look nearer."""
    rig.machine.allocate("sim:0", int(0.955 * TOTAL))
    told = rig.told(PressureChanged)
    assert [event.after for event in told] == ["critical"]
    before = rig.machine.clock.now_ns()
    rig.looks.clear()
    rig.run(1)
    assert rig.looks
    assert rig.looks[0] - before <= S


def test_a_leak_is_foretold_before_it_is_critical(rig: Rig) -> None:
    """Forecast, levels, then the forecast taken back once it is over: in that order, and not more than that."""
    rig.run(30)
    for _ in range(55):
        rig.run(1, grow=14 * MIB)
    kinds = [type(event) for event in rig.machine.events if event.about == "sim:0"]
    assert kinds[0] is ExhaustionForecast
    assert kinds.count(PressureChanged) >= 1
    first = rig.told(ExhaustionForecast)[0]
    left = first.available_bytes / (14 * MIB)
    assert 0.98 * first.trend.low_seconds <= left <= 1.02 * first.trend.high_seconds
    rig.run(120)
    assert rig.told(ExhaustionForecast)[-1].trend is None
    assert len(rig.told(ExhaustionForecast)) <= 6


def test_budgets(rig: Rig) -> None:
    """Another budget is told with the one before, and what was measured against the old one is forgotten."""
    rig.run(20, grow=10 * MIB)
    limits = rig.machine.manager.devices.limits("sim:0")
    rig.memory.relief.set_limits("sim:0", replace(limits, limit_bytes=512 * MIB))
    rig.memory.relief.set_limits("sim:0", replace(limits, reserve_bytes=MIB))
    told = [(data.before, data.after) for data in rig.told(BudgetChanged)]
    assert told == [(TOTAL, 512 * MIB), (512 * MIB, TOTAL)]
    assert rig.machine.parts.trends.trend("sim:0") is None


def test_leaks(rig: Rig) -> None:
    """A suspicion is told once, and again when it has doubled."""
    for _ in range(100):
        rig.machine.allocate("sim:0", MIB, owner="leaky")
        rig.run(2)
    told = [data.leak for data in rig.told(LeakSuspected) if data.leak.owner == "leaky"]
    assert 1 <= len(told) <= 5
    assert all(b.allocated_bytes >= 2 * a.allocated_bytes for a, b in itertools.pairwise(told))


def test_a_look_that_fails(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    """A bug in a look is logged, and the next look comes."""

    def broken(_max_age_ms: int) -> None:
        message = "broken"
        raise RuntimeError(message)

    sample, rig.memory.sample = rig.memory.sample, broken
    rig.run(CALM_NS / S)
    rig.memory.sample = sample
    rig.looks.clear()
    rig.run(2 * CALM_NS / S)
    assert rig.looks


def test_a_device_that_is_lost(rig: Rig) -> None:
    """A device that went away is not looked at, and its budget is not told to be gone."""
    rig.machine.manager.lose_device("sim:0", "told to")
    rig.run(20)
    assert rig.told(BudgetChanged) == []


def test_new_limits_hold_no_old_level(rig: Rig) -> None:
    """A level that only the limits before led to ends with them; it is held against what moves, not what is set."""
    rig.others = TOTAL // 2
    rig.run(2 * CALM_NS / S)
    manager, relief = rig.machine.manager, rig.memory.relief
    limits = manager.devices.limits("sim:0")
    low = replace(limits.thresholds, moderate=10.0, high=20.0, critical=30.0)
    relief.set_limits("sim:0", replace(limits, thresholds=low))
    assert manager.pressure.level("sim:0") == "critical"
    relief.set_limits("sim:0", limits)
    assert manager.pressure.level("sim:0") == "low"
    assert [(each.before, each.after) for each in rig.told(PressureChanged)] == [
        ("low", "critical"),
        ("critical", "low"),
    ]
