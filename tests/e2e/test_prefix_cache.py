"""Beginnings of prompts in a real worker with a real llama.cpp: after an unload, a kill, a restart; counted once; by JSON."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.process import MIB, Worker, eventually, worker
from tests.rigs.prefix_caching import TEXT
from worker.core.tensor_file import Part, packed

WHOLE = 448
"""Tokens of TEXT in whole blocks."""
STORE = {"store": "prefix:writer"}


def options(folder: Path, **more: Any) -> tuple[str, ...]:
    """Return what starts a worker with one model twice: with a store of prefixes, and without."""
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    from tests.rigs.gguf_models import write_llama

    write_llama(folder / "m.gguf", context=1024, width=64)
    params = {"n_ctx": 1024, "threads": 1}
    models = {
        "writer": {"path": "m.gguf", "params": params | {"prefix_cache": "8MiB"} | more},
        "plain": {"path": "m.gguf", "params": params},
    }
    (folder / "models.yaml").write_text(json.dumps({"models": models}))
    return "--models", str(folder / "models.yaml"), "--plugin", "tests.rigs.prefix_plugin"


def written(started: Worker, action: str = "test.write") -> tuple[str, int]:
    """Return the greedy text, and how many tokens were in a cache."""
    asked = {"prompt": TEXT, "max_tokens": 8, "temperature": 0}
    found = started.call(action, asked)
    return found["text"], found["cached_tokens"]


def stats(started: Worker) -> dict[str, Any]:
    return started.call("store.stats", STORE)


def test_a_prompt_is_worked_out_once_whatever_becomes_of_the_model(tmp_path: Path) -> None:
    """After an unload whose receipt adds up, and a kill -9 of the engine: the same text as without, and no prefill.

    What is kept is the store's, in the worker: the model counts what it does without.
    """
    with worker(*options(tmp_path)) as started:
        text, _ = written(started, "test.write_plainly")
        assert written(started) == (text, 0)
        kept = stats(started)
        assert (kept["entry_count"], kept["hits"]) == (WHOLE // 64, 0)
        assert kept["price_ms_per_mib"] > 0
        rows = {each["model_id"]: each for each in started.call("memory.get_model_status")["models"]}
        assert rows["writer"]["kv_bytes"] == rows["plain"]["kv_bytes"]
        assert abs(rows["writer"]["measured_bytes"] - rows["plain"]["measured_bytes"]) < 3 * MIB
        (consumer,) = started.call("memory.get_consumers", {"kind": "store_kv"})["consumers"]
        assert (consumer["consumer_id"], consumer["held_bytes"]) == (
            "store:kv:prefix:writer",
            kept["held_bytes"],
        )
        receipt = started.call("memory.unload_model", {"model_id": "writer"})
        assert sum(each["returned_bytes"] for each in receipt["steps"]) == receipt["returned_bytes"]
        assert receipt["kept_bytes"] == max(0, receipt["claimed_bytes"] - receipt["returned_bytes"])
        assert written(started) == (text, WHOLE)
        mine = max(psutil.Process(started.pid).children(), key=lambda each: each.create_time())
        mine.kill()
        asked = {"model_id": "writer"}
        eventually(
            lambda: started.call("memory.get_model_status", asked)["models"][0]["state"] == "unloaded",
            "its end is seen",
        )
        assert written(started) == (text, WHOLE)
        after = stats(started)
        assert (after["entry_count"], after["hits"]) == (WHOLE // 64, 2 * WHOLE // 64)
        assert after["saved_ms"] > 0
        cleared = started.call("store.clear", STORE)
        assert cleared["cleared_bytes"] == after["held_bytes"]
        assert written(started)[0] == text
        assert "could not" not in started.stderr()


def test_prefixes_that_persist_are_there_after_a_kill_of_the_worker(tmp_path: Path) -> None:
    """In the store's folder, as safetensors in SQLite; another file's are not taken."""
    start = (*options(tmp_path, prefix_cache_persist=True), "--store-folder", str(tmp_path / "stores"))
    with worker(*start) as started:
        text, cached = written(started)
        assert cached == 0
        os.kill(started.pid, signal.SIGKILL)
        started.exit_code()
    with worker(*start) as started:
        assert written(started) == (text, WHOLE)


def test_without_a_folder_nothing_persists_and_that_is_said(tmp_path: Path) -> None:
    """The model works on as it does without."""
    with worker(*options(tmp_path, prefix_cache_persist=True)) as started:
        first = written(started)
        assert written(started)[0] == first[0]
        assert "start it with --store-folder" in started.stderr()


def test_what_ended_an_engine_as_it_was_given_back_is_not_given_again(tmp_path: Path) -> None:
    """One request is lost, not all that follow."""
    with worker(*options(tmp_path)) as started:
        text, _ = written(started)
        started.call("memory.unload_model", {"model_id": "writer"})
        started.call("test.die_restoring")
        asked = {"prompt": TEXT, "max_tokens": 8, "temperature": 0}
        assert started.refused("test.write", asked)["code"] == "device_unavailable"
        assert stats(started)["entry_count"] == 0
        assert written(started) == (text, 0)
        started.call("memory.unload_model", {"model_id": "writer"})
        assert written(started) == (text, WHOLE)


@pytest.mark.skipif(sys.platform == "win32", reason="the bytes are looked at as a file")
def test_a_host_keeps_tensors_by_json() -> None:
    """As an allocation's bytes, copied in and out; the longest beginning first, of its own model and scope."""
    with worker() as started:
        started.call("store.open", {"store": "prefixes", "kind": "kv"})
        for tokens, byte in (([1, 2], b"a"), ([1, 2, 3], b"b")):
            tensors = packed({"k": Part("U8", (1000,), byte * 1000)}, {})
            sent = started.call(
                "memory.allocate", {"size_bytes": len(tensors), "memory_type": "shared", "device_id": "cpu"}
            )
            Path(sent["shared_memory"]["path"]).write_bytes(tensors)
            put = {"store": "prefixes", "key": "m", "tokens": tokens, "cost_ms": 5}
            assert started.call("store.put", put | {"allocation_id": sent["allocation_id"]})["stored"]
            started.call("memory.deallocate", {"allocation_id": sent["allocation_id"]})
        asked = {"store": "prefixes", "key": "m", "tokens": [1, 2, 3, 4]}
        found = started.call("store.search", asked)["results"]
        assert [each["score"] for each in found] == [3, 2]
        got = started.call("store.get", {"store": "prefixes", "key": found[0]["key"]})
        content = Path(got["shared_memory"]["path"]).read_bytes()
        assert content[: len(tensors)] == tensors
        assert started.call("store.search", asked | {"key": "n"})["results"] == []
        started.call("store.open", {"store": "prefixes", "kind": "kv", "project_id": "other"})
        assert started.call("store.search", asked | {"project_id": "other"})["results"] == []
        assert started.call("store.delete", {"store": "prefixes", "prefix": "m//"})["deleted_entries"] == 2
