"""What the manager's tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Return a machine with two healthy simulated devices."""
    made = Machine(tmp_path, SimulatedDevice(64 * MIB), SimulatedDevice(64 * MIB))
    yield made
    made.close()
