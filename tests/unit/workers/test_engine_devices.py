"""Models of engines on a device: counted with what its driver says that their process holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from protocol.vocabulary import UnloadMode
from tests.rigs import engines
from tests.rigs.engines import MIB, Driver
from tests.unit.machine import Machine
from tests.unit.workers.engine_machines import NEAR, Make, counted, do, make, unload
from worker.backends.simulated import SimulatedDevice

__all__ = ["make"]


GIB = 2**30

GPU = {"params": (("device", "sim:0"),)}


@pytest.fixture
def on_gpu(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Machine, Driver]]:
    """Return what puts a machine together whose models are on a device with a driver that lists processes."""

    def put_together(more: dict[str, Any] | None = None, **models: dict[str, Any]) -> tuple[Machine, Driver]:
        driver = Driver(tmp_path / "driver")
        said = {name: {"driver": str(driver.folder)} | each for name, each in models.items()}
        machine = make(dict.fromkeys(models, GPU | (more or {})), devices=(SimulatedDevice(GIB),), **said)
        monkeypatch.setattr(machine.backends["sim:0"], "processes", driver.processes)
        return machine, driver

    return put_together


def test_a_model_on_a_device_is_counted_with_what_the_driver_says_its_process_holds(on_gpu):
    """Not with its file's estimate, nor with what the process takes of the machine's memory; work's growth there, too."""
    machine, driver = on_gpu(a={"bytes": 8 * MIB, "device_bytes": 100 * MIB})
    loaded = machine.load("a")
    assert (loaded.device_id, loaded.measured_bytes) == ("sim:0", 100 * MIB)
    assert abs(loaded.measured_process_bytes - 8 * MIB) < NEAR
    assert (counted(machine, "sim:0"), counted(machine)) == (100 * MIB, 0)
    do(machine, "a", engines.grow, bytes=16 * MIB)  # of the machine's memory, where it is not counted
    pid = do(machine, "a", engines.grow_there, bytes=40 * MIB)
    (row,) = machine.memory.models.rows()
    assert (row.measured_bytes, row.working_bytes) == (100 * MIB, 40 * MIB)
    assert counted(machine, "sim:0") == 140 * MIB
    assert driver.asked == [(pid,)] * len(driver.asked)
    shrunk = unload(machine, "a", UnloadMode.SHRINK)
    assert (shrunk.claimed_bytes, shrunk.returned_bytes) == (40 * MIB, 40 * MIB)
    assert counted(machine, "sim:0") == 100 * MIB
    row = unload(machine, "a")
    assert (row.claimed_bytes, row.returned_bytes, row.kept_bytes) == (100 * MIB, 100 * MIB, 0)
    assert [each.step for each in row.steps][-1] == "free pages went back to the system"
    assert counted(machine, "sim:0") == 0


def test_what_a_library_keeps_of_a_device_comes_back_with_its_process(on_gpu):
    """The driver shows what is left after the library let go, as with the machine's memory."""
    machine, _ = on_gpu(a={"bytes": MIB, "device_bytes": 100 * MIB, "keeps": 0.5})
    machine.load("a")
    row = unload(machine, "a")
    assert [each.returned_bytes for each in row.steps] == [50 * MIB, 0, 50 * MIB]
    assert row.steps[-1].step == "its process ended"
    assert (row.claimed_bytes, row.returned_bytes, row.kept_bytes) == (100 * MIB, 100 * MIB, 0)


@pytest.mark.parametrize(
    "driver_says", [{"lists": False}, {"says_bytes": False}, {"processes_listed": False}], ids=str
)
def test_where_the_driver_does_not_say_a_model_is_counted_by_its_file(on_gpu, driver_says):
    """It lists no processes, no bytes of this one, or not this one: the receipt's figures are unknown, and the process ends."""
    machine, driver = on_gpu(a={"bytes": 8 * MIB, "device_bytes": 100 * MIB})
    driver.lists = driver_says.get("lists", True)
    driver.says_bytes = driver_says.get("says_bytes", True)
    if "processes_listed" in driver_says:
        driver.folder = driver.folder.parent / "none"
        driver.folder.mkdir()
    loaded = machine.load("a")
    assert loaded.measured_bytes == 8 * MIB
    assert counted(machine, "sim:0") == 8 * MIB
    pid = do(machine, "a", engines.grow_there, bytes=40 * MIB)
    (row,) = machine.memory.models.rows()
    assert (row.working_bytes, counted(machine, "sim:0")) == (0, 8 * MIB)
    row = unload(machine, "a")
    assert (row.claimed_bytes, row.returned_bytes, row.kept_bytes) == (8 * MIB, None, None)
    assert row.steps[-1].step == "its process ended"
    assert not psutil.pid_exists(pid)
    assert counted(machine, "sim:0") == 0


def test_models_of_a_group_on_two_devices_are_measured_each_where_it_is(make, tmp_path, monkeypatch):
    """One process, two memories: what one model takes of the machine's is none of the other's growth."""
    folder = tmp_path / "driver"
    group = {"engine_group": "together"}
    machine = make(
        {"a": group | GPU, "b": group | {"params": (("device", "cpu"),)}}, devices=(SimulatedDevice(GIB),),
        a={"bytes": MIB, "driver": str(folder), "device_bytes": 64 * MIB}, b={"bytes": 32 * MIB},
    )  # fmt: skip
    monkeypatch.setattr(machine.backends["sim:0"], "processes", Driver(folder).processes)
    machine.load("a")
    b = machine.load("b")
    assert abs(b.measured_bytes - 32 * MIB) < NEAR
    do(machine, "a", engines.grow_there, bytes=16 * MIB)
    do(machine, "b", engines.grow, bytes=8 * MIB)
    rows = {row.model_id: row for row in machine.memory.models.rows()}
    assert rows["a"].working_bytes == 16 * MIB
    assert abs(rows["b"].working_bytes - 8 * MIB) < NEAR
    assert counted(machine, "sim:0") == 80 * MIB
    assert unload(machine, "a").returned_bytes == 80 * MIB
