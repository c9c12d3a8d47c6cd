"""The command ``fleet``: a Ray of its own, its end, and what it says where it can't start."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tests.e2e.process import MIB, ROOT, Worker, eventually, gone
from tests.rigs.fleet_cluster import START_SECONDS

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="the extra fleet is for Linux")


def test_it_starts_ray_and_ends_with_its_input(tmp_path: Path) -> None:
    """With no address the nodes share this machine's memory; the end of the input ends all of it; stderr stays JSON; each node writes a file of its own."""
    record = tmp_path / "run.jsonl"
    options = ("--nodes", "2", "--log-level", "info", "--record", str(record))
    with Worker("fleet", *options, patience=START_SECONDS) as started:
        eventually(lambda: started.call("worker.get_health")["state"] == "ok", "both nodes", START_SECONDS)
        devices = started.call("memory.get_status")["devices"]
        assert [each["device_id"] for each in devices] == ["node-1/cpu", "node-2/cpu"]
        assert sum(each["budget_bytes"] for each in devices) <= devices[0]["total_bytes"]
        family = psutil.Process(started.pid).children(recursive=True)
        started.close_input()
        assert started.exit_code(START_SECONDS) == 0
        eventually(lambda: all(gone(each.pid) for each in family), "the end of all that it started")
        assert all(isinstance(json.loads(each), dict) for each in started.stderr().splitlines())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run.node-1.jsonl", "run.node-2.jsonl"]


def test_it_serves_as_soon_as_its_own_node_is_there(tmp_path: Path) -> None:
    """Others are told of as being started. What names one waits for it, and what fits nowhere yet; nothing else, nor the end of the input."""
    late = tmp_path / "late"
    late.mkdir()
    for each in ("node-2", "node-3"):
        os.mkfifo(late / each)
    options = ("--nodes", "3", "--plugin", "tests.rigs.late_plugin", "--record", str(tmp_path / "run.jsonl"))
    with Worker("fleet", *options, patience=START_SECONDS, environment={"LATE_NODES": str(late)}) as started:
        parts = {each["name"]: each["state"] for each in started.call("worker.get_health")["parts"]}
        assert [parts[f"node:node-{number}"] for number in (1, 2, 3)] == ["ok", "starting", "starting"]
        devices = started.call("memory.get_status")["devices"]
        assert [(each["device_id"], each["state"]) for each in devices] == [
            ("node-1/cpu", "available"),
            ("node-2/cpu", "probing"),
            ("node-3/cpu", "probing"),
        ]
        assert started.call("memory.get_usage")["devices"]
        assert started.call("memory.allocate", {"size_bytes": 4096})["device_id"] == "node-1/cpu"
        named = started.send("memory.allocate", {"size_bytes": 4096, "device_id": "node-2/cpu"})
        started.call("memory.set_limits", {"device_id": "cpu", "limit_bytes": 4096})
        full = started.send("memory.allocate", {"size_bytes": MIB})
        planned = started.send("memory.plan", {"candidates": [{"name": "large", "required_bytes": MIB}]})
        given_up = started.send("memory.allocate", {"size_bytes": 4096, "device_id": "node-2/cpu"})
        assert started.call("worker.cancel", {"request_id": given_up})["found"]
        assert started.reply(given_up)["error"]["code"] == "cancelled"
        for action, data in (
            ("memory.allocate", {"size_bytes": 4096, "device_id": "node-2/cpu"}),
            ("memory.get_usage", {"device_id": "node-2/cpu"}),
            ("memory.plan", {"candidates": [{"name": "large", "required_bytes": MIB}]}),
        ):
            ended = started.ask(action, data, meta={"deadline_ms": 50})
            assert ended["error"]["code"] == "deadline_exceeded", action
        assert started.refused("memory.load_model", {"model_id": "none"})["code"] == "model_not_found"
        assert "passed_over" in str(started.refused("memory.allocate", {"size_bytes": 2**50}))
        assert started.call("memory.clear", {"clear_type": "cache"})["kept"] == []
        assert not any(map(started.replies, (named, full, planned)))
        (late / "node-2").write_bytes(b"")
        assert started.reply(named)["success"]
        assert started.reply(full)["data"]["device_id"] == "node-2/cpu"
        assert started.reply(planned)["data"]["selected"] == "large"
        made = started.call("memory.get_allocations")["allocations"]
        assert sum(each["device_id"] == "node-2/cpu" for each in made) == 2
        asked = started.send("memory.clear", {"clear_type": "all", "force": True})
        family = psutil.Process(started.pid).children(recursive=True)
        started.close_input()
        assert started.exit_code(START_SECONDS) == 0
        assert started.reply(asked)["data"]["allocations_freed"] == 3
        eventually(lambda: all(gone(each.pid) for each in family), "the end of all that it started")


def test_what_it_started_goes_with_it() -> None:
    """A gateway that is killed leaves nothing behind, where Ray was its own."""
    with Worker("fleet", patience=START_SECONDS) as started:
        started.call("worker.ping")
        family = psutil.Process(started.pid).children(recursive=True)
        started.process.kill()
        eventually(lambda: all(gone(each.pid) for each in family), "the end of all that it started", 60)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--nodes", "0"], "number of nodes"),
        (["--nodes", "2", "--address", "auto"], "--nodes is for"),
        (["--no-such-option"], "no option --no-such-option"),
        (["doctor"], "takes options of a worker"),
        (["--address", "127.0.0.1:1"], "no Ray cluster was joined at 127.0.0.1:1"),
    ],
)
def test_what_can_not_start_says_why(options: list[str], said: str) -> None:
    """It ends with 2 and a message, and writes nothing to the host."""
    done = subprocess.run(
        [sys.executable, "-m", "memory_worker", "fleet", *options],
        cwd=ROOT, input=b"", capture_output=True, check=False, timeout=START_SECONDS,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, b"")
    assert said in done.stderr.decode()
