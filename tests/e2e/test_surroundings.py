"""A worker where something that most machines have is missing: it starts, works, and says what can't be had."""

import contextlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.process import MIB, ROOT, Worker, eventually, worker
from tests.rigs.model_files import write_model
from tests.rigs.namespaces import with_mounts
from tests.rigs.small_filesystem import small_filesystem

READ_ONLY = "mount -t tmpfs -o ro none {}"
UNWRITABLE = "mount --bind {0} {0} && mount -o remount,bind,ro {0}"
"""What lies there is still seen: this project may lie there itself."""
TEMPORARY = ("/dev/shm", "/tmp", "/var/tmp", "/usr/tmp")  # noqa: S108 - to be hidden, not to be used
SHARED = {"size_bytes": 65536, "memory_type": "shared", "device_id": "cpu"}


def doctor(command: tuple[str, ...]) -> str:
    """Return what ``doctor`` prints there."""
    done = subprocess.run((*command, "doctor"), capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout


@pytest.mark.parametrize(
    "state", ["mount -t tmpfs -o ro none /dev/shm", "mount -t tmpfs none /dev && touch /dev/null"]
)
def test_no_shared_memory_folder(tmp_path: Path, state: str) -> None:
    """Where /dev/shm can't be written to, or is not there, the temp folder holds what is shared."""
    with Worker(command=with_mounts(state), environment={"TMPDIR": str(tmp_path)}) as started:
        path = Path(started.call("memory.allocate", SHARED)["shared_memory"]["path"])
        assert path.is_relative_to(tmp_path)
        assert path.stat().st_size == 65536
        started.close_input()
        assert started.exit_code() == 0
    assert list(tmp_path.iterdir()) == []


def test_no_folder_at_all() -> None:
    """Where no folder can be written to, only shared memory is refused, and the refusal says what to do."""
    mounts = [UNWRITABLE.format(place) for place in TEMPORARY if Path(place).is_dir()]
    command = with_mounts(*mounts, "cd /proc")  # the current folder counts as a temporary one, too
    environment = {"PYTHONPATH": str(ROOT), "TMPDIR": "/nowhere"}
    with Worker(command=command, environment=environment) as started:
        error = started.refused("memory.allocate", SHARED)
        assert error["code"] == "unsupported"
        assert "--shared-folder" in error["message"]
        started.call("memory.allocate", {"size_bytes": MIB, "device_id": "cpu"})
        started.close_input()
        assert started.exit_code() == 0


def test_no_proc(tmp_path: Path) -> None:
    """Without /proc there are fewer figures, and nothing made up: unknown is null, and doctor says why."""
    command = with_mounts("mount -t tmpfs none /proc")
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
    with Worker(*options, command=command) as started:
        device = started.call("memory.get_status", {"device_id": "cpu"})["devices"][0]
        assert device["total_bytes"] > 2**30
        assert 0 < device["available_bytes"] < device["total_bytes"]
        assert device["process_used_bytes"] is None
        assert started.call("memory.allocate", {"size_bytes": MIB, "device_id": "cpu"})["actual_bytes"] == MIB
        # what is cached counts as used, for nothing says how much that is: any level but none
        assert started.call("memory.get_pressure")["devices"][0]["pressure_level"] != "unknown"
        listed = started.call("memory.get_status", {"include_processes": True})["devices"]
        assert [each["processes"] for each in listed] == [None, None]
        for where in ("cpu", "sim:0"):
            started.call("memory.load_model", {"model_id": "m", "device_id": where})
            assert started.call("memory.unload_model", {"model_id": "m"})["freed_bytes"] == MIB
        started.close_input()
        assert started.exit_code() == 0
    assert "/proc does not say" in doctor(command)


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    """Shared files lie where no other user can put anything; a folder that others may enter is not used."""
    command = with_mounts(READ_ONLY.format(TEMPORARY[0]))
    folder = tmp_path / f"memory-worker-{os.geteuid()}"
    with Worker(command=command, environment={"TMPDIR": str(tmp_path)}) as started:
        assert Path(started.call("memory.allocate", SHARED)["shared_memory"]["path"]).parent == folder
        assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with Worker(command=command, environment={"TMPDIR": str(tmp_path)}) as started:
        assert Path(started.call("memory.allocate", SHARED)["shared_memory"]["path"]).parent == tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="files have no modes there")
def test_an_umask_that_takes_all(tmp_path: Path) -> None:
    """What the worker shares is its user's to read and write, whatever its host was started with."""
    command = ("sh", "-c", 'umask 0777 && exec "$@"', "sh", sys.executable, "-m", "memory_worker")
    with Worker("--shared-folder", str(tmp_path), command=command) as started:
        made = started.call("memory.allocate", SHARED)["shared_memory"]
        assert Path(made["path"]).stat().st_mode & 0o777 == 0o600


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Return a folder whose name is no UTF-8, as is legal on Linux."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/s\xff"))
    try:
        folder.mkdir()
    except (OSError, UnicodeError):
        pytest.skip("this file system has only names in Unicode")
    return folder


def test_names_that_are_no_utf8(odd: Path) -> None:
    """They are names like any other, for models, records, metrics and sockets; where one is told it is spelled out."""
    write_model(odd / "m.safetensors", 64, seed=1)
    rows = (
        "{id: m, loader: safetensors, path: m.safetensors}",
        "{id: n, loader: safetensors, path: n.safetensors}",
    )
    (odd / "models.yaml").write_text(f"models: [{', '.join(rows)}]\n")
    options = ("--models", odd / "models.yaml", "--model-root", odd, "--record", odd / "r.jsonl",
               "--metrics-file", odd / "m.prom", "--monitor-socket", odd / "w.sock")  # fmt: skip
    with worker(*map(str, options)) as started:
        started.call("memory.load_model", {"model_id": "m", "device_id": "cpu"})
        error = started.refused("memory.load_model", {"model_id": "n", "device_id": "cpu"})
        assert "s\\xff/n.safetensors" in error["message"]
        assert error["details"]["path"].endswith("s\\xff/n.safetensors")
        assert (odd / "m.prom").read_text().endswith("# EOF\n")
        started.close_input()
        assert started.exit_code() == 0
    for words in (("report", odd / "r.jsonl"), ("simulate", odd / "r.jsonl"), ("report", odd / "none")):
        command = [sys.executable, "-m", "memory_worker", *map(str, words)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == (2 if words[1].name == "none" else 0)
        assert b"Traceback" not in done.stderr


def test_shared_files_in_a_folder_whose_name_is_no_utf8(odd: Path) -> None:
    """JSON can't name files in it, and the refusal says so; the worker serves on."""
    with worker("--shared-folder", str(odd)) as started:
        error = started.refused("memory.allocate", SHARED)
        assert error["code"] == "unsupported"
        assert "s\\xff" in error["message"]
        assert started.call("worker.ping")["uptime_ms"] >= 0


def test_a_store_on_a_full_disk(tmp_path: Path) -> None:
    """Whoever runs the worker hears of it, too, once in the log, and in its health until the disk takes a change again."""

    def stores(started: Worker) -> tuple[str, str | None]:
        parts = started.call("worker.get_health")["parts"]
        return next((part["state"], part["reason"]) for part in parts if part["name"] == "stores")

    with (
        small_filesystem(tmp_path / "small", 1024 * 1024) as small,
        worker("--store-folder", str(small / "kept"), "--log-level", "info") as started,
    ):
        started.call("store.open", {"store": "c", "kind": "cache", "options": {"persist": True}})
        put, keys = {"store": "c", "value": "x" * 200_000}, itertools.count()
        while (done := started.call("store.put", {**put, "key": str(next(keys))}))["stored"]:
            assert stores(started) == ("ok", None)
        started.call("store.put", {**put, "key": "again"})
        state, reason = stores(started)
        assert state == "degraded"
        assert done["reason"] in str(reason)
        started.call("store.clear", {"store": "c"})
        assert stores(started) == ("ok", None)
        started.close_input()
        assert started.exit_code() == 0
        for said in ("can't be changed", "can be changed again"):
            eventually(lambda said=said: started.stderr().count(said) == 1, said)


def test_a_full_disk(tmp_path: Path) -> None:
    """Where the disk is full the record ends, and is said to; the metrics come again when there is room."""
    with small_filesystem(tmp_path / "small", 256 * 1024) as small:
        record, metrics, filler = small / "r.jsonl", small / "m.prom", small / "filler"
        options = ("--record", str(record), "--metrics-file", str(metrics), "--metrics-seconds", "0.1")
        with worker(*options) as started:
            with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(b"x" * 4096):
                    pass
            owners = (f"{number}" + "x" * 200 for number in itertools.count())

            def told(said: str) -> bool:
                """Have more recorded, until its last page is full as well, and look."""
                data = {"size_bytes": 4096, "device_id": "cpu", "owner": next(owners)}
                started.call("memory.allocate", data)
                return said in started.stderr()

            for said in ("decisions are no longer recorded", "the metrics file cannot be written"):
                eventually(lambda said=said: told(said), said)
            health = started.call("worker.get_health")
            parts = {part["name"]: (part["state"], part["reason"]) for part in health["parts"]}
            assert health["state"] == parts["record"][0] == "failed"
            assert parts["metrics_file"][0] == "degraded"
            assert all("No space" in str(parts[name][1]) for name in ("record", "metrics_file"))
            assert metrics.read_text().endswith("# EOF\n")  # the last that was whole
            before = metrics.stat().st_mtime_ns
            filler.unlink()
            eventually(lambda: metrics.stat().st_mtime_ns != before, "new metrics")

            def states() -> tuple[str, str]:
                parts = {part["name"]: part["state"] for part in started.call("worker.get_health")["parts"]}
                return parts["record"], parts["metrics_file"]

            eventually(
                lambda: states() == ("failed", "ok"), "that they are written, which is noted afterwards"
            )
            assert started.call("worker.ping")["uptime_ms"] >= 0
            started.close_input()
            assert started.exit_code() == 0
        assert not metrics.exists()
