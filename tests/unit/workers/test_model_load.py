"""Models come, go and come back whole; figures, ledger and devices agree at every step."""

import gc
from pathlib import Path

import pytest

from protocol.results import Limits, PressureThresholds
from protocol.vocabulary import ClearType, ModelState, UnloadMode
from tests.rigs.model_files import write_model
from tests.unit.machine import MIB, Machine
from tests.unit.workers.model_machines import Make, make, state
from worker.backends.simulated import SimulatedDevice
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
from worker.core.models import ModelSpec
from worker.core.records import AllocationRequest
from worker.plugins._leases import Models

__all__ = ["make"]

CALM = PressureThresholds(75, 90, 95)


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
