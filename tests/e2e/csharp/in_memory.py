"""Fixtures of the tests of MemoryWorker.Testing: an in-memory worker, and the worker itself beside it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.csharp.host import Make, make, wait

TESTING = "csharp_host/src/MemoryWorker.Testing/MemoryWorker.Testing.csproj"
MIB = 2**20
DEVICE = "sim:0"


@pytest.fixture
def worker(load: Any) -> Iterator[Any]:
    """Return an in-memory worker with a device of 64 MiB and two models."""
    load(TESTING)
    from MemoryWorker.Testing import FakeDevice, FakeModel, InMemoryWorker
    from System import Array

    cpu = make_cpu()
    devices = Array[FakeDevice]([FakeDevice(DEVICE, 64 * MIB), cpu])
    models = Array[FakeModel]([FakeModel("small", 8 * MIB, None), FakeModel("large", 48 * MIB, None)])
    made = InMemoryWorker(devices, models, None)
    yield made
    wait(made.DisposeAsync())


@pytest.fixture(params=["the worker itself", "in memory"])
def memory(request: pytest.FixtureRequest, load: Any) -> Any:
    """Return ServiceMemory on a worker with a simulated device of 64 MiB: first the real one, then the one in memory."""
    load(TESTING)
    if request.param == "in memory":
        return request.getfixturevalue("worker").Memory
    from MemoryWorker.Client import ServiceMemory

    start: Make = request.getfixturevalue("real")
    return ServiceMemory(start("--simulated-device", "64MiB", "--default-device", DEVICE))


def make_cpu() -> Any:
    from MemoryWorker.Client.Protocol import DeviceKind
    from MemoryWorker.Testing import FakeDevice

    return make_with(FakeDevice("cpu", 1024 * MIB), Kind=DeviceKind.Cpu)


def make_with(made: Any, **fields: Any) -> Any:
    """Assign a record's fields, as an object initializer would."""
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def allocate(memory: Any, size: int, **fields: Any) -> Any:
    from MemoryWorker.Client import PostMemoryAllocateRequest

    return wait(memory.PostMemoryAllocateAsync(make(PostMemoryAllocateRequest, SizeBytes=size, **fields)))


def refusal(task: Any) -> tuple[str, dict[str, Any], bool]:
    """Return code, details and whether it may be repeated of a call that is refused."""
    from MemoryWorker.Client import WorkerRequestException

    with pytest.raises(WorkerRequestException) as caught:
        wait(task)
    error = caught.value
    assert error.Executed.ToString() == "No"
    return error.Code, json.loads(error.Details.GetRawText()), error.Retryable
