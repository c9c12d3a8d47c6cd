"""The first write of a .NET host into fresh shared memory against later ones, in turns, with and without prefaulting.

    python -m benchmarks.csharp_shared_memory [--mib 512] [--rounds 7]

The worker has the blocks set aside when it allocates; what is left is each page's first touch by the host. ``none``:
the host's own writes pay for it. ``beside``: ``SharedBuffer``'s thread touches pages while the host writes from the
first moment on. ``before``: the host had something else to do meanwhile, and writes when the pages are there.
"""

import argparse
import sys

from benchmarks.csharp import REPOSITORY, figures


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    told = parser.parse_args()
    found = figures("SharedMemory", sys.executable, REPOSITORY, told.mib, told.rounds)
    print(f"{told.mib} MiB, GiB/s     first write   later write   first / later")
    for name in ("none", "beside", "before"):
        first, later = found[f"first_write_{name}"], found[f"later_write_{name}"]
        print(f"prefaulted {name:10} {first:12.2f} {later:13.2f} {first / later:15.2f}")
    print(f"touching itself       {found['prefault']:12.2f}")


if __name__ == "__main__":
    main()
