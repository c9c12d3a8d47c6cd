"""Host memory that is copied often to and from a device's process: that maps it, and it is given back all the same."""

import errno
import gc
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.vocabulary import Executed, Initialize
from tests.unit.isolation import MIB, content_of, isolated, never
from worker.backends import mappable_buffer
from worker.backends.block_copy import copy_block
from worker.backends.cpu import CpuBackend
from worker.backends.host_memory import address_of, resident_bytes
from worker.backends.isolated import IsolatedBackend
from worker.core.errors import OutOfMemoryError
from worker.core.records import AllocationRequest
from worker.telemetry.system import SystemMemory

SIZE = 33 * MIB + 5
"""More than the least that is mapped, and no whole pages."""
PAGES = 33 * MIB + 4096
CONTENT = random.Random(5).randbytes(SIZE)

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux has memory without a file that has a path"
)


@pytest.fixture(autouse=True)
def _steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a block moved in more than one step."""
    monkeypatch.setattr(mappable_buffer, "_STEP_BYTES", 16 * MIB)


@pytest.fixture(scope="module")
def device() -> Iterator[IsolatedBackend]:
    """Return a device in a process, with a block on it."""
    with isolated() as made:
        made.probe()
        made.allocate("d", AllocationRequest("sim:0", SIZE), never())
        yield made


@pytest.fixture
def host() -> Iterator[CpuBackend]:
    """Return the machine's own memory, with a block of known content."""
    made = CpuBackend(SystemMemory().read, time.monotonic_ns, 0, None, mappable=True)
    made.allocate("h", AllocationRequest("cpu", SIZE, initialize=Initialize.NONE), never())
    made.write("h", 0, memoryview(CONTENT), never())
    yield made
    made.close()


def copy_there(host: CpuBackend, device: IsolatedBackend, times: int = 1) -> None:
    """Copy the host's block to the device."""
    for _ in range(times):
        copy_block(host, "h", device, "d", SIZE, never(), lambda _: None)


def content_here(host: CpuBackend) -> bytes:
    """Read the host's block."""
    into = bytearray(SIZE)
    host.read("h", 0, memoryview(into), never())
    return bytes(into)


def descriptors_open() -> int:
    """Count this process's descriptors, but for those of what earlier tests left behind."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def mapped_bytes(device: IsolatedBackend) -> int:
    """Return what the device's process has in memory of pages that it shares."""
    lines = Path(f"/proc/{device.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssShmem"))


def test_what_is_copied_often_is_mapped(host: CpuBackend, device: IsolatedBackend) -> None:
    """Out and back goes as ever; from the third copy on the process copies by itself, and every byte is where it was."""
    copy_there(host, device)
    device.write("d", 0, memoryview(bytearray(b"out")), never())
    copy_block(device, "d", host, "h", SIZE, never(), lambda _: None)
    before = mapped_bytes(device)
    copy_there(host, device)
    assert mapped_bytes(device) - before >= 0.9 * SIZE  # a running count, which is off by some pages a core
    assert content_of(device, "d", SIZE) == content_here(host) == b"out" + CONTENT[3:]
    host.write("h", 0, memoryview(b"new"), never())
    copy_there(host, device)
    assert content_of(device, "d", SIZE) == b"new" + CONTENT[3:]
    device.write("d", 0, memoryview(bytearray(b"dev")), never())
    copy_block(device, "d", host, "h", SIZE, never(), lambda _: None)
    assert content_here(host) == b"dev" + CONTENT[3:]


def test_what_is_freed_is_back_whoever_maps_it(host: CpuBackend, device: IsolatedBackend) -> None:
    """At once, and counted as it was; the next block of that size is no other's."""
    copy_there(host, device, 3)
    descriptors = descriptors_open()
    assert host.free("h") == PAGES
    assert descriptors_open() == descriptors - 1
    assert mapped_bytes(device) < SIZE
    host.allocate("h", AllocationRequest("cpu", SIZE), never())
    copy_there(host, device, 3)
    assert content_of(device, "d", SIZE) == bytes(SIZE)


def test_who_holds_a_view_finds_pages(host: CpuBackend, device: IsolatedBackend) -> None:
    """A copy that was cut short may still look at a block that is freed: no touch of it ends the worker."""
    copy_there(host, device, 3)
    view = host.view("h", writable=False)
    assert view is not None
    assert host.free("h") == PAGES
    assert bytes(view[-100:]) == bytes(100)


def test_what_is_freed_where_no_map_is_to_be_had(
    host: CpuBackend, device: IsolatedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is freed all the same, and how much comes back is not known: a process that maps it gives it up at its next tick."""
    copy_there(host, device, 3)
    descriptors, view = descriptors_open(), host.view("h", writable=False)
    assert view is not None

    def refuses(length: int, _: int) -> None:
        raise OutOfMemoryError("no map", requested_bytes=length)

    monkeypatch.setattr(mappable_buffer, "map_anonymous", refuses)
    assert host.free("h") is None
    assert descriptors_open() == descriptors - 1
    assert bytes(view[-5:]) == CONTENT[-5:]
    view.release()
    with device._presence.using("sim:0", Executed.NO) as child:
        child.call("tick")
    assert mapped_bytes(device) < SIZE
    monkeypatch.undo()
    host.allocate("h", AllocationRequest("cpu", SIZE), never())


def test_what_was_never_written_takes_no_memory_until_it_is_moved(device: IsolatedBackend) -> None:
    """A block that reads as zeros is moved as what it is, and counts from then on."""
    host = CpuBackend(SystemMemory().read, time.monotonic_ns, 0, None, mappable=True)
    host.allocate("h", AllocationRequest("cpu", SIZE, initialize=Initialize.NONE), never())
    copy_there(host, device, 2)
    assert host.readings("cpu").resident_bytes == 0
    copy_there(host, device)
    assert host.readings("cpu").resident_bytes == PAGES
    assert content_of(device, "d", SIZE) == bytes(SIZE)
    host.close()


@pytest.mark.parametrize("step", [0, 1])
def test_what_cannot_be_moved_stays(
    host: CpuBackend, device: IsolatedBackend, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Where there is no descriptor, or no map in the middle of it, each byte is where it was, and goes as ever."""
    if step:
        map_shared, done = mappable_buffer.map_shared, list[int]()

        def refuses(descriptor: int, start: int, length: int, address: int) -> None:
            if done:
                raise OutOfMemoryError("no map", requested_bytes=length)
            done.append(start)
            map_shared(descriptor, start, length, address)

        monkeypatch.setattr(mappable_buffer, "map_shared", refuses)
    else:

        def none_left(*_: object) -> int:
            raise OSError(errno.EMFILE, "too many open files")

        monkeypatch.setattr(os, "memfd_create", none_left)
    descriptors = descriptors_open()
    copy_there(host, device, 4)
    assert content_of(device, "d", SIZE) == content_here(host) == CONTENT
    assert descriptors_open() == descriptors
    view = host.view("h", writable=False)
    assert view is not None
    with view[:1] as first:
        assert resident_bytes(address_of(first), PAGES) == PAGES
    view.release()
    assert host.free("h") == PAGES
