"""Devices that are restarted to give memory back, through the whole worker below the stream."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.vocabulary import DeviceState, MemoryType, ModelState, OptimizationLevel
from tests.unit.beside import Beside
from tests.unit.isolation import MIB, NoDelay, isolated
from tests.unit.machine import Machine
from tests.unit.watch.contents import content_of, model_of, put
from worker.backends.isolated import IsolatedBackend
from worker.backends.isolation import asking
from worker.core.actions import Defragment
from worker.core.errors import ModelBusyError, OutOfMemoryError
from worker.core.events import ContentsDisplaced, DeviceLost
from worker.core.records import AllocationRequest

pytestmark = pytest.mark.usefixtures("rigs")


@pytest.fixture
def pooled() -> Iterator[IsolatedBackend]:
    """Return a device that keeps what it once had until its process ends."""
    with isolated(clock=NoDelay(), pooled=1, total_bytes=64 * MIB) as backend:
        yield backend


def test_aggressive_defragment(tmp_path: Path, pooled: IsolatedBackend) -> None:
    """The process is replaced: ids stay valid, every byte is there, and the dead pool has gone back."""
    model = model_of(tmp_path)
    machine = Machine(tmp_path, apart=(pooled,), models=(model,))
    machine.load("m")
    blocks = [put(machine, "sim:0", 3 * MIB, n) for n in range(6)]
    for name, _ in blocks[::2]:
        machine.memory.allocations.deallocate(name, force=True)
    restart = Defragment("sim:0", restart=True)
    (proposed,) = [row for row in machine.memory.relief.recommendations(("sim:0",)) if row.action == restart]
    assert proposed.expected_freed_bytes == 9 * MIB
    assert proposed.cost_ms is not None and proposed.cost_ms > 0
    before = machine.memory.questions.status(("sim:0",), refresh=True).devices[0].process_used_bytes
    done = machine.memory.relief.defragment(("sim:0",), machine.token(), aggressive=True)
    after = machine.memory.questions.status(("sim:0",), refresh=True).devices[0].process_used_bytes
    assert before is not None and after is not None
    assert done.returned_bytes == before - after == 9 * MIB
    assert done.allocations_moved == 4
    assert done.fragmentation_before is not None and done.fragmentation_after is not None
    assert done.fragmentation_before.fragmentation_percentage > 0
    assert done.fragmentation_after.fragmentation_percentage == 0
    assert sum(step.returned_bytes or 0 for step in done.steps) == done.returned_bytes
    assert all(content_of(machine, name) == content for name, content in blocks[1::2])
    assert machine.told(DeviceLost) == []
    assert machine.manager.models.get("m").state is ModelState.LOADED
    machine.check()
    assert not [row for row in machine.memory.relief.recommendations(("sim:0",)) if row.action == restart]
    machine.close()


def test_a_restart_waits_for_a_load_to_be_answered(tmp_path: Path, pooled: IsolatedBackend) -> None:
    """A model that has just been loaded is not in use: the restart comes after it, and carries it over."""
    machine = Machine(tmp_path, apart=(pooled,), models=(model_of(tmp_path),))
    restart = Beside(lambda: machine.memory.relief.defragment(("sim:0",), machine.token(), aggressive=True))
    observe, pid = machine.watch.observe, pooled.pid

    def observed(device_ids: tuple[str, ...], *, changed: bool = False) -> None:
        if machine.manager.models.get("m").state is ModelState.LOADED:
            restart.begin()
        observe(device_ids, changed=changed)

    machine.watch.observe = observed
    assert machine.load("m").state == "loaded"
    assert restart.end().allocations_moved == 1
    assert restart.waited and pooled.pid != pid
    assert machine.manager.models.get("m").state is ModelState.LOADED
    machine.close()


def test_no_restart_under_a_lease(tmp_path: Path, pooled: IsolatedBackend) -> None:
    """A model in use keeps its process; the refusal says so, and everything is as it was."""
    model = model_of(tmp_path)
    machine = Machine(tmp_path, apart=(pooled,), models=(model,))
    taken = machine.models.acquire("m", machine.token())
    pid = pooled.pid
    with pytest.raises(ModelBusyError, match="'m' is in use on sim:0"):
        machine.memory.relief.defragment(("sim:0",), machine.token(), aggressive=True)
    assert machine.manager.devices.info("sim:0").state is DeviceState.AVAILABLE
    several = machine.memory.relief.defragment(("cpu", "sim:0"), machine.token(), aggressive=True)
    assert "not restarted: model 'm' is in use" in several.steps[-1].step
    assert pooled.pid == pid
    machine.booked.release("m", taken.residence.handle)
    machine.memory.relief.defragment(("sim:0",), machine.token(), aggressive=True)
    assert pooled.pid != pid
    machine.close()


def test_no_restart_without_host_memory(tmp_path: Path, pooled: IsolatedBackend) -> None:
    """What host memory cannot hold is not carried: refused, and nothing is done."""
    machine = Machine(tmp_path, apart=(pooled,))
    name, content = put(machine, "sim:0", 30 * MIB, 1)
    room = machine.memory.questions.available_bytes("cpu") or 0
    machine.allocate("cpu", room - 20 * MIB, memory_type=MemoryType.DEVICE)
    figures, pid = machine.figures(), pooled.pid
    with pytest.raises(OutOfMemoryError, match="31457280 bytes are to be carried over through host memory"):
        machine.memory.relief.defragment(("sim:0",), machine.token(), aggressive=True)
    assert pooled.pid == pid
    assert content_of(machine, name) == content
    assert machine.figures().keys() == figures.keys()
    machine.check()
    machine.close()


def test_make_room_by_restart(tmp_path: Path, pooled: IsolatedBackend) -> None:
    """Where there is room in pieces only, a plain allocation fails and one that may make room succeeds."""
    machine = Machine(tmp_path, apart=(pooled,))
    blocks = [put(machine, "sim:0", 8 * MIB, n) for n in range(8)]
    for name, _ in blocks[::2]:
        machine.memory.allocations.deallocate(name, force=True)
    with pytest.raises(OutOfMemoryError):
        machine.allocate("sim:0", 20 * MIB)
    request = AllocationRequest("sim:0", 20 * MIB)
    name = machine.memory.allocations.new_id()
    made = machine.memory.allocations.allocate(name, request, machine.token(), make_room=True)
    assert made.size_bytes == 20 * MIB
    assert all(content_of(machine, name) == content for name, content in blocks[1::2])
    machine.check()
    machine.close()


def test_optimize(tmp_path: Path, pooled: IsolatedBackend) -> None:
    """Only the aggressive level restarts."""
    machine = Machine(tmp_path, apart=(pooled,))
    gone, _ = put(machine, "sim:0", 8 * MIB, 1)
    put(machine, "sim:0", 8 * MIB, 2)
    machine.memory.allocations.deallocate(gone, force=True)
    pid = pooled.pid
    machine.memory.relief.optimize(("sim:0",), OptimizationLevel.NORMAL, machine.token(), dry_run=False)
    assert pooled.pid == pid
    done = machine.memory.relief.optimize(
        ("sim:0",), OptimizationLevel.AGGRESSIVE, machine.token(), dry_run=False
    )
    assert pooled.pid != pid
    assert done.returned_bytes == 8 * MIB
    machine.close()


def test_restart_without_room_for_all(tmp_path: Path) -> None:
    """What found no room is in the reply and in an event, loses nothing, and is told of when it is back."""
    marker = tmp_path / "second"
    with isolated("misbehaving_backends:Shrinks", marker=str(marker)) as backend:
        machine = Machine(tmp_path, apart=(backend,))
        large, expected = put(machine, "sim:0", 9 * MIB, 1)
        small, content = put(machine, "sim:0", MIB, 2)
        done = machine.memory.relief.defragment(("sim:0",), machine.token(), aggressive=True)
        (displaced,) = done.displaced
        assert (displaced.device_id, displaced.displaced_bytes) == ("sim:0", 9 * MIB)
        assert (displaced.allocation_ids, displaced.model_ids) == ((large,), ())
        assert "another program has it now" in (displaced.reason or "")
        assert [vars(event) for event in machine.told(ContentsDisplaced)] == [vars(displaced)]
        assert machine.told(DeviceLost) == []
        assert content_of(machine, large) == expected
        assert content_of(machine, small) == content
        machine.check()
        marker.unlink()
        backend.tick()
        with backend._presence.changed:
            assert backend._presence.changed.wait_for(lambda: not backend.devices[0].displaced, 30)
        with backend._presence.telling:
            assert machine.told(ContentsDisplaced)[-1].allocation_ids == ()
        assert content_of(machine, large) == expected
        machine.close()


def test_work_goes_on_where_figures_do_not_come_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only says how it was before and after is null then; the work itself is done."""

    def silent(_asking: asking.Asking, _child: object, device_id: str) -> None:
        raise asking._silent(device_id, 0)

    with isolated() as backend:
        machine = Machine(tmp_path, apart=(backend,))
        name, content = put(machine, "sim:0", MIB, 1)
        monkeypatch.setattr(asking.Asking, "readings", silent)
        done = machine.memory.relief.defragment(("sim:0",), machine.token())
        assert (done.fragmentation_before, done.returned_bytes) == (None, 0)
        assert content_of(machine, name) == content
        machine.close()


def test_a_restart_that_would_return_nothing(tmp_path: Path) -> None:
    """A device whose memory goes back in place keeps its process: nobody is stopped for it."""
    with isolated() as backend:
        machine = Machine(tmp_path, apart=(backend,))
        put(machine, "sim:0", MIB, 1)
        pid = backend.pid
        machine.memory.relief.defragment(("sim:0",), machine.token(), aggressive=True)
        assert backend.pid == pid
        machine.close()


def test_answers_during_a_restart(tmp_path: Path, pooled: IsolatedBackend) -> None:
    """Status is answered while a process is replaced, and shows the device as not to be asked."""
    machine = Machine(tmp_path, apart=(pooled,))
    put(machine, "sim:0", MIB, 1)
    seen: list[Any] = []
    replace: Callable[..., Any] = pooled._launching.replace

    def replace_and_look(attempts: int) -> Any:
        seen.append(machine.memory.questions.status(("sim:0",), refresh=True).devices[0])
        return replace(attempts)

    pooled._launching.replace = replace_and_look
    machine.memory.relief.defragment(("sim:0",), machine.token(), aggressive=True)
    assert seen[0].state is DeviceState.PROBING
    assert "being replaced" in seen[0].state_reason
    assert seen[0].allocated_bytes == MIB
    machine.close()
