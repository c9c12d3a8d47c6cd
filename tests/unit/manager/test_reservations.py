"""The manager alone: what is reserved, committed, removed; and a device that is lost or back."""

import pytest

from protocol.results import Limits
from protocol.vocabulary import DeviceKind, Executed, MemoryType
from worker.core.clock import FixedClock
from worker.core.errors import (
    AllocationNotFoundError,
    DeviceNotFoundError,
    DeviceUnavailableError,
    LimitExceededError,
    OutOfMemoryError,
)
from worker.core.records import AllocationRequest, Block, DeviceInfo, Lost, Readings, Reservation
from worker.manager.manager_memory import MemoryManager
from worker.policy.pressure import DEFAULT_LIMITS


def hold(manager: MemoryManager, request: AllocationRequest) -> Reservation:
    """Reserve under the next id."""
    return manager.allocations.reserve(request, manager.allocations.new_id())


def manager_with(free_bytes: int | None, limits: Limits = DEFAULT_LIMITS) -> MemoryManager:
    """Return a manager of one device that reads this as free."""
    made = MemoryManager(FixedClock())
    made.devices.add(DeviceInfo("d", DeviceKind.SIMULATED, "D"), limits)
    readings = Readings(1000, 1000, None, None, None, free_bytes, None, 0, 0, None)
    made.samples.note("d", readings, made.samples.begin("d"))
    return made


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
