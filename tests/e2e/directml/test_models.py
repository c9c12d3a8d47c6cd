"""Models on DirectML as a host sees them: weights to the bit, types that the library has not, and memory that was moved out."""

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.directml.workers import (
    DML,
    FOLLOWING,
    LOSSES,
    StartWorker,
    agrees,
    allocate,
    free,
    processes,
    start,
    status,
)
from tests.e2e.process import MIB, eventually
from tests.rigs.directml.rig import GIB, Rig
from tests.rigs.model_files import write_model
from tests.rigs.stalled_share import stalled_share
from worker.loaders.dtypes import TORCH_NAMES

__all__ = ["start"]


@pytest.mark.parametrize("allocator", ["untiled", "tiled"])
def test_weights_are_the_same_to_the_bit(
    start: StartWorker, directml_rig: Rig, tmp_path: Path, allocator: str
) -> None:
    """Loaded from a file, offloaded to host memory and brought back, and after a restart of their device."""
    tensors = write_model(tmp_path / "m.safetensors", 30 * MIB, 8, 10 * MIB, dtype="I16")
    row = {"id": "m", "path": "m.safetensors", "loader": "safetensors", "device": "dml:0", "offload": True}
    models = tmp_path / "models.yaml"
    models.write_text(json.dumps({"models": [row]}))
    plugins = ("--plugin", "tests.rigs.digest_plugin", "--plugin", FOLLOWING)
    worker = start("--models", str(models), *plugins, "--directml-allocator", allocator)

    def seen() -> Any:
        return worker.call("test.digest", {"model_id": "m"})["tensors"]

    expected = {name: hashlib.blake2b(data).hexdigest() for name, data in tensors.items()}
    assert seen() == expected
    assert agrees(worker, directml_rig) >= 40 * MIB
    (process,) = processes(worker, directml_rig, 0)
    there = {"pid": process.pid, "model_id": "m", "tensors": expected}
    for way in ({}, {"torch": True}):
        assert worker.call("test.follow", {"model_id": "m", **way}) == there, "where the weights are"
    offloaded = worker.call("memory.unload_model", {"model_id": "m", "mode": "offload"})
    if allocator == "untiled":
        assert offloaded["returned_bytes"] >= 40 * MIB
        assert agrees(worker, directml_rig) < MIB
    assert seen() == expected
    (process,) = processes(worker, directml_rig, 0)
    worker.call("memory.defragment", {**DML, "aggressive": True})
    assert process.is_running() == (allocator == "untiled"), "which needs no other"
    assert seen() == expected
    (row,) = worker.call("memory.get_model_status", {"model_id": "m"})["models"]
    assert (row["device_id"], row["load_count"]) == ("dml:0", 2)
    worker.call("worker.subscribe", LOSSES)
    (process,) = processes(worker, directml_rig, 0)
    process.send_signal(signal.SIGKILL)
    assert worker.event("device.lost")["data"]["model_ids"] == ["m"]
    eventually(lambda: status(worker)["state"] == "available", "it is back")
    assert seen() == expected


def test_types_that_the_library_has_not(start: StartWorker, directml_rig: Rig, tmp_path: Path) -> None:
    """Weights of a type that would end the device's process reach torch by their values, or are refused by name."""
    torch = pytest.importorskip("torch")
    stand_ins = {
        "BF16": "float32",
        "F8_E4M3": "float16",
        "F8_E5M2": "float16",
        "U16": "int32",
        "U32": "int64",
    }
    content = bytes(range(0x70)) * 36  # no NaN in any of them: those have no one pattern of bits
    rows = []
    for dtype in (*stand_ins, "C64", "U64"):
        file = tmp_path / f"{dtype}.safetensors"
        write_model(file, len(content), dtype=dtype)
        file.write_bytes(file.read_bytes()[: -len(content)] + content)
        rows.append({"id": dtype, "path": file.name, "loader": "safetensors", "device": "dml:0"})
    models = tmp_path / "models.yaml"
    models.write_text(json.dumps({"models": rows}))
    worker = start("--models", str(models), "--plugin", FOLLOWING)
    for dtype, stand_in in stand_ins.items():
        host = torch.frombuffer(bytearray(content), dtype=getattr(torch, TORCH_NAMES[dtype]))
        expected = hashlib.blake2b(host.to(getattr(torch, stand_in)).numpy()).hexdigest()
        seen = worker.call("test.follow", {"model_id": dtype, "torch": True})
        assert seen["tensors"] == {"layer.0": expected}, dtype
    there = set(directml_rig.witness.living())
    for dtype in ("C64", "U64"):
        refused = worker.refused("test.follow", {"model_id": dtype, "torch": True})
        assert (refused["code"], refused["details"]["device_id"]) == ("unsupported", "dml:0")
        assert TORCH_NAMES[dtype] in refused["message"]
    assert set(directml_rig.witness.living()) == there


def test_a_model_beside_demoted_memory(start: StartWorker, directml_rig: Rig, tmp_path: Path) -> None:
    """So much goes for it that what the driver moved out is back as well: one model's bytes would only have let that return."""
    rows = []
    for seed, name in enumerate(("a", "b", "c", "d")):
        write_model(tmp_path / f"{name}.safetensors", 100 * MIB, seed=seed)
        rows.append({"id": name, "path": f"{name}.safetensors", "loader": "safetensors", "device": "dml:0"})
    models = tmp_path / "models.yaml"
    models.write_text(json.dumps({"models": rows}))
    worker = start("--models", str(models), "--directml-allocator", "untiled", budget_bytes=GIB, demotes=True)
    for name in ("a", "b", "c"):
        worker.call("memory.load_model", {"model_id": name})

    def cheapest() -> float:
        rows = worker.call("memory.get_consumers", DML)["consumers"]
        return min(float(row["price_ms_per_mib"]) for row in rows if row["kind"] == "model")

    before = cheapest()
    directml_rig.witness.set_budget(0, 230 * MIB)
    demoted = directml_rig.witness.device_bytes() - 230 * MIB
    assert status(worker)["process_demoted_bytes"] == demoted >= 70 * MIB
    assert cheapest() < 0.9 * before, "a use of it crosses the bus for what is demoted"
    planned = worker.call("memory.plan", {"candidates": [{"name": "d", "model_id": "d"}]})
    assert len(planned["candidates"][0]["evictions"]) == 2
    worker.call("memory.load_model", {"model_id": "d", "plan_id": planned["plan_id"]})
    assert status(worker)["process_demoted_bytes"] == 0
    assert agrees(worker, directml_rig) <= 230 * MIB


@pytest.mark.parametrize("allocator", ["untiled", "tiled"])
def test_a_share_that_stops_answering_holds_up_its_load_alone(
    start: StartWorker, directml_rig: Rig, tmp_path: Path, allocator: str
) -> None:
    """The library is called by one thread at a time, and none of them waits for storage; a restart has back what hangs."""
    write_model(tmp_path / "m.safetensors", 33 * MIB)
    models = tmp_path / "models.yaml"
    models.write_text(json.dumps({"models": [{"id": "m", "path": "share/m.safetensors"}]}))
    content = (tmp_path / "m.safetensors").read_bytes()
    with stalled_share(tmp_path / "share", {"m.safetensors": content}) as share:
        worker = start("--models", str(models), "--directml-allocator", allocator)
        kept = allocate(worker, MIB, initialize="zero")
        (process,) = processes(worker, directml_rig, 0)
        share.stall(of=process.pid)
        load = worker.send("memory.load_model", {"model_id": "m", **DML})
        share.wait_until_asked()
        free(worker, allocate(worker, MIB))
        assert status(worker)["age_ms"] == 0
        worker.call("worker.cancel", {"request_id": load})
        assert worker.reply(load)["error"]["executed"] == "no"
        eventually(lambda: status(worker)["unattributed_bytes"] >= 33 * MIB, "what hangs is told")
        worker.call("memory.defragment", {**DML, "aggressive": True})
        assert not process.is_running()
        if allocator == "untiled":
            assert agrees(worker, directml_rig) < 2 * MIB
        free(worker, kept)
