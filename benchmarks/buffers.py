"""A buffer of the worker's that is taken and filled, against a fresh array of numpy's: its pages are there already.

python -m benchmarks.buffers
"""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness import heading, interleaved, row, seconds
from tests.unit.machine import Machine
from worker.core.clock import SystemClock
from worker.plugins._buffers import Buffers

SIZES = {"4 KiB": 2**12, "1 MiB": 2**20, "64 MiB": 2**26}


def main() -> None:
    """Measure."""
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder), clock=SystemClock())
        buffers = Buffers(machine.core, machine.memory.allocations, lambda _due, _run: None)
        heading("taken and filled, median us", "np.empty, filled")
        for name, size in SIZES.items():

            def ours(size: int = size) -> None:
                with buffers.take(size, device="cpu") as buffer:
                    buffer.numpy().fill(1)

            def fresh(size: int = size) -> None:
                np.empty(size, np.uint8).fill(1)

            rounds = 200 if size < 2**24 else 40
            took, floor = interleaved(rounds, partial(seconds, ours), partial(seconds, fresh))
            row(name, took * 1e6, floor * 1e6, "us", "< 1 from tens of MiB on")
        machine.close()


if __name__ == "__main__":
    main()
