"""The stream under everything that a host or a library can do to it."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.process import MIB, ROOT, Worker, eventually, line, worker

MAX_FRAME = 16 * MIB

NOISY = """
import ctypes, os, subprocess, sys
from worker.stream import descriptors

claim = descriptors.claim

def claim_then_spoil():
    claimed = claim()
    from worker.backends.cpu import CpuBackend
    allocate = CpuBackend.allocate
    libc = ctypes.CDLL(None)

    def noisy(self, *arguments):
        print("NOISE print", flush=True)
        sys.__stdout__.write("NOISE sys.__stdout__\\\\n")
        sys.__stdout__.flush()
        libc.puts(b"NOISE puts")
        libc.fflush(None)
        os.write(1, b"NOISE descriptor 1\\\\n")
        os.system("echo NOISE child")
        subprocess.run([sys.executable, "-c", "print('NOISE python child'); assert not input()"], check=False)
        subprocess.run(["ls", "-l", "/proc/self/fd"], check=False)
        return allocate(self, *arguments)

    CpuBackend.allocate = noisy
    return claimed

descriptors.claim = claim_then_spoil
from worker.__main__ import main
main()
""".replace("\\\\n", "\\n")

MODULES = """
import atexit, os, sys
leave = os._exit
def tell(code):
    os.write(2, ("MODULES " + " ".join(sorted(sys.modules)) + "\\n").encode())
    leave(code)
os._exit = tell
from worker.__main__ import main
main()
"""


def wrapped(script: str) -> tuple[str, ...]:
    """Return the command that runs a worker inside a script."""
    return (sys.executable, "-c", script)


@pytest.mark.skipif(sys.platform != "linux", reason="puts and /proc as on Linux")
def test_nothing_else_reaches_the_protocol_stream() -> None:
    """``print``, C ``puts``, descriptor 1 and child processes end up on stderr; children get no descriptor of ours."""
    with Worker(command=wrapped(NOISY)) as started:
        for _ in range(3):
            started.call("memory.allocate", {"size_bytes": 4096, "device_id": "cpu"})
        assert len(started.lines) == 3
        assert not any(b"NOISE" in each for each in started.lines)
        eventually(
            lambda: started.stderr().count('"message":"NOISE print"') == 3, "what Python prints in the log"
        )
        errors = started.stderr()
        for source in ("sys.__stdout__", "puts", "descriptor 1", "child", "python child"):
            # Without its end of line, which C may write apart: the log's line comes between at times.
            assert len(re.findall(rf"NOISE {source}(?!')", errors)) == 3
        output = f"pipe:[{os.fstat(started.process.stdout.fileno()).st_ino}]"
        assert output not in errors, "a child process inherited the protocol stream"


def test_what_a_first_answer_imports() -> None:
    """A worker that answered a get_status has not paid for what it did not need."""
    with Worker(command=wrapped(MODULES)) as started:
        started.call("memory.get_status")
        started.close_input()
        assert started.exit_code() == 0
        last = started.stderr().splitlines()[-1]
        assert last.startswith("MODULES ")
        loaded = set(last.split())
        assert "orjson" in loaded
        # hashlib comes with pydantic, by way of secrets.
        assert loaded & {"torch", "asyncio", "yaml", "logging", "numpy", "difflib"} == set()


def test_silent_until_spoken_to() -> None:
    """One line in, one line out: no banner, and no event or progress that nobody asked for."""
    with worker("--simulated-device", "64MiB") as started:
        source = started.call("memory.allocate", {"size_bytes": 32 * MIB, "device_id": "cpu"})
        transfer = {"source_allocation_id": source["allocation_id"], "destination_device_id": "sim:0"}
        started.call("memory.transfer", transfer)
        started.close_input()
        assert started.exit_code() == 0
        assert len(started.lines) == 3


def test_line_of_40_mb() -> None:
    """A line over the limit is answered once, costs no memory, and the next line is read as ever."""
    with worker() as started:
        before = started.rss()
        head = b'{"request_id": "big", "action": "worker.ping", "data": {"x": "'
        started.send_bytes(head)
        for _ in range(40):
            started.send_bytes(b"x" * MIB)
        started.send_bytes(b'"}}\n')
        reply = started.reply("big")
        assert reply["error"]["code"] == "frame_too_large"
        assert started.call("worker.ping")["uptime_ms"] >= 0
        assert started.rss() - before < 2 * MAX_FRAME
        assert len(started.lines) == 3


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_longest_line(ending: bytes) -> None:
    """A frame of exactly the limit is read, with LF and with CRLF; one byte more is too large."""
    limit = 4096
    with worker("--max-frame-bytes", str(limit)) as started:
        for extra in (0, 1):
            request = line("worker.ping", request_id=f"n{extra}", meta={"x": ""}).rstrip(b"\n")
            padded = request.replace(b'"x":""', b'"x":"' + b"y" * (limit + extra - len(request)) + b'"')
            assert len(padded) == limit + extra
            started.send_bytes(padded + ending)
        assert started.reply("n1")["error"]["code"] == "frame_too_large"
        assert started.reply("n0")["success"]


def test_no_reply_is_longer_than_a_frame() -> None:
    """What a host sends back to itself in an error is bounded by the frame, like every reply."""
    limit = 2048
    with worker("--max-frame-bytes", str(limit)) as started:
        started.send("memory.allocate", {"size_bytes": 1, "k" * 1500: 1}, request_id="key")
        started.send("memory.get_nothing", request_id="action")
        started.reply("key")
        started.reply("action")
        assert max(map(len, started.lines)) < limit


def test_byte_order_marks_without_end() -> None:
    """A line of nothing but byte order marks is one more line that is not JSON, or blank."""
    with worker() as started:
        started.send_bytes(b"\xef\xbb\xbf" * 5000 + b"\n")
        assert started.call("worker.ping")
        assert len(started.lines) <= 3


def test_host_that_does_not_read() -> None:
    """A worker whose host does not read stops reading, stays small, and goes on where it was."""
    many = 20_000
    requests = b"".join(
        line(
            "memory.allocate",
            {"size_bytes": 1 + n % 7, "device_id": "cpu", "initialize": "none"},
            request_id=f"q{n}",
        )
        if n % 50 == 0
        else line("memory.get_status", request_id=f"q{n}")
        for n in range(many)
    )
    with Worker(reading=False) as started:
        written = threading.Event()

        def send() -> None:
            started.send_bytes(requests)
            written.set()

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        process, sizes = psutil.Process(started.pid), list[float]()

        def waits() -> bool:
            # Its processor time stands still: it can only be waiting for us.
            sizes.append(sum(process.cpu_times()[:2]))
            return sizes[-1] > 0.1 and len(sizes) > 30 and sizes[-1] == sizes[-30]

        eventually(waits, "the worker waits")
        assert not written.is_set(), "the worker took everything without anybody reading"
        assert started.rss() < 120 * MIB
        started.start_reading()
        started.wait_count(many)
        assert started.rss() < 120 * MIB
        assert {frame["request_id"] for frame in started.frames} == {f"q{n}" for n in range(many)}
        assert len(started.frames) == many
        sender.join(10)


def test_events_to_a_host_that_does_not_read() -> None:
    """Events wait in the worker's own bounded books, not in the pipe; their numbers have no gaps."""
    with worker() as started:
        started.call("worker.subscribe", {"events": ["memory.allocation_expired"]})
        count = 50
        for n in range(count):
            lease = {"size_bytes": 4096, "device_id": "cpu", "lease_ms": 1 + n % 5}
            started.call("memory.allocate", lease)
        eventually(
            lambda: len(started.events("memory.allocation_expired")) == count, "every lease was told of"
        )
        assert [event["sequence"] for event in started.events("memory.allocation_expired")] == list(
            range(1, count + 1)
        )
        assert started.call("memory.get_usage", {"device_id": "cpu"})["devices"][0]["allocated_bytes"] == 0


RANDOM = st.binary(max_size=200)
SCRAPS = st.sampled_from(
    [
        b"{",
        b"}",
        b"[" * 70,
        b"]" * 70,
        b'"',
        b"\\ud800",
        b"NaN",
        b"18446744073709551616",
        b"-0.0",
        b"1e400",
        b"\xef\xbb\xbf",
        b"\xff",
        b"\x00",
        b"\r",
        b"\n",
        b"\n",
        b"null",
        b'{"request_id": "1", "action": "worker.ping"}',
        b'{"request_id": "1", "action": "worker.ping"',
        b'{"request_id": "2", "action": "memory.allocate", "data": {"size_bytes": 1}}',
        b'{"request_id": "2", "action": "memory.allocate", "data": {"size_bytes": 1e3}}',
        b'{"request_id": "3", "action": "memory.get_status", "data": {"device_id": "\xc3\xa9"}, "meta": {}}',
        b'{"request_id": "", "action": "worker.ping"}',
        b'{"request_id": "\\ud800", "action": "worker.ping"}',
        b'{"request_id": 7, "action": [], "data": null}',
        b'{"request_id": "4", "action": "memory.deallocate", "data": {"allocation_id": "alloc-\xd9\xa3"}}',
        b'{"request_id": "5", "action": "worker.cancel", "data": {"request_id": "5"}}',
        b"x" * 5000,
    ]
)
BYTES = st.lists(st.one_of(RANDOM, SCRAPS), max_size=12).map(b"".join)


@pytest.fixture(scope="module")
def shared_worker() -> Any:
    """Return one worker for all examples: what one leaves behind is the next one's to bear."""
    with worker("--max-frame-bytes", "4096") as started:
        yield started


counter = iter(range(10**9))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=BYTES)
def test_any_bytes_at_all(shared_worker: Worker, data: bytes) -> None:
    """Any bytes give one reply per line that is not blank, and a worker that goes on."""
    before, marker = len(shared_worker.lines), f"end-{next(counter)}"
    shared_worker.send_bytes(data + b"\n" + line("worker.ping", request_id=marker))
    assert shared_worker.reply(marker)["success"]
    expected = [each for each in data.split(b"\n") if each.removeprefix(b"\xef\xbb\xbf").strip()]
    shared_worker.wait_count(before + len(expected) + 1)
    replies = shared_worker.frames[before:]
    assert len(replies) == len(expected) + 1
    for reply in replies:
        assert reply["success"] or reply["error"]["code"] != "internal_error"
        assert set(reply) - {"replayed"} == {"request_id", "success", "data" if reply["success"] else "error"}


@pytest.mark.parametrize("size", [1, 7, 64, 4096])
def test_chunks_make_no_difference(size: int) -> None:
    """However the bytes arrive, the answers are the same."""
    script = b"".join(
        line(action, data, request_id=str(n))
        for n, (action, data) in enumerate(
            [
                ("memory.allocate", {"size_bytes": 4096, "device_id": "cpu", "owner": "é\u2028"}),
                ("memory.get_allocations", {}),
                ("memory.nothing", {}),
                ("memory.deallocate", {"allocation_id": "alloc-1"}),
            ]
        )
    )
    whole = subprocess.run(
        [sys.executable, "-m", "worker", "--deterministic"],
        input=script,
        capture_output=True,
        cwd=ROOT,
        check=True,
    ).stdout
    with Worker("--deterministic") as started:
        for offset in range(0, len(script), size):
            started.send_bytes(script[offset : offset + size])
        started.close_input()
        assert started.exit_code() == 0
        assert b"".join(each + b"\n" for each in started.lines) == whole
        assert orjson.loads(whole.splitlines()[0])["success"]


def test_command_line_mistakes_are_explained(tmp_path: Path) -> None:
    """What cannot be understood ends with 2 and a message on stderr, before anything is served."""
    for options in (["--simulated-device", "x"], ["--default-device", "sim:9"], ["--max-inflight", "0"]):
        ended = subprocess.run(
            [sys.executable, "-m", "worker", *options],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            check=False,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        assert ended.returncode == 2
        assert ended.stdout == ""
        assert "error:" in ended.stderr
        assert "Traceback" not in ended.stderr
