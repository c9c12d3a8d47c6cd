"""Headroom after a change, what closing frees, and what analytics say of owners."""

from pathlib import Path

import pytest

from protocol.vocabulary import AnalyticsSection, GroupBy, Initialize, MemoryType
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.records import AllocationRequest


def test_reply_promises_only_what_there_is(tmp_path: Path) -> None:
    """What an allocate says is available after it can be had, also where free memory is in pieces."""
    kib = 1024
    machine = Machine(tmp_path, SimulatedDevice(1024 * kib))
    first = machine.allocate("sim:0", 256 * kib)
    machine.allocate("sim:0", 256 * kib)
    machine.memory.allocations.deallocate(first, force=False)
    machine.memory.questions.status(("sim:0",))
    request = AllocationRequest("sim:0", 300 * kib, initialize=Initialize.NONE)
    allocation_id = machine.memory.allocations.new_id()
    promised = machine.memory.allocations.allocate(allocation_id, request, machine.token()).available_bytes
    assert promised is not None
    machine.allocate("sim:0", promised)
    machine.close()


@pytest.mark.parametrize("total", [1, 255, 257, 1000, MIB + 1])
def test_device_of_odd_size(tmp_path: Path, total: int) -> None:
    """A device gives all that it says it has, whatever its size is a multiple of."""
    machine = Machine(tmp_path, SimulatedDevice(total))
    available = machine.memory.questions.status(("sim:0",)).devices[0].available_bytes
    if available:
        machine.allocate("sim:0", available)
    machine.close()


def test_close_frees_everything_whatever_happens(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An allocation that is gone by the time it is freed does not keep the others, or their files, alive."""
    first = machine.allocate("cpu", 4096, memory_type=MemoryType.SHARED)
    second = machine.allocate("cpu", 4096, memory_type=MemoryType.SHARED, lease_ns=10**9)
    cpu = machine.backends["cpu"]
    free = cpu.free

    def free_and_expire(allocation_id: str) -> int | None:
        if allocation_id == first:
            machine.pass_time(10**9)
            assert not machine.manager.allocations.knows(second)
        return free(allocation_id)

    monkeypatch.setattr(cpu, "free", free_and_expire)
    machine.memory.close()
    assert list(tmp_path.iterdir()) == []


def hoard(machine: Machine, owner: str) -> None:
    """Make nine allocations over more than a minute."""
    for _ in range(9):
        machine.allocate("sim:0", 256, owner=owner)
        machine.pass_time(10 * 10**9)


def leaks(machine: Machine) -> list[str | None]:
    """Return the owners that are suspected."""
    found = machine.memory.questions.analytics(
        ("cpu", "sim:0"), 3_600_000, frozenset(AnalyticsSection)
    ).suspected_leaks
    assert found is not None
    return [leak.owner for leak in found]


def test_suspected_leaks(machine: Machine) -> None:
    """Who makes many allocations over a while and frees none is suspected; who frees, leases or keeps is not."""
    hoard(machine, "leaking")
    machine.memory.allocations.deallocate(machine.allocate("sim:0", 256, owner="tidy"), force=False)
    hoard(machine, "tidy")
    for _ in range(9):
        machine.allocate("sim:0", 256, owner="keeping", persistent=True)
        machine.allocate("sim:0", 256, owner="leasing", lease_ns=10**15)
        machine.pass_time(10 * 10**9)
    assert leaks(machine) == ["leaking"]


def test_nobody_is_suspected_for_want_of_room(machine: Machine) -> None:
    """An owner who freed is not said to have freed nothing, however many others did so before."""
    for number in range(1100):
        name = machine.allocate("sim:0", 1, owner=f"o{number}", memory_type=MemoryType.EXTERNAL)
        machine.memory.allocations.deallocate(name, force=False)
    machine.memory.allocations.deallocate(machine.allocate("sim:0", 256, owner="tidy"), force=False)
    hoard(machine, "tidy")
    assert leaks(machine) == []


def test_groups_are_bounded(machine: Machine) -> None:
    """Owners that hold nothing any more are remembered for their peaks, up to a bound; those that do, always."""
    kept = [machine.allocate("sim:0", 256, owner=f"live{number}") for number in range(20)]
    for number in range(3000):
        machine.memory.allocations.deallocate(machine.allocate("sim:0", 1, owner=f"o{number}"), force=False)
    _, _, groups = machine.manager.usage.groups("sim:0", GroupBy.OWNER)
    assert len(groups) <= 1100
    assert sum(group.allocation_count for group in groups) == len(kept)
