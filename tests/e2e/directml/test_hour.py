"""An hour of random work on DirectML: every byte is what was written last."""

import random

import pytest

from protocol.vocabulary import Initialize
from tests.e2e.directml.isolated import MIB, TOKEN, Start, ask, contents, start
from tests.rigs.directml.rig import Rig
from worker.backends.isolated import IsolatedBackend
from worker.core.errors import OutOfMemoryError

__all__ = ["start"]


class Hour:
    """Random work, and what every byte of it has to be."""

    def __init__(self, backend: IsolatedBackend, seed: int) -> None:
        self.backend = backend
        self.random = random.Random(seed)
        self.blocks: dict[str, int] = {}
        self.written: dict[str, tuple[int, bytes]] = {}
        self.refused = 0

    def step(self, number: int) -> None:
        """Allocate, free, copy, clear or defragment."""
        roll = self.random.random()
        if roll < 0.4 or not self.blocks:
            self.allocate(f"b{number}")
        elif roll < 0.65:
            name = self.random.choice(sorted(self.blocks))
            del self.blocks[name]
            self.written.pop(name, None)
            self.backend.free(name)
        elif roll < 0.93:
            self.transfer(self.random.choice(sorted(self.blocks)))
        elif roll < 0.97:
            self.backend.trim("dml:0")
        else:
            self.backend.defragment("dml:0")
            self.backend.tick()

    def allocate(self, name: str) -> None:
        """Make a block of a size from one byte to 90 MB."""
        size = int(2 ** self.random.uniform(0, 26.5))
        initialize = self.random.choice(list(Initialize))
        try:
            self.backend.allocate(name, ask(size, initialize), TOKEN)
        except OutOfMemoryError:
            self.refused += 1
            return
        self.blocks[name] = size
        if initialize is Initialize.ZERO:
            end = max(0, size - 5000)
            assert contents(self.backend, name, end, size - end).count(0) == size - end

    def transfer(self, name: str) -> None:
        """Write somewhere, and read what was written there and before."""
        size = self.blocks[name]
        length = min(size, int(2 ** self.random.uniform(0, 23.5)))
        offset = self.random.randrange(size - length + 1)
        data = self.random.randbytes(length)
        self.backend.write(name, offset, memoryview(data), TOKEN)
        self.written[name] = (offset, data)
        self.check(name)

    def check(self, name: str) -> None:
        """Compare what was written last."""
        offset, data = self.written[name]
        assert contents(self.backend, name, offset, len(data)) == data


@pytest.mark.parametrize("allocator", ["untiled", "tiled"])
def test_hour(start: Start, directml_rig: Rig, allocator: str) -> None:
    """Reported bytes are the driver's through 300 operations; what is dead goes back, and no byte is lost.

    After each: process bytes are the witness's within 1 MB, no more than the budget, and explained by live blocks and
    caches; the tiled pool keeps room for copies besides.
    """
    backend = start(allocator, budget_bytes=1536 * MIB)
    hour, witness = Hour(backend, 20), directml_rig.witness
    # The pool is told of in tiles of a megabyte and keeps room for copies; else 512 small resources and one more.
    unexplained = 18_000_000 if allocator == "tiled" else 512 * 16 + 256
    for number in range(300):
        hour.step(number)
        found, held = backend.readings("dml:0"), witness.device_bytes()
        assert found.process_used_bytes is not None and found.budget_bytes is not None
        assert abs(found.process_used_bytes - held) <= 1e6, number
        assert held <= found.budget_bytes
        assert abs(held - found.resident_bytes - found.cached_bytes) <= unexplained, number
    assert len(hour.blocks) > 20
    pids = set(witness.living())
    dead, before = backend.readings("dml:0").cached_bytes, witness.device_bytes()
    if allocator == "tiled":
        backend.restart(TOKEN)
        # A new pool is larger than its blocks; that much of the dead is what it starts with.
        dead -= backend.readings("dml:0").cached_bytes
        assert set(witness.living()) != pids
    else:
        backend.trim("dml:0")
        assert set(witness.living()) == pids
    assert before - witness.device_bytes() >= 0.99 * dead
    for name in hour.written:
        hour.check(name)
    assert backend.live() == set(hour.blocks)
