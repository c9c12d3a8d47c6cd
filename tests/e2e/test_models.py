"""Models as a host sees them: loaded once, gone when told so, and their memory back at the system."""

import json
import mmap
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.process import MIB, ROOT, Worker, eventually, line, worker
from tests.rigs.model_files import write_model

SIZE = 96 * MIB
MAPPED = range(SIZE, SIZE + 2 * mmap.PAGESIZE)
"""What a mapped file of that size takes: it begins and ends within a page."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a folder with four models of 96 MiB for the CPU, one of which is kept for 200 ms."""
    rows = []
    for index, name in enumerate("abcd"):
        write_model(tmp_path / f"{name}.safetensors", SIZE // 2, SIZE // 2, seed=index)
        rows.append(f"  - {{id: {name}, path: {name}.safetensors, loader: safetensors, device: cpu}}\n")
    rows[3] = rows[3].replace("}", ", keep_alive_seconds: 0.2}")
    (tmp_path / "models.yaml").write_text("models:\n" + "".join(rows))
    return tmp_path


def options(models: Path) -> tuple[str, ...]:
    return "--models", str(models / "models.yaml"), "--pool-bytes", "0"


def descriptors(started: Worker) -> int:
    return len(list(Path(f"/proc/{started.pid}/fd").iterdir()))


@pytest.mark.parametrize("placement", ["auto", "copy"])
def test_memory_is_back_after_every_unload(models: Path, placement: str) -> None:
    """Fifty times: the system has it back, to one percent; what grows is the bounded record of answers."""
    declared = models / "models.yaml"
    declared.write_text(declared.read_text().replace("device: cpu", f"device: cpu, placement: {placement}"))
    with worker(*options(models)) as started:
        for _ in range(10):
            started.call("memory.load_model", {"model_id": "a"})
            started.call("memory.unload_model", {"model_id": "a"})
        base, files = started.rss(), descriptors(started)
        for _ in range(50):
            loaded = started.call("memory.load_model", {"model_id": "a"})
            assert loaded["measured_bytes"] in (MAPPED if placement == "auto" else (SIZE,))
            assert started.rss() - base > 0.95 * SIZE
            gone = started.call("memory.unload_model", {"model_id": "a"})
            assert (gone["freed_bytes"], gone["returned_bytes"]) == (SIZE, loaded["measured_bytes"])
        assert abs(started.rss() - base) <= SIZE // 100
        assert descriptors(started) == files


def test_requests_for_one_model_share_one_load(models: Path) -> None:
    """Twenty lines at once: each is answered, and the file was read once."""
    with worker(*options(models)) as started:
        asked = [
            line("memory.load_model", {"model_id": "a"}, request_id=f"load {number}") for number in range(20)
        ]
        started.send_bytes(b"".join(asked))
        replies = [started.reply(f"load {number}") for number in range(20)]
        assert all(reply["success"] for reply in replies)
        status = started.call("memory.get_model_status", {"model_id": "a"})["models"][0]
        assert (status["load_count"], status["use_count"], status["in_use"]) == (1, 20, 0)


def test_two_models_asked_for_at_once_in_room_for_one(models: Path) -> None:
    """Whoever comes second waits until the first is answered; then that one is idle, and goes."""
    with worker(*options(models), "--limit-bytes", str(SIZE + MIB)) as started:
        for number in range(20):
            pair = [
                line("memory.load_model", {"model_id": each}, request_id=f"{each}{number}") for each in "ab"
            ]
            started.send_bytes(b"".join(pair))
            assert [started.reply(f"{each}{number}")["success"] for each in "ab"] == [True, True]


def test_an_idle_model_goes_by_itself(models: Path) -> None:
    """Its keep-alive over, it is unloaded, and whoever subscribed is told."""
    with worker(*options(models)) as started:
        started.call("worker.subscribe", {"events": ["memory.model_unloaded"]})
        started.call("memory.load_model", {"model_id": "d"})
        assert started.event("memory.model_unloaded")["data"]["model_id"] == "d"
        status = started.call("memory.get_model_status", {"model_id": "d"})["models"][0]
        assert status["state"] == "unloaded"
        assert started.call("memory.get_status", {"device_id": "cpu"})["devices"][0]["model_bytes"] == 0


def test_a_limit_is_kept_by_eviction(models: Path) -> None:
    """In room for two the third takes the place of one, and the sum never passes the limit."""
    with worker(*options(models), "--limit-bytes", str(2 * SIZE + MIB)) as started:
        for name in "abcabc":
            started.call("memory.load_model", {"model_id": name})
            assert (
                started.call("memory.get_status", {"device_id": "cpu"})["devices"][0]["model_bytes"]
                <= 2 * SIZE
            )
        evictions = started.call("memory.get_analytics", {"include": ["evictions"]})["evictions"]
        assert evictions
        assert all(row["returned_bytes"] in MAPPED for row in evictions)


def test_recorded_decisions_are_replayed(models: Path) -> None:
    """What --record writes is what ``simulate`` takes."""
    record = models / "decisions.jsonl"
    with worker(*options(models), "--limit-bytes", str(2 * SIZE + MIB), "--record", str(record)) as started:
        for name in "abcab":
            started.call("memory.load_model", {"model_id": name})
        started.close_input()
        assert started.exit_code() == 0
    done = subprocess.run(
        [sys.executable, "-m", "memory_worker", "simulate", str(record), "--json"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    result = json.loads(done.stdout)
    assert result["policies"]["lru"]["loads"] == 5
    assert result["optimum"]["proven"]


def idle(started: Worker, model_id: str) -> bool:
    return bool(
        started.call("memory.get_model_status", {"model_id": model_id})["models"][0]["state"] == "unloaded"
    )


def test_the_record_of_two_devices_is_replayed_as_it_happened(tmp_path: Path) -> None:
    """Each device's replay under the policy that was at work has the loads that there were.

    Meanwhile keep-alives end, a model is unloaded as asked or pinned, and an allocation and a limit change what fits.
    """
    rows = []
    for index, name in enumerate("abcdefgh"):
        write_model(tmp_path / f"{name}.safetensors", MIB, MIB, seed=index)
        rows.append(
            f"  - {{id: {name}, path: {name}.safetensors, loader: safetensors, device: 'sim:{index // 4}', "
            f"keep_alive_seconds: {0.1 if name in 'dh' else -1}}}\n"
        )
    (tmp_path / "models.yaml").write_text("models:\n" + "".join(rows))
    record, chance = tmp_path / "decisions.jsonl", random.Random(7)
    with worker(
        "--models", str(tmp_path / "models.yaml"), "--record", str(record),
        "--simulated-device", "6MiB", "--simulated-device", "7MiB",
    ) as started:  # fmt: skip
        held: str | None = None
        for step in range(150):
            name = chance.choice("abcdefgh")
            started.call("memory.load_model", {"model_id": name})
            if name in "dh" and step % 2:
                eventually(partial(idle, started, name), f"{name} is idle past its keep-alive")
            if step % 25 == 10:
                started.call("memory.unload_model", {"model_id": chance.choice("abcfg")})
            if step % 40 == 20:
                started.call("memory.load_model", {"model_id": "e", "pin": step < 80})
            if step == 60:
                made = started.call(
                    "memory.allocate", {"size_bytes": 2 * MIB, "device_id": "sim:0", "make_room": True}
                )
                held = made["allocation_id"]
            if step == 100:
                started.call("memory.deallocate", {"allocation_id": held})
                started.call("memory.set_limits", {"device_id": "sim:1", "limit_bytes": 5 * MIB})
        models = started.call("memory.get_model_status")["models"]
        loads = [sum(row["load_count"] for row in models[:4]), sum(row["load_count"] for row in models[4:])]
        started.close_input()
        assert started.exit_code() == 0
    done = subprocess.run(
        [sys.executable, "-m", "memory_worker", "simulate", str(record), "--json", "--policy", "adaptive"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    (line_of_result,) = done.stdout.splitlines()
    result = json.loads(line_of_result)
    devices = [result["devices"][each] for each in ("sim:0", "sim:1")]
    assert [each["as_recorded"]["loads"] for each in devices] == loads
    assert [each["policies"]["adaptive"]["loads"] for each in devices] == loads
    assert result["as_recorded"]["loads"] == result["policies"]["adaptive"]["loads"] == sum(loads)
    capacities = {
        (row["device_id"], row["capacity_bytes"])
        for row in map(json.loads, record.read_text().splitlines())
        if row.get("capacity_bytes") is not None
    }
    assert capacities == {
        ("sim:0", 6 * MIB), ("sim:0", 4 * MIB), ("sim:1", 7 * MIB), ("sim:1", 5 * MIB),
    }  # fmt: skip


def test_the_log_tells_whose_every_step_is(tmp_path: Path) -> None:
    """At debug each request, load, eviction and refusal is a line with the request's id and traceparent."""
    rows = []
    for name in "ab":
        write_model(tmp_path / f"{name}.safetensors", 3 * MIB)
        rows.append({"id": name, "path": f"{name}.safetensors", "loader": "safetensors", "device": "sim:0"})
    (tmp_path / "models.yaml").write_text(json.dumps({"models": rows}))
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b{}-01"
    simulated = ("--simulated-device", str(4 * MIB), "--log-level", "debug")
    with worker(*options(tmp_path), *simulated) as started:
        steps = [
            ("memory.load_model", {"model_id": "a"}),
            ("memory.load_model", {"model_id": "b", "make_room": True}),
            ("memory.allocate", {"size_bytes": 2 * MIB, "device_id": "sim:0"}),
            ("memory.unload_model", {"model_id": "b"}),
            ("memory.allocate", {"size_bytes": 0}),
        ]
        for number, (action, data) in enumerate(steps):
            started.send(action, data, request_id=f"q{number}", meta={"traceparent": parent.format(number)})
            started.reply(f"q{number}")
        started.close_input()
        assert started.exit_code() == 0
        lines = [json.loads(each) for each in started.stderr().splitlines()]
    told = [
        (each["message"], each["request_id"], each["traceparent"], each.get("model_id") or each.get("code"))
        for each in lines
        if each.get("request_id", "").startswith("q")
    ]
    assert told == [
        (message, f"q{number}", parent.format(number), about)
        for message, number, about in (
            ("loaded", 0, "a"),
            ("request", 0, None),
            ("unloaded", 1, "a"),
            ("loaded", 1, "b"),
            ("request", 1, None),
            ("refused", 2, "out_of_memory"),
            ("request", 2, "out_of_memory"),
            ("unloaded", 3, "b"),
            ("request", 3, None),
            ("refused", 4, "invalid_request"),
        )
    ]
