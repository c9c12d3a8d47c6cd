"""A DirectML device under a budget that falls and rises at any moment, for as long as asked: is anything lost?

``python -m benchmarks.falling_budget --seconds 900 --allocator tiled`` runs the real torch_directml on the
simulated driver (tests/rigs/directml). Exit code 1 where a single block was lost.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e.process import Worker
from tests.rigs.directml.build import build
from tests.rigs.directml.environment import interpreter
from tests.rigs.directml.falling_budget import HIGHEST_BYTES, FallingBudget
from tests.rigs.directml.rig import Rig

_PATIENCE_S = 120.0
"""A restart imports torch anew, which takes long on a busy machine."""


def main() -> int:
    """Print what was done, and what was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.falling_budget")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--allocator", choices=("tiled", "untiled"), default="tiled")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    python, libraries = interpreter(), build()
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(libraries, Path(folder))
        command = ("--directml-python", str(python), "--directml-allocator", options.allocator)
        machine = rig.environment(budget_bytes=HIGHEST_BYTES)
        with (
            Worker(*command, environment=machine, patience=_PATIENCE_S) as worker,
            FallingBudget(worker, rig, options.seed) as use,
        ):
            end = time.monotonic() + options.seconds
            while time.monotonic() < end:
                use.step()
            use.check_all()
    for what, count in sorted(use.done.items()):
        print(f"{what:50} {count:8}")
    print(f"{'blocks at the end':50} {len(use.blocks):8}")
    print(f"{'lost':50} {len(use.lost):8}")
    print("\n".join(use.lost[:20]))
    return 1 if use.lost else 0


if __name__ == "__main__":
    sys.exit(main())
