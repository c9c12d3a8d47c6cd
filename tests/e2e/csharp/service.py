"""ServiceMemory on a worker of its own, and how it is asked."""

from typing import Any

import pytest

from tests.e2e.csharp.host import Make, make, wait

MIB = 2**20
DEVICE = "sim:0"


@pytest.fixture
def memory(real: Make) -> Any:
    """Return ServiceMemory on a worker with a simulated device of 64 MiB."""
    return service_memory(real("--simulated-device", "64MiB", "--default-device", DEVICE))


def service_memory(worker: Any) -> Any:
    from MemoryWorker.Client import ServiceMemory

    return ServiceMemory(worker)


def allocate(memory: Any, size: int, **fields: Any) -> Any:
    from MemoryWorker.Client import PostMemoryAllocateRequest

    return wait(memory.PostMemoryAllocateAsync(make(PostMemoryAllocateRequest, SizeBytes=size, **fields)))


def refused(code: str) -> Any:
    from MemoryWorker.Client import WorkerRequestException

    return pytest.raises(WorkerRequestException, match=code)


def actions(memory: Any) -> list[str]:
    return [one.Action for one in wait(memory.GetMemoryAnalyticsAsync()).Actions]
