"""Every change of the ledger with every allocation of memory failing in turn: figures are from before it or after it."""

from collections.abc import Callable
from typing import Any

import pytest

from protocol.vocabulary import DeviceKind, GroupBy, MemoryType
from worker.core.clock import FixedClock
from worker.core.records import AllocationRequest, Block, DeviceInfo, Readings, Reservation
from worker.manager.manager_memory import MemoryManager
from worker.policy.pressure import DEFAULT_LIMITS

testcapi = pytest.importorskip("_testcapi", reason="the interpreter is without its own test modules")

LEASED = AllocationRequest("d", 2**34 + 7, MemoryType.DEVICE, owner="a", purpose="p", lease_ns=5 * 10**9)
PLAIN = AllocationRequest("d", 2**33 + 5, MemoryType.DEVICE, owner="b", purpose="q")
EXTERNAL = AllocationRequest("d", 2**33 + 3, MemoryType.EXTERNAL, owner="c", purpose="r")


class Filled:
    """A manager with something of each kind in it, and what can be done next."""

    def __init__(self) -> None:
        self.manager = MemoryManager(FixedClock())
        self.manager.devices.add(DeviceInfo("d", DeviceKind.SIMULATED, "D"), DEFAULT_LIMITS)
        readings = Readings(2**40, 2**40, None, None, None, 2**40, None, 0, 0, None)
        self.manager.samples.note("d", readings, self.manager.samples.begin("d"))
        self.manager.samples.begin("d")  # one more is on its way
        self.live = {each: self.commit(each, f"live-{n}") for n, each in enumerate((LEASED, PLAIN, EXTERNAL))}
        self.held = {
            each: self.reserve(each, f"held-{n}") for n, each in enumerate((LEASED, PLAIN, EXTERNAL))
        }
        self.manager.weights.add(self.reserve(PLAIN, "m"), "m", 2**32, 2**32 + 1, working_bytes=2**31 + 1)
        self.manager.weights.pin("d", "m", pinned=True)
        self.manager.weights.add_external("d", "there", 2**32 + 9)

    def reserve(self, request: AllocationRequest, name: str) -> Reservation:
        """Reserve."""
        return self.manager.allocations.reserve(request, name)

    def commit(self, request: AllocationRequest, name: str) -> Any:
        """Reserve and commit."""
        return self.manager.allocations.commit(self.reserve(request, name), Block(request.size_bytes + 2**30))

    def figures(self) -> Any:
        """Return all that the ledger says."""
        ledger = self.manager.devices.get("d").ledger
        plain = {name: value for name, value in vars(ledger).items() if isinstance(value, int)}
        tables = {name: dict(value) for name, value in vars(ledger).items() if isinstance(value, dict)}
        groups = [ledger.groups(each) for each in GroupBy]
        known = sorted(each.allocation_id for each in self.manager.allocations.all())
        names = [name for name in ("live-0", "live-1", "live-2", "held-0", "held-1", "held-2", "new")
                 if self.manager.allocations.knows(name)]  # fmt: skip
        tables.pop("_groups")
        return plain, tables, groups, ledger.flows(), known, names, ledger.staying_bytes


def _block() -> Block:
    return Block(2**34 + 11)


CHANGES: dict[str, Callable[[Filled], Any]] = {
    "reserve": lambda f: f.reserve(PLAIN, "new"),
    "release": lambda f: f.manager.allocations.release(f.held[LEASED]),
    "commit with a lease": lambda f: f.manager.allocations.commit(f.held[LEASED], _block()),
    "commit": lambda f: f.manager.allocations.commit(f.held[PLAIN], _block()),
    "commit external": lambda f: f.manager.allocations.commit(f.held[EXTERNAL], _block()),
    "remove with a lease": lambda f: f.manager.allocations.remove("live-0"),
    "remove": lambda f: f.manager.allocations.remove("live-1"),
    "remove external": lambda f: f.manager.allocations.remove("live-2"),
    "remove with its device": lambda f: f.manager.allocations.remove("live-1", ending="device_lost"),
    "renew": lambda f: f.manager.allocations.renew("live-0", 7 * 10**9),
    "lease": lambda f: f.manager.allocations.renew("live-1", 7 * 10**9),
    "add weights": lambda f: f.manager.weights.add(
        f.held[PLAIN], "new", 2**33 + 1, 2**33 + 2, is_object=True, working_bytes=2**32 + 3
    ),
    "remove weights": lambda f: f.manager.weights.remove("d", "m", 0),
    "add an external model": lambda f: f.manager.weights.add_external("d", "new", 2**33 + 1),
    "remove an external model": lambda f: f.manager.weights.remove_external("d", "there"),
    (NEEDS_A_NUMBER := "begin a sample"): lambda f: f.manager.samples.begin(
        "d"
    ),  # which Python may have at hand
}


def removed(filled: Filled) -> Any:
    """Remove an allocation that could not be freed after all."""
    return filled.manager.allocations.remove("live-0")


def failing(filled: Filled, change: Callable[[Filled], Any], n: int) -> bool:
    """Make a change while the n-th allocation of memory fails. Returns whether it was made."""
    testcapi.set_nomemory(n, n + 1)
    try:
        change(filled)
    except MemoryError:
        return False
    finally:
        testcapi.remove_mem_hooks()
    return True


@pytest.mark.parametrize("name", CHANGES)
def test_figures_are_from_before_or_after(name: str) -> None:
    """A change that raises MemoryError changed nothing, and one that does not changed everything; it can be repeated."""
    model = Filled()
    CHANGES[name](model)
    after, failures, in_a_row, n = model.figures(), 0, 0, 0
    while in_a_row < 40:
        n += 1
        filled = Filled()
        before = filled.figures()
        if failing(filled, CHANGES[name], n):
            in_a_row += 1
        else:
            in_a_row, failures = 0, failures + 1
            assert filled.figures() == before, n
            CHANGES[name](filled)
        assert filled.figures() == after, n
    assert failures > 0 or name == NEEDS_A_NUMBER


def test_what_is_put_back_is_put_back_whole() -> None:
    """An allocation that could not be freed is there again, or not at all until it is tried again."""
    model = Filled()
    before, allocation = model.figures(), removed(model)
    without = model.figures()
    model.manager.allocations.put_back(allocation)
    after = model.figures()
    assert (after[2:], after[1]["allocations"]) == (before[2:], before[1]["allocations"])
    in_a_row, n, failures = 0, 0, 0
    while in_a_row < 40:
        n += 1
        filled = Filled()
        allocation = removed(filled)
        if failing(filled, lambda f, gone=allocation: f.manager.allocations.put_back(gone), n):
            in_a_row += 1
        else:
            in_a_row, failures = 0, failures + 1
            assert filled.figures() == without, n
            filled.manager.allocations.put_back(allocation)
        assert filled.figures() == after, n
    assert failures > 0
