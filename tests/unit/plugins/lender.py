"""The buffers of a small machine."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.torch_on_cpu import TorchOnCpu, backend_on_cpu
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.plugins._buffers import OWNER, Buffers
from worker.telemetry.system import FixedSystemMemory


class Lender:
    """The buffers of a machine, and what they asked to have done later."""

    def __init__(
        self,
        folder: Path,
        more: Callable[[TorchOnCpu], dict[str, Any]] = lambda _gpu: {},
        *,
        device: bool = True,
    ) -> None:
        system = FixedSystemMemory()
        self.gpu = TorchOnCpu(64 * MIB)
        self.machine = Machine(
            folder,
            *([SimulatedDevice(total_bytes=64 * MIB)] if device else []),
            pool_bytes=0,
            system=system,
            **more(self.gpu),
        )
        system.count(self.machine.backends["cpu"].held_bytes)
        self.later: list[tuple[int, Callable[[], None]]] = []
        self.buffers = Buffers(
            self.machine.core, self.machine.memory.allocations, lambda due, run: self.later.append((due, run))
        )
        self.machine.memory.consumers.add_source(self.buffers.consumers)
        self.take = self.buffers.take

    @property
    def rows(self) -> list[str]:
        """The ledger's rows that are buffers."""
        rows = self.machine.manager.allocations.all("cpu")
        return [each.allocation_id for each in rows if each.request.owner == OWNER]

    def pass_time(self, ns: int) -> None:
        """Let time pass, and what falls due happen."""
        self.machine.clock.wait(ns / 1e9, self.machine.token())
        now_ns = self.machine.clock.now_ns()
        due = [run for due_ns, run in self.later if due_ns <= now_ns]
        self.later = [each for each in self.later if each[0] > now_ns]
        for run in due:
            run()


@pytest.fixture
def lender(tmp_path: Path) -> Iterator[Lender]:
    """Return the buffers of a small machine; its accounts agree at the end."""
    made = Lender(tmp_path)
    yield made
    made.machine.check()
    made.machine.close()


@pytest.fixture
def with_gpu(tmp_path: Path) -> Iterator[Lender]:
    """Return the buffers of a machine that has a device of torch's."""
    made = Lender(tmp_path, lambda gpu: {"apart": (backend_on_cpu(gpu, lambda: 0),)})
    made.machine.memory.devices.wait_until_known(made.machine.token())
    yield made
    made.machine.close()
