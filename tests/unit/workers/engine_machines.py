"""Machines whose models say what their engine does, each in a real process."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from protocol.results import UnloadedModel
from protocol.vocabulary import UnloadMode
from tests.rigs import engines
from tests.rigs.engines import MIB
from tests.unit.machine import Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.models import ModelSpec
from worker.loaders import registry
from worker.plugins._leases import Models
from worker.stream.work import Call
from worker.telemetry.system import SystemMemory

NEAR = 3 * MIB
"""What a process's heap moves by beside what it was asked for."""

Make = Callable[..., Machine]


@pytest.fixture
def others() -> set[psutil.Process]:
    """Return the processes that this one has already: a session's rigs may have some."""
    return set(psutil.Process().children())


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Return what puts a machine together with models that say what their engine does."""
    monkeypatch.setitem(registry.BUILT_IN, "stand-in", ("tests.rigs.engines", "StandInLoader"))
    monkeypatch.setenv("PYTHONPATH", str(Path(engines.__file__).parents[2]))
    made: list[Machine] = []

    def put_together(
        more: dict[str, dict[str, Any]] | None = None, *, devices: tuple[SimulatedDevice, ...] = (),
        **models: dict[str, Any],
    ) -> Machine:  # fmt: skip
        specs = []
        for name, say in models.items():
            path = tmp_path / f"{name}.model"
            path.write_text(json.dumps({"bytes": 8 * MIB} | say))
            specs.append(ModelSpec(name, "stand-in", path, tmp_path, **((more or {}).get(name, {}))))
        shared = tmp_path / "shared"
        shared.mkdir(exist_ok=True)
        made.append(
            Machine(shared, *devices, models=tuple(specs), clock=SystemClock(), system=SystemMemory())
        )
        return made[-1]

    yield put_together
    for each in made:
        each.memory.close()


def do(machine: Machine, model_id: str, work: Callable[..., Any], **data: Any) -> Any:
    token = data.pop("token", None) or machine.token()
    with Models(machine.models, machine.clock).use(model_id, token=token) as weights:
        return weights.do(work, data, Call(token, lambda _done, _total: None))


def unload(machine: Machine, model_id: str, mode: UnloadMode = UnloadMode.UNLOAD) -> UnloadedModel:
    return machine.memory.models.unload(model_id, mode, machine.token())


def entry(machine: Machine, model_id: str) -> Any:
    return machine.manager.models.get(model_id)


def counted(machine: Machine, device_id: str = "cpu") -> int:
    """Return what the ledger counts of models, and see that its parts agree."""
    ledger = machine.manager.devices.get(device_id).ledger
    assert ledger.model_bytes == sum(size for size, _, _ in ledger.weights.values())
    assert ledger.working_bytes == sum(working for _, _, working in ledger.weights.values())
    return ledger.model_bytes


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread or process does."""
    clock = SystemClock()
    end = clock.now_ns() + 60 * 10**9
    while not condition():
        assert clock.now_ns() < end
        CancelToken(clock.now_ns).wait(0.01)
