"""Devices in real processes, for tests: how to make one, what to run in it, and a clock that shortens delays."""

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from protocol.vocabulary import DeviceKind, DeviceState
from worker.backends.cpu import CpuBackend
from worker.backends.isolated import IsolatedBackend
from worker.backends.isolation import asking
from worker.backends.isolation.child_process import Launch
from worker.core.cancellation import CancelToken
from worker.core.clock import Clock, SystemClock
from worker.core.records import AllocationRequest, DeviceInfo
from worker.watch.readers import Reader

RIGS = str(Path(__file__).resolve().parents[1] / "rigs")
MIB = 2**20
SHARED_BYTES = 33 * MIB + 5
"""Of a block that is copied in two pieces, the last of them no whole page."""
SIMULATED = "worker.backends.simulated:simulated_in_process"
TORCH = "torch_on_cpu:in_process"
LONG_S = 60.0
"""Longer than any process that goes on takes to answer, on a machine however busy."""
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


class NoDelay(SystemClock):
    """Waits for answers as long as it takes, and for nothing else; remembers the delays that it skipped."""

    def __init__(self) -> None:
        self.delays: list[float] = []

    def wait(self, seconds: float | None, token: CancelToken) -> None:
        self.delays.append(seconds or 0)
        token.check()


@contextmanager
def waited_for() -> Iterator[None]:
    """Wait for figures as long as they take: a process that is slow, as all are on a busy machine, has not gone silent."""
    read = Reader.read

    def waiting(reader: Reader, patience_s: float = LONG_S) -> None:
        read(reader, LONG_S if reader._name.startswith("readings") else patience_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "ANSWER_S", LONG_S)
        patch.setattr(Reader, "read", waiting)
        yield


@contextmanager
def isolated(
    factory: str = SIMULATED,
    *,
    clock: Clock | None = None,
    remedies: dict[str, str] | None = None,
    python: str = sys.executable,
    slots_as_file: bool = False,
    goes_silent: bool = False,
    **options: Any,
) -> Iterator[IsolatedBackend]:
    """Make a backend in a process, and end it afterwards. Its figures are waited for, unless it ``goes_silent``."""
    if factory == SIMULATED:
        options = {"index": 0, "total_bytes": 256 * MIB, "standing": True} | options
    expected = (DeviceInfo(f"sim:{options.get('index', 0)}", DeviceKind.SIMULATED, "expected"),)
    backend = IsolatedBackend(
        Launch(python, factory, options),
        expected,
        clock or SystemClock(),
        remedies,
        slots_as_file=slots_as_file,
    )
    try:
        with nullcontext() if goes_silent else waited_for():
            yield backend
    finally:
        backend.close()


def never() -> CancelToken:
    """Return a token that nobody cancels."""
    return CancelToken(time.monotonic_ns)


def ask(size: int) -> AllocationRequest:
    """Return a request for memory of the device."""
    return AllocationRequest("sim:0", size)


def shared_name(host: CpuBackend) -> str:
    """Return what ``host``'s shared block is mapped by: a path, on Windows a section's name."""
    name = host.shared_file("shared")
    assert name is not None
    return name


def shared_content(host: CpuBackend) -> bytes:
    """Return what is in ``host``'s shared block."""
    into = bytearray(SHARED_BYTES)
    host.read("shared", 0, memoryview(into), never())
    return bytes(into)


def fill(backend: IsolatedBackend, name: str, size: int, seed: int) -> bytes:
    """Allocate and fill; returns the content."""
    content = random.Random(seed).randbytes(size)
    backend.allocate(name, ask(size), never())
    backend.write(name, 0, memoryview(bytearray(content)), never())
    return content


def content_of(backend: IsolatedBackend, name: str, size: int, token: CancelToken | None = None) -> bytes:
    """Read a block."""
    into = bytearray(size)
    backend.read(name, 0, memoryview(into), token or never())
    return bytes(into)


def kill(backend: IsolatedBackend) -> int:
    """Kill the process; returns which it was."""
    pid = backend.pid
    assert pid is not None
    psutil.Process(pid).kill()
    return pid


def wait_for(backend: IsolatedBackend, state: DeviceState) -> None:
    """Wait until the devices are in a state."""
    with backend._presence.changed:
        reached = backend._presence.changed.wait_for(
            lambda: all(each.state is state for each in backend.devices), 30
        )
    assert reached, backend.devices


def wait_for_another(backend: IsolatedBackend, pid: int) -> None:
    """Wait until another process has taken over."""
    with backend._presence.changed:
        assert backend._presence.changed.wait_for(lambda: backend.pid not in {pid, None}, 30), backend.devices
