"""DirectML as a user has it: the real library in a process of its own, with the driver's books as witness."""

import os
import time

import pytest

from protocol.vocabulary import DeviceState, MemoryType
from tests.e2e.directml.isolated import GIB, MIB, TOKEN, Start, ask, contents, fill, start
from tests.rigs.directml.rig import Factory, Rig
from worker.core.errors import DeviceUnavailableError, OutOfMemoryError, UnsupportedError
from worker.core.records import AllocationRequest

__all__ = ["start"]


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


def test_a_new_process_is_no_larger(start: Start, directml_rig: Rig) -> None:
    """What carrying contents over took is given back: the driver sees what lives there, and a flush's 8 kB."""
    backend = start("untiled", budget_bytes=GIB)
    for n in range(3):
        backend.allocate(f"a{n}", ask(50 * MIB), TOKEN)
    backend.trim("dml:0")
    before = directml_rig.witness.device_bytes()
    backend.restart(TOKEN)
    assert directml_rig.witness.device_bytes() <= before


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
