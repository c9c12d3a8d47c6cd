"""DirectML as a host sees it: a real worker, the real library, and the driver's own books as witness."""

import signal
from typing import Any

import psutil
import pytest

from tests.e2e.directml.workers import (
    DML,
    LOSSES,
    StartWorker,
    agrees,
    allocate,
    copy,
    free,
    processes,
    random_content,
    start,
    status,
)
from tests.e2e.process import MIB, eventually
from tests.rigs.directml.falling_budget import HIGHEST_BYTES, FallingBudget
from tests.rigs.directml.rig import GIB, Factory, Rig

__all__ = ["start"]


def test_a_device_from_its_probe_to_its_loss_and_back(start: StartWorker, directml_rig: Rig) -> None:
    """Probing, then there with figures; what is said is what the driver says; killed it is told of, and back."""
    worker = start(budget_bytes=GIB)
    assert status(worker)["state"] == "probing"
    worker.call("worker.subscribe", LOSSES)
    first = allocate(worker, 64 * MIB)
    found = status(worker)
    assert (found["state"], found["name"], found["budget_bytes"]) == ("available", "Simulated GPU 0", GIB)
    assert (found["budget_source"], found["total_bytes"]) == ("dxcore", GIB)
    assert agrees(worker, directml_rig) >= 64 * MIB

    source = random_content(worker, 40 * MIB + 12_345, 1)
    there, checksum = copy(worker, source, "dml:0")
    back, same = copy(worker, there, "cpu")
    assert same == checksum
    assert agrees(worker, directml_rig) >= 104 * MIB
    assert free(worker, there) >= 40 * MIB
    worker.call("memory.clear", {**DML, "clear_type": "cache"})
    held = agrees(worker, directml_rig)
    assert 64 * MIB <= held < 65 * MIB
    assert free(worker, first) >= 64 * MIB
    assert agrees(worker, directml_rig) < MIB

    before = status(worker)
    kept = allocate(worker, 300 * MIB)
    directml_rig.witness.set_budget(0, 400 * MIB)
    after = status(worker)
    assert after["available_bytes"] <= 100 * MIB < before["available_bytes"]
    assert (before["pressure_level"], after["budget_bytes"]) == ("low", 400 * MIB)
    assert after["pressure_level"] != "low"
    refused = worker.refused("memory.allocate", {"size_bytes": 200 * MIB, **DML})
    assert refused["code"] == "out_of_memory"
    directml_rig.witness.set_budget(0, None)

    (process,) = processes(worker, directml_rig, 0)
    process.send_signal(signal.SIGKILL)
    lost = worker.event("device.lost")["data"]
    assert (lost["device_id"], lost["allocation_ids"]) == ("dml:0", [kept])
    assert "SIGKILL" in lost["reason"]
    assert worker.event("device.recovered")["data"]["device_id"] == "dml:0"
    again, checksum_again = copy(worker, back, "dml:0")
    assert checksum_again == checksum
    assert agrees(worker, directml_rig) >= 40 * MIB
    assert free(worker, again) >= 40 * MIB


def test_a_pool_that_only_a_restart_gives_back(start: StartWorker, directml_rig: Rig) -> None:
    """Tiled: what is dead is proposed for a restart, which returns it; what lives is as it was.

    Where what is free lies in pieces, an allocation that may make room gets it by a restart.
    """
    worker = start("--directml-allocator", "tiled", budget_bytes=1280 * MIB)
    source = random_content(worker, 40 * MIB, 2)
    _, checksum = copy(worker, source, "cpu")
    names = [copy(worker, source, "dml:0")[0]]
    while len(names) < 40:
        reply = worker.ask("memory.allocate", {"size_bytes": 40 * MIB, **DML})
        if not reply["success"]:
            break
        names.append(reply["data"]["allocation_id"])
    assert len(names) * 40 * MIB >= 0.9 * agrees(worker, directml_rig), "as much as is in the pool"
    freed = names[1:-1:2]
    for name in freed:
        assert free(worker, name) == 0
    kept = [name for name in names if name not in freed]
    large = {"size_bytes": 160 * MIB, **DML}
    pieces = status(worker, include_fragmentation=True)["fragmentation"]
    assert pieces["largest_free_block_bytes"] < 160 * MIB <= pieces["free_bytes"]
    assert worker.refused("memory.allocate", large)["code"] == "out_of_memory"
    made = worker.call("memory.allocate", {**large, "make_room": True})["allocation_id"]
    assert status(worker)["allocated_bytes"] == 160 * MIB + len(kept) * 40 * MIB
    assert copy(worker, kept[0], "cpu")[1] == checksum

    for name in (made, *kept[1:]):
        assert free(worker, name) == 0
    worker.call("memory.clear", {**DML, "clear_type": "cache"})
    held, live = agrees(worker, directml_rig), 40 * MIB
    (proposed,) = worker.call("memory.get_pressure", DML)["devices"][0]["recommended_actions"]
    assert (proposed["action"], proposed["data"]) == ("memory.defragment", {**DML, "aggressive": True})
    dead = proposed["expected_freed_bytes"]
    assert dead >= 0.8 * (held - live)
    done = worker.call("memory.defragment", proposed["data"])
    assert (done["allocations_moved"], done["returned_bytes"]) == (1, held - agrees(worker, directml_rig))
    assert done["returned_bytes"] >= 0.99 * dead
    after = worker.call("memory.get_pressure", DML)["devices"][0]["recommended_actions"]
    assert not any(row["expected_freed_bytes"] for row in after), "a new pool is not to be replaced at once"
    assert copy(worker, kept[0], "cpu")[1] == checksum


def test_adapters_live_apart(start: StartWorker, directml_rig: Rig) -> None:
    """The second is found by the first's probe; each has a process whose end or restart is its own."""
    worker = start("--directml-allocator", "tiled", adapters=2, budget_bytes=[GIB, 2 * GIB])
    worker.call("worker.subscribe", LOSSES)
    one = allocate(worker, 50 * MIB)
    source = random_content(worker, 20 * MIB, 3)
    other, checksum = copy(worker, source, "dml:1")
    assert status(worker, "dml:1")["budget_bytes"] == 2 * GIB
    assert agrees(worker, directml_rig) >= 50 * MIB
    assert agrees(worker, directml_rig, "dml:1") >= 20 * MIB
    (first,), (second,) = (processes(worker, directml_rig, adapter) for adapter in (0, 1))
    assert first != second

    done = worker.call("memory.defragment", {"device_id": "dml:1", "aggressive": True})
    assert done["allocations_moved"] == 1
    assert first.is_running() and not second.is_running()
    first.send_signal(signal.SIGKILL)
    assert worker.event("device.lost")["data"]["allocation_ids"] == [one]
    assert status(worker, "dml:1")["state"] == "available"
    assert copy(worker, other, "cpu")[1] == checksum
    assert worker.event("device.recovered")["data"]["device_id"] == "dml:0"
    assert copy(worker, other, "dml:0")[1] == checksum, "from one adapter to the other, through host memory"


@pytest.mark.parametrize(
    ("machine", "cause"),
    [
        ({"adapters": 0}, "no adapter that Direct3D 12 can compute on"),
        ({"factory": Factory.FAILS}, "-2147467259"),
        ({"factory": Factory.CRASHES}, "did not survive"),
    ],
)
def test_what_can_not_be_used_says_why(start: StartWorker, machine: dict[str, Any], cause: str) -> None:
    """No adapter, a factory that fails, a probe that ends its process: a cause, and an unharmed worker."""
    worker = start(**machine)
    assert allocate(worker, MIB, "cpu")
    error = worker.refused("memory.allocate", {"size_bytes": MIB, **DML})
    assert error["code"] == "device_unavailable"
    found = status(worker)
    assert found["state"] == "unavailable"
    assert cause in found["state_reason"]
    assert worker.call("memory.allocate", {"size_bytes": 1})["device_id"] == "cpu"


@pytest.mark.parametrize("allocator", ["untiled", "tiled"])
def test_no_restart_into_a_smaller_budget(start: StartWorker, directml_rig: Rig, allocator: str) -> None:
    """The budget fell below what lives: a restart is refused, or not needed; nobody's blocks go for another's room."""
    worker = start("--directml-allocator", allocator, budget_bytes=1280 * MIB)
    worker.call("worker.subscribe", LOSSES)
    source = random_content(worker, 50 * MIB, 4)
    _, checksum = copy(worker, source, "cpu")
    names = [copy(worker, source, "dml:0")[0] for _ in range(12)]
    worker.call("memory.clear", {**DML, "clear_type": "cache"})
    held, (process,) = agrees(worker, directml_rig), processes(worker, directml_rig, 0)
    directml_rig.witness.set_budget(0, 400 * MIB)
    reply = worker.ask("memory.defragment", {**DML, "aggressive": True})
    if allocator == "tiled":
        assert reply["error"]["code"] == "out_of_memory", reply
        assert reply["error"]["executed"] == "no"
        assert "nothing was restarted" in reply["error"]["message"]
    else:
        assert reply["data"]["displaced"] == [], reply
    more = {"size_bytes": 600 * MIB, "make_room": True, "owner": "another", **DML}
    assert worker.refused("memory.allocate", more)["code"] == "out_of_memory"
    assert process.is_running()
    assert agrees(worker, directml_rig) <= held
    for name in names:
        assert copy(worker, name, "cpu")[1] == checksum
    assert worker.events("device.lost") == []


@pytest.mark.parametrize("allocator", ["untiled", "tiled"])
def test_nothing_is_lost_under_a_budget_that_moves(
    start: StartWorker, directml_rig: Rig, allocator: str
) -> None:
    """Whenever the budget falls or rises, restarts included, every block is what it was (benchmarks/falling_budget.py)."""
    worker = start("--directml-allocator", allocator, budget_bytes=HIGHEST_BYTES)
    with FallingBudget(worker, directml_rig, 7) as use:
        for _ in range(60):
            use.step()
        use.check_all()
    assert use.lost == []
    assert use.done["compared"] > 5


def test_a_device_that_is_full_as_the_worker_starts_is_there_once_it_is_not(
    start: StartWorker, directml_rig: Rig
) -> None:
    """The library itself finds no memory there; that is told, and tried again."""
    worker = start("--directml-allocator", "tiled", budget_bytes=4 * MIB)
    refused = worker.ask("memory.allocate", {"size_bytes": 1, "device_id": "dml:0"})
    assert refused["error"]["code"] == "device_unavailable"
    assert refused["error"]["message"].endswith("std::bad_alloc; it is tried again")
    directml_rig.witness.set_budget(0, 1280 * MIB)
    eventually(lambda: status(worker)["state"] == "available", "the device is found", 60)
    allocate(worker, MIB)


def test_a_pool_beyond_its_budget_is_pressure(start: StartWorker, directml_rig: Rig) -> None:
    """What is free within a pool does not hide that the system wants most of it back."""
    worker = start("--directml-allocator", "tiled", budget_bytes=1280 * MIB)
    kept = [allocate(worker, 50 * MIB) for _ in range(12)]
    for name in kept[2:]:
        free(worker, name)
    assert status(worker)["pressure_level"] in {"low", "moderate"}
    directml_rig.witness.set_budget(0, 400 * MIB)
    found = status(worker)
    assert found["process_used_bytes"] > found["budget_bytes"] == 400 * MIB
    assert found["pressure_level"] == "critical"
    signals = worker.call("memory.get_pressure", DML)["devices"][0]["signals"]
    assert {"process_budget_used_percentage", "dxcore"} <= {signals[0]["name"], signals[0]["source"]}, signals


@pytest.mark.parametrize("allocator", ["untiled", "tiled"])
def test_a_device_that_is_removed_while_nobody_asks(
    start: StartWorker, directml_rig: Rig, allocator: str
) -> None:
    """It is found out, and told of with what was on it."""
    worker = start("--directml-allocator", allocator)
    worker.call("worker.subscribe", LOSSES)
    name = allocate(worker, 50 * MIB)
    directml_rig.witness.set_device_removed(0)
    lost = worker.event("device.lost")["data"]
    assert lost["allocation_ids"] == [name]
    directml_rig.witness.set_device_removed(0, removed=False)
    assert worker.event("device.recovered")["data"]["device_id"] == "dml:0"


def test_a_driver_that_hangs_keeps_nobody_waiting(start: StartWorker, directml_rig: Rig) -> None:
    """Figures are the last ones, at once; what has a deadline ends by it; and the device goes on where it was."""
    worker = start()
    name = allocate(worker, 10 * MIB)
    before = status(worker)
    directml_rig.witness.set_device_hung(0)
    hung = worker.send("memory.allocate", {"size_bytes": MIB, **DML}, meta={"deadline_ms": 500})
    assert worker.reply(hung)["error"]["code"] == "deadline_exceeded"
    assert status(worker)["process_used_bytes"] == before["process_used_bytes"]
    assert worker.call("memory.get_allocations", DML)["allocations"][0]["allocation_id"] == name
    directml_rig.witness.set_device_hung(0, hung=False)
    eventually(lambda: status(worker)["allocated_bytes"] == 10 * MIB, "it goes on")
    assert free(worker, name) == 0


def test_what_can_not_be_used_is_listed_and_has_no_process(start: StartWorker) -> None:
    """An NPU that runs whole models alone: the first adapter's process says so, and none is started only to say it again."""
    worker = start(adapters=2, npus=1)
    for device_id in ("dml:0", "dml:1"):
        free(worker, allocate(worker, MIB, device_id))
    devices = {each["device_id"]: each for each in worker.call("memory.get_status", {})["devices"]}
    assert (devices["dml:2"]["name"], devices["dml:2"]["state"]) == ("Simulated NPU 2", "unavailable")
    assert "OpenVINO" in devices["dml:2"]["state_reason"]
    assert len(psutil.Process(worker.pid).children()) == 2
    worker.call("memory.defragment", {"device_id": "dml:0", "aggressive": True})
    assert (
        worker.refused("memory.allocate", {"size_bytes": MIB, "device_id": "dml:2"})["code"]
        == "device_unavailable"
    )
