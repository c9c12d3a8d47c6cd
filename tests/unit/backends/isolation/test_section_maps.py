"""Copies between a device's process and the section that a host opens: through a view that the process keeps."""

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.vocabulary import MemoryType
from tests.unit.isolation import MIB, content_of, fill, isolated, never
from worker.backends.block_copy import copy_block
from worker.backends.cpu import CpuBackend
from worker.backends.isolation.section_map import SectionMap
from worker.backends.isolation.shared_maps import SharedMaps
from worker.backends.isolation.touch_guard import TouchGuard
from worker.core.records import AllocationRequest
from worker.telemetry.system import SystemMemory

SIZE = 33 * MIB + 5
PIECES = [32 * MIB, SIZE]
"""Of what needs no slot."""

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="only Windows has sections")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[CpuBackend]:
    """Return the machine's own memory, with a section of known content."""
    made = CpuBackend(SystemMemory().read, time.monotonic_ns, 0, tmp_path, as_sections=True)
    made.allocate("shared", AllocationRequest("cpu", SIZE, MemoryType.SHARED), never())
    made.write("shared", 0, memoryview(bytearray(random.Random(3).randbytes(SIZE))), never())
    yield made
    made.close()


def name_of(host: CpuBackend) -> str:
    """Return the section's name."""
    name = host.shared_file("shared")
    assert name is not None
    return name


def content(host: CpuBackend) -> bytes:
    """Return what is in the section."""
    into = bytearray(SIZE)
    host.read("shared", 0, memoryview(into), never())
    return bytes(into)


def test_copies_both_ways(host: CpuBackend) -> None:
    """The process copies by itself, and each byte arrives; progress is told of, to the end."""
    with isolated() as backend:
        backend.probe()
        backend.allocate("a", AllocationRequest("sim:0", SIZE), never())
        told: list[int] = []
        copy_block(host, "shared", backend, "a", SIZE, never(), told.append)
        assert content_of(backend, "a", SIZE) == content(host)
        other = fill(backend, "b", SIZE, 4)
        copy_block(backend, "b", host, "shared", SIZE, never(), told.append)
        assert told == PIECES * 2
        assert content(host) == other


def test_a_view_is_kept_as_long_as_its_section(host: CpuBackend) -> None:
    """One for all copies; once the worker and the host have closed theirs it goes, and the name before it."""
    maps, name = SharedMaps(TouchGuard()), name_of(host)
    maps.add(name, SIZE)
    first = maps._maps[name]
    with maps.using(name, SIZE) as view:
        assert view == content(host)
        maps.prune()
    maps.add(name, SIZE)
    assert maps._maps[name] is first
    host.free("shared")
    assert first.is_freed
    with maps.using(name, SIZE):
        maps.prune()
        assert maps._maps[name] is first
    maps.prune()
    assert maps._maps == {}


def test_a_view_that_a_copy_still_holds_stays_readable(host: CpuBackend) -> None:
    """What was cut short may look at it after it was given up."""
    expected, mapped = content(host), SectionMap(name_of(host), SIZE)
    view = mapped.view
    host.free("shared")
    mapped.close()
    assert view == expected


def test_what_is_no_such_section_is_not_mapped(host: CpuBackend) -> None:
    """Neither one that is gone nor one that is shorter; none is made by that."""
    name = name_of(host)
    with pytest.raises(OSError):  # noqa: PT011 - what Windows says has its own letters
        SectionMap(name, SIZE + MIB)
    host.free("shared")
    for _ in range(2):
        with pytest.raises(OSError):  # noqa: PT011 - as above
            SectionMap(name, SIZE)
