"""Simulated devices: fast, and with latency and bandwidth."""

from collections.abc import Iterator

import pytest

from tests.conformance.contract import BackendContract
from tests.conformance.support import MIB, closing
from worker.backends.base import DeviceBackend
from worker.backends.simulated import SimulatedBackend, SimulatedDevice
from worker.core.clock import FixedClock

SLOW = {"latency_ms": 2.0, "bandwidth_bytes_per_second": MIB}


class TestSimulated(BackendContract):
    """A size that is no multiple of anything."""

    @pytest.fixture(params=[{}, SLOW], ids=["fast", "slow"])
    def backend(self, request: pytest.FixtureRequest) -> Iterator[DeviceBackend]:
        """Return one on a clock that never waits."""
        device = SimulatedDevice(total_bytes=300 * MIB + 1000, **request.param)
        yield from closing(SimulatedBackend(0, device, FixedClock()))
