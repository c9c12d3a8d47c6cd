"""The tiled allocator: a pool of chunks that only grows, told of by ``gpu_memory``.

Usable memory is frozen when the backend is made, cut into chunks of 4 GB; a chunk grows in steps, a block lies in
one chunk, and nothing goes back before the process ends. When the driver refuses a step the process
dies. So what is asked for is held against the free runs in the pool, and a step against the driver's headroom.
"""

from collections.abc import Callable
from itertools import groupby
from typing import Any

from worker.backends.directml_adapters import AdapterReading
from worker.backends.directml_device import ALIGNMENT_BYTES, HIDDEN_BYTES, DirectMlDevice
from worker.backends.directml_untiled import Headroom
from worker.core.errors import OutOfMemoryError

MB = 10**6
CHUNK_BYTES = 4000 * MB
_WHOLE_CHUNK_MB = 5000
"""A tile that no chunk outgrows: ``gpu_memory`` then has one entry a chunk."""

_FIRST_TILES = 2
"""Every chunk begins with one heap of 1 MiB, which is in two tiles of ``gpu_memory``."""

_STEP_BYTES = 2**30
_STEP_SLACK_BYTES = 100 * MB
"""Steps end up to 80 MB above a multiple of 1 GiB (measured)."""

_HEAP_PAGE_BYTES = 2**16
DRIVER_MARGIN_BYTES = 256 * 2**20
"""Left to the driver and to other processes: past its end this process dies."""


class TiledMemory:
    """One device's memory. Not thread-safe."""

    name = "tiled"
    limit_bytes = (CHUNK_BYTES - _FIRST_TILES * MB) // ALIGNMENT_BYTES * ALIGNMENT_BYTES
    """The largest buffer that a chunk can have, its first heap as the ledger counts it; less where the budget was small."""

    def __init__(
        self, device: DirectMlDevice, read: Callable[[], AdapterReading], usable: int | None
    ) -> None:
        self._device = device
        self._read = read
        chunks = len(device.tiles(_WHOLE_CHUNK_MB))
        self._capacities = _capacities(usable, chunks)
        # All mutable state: the tiles that each chunk holds, and headroom that is kept for copies.
        self._tiles = [_FIRST_TILES] * chunks
        self._for_copies: Any = None
        self._for_copies = self._grow_by(HIDDEN_BYTES)

    @property
    def held_bytes(self) -> int:
        """What the pool takes of the device at least: the last tile of a chunk is not full."""
        return (sum(self._tiles) - _FIRST_TILES * len(self._tiles)) * MB

    def headroom(self, reading: AdapterReading) -> Headroom:
        """Work out what could be had: free runs of the pool, and the steps that it may still grow by."""
        tiles = self._device.tiles(1)
        held, live = len(tiles) * MB, round(sum(tiles) * MB)
        cached = max(0, held - live)
        # The last step may have taken a chunk past its capacity: what is in the pool can be had all the same.
        growth = sum(fits for fits, _ in self._steps(None))
        headroom = self._driver_headroom(reading)
        if headroom is not None and headroom < growth:
            # One step at a time: the next is looked at anew.
            growth = min(headroom, self._largest_step(headroom))
        free = max(0, cached + growth)
        # A new pool is larger than its blocks too, from the headroom for copies on: that much no restart returns.
        anew = _pool_bytes(live + HIDDEN_BYTES) + _FIRST_TILES * MB * len(self._tiles)
        dead = min(cached, max(0, held - anew))
        return Headroom(free, min(free, self._largest(tiles, headroom)), cached, dead)

    def allocate(self, size: int, reading: AdapterReading) -> Any:
        """Make a buffer where the pool has a run for it or may grow by one. OutOfMemoryError otherwise."""
        if self._for_copies is None:
            self._keep_headroom_for_copies()
        tiles, headroom = self._device.tiles(1), self._driver_headroom(reading)
        if size > max(self._runs(tiles)) and not self._may_grow_for(size, headroom):
            largest = self._largest(tiles, headroom)
            message = (
                f"{size} bytes are more than the {largest} that the tiled pool has in one piece or may grow by;"
                " only a restart of the device's process joins or returns what it holds"
            )
            raise OutOfMemoryError(message, requested_bytes=size, available_bytes=largest)
        return self._grow_by(size)

    def dropped(self, size: int) -> int:  # noqa: ARG002 - whatever its size, it stays in the pool
        """Return 0: the pool keeps it."""
        return 0

    def prepare_copy(self) -> None:
        """Make sure that a copy's hidden buffers find headroom without a step that the driver might refuse."""
        if self._for_copies is None:
            return
        headroom = self._driver_headroom(self._read())
        step = _STEP_BYTES + _STEP_SLACK_BYTES
        may_fail = headroom is None or headroom < step
        if may_fail and max(self._runs(self._device.tiles(1))) < HIDDEN_BYTES + 2 * MB:
            self._for_copies = None

    def copied(self, hidden: dict[int, int]) -> None:
        """Do nothing: hidden buffers are the pool's again."""

    def trim(self) -> int:
        """Return 0: nothing leaves the pool."""
        return 0

    def fits_anew(self, sizes: list[int], reading: AdapterReading) -> bool:
        """Tell whether a new process could have blocks of these sizes now: its pool is smaller if the budget is."""
        usable, headroom = usable_bytes(reading.budget_bytes), reading.headroom_anew_bytes
        if usable is None or headroom is None:
            return True
        return _fit([HIDDEN_BYTES, *sorted(sizes, reverse=True)], usable, headroom - DRIVER_MARGIN_BYTES)

    def tick(self) -> None:
        """Take the headroom for copies back when it can be had."""
        if self._for_copies is None:
            self._keep_headroom_for_copies()

    def _keep_headroom_for_copies(self) -> None:
        if max(self._runs(self._device.tiles(1))) >= HIDDEN_BYTES + 2 * MB:
            self._for_copies = self._grow_by(HIDDEN_BYTES)

    def _grow_by(self, size: int) -> Any:
        """Make a buffer, and see which chunk grew for it: the one whose live bytes did."""
        before, live = len(self._device.tiles(1)), self._device.tiles(_WHOLE_CHUNK_MB)
        tensor = self._device.empty(size)
        grown = len(self._device.tiles(1)) - before
        if grown:
            now = self._device.tiles(_WHOLE_CHUNK_MB)
            chunk = max(range(len(now)), key=lambda index: now[index] - live[index])
            self._tiles[chunk] += grown
        return tensor

    def _driver_headroom(self, reading: AdapterReading) -> int | None:
        headroom = reading.headroom_bytes
        return None if headroom is None else max(0, headroom - DRIVER_MARGIN_BYTES)

    def _largest(self, tiles: list[float], headroom: int | None) -> int:
        """Return the most that one block can get: the longest free run, or what a chunk may grow for."""
        return max(*self._runs(tiles), self._largest_step(headroom)) // 256 * 256

    def _steps(self, headroom: int | None) -> list[tuple[int, int]]:
        """Return for each chunk the largest request that fits it, and the largest that the driver has headroom for."""
        steps = []
        for capacity, tiles in zip(self._capacities, self._tiles, strict=True):
            fits = max(0, capacity - tiles * MB)
            bound = headroom is not None and headroom < fits
            steps.append((fits, min(fits, _safe_step(tiles * MB, headroom or 0)) if bound else fits))
        return steps

    def _may_grow_for(self, size: int, headroom: int | None) -> bool:
        """Tell whether the pool may grow: the first chunk that fits does, also where another's step is smaller."""
        return next((size <= safe for fits, safe in self._steps(headroom) if size <= fits), False)

    def _largest_step(self, headroom: int | None) -> int:
        return max(
            (safe for _, safe in self._steps(headroom) if self._may_grow_for(safe, headroom)), default=0
        )

    def _runs(self, tiles: list[float]) -> list[int]:
        """Return the free runs within each chunk, in whole tiles, one heap page short."""
        runs, start = [0], 0
        for count in self._tiles:
            for free, run in groupby(tiles[start : start + count], key=lambda used: used == 0):
                if free:
                    # The last tile of a chunk may end anywhere in it.
                    runs.append((sum(1 for _ in run) - 1) * MB - _HEAP_PAGE_BYTES)
            start += count
        return runs


def _capacities(usable: int | None, chunks: int) -> list[int]:
    if usable is None:
        return [CHUNK_BYTES] * chunks
    return [min(CHUNK_BYTES, max(0, usable - n * CHUNK_BYTES)) for n in range(chunks)]


def _fit(sizes: list[int], usable: int, headroom: int) -> bool:
    """Fill a pool that starts anew in this order, as the library does, and never by a step past the headroom."""
    capacities = _capacities(usable, max(1, -(-usable // CHUNK_BYTES)))
    held = [_FIRST_TILES * MB] * len(capacities)
    free = [0] * len(capacities)
    headroom -= sum(held)
    for size in sizes:
        needed = size + _FIRST_TILES * MB  # a run begins and ends within tiles
        runs = [index for index, run in enumerate(free) if run >= needed]
        chunk = min(runs, key=lambda index: free[index], default=None)
        if chunk is None:
            chunk = next((n for n, most in enumerate(capacities) if most - held[n] >= size), None)
            if chunk is None or size > _safe_step(held[chunk], headroom):
                return False
            grown = _pool_bytes(held[chunk] + size) - held[chunk]
            held[chunk] += grown
            free[chunk] += grown
            headroom -= grown
        free[chunk] -= size
    return True


def _pool_bytes(live: int) -> int:
    """Return about what a pool that starts anew holds for blocks of so many bytes."""
    if live > _STEP_BYTES:
        return -(-live // _STEP_BYTES) * _STEP_BYTES
    return 1 << max(0, live - 1).bit_length()


def _safe_step(held: int, headroom: int) -> int:
    """Return the largest request whose step, rounded up as the library does it, ends within the headroom."""
    end = held + headroom
    reachable = (end - _STEP_SLACK_BYTES) // _STEP_BYTES * _STEP_BYTES
    if reachable < _STEP_BYTES:  # powers of two until there
        reachable = 1 << (end.bit_length() - 1)
    return max(0, reachable - held)


def usable_bytes(budget: int | None) -> int | None:
    """Return what the library makes of a budget when its backend is created."""
    if budget is None:
        return None
    mib = 2**20
    usable = budget - max(300 * mib, budget // 20)
    return usable - 225 * mib if budget < 2 * 2**30 else usable
