"""Many threads and many wishes: nobody waits for ever, nothing is loaded twice, and the accounts agree."""

import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.model_files import contents, spec, write_model
from tests.unit.machine import MIB, Machine
from worker.backends.simulated import SimulatedDevice
from worker.core.clock import FixedClock
from worker.core.errors import OutOfMemoryError
from worker.core.records import AllocationRequest, DecisionKind
from worker.plugins._leases import Models

HOUR_S = 3600


def machine_with(folder: Path, count: int, size: int, room: int, **more: Any) -> Machine:
    models = []
    for index in range(count):
        path = folder / f"m{index}.safetensors"
        write_model(path, size, seed=index)
        models.append(spec(path, device_id="sim:0", **more))
    shared = folder / "shared"
    shared.mkdir()
    return Machine(shared, SimulatedDevice(room, latency_ms=200.0), models=tuple(models), clock=FixedClock())


@pytest.mark.parametrize("seed", range(3))
def test_twenty_threads_ask_for_ten_models_in_room_for_three(tmp_path: Path, seed: int) -> None:
    """An hour of simulated time: every lease has the right bytes, and what is leased is never taken away."""
    size = MIB // 4
    machine = machine_with(tmp_path, 10, size, 3 * size, offload=seed == 1)
    models = Models(machine.models, machine.clock)
    errors: list[BaseException] = []
    served: Counter[str] = Counter()

    def work(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        try:
            while machine.clock.now_ns() < HOUR_S * 10**9:
                model_id = f"m{chance.randrange(10)}"
                try:
                    with models.use(model_id, wait_s=60.0) as weights:
                        expected = contents(size, int(model_id[1:]) * 1000)
                        assert bytes(weights["layer.0"]) == expected
                        served[model_id] += 1
                except OutOfMemoryError:
                    pass  # sixty seconds of this clock go by quickly
                machine.clock.wait(chance.random() * 10, machine.token())
        except BaseException as error:  # noqa: BLE001 - shown where all have ended
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "deadlock"
    assert errors == []
    assert len(served) == 10
    machine.check()
    resident: set[str] = set()
    for decision in machine.decisions:
        if decision.kind is DecisionKind.LOAD:
            assert decision.model_id not in resident, "loaded twice"
            resident.add(decision.model_id)
        elif decision.kind is DecisionKind.EVICT:
            resident.remove(decision.model_id)
        else:
            assert decision.model_id in resident
        assert len(resident) <= 3
        assert decision.capacity_bytes == 3 * size, "what was being loaded counted as taken"
    assert all(entry.in_use == 0 for entry in machine.manager.models)
    machine.close()


def test_concurrent_requests_share_one_load(tmp_path: Path) -> None:
    """Eight threads want one model: it is loaded once."""
    machine = machine_with(tmp_path, 1, MIB, 2 * MIB)
    models, gate = Models(machine.models, machine.clock), threading.Barrier(8)

    def work() -> None:
        gate.wait()
        with models.use("m0"):
            gate.wait()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    entry = machine.manager.models.get("m0")
    assert (entry.load_count, entry.use_count, entry.in_use) == (1, 8, 0)
    machine.close()


def test_room_is_nobody_elses_between_plan_and_commit(tmp_path: Path) -> None:
    """Loads and allocations that make room at once: each has what it was given, and none is promised twice."""
    size = MIB // 4
    machine = machine_with(tmp_path, 6, size, 3 * size)
    errors: list[BaseException] = []

    def load(number: int) -> None:
        for _ in range(20):
            try:
                machine.load(f"m{number}")
            except OutOfMemoryError:
                pass
            except BaseException as error:  # noqa: BLE001 - shown where all have ended
                errors.append(error)

    def allocate() -> None:
        for _ in range(20):
            try:
                request = AllocationRequest("sim:0", size)
                made = machine.memory.allocations.allocate(
                    machine.memory.allocations.new_id(), request, machine.token(), make_room=True
                )
                machine.memory.allocations.deallocate(made.allocation_id, force=True)
            except OutOfMemoryError:
                pass
            except BaseException as error:  # noqa: BLE001 - shown where all have ended
                errors.append(error)

    threads = [threading.Thread(target=load, args=(number,), daemon=True) for number in range(6)]
    threads += [threading.Thread(target=allocate, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert errors == []
    machine.check()
    machine.close()
