"""DirectML's backend in a process of its own, on a simulated machine."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.vocabulary import DeviceKind, Initialize
from tests.rigs.directml.rig import Rig
from worker.backends.isolated import IsolatedBackend
from worker.backends.isolation.child_process import Launch
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.errors import OutOfMemoryError
from worker.core.records import AllocationRequest, DeviceInfo

MIB, GIB = 2**20, 2**30
TOKEN = CancelToken(SystemClock().now_ns)
Start = Callable[..., IsolatedBackend]


@pytest.fixture
def start(directml_python: Path, directml_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return what starts the backend on a simulated machine."""
    started: list[IsolatedBackend] = []

    def begin(allocator: str = "untiled", **machine: Any) -> IsolatedBackend:
        for name, value in directml_rig.environment(**machine).items():
            monkeypatch.setenv(name, value)
        launch = Launch(
            str(directml_python), "worker.backends.directml:DirectMlBackend", {"allocator": allocator}
        )
        expected = (DeviceInfo("dml:0", DeviceKind.DIRECTML, "DirectML"),)
        made = IsolatedBackend(launch, expected, SystemClock())
        started.append(made)
        made.probe()
        return made

    yield begin
    for backend in started:
        backend.close()


def ask(size: int, initialize: Initialize = Initialize.NONE, device_id: str = "dml:0") -> AllocationRequest:
    """Make a request."""
    return AllocationRequest(device_id, size, initialize=initialize)


def contents(backend: IsolatedBackend, name: str, offset: int, length: int) -> bytes:
    """Read a part of a block."""
    into = bytearray(length)
    backend.read(name, offset, memoryview(into), TOKEN)
    return bytes(into)


def fill(backend: IsolatedBackend, size: int) -> int:
    """Allocate blocks ``a0`` and on until one is refused. Returns how many there are."""
    for n in range(1000):
        try:
            backend.allocate(f"a{n}", ask(size), TOKEN)
        except OutOfMemoryError:
            return n
    raise AssertionError
