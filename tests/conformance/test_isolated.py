"""A device in a process of its own."""

import sys
from collections.abc import Iterator

import pytest

from protocol.vocabulary import DeviceKind
from tests.conformance.contract import BackendContract
from tests.conformance.support import MIB, closing
from tests.unit.isolation import waited_for
from worker.backends.base import DeviceBackend
from worker.backends.isolated import IsolatedBackend
from worker.backends.isolation.child_process import Launch
from worker.core.clock import SystemClock
from worker.core.records import DeviceInfo


class TestIsolated(BackendContract):
    """The simulated device, in a process that ends with the backend."""

    @pytest.fixture
    def backend(self) -> Iterator[DeviceBackend]:
        """Return one with a new process."""
        options = {"index": 0, "standing": True, "total_bytes": 300 * MIB + 1000}
        launch = Launch(sys.executable, "worker.backends.simulated:simulated_in_process", options)
        expected = (DeviceInfo("sim:0", DeviceKind.SIMULATED, "expected"),)
        with waited_for():
            yield from closing(IsolatedBackend(launch, expected, SystemClock()))
