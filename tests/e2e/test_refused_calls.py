"""A worker where the system has not all calls, or a container's filter refuses them: it does without, or says what to do."""

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.process import MIB, ROOT, Worker
from tests.rigs.model_files import write_model
from tests.rigs.onnx_files import scaling
from tests.rigs.refused_calls import refusing

WORKER = (sys.executable, "-m", "memory_worker")
CALLS = ("memfd_create", "fallocate", "madvise", "prlimit64", "statfs,fstatfs", "pidfd_open", "eventfd2")


def start_of(code: int, calls: str) -> tuple[str, ...]:
    """Return what starts a worker there. Skips where no call can be refused."""
    words = refusing(code, *calls.split(","))
    if not words:
        pytest.skip("filters of system calls are tried on Linux and x86-64")
    return (*words, *WORKER)


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS], ids=["refused", "not there"])
@pytest.mark.parametrize("calls", CALLS)
def test_it_does_without(tmp_path: Path, calls: str, code: int) -> None:
    """Each has another way, or is a question whose answer is unknown then: memory is allocated, shared, moved, and freed."""
    write_model(tmp_path / "m.safetensors", MIB, seed=1)
    (tmp_path / "models.yaml").write_text("models: {m: {path: m.safetensors}}\n")
    options = (
        "--isolate",
        "simulated",
        "--simulated-device",
        "64MiB",
        "--models",
        str(tmp_path / "models.yaml"),
    )
    with Worker(*options, command=start_of(code, calls)) as started:
        assert started.call("worker.hello", {"host_pid": os.getpid()})["host_watched"] is True
        shared = {"size_bytes": MIB, "memory_type": "shared", "device_id": "cpu"}
        made = started.call("memory.allocate", shared)
        assert Path(made["shared_memory"]["path"]).stat().st_size == MIB
        own = started.call("memory.allocate", {"size_bytes": MIB, "device_id": "cpu"})
        for source in (made, own):
            transfer = {
                "source_allocation_id": source["allocation_id"],
                "destination_device_id": "sim:0",
                "verify": True,
            }
            assert started.call("memory.transfer", transfer)["state"] == "completed"
        for device in ("cpu", "sim:0"):
            assert (
                started.call("memory.load_model", {"model_id": "m", "device_id": device})["state"] == "loaded"
            )
            started.call("memory.unload_model", {"model_id": "m"})
        assert started.call("memory.clear", {"clear_type": "all"})["allocations_freed"] == 4
        started.close_input()
        assert started.exit_code() == 0
        assert started.stderr() == ""


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS], ids=["refused", "not there"])
def test_engines_without_files_in_memory(tmp_path: Path, code: int) -> None:
    """What an engine's process and the worker both see is in a temporary file then, which goes with it."""
    pytest.importorskip("onnxruntime")
    (tmp_path / "m.onnx").write_bytes(scaling(4))
    (tmp_path / "models.yaml").write_text("models: {m: {path: m.onnx}}\n")
    (tmp_path / "temporary").mkdir()
    environment = {"TMPDIR": str(tmp_path / "temporary")}
    command = start_of(code, "memfd_create")
    with Worker(
        "--models", str(tmp_path / "models.yaml"), command=command, environment=environment
    ) as started:
        assert started.call("memory.load_model", {"model_id": "m"})["state"] == "loaded"
        started.close_input()
        assert started.exit_code() == 0
    assert list((tmp_path / "temporary").glob("memory-worker*")) == []


def test_no_thread_can_be_started() -> None:
    """A filter that is older than the C library refuses the call that threads are started with: that is said."""
    if platform.libc_ver() < ("glibc", "2.34"):
        pytest.skip("this C library starts threads by an older call")
    done = subprocess.run(
        start_of(errno.EPERM, "clone3"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert "no more threads" in done.stderr
    assert "filter of system calls may be older" in done.stderr
