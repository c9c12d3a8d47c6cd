"""Events and recommended actions: typed inside, by the contract's names and types on the wire."""

import ast
from pathlib import Path

import orjson
import pytest

from protocol.actions import ACTIONS, EVENTS
from protocol.contract import adapter
from protocol.generate import ROOT
from protocol.results import DeviceFigures, Eviction, Expiration, PressureTrend, SuspectedLeak
from protocol.vocabulary import DeviceState, EventName, LeakKind, PressureLevel, Source
from worker.core import events as e
from worker.core.actions import (
    ClearCache,
    Defragment,
    EvictBytes,
    Recommended,
    RecommendedAction,
    Step,
    UnloadModel,
)
from worker.instructor.events import event_types, wire_event
from worker.instructor.recommendations import wire_recommendations

LOW, HIGH = PressureLevel.LOW, PressureLevel.HIGH
ACTIONS_TO_TAKE = (
    ClearCache("cpu"),
    UnloadModel("m"),
    EvictBytes("cpu", 7),
    Defragment("cpu"),
    Defragment("cpu", restart=True),
)
FIGURES = DeviceFigures(
    "cpu", DeviceState.AVAILABLE, HIGH, 91.0, 9, 5, 4, 3, 2, 1, 0, 0, PressureTrend(1.5, 2.0, 1.0, 3.0)
)
HAPPENED = (
    e.PressureChanged("cpu", LOW, HIGH, 91.0, 5),
    e.ExhaustionForecast("cpu", 5, PressureTrend(1.5, 2.0, 1.0, 3.0)),
    e.ExhaustionForecast("cpu", 5, None),
    e.BudgetChanged("cpu", None, 7, Source.OS, 5),
    e.DemotionChanged("dml:0", 0, 7),
    e.LeakSuspected(SuspectedLeak("cpu", LeakKind.ALLOCATIONS, "o", None, 9, 7, 5, 0.5, 0.9, "grows")),
    e.Optimized(
        "cpu", HIGH, tuple(Step(Recommended(each, 1, 2, "this", "why"), None) for each in ACTIONS_TO_TAKE), 1, 1,
        helped=True, next_in_ms=3, reason="why",
    ),
    e.AllocationExpired(Expiration("alloc-1", "cpu", "o", 0, 7, None)),
    e.ModelUnloaded(Eviction("m", "cpu", 0, 7, 7, "why")),
    e.UnloadRequested("m", "cpu", 7, "why", None),
    e.ReleaseRequested("c", 7, 5, "why", 5000),
    e.ConsumerLimitChanged("c", None, "why"),
    e.DeviceLost("cpu", "why", ("alloc-1",), ("m",)),
    e.DeviceRecovered("cpu", 5),
    e.ContentsDisplaced("cpu", "why", 5, ("alloc-1",), ("m",)),
    e.Figures(5, HIGH, (FIGURES,), tuple(Recommended(each, 1, 2, "this", "why") for each in ACTIONS_TO_TAKE)),
)  # fmt: skip


@pytest.mark.parametrize("event", HAPPENED, ids=lambda event: type(event).__name__)
def test_each_is_what_the_contract_says(event: e.Event) -> None:
    """What is written is valid by the contract's own type, and is subscribed to by the name it comes under."""
    name, data = wire_event(event)
    adapter(EVENTS[name].__name__).validate_json(orjson.dumps(data))
    assert event_types((name,)) == (type(event),)


def test_every_event_of_the_contract_has_a_type() -> None:
    """Nothing can be subscribed to that never comes."""
    assert {wire_event(event)[0] for event in HAPPENED} == set(EventName) == {*EVENTS} - {"progress"}
    assert len(event_types(tuple(EventName))) == len(EventName)


@pytest.mark.parametrize("action", ACTIONS_TO_TAKE, ids=repr)
def test_a_recommendation_is_a_request(action: RecommendedAction) -> None:
    """It can be sent as it stands."""
    (row,) = wire_recommendations((Recommended(action, 1, 2, "this", "why"),))
    ACTIONS[row.action].params.model_validate(row.data)


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ((1, 2), (2, 3), (1, 3)),
        ((2, 3), (1, 2), (1, 3)),  # two threads, and the later one was faster
        ((1, 2), (2, 1), (1, 1)),
    ],
)
def test_two_steps_are_one(first: tuple[int, int], second: tuple[int, int], both: tuple[int, int]) -> None:
    """From where the earlier began to where the later ended, with the later's figures; back again is no step."""
    merged = e.BudgetChanged("cpu", *first, None, first[1]).merged_with(
        e.BudgetChanged("cpu", *second, None, second[1])
    )
    assert (merged.before, merged.after, merged.available_bytes) == (*both, both[1])
    assert merged.is_noop() == (both[0] == both[1])


@pytest.mark.parametrize(
    "folder",
    ["interface", "workers", "watch", "manager", "policy", "eviction", "core", "background", "backends"],
)
def test_no_wire_name_below_the_instructor(folder: str) -> None:
    """Requests and events are types there: no action is named, whatever is done or recommended."""
    for path in sorted((ROOT / "worker" / folder).rglob("*.py")):
        assert _strings(path) & ({*ACTIONS} | {*EVENTS}) == set(), path


def _strings(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
