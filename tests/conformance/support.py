"""What the conformance tests share: requests, contents, and witnesses of what is taken."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol.vocabulary import Initialize
from tests.e2e.process import resident_bytes
from worker.backends.base import DeviceBackend
from worker.backends.isolated import IsolatedBackend
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.records import AllocationRequest

MIB = 2**20


def rss(backend: DeviceBackend) -> int:
    """Return the resident bytes of this process and of the device's own; no other's below it, which comes and goes.

    What earlier tests left is collected before, not between two looks.
    """
    gc.collect()
    pid = backend.pid if isinstance(backend, IsolatedBackend) else None
    return sum(map(resident_bytes, {os.getpid(), pid or os.getpid()}))


def all_of(size: int, *, never_shrinks: bool) -> object:
    """Return what ``freed`` has to equal: exact, but for a pool that is told of in tiles of a megabyte."""
    return pytest.approx(size, abs=2e6 if never_shrinks else 0)


def taken(backend: DeviceBackend, device_id: str) -> int:
    """Return the bytes that a witness sees taken: a GPU's driver, else the system."""
    if device_id.startswith("dml"):
        return backend.readings(device_id).process_used_bytes or 0
    if not device_id.startswith("cuda"):
        return rss(backend)
    import torch

    free, total = torch.cuda.mem_get_info(device_id)
    return total - free


def freed(backend: DeviceBackend, device_id: str, name: str) -> int | None:
    """Free a block. Returns the bytes that went back or are told of as cached, None if that can't be told."""
    before = backend.readings(device_id).cached_bytes
    returned = backend.free(name)
    kept = backend.readings(device_id).cached_bytes - before
    return None if returned is None else returned + kept


def ask(
    device_id: str, size: int, initialize: Initialize = Initialize.ZERO, **more: object
) -> AllocationRequest:
    """Make a request."""
    return AllocationRequest(device_id, size, initialize=initialize, **more)


def contents(backend: DeviceBackend, name: str, size: int, token: CancelToken) -> bytes:
    """Read a block."""
    into = bytearray(size)
    backend.read(name, 0, memoryview(into), token)
    return bytes(into)


class CancelledAt(CancelToken):
    """A token that is cancelled at its nth check."""

    def __init__(self, nth: int) -> None:
        super().__init__(SystemClock().now_ns)
        self.left = nth

    def check(self) -> None:
        """Count down."""
        self.left -= 1
        if self.left == 0:
            self.cancel()
        super().check()


def fill_with(content: bytes) -> Callable[[memoryview | None, Callable[[int, memoryview], None]], None]:
    """Return what fills a model's block, in place where that is possible."""

    def fill(view: memoryview | None, write: Callable[[int, memoryview], None]) -> None:
        half = len(content) // 2
        if view is not None:
            view[: len(content)] = content
            return
        write(0, memoryview(content)[:half])
        write(half, memoryview(content)[half:])

    return fill


def closing(backend: DeviceBackend, folder: Path | None = None) -> Iterator[DeviceBackend]:
    """Hand a backend out and close it; whatever a test did, nothing is left, in ``folder`` neither."""
    yield backend
    backend.close()
    assert backend.live() == frozenset()
    assert folder is None or list(folder.iterdir()) == []
