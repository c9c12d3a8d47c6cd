"""What is pure of the DirectML backend: pieces of copies, the books of its caches, and what a pool may grow by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.backends.directml_adapters import AdapterReading
from worker.backends.directml_device import PIECE_BYTES, pieces
from worker.backends.directml_tiled import TiledMemory, usable_bytes
from worker.backends.directml_untiled import FreedCache
from worker.core.errors import OutOfMemoryError

MIB, GIB = 2**20, 2**30


@given(st.integers(0, 5 * PIECE_BYTES))
def test_pieces(length: int) -> None:
    """Pieces cover every byte from the first to the last, in one power of two."""
    end = 0
    found = list(pieces(length))
    for start, size in found:
        assert start <= end < start + size <= length
        end = start + size
    assert end == length
    assert len({size for _, size in found}) <= 1
    assert all(size <= PIECE_BYTES and size & (size - 1) == 0 for _, size in found)


def test_cache_gives_up_whole_sizes() -> None:
    """Past 512 resources the size used least recently goes, all of it; a flush leaves nothing that counts."""
    cache = FreedCache()
    for size, count in ((1000, 300), (2000, 200), (3000, 12)):
        for _ in range(count):
            cache.give(size)
    assert cache.cached_bytes == 300_000 + 400_000 + 36_000
    assert cache.take(1000)
    cache.give(1000)
    cache.give(4000)
    assert cache.cached_bytes == 300_000 + 36_000 + 4000
    assert not cache.take(2000)
    cache.flush()
    assert cache.cached_bytes == 0
    assert cache.flushed_bytes == 512 * 16
    cache.give(5000)
    assert (cache.cached_bytes, cache.flushed_bytes) == (5000, 0)


@pytest.mark.parametrize(
    ("budget", "usable"),
    [(GIB, 499 * MIB), (2 * GIB, 1748 * MIB), (4 * GIB, 3796 * MIB), (24 * GIB, 24 * GIB * 19 // 20 + 1)],
)
def test_usable(budget: int, usable: int) -> None:
    """What the library makes of a budget, as it was seen to do."""
    assert usable_bytes(budget) == usable


class Pool:
    """A device whose pool has so much free in its chunks of 4 GB; buffers take nothing."""

    def __init__(self, *tiles: list[float]) -> None:
        self.chunks = tiles

    def tiles(self, mb_per_tile: int) -> list[float]:
        """Return each tile, or one for each chunk."""
        if mb_per_tile > 1:
            return [sum(chunk) / mb_per_tile for chunk in self.chunks]
        return [used for chunk in self.chunks for used in chunk]

    def empty(self, size: int) -> object:
        """Make nothing."""
        return size


@pytest.mark.parametrize(
    ("room", "largest"),
    [
        (None, 3_998_951_424 - 951_424),  # what the first chunk has left
        (3 * GIB, 2 * GIB - 2_000_000),  # three steps would end past the room and its margin
        (GIB, 512 * MIB - 2_000_000),
        (300 * MIB, 32 * MIB - 2_000_000),
        (0, 0),
    ],
)
def test_pool_grows_no_further_than_the_driver(room: int | None, largest: int) -> None:
    """The most that a block can get is what a step may add within the driver's room, or a free run."""
    reading = AdapterReading(8 * GIB, None, None, None, None if room is None else 8 * GIB - room)
    memory = TiledMemory(Pool([0.0, 0.0], [0.0, 0.0]), lambda: reading, 8_000_000_000)
    found = memory.headroom(reading).largest_block_bytes
    assert found is not None
    assert largest * 0.99 - 1_000_000 <= found <= max(largest, 2_000_000)


def test_the_first_chunk_that_fits_grows() -> None:
    """A small request is refused where its chunk's step is too large, though a larger one's elsewhere is not."""
    reading = AdapterReading(8 * GIB, None, None, None, 8 * GIB - GIB)
    pool = Pool([1.0] * 1074, [0.0, 0.0])
    memory = TiledMemory(pool, lambda: reading, 5_500_000_000)
    memory._tiles = [1074, 2]
    with pytest.raises(OutOfMemoryError):
        memory.allocate(100 * MIB, reading)
    reading = AdapterReading(8 * GIB, None, None, None, 8 * GIB - 2 * GIB)
    assert memory.allocate(100 * MIB, reading) == 100 * MIB
