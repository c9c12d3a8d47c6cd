"""What of a ``MemoryCache``'s given up half leaves the .NET process, by what is done about garbage afterwards, in turns.

    python -m benchmarks.csharp_cache_release [--rounds 5]

128 of 256 MiB are given up, in entries of 4 KiB and of 128 KiB (those have a heap of their own). The share is of the
bytes given up, in the process's resident memory; all threads stand still for the time beside it.
"""

import argparse

from benchmarks.csharp import figures


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    print("entries, afterwards             back at the system      ms")
    for name, (share, milliseconds) in figures("CacheRelease", told.rounds).items():
        print(f"{name:32} {share:16.2f} {milliseconds:10.0f}")


if __name__ == "__main__":
    main()
