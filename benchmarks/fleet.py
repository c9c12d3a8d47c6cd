"""What a call through a gateway costs: against a worker of the same options that is asked directly, interleaved.

    python -m benchmarks.fleet [--calls 300]

Both are asked by the same client. The gateway is a process more and asks through Ray, so what it can't be below is the
worker's answer, an answer through one more pipe, and a bare call of an actor for each request that goes to a node: also
measured here, turn by turn with the others.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import ray

from benchmarks.harness import seconds
from worker.client import Client, connect

_OPTIONS = ("--simulated-device", "1GiB")
_FLEET = ("fleet", "--nodes", "1", *_OPTIONS)
_REQUEST = bytes(200)
"""About what a request takes, packed."""


class Bare:
    """An actor that answers as a node does, with nothing behind it."""

    async def call(self, asked: bytes) -> bytes:
        """Return what came."""
        return asked


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


QUESTIONS: tuple[tuple[Callable[[Client], None], int], ...] = (
    (ping, 0),
    (status, 1),
    (named, 2),
    (placed, 2),
)
"""And how many requests each sends to a node."""


def main() -> None:
    """Ask all, turn by turn, and print medians and their ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=300)
    calls = parser.parse_args().calls
    ray.init("local", include_dashboard=False, num_cpus=1, num_gpus=0, log_to_driver=False)
    kind: Any = ray.remote(Bare)
    actor = kind.options(num_cpus=0, max_concurrency=1000).remote()
    with connect(*_OPTIONS) as direct, connect(*_FLEET) as gateway:
        for ask, hops in QUESTIONS:
            took: tuple[list[float], ...] = ([], [], [], [])
            for _ in range(calls):
                took[0].append(seconds(partial(ask, direct)))
                took[1].append(seconds(lambda: ray.get(actor.call.remote(_REQUEST))))
                took[2].append(seconds(direct.ping))
                took[3].append(seconds(partial(ask, gateway)))
            one, bare, pipe, many = (statistics.median(each[calls // 10 :]) * 1e6 for each in took)
            floor = one + hops * (bare + pipe)
            print(
                f"{ask.__name__:8} direct {one:6.0f} us   with {hops} of actor {bare:5.0f} and pipe {pipe:4.0f} us {floor:6.0f} us"
                f"   gateway {many:6.0f} us: {many / one:4.1f} times the one, {many / floor:4.2f} times the other"
            )


if __name__ == "__main__":
    main()
