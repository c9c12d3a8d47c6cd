"""Models that go as asked, by goal, by level or all of one kind: what goes, what stays, and what is told of it."""

from typing import Any

import pytest

from protocol.vocabulary import ClearType, OptimizationLevel, PressureLevel
from tests.unit.machine import MIB, Machine
from tests.unit.workers.model_machines import Make, make
from worker.core.actions import EvictBytes, UnloadModel
from worker.core.clock import NS_PER_S
from worker.core.records import ModelDemand, WayToPlan
from worker.eviction.planner import EvictionPlan
from worker.interface.model_optimize import ModelOptimizer
from worker.manager.eviction_plans import EvictionPlans
from worker.plugins._leases import Models

__all__ = ["make"]


def optimize(machine: Machine, **demand: Any) -> Any:
    return machine.memory.models.optimize(
        machine.memory.devices.ids("sim:0"), ModelDemand(**demand), machine.token()
    )


def test_optimizing_stops_when_the_goal_is_met(make: Make) -> None:
    """The dry run and the real one choose the same models, and no more than the goal needs."""
    machine = make(room=16 * MIB)
    machine.load("a"), machine.load("b"), machine.load("c")
    planned = optimize(machine, min_bytes=5 * MIB, dry_run=True)
    assert not planned.optimization_triggered and planned.goal_met
    assert machine.manager.pressure.status("sim:0").model_bytes == 12 * MIB
    done = optimize(machine, min_bytes=5 * MIB)
    assert [row.model_id for row in done.models_unloaded] == [row.model_id for row in planned.models_unloaded]
    assert done.goal_met and done.memory_freed_bytes == done.memory_returned_bytes == 8 * MIB
    assert {row.model_id for row in done.models_kept} | {row.model_id for row in done.models_unloaded} == set(
        "abc"
    )
    machine.check()


@pytest.mark.parametrize(
    ("target", "left"), [(PressureLevel.LOW, 2), (50.0, 2), (30.0, 1), (PressureLevel.HIGH, 3)]
)
def test_a_target_of_pressure(make: Make, target: Any, left: int) -> None:
    """Models go until the level, or the percentage, is reached."""
    machine = make(room=16 * MIB)
    for each in "abc":
        machine.load(each)
    done = optimize(machine, target=target)
    assert 3 - len(done.models_unloaded) == left
    assert done.goal_met
    assert machine.manager.pressure.headroom("sim:0").pressure_percentage <= (
        target if isinstance(target, float) else 95
    )


def test_limits_of_optimizing_are_kept_and_told(make: Make) -> None:
    """Number, exclusions, time and force are held to, and every model that stays has its reason."""
    machine = make(room=16 * MIB)
    for each in "abc":
        machine.load(each)
    unmeetable = optimize(machine, min_bytes=64 * MIB)
    assert not unmeetable.goal_met and not unmeetable.models_unloaded
    assert all("would not help" in row.reason for row in unmeetable.models_kept)
    limited = optimize(machine, min_bytes=8 * MIB, max_models=1, forced=True, excluded=frozenset({"a"}))
    assert len(limited.models_unloaded) == 1 and not limited.goal_met
    assert "stays: excluded by the request" in {row.reason for row in limited.models_kept}
    timed = optimize(machine, min_bytes=1, max_time_ms=0)
    assert not timed.models_unloaded and not timed.goal_met and "time" in timed.message
    everything = optimize(machine, forced=True)
    assert len(everything.models_unloaded) == 2 and everything.goal_met
    assert optimize(machine).goal_met
    machine.check()


def test_a_plan_says_what_fits_and_changes_nothing(make: Make) -> None:
    """The first way that fits is chosen, the others say what they lack, and no figure moves."""
    machine = make()
    machine.load("a"), machine.load("b")
    before = machine.figures()
    ways = (
        WayToPlan("full", 11 * MIB, "sim:0"),
        WayToPlan("half", 5 * MIB, "sim:0"),
        WayToPlan("tiny", MIB, "sim:0"),
    )
    result = machine.memory.models.plan(ways, machine.token(), allow_eviction=True)
    assert result.selected == "half"
    assert str(11 * MIB) in result.reason and str(2 * MIB) in result.reason
    assert [row.shortfall_bytes for row in result.candidates] == [MIB, 0, 0]
    assert len(result.candidates[1].evictions) == 1
    assert machine.memory.models.plan(ways, machine.token(), allow_eviction=False).selected == "tiny"
    assert (
        machine.memory.models.plan(ways[:1], machine.token(), allow_eviction=False)
        .candidates[0]
        .shortfall_bytes
        == 9 * MIB
    )
    assert machine.figures() == before


def test_clearing_models(make: Make) -> None:
    """``clear`` unloads models but for pinned ones, which it names; ``force`` takes those too."""
    machine = make()
    machine.load("a"), machine.load("b", pin=True)
    cleared = machine.memory.relief.clear(("sim:0",), ClearType.MODELS, None, machine.token(), force=False)
    assert (cleared.cleared_bytes, cleared.returned_bytes) == (4 * MIB, 4 * MIB)
    assert [(row.id, row.reason) for row in cleared.kept] == [("b", "pinned; force: true unloads it too")]
    forced = machine.memory.relief.clear(("sim:0",), ClearType.ALL, None, machine.token(), force=True)
    assert [row.model_id for row in forced.models_unloaded] == ["b"]
    machine.check()


def test_optimizing_by_level(make: Make) -> None:
    """Each level of ``optimize`` allows more of what is recommended."""
    machine = make()
    machine.load("a")
    machine.pass_time(61 * NS_PER_S)
    machine.load("b")
    rows = machine.memory.relief.recommendations(("sim:0",))
    assert [row.action for row in rows] == [UnloadModel("a"), EvictBytes("sim:0", 4 * MIB)]
    steps = {
        level: [
            step.recommended.action
            for step in machine.memory.relief.optimize(("sim:0",), level, machine.token(), dry_run=True).steps
        ]
        for level in OptimizationLevel
    }
    assert [len(each) for each in steps.values()] == [0, 1, 2]
    done = machine.memory.relief.optimize(
        ("sim:0",), OptimizationLevel.AGGRESSIVE, machine.token(), dry_run=False
    )
    assert done.returned_bytes == 8 * MIB
    assert machine.manager.pressure.status("sim:0").model_bytes == 0


def test_models_are_planned_once_and_each_that_stays_says_its_own_reason(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One came into use before its turn, one was used lately: neither is said of the other."""
    machine = make()
    machine.load("a")
    machine.load("b")
    planned, plan_of = list[EvictionPlan](), EvictionPlans.plan

    def counted(self: EvictionPlans, *given: Any, **said: Any) -> EvictionPlan:
        planned.append(plan_of(self, *given, **said))
        return planned[-1]

    def optimized(level: OptimizationLevel) -> dict[str, str]:
        done = machine.memory.relief.optimize(("sim:0",), level, machine.token(), dry_run=False)
        return {each.model_id: each.reason for each in done.models_kept}

    monkeypatch.setattr(EvictionPlans, "plan", counted)
    assert set(optimized(OptimizationLevel.NORMAL)) == {"a", "b"}
    assert len(planned) == 1
    machine.pass_time(60 * NS_PER_S)
    with Models(machine.models, machine.clock).use("b"):
        pass
    recommended = ModelOptimizer.recommended

    def came_into_use(self: ModelOptimizer, *given: Any) -> Any:
        rows = recommended(self, *given)
        machine.models.acquire("a", machine.token())
        return rows

    monkeypatch.setattr(ModelOptimizer, "recommended", came_into_use)
    said = optimized(OptimizationLevel.NORMAL)
    assert "in use" in said["a"] and "ms ago" not in said["a"]
    assert said["b"] == "stays: it was used 0 ms ago, and normal unloads what was not for 60000 ms"
