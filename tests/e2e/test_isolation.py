"""Devices in processes of their own, as a host sees them: lost, back, restarted, probed beside everything else."""

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e.process import MIB, ROOT, Worker, eventually
from tests.rigs.model_files import write_model

ISOLATED = ("--isolate", "simulated", "--simulated-device")
DEVICE = {"device_id": "sim:0"}


def process_of(worker: Worker) -> psutil.Process:
    """Return the device's process."""
    (child,) = psutil.Process(worker.pid).children()
    return child


def state_of(worker: Worker, device_id: str) -> str:
    """Return a device's state."""
    (device,) = worker.call("memory.get_status", {"device_id": device_id})["devices"]
    return str(device["state"])


def allocate(worker: Worker, size: int, device_id: str | None = None) -> str:
    """Allocate; returns the id."""
    data = {"size_bytes": size} if device_id is None else {"size_bytes": size, "device_id": device_id}
    return str(worker.call("memory.allocate", data)["allocation_id"])


def test_killed_and_back() -> None:
    """A kill is told of with what was lost; the device is back by itself, and nothing else noticed."""
    with Worker(*ISOLATED, "1GiB") as worker:
        worker.call("worker.subscribe", {"events": ["device.lost", "device.recovered"]})
        lost = [allocate(worker, MIB), allocate(worker, 20 * MIB)]
        kept = allocate(worker, MIB, "cpu")
        process_of(worker).send_signal(signal.SIGKILL)
        event = worker.event("device.lost")["data"]
        assert event["allocation_ids"] == lost
        assert event["model_ids"] == []
        assert "SIGKILL" in event["reason"]
        assert worker.event("device.recovered")["data"]["device_id"] == "sim:0"
        error = worker.refused("memory.deallocate", {"allocation_id": lost[0]})
        assert error["details"]["reason"] == "device_lost"
        again = allocate(worker, 500 * MIB)
        for each in (again, kept):
            worker.call("memory.deallocate", {"allocation_id": each})
        child = process_of(worker)
        worker.close_input()
        assert worker.exit_code() == 0
        assert not child.is_running()


def test_request_in_flight_when_its_device_is_lost() -> None:
    """It ends as unavailable and may be tried again; what it would have changed is as before."""
    with Worker(*ISOLATED, "1GiB,stall_copy=2") as worker:
        source = allocate(worker, 4 * MIB, "cpu")
        data = {"source_allocation_id": source, "destination_device_id": "sim:0"}
        copying = worker.send("memory.transfer", data, meta={"progress": True})
        eventually(lambda: worker.call("memory.get_status", DEVICE)["devices"][0]["used_bytes"], "begun")
        process_of(worker).send_signal(signal.SIGKILL)
        error = worker.reply(copying)["error"]
        assert (error["code"], error["retryable"]) == ("device_unavailable", True)
        assert error["details"]["state"] == "lost"
        rows = worker.call("memory.get_allocations")["allocations"]
        assert [row["allocation_id"] for row in rows] == [source]


def test_restart() -> None:
    """An aggressive defragment gives the dead pool back; ids stay valid and the contents are the same."""
    with Worker(*ISOLATED, "1GiB,pooled=1") as worker:
        source = allocate(worker, 10 * MIB, "cpu")
        data = {"source_allocation_id": source, "destination_device_id": "sim:0", "verify": True}
        copied = worker.call("memory.transfer", data)
        worker.call("memory.deallocate", {"allocation_id": allocate(worker, 50 * MIB)})
        first = process_of(worker)
        done = worker.call("memory.defragment", {**DEVICE, "aggressive": True})
        assert (done["returned_bytes"], done["allocations_moved"]) == (50 * MIB, 1)
        assert not first.is_running()
        back = {"source_allocation_id": copied["destination_allocation_id"], "destination_device_id": "cpu"}
        assert worker.call("memory.transfer", {**back, "verify": True})["checksum"] == copied["checksum"]


def test_plugin_follows_its_model(tmp_path: Path) -> None:
    """Work on a model runs in its device's process, with progress; cancelled it ends, and a loss is said."""
    tensors = write_model(tmp_path / "m.safetensors", 3 * MIB, 5)
    models = tmp_path / "models.yaml"
    models.write_text(
        "models: [{id: m, path: m.safetensors, loader: safetensors, device: 'sim:0'},"
        " {id: here, path: m.safetensors, loader: safetensors, device: cpu}]"
    )
    plugin = ("--plugin", "tests.rigs.following_plugin")
    with Worker(*ISOLATED, "100MiB,pooled=1", "--models", str(models), *plugin) as worker:
        expected = {name: hashlib.blake2b(data).hexdigest() for name, data in tensors.items()}
        for model_id in ("m", "here"):
            done = worker.call("test.follow", {"model_id": model_id})
            pid = process_of(worker).pid if model_id == "m" else worker.pid
            assert done == {"pid": pid, "model_id": model_id, "tensors": expected}
        request = worker.send("test.follow", {"model_id": "m", "wait": True}, meta={"progress": True})
        assert worker.event("progress", request)["data"]["completed_bytes"] == 1
        refused = worker.refused("memory.defragment", {**DEVICE, "aggressive": True})
        assert refused["code"] == "model_busy"
        worker.call("worker.cancel", {"request_id": request})
        assert worker.reply(request)["error"]["code"] == "cancelled"
        assert worker.refused("test.follow", {"model_id": "m", "wait": 7})["code"] == "invalid_request"
        for model_id in ("m", "here"):
            bug = worker.refused("test.follow", {"model_id": model_id, "bug": True})
            assert bug["code"] == "internal_error"
            assert bug["message"].startswith("the plugin's action raised KeyError; it is of tests.rigs.")
        again = worker.send("test.follow", {"model_id": "m", "wait": True}, meta={"progress": True})
        worker.event("progress", again)
        process_of(worker).send_signal(signal.SIGKILL)
        assert worker.reply(again)["error"]["code"] == "device_unavailable"


def test_model_that_only_fits_after_a_restart(tmp_path: Path) -> None:
    """Free memory that lies in pieces is joined for a model by a new process, and no other model goes for it."""
    for name, size in (("small", 10 * MIB), ("large", 50 * MIB)):
        write_model(tmp_path / f"{name}.safetensors", size)
    row = "- {id: %s, path: %s.safetensors, loader: safetensors, device: 'sim:0'}"
    models = tmp_path / "models.yaml"
    models.write_text("models:\n" + "\n".join(row % (name, name) for name in ("small", "large")))
    with Worker(*ISOLATED, "100MiB,pooled=1", "--models", str(models)) as worker:
        worker.call("memory.load_model", {"model_id": "small"})
        names = [allocate(worker, 10 * MIB) for _ in range(9)]
        for name in names[1::2] + names[-1:]:
            worker.call("memory.deallocate", {"allocation_id": name})
        first = process_of(worker)
        refused = worker.refused("memory.load_model", {"model_id": "large", "make_room": False})
        assert refused["code"] == "out_of_memory"
        assert first.is_running()
        loaded = worker.call("memory.load_model", {"model_id": "large"})
        assert loaded["models_unloaded"] == []
        assert not first.is_running()
        states = {each["state"] for each in worker.call("memory.get_model_status")["models"]}
        assert states == {"loaded"}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_is_left(how: signal.Signals) -> None:
    """However the worker ends, its device's process ends too."""
    with Worker(*ISOLATED, "1GiB") as worker:
        allocate(worker, MIB)
        child = process_of(worker)
        worker.process.send_signal(how)
        worker.process.wait(20)
        psutil.wait_procs([child], timeout=20)
        assert not child.is_running()


@pytest.fixture
def stuck(tmp_path: Path) -> str:
    """Return an interpreter that never says anything."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    return str(script)


def test_probe_delays_nobody(stuck: str) -> None:
    """While a probe goes on the device is probing, and only who needs it waits; that can be cancelled."""
    with Worker("--directml-python", stuck) as worker:
        assert state_of(worker, "dml:0") == "probing"
        kept = allocate(worker, MIB, "cpu")
        waiting = worker.send("memory.allocate", {"size_bytes": MIB})
        named = worker.send(
            "memory.allocate", {"size_bytes": MIB, "device_id": "dml:0"}, meta={"deadline_ms": 50}
        )
        assert worker.reply(named)["error"]["code"] == "deadline_exceeded"
        worker.call("memory.deallocate", {"allocation_id": kept})
        assert not worker.replies(waiting)
        worker.call("worker.cancel", {"request_id": waiting})
        assert worker.reply(waiting)["error"]["code"] == "cancelled"
        error = worker.refused(
            "memory.plan_batches", {"item_count": 1, "bytes_per_item": 1, "device_id": "dml:0"}
        )
        assert (error["code"], error["retryable"]) == ("device_unavailable", True)
        child = process_of(worker)
        worker.close_input()
        assert worker.exit_code() == 0
        assert not child.is_running()


def test_probe_that_fails() -> None:
    """Without torch_directml the device is listed with the cause, and the default is the CPU."""
    with Worker("--directml-python", sys.executable) as worker:
        made = worker.call("memory.allocate", {"size_bytes": 1})
        assert made["device_id"] == "cpu", "it waited to know"
        (device,) = worker.call("memory.get_status", {"device_id": "dml:0"})["devices"]
        assert device["state"] == "unavailable"
        assert "directml" in device["state_reason"] and sys.executable in device["state_reason"]
        error = worker.refused("memory.allocate", {"size_bytes": 1, "device_id": "dml:0"})
        assert error["code"] == "device_unavailable"


def test_doctor() -> None:
    """It waits for every probe, and shows process, interpreter and cause."""
    command = (
        sys.executable,
        "-m",
        "worker",
        "doctor",
        *ISOLATED,
        "64MiB",
        "--directml-python",
        "/nowhere/python",
    )
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    assert "sim:0  Simulated device 0, available  (default)" in done.stdout
    assert "in a process of its own: " in done.stdout and sys.executable in done.stdout
    assert (
        "because: no process can be started with /nowhere/python: there is no such file: correct its path, or put it there"
        in done.stdout
    )
    assert "probing" not in done.stdout
    assert "\ncuda" in done.stdout, "looked for, whatever came of it"
