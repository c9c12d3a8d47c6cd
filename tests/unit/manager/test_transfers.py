"""Copies and moves between devices: right to the byte, and undone where they fail."""

from pathlib import Path

import pytest

from protocol.vocabulary import ClearType, MemoryType, TransferType
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.cancellation import CancelToken
from worker.core.errors import (
    CancelledError,
    ChecksumMismatchError,
    DeadlineExceededError,
    DeviceUnavailableError,
    InvalidRequestError,
    UnsupportedError,
)


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
