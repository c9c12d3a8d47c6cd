"""The reaper: what is due ends, once; what was freed, renewed or used again does not, and nothing is kept of it."""

import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.vocabulary import MemoryType, ModelState
from tests.rigs.model_files import spec, write_model
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.background.due_thread import start
from worker.background.expiry import Reaper
from worker.core.clock import NS_PER_MS, SystemClock
from worker.core.errors import AllocationNotFoundError, OutOfMemoryError
from worker.core.events import AllocationExpired
from worker.stream.work import Call, Work

S = 10**9
DAY_NS = 24 * 3600 * S


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Return a machine with a model that is kept for ten seconds after its use."""
    write_model(tmp_path / "m.safetensors", MIB)
    model = spec(tmp_path / "m.safetensors", device_id="sim:0", keep_alive_ns=10 * S)
    made = Machine(tmp_path, SimulatedDevice(64 * MIB), models=(model,))
    yield made
    made.close()


def test_an_allocation_freed_before_its_lease_leaves_nothing_behind(machine: Machine) -> None:
    """A day's lease costs as long as the allocation lives, not until the lease would have ended."""

    def allocate_and_free(times: int) -> None:
        for _ in range(times):
            leased = machine.allocate("cpu", 4096, memory_type=MemoryType.EXTERNAL, lease_ns=DAY_NS)
            machine.memory.allocations.deallocate(leased, force=False)

    allocate_and_free(2000)  # what is bounded fills up
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        allocate_and_free(2000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(machine.manager.due) == 0
    assert after - before < 2000 * 20


def test_a_renewed_lease_ends_when_it_was_renewed_to(machine: Machine) -> None:
    """Renewing counts from the moment it is done, longer or shorter, and also where there was no lease."""
    longer, shorter = (machine.allocate("cpu", 4096, lease_ns=10 * S) for _ in range(2))
    none = machine.allocate("cpu", 4096)
    machine.pass_time(4 * S)
    for name, lease_ns in ((longer, 8 * S), (shorter, 2 * S), (none, 3 * S)):
        renewed = machine.manager.allocations.renew(name, lease_ns)
        assert renewed.expires_ns == machine.clock.now_ns() + lease_ns
        assert machine.manager.allocations.row(renewed).lease_expires_in_ms == lease_ns // NS_PER_MS
    ended = []
    for _ in range(8):
        machine.pass_time(S)
        ended.append([event.expiration.allocation_id for event in machine.told(AllocationExpired)])
    assert ended == [[], [shorter], *[[shorter, none]] * 5, [shorter, none, longer]]
    machine.check()


def test_what_is_gone_cannot_be_renewed(machine: Machine) -> None:
    """A lease that has ended is over: the error says why, and nothing comes back."""
    leased = machine.allocate("cpu", 4096, lease_ns=S)
    machine.pass_time(S)
    with pytest.raises(AllocationNotFoundError) as caught:
        machine.manager.allocations.renew(leased, S)
    assert caught.value.details["reason"] == "lease_expired"
    assert len(machine.manager.due) == 0


def test_a_lease_renewed_while_its_end_waits_its_turn_goes_on(machine: Machine) -> None:
    """Between falling due and its turn among the requests a lease may be renewed: then it does not end."""
    waiting: list[Work] = []
    reaper = Reaper(machine.core, machine.memory, waiting.append)
    leased = machine.allocate("cpu", 4096, lease_ns=S)
    machine.clock.wait(1.0, machine.token())
    reaper.run_due()
    machine.manager.allocations.renew(leased, S)
    (work,) = waiting
    work.run(Call(machine.token(), lambda _completed, _total: None))
    assert machine.manager.allocations.knows(leased)
    machine.pass_time(S)
    assert not machine.manager.allocations.knows(leased)


def test_what_cannot_be_begun_is_tried_again(machine: Machine) -> None:
    """Where there is no thread for it just now, a lease ends a little later, and the others at once."""
    begun: list[Work] = []

    def submit(work: Work) -> None:
        if not begun:
            begun.append(work)
            raise OutOfMemoryError("no thread")
        begun.append(work)
        work.run(Call(machine.token(), lambda _completed, _total: None))

    first, second = (machine.allocate("cpu", 4096, lease_ns=S) for _ in range(2))
    reaper = Reaper(machine.core, machine.memory, submit)
    machine.clock.wait(1.0, machine.token())
    reaper.run_due()
    assert machine.manager.allocations.knows(first)
    assert not machine.manager.allocations.knows(second)
    machine.clock.wait(1.0, machine.token())
    reaper.run_due()
    assert not machine.manager.allocations.knows(first)


def test_a_model_that_is_used_again_stays(machine: Machine) -> None:
    """Its keep-alive counts from its last use; while it is leased nothing is due of it."""
    machine.load("m")
    machine.pass_time(9 * S)
    leased = machine.models.acquire("m", machine.token())
    assert len(machine.manager.due) == 0
    machine.pass_time(60 * S)
    machine.booked.release("m", leased.residence.handle)
    machine.pass_time(10 * S - 1)
    assert machine.manager.models.get("m").state is ModelState.LOADED
    machine.pass_time(1)
    assert machine.manager.models.get("m").state is ModelState.UNLOADED
    assert len(machine.manager.due) == 0


def test_the_thread_sees_what_is_due_sooner_than_what_it_waits_for(tmp_path: Path) -> None:
    """By the system's clock: a short lease ends in time though a longer one was waited for."""
    machine = Machine(tmp_path, clock=SystemClock())
    start(machine.reaper, machine.clock, "expiry")
    machine.allocate("cpu", 4096, lease_ns=DAY_NS)
    ended = threading.Event()
    free = machine.backends["cpu"].free

    def freed(allocation_id: str) -> int | None:
        ended.set()
        return free(allocation_id)

    machine.backends["cpu"].free = freed
    machine.allocate("cpu", 4096, lease_ns=NS_PER_MS)
    assert ended.wait(30)
    machine.memory.close()
