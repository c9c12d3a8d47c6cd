"""Pressure for real: true allocations in a true process, up through all levels and down again."""

import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from tests.e2e.process import MIB, Worker, eventually, line, worker
from tests.rigs.control_group import enter, group, worker_in
from tests.rigs.model_files import write_model

__all__ = ["group"]

EVENTS = [
    "memory.pressure_changed",
    "memory.exhaustion_forecast",
    "memory.budget_changed",
    "memory.leak_suspected",
    "memory.optimized",
    "memory.model_unloaded",
]
LIMIT = 256 * MIB
MODEL = 32 * MIB


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Path]:
    """Return a file that declares two models of 32 MiB each."""
    for seed, name in enumerate(("one", "two")):
        write_model(tmp_path / f"{name}.safetensors", MODEL, seed=seed)
    rows = "".join(
        f"  - id: {name}\n    loader: safetensors\n    path: {name}.safetensors\n    device: cpu\n"
        for name in ("one", "two")
    )
    path = tmp_path / "models.yaml"
    path.write_text(f"models:\n{rows}")
    return path


def pressure(up: Worker) -> dict[str, Any]:
    """Ask for the CPU's pressure."""
    devices: list[dict[str, Any]] = up.call("memory.get_pressure", {"device_id": "cpu"})["devices"]
    return devices[0]


def levels(up: Worker) -> list[str]:
    """Return the levels told so far."""
    return [event["data"]["to"] for event in up.events("memory.pressure_changed")]


def allocate(up: Worker, size: int) -> str:
    """Take memory for real: every page is written."""
    name: str = up.call("memory.allocate", {"size_bytes": size, "device_id": "cpu"})["allocation_id"]
    return name


def test_through_all_levels(models: Path) -> None:
    """Level, event, recommendation, relief: in that order, with true memory, and what was promised comes back."""
    with worker("--limit-bytes", str(LIMIT), "--models", str(models), "--pool-bytes", "0") as up:
        up.call("worker.subscribe", {"events": EVENTS})
        for name in ("one", "two"):
            up.call("memory.load_model", {"model_id": name, "device_id": "cpu"})
        told = []
        for size in (100, 36, 36, 14):
            allocate(up, size * MIB)
            found = pressure(up)
            told.append(found["pressure_level"])
            worst = found["signals"][0]
            assert (worst["level"], worst["name"]) == (found["pressure_level"], "budget_used_percentage")
        assert told == ["low", "moderate", "high", "critical"]
        eventually(lambda: levels(up)[-1:] == ["critical"], "the event of the last level")
        assert levels(up) == sorted(levels(up), key=["low", "moderate", "high", "critical"].index)

        (advice,) = pressure(up)["recommended_actions"]
        before = up.rss()
        given = up.call(advice["action"], advice["data"])
        assert advice["expected_freed_bytes"] == given["memory_freed_bytes"] == 2 * MODEL
        assert given["memory_returned_bytes"] == pytest.approx(2 * MODEL, rel=0.02)
        assert before - up.rss() == pytest.approx(2 * MODEL, rel=0.1)

        eventually(lambda: levels(up)[-1:] == ["low"], "the event of the relief")
        after = pressure(up)
        assert (after["pressure_level"], after["recommended_actions"]) == ("low", [])
        sequences = [frame["sequence"] for frame in up.frames if "event" in frame]
        assert sequences == list(range(1, len(sequences) + 1))


def test_to_the_byte() -> None:
    """A cap and a reserve are obeyed to the byte."""
    with worker("--limit-bytes", str(LIMIT)) as up:
        name = allocate(up, LIMIT)
        assert (
            up.refused("memory.allocate", {"size_bytes": 1, "device_id": "cpu"})["code"] == "limit_exceeded"
        )
        up.call("memory.deallocate", {"allocation_id": name})
        refused = up.refused("memory.allocate", {"size_bytes": LIMIT + 1, "device_id": "cpu"})
        assert refused["code"] == "limit_exceeded"
    with worker("--simulated-device", str(LIMIT)) as up:
        up.call("memory.set_limits", {"device_id": "sim:0", "reserve_bytes": 1000 * 256})
        most = LIMIT - 1000 * 256
        assert up.refused("memory.allocate", {"size_bytes": most + 1})["code"] == "limit_exceeded"
        assert up.call("memory.allocate", {"size_bytes": most})["available_bytes"] == 0


def test_every_recommendation_keeps_its_promise(models: Path) -> None:
    """Each recommended action is sent as it stands and frees what it promised; optimize proposes the same."""
    with worker("--limit-bytes", "1GiB", "--models", str(models), "--simulated-device", "64MiB") as up:
        for _ in range(4):  # a size that comes and goes is kept for reuse
            up.call("memory.deallocate", {"allocation_id": allocate(up, 24 * MIB)})
        for name in ("one", "two"):
            up.call("memory.load_model", {"model_id": name, "device_id": "cpu"})
        pieces = [up.call("memory.allocate", {"size_bytes": MIB, "device_id": "sim:0"}) for _ in range(8)]
        for piece in pieces[::2]:
            up.call("memory.deallocate", {"allocation_id": piece["allocation_id"]})
        rows = up.call("memory.get_optimization_recommendations")["recommendations"]
        tried = up.call("memory.optimize", {"optimization_level": "aggressive", "dry_run": True})
        assert [(step["step"], step["data"]) for step in tried["steps"]] == [
            (row["action"], row["data"]) for row in rows
        ]
        assert {row["action"] for row in rows} >= {"memory.clear", "memory.model_optimize"}
        costs = [row["cost_ms"] / row["expected_freed_bytes"] for row in rows if row["expected_freed_bytes"]]
        assert costs == sorted(costs)
        for row in rows:
            before = up.rss()
            given = up.call(row["action"], row["data"])
            returned = given.get("memory_returned_bytes", given.get("returned_bytes"))
            promised = row["expected_freed_bytes"]
            assert returned == pytest.approx(promised, rel=0.02)
            if promised:
                assert before - up.rss() == pytest.approx(promised, rel=0.1)
            assert row not in up.call("memory.get_optimization_recommendations")["recommendations"]


def test_idle_models_are_recommended_by_name(models: Path) -> None:
    """What nobody used for a while is named, and unloading it frees what was promised."""
    # A slow simulated device moves the fixed clock by 70 s at a time.
    options = ("--simulated-device", "64MiB,latency_ms=35000", "--models", str(models), "--deterministic")
    with worker(*options) as up:
        up.call("memory.load_model", {"model_id": "one", "device_id": "cpu"})
        source = up.call("memory.allocate", {"size_bytes": 256, "device_id": "sim:0"})["allocation_id"]
        up.call("memory.transfer", {"source_allocation_id": source, "destination_device_id": "cpu"})
        up.call("memory.transfer", {"source_allocation_id": source, "destination_device_id": "cpu"})
        (advice,) = pressure(up)["recommended_actions"]
        assert (advice["action"], advice["data"]) == ("memory.unload_model", {"model_id": "one"})
        given = up.call(advice["action"], advice["data"])
        assert given["freed_bytes"] == advice["expected_freed_bytes"] == MODEL
        assert given["returned_bytes"] == pytest.approx(MODEL, rel=0.02)


def test_automatic_mode(models: Path) -> None:
    """Under lasting pressure idle models go by themselves, once they were let be for a while, with a reason."""
    options = ("--limit-bytes", str(LIMIT), "--models", str(models), "--auto-optimize", "critical")
    # The model is let be for 10 s after its use.
    with worker(*options, "--pool-bytes", "0", patience=60.0) as up:
        up.call("worker.subscribe", {"events": EVENTS})
        up.call("memory.load_model", {"model_id": "one", "device_id": "cpu"})
        allocate(up, 215 * MIB)
        told = up.event("memory.optimized")["data"]
        assert (told["device_id"], told["pressure_level"], told["helped"]) == ("cpu", "critical", True)
        (step,) = told["steps"]
        assert (step["step"], step["data"]) == ("memory.unload_model", {"model_id": "one"})
        assert step["returned_bytes"] == pytest.approx(MODEL, rel=0.02)
        assert "automatic" in up.event("memory.model_unloaded")["data"]["reason"]


_UNREAD_SECONDS = 2.0
"""The longest that the slow reader lets answers lie."""


def test_a_reader_that_is_slow() -> None:
    """Events while nobody reads pile up nowhere: later ones stand for earlier ones, and the numbers have no gap."""
    asked = b"".join(
        line("memory.allocate", {"size_bytes": 62 * MIB, "device_id": "sim:0"}, request_id=f"a{number}")
        + line("memory.deallocate", {"allocation_id": f"alloc-{number + 1}"}, request_id=f"d{number}")
        for number in range(400)
    )
    with Worker("--simulated-device", "64MiB", reading=False) as up:
        up.send("worker.subscribe", {"events": EVENTS}, request_id="s")
        # A worker whose answers fill the pipe reads no more: whoever writes all before it reads may wait for ever.
        sending = Thread(target=up.send_bytes, args=(asked,), daemon=True)
        sending.start()
        sending.join(_UNREAD_SECONDS)
        up.start_reading()
        up.reply("d399")
        told = up.events("memory.pressure_changed")
        assert 1 <= len(told) <= 200
        sequences = [frame["sequence"] for frame in up.frames if "event" in frame]
        assert sequences == list(range(1, len(sequences) + 1))
        chain = [told[0]["data"]["from"], *(event["data"]["to"] for event in told)]
        assert [event["data"]["from"] for event in told] == chain[:-1]


def test_python_objects_are_traced() -> None:
    """With tracing the worker works as it does without."""
    with worker("--trace-python", "1") as up:
        allocate(up, MIB)
        assert up.call("memory.get_analytics", {"include": ["leaks"]})["suspected_leaks"] == []
    code = Worker("--trace-python", "0")
    with code:
        assert code.exit_code() == 2
        assert "--trace-python" in code.stderr()


def test_in_a_control_group(group: Path) -> None:
    """In a real control group its limit is named as the sign, and another process in it is seen unasked."""
    with Worker(command=worker_in(group)) as up:
        up.call("worker.subscribe", {"events": EVENTS})
        free = pressure(up)["available_memory_bytes"]
        take = enter(group) + f"b = bytearray({free - 24 * MIB}); b[::4096] = b'x' * len(b[::4096]);"
        other = psutil.Popen([sys.executable, "-c", take + "sys.stdin.read()"], stdin=-1)
        try:
            told = eventually(lambda: up.events("memory.pressure_changed"), "what the other process took")
            assert told[-1]["data"]["to"] in {"moderate", "high", "critical"}
            names = {each["name"]: each for each in pressure(up)["signals"]}
            assert names["cgroup_used_percentage"]["source"] == "cgroup"
            assert names["cgroup_used_percentage"]["value"] > 75
        finally:
            other.kill()
            other.wait()
            other.stdin.close()
        eventually(lambda: levels(up)[-1] == "low", "the other process is gone")
        up.close_input()
        assert up.exit_code() == 0


def test_models_make_way_for_what_is_demoted(models: Path) -> None:
    """While the device has headroom by its own figures, and no place for all that is on it: what goes lets the rest return."""
    with worker("--simulated-device", "128MiB,local_bytes=48MiB", "--models", str(models)) as up:
        for name in ("one", "two"):
            up.call("memory.load_model", {"model_id": name, "device_id": "sim:0", "pin": name == "two"})
        planned = up.call("memory.model_optimize", {"device_id": "sim:0", "dry_run": True})
        done = up.call("memory.model_optimize", {"device_id": "sim:0"})
        for said in (planned, done):
            assert [row["model_id"] for row in said["models_unloaded"]] == ["one"], said
        assert done["goal_met"]
        (device,) = up.call("memory.get_status", {"device_id": "sim:0"})["devices"]
        assert (device["process_demoted_bytes"], device["model_bytes"]) == (0, MODEL)
