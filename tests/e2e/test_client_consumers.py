"""Caches of a Python host that make room for what its worker is asked for."""

import logging
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.process import MIB, eventually
from worker.client import Client, Consumers, Holding, connect

KILL = signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM


class Tiles:
    """A cache whose entries are allocations of the worker's device, so that what goes is seen there."""

    kind, device_id = "tile_cache", "sim:0"

    def __init__(self, memory: Client, consumer_id: str = "tiles", count: int = 0) -> None:
        self.consumer_id, self._memory = consumer_id, memory
        self.limits: list[int | None] = []
        self._held = [
            memory.allocate(size_bytes=MIB, device_id=self.device_id).allocation_id for _ in range(count)
        ]

    def holding(self) -> Holding:
        held = len(self._held) * MIB
        return Holding(held, ((held, 5.0),))  # of 0 bytes while it is empty

    def release(self, size_bytes: int) -> int:
        for allocation_id in (going := self._held[: -(-size_bytes // MIB)]):
            self._memory.deallocate(allocation_id=allocation_id)
        self._held = self._held[len(going) :]
        return len(going) * MIB

    def limit_changed(self, limit_bytes: int | None) -> None:
        self.limits.append(limit_bytes)


class Broken(Tiles):
    """Is asked first, as it costs nothing, and raises."""

    def holding(self) -> Holding:
        return Holding(MIB, ((MIB, 0.0),))

    def release(self, size_bytes: int) -> int:
        raise KeyError(size_bytes)


@pytest.fixture
def memory() -> Iterator[Client]:
    with connect("--simulated-device", "64MiB", "--pool-bytes", "0") as client:
        yield client


def known(memory: Client) -> dict[str, int]:
    """Return what the worker knows of the host's consumers: bytes by id."""
    rows = memory.get_consumers().consumers
    return {each.consumer_id: each.held_bytes for each in rows if each.kind == Tiles.kind}


def test_it_gives_what_is_needed(memory: Client) -> None:
    """It is asked for what is missing, told its limit first, and the worker sees what came back; at the end it is forgotten."""
    tiles = Tiles(memory, count=40)
    with Consumers(memory, tiles):
        eventually(lambda: known(memory) == {"tiles": 40 * MIB}, "it to be known")
        made = memory.allocate(size_bytes=34 * MIB, device_id="sim:0", make_room=True)
        assert [(each.consumer_id, each.returned_bytes) for each in made.released] == [("tiles", 10 * MIB)]
        assert tiles.limits == [30 * MIB]
        eventually(lambda: known(memory) == {"tiles": 30 * MIB}, "what it offers from now on")
    assert known(memory) == {}


def test_one_that_raises_holds_up_no_other(memory: Client, caplog: pytest.LogCaptureFixture) -> None:
    """It answers for nothing, which is logged; one that the worker refuses is logged in a line."""
    tiles = Tiles(memory, count=40)
    with (
        caplog.at_level(logging.WARNING),
        Consumers(memory, Broken(memory, "broken"), tiles, Tiles(memory, "model:mine")),
    ):
        eventually(lambda: known(memory).keys() == {"tiles", "broken"}, "both to be known")
        made = memory.allocate(size_bytes=34 * MIB, device_id="sim:0", make_room=True)
        assert sum(each.returned_bytes or 0 for each in made.released) == 10 * MIB
    assert "the consumer broken failed" in caplog.text
    assert "room is made without model:mine until the worker takes it" in caplog.text


def test_the_next_worker_knows_it(memory: Client) -> None:
    """It is registered anew with the worker that replaces one that died, by itself."""
    with Consumers(memory, Tiles(memory), lease_s=0.3):
        eventually(lambda: known(memory) == {"tiles": 0}, "it to be known")
        dead = memory.hello.pid
        os.kill(dead, KILL)
        eventually(lambda: memory.is_running and memory.hello.pid != dead, "another worker")
        eventually(lambda: known(memory) == {"tiles": 0}, "it to be known there")


def test_an_end_without_a_worker_starts_none(memory: Client) -> None:
    """There is nothing to be forgotten by."""
    consumers = Consumers(memory, Tiles(memory))
    eventually(lambda: known(memory) == {"tiles": 0}, "it to be known")
    memory.close()
    consumers.close()
    consumers.close()
    assert not memory.is_running
