"""A worker whose devices are DirectML's on a simulated machine, and what is asked of it."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.process import MIB, Worker
from tests.rigs.directml.rig import Rig

FOLLOWING = "tests.rigs.following_plugin"
DML = {"device_id": "dml:0"}
PATIENCE_S = 90.0
"""Two processes that import torch at once, on a busy machine, take this long at most."""
LOSSES = {"events": ["device.lost", "device.recovered", "memory.pressure_changed"]}

StartWorker = Callable[..., Worker]


@pytest.fixture
def start(directml_python: Path, directml_rig: Rig) -> Iterator[StartWorker]:
    """Return what starts a worker on a simulated machine."""
    with ExitStack() as stack:

        def begin(*options: str, **machine: Any) -> Worker:
            environment = directml_rig.environment(**machine)
            command = ("--directml-python", str(directml_python), "--pool-bytes", "0", *options)
            return stack.enter_context(Worker(*command, environment=environment, patience=PATIENCE_S))

        yield begin


def status(worker: Worker, device_id: str = "dml:0", **more: Any) -> dict[str, Any]:
    """Return a device's figures, read now."""
    (device,) = worker.call("memory.get_status", {"device_id": device_id, "refresh": True, **more})["devices"]
    found: dict[str, Any] = device
    return found


def allocate(worker: Worker, size: int, device_id: str = "dml:0", **more: Any) -> str:
    """Allocate, which waits for the end of a probe. Returns the id."""
    made = worker.call("memory.allocate", {"size_bytes": size, "device_id": device_id, **more})
    return str(made["allocation_id"])


def free(worker: Worker, allocation_id: str) -> int:
    """Free; returns what went back."""
    return int(worker.call("memory.deallocate", {"allocation_id": allocation_id})["returned_bytes"])


def copy(worker: Worker, source: str, device_id: str) -> tuple[str, str]:
    """Copy to a device, compared there. Returns the id of the copy, and the checksum."""
    data = {"source_allocation_id": source, "destination_device_id": device_id, "verify": True}
    done = worker.call("memory.transfer", {**data, "transfer_type": "copy"})
    return str(done["destination_allocation_id"]), str(done["checksum"])


def random_content(worker: Worker, size: int, seed: int) -> str:
    """Return a shared allocation on the CPU with contents that no two seeds share."""
    made = worker.call("memory.allocate", {"size_bytes": size, "device_id": "cpu", "memory_type": "shared"})
    with Path(made["shared_memory"]["path"]).open("r+b") as file:
        block = hashlib.shake_256(str(seed).encode()).digest(MIB)
        for start in range(0, size, MIB):
            file.write(block[: min(MIB, size - start)])
    return str(made["allocation_id"])


def agrees(worker: Worker, rig: Rig, device_id: str = "dml:0") -> int:
    """Hold what the worker says its processes have against what the driver says. Returns that."""
    adapter = int(device_id[-1])
    said, held = status(worker, device_id)["process_used_bytes"], rig.witness.device_bytes(adapter)
    assert abs(said - held) <= MIB
    return held


def processes(worker: Worker, rig: Rig, adapter: int) -> list[psutil.Process]:
    """Return the worker's children that hold memory on an adapter."""
    holding = {pid for pid, each in rig.witness.living(adapter).items() if each.device_bytes > MIB}
    return [each for each in psutil.Process(worker.pid).children() if each.pid in holding]
