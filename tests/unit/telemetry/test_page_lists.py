"""What is free but in processors' own lists counts as available: else what was just given back does not show."""

import mmap
import os
import statistics
import sys
from pathlib import Path

import pytest

from tests.e2e.process import MIB, eventually
from worker.telemetry.page_lists import page_list_bytes
from worker.telemetry.system import SystemMemory

PAGE = os.sysconf("SC_PAGE_SIZE") if sys.platform != "win32" else 4096
ZONES = """Node 0, zone    DMA32
  pages free     2000
        present  3100
        managed  3000
  pagesets
    cpu: 0
              count:    100
              high:     1444
              high_max: 48307
  vm stats threshold: 36
    cpu: 1
              count:    20
Node 0, zone   Normal
  pages free     10
        present  6000
        managed  5000
      nr_free_pages 10
    cpu: 0
              count:    3
"""

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these lists")


@linux
@pytest.mark.parametrize("total", [8000, 9100])
def test_all_processors_of_all_zones(tmp_path: Path, total: int) -> None:
    """Every list counts, and nothing else of the file; also where memory was added that is present alone."""
    path = tmp_path / "zoneinfo"
    path.write_text(ZONES)
    assert page_list_bytes(total * PAGE, path) == 123 * PAGE


@linux
@pytest.mark.parametrize("text", [ZONES, "", "managed\n  count: x\n"])
@pytest.mark.parametrize("total", [4000, 9101])
def test_of_another_machine(tmp_path: Path, text: str, total: int) -> None:
    """Where the file is of another machine than the total, or makes no sense, nothing is added."""
    path = tmp_path / "zoneinfo"
    path.write_text(text)
    assert page_list_bytes(total * PAGE, path) == 0
    assert page_list_bytes(total * PAGE, tmp_path / "missing") == 0


@linux
@pytest.mark.skipif(
    not os.access("/proc/zoneinfo", os.R_OK), reason="the system does not say what is in the lists"
)
def test_what_is_given_back_shows_at_once() -> None:
    """Of 256 MiB that are unmapped, most shows in the next reading, where without the lists a tenth does.

    Other processes take and give, too: it is the median of nine, and looked for again where they did much.
    """
    reader = SystemMemory()

    def shown_bytes() -> int:
        with mmap.mmap(-1, 256 * MIB) as block:
            for offset in range(0, len(block), PAGE):
                block[offset] = 1
            before = reader.read().free_bytes
        after = reader.read().free_bytes
        assert before is not None
        assert after is not None
        return after - before

    eventually(lambda: statistics.median(shown_bytes() for _ in range(9)) > 128 * MIB, "most of it")
