"""A request that has just loaded a model, or checks it, is no use of it: whoever needs it or its memory waits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.vocabulary import ClearType, ModelState, UnloadMode
from tests.rigs.model_files import spec, write_model
from tests.unit.beside import Beside
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.records import AllocationRequest, ModelDemand

DEVICE = "sim:0"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine with models a, b and c of 4 MiB: a and b for a device with room for one, c for the CPU."""
    for index, name in enumerate("abc"):
        write_model(tmp_path / f"{name}.safetensors", 4 * MIB, seed=index)
    models = [spec(tmp_path / f"{name}.safetensors", device_id=DEVICE) for name in "ab"]
    models.append(spec(tmp_path / "c.safetensors", device_id="cpu"))
    shared = tmp_path / "shared"
    shared.mkdir()
    return Machine(shared, SimulatedDevice(6 * MIB), models=tuple(models))


def just_loaded(machine: Machine, beside: Beside) -> None:
    """Have it done while a load of a, which is complete, looks at what the device shows of it."""
    observe = machine.watch.observe

    def observed(device_ids: tuple[str, ...], *, changed: bool = False) -> None:
        if machine.manager.models.get("a").state is ModelState.LOADED:
            beside.begin()
        observe(device_ids, changed=changed)

    machine.watch.observe = observed
    assert machine.load("a").state == "loaded"


def being_checked(machine: Machine, beside: Beside) -> None:
    """Have it done while another use of a, which is loaded, sees whether its file was written to."""
    machine.load("a")
    is_stale = machine.models.weights.is_stale

    def checked(residence: Any) -> bool:
        beside.begin()
        return is_stale(residence)

    machine.models.weights.is_stale = checked
    assert machine.load("a").state == "loaded"


def _allocate(machine: Machine) -> Any:
    request = AllocationRequest(DEVICE, 4 * MIB)
    return machine.memory.allocations.allocate(
        machine.memory.allocations.new_id(), request, machine.token(), make_room=True
    ).models_unloaded


def _optimize(machine: Machine) -> Any:
    demand = ModelDemand(min_bytes=MIB)
    return machine.memory.models.optimize((DEVICE,), demand, machine.token()).models_unloaded


def _clear(machine: Machine) -> Any:
    return machine.memory.relief.clear(
        (DEVICE,), ClearType.MODELS, None, machine.token(), force=False
    ).models_unloaded


NEEDS: dict[str, Callable[[Machine], Any]] = {
    "load another": lambda machine: machine.load("b").models_unloaded,
    "move another here": lambda machine: machine.load("c", device_id=DEVICE).models_unloaded,
    "allocate": _allocate,
    "optimize": _optimize,
    "clear": _clear,
    "unload": lambda machine: [machine.memory.models.unload("a", UnloadMode.UNLOAD, machine.token())],
    "offload": lambda machine: [machine.memory.models.unload("a", UnloadMode.OFFLOAD, machine.token())],
}
"""Requests that need a, or its memory; each returns what it unloaded."""


@pytest.mark.parametrize("need", NEEDS)
@pytest.mark.parametrize("moment", [just_loaded, being_checked])
def test_whoever_needs_a_model_waits_for_the_end_of_such_a_moment(
    machine: Machine, moment: Callable[[Machine, Beside], None], need: str
) -> None:
    """Nothing is refused, nothing is passed over as in use, and what was waited for then goes."""
    machine.load("c")
    beside = Beside(lambda: NEEDS[need](machine))
    moment(machine, beside)
    assert [row.model_id for row in beside.end()] == ["a"]
    assert beside.waited
    assert all(entry.in_use == entry.holds == 0 for entry in machine.manager.models)
    machine.check()
    machine.close()


@pytest.mark.parametrize("moment", [just_loaded, being_checked])
def test_a_move_waits_too(machine: Machine, moment: Callable[[Machine, Beside], None]) -> None:
    """The same model is asked for on another device: it goes there afterwards, and each was one use."""
    beside = Beside(lambda: machine.load("a", device_id="cpu"))
    moment(machine, beside)
    assert beside.end().device_id == "cpu"
    uses = {just_loaded: 2, being_checked: 3}[moment]
    assert machine.manager.models.get("a").use_count == uses
    machine.check()
    machine.close()


def test_a_pin_holds_against_whoever_waits(machine: Machine) -> None:
    """A model that was to be pinned when it was loaded is, before anyone else may have it unloaded."""
    beside = Beside(lambda: machine.load("b", make_room=True))
    observe = machine.watch.observe

    def observed(device_ids: tuple[str, ...], *, changed: bool = False) -> None:
        beside.begin()
        observe(device_ids, changed=changed)

    machine.watch.observe = observed
    loaded = machine.load("a", pin=True)
    assert (loaded.state, loaded.pinned, loaded.in_use) == ("loaded", True, 0)
    with pytest.raises(Exception, match="unloading models could free 0"):
        beside.end()
    assert machine.manager.models.get("a").state is ModelState.LOADED
    machine.close()


def test_moves_that_cross_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Two models change places between two devices with room for one each, again and again, until both have."""
    for index, name in enumerate("ab"):
        write_model(tmp_path / f"{name}.safetensors", 4 * MIB, seed=index)
    models = tuple(spec(tmp_path / f"{name}.safetensors", device_id="sim:0") for name in "ab")
    shared = tmp_path / "shared"
    shared.mkdir()
    machine = Machine(shared, SimulatedDevice(6 * MIB), SimulatedDevice(6 * MIB), models=models)
    machine.load("a", device_id="sim:0"), machine.load("b", device_id="sim:1")
    for first, second in [("sim:1", "sim:0"), ("sim:0", "sim:1")] * 10:
        both = [
            Beside(lambda name=name, place=place: machine.load(name, device_id=place))
            for name, place in (("a", first), ("b", second))
        ]
        for each in both:
            each.begin()
        assert {each.end().state for each in both} == {"loaded"}
    machine.check()
    machine.close()


def test_a_keep_alive_of_nothing_ends_after_the_answer(machine: Machine) -> None:
    """Idle at once, it goes when it is due, not while its load has not been answered."""
    beside = Beside(lambda: machine.memory.models.expire("a"))
    observe = machine.watch.observe

    def observed(device_ids: tuple[str, ...], *, changed: bool = False) -> None:
        if machine.manager.models.get("a").state is ModelState.LOADED:
            beside.begin()
        observe(device_ids, changed=changed)

    machine.watch.observe = observed
    machine.booked.configure("a", pinned=None, keep_alive_ns=0)
    assert machine.load("a").state == "loaded"
    beside.end()
    machine.pass_time(0)
    assert machine.manager.models.get("a").state is ModelState.UNLOADED
    machine.close()
