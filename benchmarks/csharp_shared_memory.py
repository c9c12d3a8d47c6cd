"""The first write of a .NET host into fresh shared memory against later ones, in turns, with and without prefaulting.

    python -m benchmarks.csharp_shared_memory [--mib 512] [--rounds 7]

The worker has the blocks set aside when it allocates; what is left is each page's first touch by the host. ``none``:
the host's own writes pay for it. ``beside``: ``SharedBuffer``'s thread touches pages while the host writes from the
first moment on. ``before``: the host had something else to do meanwhile, and writes when the pages are there.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tests.rigs.dotnet.build import build
from tests.rigs.dotnet.fixtures import default_out
from tests.rigs.dotnet.toolchain import toolchain

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = REPOSITORY / "csharp_host" / "bench" / "SharedMemory" / "SharedMemory.csproj"


def measure(mib: int, rounds: int) -> dict[str, float]:
    """Return the medians of one run, GiB/s."""
    tools = toolchain()
    build([PROJECT], default_out(), tools)
    command = [str(tools.launcher), str(default_out() / "SharedMemory.dll"), sys.executable, str(REPOSITORY)]
    done = subprocess.run([*command, str(mib), str(rounds)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    told = parser.parse_args()
    figures = measure(told.mib, told.rounds)
    print(f"{told.mib} MiB, GiB/s     first write   later write   first / later")
    for name in ("none", "beside", "before"):
        first, later = figures[f"first_write_{name}"], figures[f"later_write_{name}"]
        print(f"prefaulted {name:10} {first:12.2f} {later:13.2f} {first / later:15.2f}")
    print(f"touching itself       {figures['prefault']:12.2f}")


if __name__ == "__main__":
    main()
