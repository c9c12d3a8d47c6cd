"""A real worker in a process of its own, and a limit on how long anyone waits for it."""

import os
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 30.0
"""Far longer than any answer takes: whoever reaches it is stuck, not slow."""

_COMMAND = (sys.executable, "-m", "memory_worker")


def converse(sent: bytes, *options: str, timeout: float = TIMEOUT_SECONDS) -> bytes:
    """Send everything, end the input, and return everything that was answered. It has to exit with 0."""
    done = subprocess.run(
        (*_COMMAND, *options), input=sent, capture_output=True, cwd=ROOT, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr.decode()}"
    return done.stdout


class WorkerProcess:
    """A worker to talk with, line by line. Killed, if it still runs, where the ``with`` ends."""

    def __init__(self, *options: str, timeout: float = TIMEOUT_SECONDS) -> None:
        self._timeout = timeout
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            (*_COMMAND, *options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._received = b""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what still runs, and close every descriptor."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._selector.close()
        for stream in (self._stdin, self._stdout, self._log):
            stream.close()

    def write(self, sent: bytes) -> None:
        """Write bytes as they are, whole lines or not."""
        view = memoryview(sent)
        while view:
            view = view[self._stdin.write(view) :]

    def send(self, action: str, data: dict[str, Any] | None = None, *, request_id: str, **meta: Any) -> None:
        """Write one request."""
        request = {"request_id": request_id, "action": action, "data": data or {}, "meta": meta}
        self.write(orjson.dumps(request) + b"\n")

    def read_line(self) -> bytes:
        """Return the next line without its LF; EOFError where the worker closed its output."""
        deadline = time.monotonic() + self._timeout
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            assert left > 0 and self._selector.select(left), f"no line within {self._timeout} s: {self.log()}"
            piece = os.read(self._stdout.fileno(), 1 << 20)
            if not piece:
                raise EOFError(self.log())
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return line

    def receive(self) -> Any:
        """Return the next reply or event."""
        return orjson.loads(self.read_line())

    def ask(self, action: str, data: dict[str, Any] | None = None, *, request_id: str = "asked") -> Any:
        """Write one request and return the next line, which answers it where nothing else is under way."""
        self.send(action, data, request_id=request_id)
        return self.receive()

    def close_input(self) -> None:
        """End the input: the worker finishes what it was asked, and exits."""
        self._stdin.close()

    def wait(self) -> int:
        """Wait for its end and return the exit code."""
        return self.process.wait(self._timeout)

    def log(self) -> str:
        """Return what it wrote to stderr so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")
