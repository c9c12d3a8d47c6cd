"""What an action did is done, and told as done, with every allocation of memory on its way failing in turn."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol.vocabulary import DeviceKind, MemoryType, TransferState, TransferType
from tests.unit.machine import MIB, Machine
from worker.app.first_use import first_uses
from worker.backends.simulated import SimulatedDevice
from worker.core.cancellation import CancelToken
from worker.core.clock import FixedClock
from worker.core.errors import CancelledError, DeviceLostError
from worker.core.records import AllocationRequest, Block, DeviceInfo
from worker.manager.manager_memory import MemoryManager
from worker.policy.pressure import DEFAULT_LIMITS

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
testcapi = pytest.importorskip("_testcapi", reason="the interpreter is without its own test modules")
MOST = 2000


@pytest.fixture
def machine(tmp_path: Path) -> Any:
    """A machine with a simulated device, all kinds of values made."""
    for make in first_uses():
        make()
    made = Machine(tmp_path, SimulatedDevice(64 * MIB))
    yield made
    made.close()


def each_failing(act: Callable[[], Any], failed: Callable[[], None], done: Callable[[], None]) -> None:
    """Act with the n-th allocation failing, for each n until nothing has failed for long."""
    in_a_row = 0
    for n in range(MOST):
        try:
            testcapi.set_nomemory(n, n + 1)
            act()
        except MemoryError:
            testcapi.remove_mem_hooks()
            failed()
            in_a_row = 0
        else:
            testcapi.remove_mem_hooks()
            done()
            in_a_row += 1
        finally:
            testcapi.remove_mem_hooks()
        if in_a_row > 60:
            return
    pytest.fail(f"more than {MOST} allocations")


def test_limits_are_as_they_were_where_setting_them_failed(machine: Machine) -> None:
    """Limits that are set are told as set, though what follows from them finds no memory at first."""
    before = machine.manager.devices.limits("cpu")
    machine.allocate("cpu", MIB)
    after = replace(before, limit_bytes=1)

    def done() -> None:
        assert machine.manager.devices.limits("cpu") == after
        machine.manager.devices.set_limits("cpu", before)

    each_failing(
        lambda: machine.memory.relief.set_limits("cpu", after),
        lambda: _is(machine.manager.devices.limits("cpu"), before),
        done,
    )


def _is(found: object, expected: object) -> None:
    assert found == expected


def test_a_change_that_could_not_be_observed_is_new_the_next_time(machine: Machine) -> None:
    """A level or a budget that nobody was told of for want of memory is told of by the next observation."""
    table, device = machine.manager.pressure, machine.manager.devices.get("cpu")
    table.observe("cpu")

    def changed() -> Any:
        device.observed_budget = (7,)
        return table.observe("cpu")

    each_failing(
        changed,
        lambda: _is(table.observe("cpu").budget_change is not None, expected=True),
        lambda: _is(table.observe("cpu").budget_change, None),
    )


def test_a_device_that_went_away_leaves_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever finds no memory as it is removed from the ledger, all of it is gone in the end."""
    for n in range(1, 5):
        manager = MemoryManager(FixedClock())
        manager.devices.add(DeviceInfo("d", DeviceKind.SIMULATED, "D"), DEFAULT_LIMITS)
        for name in ("a", "b", "c"):
            request = AllocationRequest("d", 10, MemoryType.DEVICE)
            manager.allocations.commit(manager.allocations.reserve(request, name), Block(10))
        remove, calls = manager.allocations.remove, iter(range(1, 100))

        def failing(
            *arguments: Any, n: int = n, remove: Any = remove, calls: Any = calls, **named: Any
        ) -> Any:
            if next(calls) == n:
                raise MemoryError
            return remove(*arguments, **named)

        monkeypatch.setattr(manager.allocations, "remove", failing)
        if n <= 3:
            with pytest.raises(MemoryError):
                manager.lose_device("d", "it went away")
        lost = manager.lose_device("d", "it went away")
        assert lost is not None and {each.allocation_id for each in lost.allocations} == {"a", "b", "c"}
        assert manager.allocations.all() == () and manager.devices.get("d").ledger.allocated_bytes == 0


@pytest.mark.parametrize(
    "error", [CancelledError("c"), DeviceLostError("l", device_id="cpu"), MemoryError(), SystemExit()]
)
@pytest.mark.parametrize("place", ["wait_until_known", "refresh"])
def test_a_transfer_that_was_opened_has_an_end(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, error: BaseException, place: str
) -> None:
    """Whatever ends it, and however early: its record says how it ended, and never that it runs."""
    source = machine.allocate("cpu", MIB)
    transfers = machine.memory.transfers
    opened = transfers.open(source, "cpu", MemoryType.DEVICE)

    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(transfers._monitor, place, failing)
    with pytest.raises(type(error)):
        transfers.perform(
            opened.transfer_id, "new", TransferType.COPY, MemoryType.DEVICE, CancelToken(lambda: 0),
            lambda _done, _total: None, verify=False,
        )  # fmt: skip
    ended = transfers.get(opened.transfer_id)
    stopped = isinstance(error, CancelledError)
    assert ended.state is (TransferState.CANCELLED if stopped else TransferState.FAILED)
    assert ended.error is not None


@pytest.mark.parametrize(
    ("device_id", "memory_type"),
    [("cpu", MemoryType.DEVICE), ("cpu", MemoryType.SHARED), ("sim:0", MemoryType.DEVICE)],
)
def test_an_allocation_that_failed_leaves_nothing(
    machine: Machine, tmp_path: Path, device_id: str, memory_type: MemoryType
) -> None:
    """No block, no bytes and no file, whichever step of making one found no memory."""
    backend, made = machine.backends[device_id], [""]

    def nothing_left() -> None:
        machine.memory.tick()
        assert backend.live() == frozenset()
        assert machine.manager.devices.get(device_id).ledger.allocated_bytes == 0
        assert [each for each in tmp_path.iterdir() if each.suffix != ".lock"] == []
        assert len(list(tmp_path.iterdir())) <= 1

    def done() -> None:
        machine.memory.allocations.deallocate(made[0], force=True)
        nothing_left()

    def act() -> None:
        made[0] = machine.allocate(
            device_id, 5000, memory_type=memory_type
        )  # a list that grows may find no memory either

    each_failing(act, nothing_left, done)
