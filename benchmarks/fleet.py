"""What a call costs through a gateway: against a worker of the same options that is asked directly, interleaved.

    python -m benchmarks.fleet [--calls 300]

Both are asked by the same client. The floor is the worker's answer; the gateway adds two hops through Ray and back.
"""

import argparse
import statistics
import time
from collections.abc import Callable

from worker.client import Client, connect

_OPTIONS = ("--simulated-device", "1GiB")
_FLEET = ("fleet", "--nodes", "1", *_OPTIONS)


def ping(client: Client) -> None:
    """Ask nothing of any node."""
    client.ping()


def status(client: Client) -> None:
    """Ask where the memory is."""
    client.get_status()


def named(client: Client) -> None:
    """Allocate where it says, and free."""
    made = client.allocate(size_bytes=4096, device_id="cpu")
    client.deallocate(allocation_id=made.allocation_id)


def placed(client: Client) -> None:
    """Allocate where it is placed, and free."""
    made = client.allocate(size_bytes=4096)
    client.deallocate(allocation_id=made.allocation_id)


QUESTIONS: tuple[Callable[[Client], None], ...] = (ping, status, named, placed)


def main() -> None:
    """Ask both, turn by turn, and print medians and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=300)
    calls = parser.parse_args().calls
    with connect(*_OPTIONS) as direct, connect(*_FLEET) as gateway:
        for ask in QUESTIONS:
            took: tuple[list[float], list[float]] = ([], [])
            for _ in range(calls):
                for client, times in zip((direct, gateway), took, strict=True):
                    began = time.perf_counter()
                    ask(client)
                    times.append((time.perf_counter() - began) * 1e6)
            one, many = (statistics.median(each[calls // 10 :]) for each in took)
            print(f"{ask.__name__:8} direct {one:8.0f} us   gateway {many:8.0f} us   ratio {many / one:5.1f}")


if __name__ == "__main__":
    main()
