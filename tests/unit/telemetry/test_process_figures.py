"""What another process takes, by the system: exact, whichever figure of the kernel's that is."""

import mmap
import subprocess
import sys

import pytest

from worker.telemetry import process_figures
from worker.telemetry.process_figures import _counts_are_exact, _sum, private_bytes

KEEPER = """
import mmap, sys
kept = []
for line in sys.stdin:
    size = int(line)
    if size:
        kept.append(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        for at in range(0, size, mmap.PAGESIZE):
            kept[-1][at] = 1
    else:
        kept.pop().close()
    print(flush=True)
"""


@pytest.mark.parametrize(
    ("release", "exact"), [("6.17.0", True), ("6.18.44-fc", True), ("7.0", True), ("6.9.3", False), ("5.15.0-wsl", False)]
)  # fmt: skip
def test_since_which_kernel_counts_are_exact(release, exact):
    """Before, they are running counts, each core's share missing."""
    assert _counts_are_exact(release) is exact


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_process_takes_is_exact():
    """To the page, as the kernel counts it when it looks at every page."""
    with subprocess.Popen([sys.executable, "-c", KEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as keeper:  # fmt: skip
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        before = None
        for size in (0x1000, 33 * mmap.PAGESIZE, 2**20, 0, 5 * 2**20):
            keeper.stdin.write(f"{size}\n")
            keeper.stdin.flush()
            keeper.stdout.readline()
            now = private_bytes(keeper.pid)
            assert now == _sum(f"/proc/{keeper.pid}/smaps_rollup", process_figures._ROLLUP)
            assert now != before
            before = now
        keeper.stdin.close()
