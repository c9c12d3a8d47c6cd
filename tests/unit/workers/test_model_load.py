"""Models come, go and come back whole; figures, books and devices agree at every step."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.results import Limits, PressureThresholds
from protocol.vocabulary import ClearType, ModelState, OptimizationLevel, PressureLevel, UnloadMode
from tests.rigs.model_files import spec, write_model
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.actions import EvictBytes, UnloadModel
from worker.core.clock import NS_PER_S
from worker.core.errors import (
    CancelledError,
    DeviceUnavailableError,
    LimitExceededError,
    ModelBusyError,
    ModelLoadFailedError,
    ModelNotFoundError,
    OutOfMemoryError,
    UnsupportedError,
)
from worker.core.events import ModelUnloaded
from worker.core.models import FOREVER_NS, ModelSpec
from worker.core.records import AllocationRequest, DecisionKind, EvictionCause, ModelDemand, WayToPlan
from worker.plugins._leases import Models

Make = Callable[..., Machine]
CALM = PressureThresholds(75, 90, 95)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return what puts a machine together with models a, b, c of 4 MiB each on a device of 10."""

    def put_together(
        room: int = 10 * MIB, sizes: tuple[int, ...] = (4 * MIB,) * 3, more: dict[str, dict[str, Any]] | None = None,
        **knobs: Any,
    ) -> Machine:  # fmt: skip
        models = []
        for index, size in enumerate(sizes):
            path = tmp_path / f"{'abcdefghij'[index]}.safetensors"
            write_model(path, size - size // 4, size // 4, seed=index)
            models.append(spec(path, **{"device_id": "sim:0", **((more or {}).get(path.stem, {}))}))
        shared = tmp_path / "shared"
        shared.mkdir(exist_ok=True)
        return Machine(shared, SimulatedDevice(room, **knobs), models=tuple(models))

    return put_together


def state(machine: Machine, model_id: str) -> ModelState:
    return machine.manager.models.get(model_id).state


def read(machine: Machine, model_id: str) -> dict[str, bytes]:
    with Models(machine.models, machine.clock).use(model_id) as weights:
        return {name: bytes(weights[name]) for name in weights}


def test_a_model_is_loaded_once_and_counted(make: Make) -> None:
    """A second load is a use of the first, and the device's figures show the model once."""
    machine = make()
    first, again = machine.load("a"), machine.load("a")
    assert first.state == "loaded" and first.device_id == "sim:0"
    assert (first.estimated_bytes, first.measured_bytes) == (4 * MIB, 4 * MIB)
    assert (again.load_count, again.use_count, again.in_use) == (1, 2, 0)
    status = machine.manager.pressure.status("sim:0")
    assert (status.model_bytes, status.allocated_bytes, status.available_bytes) == (4 * MIB, 0, 6 * MIB)
    machine.check()
    machine.close()


@pytest.mark.parametrize("device_id", ["cpu", "sim:0"])
def test_contents_are_the_files_after_load_reload_and_restore(
    make: Make, tmp_path: Path, device_id: str
) -> None:
    """Tensors equal the file's after a load, an offload, a restore and a reload."""
    machine = make(more={"a": {"device_id": device_id, "offload": True}})
    expected = write_model(tmp_path / "a.safetensors", 3 * MIB, MIB)
    assert read(machine, "a") == expected
    if device_id != "cpu":
        machine.memory.models.unload("a", UnloadMode.OFFLOAD, machine.token())
        assert state(machine, "a") is ModelState.OFFLOADED
        machine.check()
        assert read(machine, "a") == expected
        assert machine.manager.models.get("a").host_copy is None
    machine.memory.models.unload("a", UnloadMode.UNLOAD, machine.token())
    assert read(machine, "a") == expected
    machine.close()


def test_loading_makes_room_and_says_what_went(make: Make) -> None:
    """The least recently used model goes, with its reason, by event and in the history."""
    machine = make()
    machine.load("a")
    machine.pass_time(NS_PER_S)
    machine.load("b")
    result = machine.load("c")
    assert [row.model_id for row in result.models_unloaded] == ["a"]
    assert result.models_unloaded[0].returned_bytes == 4 * MIB
    assert "last used 1000 ms ago" in result.models_unloaded[0].reason
    assert [event.eviction.model_id for event in machine.told(ModelUnloaded)] == ["a"]
    assert [row.model_id for row in machine.history.evictions(("sim:0",), 60_000)] == ["a"]
    machine.check()
    machine.close()


def test_nothing_goes_where_it_would_not_help(make: Make) -> None:
    """Where all evictable models together are too little, none is unloaded."""
    machine = make(sizes=(4 * MIB, 12 * MIB))
    machine.load("a")
    with pytest.raises(OutOfMemoryError) as refused:
        machine.load("b")
    assert refused.value.details == {
        "device_id": "sim:0", "requested_bytes": 12 * MIB, "available_bytes": 6 * MIB, "evictable_bytes": 4 * MIB,
    }  # fmt: skip
    assert (state(machine, "a"), state(machine, "b")) == (ModelState.LOADED, ModelState.UNLOADED)
    machine.check()


def test_asking_again_can_help_unless_it_can_never_fit(make: Make) -> None:
    """A lease ends and an allocation is freed; a pin, what is kept for good and the budget stay as they are."""
    machine = make(sizes=(4 * MIB, 4 * MIB, 7 * MIB))
    machine.load("a"), machine.load("b")
    with Models(machine.models, machine.clock).use("a"), pytest.raises(OutOfMemoryError) as leased:
        machine.load("c")
    assert leased.value.body().retryable
    machine.load("a", pin=True)
    with pytest.raises(OutOfMemoryError) as pinned:
        machine.load("c")
    assert not pinned.value.body().retryable
    machine.load("a", pin=False)
    assert machine.load("c").state == "loaded"
    held = machine.allocate("sim:0", 3 * MIB)
    with pytest.raises(OutOfMemoryError) as held_back:
        machine.allocate("sim:0", 8 * MIB)
    assert held_back.value.body().retryable
    machine.memory.allocations.deallocate(held, force=True)
    machine.allocate("sim:0", 3 * MIB, persistent=True)
    with pytest.raises(OutOfMemoryError) as kept:
        machine.allocate("sim:0", 8 * MIB)
    assert not kept.value.body().retryable
    machine.check()


def test_a_pin_goes_with_the_weights(make: Make) -> None:
    """Loaded pinned, moved, and gone with force: what it takes counts as staying where it is, and nowhere else."""
    machine = make(more={"a": {"pinned": True}}, sizes=(4 * MIB, 7 * MIB))
    machine.load("a")
    with pytest.raises(OutOfMemoryError) as refused:
        machine.load("b")
    assert not refused.value.body().retryable
    machine.load("a", device_id="cpu")
    assert machine.load("b").state == "loaded"
    machine.memory.relief.clear(("cpu",), ClearType.ALL, None, machine.token(), force=True)
    assert machine.manager.pressure.can_ever_fit(AllocationRequest("sim:0", 10 * MIB))
    machine.check()


def test_nothing_goes_unless_room_may_be_made(make: Make) -> None:
    """Without ``make_room`` a load that does not fit is refused and changes nothing."""
    machine = make(room=6 * MIB)
    machine.load("a")
    with pytest.raises(OutOfMemoryError):
        machine.load("b", make_room=False)
    assert state(machine, "a") is ModelState.LOADED


def test_what_is_in_use_or_pinned_stays(make: Make) -> None:
    """Leased and pinned models are neither evicted nor unloaded, and do not count as evictable."""
    machine = make(room=9 * MIB)
    machine.load("b", pin=True)
    with Models(machine.models, machine.clock).use("a"):
        with pytest.raises(OutOfMemoryError) as refused:
            machine.load("c")
        assert refused.value.details["evictable_bytes"] == 0
        with pytest.raises(ModelBusyError, match="in use by 1 lease"):
            machine.memory.models.unload("a", UnloadMode.UNLOAD, machine.token())
    with pytest.raises(ModelBusyError, match="pinned"):
        machine.memory.models.unload("b", UnloadMode.UNLOAD, machine.token())
    assert [row.model_id for row in machine.load("c").models_unloaded] == ["a"]
    machine.check()


def test_an_allocation_takes_the_room_of_models(make: Make) -> None:
    """``make_room`` of an allocation unloads models; without it the error says how many bytes could go."""
    machine = make()
    machine.load("a"), machine.load("b")
    request = AllocationRequest("sim:0", 9 * MIB)
    with pytest.raises(OutOfMemoryError) as refused:
        machine.memory.allocations.allocate(machine.memory.allocations.new_id(), request, machine.token())
    assert refused.value.details["evictable_bytes"] == 8 * MIB
    made = machine.memory.allocations.allocate(
        machine.memory.allocations.new_id(), request, machine.token(), make_room=True
    )
    assert {row.model_id for row in made.models_unloaded} == {"a", "b"}
    machine.check()


def test_a_cap_is_kept_and_models_make_room_below_it(make: Make) -> None:
    """A configured cap counts models and allocations alike, and eviction keeps below it."""
    machine = make(room=64 * MIB)
    machine.memory.relief.set_limits("sim:0", Limits(10 * MIB, 0, CALM))
    machine.load("a"), machine.load("b")
    assert len(machine.load("c").models_unloaded) == 1
    with pytest.raises(LimitExceededError):
        machine.load("a", make_room=False)
    made = machine.memory.allocations.allocate(
        machine.memory.allocations.new_id(),
        AllocationRequest("sim:0", 4 * MIB),
        machine.token(),
        make_room=True,
    )
    assert len(made.models_unloaded) == 1
    machine.check()


def test_memory_in_pieces_is_joined_for_a_load(make: Make) -> None:
    """Free memory that lies in pieces is joined where one block is needed."""
    machine = make()
    first = [machine.allocate("sim:0", 2 * MIB) for _ in range(5)]
    for each in first[::2]:
        machine.memory.allocations.deallocate(each, force=True)
    assert machine.load("a").state == "loaded"
    machine.check()


@pytest.mark.parametrize("cause", ["missing", "truncated", "not safetensors"])
def test_a_load_that_fails_leaves_nothing(make: Make, tmp_path: Path, cause: str) -> None:
    """A file that is missing, cut short or no model leaves figures and descriptors as they were."""
    machine = make()
    path = tmp_path / "a.safetensors"
    match cause:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(path.read_bytes()[:-1])
        case _:
            path.write_bytes(b"\x80\x04pickle me" * 10)
    gc.collect()  # what earlier tests left behind must not be closed in between
    before, descriptors = machine.figures(), len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ModelLoadFailedError):
        machine.load("a")
    assert machine.figures() == before
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert state(machine, "a") is ModelState.FAILED
    write_model(path, MIB)
    assert machine.load("a").state == "loaded"


@pytest.mark.parametrize("chunk", [1, 2])
def test_a_load_that_breaks_or_is_cancelled_on_the_way_leaves_nothing(make: Make, chunk: int) -> None:
    """Whatever ends a load half-way, its reservation and its block are gone."""
    machine = make(fail_copy=chunk)
    with pytest.raises(DeviceUnavailableError):
        machine.load("a")
    assert state(machine, "a") is ModelState.UNLOADED
    machine.check()
    assert machine.manager.pressure.status("sim:0").available_bytes == 10 * MIB
    token = machine.token()
    token.cancel()
    with pytest.raises(CancelledError):
        machine.load("a", token=token)
    assert machine.load("a").state == "loaded"
    machine.check()


def test_models_go_with_their_device(make: Make) -> None:
    """A device that is lost takes its models along; they are unloaded, not failed."""
    machine = make(lose_at=7)
    machine.load("a")
    with pytest.raises(DeviceUnavailableError):
        machine.load("b"), machine.load("c")
    assert {state(machine, each) for each in "abc"} == {ModelState.UNLOADED}
    machine.check()
    machine.close()


def test_models_that_went_with_their_device_are_recorded(make: Make) -> None:
    """The record says that they went, and why: their next load is no surprise to a replay."""
    machine = make(lose_at=7)
    machine.load("a")
    with pytest.raises(DeviceUnavailableError):
        machine.load("b"), machine.load("c")
    machine.load("a", device_id="cpu")
    gone = [row for row in machine.decisions if row.kind is DecisionKind.EVICT]
    loaded = [row.model_id for row in machine.decisions if row.kind is DecisionKind.LOAD]
    assert [row.model_id for row in gone] == loaded[:-1]
    assert gone[-1].cause is EvictionCause.LOST


def test_the_record_tells_leases_keep_alives_and_why_models_went(make: Make) -> None:
    """What a replay under another policy has to know, each with the moment and the device."""
    machine = make(more={"a": {"keep_alive_ns": 10 * NS_PER_S}})
    models = Models(machine.models, machine.clock)
    with models.use("a"), models.use("a"):
        machine.pass_time(60 * NS_PER_S)
    machine.pass_time(10 * NS_PER_S)
    machine.load("b", pin=True, keep_alive_ns=NS_PER_S)
    machine.load("b", pin=False)
    machine.memory.models.unload("b", UnloadMode.UNLOAD, machine.token())
    for each in "abc":
        machine.load(each)
    told = [(row.kind, row.model_id, row.cause) for row in machine.decisions]
    assert told[:6] == [
        (DecisionKind.LOAD, "a", None), (DecisionKind.USE, "a", None), (DecisionKind.LEASE, "a", None),
        (DecisionKind.USE, "a", None), (DecisionKind.RELEASE, "a", None), (DecisionKind.EVICT, "a", EvictionCause.IDLE),
    ]  # fmt: skip
    kept = [(row.keep_alive_ms, row.pinned) for row in machine.decisions if row.kind is DecisionKind.KEEP]
    assert kept == [(1000, True), (1000, False)]
    assert [row.cause for row in machine.decisions if row.kind is DecisionKind.EVICT] == [
        EvictionCause.IDLE, EvictionCause.ASKED, EvictionCause.POLICY,
    ]  # fmt: skip
    assert {row.capacity_bytes for row in machine.decisions} == {10 * MIB}


def test_idle_models_go_and_used_ones_stay(make: Make) -> None:
    """A keep-alive counts from the last use; a pinned model, and one without a keep-alive, stays."""
    machine = make(more={"a": {"keep_alive_ns": 10 * NS_PER_S}, "b": {"keep_alive_ns": None}})
    machine.load("a"), machine.load("b")
    machine.pass_time(9 * NS_PER_S)
    machine.load("a")
    machine.pass_time(9 * NS_PER_S)
    assert state(machine, "a") is ModelState.LOADED
    machine.pass_time(NS_PER_S)
    assert (state(machine, "a"), state(machine, "b")) == (ModelState.UNLOADED, ModelState.LOADED)
    assert "idle past its keep-alive of 10000 ms" in machine.history.evictions(("sim:0",), 60_000)[0].reason
    machine.load("a", pin=True)
    machine.pass_time(60 * NS_PER_S)
    assert state(machine, "a") is ModelState.LOADED


def test_a_request_keeps_a_model_for_ever(make: Make) -> None:
    """As the file can: it stays until a later request says otherwise, and is evicted where room is needed."""
    machine = make(more={"a": {"keep_alive_ns": 10 * NS_PER_S}})
    kept = machine.load("a", keep_alive_ns=FOREVER_NS)
    assert (kept.keep_alive_ms, kept.expires_in_ms) == (None, None)
    machine.pass_time(3600 * NS_PER_S)
    assert state(machine, "a") is ModelState.LOADED
    assert machine.load("a").keep_alive_ms is None
    machine.load("b", pin=True)
    assert [row.model_id for row in machine.load("c").models_unloaded] == ["a"]
    assert machine.load("a", keep_alive_ns=NS_PER_S).keep_alive_ms == 1000
    machine.pass_time(NS_PER_S)
    assert state(machine, "a") is ModelState.UNLOADED


def test_offloading_comes_before_unloading(make: Make) -> None:
    """A model that may be offloaded goes to host memory, and unloading it from there frees that."""
    machine = make(more={"a": {"offload": True}})
    machine.load("a"), machine.load("b")
    result = machine.load("c")
    assert state(machine, "a") is ModelState.OFFLOADED
    assert result.models_unloaded[0].reason.startswith("offloaded")
    assert machine.manager.pressure.status("cpu").model_bytes == 4 * MIB
    machine.check()
    unloaded = machine.memory.models.unload("a", UnloadMode.UNLOAD, machine.token())
    assert unloaded.freed_bytes == 4 * MIB
    assert state(machine, "a") is ModelState.UNLOADED
    assert machine.memory.models.unload("a", UnloadMode.UNLOAD, machine.token()).freed_bytes == 0
    machine.check()


def test_a_model_moves_where_it_is_asked_to(make: Make) -> None:
    """Loading for another device moves the model; host memory has nowhere to be offloaded to."""
    machine = make()
    machine.load("a")
    assert machine.load("a", device_id="cpu").device_id == "cpu"
    machine.check()
    with pytest.raises(UnsupportedError):
        machine.memory.models.unload("a", UnloadMode.OFFLOAD, machine.token())


def test_a_model_stays_where_it_is_if_it_can_not_move(make: Make) -> None:
    """A move that has no headroom is refused before the model leaves its place."""
    machine = make(more={"a": {"device_id": "cpu"}})
    machine.allocate("sim:0", 8 * MIB)
    machine.load("a")
    with pytest.raises(OutOfMemoryError):
        machine.load("a", device_id="sim:0")
    assert state(machine, "a") is ModelState.LOADED
    assert machine.manager.models.get("a").in_use == 0
    machine.check()


def test_unknown_and_external_models(make: Make, tmp_path: Path) -> None:
    """An unknown id names the known ones; a model of another process cannot be leased."""
    machine = make()
    with pytest.raises(ModelNotFoundError) as unknown:
        machine.load("z")
    assert unknown.value.details["known_models"] == ["a", "b", "c"]
    external = Machine(tmp_path, models=(ModelSpec("e", declared_bytes=MIB),))
    with (
        pytest.raises(UnsupportedError, match="another process"),
        Models(external.models, external.clock).use("e"),
    ):
        pass


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


def test_every_decision_is_recorded(make: Make) -> None:
    """Loads, uses and evictions are all in the record, evictions with their reason."""
    machine = make()
    for each in "abca":
        machine.load(each)
    kinds = [row.kind for row in machine.decisions]
    assert kinds.count(DecisionKind.LOAD) == 4 - (
        kinds.count(DecisionKind.USE) - kinds.count(DecisionKind.LOAD)
    )
    assert kinds.count(DecisionKind.EVICT) >= 1
    assert all(row.reason for row in machine.decisions if row.kind is DecisionKind.EVICT)


def test_what_the_operators_code_makes_is_measured_and_dropped(tmp_path: Path) -> None:
    """A factory's object is handed to leases as it is, counted by what the process grew, and made once."""
    model = ModelSpec(
        "made", loader="module", factory="tests.rigs.model_factory:make", declared_bytes=2 * MIB
    )
    machine = Machine(tmp_path, SimulatedDevice(10 * MIB), models=(model,))
    sizes = iter([100 * MIB, 100 * MIB, 103 * MIB, 103 * MIB, 103 * MIB, 101 * MIB])
    machine.process_bytes = lambda: next(sizes)
    models = Models(machine.models, machine.clock)
    with models.use("made") as first, models.use("made") as second:
        assert first.content() is second.content()
        assert list(first) == []
    status = machine.memory.models.status("made", machine.memory.devices.ids(None)).models[0]
    assert (status.declared_bytes, status.measured_bytes, status.device_id) == (2 * MIB, 3 * MIB, "cpu")
    assert machine.manager.pressure.status("cpu").model_bytes == 3 * MIB
    with pytest.raises(UnsupportedError):
        machine.load("made", device_id="sim:0")
    assert state(machine, "made") is ModelState.LOADED
    gone = machine.memory.models.unload("made", UnloadMode.UNLOAD, machine.token())
    assert (gone.freed_bytes, gone.returned_bytes) == (3 * MIB, 2 * MIB)
    assert machine.models.weights.live() == frozenset() == machine.manager.weights.handles("cpu")
