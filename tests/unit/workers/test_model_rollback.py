"""What went for something that then failed comes back, and what does not is said; fallbacks stand in."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.vocabulary import Executed, Initialize, ModelState, UnloadMode
from tests.rigs.model_files import spec, write_model
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.actions import ClearCache, Defragment, EvictBytes, UnloadModel
from worker.core.clock import NS_PER_S
from worker.core.errors import (
    CancelledError,
    DeviceUnavailableError,
    ModelLoadFailedError,
    OutOfMemoryError,
    WorkerError,
)
from worker.core.models import ModelSpec
from worker.core.records import HOST, AllocationRequest
from worker.manager.model_entry import ModelEntry
from worker.plugins._leases import Models
from worker.workers.weights import Source

Make = Callable[..., Machine]
DEVICE = "sim:0"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return what puts a machine together with a and b of 4 MiB and c of 8 on a device of 10."""

    def put_together(more: dict[str, dict[str, Any]] | None = None, **knobs: Any) -> Machine:
        models = []
        for index, (name, size) in enumerate((("a", 4), ("b", 4), ("c", 8))):
            path = tmp_path / f"{name}.safetensors"
            write_model(path, 4 * MIB, (size - 4) * MIB, seed=index)
            models.append(spec(path, device_id=DEVICE, **((more or {}).get(name, {}))))
        return Machine(tmp_path, SimulatedDevice(10 * MIB, **knobs), models=tuple(models))

    return put_together


def state(machine: Machine, model_id: str) -> ModelState:
    return machine.manager.models.get(model_id).state


def cancelling(machine: Machine) -> Any:
    """Return a token and a report that cancels it as soon as something was loaded."""
    token = machine.token()
    return token, lambda completed, _total: token.cancel() if completed else None


def contents(machine: Machine, model_id: str) -> bytes:
    with Models(machine.models, machine.clock).use(model_id) as weights:
        return bytes(weights["layer.0"])


@pytest.mark.parametrize("offload", [{}, {"offload": True}], ids=["unloaded", "offloaded"])
def test_what_went_for_a_load_that_breaks_comes_back(make: Make, offload: dict[str, Any]) -> None:
    """The third load breaks after both others went for it: they are there again, as they were."""
    machine = make({"a": offload, "b": offload}, fail_copy=7 if offload else 5)
    before = {each: contents(machine, each) for each in "ab"}
    machine.pass_time(NS_PER_S)
    uses = [(entry.use_count, entry.last_used_ns) for entry in machine.manager.models]
    with pytest.raises(DeviceUnavailableError) as broken:
        machine.load("c")
    assert broken.value.executed is not Executed.YES
    assert "models_unloaded" not in broken.value.details
    assert [state(machine, each) for each in "abc"] == [
        ModelState.LOADED, ModelState.LOADED, ModelState.UNLOADED,
    ]  # fmt: skip
    assert [(entry.use_count, entry.last_used_ns) for entry in machine.manager.models] == uses
    assert all(entry.in_use == 0 for entry in machine.manager.models)
    machine.check()
    assert {each: contents(machine, each) for each in "ab"} == before
    machine.close()


def test_what_went_for_a_load_that_is_cancelled_comes_back(make: Make) -> None:
    """Models that were evicted for a cancelled load are loaded again: nothing was done."""
    machine = make()
    machine.load("a"), machine.load("b")
    token, report = cancelling(machine)
    with pytest.raises(CancelledError) as cancelled:
        machine.models.hold("c", token, report)
    assert cancelled.value.executed is Executed.NO
    assert (state(machine, "a"), state(machine, "b")) == (ModelState.LOADED, ModelState.LOADED)
    assert machine.manager.pressure.status(DEVICE).model_bytes == 8 * MIB
    machine.check()


def test_what_does_not_come_back_is_named_and_the_error_says_that_something_was_done(
    make: Make, tmp_path: Path
) -> None:
    """A victim that cannot return is named, and ``executed`` says yes."""
    machine = make()
    machine.load("a"), machine.load("b")
    (tmp_path / "b.safetensors").unlink()
    token, report = cancelling(machine)
    with pytest.raises(CancelledError) as cancelled:
        machine.models.hold("c", token, report)
    assert cancelled.value.body().executed is Executed.YES
    assert [row.model_id for row in cancelled.value.details["models_unloaded"]] == ["b"]
    assert (state(machine, "a"), state(machine, "b")) == (ModelState.LOADED, ModelState.FAILED)
    machine.check()


def test_what_the_system_is_short_of_for_one_keeps_no_other_from_coming_back(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor for one of them: it is named as any that did not return, and the one after it is there again."""
    machine = make()
    machine.load("a"), machine.load("b")
    token, report = cancelling(machine)
    opened = machine.models.weights.open

    def short(entry: ModelEntry) -> Source:
        if entry.model_id == "b":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(entry)

    monkeypatch.setattr(machine.models.weights, "open", short)
    with pytest.raises(CancelledError) as cancelled:
        machine.models.hold("c", token, report)
    assert [row.model_id for row in cancelled.value.details["models_unloaded"]] == ["b"]
    assert state(machine, "a") is ModelState.LOADED
    machine.check()


def test_an_offload_that_breaks_unexpectedly_leaves_the_model_unloaded(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is told, and the model is given up all the same: nothing stays pending, and it can be loaded again."""
    machine = make()
    machine.load("a")

    def broken(*_: object) -> None:
        raise RuntimeError("unforeseen")

    with monkeypatch.context() as patch:
        patch.setattr(machine.backends[HOST], "load", broken)
        with pytest.raises(RuntimeError, match="unforeseen"):
            machine.models.unloader.unload("a", machine.token(), UnloadMode.OFFLOAD)
    assert state(machine, "a") is ModelState.UNLOADED
    machine.check()
    machine.load("a")
    machine.close()


def test_a_load_that_fails_leaves_nothing_of_it(make: Make) -> None:
    """What is known of loaded models' files is known of those alone."""
    machine = make()
    token, report = cancelling(machine)
    with pytest.raises(CancelledError):
        machine.models.hold("c", token, report)
    assert machine.models.weights._identities == {}


def test_what_went_for_an_allocation_that_fails_comes_back(make: Make) -> None:
    """The same holds for an allocation that the backend refuses after all."""
    machine = make(fail_allocation=3)
    machine.load("a"), machine.load("b")
    request = AllocationRequest(DEVICE, 9 * MIB, initialize=Initialize.NONE)
    with pytest.raises(WorkerError) as failed:
        machine.memory.allocations.allocate(
            machine.memory.allocations.new_id(), request, machine.token(), make_room=True
        )
    assert failed.value.executed is Executed.NO
    assert (state(machine, "a"), state(machine, "b")) == (ModelState.LOADED, ModelState.LOADED)
    machine.check()


@pytest.mark.parametrize("kind", ["truncated", "factory", "no torch for the cast"])
def test_what_can_be_known_before_is_known_before_anything_goes(
    make: Make, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load that must fail by its file or factory evicts nothing."""
    machine = make()
    machine.load("a"), machine.load("b")
    wanted = machine.manager.models.get("c")
    match kind:
        case "truncated":
            path = tmp_path / "c.safetensors"
            path.write_bytes(path.read_bytes()[:-1])
        case "factory":
            wanted.spec = ModelSpec("c", loader="module", factory="tests.rigs.model_factory:absent")
        case _:
            write_floats(tmp_path / "c.safetensors", 8 * MIB)
            wanted.spec = spec(tmp_path / "c.safetensors", device_id=DEVICE, dtype="F64")
            monkeypatch.setattr(
                "worker.loaders.torch_library.find_spec", lambda name: None if name == "torch" else name
            )
    with pytest.raises(ModelLoadFailedError):
        machine.load("c")
    assert [row.model_id for row in machine.history.evictions((DEVICE,), 60_000)] == []
    machine.check()


def write_floats(path: Path, size: int) -> None:
    import json
    import struct

    header = json.dumps({"t": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))


# ---- fallbacks ----


def test_a_fallback_is_loaded_where_the_model_has_no_room(make: Make) -> None:
    """The declared fallback is loaded instead, and the reply says which and why."""
    machine = make({"c": {"fallback": "b"}, "b": {"fallback": "a"}})
    machine.allocate(DEVICE, 4 * MIB)
    loaded = machine.load("c", pin=True)
    assert (loaded.model_id, loaded.requested_model_id, loaded.pinned) == ("b", "c", True)
    assert f"{8 * MIB} asked for" in str(loaded.fallback_reason)
    assert not machine.manager.models.get("c").pinned
    with pytest.raises(OutOfMemoryError):
        machine.load("c", allow_fallback=False)
    plain = machine.load("b")
    assert (plain.requested_model_id, plain.fallback_reason) == ("b", None)
    machine.check()


def test_the_whole_line_of_fallbacks_is_tried_and_named(make: Make) -> None:
    """Fallbacks are tried in their order; the error names all that were."""
    machine = make({"c": {"fallback": "b"}, "b": {"fallback": "a"}})
    machine.allocate(DEVICE, 8 * MIB)
    with pytest.raises(OutOfMemoryError) as refused:
        machine.load("c")
    assert refused.value.details["requested_bytes"] == 8 * MIB
    assert refused.value.details["fallbacks_tried"] == ["b", "a"]
    machine.manager.models.get("a").spec = spec(machine.manager.models.get("a").spec.path, device_id="cpu")
    assert machine.load("c").model_id == "a"


def test_a_lease_tells_which_model_it_is(make: Make) -> None:
    """Who leases a fallback can see that it is one."""
    machine = make({"c": {"fallback": "a"}})
    machine.allocate(DEVICE, 4 * MIB)
    models = Models(machine.models, machine.clock)
    with models.use("c") as weights:
        assert (weights.model_id, weights.size_bytes) == ("a", 4 * MIB)
        assert weights.fallback_reason is not None
        assert machine.manager.models.get("a").in_use == 1
    assert machine.manager.models.get("a").in_use == 0
    with pytest.raises(OutOfMemoryError), models.use("c", allow_fallback=False):
        pass


def test_a_model_that_is_broken_has_no_stand_in(make: Make, tmp_path: Path) -> None:
    """A file that is at fault is an error, never a fallback."""
    machine = make({"c": {"fallback": "a"}})
    (tmp_path / "c.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelLoadFailedError):
        machine.load("c")
    assert state(machine, "a") is ModelState.UNLOADED


def test_a_device_that_goes_away_amid_an_optimization_ends_that_step_only(make: Make) -> None:
    """What was recommended for a device that was lost since gives nothing back, and is no error of the others'."""
    machine = make()
    machine.load("a")
    machine.manager.lose_device(DEVICE, "unplugged")
    for action in (ClearCache(DEVICE), Defragment(DEVICE), UnloadModel("a"), EvictBytes(DEVICE, MIB)):
        assert not machine.memory.relief.carry_out(action, machine.token())
