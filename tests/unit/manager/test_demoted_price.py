"""What a model costs to lose on a device whose memory the system moved out: what its uses still save."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rigs.model_files import spec, write_model
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice

LOAD_MS = {"quick": 100, "dear": 1000}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Return one whose device keeps 20 MiB by itself, and 40 in all."""
    for seed, name in enumerate(LOAD_MS):
        write_model(tmp_path / f"{name}.safetensors", 10 * MIB, seed=seed)
    models = tuple(spec(tmp_path / f"{name}.safetensors") for name in LOAD_MS)
    made = Machine(tmp_path, SimulatedDevice(40 * MIB, local_bytes=20 * MIB), models=models)
    yield made
    made.close()


def prices(machine: Machine) -> dict[str, float]:
    """Return what losing each model costs, once the device was read."""
    machine.watch.refresh(("sim:0",), max_age_ms=0)
    return {name: machine.booked.plans.cost_ms(machine.manager.models.get(name)) for name in LOAD_MS}


def test_what_crosses_the_bus_at_each_use_is_no_loss(machine: Machine) -> None:
    """With half of all moved out, half of the quickest load's time is taken off each model's."""
    for name, took in LOAD_MS.items():
        machine.load(name)
        machine.manager.models.get(name).load_ms = took
    before = prices(machine)
    assert before["dear"] == pytest.approx(10 * before["quick"]) != 0
    machine.allocate("sim:0", 20 * MIB)
    assert prices(machine) == pytest.approx({"quick": 0.5 * before["quick"], "dear": 0.95 * before["dear"]})
