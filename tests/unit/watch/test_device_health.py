"""How a device is: by its state, and by whether it still says anything."""

from pathlib import Path

from protocol.vocabulary import HealthState
from tests.unit.machine import Machine
from worker.backends.simulated import SimulatedDevice


def test_a_device_that_says_nothing_is_not_well(tmp_path: Path) -> None:
    """Its last figures go on being told, with their age: that they are old is the only sign of a hang that nobody waits for."""
    machine = Machine(tmp_path, SimulatedDevice(2**20))

    def health() -> dict[str, tuple[HealthState, str | None]]:
        return {each.name: (each.state, each.reason) for each in machine.core.health.read()}

    assert health()["device:sim:0"] == (HealthState.OK, None)  # none were taken yet
    machine.memory.sample(max_age_ms=0)
    machine.clock.wait(12, machine.token())
    assert health()["device:sim:0"] == (HealthState.OK, None)
    machine.clock.wait(1, machine.token())
    said = "it does not answer: its figures are 13 s old"
    assert health()["device:sim:0"] == (HealthState.DEGRADED, said)
    machine.memory.sample(max_age_ms=0)
    assert health()["device:sim:0"] == (HealthState.OK, None)
