"""Reserve, do, commit, or roll back: whatever step fails, every figure is as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.errors import (
    CancelledError,
    DeviceLostError,
    DeviceUnavailableError,
    OutOfMemoryError,
)
from worker.core.events import DeviceLost


def raising(error: BaseException) -> Callable[..., Any]:
    """Return what fails."""

    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


FAILURES: dict[str, BaseException] = {
    "out of memory": OutOfMemoryError("none left"),
    "unavailable": DeviceUnavailableError("not there"),
    "cancelled": CancelledError("stop"),
    "a bug": RuntimeError("a bug"),
    "python out of memory": MemoryError(),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("step", ["check", "reserve", "allocate", "commit"])
@pytest.mark.parametrize("device_id", ["cpu", "sim:0"])
def test_each_step_failing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, device_id: str, step: str, failure: str
) -> None:
    """Whichever step of an allocation fails, and however, every figure is as before."""
    machine.allocate(device_id, 5000, owner="before")
    machine.memory.questions.status((device_id,))
    before, error = machine.figures(), FAILURES[failure]
    owner: object = (
        machine.manager.allocations if step in {"reserve", "commit"} else machine.backends[device_id]
    )
    with monkeypatch.context() as patched:
        patched.setattr(owner, step, raising(error))
        with pytest.raises(type(error)):
            machine.allocate(device_id, 3 * MIB, owner="new")
    assert machine.figures() == before
    machine.allocate(device_id, 3 * MIB)
    machine.check()


def test_freeing_the_block_again_failing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the roll-back fails at the device, the room that was held for it is let go."""
    before = machine.manager.pressure.headroom("sim:0")
    with monkeypatch.context() as patched:
        patched.setattr(machine.manager.allocations, "commit", raising(DeviceUnavailableError("gone")))
        patched.setattr(machine.backends["sim:0"], "free", raising(RuntimeError("a bug")))
        with pytest.raises((DeviceUnavailableError, RuntimeError)):
            machine.allocate("sim:0", MIB)
    machine.backends["sim:0"].free("alloc-1")
    machine.memory.questions.status(("sim:0",))
    assert machine.manager.pressure.headroom("sim:0").available_bytes == 64 * MIB
    assert before is not None


def test_device_fails_once(tmp_path: Path) -> None:
    """Out of memory at the device, and no caches to give up: that is the answer, and nothing changed."""
    machine = Machine(tmp_path, SimulatedDevice(64 * MIB, fail_allocation=1))
    machine.memory.sample()
    before = machine.figures()
    with pytest.raises(OutOfMemoryError):
        machine.allocate("sim:0", MIB)
    machine.check()
    assert machine.figures() == before
    machine.allocate("sim:0", MIB)
    machine.close()


def test_device_lost_while_allocating(tmp_path: Path) -> None:
    """A device that goes away in an allocation takes its blocks along; it is told of once."""
    machine = Machine(tmp_path, SimulatedDevice(64 * MIB, lose_at=3))
    for _ in range(2):
        machine.allocate("sim:0", MIB)
    with pytest.raises(DeviceLostError):
        machine.allocate("sim:0", MIB)
    with pytest.raises(DeviceUnavailableError):
        machine.allocate("sim:0", MIB)
    assert [event.device_id for event in machine.told(DeviceLost)] == ["sim:0"]
    machine.close()
