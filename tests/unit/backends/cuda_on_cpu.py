"""CUDA's backend over torch's CPU tensors, with a clock that is set."""

from collections.abc import Iterator

import pytest

from protocol.vocabulary import MemoryType
from tests.rigs.torch_on_cpu import TorchOnCpu, backend_on_cpu
from worker.backends.cuda import CudaBackend
from worker.core.cancellation import CancelToken
from worker.core.records import AllocationRequest

MIB = 2**20
TOTAL_BYTES = 64 * MIB


class Time:
    """A clock that is set."""

    ns = 0

    def now_ns(self) -> int:
        """Return it."""
        return self.ns


TOKEN = CancelToken(lambda: 0)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def device() -> TorchOnCpu:
    return TorchOnCpu(TOTAL_BYTES)


@pytest.fixture
def backend(device: TorchOnCpu, time: Time) -> Iterator[CudaBackend]:
    """Return a backend that found the device; nothing stays locked when it is closed."""
    made = backend_on_cpu(device, time.now_ns)
    made.probe()
    yield made
    made.close()
    assert made.live() == frozenset()
    assert device.locked == {}


def ask(size: int, memory_type: MemoryType = MemoryType.DEVICE, **more: object) -> AllocationRequest:
    return AllocationRequest("cuda:0", size, memory_type, **more)


def contents(backend: CudaBackend, name: str, offset: int, length: int) -> bytes:
    into = bytearray(length)
    backend.read(name, offset, memoryview(into), TOKEN)
    return bytes(into)
