"""The machine's own memory, with and without a pool of kept buffers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.contract import BackendContract
from tests.conformance.support import MIB, closing
from worker.backends.base import DeviceBackend
from worker.backends.cpu import CpuBackend
from worker.core.clock import SystemClock
from worker.telemetry.system import SystemMemory


class TestCpu(BackendContract):
    """One backend for each size of the pool."""

    @pytest.fixture(params=[0, 256 * MIB], ids=["without-pool", "with-pool"])
    def backend(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DeviceBackend]:
        """Return it; its folder of shared files is empty when it is closed."""
        yield from closing(
            CpuBackend(SystemMemory().read, SystemClock().now_ns, request.param, tmp_path), tmp_path
        )
