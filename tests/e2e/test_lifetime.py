"""How a worker ends: in order, with every line answered, and never later than its host."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.process import MIB, PATIENCE_SECONDS, ROOT, Worker, eventually, gone, line, worker

SLOW = f"64MiB,bandwidth_bytes_per_second={8 * MIB}"
STUCK = "64MiB,stall_copy=1"
posix = pytest.mark.skipif(os.name == "nt", reason="signals and descriptors as on POSIX")


def start_copy(started: Worker, size: int = 16 * MIB, device: str = "sim:0") -> str:
    """Begin a transfer to a device that is slow or stuck, and return once it runs."""
    source = started.call("memory.allocate", {"size_bytes": size, "device_id": "cpu"})["allocation_id"]
    transfer = {"source_allocation_id": source, "destination_device_id": device}
    request, question = started.send("memory.transfer", transfer), {"transfer_id": "transfer-1"}
    eventually(
        lambda: started.ask("memory.get_transfer", question).get("data", {}).get("state") == "running",
        "the transfer runs",
    )
    return request


def test_end_of_input_drains() -> None:
    """What was asked before the end of input is done and answered; then the exit code is 0."""
    with worker("--simulated-device", SLOW) as started:
        request = start_copy(started)
        started.close_input()
        assert started.exit_code() == 0
        assert started.reply(request)["success"]


def test_last_line_without_newline() -> None:
    """A request that ends with the input instead of with LF is answered."""
    with Worker() as started:
        started.send_bytes(line("worker.ping", request_id="last").rstrip(b"\n"))
        started.close_input()
        assert started.exit_code() == 0
        assert started.reply("last")["success"]


def test_empty_input() -> None:
    """A worker that is asked nothing says nothing and exits with 0."""
    with Worker() as started:
        started.close_input()
        assert started.exit_code() == 0
        assert started.lines == []


def test_every_line_before_the_end_is_answered() -> None:
    """Input that ends at once behind many requests loses none of them, long or quick."""
    requests = [
        line(
            "memory.allocate",
            {"size_bytes": 4096 if n % 3 else 2 * MIB, "device_id": "cpu"},
            request_id=f"a{n}",
        )
        for n in range(200)
    ]
    with Worker("--max-inflight", "1000") as started:
        started.send_bytes(b"".join(requests))
        started.close_input()
        assert started.exit_code() == 0
        assert sorted(frame["request_id"] for frame in started.frames) == sorted(f"a{n}" for n in range(200))
        assert all(frame["success"] for frame in started.frames)


@posix
def test_sigterm_cancels_what_does_not_end() -> None:
    """SIGTERM during work that hangs: it is cancelled and answered, and the exit code is 0."""
    with worker("--simulated-device", STUCK) as started:
        request = start_copy(started)
        started.terminate()
        assert started.exit_code() == 0
        assert started.reply(request)["error"]["code"] == "cancelled"


@posix
def test_sigterm_lets_short_work_finish() -> None:
    """SIGTERM during work that ends within the grace: it is done and answered; new work is refused."""
    with worker("--simulated-device", SLOW) as started:
        request = start_copy(started)
        started.terminate()
        eventually(
            lambda: started.ask("memory.get_usage").get("error", {}).get("code") == "shutting_down",
            "new work is refused",
        )
        assert started.exit_code() == 0
        assert started.reply(request)["success"]


TERMINATED = """
import os, signal, threading
from worker.stream import descriptors
claim = descriptors.claim
def claim_then_slow_down():
    claimed = claim()
    from worker.backends.cpu import CpuBackend
    allocate = CpuBackend.allocate
    def slow(self, name, request, token):
        if request.size_bytes == 777:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(0.5)
        return allocate(self, name, request, token)
    CpuBackend.allocate = slow
    return claimed
descriptors.claim = claim_then_slow_down
from worker.__main__ import main
main()
"""


@posix
def test_sigterm_in_the_middle_of_quick_work() -> None:
    """What the reading thread has done, or is at, when SIGTERM comes is answered before the end."""
    with Worker(command=(sys.executable, "-c", TERMINATED)) as started:
        sizes = (1, 2, 777)
        requests = [
            line("memory.allocate", {"size_bytes": size, "device_id": "cpu"}, request_id=str(size))
            for size in sizes
        ]
        started.send_bytes(b"".join(requests))
        assert started.exit_code() == 0
        assert [frame["request_id"] for frame in started.frames] == ["1", "2", "777"]


@posix
def test_sigterm_while_the_pipe_is_full() -> None:
    """SIGTERM ends a worker also while nobody reads what it wrote."""
    with Worker("--simulated-device", STUCK, reading=False) as started:
        allocate = {"size_bytes": MIB, "device_id": "cpu"}
        copy = {"source_allocation_id": "alloc-1", "destination_device_id": "sim:0"}
        started.send_bytes(line("memory.allocate", allocate, request_id="1"))
        started.send_bytes(line("memory.transfer", copy, request_id="2"))
        # Queued behind the copy: when it is given up, its answer finds the pipe full.
        move = {**copy, "transfer_type": "move"}
        started.send_bytes(line("memory.transfer", move, request_id="3"))
        fill(started)
        started.terminate()
        assert started.process.wait(PATIENCE_SECONDS) == 0


def fill(started: Worker) -> None:
    """Ask for more than the pipe takes, and wait until the worker is stuck writing it."""
    assert started.process.stdin is not None
    assert started.process.stdout is not None
    assert started.process.stdout.readline(), "it is up"
    request = line("memory.get_analytics", request_id="x" * 100)
    os.set_blocking(started.process.stdin.fileno(), False)
    blocked = 0

    def stuck() -> bool:
        nonlocal blocked
        try:
            os.write(started.process.stdin.fileno(), request * 16)
        except BlockingIOError:
            blocked += 1
        else:
            blocked = 0
        return blocked > 20

    eventually(stuck, "the worker stops reading")
    os.set_blocking(started.process.stdin.fileno(), True)


@posix
def test_sigint_is_the_hosts() -> None:
    """Ctrl-C in a terminal reaches the whole group: the worker ignores it."""
    with worker() as started:
        started.process.send_signal(signal.SIGINT)
        assert started.ask("worker.ping")["success"]
        started.close_input()
        assert started.exit_code() == 0


@posix
def test_sigint_while_starting() -> None:
    """Ctrl-C is the host's also while the worker still imports."""
    script = """
import os, signal
from worker.stream import descriptors
claim = descriptors.claim
def interrupted():
    os.kill(os.getpid(), signal.SIGINT)
    return claim()
descriptors.claim = interrupted
from worker.__main__ import main
main()
"""
    with Worker(command=(sys.executable, "-c", script)) as started:
        assert started.ask("worker.ping")["success"]


def test_a_system_that_lacks_what_a_start_takes() -> None:
    """As a jail without /dev, or a limit of five descriptors: it is told in a line."""
    script = "import os; os.devnull = '/nowhere/null'; from worker.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 2
    assert "can't be taken over" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_killed_host_with_its_pipes() -> None:
    """A host that dies takes its pipe ends along: the worker sees the end of input and goes."""
    script = """
import subprocess, sys
worker = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
worker.stdin.write(b'{"request_id": "1", "action": "worker.ping"}\\n')
worker.stdin.flush()
assert worker.stdout.readline()
print(worker.pid, flush=True)
worker.wait()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, sys.executable, "-m", "worker"], stdout=subprocess.PIPE, cwd=ROOT
    ) as host:
        assert host.stdout is not None
        pid = int(host.stdout.readline())
        host.kill()
        eventually(lambda: gone(pid), "the worker is gone")


def test_killed_host_during_work_that_hangs() -> None:
    """Work that never ends does not keep a worker whose host is gone with both pipes."""
    script = """
import json, subprocess, sys
worker = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def send(action, **data):
    worker.stdin.write(json.dumps({"request_id": action, "action": action, "data": data}).encode() + b"\\n")
    worker.stdin.flush()
send("memory.allocate", size_bytes=1, device_id="cpu")
worker.stdout.readline()
send("memory.transfer", source_allocation_id="alloc-1", destination_device_id="sim:0")
send("worker.ping")
assert worker.stdout.readline()
print(worker.pid, flush=True)
worker.wait()
"""
    command = [sys.executable, "-c", script, sys.executable, "-m", "worker", "--simulated-device", STUCK]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as host:
        assert host.stdout is not None
        process = psutil.Process(int(host.stdout.readline()))
        host.kill()
        try:
            eventually(lambda: gone(process.pid), "the worker is gone")
        finally:
            if process.is_running():
                process.kill()


@pytest.fixture
def host() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process that only waits: the worker is told that it is its host."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("busy", [False, True])
def test_killed_host_while_the_pipe_stays_open(host: subprocess.Popen[bytes], *, busy: bool) -> None:
    """With host_pid in worker.hello, the worker ends after that process, also at work.

    The pipe's ends stay open: this process holds them, as a child of the host might.
    """
    with worker("--simulated-device", STUCK) as started:
        started.call("worker.hello", {"host_pid": host.pid})
        if busy:
            start_copy(started)
        host.kill()
        assert started.exit_code() == 0


def test_killed_host_while_nobody_reads(host: subprocess.Popen[bytes]) -> None:
    """A worker that waits for somebody to read ends after its host, too."""
    with Worker("--simulated-device", STUCK, reading=False) as started:
        copy = {"source_allocation_id": "alloc-1", "destination_device_id": "sim:0"}
        started.send_bytes(line("worker.hello", {"host_pid": host.pid}, request_id="0"))
        started.send_bytes(line("memory.allocate", {"size_bytes": 1, "device_id": "cpu"}, request_id="1"))
        started.send_bytes(line("memory.transfer", copy, request_id="2"))
        started.send_bytes(line("memory.transfer", {**copy, "transfer_type": "move"}, request_id="3"))
        fill(started)
        host.kill()
        assert started.exit_code() == 0


def test_output_closed_by_the_host() -> None:
    """A host that closes the worker's output gets no more work out of it: the worker ends."""
    with Worker(reading=False) as started:
        started.close_output()
        started.send("worker.ping")
        assert started.exit_code() == 0


def test_shutdown_answers_what_came_before() -> None:
    """worker.shutdown waits for what runs, says how much that was, and is the last reply."""
    with worker("--simulated-device", SLOW) as started:
        request = start_copy(started)
        shutdown = started.send("worker.shutdown")
        assert started.exit_code() == 0
        assert started.reply(request)["success"]
        assert started.reply(shutdown)["data"] == {"drained": 1}
        assert [frame["request_id"] for frame in started.frames][-2:] == [request, shutdown]


def test_shutdown_in_one_write_with_others() -> None:
    """Lines read along with worker.shutdown are each answered once: done before it, refused after it."""
    many = 30
    before = [line("memory.get_usage", request_id=f"b{n}") for n in range(many)]
    after = [line("memory.get_usage", request_id=f"a{n}") for n in range(many)]
    together = b"".join([*before, line("worker.shutdown", request_id="s"), *after])
    assert len(together) <= 4096, "a pipe hands over at once what is at most this long"
    with worker() as started:
        started.send_bytes(together)
        assert started.exit_code() == 0
        assert started.reply("s")["success"]
        assert [started.reply(f"b{n}")["success"] for n in range(many)] == [True] * many
        answered = [reply["error"]["code"] for n in range(many) for reply in started.replies(f"a{n}")]
        assert answered == ["shutting_down"] * many


def test_shutdown_at_the_end_of_input() -> None:
    """worker.shutdown as the last line is answered, and the exit code is 0."""
    with Worker() as started:
        started.send("worker.shutdown", request_id="s")
        started.close_input()
        assert started.exit_code() == 0
        assert [frame["request_id"] for frame in started.frames] == ["s"]
        assert started.reply("s")["success"]


def test_everything_is_freed_at_the_end(tmp_path: Path) -> None:
    """No shared file outlives the worker that made it."""
    with worker("--shared-folder", str(tmp_path)) as started:
        data = {"size_bytes": 8192, "memory_type": "shared", "device_id": "cpu", "persistent": True}
        shared = started.call("memory.allocate", data)["shared_memory"]
        assert Path(shared["path"]).stat().st_size == shared["size_bytes"] == 8192
        started.close_input()
        assert started.exit_code() == 0
    assert list(tmp_path.iterdir()) == []


@posix
def test_input_that_does_not_block() -> None:
    """A host whose pipe ends do not block (event loops make them so) is served like any other."""
    readable, writable = os.pipe()
    os.set_blocking(readable, False)
    command = [sys.executable, "-m", "worker"]
    with subprocess.Popen(command, stdin=readable, stdout=subprocess.PIPE, cwd=ROOT) as process:
        os.close(readable)
        try:
            # Long after the start: the worker's first read finds nothing.
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            os.write(writable, line("worker.ping", request_id="1"))
            assert process.stdout is not None
            assert b'"success":true' in process.stdout.readline()
        finally:
            os.close(writable)
        assert process.wait(PATIENCE_SECONDS) == 0
