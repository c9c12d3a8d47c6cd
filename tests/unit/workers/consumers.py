"""A machine with a device that consumers fill: a host's cache, and a store of a plugin's."""

from pathlib import Path
from typing import Any

import pytest

from protocol.results import AllocateResult
from protocol.vocabulary import ModelState
from tests.rigs.model_files import spec, write_model
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.cancellation import CancelToken
from worker.core.consumers import Holding, Offer
from worker.core.events import ReleaseRequested
from worker.core.records import AllocationRequest
from worker.manager.consumer_table import Registration

DEVICE = "sim:0"
DEAR = 10_000.0


class Cache:
    """A cache of a host's on the device, in entries of 1 MiB: it answers as it is told to."""

    def __init__(self, machine: Machine, entries: int = 4, cost_ms: float = 1.0, name: str = "cache") -> None:
        self.name, self._machine, self._cost_ms = name, machine, cost_ms
        self.asked: list[int] = []
        self.entries = [machine.allocate(DEVICE, MIB, owner=name) for _ in range(entries)]
        machine.on_release_requested = self.give
        self.register()

    def register(self, **more: Any) -> tuple[bool, int | None]:
        held = len(self.entries) * MIB
        offers = (Offer(held, self._cost_ms * len(self.entries), "", divisible=True),) if held else ()
        fields = {
            "kind": "cache",
            "device_id": DEVICE,
            "held_bytes": held,
            "floor_bytes": 0,
            "offers": offers,
        }
        return self._machine.memory.consumers.register(Registration(self.name, **fields | more))

    def drop(self, entries: int) -> None:
        for _ in range(min(entries, len(self.entries))):
            self._machine.memory.allocations.deallocate(self.entries.pop(), force=True)

    def say(self, size: int) -> tuple[int, int | None]:
        return self._machine.memory.consumers.released(self.name, size)

    def give(self, event: ReleaseRequested) -> None:
        """Give what is asked for, in whole entries."""
        self.asked.append(event.bytes)
        count = -(-event.bytes // MIB)
        self.drop(count)
        self.say(count * MIB)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine with a device of 12 MiB, and a model of 4 that is loaded there."""
    write_model(tmp_path / "m.safetensors", 4 * MIB, seed=1)
    made = Machine(
        tmp_path, SimulatedDevice(12 * MIB), models=(spec(tmp_path / "m.safetensors", device_id=DEVICE),)
    )
    made.load("m")
    made.manager.models.get("m").load_ms = 400  # the clock stands: as if it had been measured
    return made


def make_room(machine: Machine, size: int, **more: Any) -> AllocateResult:
    """Allocate, making headroom."""
    request, allocations = AllocationRequest(DEVICE, size), machine.memory.allocations
    return allocations.allocate(allocations.new_id(), request, machine.token(), make_room=True, **more)


def state(machine: Machine) -> ModelState:
    return machine.manager.models.get("m").state


class Store:
    """A consumer in this process, with memory on the device."""

    kind = "store"

    def __init__(self, consumer_id: str = "store", machine: Machine | None = None, entries: int = 4) -> None:
        self.consumer_id, self.device_id, self._machine = consumer_id, DEVICE, machine
        self.entries = [] if machine is None else [machine.allocate(DEVICE, MIB) for _ in range(entries)]
        self.limits: list[int | None] = []
        self.fails = False

    def holding(self) -> Holding:
        return Holding(len(self.entries) * MIB)

    def offers(self, _need_bytes: int) -> tuple[Offer, ...]:
        return tuple(Offer(MIB, 1.0, "least used", tag=index) for index in range(len(self.entries)))

    def release(self, offer: Offer, token: CancelToken) -> int:
        token.check()
        assert self._machine is not None
        if self.fails:
            raise RuntimeError("no")
        self._machine.memory.allocations.deallocate(self.entries.pop(), force=True)
        return offer.bytes

    def limit_changed(self, limit_bytes: int | None, _reason: str) -> None:
        self.limits.append(limit_bytes)
