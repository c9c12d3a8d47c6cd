"""A worker as a host starts it, with engines: real models, receipts in bytes, and no process left behind."""

import base64
import json
import shutil
from pathlib import Path

import psutil

from tests.e2e.process import MIB, eventually, gone, worker
from tests.rigs.onnx_files import real


def test_speech_is_detected_in_an_engine_of_its_own(tmp_path: Path) -> None:
    """The example plugin works; the model is found out by its contents, counted, shrunk and unloaded with a receipt."""
    shutil.copy(real("silero"), tmp_path / "voice.bin")
    models = {"models": {"speech": {"path": "voice.bin", "params": {"intra_op_num_threads": 1}}}}
    (tmp_path / "models.yaml").write_text(json.dumps(models))
    options = ("--models", str(tmp_path / "models.yaml"), "--plugin", "examples.plugins.speech_detector")
    silence = {"pcm16_base64": base64.b64encode(bytes(2 * 16000)).decode(), "sample_rate": 16000}
    with worker(*options) as started:
        started.call("worker.subscribe", {"events": ["memory.model_unloaded"]})
        heard = started.call("speech.detect", silence)
        assert len(heard["probabilities"]) == 31
        assert max(heard["probabilities"]) < 0.5
        assert started.refused("speech.detect", silence | {"sample_rate": 8000})["code"] == "invalid_request"
        (status,) = started.call("memory.get_model_status", {"model_id": "speech"})["models"]
        assert (status["state"], status["loader"], status["device_id"]) == ("loaded", "onnx", "cpu")
        (engine,) = psutil.Process(started.pid).children()
        counted = status["measured_bytes"] + status["working_bytes"]
        assert status["estimated_bytes"] < status["measured_bytes"] <= counted < engine.memory_info().rss
        assert status["kv_bytes"] is None
        (kept,) = started.call("memory.get_consumers", {"kind": "engine"})["consumers"]
        assert (kept["consumer_id"], kept["held_bytes"]) == ("engine:speech", status["working_bytes"])
        mine = {"consumer_id": "engine:mine", "held_bytes": 0, "offers": []}
        assert started.refused("memory.register_consumer", mine)["code"] == "invalid_request"
        shrunk = started.call("memory.unload_model", {"model_id": "speech", "mode": "shrink"})
        assert (shrunk["mode"], shrunk["freed_bytes"]) == ("shrink", shrunk["claimed_bytes"])
        assert sum(each["returned_bytes"] for each in shrunk["steps"]) == shrunk["returned_bytes"]
        assert shrunk["kept_bytes"] == max(0, shrunk["claimed_bytes"] - shrunk["returned_bytes"])
        (smaller,) = started.call("memory.get_model_status", {"model_id": "speech"})["models"]
        counted = smaller["measured_bytes"] + smaller["working_bytes"]
        engine.kill()
        lost = started.event("memory.model_unloaded")["data"]
        assert (lost["freed_bytes"], lost["returned_bytes"]) == (counted, None)
        assert "SIGKILL" in lost["reason"]
        (gone_model,) = started.call("memory.get_model_status", {"model_id": "speech"})["models"]
        assert (gone_model["state"], "SIGKILL" in gone_model["state_reason"]) == ("unloaded", True)
        assert started.call("speech.detect", silence)["frame_ms"] == 32
        (engine,) = psutil.Process(started.pid).children()
        receipt = started.call("memory.unload_model", {"model_id": "speech"})
        assert receipt["claimed_bytes"] == receipt["freed_bytes"] > 0
        assert (
            receipt["kept_bytes"] <= receipt["claimed_bytes"] * 0.05
            or receipt["steps"][-1]["step"] == "its process ended"
        )
        assert receipt["steps"][0]["step"] == "the engine dropped the model"
        assert started.call("speech.detect", silence)["frame_ms"] == 32
        engines = [each.pid for each in psutil.Process(started.pid).children()]
    eventually(lambda: all(map(gone, engines)), "the engine ends with its worker")


def test_an_allocation_has_an_engine_give_back_what_it_keeps_and_the_model_stays(tmp_path: Path) -> None:
    """A real OCR model's arena goes for it, at a price below the model's; the answer says so, and the model works on."""
    shutil.copy(real("ocr"), tmp_path / "ocr.onnx")
    models = {"models": {"ocr": {"path": "ocr.onnx", "params": {"intra_op_num_threads": 1}}}}
    (tmp_path / "models.yaml").write_text(json.dumps(models))
    with worker(
        "--models", str(tmp_path / "models.yaml"), "--plugin", "tests.rigs.engine_sized_machine",
        environment={"MEMORY_WORKER_MACHINE_BYTES": str(1024 * MIB)},
    ) as started:  # fmt: skip
        seen = started.call("test.pixels", {"size": 960})
        (engine,) = started.call("memory.get_consumers", {"kind": "engine"})["consumers"]
        assert engine["consumer_id"] == "engine:ocr"
        assert engine["held_bytes"] > 32 * MIB
        (device,) = started.call("memory.get_status", {"device_id": "cpu"})["devices"]
        need = device["available_bytes"] + engine["held_bytes"] // 4
        way = {"name": "it", "required_bytes": need, "device_id": "cpu"}
        (candidate,) = started.call("memory.plan", {"candidates": [way]})["candidates"]
        assert [each["consumer_id"] for each in candidate["releases"]] == ["engine:ocr"]
        data = {"size_bytes": need, "device_id": "cpu", "make_room": True}
        allocated = started.call("memory.allocate", data)
        assert allocated["models_unloaded"] == []
        (given,) = allocated["released"]
        assert (given["consumer_id"], given["kind"]) == ("engine:ocr", "engine")
        assert given["returned_bytes"] >= engine["held_bytes"] // 4
        assert given["reason"].startswith("engine:ocr: ")
        assert "before model ocr at" in given["reason"]
        (status,) = started.call("memory.get_model_status", {"model_id": "ocr"})["models"]
        assert status["state"] == "loaded"
        started.call("memory.deallocate", {"allocation_id": allocated["allocation_id"]})
        assert started.call("test.pixels", {"size": 960}) == seen
