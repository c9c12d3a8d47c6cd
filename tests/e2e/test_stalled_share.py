"""A model on a network share that does not answer: who else is there goes on, and nothing waits for it for ever."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.process import Worker, eventually, worker
from tests.e2e.simulated import place
from tests.rigs.model_files import write_model
from tests.rigs.stalled_share import StalledShare, stalled_share

MIB = 2**20
SIZE = 33 * MIB


@pytest.fixture
def share(tmp_path: Path) -> Iterator[StalledShare]:
    """Return a share with a model's file."""
    write_model(tmp_path / "m.safetensors", SIZE)
    content = (tmp_path / "m.safetensors").read_bytes()
    write_model(tmp_path / "here.safetensors", MIB)
    (tmp_path / "models.yaml").write_text(
        "models: {far: {path: share/m.safetensors}, here: {path: here.safetensors}}\n"
    )
    with stalled_share(tmp_path / "share", {"m.safetensors": content}) as mounted:
        yield mounted


@pytest.fixture
def started(tmp_path: Path, share: StalledShare) -> Iterator[Worker]:
    """Return a worker with a device in a process of its own, that ends before its share does."""
    options = (
        "--simulated-device",
        "256MiB",
        "--isolate",
        "simulated",
        "--models",
        str(tmp_path / "models.yaml"),
    )
    with worker(*options) as found:
        place(found, MIB, "sim:0")  # the process is there
        try:
            yield found
        finally:
            share.answer()  # or what hangs there keeps a killed worker alive


def device(started: Worker) -> dict[str, int]:
    """Return the device's figures of this moment."""
    found: dict[str, int] = started.call("memory.get_status", {"refresh": True})["devices"][1]
    return found


def test_a_device_goes_on_while_its_process_waits_for_a_share(started: Worker, share: StalledShare) -> None:
    """A cancelled load leaves the ledger as it was; what it holds yet is told, and is made room by another process."""
    [process] = psutil.Process(started.pid).children()
    share.stall(of=process.pid)
    load = started.send("memory.load_model", {"model_id": "far", "device_id": "sim:0"})
    share.wait_until_asked()
    eventually(
        lambda: device(started)["age_ms"] == 0, "it answers, if the machine is quick for once in 40 ms"
    )
    for device_id in ("cpu", "sim:0"):
        assert (
            started.call("memory.load_model", {"model_id": "here", "device_id": device_id})["device_id"]
            == device_id
        )
    started.call("memory.unload_model", {"model_id": "here"})
    assert started.call("worker.cancel", {"request_id": load})["found"]
    error = started.reply(load)["error"]
    assert error["code"] == "cancelled"
    assert error["executed"] in {"no", "unknown"}  # unknown where it is answered for: after half a second
    held = eventually(lambda: device(started)["unattributed_bytes"], "what hangs is told")
    assert held >= SIZE
    seen = device(started)
    assert (seen["allocated_bytes"], seen["model_bytes"]) == (MIB, 0)
    assert seen["available_bytes"] == 255 * MIB - held
    assert (
        started.refused("memory.allocate", {"size_bytes": 250 * MIB, "device_id": "sim:0"})["code"]
        == "out_of_memory"
    )
    place(started, 250 * MIB, "sim:0", make_room=True)
    assert device(started)["unattributed_bytes"] == 0
    assert not process.is_running()


def test_what_hangs_in_the_worker_itself_does_not_keep_it_from_ending(
    started: Worker, share: StalledShare
) -> None:
    """Work that was cancelled, and answered for because it may hang, is not waited for at the end of the input."""
    share.stall()
    load = started.send("memory.load_model", {"model_id": "far", "device_id": "cpu"})
    share.wait_until_asked()
    started.call("memory.load_model", {"model_id": "here", "device_id": "cpu"})
    started.call("worker.cancel", {"request_id": load})
    assert started.reply(load)["error"]["executed"] == "unknown"
    started.close_input()
    assert started.exit_code() == 0
