"""Devices that come and go, through the whole worker below the stream: ledger, events, and what is answered for."""

import random
import threading
from pathlib import Path
from typing import Any

import pytest

from protocol.vocabulary import DeviceState, ModelState, UnloadMode
from tests.unit.isolation import MIB, NoDelay, isolated, kill, never, wait_for, wait_for_another
from tests.unit.machine import Machine
from tests.unit.watch.contents import content_of, model_of, put
from worker.backends.isolated import IsolatedBackend
from worker.core.clock import SystemClock
from worker.core.errors import AllocationNotFoundError, DeviceUnavailableError, OutOfMemoryError
from worker.core.events import DeviceLost, DeviceRecovered
from worker.telemetry.system import SystemMemory

KILLS = 200

pytestmark = pytest.mark.usefixtures("rigs")


class Killer:
    """Kills the process just as the nth message from now is sent to it."""

    def __init__(self, backend: IsolatedBackend, nth: int, *, after: bool) -> None:
        self.left, self.after, self.done = nth, after, False
        self._backend = backend
        child = backend._presence.child
        assert child is not None
        self._write, self._exchange = child._pipe.write, child._pipe.exchange
        child._pipe.write, child._pipe.exchange = self.write, self.exchange

    def write(self, text: bytes) -> None:
        due = self._is_due()
        if due and not self.after:
            self.pid = kill(self._backend)
        self._write(text)
        if due and self.after:
            self.pid = kill(self._backend)

    def exchange(self, text: bytes) -> Any:
        if self._is_due():
            if self.after:
                self._write(text)
            self.pid = kill(self._backend)
            if self.after:
                return None  # as a pipe of which nothing comes any more
        return self._exchange(text)

    def _is_due(self) -> bool:
        self.left -= 1
        self.done = self.done or self.left == 0
        return self.left == 0


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
        for turn in range(4):
            machine.allocate("sim:0", 8 * MIB)
            loaded = machine.load("m")
            # The first brings the process's own threads and modules for it: half of a MiB, or more where several begin at once.
            assert turn == 0 or abs(loaded.measured_process_bytes - 8 * MIB) < MIB
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
