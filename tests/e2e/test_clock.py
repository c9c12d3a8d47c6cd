"""The time of day may be set forward or back while the worker runs: nothing that lasts depends on it."""

import ast
import json
from pathlib import Path

import pytest

from tests.e2e.process import MIB, ROOT, Worker, eventually, worker
from tests.rigs.model_files import write_model

YEARS = 10 * 365 * 86_400
MAY_ASK = {
    "worker/core/clock.py",
    "worker/core/log.py",
    "worker/servers/ollama.py",
    "worker/fleet/node_worker.py",
}
"""They give it to a reader, hold a server's time of day against ours to tell whether it is past, or order the starts of a
node's worker, also across restarts of its machine: nothing waits for it."""


def models(folder: Path) -> Path:
    """Declare a model that stays for an hour."""
    write_model(folder / "m.safetensors", 4096)
    path = folder / "models.yaml"
    row = {"id": "m", "path": "m.safetensors", "device": "cpu", "keep_alive_seconds": 3600}
    path.write_text(json.dumps({"models": [row]}))
    return path


def start_time(started: Worker) -> str:
    """Return when the metrics say that the worker was started."""
    text = started.call("memory.get_metrics")["text"]
    return next(line for line in text.splitlines() if "start_time_seconds " in line and line[0] != "#")


def states(started: Worker) -> list[str]:
    """Return the models' states."""
    return [each["state"] for each in started.call("memory.get_model_status")["models"]]


def allocations(started: Worker) -> list[str]:
    """Return the ids of the CPU's allocations."""
    rows = started.call("memory.get_allocations", {"device_id": "cpu"})["allocations"]
    return [each["allocation_id"] for each in rows]


@pytest.mark.parametrize("seconds", [YEARS, -YEARS], ids=["forward", "back"])
def test_a_clock_that_is_set_changes_nothing(seconds: int, tmp_path: Path) -> None:
    """Long leases, keep-alives and deadlines go on, short ones end in time, and the start stays where it was."""
    stuck = f"{64 * MIB},stall_copy=1"
    options = ("--plugin", "tests.rigs.clock_plugin", "--models", str(models(tmp_path)))
    with worker(*options, "--simulated-device", stuck) as started:
        began = start_time(started)
        row = {"size_bytes": 4096, "device_id": "cpu"}
        long = started.call("memory.allocate", {**row, "lease_ms": 60_000})["allocation_id"]
        started.call("memory.load_model", {"model_id": "m"})
        copy = {"source_allocation_id": long, "destination_device_id": "sim:0"}
        patient = started.send("memory.transfer", copy, meta={"deadline_ms": 600_000})
        started.call("clock.set", {"seconds": seconds})

        short = started.call("memory.allocate", {**row, "lease_ms": 50})["allocation_id"]
        eventually(lambda: short not in allocations(started), "the short lease ends")
        left = started.call("memory.get_allocations", {"allocation_id": long})["allocations"][0]
        assert 0 < left["lease_expires_in_ms"] <= 60_000
        assert states(started) == ["loaded"]
        assert started.replies(patient) == []
        assert start_time(started) == began

        started.call("memory.load_model", {"model_id": "m", "keep_alive_ms": 20})
        eventually(lambda: states(started) == ["unloaded"], "the model's keep-alive ends")
        hasty = started.send("memory.transfer", {**copy, "transfer_type": "move"}, meta={"deadline_ms": 100})
        assert started.reply(hasty)["error"]["code"] == "deadline_exceeded"
        started.call("worker.cancel", {"request_id": patient})
        assert started.reply(patient)["error"]["code"] == "cancelled"


def test_nothing_waits_by_the_time_of_day() -> None:
    """Only the clock and the log ask for it; whatever lasts is counted by a clock that nobody sets."""
    asking = set()
    for path in (ROOT / "worker").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in {
                "time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today",
            }:  # fmt: skip
                asking.add(path.relative_to(ROOT).as_posix())
    assert asking == MAY_ASK
