"""C# round trips of ``worker.ping`` against the same bytes through ``cat``, in turns in one process.

    python -m benchmarks.csharp_round_trip [--calls 10000] [--rounds 4]

``cat`` blocks in write and read: the pipe's floor. ``cat_async`` awaits both, as a host that blocks no thread must.
With 64 in flight, calls with the client's default deadline and without one take turns; their ratio is to be 0.85 or
more. Client and program are built for Release.
"""

import argparse
import sys

from benchmarks.csharp import REPOSITORY, figures


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=10_000, help="in each round, of each kind")
    parser.add_argument("--rounds", type=int, default=4)
    told = parser.parse_args()
    found = figures("RoundTrip", sys.executable, REPOSITORY, told.calls, told.rounds)
    print("                       p50 µs   p99 µs")
    for name, text in (("cat", "cat, blocking"), ("cat_async", "cat, awaited"), ("ping", "worker.ping")):
        print(f"{text:20} {found[f'{name}_p50_us']:8.1f} {found[f'{name}_p99_us']:8.1f}")
    for name in ("cat", "cat_async"):
        print(
            f"ping / {name:13} {found['ping_p50_us'] / found[f'{name}_p50_us']:8.2f} {found['ping_p99_us'] / found[f'{name}_p99_us']:8.2f}"
        )
    print("64 in flight, calls/s")
    print(f"  default deadline   {found['calls_per_second_with_deadline']:8.0f}")
    print(f"  no deadline        {found['calls_per_second_without_deadline']:8.0f}")
    print(f"  ratio              {found['deadline_ratio']:8.2f}   (target: 0.85 or more)")
    print(f"allocated            {found['allocated_bytes_per_call']:8.0f} bytes a call")
    print(f"thread pool          {found['thread_pool_threads']:8.0f} threads at the end")


if __name__ == "__main__":
    main()
