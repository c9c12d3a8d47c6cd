"""A plan that is taken up does exactly what it said, or is stale and does nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.results import AllocateResult, PlanResult
from protocol.vocabulary import MemoryType, ModelState, UnloadMode
from tests.rigs.model_files import spec, write_model
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.clock import NS_PER_MS, NS_PER_S
from worker.core.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    OutOfMemoryError,
    PlanStaleError,
    UnsupportedError,
)
from worker.core.models import ModelSpec
from worker.core.records import AllocationRequest, WayToPlan
from worker.manager.plan_table import PLAN_LIFETIME_NS
from worker.plugins._leases import Models

DEVICE = "sim:0"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine with models a and b of 4 MiB, c of 5 and one of another process, for a device of 10 MiB."""
    models = []
    for index, name in enumerate("abc"):
        write_model(tmp_path / f"{name}.safetensors", (4 + index // 2) * MIB, seed=index)
        models.append(spec(tmp_path / f"{name}.safetensors", device_id=DEVICE))
    models.append(ModelSpec("another's", declared_bytes=MIB))
    shared = tmp_path / "shared"
    shared.mkdir()
    return Machine(shared, SimulatedDevice(10 * MIB), SimulatedDevice(10 * MIB), models=tuple(models))


def plan(machine: Machine, *ways: WayToPlan, allow_eviction: bool = True) -> PlanResult:
    return machine.memory.models.plan(ways, machine.token(), allow_eviction=allow_eviction)


def of_bytes(size: int) -> WayToPlan:
    return WayToPlan("bytes", size, DEVICE)


def of_model(model_id: str, device_id: str | None = None) -> WayToPlan:
    return WayToPlan(model_id, None, device_id, model_id)


def allocate(machine: Machine, size: int, plan_id: str | None, **more: Any) -> AllocateResult:
    request = AllocationRequest(DEVICE, size, **more)
    return machine.memory.allocations.allocate(
        machine.memory.allocations.new_id(), request, machine.token(), plan_id=plan_id
    )


def test_an_allocation_takes_up_what_was_said(machine: Machine) -> None:
    """The models that were named go, those and no others, and a plan is taken up once."""
    machine.load("a"), machine.load("b")
    said = plan(machine, of_bytes(11 * MIB), of_bytes(5 * MIB))
    assert said.plan_expires_in_ms == PLAN_LIFETIME_NS // NS_PER_MS
    made = allocate(machine, 5 * MIB, said.plan_id)
    assert [row.model_id for row in made.models_unloaded] == [
        row.model_id for row in said.candidates[1].evictions
    ]
    assert len(made.models_unloaded) == 1
    with pytest.raises(PlanStaleError, match="taken up"):
        allocate(machine, 5 * MIB, said.plan_id)
    machine.check()
    machine.close()


def test_a_load_takes_up_what_was_said(machine: Machine) -> None:
    """A model is named without its bytes: they are told, and its load does what the plan said."""
    machine.load("a"), machine.load("b")
    said = plan(machine, of_model("c"))
    assert said.selected == "c"
    assert (said.candidates[0].required_bytes, said.candidates[0].device_id) == (5 * MIB, DEVICE)
    loaded = machine.load("c", plan_id=said.plan_id, make_room=False)
    assert [row.model_id for row in loaded.models_unloaded] == [
        row.model_id for row in said.candidates[0].evictions
    ]
    machine.check()
    machine.close()


def test_a_loaded_model_needs_nothing(machine: Machine) -> None:
    """Its plan is to use it; where it has gone meanwhile, that plan is stale."""
    machine.load("a")
    said = plan(machine, of_model("a"))
    assert (said.candidates[0].required_bytes, said.candidates[0].evictions) == (0, ())
    assert machine.load("a", plan_id=said.plan_id).load_count == 1
    said = plan(machine, of_model("a"))
    machine.memory.models.unload("a", UnloadMode.UNLOAD, machine.token())
    with pytest.raises(PlanStaleError, match="4194304 bytes are needed by now"):
        machine.load("a", plan_id=said.plan_id)
    machine.close()


def test_the_last_rung_of_a_ladder_needs_nothing(machine: Machine) -> None:
    """Where nothing else fits it is selected, and there is nothing to take up."""
    machine.allocate(DEVICE, 10 * MIB)
    said = plan(machine, of_bytes(MIB), of_model("a"), WayToPlan("template", 0, DEVICE))
    assert [row.fits for row in said.candidates] == [False, False, True]
    assert (said.selected, said.plan_id, said.plan_expires_in_ms) == ("template", None, None)
    machine.close()


def test_a_model_that_can_not_be_loaded_does_not_fit(machine: Machine, tmp_path: Path) -> None:
    """Why is in the reason; a name that is not configured is refused."""
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    said = plan(machine, of_model("a"), of_model("another's"), of_model("b"))
    assert [(row.fits, row.required_bytes) for row in said.candidates] == [
        (False, None), (False, None), (True, 4 * MIB),
    ]  # fmt: skip
    assert "'a' can't be had: " in said.reason and "held by another process" in said.reason
    with pytest.raises(ModelNotFoundError):
        plan(machine, of_model("z"))
    machine.close()


def test_a_plan_for_another_device_takes_a_model_there(machine: Machine) -> None:
    """The model moves; where the plan can't be carried out, it stays where it is."""
    machine.load("a")
    said = plan(machine, of_model("a", "sim:1"))
    assert machine.load("a", plan_id=said.plan_id).device_id == "sim:1"
    said = plan(machine, of_model("a", DEVICE))
    machine.allocate(DEVICE, 8 * MIB)
    with pytest.raises(PlanStaleError):
        machine.load("a", plan_id=said.plan_id)
    assert machine.manager.models.get("a").state is ModelState.LOADED
    machine.check()
    machine.close()


def _lease(machine: Machine) -> None:
    Models(machine.models, machine.clock).use("a").__enter__()


CHANGES: dict[str, Callable[[Machine], object]] = {
    "a victim was used": lambda machine: machine.load("a"),
    "a victim is in use": _lease,
    "a victim was pinned": lambda machine: machine.booked.configure("a", pinned=True, keep_alive_ns=None),
    "a victim has gone": lambda machine: machine.memory.models.unload(
        "a", UnloadMode.UNLOAD, machine.token()
    ),
    "a victim was loaded anew": lambda machine: (
        machine.memory.models.unload("a", UnloadMode.UNLOAD, machine.token()),
        machine.load("a"),
    ),
    "room was taken": lambda machine: machine.allocate(DEVICE, MIB),
    "room was made": lambda machine: machine.memory.models.unload("b", UnloadMode.UNLOAD, machine.token()),
    "its time is over": lambda machine: machine.pass_time(PLAN_LIFETIME_NS),
}
"""What makes a plan stale by which a goes."""


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["allocate", "load"])
def test_a_plan_is_stale_where_its_ground_has_changed(machine: Machine, kind: str, change: str) -> None:
    """Nothing is done then, not even in part, and every figure is as before."""
    machine.allocate(DEVICE, MIB)
    machine.load("a"), machine.load("b")
    said = plan(machine, of_bytes(5 * MIB) if kind == "allocate" else of_model("c"))
    assert [row.model_id for row in said.candidates[0].evictions] == ["a"]
    CHANGES[change](machine)
    before = machine.figures()
    take_up = {
        "allocate": lambda: allocate(machine, 5 * MIB, said.plan_id),
        "load": lambda: machine.load("c", plan_id=said.plan_id),
    }
    with pytest.raises(PlanStaleError) as stale:
        take_up[kind]()
    assert stale.value.body().executed == "no" and stale.value.body().retryable
    assert machine.figures() == before
    assert machine.manager.models.get("c").state is ModelState.UNLOADED
    machine.check()


def test_a_plan_is_for_what_it_was_made_for(machine: Machine) -> None:
    """Another size, device, model or kind of memory is the caller's mistake: it is told what the plan is for."""
    said = plan(machine, of_bytes(MIB))
    for size, more in [(2 * MIB, {}), (MIB - 1, {}), (MIB, {"memory_type": MemoryType.EXTERNAL})]:
        with pytest.raises(InvalidRequestError):
            allocate(machine, size, said.plan_id, **more)
    with pytest.raises(InvalidRequestError, match="an allocation of 1048576 bytes on sim:0"):
        machine.load("a", plan_id=said.plan_id)
    with pytest.raises(InvalidRequestError):
        machine.load("b", plan_id=plan(machine, of_model("a")).plan_id)
    with pytest.raises(PlanStaleError, match="never was"):
        allocate(machine, MIB, "plan-99")
    assert allocate(machine, MIB, said.plan_id).models_unloaded == ()
    machine.close()


def test_what_no_plan_makes_possible_is_refused_before_anything_goes(machine: Machine) -> None:
    """Its headroom is not held on, and the plan may be taken up for what is possible."""
    machine.load("a"), machine.load("b")
    said, before = plan(machine, of_bytes(5 * MIB)), machine.figures()
    with pytest.raises(UnsupportedError):
        allocate(machine, 5 * MIB, said.plan_id, memory_type=MemoryType.SHARED)
    assert machine.figures() == before
    assert [entry.load_count for entry in machine.manager.models] == [1, 1, 0, 0]
    machine.check()
    assert len(allocate(machine, 5 * MIB, said.plan_id).models_unloaded) == 1
    machine.close()


def test_headroom_is_not_held_on_where_its_device_refuses_after_all(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does that goes away while models go for it."""
    machine.load("a"), machine.load("b")
    said, before = plan(machine, of_bytes(5 * MIB)), machine.manager.pressure.headroom(DEVICE)
    backend, checked = machine.backends[DEVICE], list[AllocationRequest]()

    def refuse_at_last(request: AllocationRequest) -> None:
        checked.append(request)
        if len(checked) > 1:
            raise UnsupportedError("not any more", device_id=DEVICE)

    monkeypatch.setattr(backend, "check", refuse_at_last)
    with pytest.raises(UnsupportedError):
        allocate(machine, 5 * MIB, said.plan_id)
    assert machine.manager.pressure.headroom(DEVICE) == before
    machine.check()
    machine.close()


def test_what_fails_after_a_plan_was_taken_up_is_taken_back(machine: Machine) -> None:
    """The models that went for it return, as they do without a plan."""
    machine.load("a"), machine.load("b")
    said = plan(machine, of_bytes(5 * MIB))
    backend = machine.backends[DEVICE]
    allocate_there = backend.allocate

    def full_once(*_: Any) -> Any:
        backend.allocate = allocate_there
        message = "no"
        raise OutOfMemoryError(message)

    backend.allocate = full_once
    with pytest.raises(OutOfMemoryError):
        allocate(machine, 5 * MIB, said.plan_id)
    assert {entry.state for entry in machine.manager.models.on_device(DEVICE)} == {ModelState.LOADED}
    assert len(machine.manager.models.on_device(DEVICE)) == 2
    machine.check()


def test_plans_are_bounded(machine: Machine) -> None:
    """The oldest of very many is forgotten."""
    first = plan(machine, of_bytes(MIB))
    for _ in range(64):
        last = plan(machine, of_bytes(MIB))
        machine.pass_time(NS_PER_S // 1000)
    with pytest.raises(PlanStaleError):
        allocate(machine, MIB, first.plan_id)
    allocate(machine, MIB, last.plan_id)
    machine.close()
