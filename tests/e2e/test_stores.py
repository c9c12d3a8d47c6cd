"""Stores of a running worker, by piped JSON: copies of bytes, kills, and names that a plugin had first."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import ROOT
from tests.rigs.worker_process import WorkerProcess


def ask(worker: WorkerProcess, action: str, **data: Any) -> dict[str, Any]:
    """Ask, and return the reply."""
    worker.write(
        json.dumps({"request_id": os.urandom(6).hex(), "action": action, "data": data}).encode() + b"\n"
    )
    reply: dict[str, Any] = json.loads(worker.read_line())
    return reply


def done(worker: WorkerProcess, action: str, **data: Any) -> dict[str, Any]:
    """Ask for something that succeeds, and return its data."""
    reply = ask(worker, action, **data)
    assert reply["success"], reply
    found: dict[str, Any] = reply["data"]
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="the bytes are looked at as a file")
def test_an_allocations_bytes_are_copied_in_and_out() -> None:
    """Neither what was put nor what was got is the entry: each is a copy of its own, and the latter has a lease."""
    with WorkerProcess() as worker:
        sent = done(worker, "memory.allocate", size_bytes=10_000, memory_type="shared", device_id="cpu")
        content = os.urandom(10_000)
        Path(sent["shared_memory"]["path"]).write_bytes(content)
        done(worker, "store.open", store="blobs", kind="cache")
        put = done(
            worker, "store.put", store="blobs", key="b", allocation_id=sent["allocation_id"], cost_ms=5
        )
        assert put["stored"]
        Path(sent["shared_memory"]["path"]).write_bytes(bytes(10_000))
        done(worker, "memory.deallocate", allocation_id=sent["allocation_id"])
        got = done(worker, "store.get", store="blobs", key="b")
        assert got["value"] is None
        path = Path(got["shared_memory"]["path"])
        assert path.read_bytes() == content
        path.write_bytes(bytes(10_000))
        again = done(worker, "store.get", store="blobs", key="b")
        assert again["allocation_id"] != got["allocation_id"]
        assert Path(again["shared_memory"]["path"]).read_bytes() == content
        [row] = done(worker, "memory.get_allocations", allocation_id=got["allocation_id"])["allocations"]
        assert 0 < row["lease_expires_in_ms"] <= 60_000
        assert row["purpose"] == "store.get"
        reply = ask(worker, "store.put", store="blobs", key="c", allocation_id="alloc-99")
        assert reply["error"]["code"] == "allocation_not_found"
        assert done(worker, "store.get", store="blobs", key="c")["found"] is False


def test_what_persists_is_there_after_a_kill(tmp_path: Path) -> None:
    """All that was answered is, with its options; what did not ask for it is not; another worker has to wait its turn."""
    options = ("--store-folder", str(tmp_path / "stores"))
    scope = {"user_id": "ann", "project_id": "p"}
    with WorkerProcess(*options) as worker:
        done(worker, "store.open", store="kept", kind="cache", options={"preset": "results"}, **scope)
        done(worker, "store.open", store="gone", kind="sessions", **scope)
        for number in range(50):
            done(worker, "store.put", store="kept", key=str(number), value={"n": number}, tags=["t"], **scope)
        done(worker, "store.put", store="gone", key="s", value={"history": [1]}, **scope)
        with WorkerProcess(*options) as second:
            reply = ask(second, "store.open", store="kept", kind="cache", **scope)
            assert reply["error"]["code"] == "unsupported"
            assert "another worker" in reply["error"]["message"]
        worker.process.kill()
        worker.process.wait()
    with WorkerProcess(*options) as worker:
        assert ask(worker, "store.get", store="kept", key="1", **scope)["error"]["code"] == "store_not_found"
        opened = done(worker, "store.open", store="kept", kind="cache", **scope)
        assert opened["created"] is False
        for number in range(50):
            assert done(worker, "store.get", store="kept", key=str(number), **scope)["value"] == {"n": number}
        assert done(worker, "store.open", store="gone", kind="sessions", **scope)["created"]
        assert done(worker, "store.get", store="gone", key="s", **scope)["found"] is False
        forgotten = done(worker, "store.delete_scope", user_id="ann")
        assert forgotten["stores"] == ["kept", "gone"]
        assert forgotten["deleted_entries"] == 50


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """The worker says so when it is started, and not when the first store is opened."""
    file = tmp_path / "file"
    file.touch()
    for folder, why in (
        (file, "it is no folder"),
        (file / "below", "its path leads through something that is no folder"),
    ):
        command = [sys.executable, "-m", "memory_worker", "--store-folder", str(folder)]
        done = subprocess.run(command, cwd=ROOT, input="", capture_output=True, check=False, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"--store-folder {folder}: {why}" in done.stderr


def test_requests_of_one_store_are_answered_as_they_were_sent(tmp_path: Path) -> None:
    """Opening takes its time, and what follows waits for it, in memory and on disk."""
    lines = []
    for persist in (False, True):
        name = {"store": f"s{persist}"}
        lines.append(("store.open", name | {"kind": "cache", "options": {"persist": persist or None}}))
        for number in range(200):
            lines.append(("store.put", name | {"key": f"k{number % 3}", "value": number}))
            lines.append(("store.get", name | {"key": f"k{number % 3}"}))
        lines.append(("store.delete", name | {"prefix": "k"}))
        lines.append(("store.get", name | {"key": "k0"}))
    with WorkerProcess("--store-folder", str(tmp_path), "--max-inflight", "2000") as worker:
        for index, (action, data) in enumerate(lines):
            worker.write(
                json.dumps({"request_id": str(index), "action": action, "data": data}).encode() + b"\n"
            )
        replies = {}
        for _ in lines:
            reply = json.loads(worker.read_line())
            replies[int(reply["request_id"])] = reply
    for index, (action, _) in enumerate(lines):
        assert replies[index]["success"], replies[index]
        if action == "store.get":
            sent = lines[index - 1][1]
            wanted = (True, sent["value"]) if "value" in sent else (False, None)
            assert (replies[index]["data"]["found"], replies[index]["data"]["value"]) == wanted


def test_a_plugin_that_had_such_a_name_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the worker's own action, and the log says so; its other actions are the worker's."""
    code = "def register(host):\n    host.add_action('store.get', lambda data, call: {'mine': data})\n"
    (tmp_path / "older_plugin.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with WorkerProcess("--plugin", "older_plugin") as worker:
        assert done(worker, "store.get", anything=1) == {"mine": {"anything": 1}}
        done(worker, "store.open", store="s", kind="cache")
        actions = done(worker, "worker.hello")["actions"]
        assert len(actions) == len(set(actions))
        assert "a plugin's action has a reserved name, and keeps it" in worker.log()
