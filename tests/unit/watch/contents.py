"""What a device holds for a test: allocations of known content, and a model."""

import random
from pathlib import Path

from tests.rigs.model_files import spec, write_model
from tests.unit.isolation import MIB, never
from tests.unit.machine import Machine
from worker.core.models import ModelSpec


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
