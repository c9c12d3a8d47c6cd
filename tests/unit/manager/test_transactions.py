"""Reserve, do, commit, or roll back: whatever step fails, every figure is as it was."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.results import Limits
from protocol.vocabulary import (
    AnalyticsSection,
    ClearType,
    DeviceKind,
    Executed,
    GroupBy,
    Initialize,
    MemoryType,
    TransferType,
)
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.cancellation import CancelToken
from worker.core.clock import FixedClock
from worker.core.errors import (
    AllocationNotFoundError,
    CancelledError,
    ChecksumMismatchError,
    DeadlineExceededError,
    DeviceLostError,
    DeviceNotFoundError,
    DeviceUnavailableError,
    InvalidRequestError,
    LimitExceededError,
    OutOfMemoryError,
    UnsupportedError,
)
from worker.core.events import DeviceLost
from worker.core.records import AllocationRequest, Block, DeviceInfo, Lost, Readings, Reservation
from worker.manager.manager_memory import MemoryManager
from worker.policy.pressure import DEFAULT_LIMITS


def hold(manager: MemoryManager, request: AllocationRequest) -> Reservation:
    """Reserve under the next id."""
    return manager.allocations.reserve(request, manager.allocations.new_id())


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Return a machine with two healthy simulated devices."""
    made = Machine(tmp_path, SimulatedDevice(64 * MIB), SimulatedDevice(64 * MIB))
    yield made
    made.close()


def manager_with(free_bytes: int | None, limits: Limits = DEFAULT_LIMITS) -> MemoryManager:
    """Return a manager of one device that reads this as free."""
    made = MemoryManager(FixedClock())
    made.devices.add(DeviceInfo("d", DeviceKind.SIMULATED, "D"), limits)
    readings = Readings(1000, 1000, None, None, None, free_bytes, None, 0, 0, None)
    made.samples.note("d", readings, made.samples.begin("d"))
    return made


# ---- the manager alone ----


def test_reserve_commit_remove() -> None:
    """Room is taken by the reservation, kept by the commit and given back by the removal."""
    manager = manager_with(1000)
    reservation = hold(manager, AllocationRequest("d", 300))
    assert manager.pressure.headroom("d").available_bytes == 700
    assert manager.pressure.status("d").allocated_bytes == 0
    allocation = manager.allocations.commit(reservation, Block(320))
    assert manager.pressure.headroom("d").available_bytes == 680
    assert manager.pressure.status("d").allocated_bytes == 300
    manager.allocations.remove(allocation.allocation_id)
    assert manager.pressure.headroom("d").available_bytes == 1000
    assert manager.pressure.status("d").allocated_bytes == 0
    assert manager.pressure.status("d").peak_allocated_bytes == 300


def test_reserve_release() -> None:
    """A reservation that is released never was, nor was its id."""
    manager = manager_with(1000)
    before = manager.pressure.status("d"), manager.pressure.headroom("d")
    reservation = hold(manager, AllocationRequest("d", 300))
    manager.allocations.release(reservation)
    manager.allocations.unused_id(reservation.allocation_id)
    assert (manager.pressure.status("d"), manager.pressure.headroom("d")) == before
    with pytest.raises(AllocationNotFoundError) as caught:
        manager.allocations.get(reservation.allocation_id)
    assert caught.value.details["reason"] == "never_existed"


def test_reservations_are_not_given_twice() -> None:
    """Two allocations in the making do not get the same room."""
    manager = manager_with(1000)
    hold(manager, AllocationRequest("d", 600))
    with pytest.raises(OutOfMemoryError) as caught:
        hold(manager, AllocationRequest("d", 600))
    assert caught.value.details == {
        "device_id": "d",
        "requested_bytes": 600,
        "available_bytes": 400,
        "evictable_bytes": 0,
    }


@pytest.mark.parametrize(
    ("limit", "reserve", "size", "error"),
    [
        (None, 0, 1000, None),
        (None, 0, 1001, OutOfMemoryError),
        (500, 0, 500, None),
        (500, 0, 501, LimitExceededError),
        (2000, 0, 1001, OutOfMemoryError),
        (None, 200, 800, None),
        (None, 200, 801, LimitExceededError),
        (None, 200, 1001, OutOfMemoryError),
        (None, 5000, 1, LimitExceededError),
        (500, 700, 300, None),
        (500, 700, 301, LimitExceededError),
        (500, 700, 501, LimitExceededError),
    ],
)
def test_admission(limit: int | None, reserve: int, size: int, error: type[Exception] | None) -> None:
    """A configured cap or reserve is a limit exceeded; only what the hardware lacks is out of memory."""
    manager = manager_with(1000, Limits(limit, reserve, DEFAULT_LIMITS.thresholds))
    if error is None:
        hold(manager, AllocationRequest("d", size))
    else:
        with pytest.raises(error):
            hold(manager, AllocationRequest("d", size))


def test_device_without_figures_is_asked() -> None:
    """Where nothing can be told, the device itself says whether it fits."""
    manager = manager_with(None)
    assert manager.pressure.headroom("d").available_bytes is None
    hold(manager, AllocationRequest("d", 2**62))


def test_external_memory_takes_no_room() -> None:
    """What the host holds is on record, beside the ledger's own bytes, and needs no headroom."""
    manager = manager_with(10)
    request = AllocationRequest("d", 5000, MemoryType.EXTERNAL)
    allocation = manager.allocations.commit(hold(manager, request), Block(5000))
    status = manager.pressure.status("d")
    assert (status.allocated_bytes, status.external_bytes, status.allocation_count) == (0, 5000, 1)
    assert manager.pressure.headroom("d").available_bytes == 10
    manager.allocations.remove(allocation.allocation_id)
    assert manager.pressure.status("d").external_bytes == 0


def test_unknown_device() -> None:
    """A device that is not there is refused by name, with those that are."""
    with pytest.raises(DeviceNotFoundError) as caught:
        hold(manager_with(1), AllocationRequest("x", 1))
    assert caught.value.details == {"device_id": "x", "known_devices": ["d"]}


@pytest.mark.parametrize(
    "name", ["alloc-0", "alloc-2", "alloc--1", "alloc-01", "alloc-", "x", "", "alloc-1 ", "alloc-١"]
)
def test_names_that_never_were(name: str) -> None:
    """Only ids that were really given out count as freed already."""
    manager = manager_with(1000)
    allocation = manager.allocations.commit(hold(manager, AllocationRequest("d", 1)), Block(1))
    manager.allocations.remove(allocation.allocation_id)
    for asked, reason in (("alloc-1", "already_freed"), (name, "never_existed")):
        with pytest.raises(AllocationNotFoundError) as caught:
            manager.allocations.get(asked)
        assert caught.value.details["reason"] == reason


def test_readings_taken_while_the_ledger_changes() -> None:
    """What changed between beginning a look and noting the readings is not forgotten."""
    manager = manager_with(1000)
    first = manager.allocations.commit(hold(manager, AllocationRequest("d", 100)), Block(100))
    look = manager.samples.begin("d")
    manager.allocations.commit(hold(manager, AllocationRequest("d", 50)), Block(50))
    manager.samples.note("d", Readings(1000, 1000, None, None, None, 900, None, 100, 0, None), look)
    assert manager.pressure.headroom("d").available_bytes == 850
    assert manager.samples.needed("d", 1000)
    manager.allocations.remove(first.allocation_id)
    assert manager.pressure.headroom("d").available_bytes == 950


def test_a_device_that_is_back() -> None:
    """What was begun, read or held before a loss is of another life, and is entered in none after it."""
    manager = manager_with(1000)
    info = manager.devices.info("d")
    before, look = hold(manager, AllocationRequest("d", 300)), manager.samples.begin("d")
    manager.lose_device("d", "gone")
    assert manager.devices.recover(info) == 0
    manager.samples.note("d", Readings(7, 7, None, None, None, 7, None, 0, 0, None), look)
    assert manager.samples.latest("d") is None, "these were of the old one"
    with pytest.raises(DeviceUnavailableError, match="lost meanwhile") as caught:
        manager.allocations.commit(before, Block(300))
    assert caught.value.executed is Executed.NO
    manager.allocations.release(before)
    manager.samples.note(
        "d", Readings(1000, 1000, None, None, None, 1000, None, 0, 0, None), manager.samples.begin("d")
    )
    assert manager.pressure.headroom("d").available_bytes == 1000
    manager.allocations.commit(hold(manager, AllocationRequest("d", 1000)), Block(1000))


def test_lost_device() -> None:
    """A lost device takes its allocations along, not what the host holds, and is lost once."""
    manager = manager_with(1000)
    mine = manager.allocations.commit(hold(manager, AllocationRequest("d", 1)), Block(1))
    theirs = manager.allocations.commit(
        hold(manager, AllocationRequest("d", 1, MemoryType.EXTERNAL)), Block(1)
    )
    pending = hold(manager, AllocationRequest("d", 7))
    assert manager.lose_device("d", "gone") == Lost((mine,), ())
    assert manager.lose_device("d", "gone") is None
    with pytest.raises(DeviceUnavailableError, match="gone"):
        manager.allocations.commit(pending, Block(7))
    manager.allocations.release(pending)
    with pytest.raises(DeviceUnavailableError):
        hold(manager, AllocationRequest("d", 1))
    assert manager.allocations.all() == (theirs,)
    assert manager.pressure.status("d").allocated_bytes == 0


# ---- each step of an allocation failing in turn ----


def raising(error: BaseException) -> Callable[..., Any]:
    """Return what fails."""

    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


FAILURES: dict[str, BaseException] = {
    "out of memory": OutOfMemoryError("none left"),
    "unavailable": DeviceUnavailableError("not there"),
    "cancelled": CancelledError("stop"),
    "a bug": RuntimeError("a bug"),
    "python out of memory": MemoryError(),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("step", ["check", "reserve", "allocate", "commit"])
@pytest.mark.parametrize("device_id", ["cpu", "sim:0"])
def test_each_step_failing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, device_id: str, step: str, failure: str
) -> None:
    """Whichever step of an allocation fails, and however, every figure is as before."""
    machine.allocate(device_id, 5000, owner="before")
    machine.memory.questions.status((device_id,))
    before, error = machine.figures(), FAILURES[failure]
    owner: object = (
        machine.manager.allocations if step in {"reserve", "commit"} else machine.backends[device_id]
    )
    with monkeypatch.context() as patched:
        patched.setattr(owner, step, raising(error))
        with pytest.raises(type(error)):
            machine.allocate(device_id, 3 * MIB, owner="new")
    assert machine.figures() == before
    machine.allocate(device_id, 3 * MIB)
    machine.check()


def test_freeing_the_block_again_failing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the roll-back fails at the device, the room that was held for it is let go."""
    before = machine.manager.pressure.headroom("sim:0")
    with monkeypatch.context() as patched:
        patched.setattr(machine.manager.allocations, "commit", raising(DeviceUnavailableError("gone")))
        patched.setattr(machine.backends["sim:0"], "free", raising(RuntimeError("a bug")))
        with pytest.raises((DeviceUnavailableError, RuntimeError)):
            machine.allocate("sim:0", MIB)
    machine.backends["sim:0"].free("alloc-1")
    machine.memory.questions.status(("sim:0",))
    assert machine.manager.pressure.headroom("sim:0").available_bytes == 64 * MIB
    assert before is not None


def test_device_fails_once(tmp_path: Path) -> None:
    """Out of memory at the device, and no caches to give up: that is the answer, and nothing changed."""
    machine = Machine(tmp_path, SimulatedDevice(64 * MIB, fail_allocation=1))
    machine.memory.sample()
    before = machine.figures()
    with pytest.raises(OutOfMemoryError):
        machine.allocate("sim:0", MIB)
    machine.check()
    assert machine.figures() == before
    machine.allocate("sim:0", MIB)
    machine.close()


def test_device_lost_while_allocating(tmp_path: Path) -> None:
    """A device that goes away in an allocation takes its blocks along; it is told of once."""
    machine = Machine(tmp_path, SimulatedDevice(64 * MIB, lose_at=3))
    for _ in range(2):
        machine.allocate("sim:0", MIB)
    with pytest.raises(DeviceLostError):
        machine.allocate("sim:0", MIB)
    with pytest.raises(DeviceUnavailableError):
        machine.allocate("sim:0", MIB)
    assert [event.device_id for event in machine.told(DeviceLost)] == ["sim:0"]
    machine.close()


# ---- transfers ----


@pytest.mark.parametrize("kind", TransferType)
@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize(
    ("source_device", "destination_device"),
    [("cpu", "cpu"), ("cpu", "sim:0"), ("sim:0", "cpu"), ("sim:0", "sim:1"), ("sim:0", "sim:0")],
)
@pytest.mark.parametrize("size", [1, 8 * MIB, 20 * MIB + 3])
def test_transfer(
    machine: Machine,
    source_device: str,
    destination_device: str,
    kind: TransferType,
    size: int,
    *,
    verify: bool,
) -> None:
    """Bytes arrive as they were, whole, from any device on any other; a move leaves no source."""
    source = machine.allocate(source_device, size, owner="me", purpose="what for")
    data = bytes(range(256)) * (size // 256 + 1)
    machine.backends[source_device].write(source, 0, memoryview(data)[:size], machine.token())
    seen: list[int] = []
    destination = machine.transfer(
        source, destination_device, kind, verify=verify, report=lambda completed, _: seen.append(completed)
    )
    into = bytearray(size)
    machine.backends[destination_device].read(destination, 0, memoryview(into), machine.token())
    assert into == data[:size]
    assert seen == sorted(seen)
    assert seen[-1] == size
    assert machine.manager.allocations.knows(source) == (kind is TransferType.COPY)
    request = machine.manager.allocations.get(destination).request
    assert (request.owner, request.purpose) == ("me", "what for")
    machine.check()


@pytest.mark.parametrize("memory_type", [MemoryType.DEVICE, MemoryType.SHARED])
@pytest.mark.parametrize("direction", ["to", "from"])
@pytest.mark.parametrize("kind", TransferType)
@pytest.mark.parametrize(
    ("knob", "error"),
    [
        ({"fail_copy": 2}, DeviceUnavailableError),
        ({"corrupt_copy": 2}, ChecksumMismatchError),
        ({"stall_copy": 2}, CancelledError),
        ({"stall_copy": 2}, DeadlineExceededError),
    ],
)
def test_transfer_that_fails(
    tmp_path: Path,
    knob: dict[str, int],
    error: type[Exception],
    kind: TransferType,
    direction: str,
    memory_type: MemoryType,
) -> None:
    """Whatever ends a transfer half-way, both ledgers are as before and the record says why."""
    machine = Machine(tmp_path, SimulatedDevice(64 * MIB, **knob))
    ends = ("cpu", "sim:0") if direction == "to" else ("sim:0", "cpu")
    if direction == "to":
        memory_type = MemoryType.DEVICE
    source = machine.allocate(ends[0], 20 * MIB)
    deadline = 10**9 if error is DeadlineExceededError else None
    token = CancelToken(machine.clock.now_ns, deadline)
    # The one who cancels: a thread that parks is what the clock tells of.
    machine.clock.when_parked(lambda: token.cancel() if machine.clock.parked > 0 else None)
    before = {device: (row[0].allocated_bytes, row[2], row[4]) for device, row in machine.figures().items()}
    with pytest.raises(error):
        machine.transfer(source, ends[1], kind, memory_type=memory_type, verify=True, token=token)
    assert before == {
        device: (row[0].allocated_bytes, row[2], row[4]) for device, row in machine.figures().items()
    }
    record = machine.memory.transfers.get("transfer-1")
    assert record.error is not None
    assert record.state in {"failed", "cancelled"}
    assert record.destination_allocation_id is None
    machine.check()
    machine.close()


def test_transfer_of_external_memory(machine: Machine) -> None:
    """Bytes that the worker does not have cannot be copied."""
    held = machine.allocate("cpu", 1, memory_type=MemoryType.EXTERNAL)
    with pytest.raises(UnsupportedError):
        machine.transfer(held, "sim:0")


def test_persistent_allocations_need_force(machine: Machine) -> None:
    """A persistent allocation goes only by force, by name as well as in a clear."""
    kept = machine.allocate("cpu", 1, persistent=True)
    with pytest.raises(InvalidRequestError):
        machine.memory.allocations.deallocate(kept, force=False)
    cleared = machine.memory.relief.clear(("cpu",), ClearType.ALL, None, machine.token(), force=False)
    assert [row.id for row in cleared.kept] == [kept]
    machine.memory.allocations.deallocate(kept, force=True)


# ---- leases ----


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


# ---- headroom after a change ----


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


# ---- what the analytics say ----


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
