"""C# round trips of ``worker.ping`` against the same bytes through ``cat``, in turns in one process.

    python -m benchmarks.csharp_round_trip [--calls 10000] [--rounds 4]

``cat`` blocks in write and read: the pipe's floor. ``cat_async`` awaits both, as a host that blocks no thread must.
With 64 in flight, calls with the client's default deadline and without one take turns; their ratio is to be 0.85 or
more. Client and program are built for Release.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.rigs.dotnet.build import build
from tests.rigs.dotnet.fixtures import default_out
from tests.rigs.dotnet.toolchain import toolchain

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = REPOSITORY / "csharp_host" / "bench" / "RoundTrip" / "RoundTrip.csproj"


def measure(calls: int, rounds: int) -> dict[str, Any]:
    """Return the figures of one run."""
    tools = toolchain()
    build([PROJECT], default_out(), tools)
    command = [str(tools.launcher), str(default_out() / "RoundTrip.dll"), sys.executable, str(REPOSITORY)]
    done = subprocess.run([*command, str(calls), str(rounds)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=10_000, help="in each round, of each kind")
    parser.add_argument("--rounds", type=int, default=4)
    told = parser.parse_args()
    figures = measure(told.calls, told.rounds)
    print("                       p50 µs   p99 µs")
    for name, text in (("cat", "cat, blocking"), ("cat_async", "cat, awaited"), ("ping", "worker.ping")):
        print(f"{text:20} {figures[f'{name}_p50_us']:8.1f} {figures[f'{name}_p99_us']:8.1f}")
    for name in ("cat", "cat_async"):
        print(
            f"ping / {name:13} {figures['ping_p50_us'] / figures[f'{name}_p50_us']:8.2f} {figures['ping_p99_us'] / figures[f'{name}_p99_us']:8.2f}"
        )
    print("64 in flight, calls/s")
    print(f"  default deadline   {figures['calls_per_second_with_deadline']:8.0f}")
    print(f"  no deadline        {figures['calls_per_second_without_deadline']:8.0f}")
    print(f"  ratio              {figures['deadline_ratio']:8.2f}   (target: 0.85 or more)")
    print(f"allocated            {figures['allocated_bytes_per_call']:8.0f} bytes a call")
    print(f"thread pool          {figures['thread_pool_threads']:8.0f} threads at the end")


if __name__ == "__main__":
    main()
