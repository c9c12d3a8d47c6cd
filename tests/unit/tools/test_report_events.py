"""Each event of a record has its sentence, and what samples tell beside it is drawn."""

from typing import Any

import pytest

from protocol.vocabulary import EventName
from tests.unit.tools.test_report import MIB, lines, sample
from worker.tools.report.events import told
from worker.tools.report.page import page_data
from worker.tools.report.recording import read_recording


def event(name: str, at: int = 2000, **data: Any) -> dict[str, Any]:
    """Make an event's line, of the CPU unless it says otherwise."""
    return {"event": name, "t_ms": at, "data": {"device_id": "cpu"} | data}


UNLOADED = {"step": "memory.unload_model", "data": {"model_id": "a"}, "expected_bytes": 2 * MIB}


CLEARED = {"step": "memory.clear", "data": {}, "expected_bytes": MIB}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            event(
                "memory.exhaustion_forecast", bytes_per_second=MIB, available_bytes=90 * MIB,
                seconds_to_exhaustion=90.4, low_seconds=80, high_seconds=125,
            ),
            ("forecast", "full in 1m30s (1m20s to 2m05s)", "90.0 MiB left, +1.0 MiB/s", 2),
        ),
        (
            event("memory.exhaustion_forecast", seconds_to_exhaustion=5.0, bytes_per_second=-5.0),
            ("forecast", "full in 5s", "unknown left, -5 B/s", 3),
        ),
        (
            event("memory.exhaustion_forecast", seconds_to_exhaustion=None),
            ("forecast", "no longer expected to run full", "it stopped growing, or memory was freed", 0),
        ),
        (
            event(
                "memory.budget_changed", previous_bytes=8 * MIB, budget_bytes=6 * MIB, budget_source="dxgi",
                available_bytes=MIB,
            ),
            ("budget", "budget 8.0 MiB → 6.0 MiB", "as dxgi says; 1.0 MiB available", 1),
        ),
        (
            event("memory.budget_changed", previous_bytes=None, budget_bytes=6 * MIB, budget_source="config"),
            ("budget", "budget unknown → 6.0 MiB", "by this worker's own limit; unknown available", 0),
        ),
        (
            event(
                "memory.leak_suspected", kind="allocations", owner="kv", purpose="cache", allocated_bytes=3 * MIB,
                bytes_per_second=2048.0, confidence=0.8, evidence="8 allocations over 9 ms, none of them freed",
            ),
            (
                "leak", "kv may leak 3.0 MiB of cache",
                "8 allocations over 9 ms, none of them freed, +2.0 KiB/s, confidence 0.8", 2,
            ),
        ),
        (
            event("memory.leak_suspected", kind="process", allocated_bytes=3, confidence=1.0, evidence="e"),
            ("leak", "the process may leak 3 B that nothing explains", "e, confidence 1.0", 2),
        ),
        (
            event("memory.leak_suspected", kind="process", owner="operation:index", allocated_bytes=3, confidence=1.0, evidence="e"),
            ("leak", "the process may leak 3 B that nothing explains, growing in operation:index", "e, confidence 1.0", 2),
        ),
        (
            event("memory.leak_suspected", kind="python", owner="a.py:5", allocated_bytes=3, confidence=1.0),
            ("leak", "Python objects of a.py:5 may leak 3 B", ", confidence 1.0", 2),
        ),
        (
            event(
                "memory.optimized", pressure_level="high", helped=True, next_in_ms=30_000,
                returned_bytes=3 * MIB, steps=[UNLOADED, CLEARED],
            ),
            (
                "automatic", "automatic: unloaded a, gave caches up",
                "high pressure lasted; it helped: 3.0 MiB returned of 3.0 MiB promised; nothing more for 30s", 0,
            ),
        ),
        (
            event(
                "memory.optimized", pressure_level="high", helped=True, next_in_ms=30_000, returned_bytes=2 * MIB, steps=[],
                released=[{"consumer_id": "server:ollama", "claimed_bytes": 2 * MIB, "returned_bytes": 2 * MIB}],
            ),
            (
                "automatic", "automatic: asked server:ollama",
                "high pressure lasted; it helped: 2.0 MiB returned of 2.0 MiB promised; nothing more for 30s", 0,
            ),
        ),
        (
            event("memory.optimized", pressure_level="high", helped=False, next_in_ms=0, steps=[CLEARED]),
            (
                "automatic", "automatic, in vain: gave caches up",
                "high pressure lasted; it did not help: unknown returned of 1.0 MiB promised; nothing more for 0s", 2,
            ),
        ),
        (
            event("device.lost", allocation_ids=["alloc-1"], model_ids=["a", "b"], reason="its process ended"),
            ("lost", "cpu lost 1 allocation and 2 models", "its process ended", 3),
        ),
        (
            event("device.recovered", lost_ms=1234),
            ("recovered", "cpu is back after 1.2 s", "nothing that was on it came back", 0),
        ),
        (
            event("memory.unload_requested", model_id="a", size_bytes=MIB, reason="room", wait_ms=5000),
            ("asked", "the owner of a was asked to unload it", "room; 1.0 MiB, waits for up to 5s", 1),
        ),
        (
            event("memory.unload_requested", model_id="a", size_bytes=MIB, reason="room", wait_ms=None),
            ("asked", "the owner of a was asked to unload it", "room; 1.0 MiB, nothing waits for it", 1),
        ),
    ],
)  # fmt: skip
def test_every_event_has_its_sentence(line: dict[str, Any], said: tuple[Any, ...]) -> None:
    """What a person wants to know of it, and how bad it is."""
    (row,) = read_recording(lines(line)).happenings.told()
    assert (row.kind, row.title, row.reason, row.severity) == said


def test_no_event_of_the_contract_is_left_to_the_general_words() -> None:
    """Every one has a sentence of its own, or is told by the decision that it is of."""
    said = [told(name, {"to": "low", "steps": []}) for name in EventName]
    assert [each for each in said if each is not None and each.kind == "event"] == []


def test_a_budget_that_only_breathes_is_not_told() -> None:
    """The system moves it all the time; less than a hundredth is nothing that happened."""
    breath = event("memory.budget_changed", previous_bytes=1000, budget_bytes=991, budget_source="os")
    assert read_recording(lines(breath)).happenings.told() == []


def test_a_level_that_another_signal_led_to_says_which() -> None:
    """How full it was explains nothing where others are stalled; where it was full, that is the reason."""
    stall = {"name": "stall_full_avg10_percentage", "value": 12.34, "level": "high"}
    full = {"name": "budget_used_percentage", "value": 91.0, "level": "high"}
    change = event(
        "memory.pressure_changed", 2000, **{"from": "low", "to": "high", "pressure_percentage": 9.0}
    )
    for signals, reason in (
        ([stall], "stall full avg10 12.3 %"),
        ([full, stall], "9.0 % of the budget in use, by all processes"),
    ):
        recording = read_recording(lines(change, sample(2900, 0, pressure_level="high", signals=signals)))
        assert recording.happenings.told()[0].reason == reason
    late = read_recording(lines(change, sample(9000, 0, pressure_level="high", signals=[stall])))
    assert late.happenings.told()[0].reason == "9.0 % of the budget in use, by all processes"


def test_trends_signals_and_forecasts_are_drawn() -> None:
    """Each sample has its own; a record of an earlier worker has none."""
    trend = {"bytes_per_second": 5, "seconds_to_exhaustion": 9.5, "low_seconds": 8, "high_seconds": None}
    notified = {"name": "low_memory_notification", "value": 2.0, "level": "critical"}
    foretold = {"seconds_to_exhaustion": 9.5, "low_seconds": 8.0, "high_seconds": 12.0, "available_bytes": 7}
    recording = read_recording(
        lines(
            sample(1000, 1),
            sample(2000, 2, trend=trend, signals=[notified]),
            event("memory.exhaustion_forecast", 2500, **foretold),
            event("memory.exhaustion_forecast", 3000, seconds_to_exhaustion=None),
        )
    )
    (drawn,) = page_data(recording)["devices"]
    assert drawn["trend"] == [None, [5.0, 9.5, 8.0, None]]
    assert drawn["signals"] == [[], ["low memory notification 2"]]
    assert drawn["forecasts"] == [[1500, 9.5, 8.0, 12.0, 7]]
