"""A real worker process as a host sees it: lines in, lines out, and nothing else to rely on."""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import orjson
import psutil

ROOT = Path(__file__).resolve().parents[2]
ENTRY = ROOT / "worker" / "entry"
"""Where ``memory_worker`` lies in a checkout."""
PATIENCE_SECONDS = 20.0
"""How long anything may take on a busy machine before a test calls it lost."""

MIB = 2**20

T = TypeVar("T")


class Worker:
    """One worker process. Reads its output on a thread of its own, unless told not to yet."""

    def __init__(
        self,
        *options: str,
        command: tuple[str, ...] = (sys.executable, "-m", "memory_worker"),
        environment: dict[str, str] | None = None,
        reading: bool = True,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._patience = patience
        self._errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )
        self.pid = self.process.pid
        self._ids = (f"r{number}" for number in itertools.count(1))
        self._changed = threading.Condition()
        self.lines: list[bytes] = []
        self.frames: list[dict[str, Any]] = []
        self._replies: dict[str | None, list[dict[str, Any]]] = {}
        self.ended = False
        self._over = False
        """Whether the test is done with it, or has failed: what is still being sent then is of no interest."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reading = False
        if reading:
            self.start_reading()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self._reading:
            self._reader.join(PATIENCE_SECONDS)
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            if stream is not None:
                stream.close()

    # ---- host to worker ----

    def send(
        self,
        action: str,
        data: dict[str, Any] | None = None,
        *,
        request_id: str | None = None,
        meta: dict[str, Any] | None = None,
    ) -> str:
        """Write a request; returns its id."""
        request_id = request_id or next(self._ids)
        self.send_bytes(line(action, data, request_id=request_id, meta=meta))
        return request_id

    def send_bytes(self, data: bytes) -> None:
        """Write all of these bytes. BrokenPipeError, with how the worker ended, where it reads no more of itself."""
        left = memoryview(data)
        assert self.process.stdin is not None
        try:
            while left:
                left = left[self.process.stdin.write(left) or 0 :]
        except BrokenPipeError as error:
            if self._over:
                return
            error.add_note(f"exit code {self.process.poll()}; {self._last_words()}")
            raise

    def close_input(self) -> None:
        """Let the worker see the end of its input."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close_output(self) -> None:
        """Stop reading for good: the next write of the worker fails."""
        assert self.process.stdout is not None
        self.process.stdout.close()

    # ---- worker to host ----

    def start_reading(self) -> None:
        """Read what the worker writes from now on."""
        self._reading = True
        self._reader.start()

    def reply(self, request_id: str | None, *, nth: int = 0) -> dict[str, Any]:
        """Wait for the nth reply to a request."""

        def found() -> dict[str, Any] | None:
            replies = self._replies.get(request_id, [])
            return replies[nth] if len(replies) > nth else None

        return self._wait_for(found, f"reply {nth} to {request_id}")

    def replies(self, request_id: str | None) -> list[dict[str, Any]]:
        """Return the replies to a request so far."""
        return self._replies.get(request_id, [])

    def events(self, name: str, request_id: str | None = None) -> list[dict[str, Any]]:
        """Return the events of a name so far."""
        return [
            frame
            for frame in self.frames
            if frame.get("event") == name and (request_id is None or frame.get("request_id") == request_id)
        ]

    def event(self, name: str, request_id: str | None = None) -> dict[str, Any]:
        """Wait for the first event of a name."""
        return self._wait_for(
            lambda: next(iter(self.events(name, request_id)), None), f"event {name} {request_id}"
        )

    def ask(
        self, action: str, data: dict[str, Any] | None = None, *, meta: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send a request and return its reply."""
        return self.reply(self.send(action, data, meta=meta))

    def call(
        self, action: str, data: dict[str, Any] | None = None, *, meta: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send a request that has to succeed; returns its data."""
        reply = self.ask(action, data, meta=meta)
        assert reply["success"], reply
        result: dict[str, Any] = reply["data"]
        return result

    def refused(self, action: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request that has to fail; returns its error."""
        reply = self.ask(action, data)
        assert not reply["success"], reply
        error: dict[str, Any] = reply["error"]
        return error

    def wait_count(self, count: int) -> None:
        """Wait until this many frames came."""
        self._wait_for(lambda: len(self.frames) >= count or None, f"{count} frames, got {len(self.frames)}")

    # ---- the process ----

    def exit_code(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for the end; returns the exit code once all output was read."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still alive after {seconds} s; {self._last_words()}") from None
        if self._reading:
            self._reader.join(PATIENCE_SECONDS)
            assert self.ended, "the output is still open"
        return code

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def rss(self) -> int:
        """Return the resident bytes, as the system sees them."""
        return resident_bytes(self.pid)

    def stderr(self) -> str:
        """Return what came on stderr so far."""
        descriptor = self._errors.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def _last_words(self) -> str:
        return self.stderr()[-1500:]

    # ---- inside ----

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            held = b""
            while chunk := stream.read(1 << 16):
                *lines, held = (held + chunk).split(b"\n")
                frames = [orjson.loads(each) for each in lines]
                with self._changed:
                    self.lines += lines
                    self.frames += frames
                    for frame in frames:
                        if "event" not in frame:
                            self._replies.setdefault(frame["request_id"], []).append(frame)
                    self._changed.notify_all()
            with self._changed:
                self.ended = True
                if held:
                    self.lines.append(held)
                self._changed.notify_all()

    def _wait_for(self, look: Callable[[], T | None], what: str) -> T:
        deadline = time.monotonic() + self._patience
        with self._changed:
            while (found := look()) is None:
                left = deadline - time.monotonic()
                if left <= 0 or self.ended:
                    raise AssertionError(
                        f"no {what}; ended={self.ended}, {len(self.frames)} frames; {self._last_words()}"
                    )
                self._changed.wait(left)
            return found


def line(
    action: str,
    data: dict[str, Any] | None = None,
    *,
    request_id: str,
    meta: dict[str, Any] | None = None,
) -> bytes:
    """Write one request."""
    request: dict[str, Any] = {"request_id": request_id, "action": action}
    if data is not None:
        request["data"] = data
    if meta is not None:
        request["meta"] = meta
    return orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE)


def eventually(look: Callable[[], T], what: str, seconds: float = PATIENCE_SECONDS) -> T:
    """Look until it is true: for what the system tells nobody of, such as another process's memory."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        pause.wait(0.01)
    return found


def resident_bytes(pid: int) -> int:
    """Return what a process has resident, to the page: before Linux 6.17 its running count is off by up to 32 pages a core."""
    if sys.platform != "linux":
        return int(psutil.Process(pid).memory_info().rss)
    counted = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(each.split()[1]) * 1024 for each in counted.splitlines() if each.startswith("Rss:"))


def gone(pid: int) -> bool:
    """Tell whether a process has ended, reaped or not."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@contextmanager
def worker(*options: str, **more: Any) -> Iterator[Worker]:
    """Start a worker that has answered once, so that it is up."""
    with Worker(*options, **more) as started:
        started.call("worker.ping")
        yield started
