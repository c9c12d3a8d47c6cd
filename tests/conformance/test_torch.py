"""Blocks of torch: over its CPU tensors everywhere, and on the machine's own CUDA devices."""

from collections.abc import Iterator

import pytest

from protocol.vocabulary import DeviceState
from tests.conformance.contract import BackendContract
from tests.conformance.support import MIB, closing
from worker.backends.base import DeviceBackend
from worker.backends.cuda import CudaBackend
from worker.core.clock import SystemClock


class TestTorchOnCpu(BackendContract):
    """Real tensors and bytes, and everything as late as CUDA may do it."""

    @pytest.fixture
    def backend(self) -> Iterator[DeviceBackend]:
        """Return one. Skips where there is no torch."""
        pytest.importorskip("torch")
        from tests.rigs.torch_on_cpu import TorchOnCpu, backend_on_cpu

        yield from closing(backend_on_cpu(TorchOnCpu(300 * MIB + 1000, "rig:0"), SystemClock().now_ns))


class TestCuda(BackendContract):
    """The real thing."""

    @pytest.fixture
    def backend(self) -> Iterator[DeviceBackend]:
        """Return the machine's own devices. Skips where there is none."""
        made = CudaBackend(SystemClock().now_ns)
        if not any(info.state is DeviceState.AVAILABLE for info in made.probe()):
            made.close()
            pytest.skip("no CUDA device")
        yield from closing(made)
