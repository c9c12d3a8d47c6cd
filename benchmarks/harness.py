"""What the benchmarks share: a worker to talk to, medians, and a table."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

import orjson


class Peer:
    """A process that reads lines and writes lines."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self._stdin, self._stdout = self._process.stdin.fileno(), self._process.stdout.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def exchange(self, lines: bytes, replies: int) -> bytes:
        """Write lines and read until as many replies have come."""
        os.write(self._stdin, lines)
        got = b""
        while got.count(b"\n") < replies:
            got += os.read(self._stdout, 1 << 16)
        return got

    def ask(self, action: str, **data: Any) -> dict[str, Any]:
        """Ask a worker. RuntimeError with its answer if it refuses."""
        request = {"request_id": os.urandom(8).hex(), "action": action, "data": data}
        reply = orjson.loads(self.exchange(orjson.dumps(request) + b"\n", 1))
        if not reply["success"]:
            raise RuntimeError(reply["error"])
        return dict(reply["data"])


def worker(*options: str) -> Peer:
    """Start a worker."""
    return Peer("-m", "worker", *options)


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def processor_seconds(work: Callable[[], object]) -> float:
    """Time one call by what the processor did of it in this process, which is the same on a busy machine."""
    started = time.process_time()
    work()
    return time.process_time() - started


def instructions(work: Callable[[], object]) -> int:
    """Count the interpreter's instructions of one call in this thread: the same on every machine, and on a busy one."""
    counted = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Callable[..., Any]:
        nonlocal counted
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counted += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return counted


def interleaved(rounds: int, *works: Callable[[], float]) -> list[float]:
    """Call each in turn, round by round, and return each one's median: the machine's mood hits all alike."""
    results: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, into in zip(works, results, strict=True):
            into.append(work())
    return [statistics.median(each) for each in results]


def row(name: str, ours: float, floor: float, unit: str, target: str) -> None:
    """Print one comparison."""
    print(f"{name:44} {ours:10.2f} {floor:10.2f} {unit:5} {ours / floor:6.2f}x   target {target}", flush=True)


def heading(title: str, floor: str) -> None:
    """Print what is compared with what."""
    print(f"\n{title}\n{'':44} {'worker':>10} {'floor':>10}         ratio   (floor: {floor})", flush=True)
