"""DirectML as a user has it: the real library in a process of its own, with the driver's books as witness."""

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from protocol.vocabulary import DeviceKind, DeviceState, Initialize, MemoryType, Source
from tests.rigs.directml.rig import Factory, Rig
from worker.backends.isolated import IsolatedBackend
from worker.backends.isolation.child_process import Launch
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.errors import DeviceUnavailableError, OutOfMemoryError, UnsupportedError
from worker.core.records import AllocationRequest, DeviceInfo

MIB, GIB = 2**20, 2**30
TOKEN = CancelToken(SystemClock().now_ns)
Start = Callable[..., IsolatedBackend]


@pytest.fixture
def start(directml_python: Path, directml_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return what starts the backend on a simulated machine."""
    started: list[IsolatedBackend] = []

    def begin(allocator: str = "untiled", **machine: Any) -> IsolatedBackend:
        for name, value in directml_rig.environment(**machine).items():
            monkeypatch.setenv(name, value)
        launch = Launch(
            str(directml_python), "worker.backends.directml:DirectMlBackend", {"allocator": allocator}
        )
        expected = (DeviceInfo("dml:0", DeviceKind.DIRECTML, "DirectML"),)
        made = IsolatedBackend(launch, expected, SystemClock())
        started.append(made)
        made.probe()
        return made

    yield begin
    for backend in started:
        backend.close()


def ask(size: int, initialize: Initialize = Initialize.NONE, device_id: str = "dml:0") -> AllocationRequest:
    """Make a request."""
    return AllocationRequest(device_id, size, initialize=initialize)


def contents(backend: IsolatedBackend, name: str, offset: int, length: int) -> bytes:
    """Read a part of a block."""
    into = bytearray(length)
    backend.read(name, offset, memoryview(into), TOKEN)
    return bytes(into)


def fill(backend: IsolatedBackend, size: int) -> int:
    """Allocate blocks ``a0`` and on until one is refused. Returns how many there are."""
    for n in range(1000):
        try:
            backend.allocate(f"a{n}", ask(size), TOKEN)
        except OutOfMemoryError:
            return n
    raise AssertionError


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


@pytest.mark.parametrize("allocator", ["untiled", "tiled"])
def test_demotion(start: Start, directml_rig: Rig, allocator: str) -> None:
    """What the driver moved to system memory when the budget fell is told to the byte, and that it came back.

    What copies go through lies there all the time, and is not counted.
    """
    backend = start(allocator, budget_bytes=2 * GIB, demotes=True)
    backend.allocate("a", ask(600 * MIB), TOKEN)
    backend.write("a", 0, memoryview(bytes(64 * MIB)), TOKEN)
    assert backend.readings("dml:0").process_demoted_bytes == 0
    held = directml_rig.witness.device_bytes()
    directml_rig.witness.set_budget(0, 400 * MIB)
    found = backend.readings("dml:0")
    assert found.process_used_bytes == 400 * MIB
    assert found.process_demoted_bytes == held - 400 * MIB
    assert found.demoted_bytes is not None
    assert found.demoted_bytes >= held - 400 * MIB  # the staging of all processes, too
    assert "demoted_percentage" in [each.name for each in found.signals]
    assert found.free_bytes is not None
    with pytest.raises(OutOfMemoryError):
        backend.allocate("b", ask(found.free_bytes + 900 * MIB), TOKEN)
    directml_rig.witness.set_budget(0, None)
    assert backend.readings("dml:0").process_demoted_bytes == 0


def test_who_is_on_the_adapter(start: Start, directml_rig: Rig) -> None:
    """Each process that holds device memory is listed with its bytes, as the driver counts them."""
    backend = start("untiled")
    backend.allocate("a", ask(100 * MIB), TOKEN)
    living = directml_rig.witness.living()
    found = backend.processes("dml:0", (*living, os.getpid()))
    assert found == {pid: holding.device_bytes for pid, holding in living.items()}


def test_empty_pool_is_returned_by_restart(start: Start, directml_rig: Rig) -> None:
    """Of a pool that holds nothing but dead memory a restart returns 99 % and more."""
    backend = start("tiled", budget_bytes=4 * GIB)
    for n in range(12):
        backend.allocate(f"a{n}", ask(256 * MIB), TOKEN)
    for n in range(12):
        assert backend.free(f"a{n}") == 0
    held = directml_rig.witness.device_bytes()
    assert held >= 3 * GIB
    assert backend.trim("dml:0") == 0
    assert directml_rig.witness.device_bytes() == held
    returned = backend.restart(TOKEN).returned_bytes
    assert returned == held - directml_rig.witness.device_bytes()
    assert returned >= 0.98 * held


def test_fragmented_pool_is_joined_by_restart(start: Start) -> None:
    """What does not fit between live blocks of a pool fits after a restart, and they are as they were."""
    backend = start("tiled", budget_bytes=1280 * MIB)
    size, kept = 40 * MIB, {}
    names = [f"a{n}" for n in range(fill(backend, size))]
    assert len(names) >= 10
    for name in names[::2]:
        backend.free(name)
    for name in names[1::2]:
        kept[name] = os.urandom(MIB)
        backend.write(name, 39 * MIB, memoryview(kept[name]), TOKEN)
    pieces = backend.readings("dml:0").fragmentation
    assert pieces is not None
    assert pieces.free_bytes > 5 * size > 2 * pieces.largest_free_block_bytes
    with pytest.raises(OutOfMemoryError, match="only a restart"):
        backend.allocate("large", ask(4 * size), TOKEN)
    assert backend.restart(TOKEN).moved == len(kept)
    backend.allocate("large", ask(4 * size), TOKEN)
    for name, data in kept.items():
        assert contents(backend, name, 39 * MIB, MIB) == data


def test_a_size_that_comes_and_goes_is_kept(start: Start, directml_rig: Rig) -> None:
    """One free of a large block is a real one; in a loop the block is reused, and goes back once the loop has ended."""
    backend = start("untiled", budget_bytes=GIB)
    backend.allocate("a", ask(64 * MIB), TOKEN)
    assert backend.free("a") == 64 * MIB
    for _ in range(3):
        backend.allocate("a", ask(64 * MIB), TOKEN)
        assert backend.free("a") == 0
        assert directml_rig.witness.device_bytes() >= 64 * MIB
    backend.allocate("other", ask(900 * MIB), TOKEN)
    backend.free("other")
    backend.allocate("a", ask(64 * MIB), TOKEN)
    backend.free("a")
    deadline = time.monotonic() + 30
    while directml_rig.witness.device_bytes() >= 64 * MIB:
        assert time.monotonic() < deadline
        backend.tick()
        backend.readings("dml:0")


def test_the_budget_is_asked_for_once_a_block(start: Start, directml_rig: Rig) -> None:
    """On Windows each question may be a new query of PDH's, or a factory of DXGI's: a block that comes and goes costs one."""
    backend = start(budget_bytes=2 * GIB)
    pid = backend.pid
    assert pid is not None
    before, count = directml_rig.witness.holding(pid).asked_count, 400
    for _ in range(count):
        backend.allocate("a", ask(4096), TOKEN)
        backend.free("a")
    asked = directml_rig.witness.holding(pid).asked_count - before
    assert count <= asked < 1.5 * count, (
        "beside the blocks', those of the page of figures: twenty a second at most"
    )


@pytest.mark.parametrize("allocator", ["untiled", "tiled"])
def test_a_new_budget_is_told_of(start: Start, directml_rig: Rig, allocator: str) -> None:
    """DXCore says so, and the figures that are noted then are of the new one, although nobody asked."""
    backend = start(allocator, budget_bytes=4 * GIB)
    told: SimpleQueue[str] = SimpleQueue()
    backend.watch_figures(told.put)
    assert "DXCore tells of each change of the budget of: dml:0" in backend.notes()
    for budget in (3 * GIB, 5 * GIB):
        directml_rig.witness.set_budget(0, budget)
        assert told.get(timeout=60) == "dml:0"
        noted = backend.recent_readings("dml:0", None)
        assert noted is not None
        assert noted[0].budget_bytes == budget
    backend.restart(TOKEN)
    directml_rig.witness.set_budget(0, 4 * GIB)
    assert told.get(timeout=60) == "dml:0"


def test_a_dxcore_that_tells_of_no_budget(start: Start, directml_rig: Rig) -> None:
    """As on an older Windows: it is looked at, and the notes say so."""
    backend = start(notifies=False)
    assert any(note.startswith("DXCore tells of no change of the budget") for note in backend.notes())


def test_a_new_process_is_no_larger(start: Start, directml_rig: Rig) -> None:
    """What carrying contents over took is given back: the driver sees what lives there, and a flush's 8 kB."""
    backend = start("untiled", budget_bytes=GIB)
    for n in range(3):
        backend.allocate(f"a{n}", ask(50 * MIB), TOKEN)
    backend.trim("dml:0")
    before = directml_rig.witness.device_bytes()
    backend.restart(TOKEN)
    assert directml_rig.witness.device_bytes() <= before


def test_pool_made_under_a_small_budget(start: Start, directml_rig: Rig) -> None:
    """It is full, and does not say that it never will be: a new process has what today's budget leaves."""
    directml_rig.witness.set_budget(0, 320 * MIB)
    backend = start("tiled", budget_bytes=GIB)
    directml_rig.witness.set_budget(0, GIB)
    with pytest.raises(OutOfMemoryError):
        backend.allocate("a", ask(100 * MIB), TOKEN)
    backend.restart(TOKEN, 100 * MIB)
    backend.allocate("a", ask(100 * MIB), TOKEN)
    with pytest.raises(OutOfMemoryError, match="nothing was restarted"):
        backend.restart(TOKEN, 900 * MIB)


def test_untiled_survives_the_driver_running_out(start: Start, directml_rig: Rig) -> None:
    """A driver that refuses is an error, what is cached makes room first, and the process stays."""
    backend = start("untiled", budget_bytes=8 * GIB, physical_limit_bytes=GIB, usage_states=False)
    (pid,) = directml_rig.witness.living()
    assert backend.readings("dml:0").used_bytes is None
    backend.allocate("a", ask(600 * MIB), TOKEN)
    with pytest.raises(OutOfMemoryError) as caught:
        backend.allocate("b", ask(500 * MIB), TOKEN)
    assert caught.value.details["requested_bytes"] == 500 * MIB
    backend.write("a", 0, memoryview(b"there"), TOKEN)
    assert contents(backend, "a", 0, 5) == b"there"
    backend.free("a")
    # Below what is worth a flush by itself: 32 resources of 31 MiB stay cached until they are in the way.
    for n in range(31):
        backend.allocate(f"s{n}", ask(31 * MIB), TOKEN)
    backend.allocate("c", ask(20 * MIB), TOKEN)
    backend.free("c")
    assert directml_rig.witness.device_bytes() > 980 * MIB
    backend.allocate("d", ask(40 * MIB), TOKEN)
    assert set(directml_rig.witness.living()) == {pid}


def test_tiled_stops_before_the_driver_runs_out(start: Start, directml_rig: Rig) -> None:
    """The pool is not grown past what the driver has: that would end the process."""
    backend = start("tiled", budget_bytes=8 * GIB, physical_limit_bytes=2 * GIB)
    (pid,) = directml_rig.witness.living()
    got = fill(backend, 100 * MIB)
    assert got >= 9
    data = os.urandom(MIB)
    for n in range(got):
        backend.write(f"a{n}", 7, memoryview(data), TOKEN)
        assert contents(backend, f"a{n}", 7, MIB) == data
    assert set(directml_rig.witness.living()) == {pid}


@pytest.mark.parametrize("allocator", ["untiled", "tiled"])
def test_budget_that_shrinks(start: Start, directml_rig: Rig, allocator: str) -> None:
    """A budget that the system takes back binds from then on, and one that it gives again does too."""
    backend = start(allocator, budget_bytes=4 * GIB, physical_limit_bytes=8 * GIB)
    backend.allocate("a", ask(GIB), TOKEN)
    directml_rig.witness.set_budget(0, GIB + GIB // 4)
    found = backend.readings("dml:0")
    assert found.budget_bytes == GIB + GIB // 4
    assert found.budget_source is Source.DXCORE
    with pytest.raises(OutOfMemoryError):
        backend.allocate("b", ask(GIB), TOKEN)
    directml_rig.witness.set_budget(0, None)
    backend.allocate("b", ask(GIB), TOKEN)
    assert backend.live() == {"a", "b"}


def test_limits_of_a_block(start: Start) -> None:
    """More than a buffer can have is refused with the limit before the library cuts it short in silence."""
    for allocator, limit in (("untiled", 4 * GIB - MIB), ("tiled", 3_997_999_872)):
        backend = start(allocator, budget_bytes=24 * GIB)
        for size in (limit + 1, 4 * GIB, 4 * GIB + 1, 9 * GIB):
            with pytest.raises(UnsupportedError, match=str(limit)) as caught:
                backend.check(ask(size))
            assert caught.value.details["limit_bytes"] == limit
            with pytest.raises(UnsupportedError):
                backend.allocate("a", ask(size), TOKEN)
        for memory_type in (MemoryType.PINNED, MemoryType.SHARED):
            with pytest.raises(UnsupportedError):
                backend.check(AllocationRequest("dml:0", 1, memory_type))
        with pytest.raises(UnsupportedError):
            backend.check(AllocationRequest("dml:0", 1, alignment=512))
        backend.check(ask(limit))
        backend.allocate("a", ask(limit), TOKEN)  # what is promised can be had
        largest = backend.readings("dml:0").largest_block_bytes
        assert largest is not None
        assert limit - 2_000_000 <= largest <= limit
        backend.allocate("a", ask(largest), TOKEN)
        backend.write("a", largest - 5, memoryview(b"world"), TOKEN)
        assert contents(backend, "a", largest - 5, 5) == b"world"
        backend.close()


def test_two_adapters(start: Start, directml_rig: Rig) -> None:
    """Each adapter has its own books; integrated ones share the system's memory; a lost one says so."""
    backend = start(budget_bytes=[2 * GIB, 3 * GIB], adapters=2, integrated=[False, True])
    assert [info.device_id for info in backend.probe()] == ["dml:0", "dml:1"]
    backend.allocate("a", ask(100 * MIB), TOKEN)
    backend.allocate("b", ask(200 * MIB, device_id="dml:1"), TOKEN)
    witness = directml_rig.witness
    for adapter, device_id, size in ((0, "dml:0", 100 * MIB), (1, "dml:1", 200 * MIB)):
        found = backend.readings(device_id)
        assert found.resident_bytes == size
        assert found.process_used_bytes == witness.device_bytes(adapter)
    assert backend.readings("dml:1").total_bytes > 3 * GIB
    backend.write("a", 5, memoryview(b"over"), TOKEN)
    backend.write("b", 9, memoryview(contents(backend, "a", 5, 4)), TOKEN)
    assert contents(backend, "b", 9, 4) == b"over"
    returned = backend.free("a")
    assert returned is not None
    assert returned >= 100 * MIB
    assert witness.device_bytes(0) < MIB
    assert backend.live() == {"b"}


def test_what_runs_models_alone_is_listed(start: Start) -> None:
    """An NPU, which the library does not use, is listed after the adapters, with the reason and what does use it."""
    backend = start(adapters=1, npus=1)
    gpu, npu = backend.probe()
    assert (gpu.device_id, gpu.state) == ("dml:0", DeviceState.AVAILABLE)
    assert (npu.device_id, npu.name, npu.state) == ("dml:1", "Simulated NPU 1", DeviceState.UNAVAILABLE)
    assert npu.state_reason is not None
    assert "runs whole models alone: use OpenVINO" in npu.state_reason


def test_no_adapter(start: Start) -> None:
    """Without an adapter the device is unavailable for that reason, and no crash."""
    (info,) = start(adapters=0).probe()
    assert info.state is DeviceState.UNAVAILABLE
    assert "no adapter" in str(info.state_reason)


def test_factory_failure(start: Start) -> None:
    """A system whose DXCore fails is unavailable with the library's words."""
    (info,) = start(factory=Factory.FAILS).probe()
    assert info.state is DeviceState.UNAVAILABLE
    assert "-2147467259" in str(info.state_reason)


def test_device_that_is_removed(start: Start, directml_rig: Rig) -> None:
    """A driver reset is a lost device, whatever was asked for; a new process takes over."""
    backend = start()
    backend.allocate("a", ask(10 * MIB), TOKEN)
    directml_rig.witness.set_device_removed(0)
    with pytest.raises(DeviceUnavailableError) as caught:
        contents(backend, "a", 0, 10)
    assert caught.value.details["device_id"] == "dml:0"
    assert backend.live() == frozenset()
    assert backend.probe()[0].state is not DeviceState.PROBING


def test_hardware_without_tiles(start: Start) -> None:
    """Hardware without tiled resources has the untiled allocator, and what is asked for is not what is said."""
    backend = start("tiled", tiled=False)
    backend.allocate("a", ask(100 * MIB), TOKEN)
    assert backend.readings("dml:0").fragmentation is None
    assert backend.free("a") == 100 * MIB


def test_chosen_adapters(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """``DML_VISIBLE_DEVICES`` changes the order too: each device's figures are of the adapter that it is."""
    monkeypatch.setenv("DML_VISIBLE_DEVICES", "0,2,")
    backend = start(adapters=3, budget_bytes=[GIB, 2 * GIB, 3 * GIB])
    infos = backend.probe()
    assert {info.name for info in infos} == {"Simulated GPU 0", "Simulated GPU 2"}
    for info in infos:
        budget = (int(info.name[-1]) + 1) * GIB
        assert backend.readings(info.device_id).budget_bytes == budget
        backend.allocate(info.device_id, ask(budget // 2, device_id=info.device_id), TOKEN)
        used = backend.readings(info.device_id).process_used_bytes
        assert used is not None
        assert budget // 2 <= used < budget // 2 + MIB
