"""Devices that come and go, through the whole worker below the stream: books, events, and what is answered for."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.vocabulary import (
    DeviceState,
    MemoryType,
    ModelState,
    OptimizationLevel,
    UnloadMode,
)
from tests.rigs.model_files import spec, write_model
from tests.unit.beside import Beside
from tests.unit.isolation import MIB, RIGS, NoDelay, isolated, kill, never, wait_for, wait_for_another
from tests.unit.machine import Machine
from worker.backends.isolated import IsolatedBackend
from worker.backends.isolation import asking
from worker.core.actions import Defragment
from worker.core.clock import SystemClock
from worker.core.errors import (
    AllocationNotFoundError,
    DeviceUnavailableError,
    ModelBusyError,
    OutOfMemoryError,
)
from worker.core.events import ContentsDisplaced, DeviceLost, DeviceRecovered
from worker.core.models import ModelSpec
from worker.core.records import AllocationRequest
from worker.telemetry.system import SystemMemory

KILLS = 200


@pytest.fixture(autouse=True)
def _rigs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", RIGS)


@pytest.fixture
def pooled() -> Iterator[IsolatedBackend]:
    """Return a device that keeps what it once had until its process ends."""
    with isolated(clock=NoDelay(), pooled=1, total_bytes=64 * MIB) as backend:
        yield backend


def put(machine: Machine, device_id: str, size: int, seed: int) -> tuple[str, bytes]:
    """Allocate and fill; returns the id and the content."""
    allocation_id = machine.allocate(device_id, size)
    content = random.Random(seed).randbytes(size)
    machine.backends[device_id].write(allocation_id, 0, memoryview(bytearray(content)), never())
    return allocation_id, content


def model_of(folder: Path, size_bytes: int = 2 * MIB) -> ModelSpec:
    """Make a model for the device."""
    write_model(folder / "m.safetensors", size_bytes)
    return spec(folder / "m.safetensors", device_id="sim:0")


def content_of(machine: Machine, allocation_id: str) -> bytes:
    """Read an allocation."""
    allocation = machine.manager.allocations.get(allocation_id)
    into = bytearray(allocation.size_bytes)
    machine.backends[allocation.device_id].read(allocation_id, 0, memoryview(into), never())
    return bytes(into)


# ---- loss ----


class Killer:
    """Kills the process just as the nth message from now is sent to it."""

    def __init__(self, backend: IsolatedBackend, nth: int, *, after: bool) -> None:
        self.left, self.after, self.done = nth, after, False
        self._backend = backend
        child = backend._presence.child
        assert child is not None
        self._send = child._pipe.send
        child._pipe.send = self.send

    def send(self, message: list[Any], **how: bool) -> None:
        self.left -= 1
        due = self.left == 0
        self.done = self.done or due
        if due and not self.after:
            self.pid = kill(self._backend)
        self._send(message, **how)
        if due and self.after:
            self.pid = kill(self._backend)


def test_killed_at_random_points(tmp_path: Path) -> None:
    """200 kills: what was on the device is lost and named, each piece once, and nothing else is touched."""
    rng = random.Random(20)
    with isolated(clock=NoDelay(), total_bytes=64 * MIB) as backend:
        machine = Machine(tmp_path, apart=(backend,))
        kept = dict(put(machine, "cpu", rng.choice([1, 5000, 3 * MIB]), n) for n in range(4))
        for turn in range(KILLS):
            there: dict[str, int] = {}
            killer = Killer(backend, rng.randint(1, 40), after=rng.random() < 0.5)
            while not killer.done:
                _do_anything(machine, rng, there, kept)
            wait_for_another(backend, killer.pid)
            with backend._presence.telling:
                pass  # whatever is being told of
            machine.check()
            lost = machine.told(DeviceLost)
            assert len(lost) == len(machine.told(DeviceRecovered)) == turn + 1
            assert set(lost[-1].allocation_ids) == there.keys()
            assert not machine.manager.allocations.all("sim:0")
            assert backend.live() == frozenset()
        assert {name: content_of(machine, name) for name in kept} == kept
        machine.close()


def _do_anything(machine: Machine, rng: random.Random, there: dict[str, int], kept: dict[str, bytes]) -> None:
    """Do one thing to the device, and remember what is on it as long as the answers say so."""
    size = rng.choice([1, 4096, MIB, 5 * MIB])
    freed = rng.choice([*there, None])
    try:
        match rng.randrange(5):
            case 0:
                there[machine.allocate("sim:0", size)] = size
            case 1 if freed is not None:
                del there[
                    freed
                ]  # whether it succeeds or not: it is out of the books before the device is asked
                machine.memory.allocations.deallocate(freed, force=True)
            case 2:
                there[machine.transfer(rng.choice([*kept]), "sim:0", verify=rng.random() < 0.5)] = 0
            case 3 if there:
                copy = machine.transfer(rng.choice([*there]), "cpu")
                machine.memory.allocations.deallocate(copy, force=True)
            case _:
                machine.memory.questions.status(("sim:0",), refresh=True)
    except (AllocationNotFoundError, DeviceUnavailableError, OutOfMemoryError):
        pass


def test_models_on_a_lost_device(tmp_path: Path) -> None:
    """A model that went with its device is named, is unloaded, and loads again."""
    model = model_of(tmp_path)
    with isolated(clock=NoDelay()) as backend:
        machine = Machine(tmp_path, apart=(backend,), models=(model,))
        machine.load("m")
        wait_for_another(backend, kill(backend))
        with backend._presence.telling:
            (lost,) = machine.told(DeviceLost)
        assert lost.model_ids == ("m",)
        entry = machine.manager.models.get("m")
        assert entry.state is ModelState.UNLOADED
        assert "sim:0 was lost, and the model with it: process" in entry.state_reason
        assert "SIGKILL" in entry.state_reason
        machine.check()
        assert machine.load("m").device_id == "sim:0"
        assert entry.state_reason is None
        machine.check()
        machine.close()


def test_what_the_process_grew_by_is_its_devices(tmp_path: Path) -> None:
    """Time after time, with allocations between: what carries the bytes there is part of no model."""
    model = model_of(tmp_path, 8 * MIB)
    with isolated(clock=SystemClock()) as backend:
        machine = Machine(tmp_path, apart=(backend,), models=(model,), clock=SystemClock())
        machine.process_bytes = lambda: SystemMemory().read().process_rss_bytes
        for _ in range(3):
            machine.allocate("sim:0", 8 * MIB)
            loaded = machine.load("m")
            assert abs(loaded.measured_process_bytes - 8 * MIB) < MIB
            machine.memory.models.unload("m", UnloadMode.UNLOAD, machine.token())
        machine.close()


def test_other_devices_never_notice(tmp_path: Path) -> None:
    """A copy between other devices goes on while one is lost and comes back."""
    from worker.backends.simulated import SimulatedDevice

    with isolated(clock=NoDelay(), index=1) as backend:
        machine = Machine(tmp_path, SimulatedDevice(64 * MIB), apart=(backend,))
        name, content = put(machine, "sim:0", 20 * MIB, 1)
        pid = kill(backend)
        assert content_of(machine, machine.transfer(name, "cpu", verify=True)) == content
        wait_for_another(backend, pid)
        assert machine.manager.devices.info("sim:0").state is DeviceState.AVAILABLE
        machine.close()


# ---- probing ----


def test_requests_wait_for_the_probe(tmp_path: Path) -> None:
    """Who needs a device that is being probed waits for it; who only looks is answered at once."""
    with isolated(index=0) as backend:
        hold = threading.Event()
        start = backend._launching._start
        backend._launching._start = lambda: hold.wait(30) and start()
        machine = Machine(tmp_path)
        (info,) = backend.devices
        machine.backends["sim:0"] = backend
        machine.manager.devices.add(info, machine.manager.devices.limits("cpu"))
        backend.begin(lambda devices: machine.watch.note_devices(backend, devices))
        (row,) = machine.memory.questions.status(("sim:0",), refresh=True).devices
        assert (row.state, row.total_bytes, row.available_bytes) == (DeviceState.PROBING, None, None)
        made: list[str] = []
        asking = threading.Thread(target=lambda: made.append(machine.allocate("sim:0", 100)))
        asking.start()
        with pytest.raises(DeviceUnavailableError, match="probing"):
            machine.memory.questions.available_bytes("sim:0")
        assert not made
        hold.set()
        asking.join(30)
        assert machine.manager.allocations.get(made[0]).device_id == "sim:0"
        machine.check()
        machine.close()


@pytest.mark.parametrize(
    ("factory", "state", "default"),
    [
        ("misbehaving_backends:Exits", DeviceState.UNAVAILABLE, "cpu"),
        ("worker.backends.simulated:simulated_in_process", DeviceState.AVAILABLE, "sim:0"),
    ],
)
def test_default_device(tmp_path: Path, factory: str, state: DeviceState, default: str) -> None:
    """The default is the accelerator while it may come, and the CPU once it is known not to."""
    with isolated(factory) as backend:
        machine = Machine(tmp_path, apart=(backend,))
        wait_for(backend, state)
        machine.watch.wait_until_known(("sim:0",), never())
        assert machine.manager.devices.default(None) == default
        assert machine.manager.devices.default("sim:0") == "sim:0"
        machine.close()


# ---- restarting ----


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

    machine.watch.observe = observed  # type: ignore[method-assign]  # the test's own in its place
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
    with isolated() as backend:
        machine = Machine(tmp_path, apart=(backend,))
        name, content = put(machine, "sim:0", MIB, 1)
        monkeypatch.setattr(asking, "ANSWER_S", -1.0)
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
