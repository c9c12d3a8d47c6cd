"""Models that are declared otherwise while they are used: they change after their last lease."""

from dataclasses import replace
from pathlib import Path

import pytest

from protocol.vocabulary import ClearType, ModelState, OptimizationLevel
from tests.rigs.model_files import spec, write_model
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.actions import UnloadModel
from worker.core.errors import ModelNotFoundError, OutOfMemoryError, PlanStaleError
from worker.core.models import ModelSpec
from worker.core.records import HOST, AllocationRequest, ModelDemand, Receipt, WayToPlan
from worker.manager.model_entry import Residence


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for name in "ab":
        write_model(tmp_path / f"{name}.safetensors", 4096)
    models = (spec(tmp_path / "a.safetensors"), spec(tmp_path / "b.safetensors"))
    return Machine(tmp_path, models=models)


def test_what_is_in_use_changes_after_its_last_lease(machine: Machine) -> None:
    """A reload changes a leased model only once nobody uses it."""
    a, b = (each.spec for each in machine.manager.models)
    held = machine.models.acquire("a", machine.token())
    found = machine.models.reload([replace(a, dtype="F16"), b], ())
    assert (found.changed, found.kept) == (("a",), ("b",))
    entry = machine.manager.models.get("a")
    assert entry.spec is a and entry.state is ModelState.LOADED
    machine.booked.release("a", held.residence.handle)
    machine.models.unloader.expire("a")
    assert entry.spec.dtype == "F16" and entry.state is ModelState.UNLOADED


def test_what_is_removed_in_use_goes_after_its_last_lease_and_takes_no_other(machine: Machine) -> None:
    """A removed model stays until its last lease ends; others are untouched."""
    a, b = (each.spec for each in machine.manager.models)
    held = machine.models.acquire("a", machine.token())
    assert machine.models.reload([b], ()).removed == ("a",)
    with pytest.raises(ModelNotFoundError, match="is not declared any more"):
        machine.models.acquire("a", machine.token())
    machine.booked.release("a", held.residence.handle)
    machine.models.unloader.expire("a")
    assert [each.model_id for each in machine.manager.models] == ["b"]
    assert machine.models.reload([a, b], ()).added == ("a",)


def test_what_makes_no_difference_to_what_is_loaded_is_taken_over_at_once(machine: Machine) -> None:
    """Priorities, pins and keep-alives change without an unload."""
    a, b = (each.spec for each in machine.manager.models)
    held = machine.models.acquire("a", machine.token())
    assert machine.models.reload([replace(a, priority=7, aliases=("x",)), b], ()).changed == ("a",)
    entry = machine.manager.models.get("x")
    assert (entry.spec.priority, entry.in_use) == (7, 1)
    machine.booked.release("a", held.residence.handle)
    assert entry.state is ModelState.LOADED


def removing_one_as_the_other_goes(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the list of models be read again, without b, while a is on its way out."""
    unload = machine.models.weights.unload
    a = machine.manager.models.get("a").spec

    def unload_and_reload(residence: Residence) -> Receipt:
        monkeypatch.undo()
        machine.models.reload([a], ())
        return unload(residence)

    monkeypatch.setattr(machine.models.weights, "unload", unload_and_reload)


def test_what_is_removed_meanwhile_ends_no_optimizing_and_no_clearing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was unloaded before it is told of, and it is not kept."""
    a, b = (each.spec for each in machine.manager.models)
    device = machine.memory.devices.ids(None)
    for forget in (
        lambda: machine.memory.models.optimize(device, ModelDemand(forced=True), machine.token()),
        lambda: machine.memory.relief.clear(device, ClearType.MODELS, None, machine.token(), force=False),
    ):
        machine.models.reload([a, b], ())
        for each in "ab":
            machine.load(each)
        removing_one_as_the_other_goes(machine, monkeypatch)
        assert [each.model_id for each in forget().models_unloaded] == ["a"]
        assert [each.model_id for each in machine.manager.models] == ["a"]
        machine.check()


def test_what_was_recommended_and_removed_since_is_refused(machine: Machine) -> None:
    """It brings nothing, and the steps after it are taken."""
    machine.models.reload([machine.manager.models.get("a").spec], ())
    stayed: dict[str, str] = {}
    assert machine.memory.relief.carry_out(UnloadModel("b"), machine.token(), stayed=stayed) == 0
    assert not stayed


def test_what_was_removed_since_keeps_no_other_from_coming_back(machine: Machine) -> None:
    """Both went for a load that failed: one is not declared any more, and is named in that error."""
    for each in "ab":
        machine.load(each)
    gone = [machine.models.unloader.unload(each, machine.token()) for each in "ab"]
    machine.models.reload([machine.manager.models.get("a").spec], ())
    error = OutOfMemoryError("no headroom")
    machine.models.bring_back(gone, HOST, error)
    assert machine.manager.models.get("a").state is ModelState.LOADED
    assert [each.model_id for each in error.details["models_unloaded"]] == ["b"]


def test_what_was_removed_since_is_not_said_to_stay(machine: Machine) -> None:
    """Nor does it keep the others from being told of."""
    for each in "ab":
        machine.load(each)
    models = machine.memory.models
    plan = models.everything(HOST)
    machine.models.reload([machine.manager.models.get("a").spec], ())
    kept = models.kept(plan, HOST, OptimizationLevel.CONSERVATIVE, {}, dry_run=False)
    assert [each.model_id for each in kept] == ["a"]


def test_all_models_are_unloaded_whatever_fails_to_end(machine: Machine) -> None:
    """What is to end before them may raise."""
    machine.load("a")
    machine.models.at_end.append(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        machine.models.close()
    assert machine.manager.models.get("a").state is ModelState.UNLOADED


def test_what_went_with_its_device_is_what_it_is_declared_as_from_then_on(tmp_path: Path) -> None:
    """And who leased it when it was lost releases it in vain, also where it is not declared any more."""
    for name in "ab":
        write_model(tmp_path / f"{name}.safetensors", 4096)
    a, b = (spec(tmp_path / f"{name}.safetensors", device_id="sim:0") for name in "ab")
    machine = Machine(tmp_path, SimulatedDevice(MIB), models=(a, b))
    held = {each: machine.models.acquire(each, machine.token()) for each in "ab"}
    machine.models.reload([replace(a, dtype="F16")], ())
    machine.manager.lose_device("sim:0", "it went away")
    assert [(each.model_id, each.spec.dtype) for each in machine.manager.models] == [("a", "F16")]
    for each, acquired in held.items():
        machine.booked.release(each, acquired.residence.handle)


def test_what_another_process_held_is_what_it_is_declared_as_once_its_owner_unloaded_it(
    tmp_path: Path,
) -> None:
    """Nor does a model stay that is not declared any more."""
    write_model(tmp_path / "a.safetensors", 4096)
    machine = Machine(
        tmp_path, models=(ModelSpec("a", declared_bytes=MIB), ModelSpec("b", declared_bytes=MIB))
    )
    for each in "ab":
        machine.load(each)
    machine.models.reload([spec(tmp_path / "a.safetensors")], ())
    for each in "ab":
        machine.external.unloaded(each)
    assert [(each.model_id, each.spec.external) for each in machine.manager.models] == [("a", False)]


def test_what_a_server_has_anew_is_not_what_has_its_name_by_now(tmp_path: Path) -> None:
    """One that is declared has the name as soon as the server's old one is gone."""
    write_model(tmp_path / "a.safetensors", 4096)
    machine = Machine(tmp_path)
    assert machine.booked.seen_externally(ModelSpec("a", declared_bytes=MIB, server="s"), HOST)
    machine.models.reload([spec(tmp_path / "a.safetensors")], ())
    assert not machine.booked.seen_externally(ModelSpec("a", declared_bytes=2 * MIB, server="s"), HOST)
    (entry,) = machine.manager.models
    assert (entry.spec.server, entry.state) == (None, ModelState.UNLOADED)


def test_a_plan_whose_victim_was_removed_since_is_stale(tmp_path: Path) -> None:
    """It is not that there is no such model: who takes it up never named it."""
    write_model(tmp_path / "a.safetensors", 6 * MIB)
    a = spec(tmp_path / "a.safetensors", device_id="sim:0")
    machine = Machine(tmp_path, SimulatedDevice(10 * MIB), models=(a,))
    machine.load("a")
    said = machine.memory.models.plan(
        (WayToPlan("bytes", 8 * MIB, "sim:0"),), machine.token(), allow_eviction=True
    )
    assert said.candidates[0].evictions
    machine.models.reload((), ())
    with pytest.raises(PlanStaleError, match="'a' is not there any more"):
        machine.memory.allocations.allocate(
            machine.memory.allocations.new_id(), AllocationRequest("sim:0", 8 * MIB), machine.token(),
            plan_id=said.plan_id,
        )  # fmt: skip


def test_what_a_server_says_of_its_own_is_not_said_of_what_has_its_name(tmp_path: Path) -> None:
    """A model that the worker holds itself may be declared by the name of a server's, or have it as an alias."""
    for name in "ab":
        write_model(tmp_path / f"{name}.safetensors", 4096)
    own = (spec(tmp_path / "a.safetensors", "s/x"), spec(tmp_path / "b.safetensors", aliases=("s/y",)))
    machine = Machine(tmp_path, models=own)
    for each in own:
        machine.load(each.model_id)
    for name in "xy":
        assert not machine.booked.seen_externally(
            ModelSpec(f"s/{name}", declared_bytes=MIB, server="s"), HOST
        )
        machine.external.unseen(f"s/{name}", "its server can't be asked")
        assert machine.external.unloaded(f"s/{name}").freed_bytes == 0
    assert [each.state for each in machine.manager.models] == [ModelState.LOADED] * 2
    machine.check()


def test_the_owner_of_what_was_removed_meanwhile_is_asked_no_more(machine: Machine) -> None:
    """It counts as unloaded, at once."""
    assert machine.external.ask(("gone",), "for a test", machine.token()) == {"gone": "it is unloaded"}
