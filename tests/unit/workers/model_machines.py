"""Machines with models of 4 MiB on a device that has headroom for two."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.vocabulary import ModelState
from tests.rigs.model_files import spec, write_model
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice

Make = Callable[..., Machine]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return what puts a machine together with models a, b, c of 4 MiB each on a device of 10."""

    def put_together(
        room: int = 10 * MIB, sizes: tuple[int, ...] = (4 * MIB,) * 3, more: dict[str, dict[str, Any]] | None = None,
        **knobs: Any,
    ) -> Machine:  # fmt: skip
        models = []
        for index, size in enumerate(sizes):
            path = tmp_path / f"{'abcdefghij'[index]}.safetensors"
            write_model(path, size - size // 4, size // 4, seed=index)
            models.append(spec(path, **{"device_id": "sim:0", **((more or {}).get(path.stem, {}))}))
        shared = tmp_path / "shared"
        shared.mkdir(exist_ok=True)
        return Machine(shared, SimulatedDevice(room, **knobs), models=tuple(models))

    return put_together


def state(machine: Machine, model_id: str) -> ModelState:
    return machine.manager.models.get(model_id).state
