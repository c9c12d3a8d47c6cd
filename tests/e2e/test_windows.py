"""What the worker does as a Windows program: the same answers, real figures, nothing left behind."""

import hashlib
import itertools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.golden_files import Golden
from tests.rigs.windows.fetch import WindowsError
from tests.rigs.windows.python_on_wine import WindowsPython, windows_python
from tests.unit.isolation import SIMULATED

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
ANSWERED_ALIKE = (
    "allocate",
    "clear",
    "deallocate",
    "frames",
    "hello",
    "invalid_json",
    "lease",
    "load_model",
    "order",
)
IDS = itertools.count()


@pytest.fixture(scope="module")
def windows() -> Iterator[WindowsPython]:
    """Give a Windows Python, or skip with what is missing."""
    try:
        with windows_python() as python:
            yield python
    except WindowsError as error:
        pytest.skip(f"no Windows Python: {error}")


def said(done: "subprocess.CompletedProcess[bytes]") -> str:
    """Return the end of what a test run under Wine printed: what Windows itself says of an error has its own letters."""
    return done.stdout.decode(errors="replace")[-4000:]


def ask(process: "subprocess.Popen[bytes]", action: str, **data: Any) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    request = {"request_id": str(next(IDS)), "action": action, "data": data}
    process.stdin.write(json.dumps(request).encode() + b"\n")
    reply = json.loads(process.stdout.readline())
    assert reply["success"], reply
    return reply["data"]


@pytest.mark.parametrize("name", ANSWERED_ALIKE)
def test_the_recorded_conversations_are_answered_alike(windows: WindowsPython, name: str) -> None:
    """Byte for byte what a worker on Linux answers, with LF alone, and exit code 0."""
    golden = Golden(name)
    options = ["-m", "worker", "--deterministic", *golden.options]
    done = windows.run(options, root=ROOT, sent=golden.sent.read_bytes())
    assert done.returncode == 0, done.stderr.decode()
    answered = golden.answered.read_bytes()
    assert sorted(done.stdout.split(b"\n")) == sorted(answered.split(b"\n"))


def test_the_examples_conversation(windows: WindowsPython) -> None:
    """The README's conversation is held to its end: one reply for each line."""
    sent = (ROOT / "examples/conversation.jsonl").read_bytes()
    done = windows.run(["-m", "worker"], root=ROOT, sent=sent)
    assert done.returncode == 0, done.stderr.decode()
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(replies) == len(sent.splitlines())
    codes = {reply["error"]["code"] for reply in replies if not reply["success"]}
    assert "internal_error" not in codes


def test_freed_bytes_are_measured(windows: WindowsPython) -> None:
    """What a free returns is counted by the system: nothing for pages that were never touched."""
    with windows.popen(["-m", "worker"], root=ROOT) as process:
        for initialize, returned in (("zero", 64 * MIB), ("none", 0)):
            made = ask(process, "memory.allocate", size_bytes=64 * MIB, initialize=initialize)
            freed = ask(process, "memory.deallocate", allocation_id=made["allocation_id"])
            assert freed["returned_bytes"] == returned
        assert ask(process, "worker.shutdown") == {"drained": 0}
        assert windows.ended(process)


def test_a_killed_workers_shared_file_is_removed_by_the_next(windows: WindowsPython, tmp_path: Path) -> None:
    """A worker that was killed leaves a file and a lock; the next one to start removes both."""
    options = ["-m", "worker", "--shared-folder", str(tmp_path)]
    with windows.popen(options, root=ROOT) as process:
        ask(process, "memory.allocate", size_bytes=MIB, memory_type="shared")
        assert len(list(tmp_path.iterdir())) == 2
        process.kill()
    done = windows.run(options, root=ROOT)
    assert done.returncode == 0, done.stderr.decode()
    assert list(tmp_path.iterdir()) == []


WRITES = """
import mmap, sys
held = mmap.mmap(-1, int(sys.argv[2]), tagname=sys.argv[1])
assert not any(held[: 4096])
held[:] = bytes([7]) * len(held)
"""
"""What a host does with a section; the memory stays while the worker has it open."""


def test_a_section_is_one_memory_and_leaves_nothing_behind(windows: WindowsPython, tmp_path: Path) -> None:
    """What another process writes into it by its name goes on to a device; no folder holds anything."""
    options = ["-m", "worker", "--shared-memory", "section", "--shared-folder", str(tmp_path)]
    with windows.popen([*options, "--simulated-device", "64MiB"], root=ROOT) as process:
        made = ask(process, "memory.allocate", size_bytes=5 * MIB + 1, device_id="cpu", memory_type="shared")
        shared = made["shared_memory"]
        assert (shared["kind"], shared["size_bytes"]) == ("section", 5 * MIB + 1)
        wrote = windows.run(["-c", WRITES, shared["path"], str(shared["size_bytes"])], root=ROOT)
        assert wrote.returncode == 0, wrote.stderr.decode()
        to = {"destination_device_id": "sim:0", "verify": True}
        copied = ask(process, "memory.transfer", source_allocation_id=made["allocation_id"], **to)
        digest = hashlib.sha256(bytes([7]) * shared["size_bytes"]).hexdigest()
        assert copied["checksum"] == f"sha256:{digest}"
        freed = ask(process, "memory.deallocate", allocation_id=made["allocation_id"])
        assert (freed["freed_bytes"], freed["returned_bytes"]) == (5 * MIB + 1, None)
        assert list(tmp_path.iterdir()) == []
        process.kill()


def test_every_backend_conforms(windows: WindowsPython) -> None:
    """The conformance suite passes under Windows Python."""
    done = windows.run(
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not isolated", "tests/conformance"],
        root=ROOT,
    )
    assert done.returncode == 0, said(done)


def test_a_device_reads_model_files_by_itself(windows: WindowsPython) -> None:
    """What holds of that holds there: the file is found by its path, and is the one that was opened or is read here."""
    tests = "tests/unit/backends/isolation/test_model_files.py"
    done = windows.run(["-m", "pytest", "-v", "-p", "no:cacheprovider", tests], root=ROOT)
    assert done.returncode == 0, said(done)
    for name in ("test_the_process_reads_the_file", "test_cancelling_leaves_nothing"):
        assert f"{name}[{SIMULATED}] PASSED" in said(done), said(done)


def test_a_device_maps_sections_by_itself(windows: WindowsPython) -> None:
    """One view for as long as a section lives, which it does not prolong."""
    tests = [f"tests/unit/backends/isolation/test_{name}.py" for name in ("shared_copies", "section_maps")]
    done = windows.run(["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests], root=ROOT)
    assert done.returncode == 0, said(done)
    assert "4 passed" in said(done), said(done)


def test_a_device_in_a_process_of_its_own(windows: WindowsPython) -> None:
    """Pipes, a named map and a new process carry a device's contents over; a missing torch_directml is named."""
    options = ["-m", "worker", "--isolate", "simulated", "--simulated-device", "256MiB,pooled=1"]
    with windows.popen(options, root=ROOT) as process:
        source = ask(process, "memory.allocate", size_bytes=5 * MIB, device_id="cpu")["allocation_id"]
        to = {"destination_device_id": "sim:0", "verify": True}
        copied = ask(process, "memory.transfer", source_allocation_id=source, **to)
        dead = ask(process, "memory.allocate", size_bytes=50 * MIB, device_id="sim:0")["allocation_id"]
        ask(process, "memory.deallocate", allocation_id=dead)
        done = ask(process, "memory.defragment", device_id="sim:0", aggressive=True)
        assert (done["returned_bytes"], done["allocations_moved"]) == (50 * MIB, 1)
        back = {"source_allocation_id": copied["destination_allocation_id"], "destination_device_id": "cpu"}
        assert ask(process, "memory.transfer", **back, verify=True)["checksum"] == copied["checksum"]
        while (status := ask(process, "memory.get_status", device_id="dml:0")["devices"][0])[
            "state"
        ] == "probing":
            ask(process, "worker.ping")
        assert status["state"] == "unavailable"
        assert "directml" in status["state_reason"]
        ask(process, "worker.shutdown")
        assert windows.ended(process)
