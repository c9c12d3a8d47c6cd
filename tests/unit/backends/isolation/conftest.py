"""What tests of copies into shared memory ask for."""

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.vocabulary import MemoryType
from tests.unit.isolation import SHARED_BYTES, never
from worker.backends.cpu import CpuBackend
from worker.core.records import AllocationRequest
from worker.telemetry.system import SystemMemory


@pytest.fixture
def host(tmp_path: Path) -> Iterator[CpuBackend]:
    """Return the machine's own memory, with a shared block of known content: a file, on Windows a section."""
    made = CpuBackend(
        SystemMemory().read, time.monotonic_ns, 0, tmp_path, as_sections=sys.platform == "win32"
    )
    made.allocate("shared", AllocationRequest("cpu", SHARED_BYTES, MemoryType.SHARED), never())
    made.write("shared", 0, memoryview(bytearray(random.Random(3).randbytes(SHARED_BYTES))), never())
    yield made
    made.close()
