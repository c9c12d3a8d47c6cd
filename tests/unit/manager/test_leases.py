"""Leases end, are renewed and move along with their allocation."""

import pytest

from protocol.vocabulary import ClearType, TransferType
from tests.unit.machine import Machine
from worker.core.errors import AllocationNotFoundError


def test_lease_and_its_record(machine: Machine) -> None:
    """A lease that runs out frees by the clock, is told of, and is remembered as the reason."""
    leased = machine.allocate("cpu", 4096, lease_ns=10**9, owner="me")
    machine.pass_time(10**9 - 1)
    assert machine.manager.allocations.knows(leased)
    machine.pass_time(1)
    with pytest.raises(AllocationNotFoundError) as caught:
        machine.memory.allocations.deallocate(leased, force=False)
    assert caught.value.details["reason"] == "lease_expired"
    (entry,) = machine.history.expirations(("cpu",), 1000)
    assert (entry.allocation_id, entry.owner, entry.freed_bytes) == (leased, "me", 4096)
    machine.memory.allocations.expire(leased)  # once more does nothing
    assert len(machine.events) == 1


def test_renewed_lease(machine: Machine) -> None:
    """A renewed lease ends so long after its renewal, sooner or later; an allocation without one gets one."""
    leased, plain = machine.allocate("cpu", 4096, lease_ns=10**9), machine.allocate("cpu", 4096)
    machine.pass_time(10**9 - 1)
    for name in (leased, plain):
        machine.memory.allocations.renew(name, 2 * 10**9)
    machine.pass_time(2 * 10**9 - 1)
    machine.memory.allocations.renew(plain, 5)
    assert machine.manager.allocations.knows(leased)
    machine.pass_time(1)
    assert not machine.manager.allocations.knows(leased)
    machine.pass_time(4)
    assert not machine.manager.allocations.knows(plain)
    machine.check()


def test_renewing_what_is_gone_changes_nothing(machine: Machine) -> None:
    """Whoever renews too late is told why, and every figure is as before."""
    leased = machine.allocate("cpu", 4096, lease_ns=10**9)
    machine.pass_time(10**9)
    before = machine.figures()
    for name, reason in ((leased, "lease_expired"), ("alloc-99", "never_existed")):
        with pytest.raises(AllocationNotFoundError) as caught:
            machine.memory.allocations.renew(name, 10**9)
        assert caught.value.details["reason"] == reason
    assert machine.figures() == before


def test_moved_allocation_keeps_its_lease(machine: Machine) -> None:
    """A lease goes along with a move and runs out when it would have."""
    leased = machine.allocate("cpu", 4096, lease_ns=3 * 10**9)
    machine.pass_time(10**9)
    moved = machine.transfer(leased, "sim:0", TransferType.MOVE)
    machine.pass_time(2 * 10**9 - 1)
    assert machine.manager.allocations.knows(moved)
    machine.pass_time(1)
    assert not machine.manager.allocations.knows(moved)


def test_lease_running_out_in_a_clear(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clear goes on where a lease ran out under its hands: what is gone needs no clearing."""
    first, second, third = (machine.allocate("cpu", 4096, lease_ns=lease) for lease in (None, 10**9, None))
    cpu = machine.backends["cpu"]
    free = cpu.free

    def free_and_expire(allocation_id: str) -> int | None:
        if allocation_id == first:
            machine.pass_time(10**9)
            assert not machine.manager.allocations.knows(second)
        return free(allocation_id)

    monkeypatch.setattr(cpu, "free", free_and_expire)
    machine.memory.relief.clear(("cpu",), ClearType.ALLOCATIONS, None, machine.token(), force=False)
    assert not machine.manager.allocations.knows(third)
    machine.check()


@pytest.mark.parametrize(("limit", "listed"), [(2, True), (1, False)])
def test_a_clear_lists_what_it_freed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, limit: int, *, listed: bool
) -> None:
    """The ids of what it freed and of nothing else, or none at all where they are too many."""
    monkeypatch.setattr("worker.workers.reclaim.CLEARED_IDS_MAX", limit)
    freed = tuple(machine.allocate("cpu", 4096) for _ in range(2))
    machine.allocate("sim:0", 4096)
    done = machine.memory.relief.clear(("cpu",), ClearType.ALL, None, machine.token(), force=False)
    assert done.allocations_freed == 2
    assert done.allocation_ids == (freed if listed else None)
