"""What a device of torch's copies by itself, and what several threads copy to and from it at once."""

import os
import threading
from collections.abc import Iterator

import pytest

from protocol.vocabulary import MemoryType
from tests.rigs.torch_on_cpu import TorchOnCpu
from tests.unit.backends.cuda_on_cpu import MIB, TOKEN, ask, contents
from tests.unit.isolation import TORCH, isolated, never
from worker.backends import pieces
from worker.backends.base import RemoteWork
from worker.backends.block_copy import copy_block
from worker.backends.cuda import CudaBackend
from worker.backends.cuda_probe import Found
from worker.backends.host_memory import AnonymousBuffer
from worker.backends.isolation.slots import SLOT_BYTES, SLOTS
from worker.backends.pieces import PARALLEL_FROM_BYTES, PART_BYTES, no_progress
from worker.backends.torch_copy import STAGE_BYTES
from worker.core.errors import DeviceLostError
from worker.core.records import AllocationRequest, DeviceInfo

SIZE = PARALLEL_FROM_BYTES + 3 * MIB + 5
DEVICE_BYTES = 160 * MIB


@pytest.fixture
def devices() -> dict[str, TorchOnCpu]:
    return {name: TorchOnCpu(DEVICE_BYTES, name) for name in ("cuda:0", "cuda:1")}


@pytest.fixture
def backend(devices: dict[str, TorchOnCpu]) -> Iterator[CudaBackend]:
    """Return the backend of two devices; nothing stays locked when it is closed."""
    kind = CudaBackend().devices[0].kind
    found = Found(tuple(DeviceInfo(name, kind, name) for name in devices), {**devices}, (), lambda: None)
    made = CudaBackend(lambda: 0, lambda: found)
    made.probe()
    yield made
    made.close()
    assert not any(device.locked for device in devices.values())


def two_blocks(backend: CudaBackend, second: AllocationRequest) -> bytes:
    """Make a on cuda:0 and b, and return what is in a."""
    data = os.urandom(SIZE)
    backend.allocate("a", ask(SIZE), TOKEN)
    backend.write("a", 0, memoryview(data), TOKEN)
    backend.allocate("b", second, TOKEN)
    return data


@pytest.mark.parametrize(
    "second",
    [
        AllocationRequest("cuda:0", SIZE),
        AllocationRequest("cuda:1", SIZE),
        AllocationRequest("cuda:1", SIZE, MemoryType.PINNED),
    ],
)
def test_devices_copy_by_themselves(
    backend: CudaBackend, devices: dict[str, TorchOnCpu], second: AllocationRequest
) -> None:
    """Within a device, from one to the other, and to and from memory locked for them: one copy a piece, and no buffer."""
    data = two_blocks(backend, second)
    for device in devices.values():
        device.most_pending = 0
    told: list[int] = []
    copy_block(backend, "a", backend, "b", SIZE, TOKEN, told.append)
    assert (devices["cuda:0"].most_pending, devices["cuda:1"].most_pending) == (1, 0)
    assert told == [SIZE]
    assert contents(backend, "b", 0, SIZE) == data
    backend.write("a", 0, memoryview(bytes(SIZE)), TOKEN)
    copy_block(backend, "b", backend, "a", SIZE, TOKEN, no_progress)
    assert contents(backend, "a", 0, SIZE) == data


def test_a_device_that_is_lost_amid_a_copy(backend: CudaBackend, devices: dict[str, TorchOnCpu]) -> None:
    """It is told of as such, and takes its blocks along; the other's stay."""
    two_blocks(backend, AllocationRequest("cuda:1", SIZE))
    devices["cuda:0"].failure = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(DeviceLostError):
        copy_block(backend, "a", backend, "b", SIZE, TOKEN, no_progress)
    assert backend.live() == {"b"}


def test_several_threads_copy_a_block(backend: CudaBackend) -> None:
    """Each has a lane; every place is taken once, both ways, and one after the other where that is asked for."""
    data = os.urandom(SIZE)
    backend.allocate("a", ask(SIZE), TOKEN)
    both = threading.Barrier(2, timeout=30)
    threads: set[int] = set()

    def meet(at: int) -> None:
        if at % PARALLEL_FROM_BYTES == 0:  # the first piece of each part
            both.wait()
            threads.add(threading.get_ident())

    def fill(at: int, piece: memoryview) -> None:
        meet(at)
        piece[:] = data[at : at + len(piece)]

    told: list[int] = []
    backend.write_each("a", SIZE, fill, TOKEN, told.append)
    assert contents(backend, "a", 0, SIZE) == data
    found = bytearray(SIZE)

    def take(at: int, piece: memoryview) -> None:
        meet(at)
        found[at : at + len(piece)] = piece

    backend.read_each("a", SIZE, take, TOKEN, told.append)
    assert found == data
    assert told[1::2] == [SIZE, SIZE]
    assert len(threads) > 1
    places: list[int] = []
    backend.read_each("a", SIZE, lambda at, _: places.append(at), TOKEN, told.append, in_order=True)
    assert places == list(range(0, SIZE, STAGE_BYTES))


@pytest.mark.parametrize("refuses", [False, True])
def test_memory_that_is_lent(backend: CudaBackend, devices: dict[str, TorchOnCpu], refuses: bool) -> None:
    """It is locked when a copy first goes through it, and copied without a buffer between; else it is staged."""
    device = devices["cuda:0"]
    device.refuses_locking = refuses
    lent = AnonymousBuffer(4 * STAGE_BYTES)
    backend.lend_memory(lent.view)
    assert device.locked == {}
    backend.allocate("a", ask(lent.size_bytes), TOKEN)
    data = os.urandom(lent.size_bytes)
    lent.view[:] = data
    backend.write("a", 0, lent.view, TOKEN)
    assert device.most_pending == (2 if refuses else 1)
    assert (lent.address in device.locked) is not refuses
    lent.view[:] = bytes(lent.size_bytes)
    backend.read("a", 3, lent.view[3:], TOKEN)
    assert bytes(lent.view) == bytes(3) + data[3:]
    assert device.most_pending == (2 if refuses else 1)


@pytest.mark.usefixtures("rigs")
def test_between_two_blocks_of_a_process() -> None:
    """Its devices copy by themselves there; what comes and goes does so through slots that are locked for them."""
    data = os.urandom(SIZE)
    with isolated(TORCH) as apart:
        apart.probe()
        for name, memory_type in (
            ("a", MemoryType.DEVICE),
            ("p", MemoryType.PINNED),
            ("b", MemoryType.DEVICE),
        ):
            apart.allocate(name, AllocationRequest("sim:0", SIZE, memory_type), never())
        apart.write("a", 0, memoryview(data), never())
        told: list[int] = []
        for source, destination in (("a", "p"), ("p", "b")):
            assert apart.copy_within(source, destination, 0, 1, never())
            copy_block(apart, source, apart, destination, SIZE, never(), told.append)
        assert told == [SIZE, SIZE]
        found = bytearray(SIZE)
        apart.read("b", 0, memoryview(found), never())
        assert found == data
        locked = RemoteWork("torch_on_cpu:locked", {}, {})
        assert SLOTS * SLOT_BYTES in apart.work("a", locked, never(), lambda *_: None)


def test_between_two_blocks_of_a_process_that_cannot() -> None:
    """They go through the worker."""
    data = os.urandom(SIZE)
    with isolated() as apart:
        apart.probe()
        for name in ("a", "b"):
            apart.allocate(name, AllocationRequest("sim:0", SIZE), never())
        apart.write("a", 0, memoryview(data), never())
        assert not apart.copy_within("a", "b", 0, SIZE, never())
        copy_block(apart, "a", apart, "b", SIZE, never(), no_progress)
        found = bytearray(SIZE)
        apart.read("b", 0, memoryview(found), never())
        assert found == data


def test_several_threads_copy_to_and_from_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are processors for them: every place once, both ways; one after the other where that is asked for."""
    monkeypatch.setattr(pieces, "_cpus", lambda: 16)
    data = os.urandom(2 * PART_BYTES + SIZE)
    three = threading.Barrier(3, timeout=30)

    def meet(at: int) -> None:
        if at % PART_BYTES == 0 and at < 3 * PART_BYTES:  # the first piece of each of the first parts
            three.wait()

    def fill(at: int, piece: memoryview) -> None:
        meet(at)
        piece[:] = data[at : at + len(piece)]

    found = bytearray(len(data))

    def take(at: int, piece: memoryview) -> None:
        meet(at)
        found[at : at + len(piece)] = piece

    with isolated() as apart:
        apart.probe()
        apart.allocate("a", AllocationRequest("sim:0", len(data)), never())
        told: list[int] = []
        apart.write_each("a", len(data), fill, never(), told.append)
        apart.read_each("a", len(data), take, never(), told.append)
        assert found == data
        assert told[3::4] == [len(data), len(data)]
        places: list[int] = []
        apart.read_each("a", len(data), lambda at, _: places.append(at), never(), no_progress, in_order=True)
        assert places == list(range(0, len(data), SLOT_BYTES))
