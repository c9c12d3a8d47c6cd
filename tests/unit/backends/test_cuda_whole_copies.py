"""Copies of whole blocks of CUDA's, and loads by two threads: no pause between pieces, and right to the byte."""

import os
import threading

import pytest

from protocol.vocabulary import MemoryType
from tests.rigs.torch_on_cpu import TorchOnCpu, backend_on_cpu
from tests.unit.backends.cuda_on_cpu import MIB, TOKEN, ask, backend, contents, device, time
from tests.unit.isolation import isolated, never
from worker.backends.base import COPY_CHUNK_BYTES, PutsAtOnce, Write
from worker.backends.block_copy import copy_block
from worker.backends.cuda import CudaBackend
from worker.backends.pieces import no_progress
from worker.backends.torch_copy import STAGE_BYTES
from worker.core.records import AllocationRequest

__all__ = ["backend", "device", "time"]

SIZE = 9 * MIB + 5


@pytest.mark.parametrize("memory_type", [MemoryType.DEVICE, MemoryType.PINNED])
def test_a_whole_block_in_and_out(backend: CudaBackend, memory_type: MemoryType) -> None:
    """Every place is asked for once and in order, and progress rises to the end."""
    data = os.urandom(SIZE)
    backend.allocate("a", ask(SIZE, memory_type), TOKEN)
    told: list[int] = []

    def fill(at: int, piece: memoryview) -> None:
        piece[:] = data[at : at + len(piece)]

    backend.write_each("a", SIZE, fill, TOKEN, told.append)
    assert told == sorted(told)
    assert told[-1] == SIZE
    found: list[bytes] = []
    backend.read_each("a", SIZE, lambda _, piece: found.append(bytes(piece)), TOKEN, told.append)
    assert b"".join(found) == data
    assert told[-1] == SIZE


def test_between_the_device_and_memory_locked_for_it(backend: CudaBackend, device: TorchOnCpu) -> None:
    """The device copies that by itself, both ways."""
    data = os.urandom(SIZE)
    backend.allocate("p", ask(SIZE, MemoryType.PINNED), TOKEN)
    backend.allocate("a", ask(SIZE), TOKEN)
    backend.write("p", 0, memoryview(data), TOKEN)
    device.most_pending = 0
    copy_block(backend, "p", backend, "a", SIZE, TOKEN, no_progress)
    assert device.most_pending == 1
    assert contents(backend, "a", 0, SIZE) == data
    backend.write("p", 0, memoryview(bytes(SIZE)), TOKEN)
    copy_block(backend, "a", backend, "p", SIZE, TOKEN, no_progress)
    assert contents(backend, "p", 0, SIZE) == data


def test_two_threads_fill_a_block(backend: CudaBackend, device: TorchOnCpu) -> None:
    """Each has a stream and buffers of its own, and all is there when the load ends; both lanes are kept for the next."""
    data = os.urandom(8 * STAGE_BYTES)
    half = len(data) // 2
    both = threading.Barrier(2, timeout=30)

    def fill_block(_: memoryview | None, write: Write) -> None:
        assert isinstance(write, PutsAtOnce)

        def fill(at: int, piece: memoryview) -> None:
            both.wait()  # no piece of the one is made without one of the other's
            piece[:] = data[at : at + len(piece)]

        other = threading.Thread(target=write.put_each, args=(half, half, fill, no_progress))
        other.start()
        write.put_each(0, half, fill, no_progress)
        other.join()

    streams = len(device.streams)
    backend.load("m", ask(len(data)), fill_block, TOKEN)
    assert contents(backend, "m", 0, len(data)) == data
    assert len(device.streams) == streams + 2
    backend.load("n", ask(MIB), lambda _, write: write(0, memoryview(data)[:MIB]), TOKEN)
    assert len(device.streams) == streams + 2


def test_a_load_whose_source_fails(backend: CudaBackend) -> None:
    """The failure is told as it is, not as one of the device's, and nothing is left."""

    def fill_block(_: memoryview | None, write: Write) -> None:
        assert isinstance(write, PutsAtOnce)

        def fail(_at: int, _piece: memoryview) -> None:
            raise MemoryError("the file's own")

        write.put_each(0, MIB, fail, no_progress)

    with pytest.raises(MemoryError, match="the file's own"):
        backend.load("m", ask(MIB), fill_block, TOKEN)
    assert backend.live() == frozenset()
    readings = backend.readings("cuda:0")
    assert (readings.resident_bytes, readings.cached_bytes) == (0, 0)


def test_where_the_allocator_keeps_nothing() -> None:
    """It counts nothing then: what a free returns is what the driver shows, and no more than the block's pages."""
    device = TorchOnCpu(64 * MIB)
    device.caches = False
    backend = backend_on_cpu(device, lambda: 0)
    backend.probe()
    backend.allocate("a", ask(5 * MIB), TOKEN)
    backend.allocate("b", ask(MIB), TOKEN)
    assert backend.free("a") == 5 * MIB
    assert backend.unload("b") == MIB
    assert backend.live() == frozenset()
    backend.close()


def test_pieces_that_the_allocator_does_not_count(backend: CudaBackend, device: TorchOnCpu) -> None:
    """What a trim leaves cached is no headroom, until less than that is cached."""
    device.keeps = 1
    for name in ("a", "b", "c"):
        backend.allocate(name, ask(MIB), TOKEN)
    before = backend.readings("cuda:0").free_bytes
    assert before is not None
    assert backend.free("a") == 0
    found = backend.readings("cuda:0")
    assert (found.cached_bytes, found.free_bytes) == (MIB, before)
    assert backend.free("b") == MIB
    assert backend.readings("cuda:0").free_bytes == before + MIB
    backend.allocate("d", ask(MIB), TOKEN)
    found = backend.readings("cuda:0")
    assert (found.cached_bytes, found.free_bytes) == (0, before + MIB)


def test_to_and_from_a_device_in_a_process_of_its_own(backend: CudaBackend) -> None:
    """Neither waits for the other's pieces: that process's are filled and emptied while they are under way."""
    data = os.urandom(SIZE)
    backend.allocate("a", ask(SIZE), TOKEN)
    backend.write("a", 0, memoryview(data), TOKEN)
    backend.allocate("b", ask(SIZE), TOKEN)
    with isolated() as apart:
        apart.probe()
        apart.allocate("s", AllocationRequest("sim:0", SIZE), never())
        told: list[int] = []
        copy_block(backend, "a", apart, "s", SIZE, TOKEN, told.append)
        copy_block(apart, "s", backend, "b", SIZE, TOKEN, told.append)
    assert contents(backend, "b", 0, SIZE) == data
    assert len(told) > 2 * SIZE / COPY_CHUNK_BYTES + 2  # in pieces that are smaller than a transfer's chunk
