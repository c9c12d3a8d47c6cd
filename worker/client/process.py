"""One worker process: started, read by threads of its own, and ended with nothing left behind."""

import collections
import contextlib
import logging
import os
import select
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson

from protocol.vocabulary import Executed
from worker.client.calls import WorkerExitedError
from worker.core.exit_codes import ending
from worker.core.text import printable

_LONGEST_POLL_MS = 2**31 - 1
_LAST_WORDS = 20
"""Lines of the worker's log that an error about its end quotes."""
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_APART = {"time", "level", "message"}
"""Fields of a line that a record of ``logging`` has in its own way."""

log = logging.getLogger("memory_worker")
"""Gets every line that workers write to stderr, at its own level; its records have ``request_id``, ``traceparent`` and ``fields``."""


class WorkerProcess:
    """A running worker. ``on_line`` is called with each line of its output, then ``on_end`` once."""

    def __init__(
        self, command: Sequence[str], on_line: Callable[[bytes], None], on_end: Callable[[], None]
    ) -> None:
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the caller's own command
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        except OSError as error:
            message = f"the worker could not be started: {error}; command: {' '.join(command)}"
            raise WorkerExitedError(message, Executed.NO) from error
        self.pid = self._process.pid
        _STARTED.add(self)
        self._last_words = collections.deque[str](maxlen=_LAST_WORDS)
        self._writing = threading.Lock()
        self._errors = threading.Thread(target=self._read_errors, name="memory-worker-log", daemon=True)
        self._reader = threading.Thread(
            target=self._read, args=(on_line, on_end), name="memory-worker-replies", daemon=True
        )
        try:
            self._errors.start()
            self._reader.start()
        except RuntimeError as error:  # the system has no thread for it
            self._process.kill()
            if self._errors.ident is not None:
                self._errors.join()
            with self._process:  # which closes its pipes, and waits for its end
                raise WorkerExitedError(
                    f"the worker could not be listened to: {error}", Executed.NO
                ) from error

    def send(self, line: bytes, seconds: float | None = None) -> None:
        """Write one line. OSError or ValueError if the process is gone; TimeoutError where it can't be begun within a time."""
        stdin = self._process.stdin
        if stdin is None:  # pragma: no cover - it is a pipe
            raise AssertionError
        if not self._writing.acquire(timeout=-1 if seconds is None else seconds):
            raise TimeoutError
        try:
            if seconds is not None and not _takes_more(stdin.fileno(), seconds):
                raise TimeoutError
            view = memoryview(line)
            while view:
                view = view[stdin.write(view) or 0 :]
        finally:
            self._writing.release()

    def let_go(self) -> None:
        """Close what of it is open in a process that was forked: the worker would not see the end of its input for that."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def end(self, seconds: float) -> None:
        """Close its input, which ends it once it has answered, and insist after a time. Idempotent."""
        with contextlib.suppress(OSError, ValueError):
            self._close_input(seconds)
        self._ended(seconds)
        if threading.current_thread() is not self._reader:
            self._reader.join(seconds)
        self._errors.join(seconds)

    def obituary(self, seconds: float) -> str:
        """Return how it ended: exit code and last words. One that goes on without its output is ended, as by ``end``."""
        code = self._ended(seconds)
        self._errors.join(1.0)
        words = "\n  ".join(self._last_words)
        return f"the worker {ending(code, windows=os.name == 'nt')}" + (
            f"; its last words:\n  {words}" if words else ""
        )

    def _ended(self, seconds: float) -> int:
        """Wait for its end, and insist after a time. Returns its exit code."""
        for insist in (self._process.terminate, self._process.kill):
            try:
                return self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                insist()
        return self._process.wait()

    def _read(self, on_line: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        try:
            for line in self._lines():
                try:
                    on_line(line)
                except (
                    Exception
                ):  # the next ones are read all the same: a reader that ended would leave all callers waiting
                    log.exception("what the worker wrote could not be taken over: %.200r", line)
        finally:
            with contextlib.suppress(OSError, ValueError):
                self._close_input(0)  # somebody may be writing to it, until it is gone
            on_end()
            with contextlib.suppress(OSError, ValueError):
                self._close_input()

    def _lines(self) -> Iterator[bytes]:
        """Return whole lines until its output ends."""
        stdout = self._process.stdout
        if stdout is None:  # pragma: no cover - it is a pipe
            raise AssertionError
        held = bytearray()
        with contextlib.suppress(OSError), stdout:
            while chunk := os.read(stdout.fileno(), 1 << 16):
                first, *others = chunk.split(b"\n")
                held += first
                for rest in others:
                    yield bytes(held)
                    held = bytearray(rest)

    def _close_input(self, seconds: float = -1) -> None:
        """Close it, unless somebody writes for longer than that: to a worker that hangs, which has to be killed first."""
        if self._writing.acquire(timeout=seconds):
            try:
                if self._process.stdin is not None:
                    self._process.stdin.close()
            finally:
                self._writing.release()

    def _read_errors(self) -> None:
        stderr = self._process.stderr
        if stderr is None:
            return
        with stderr:
            for raw in iter(stderr.readline, b""):
                level, text, about = _read(raw)
                self._last_words.append(text)
                with contextlib.suppress(
                    Exception
                ):  # of a filter of the host's: the next lines are read all the same
                    log.log(level, "%s", text, extra=about)


_STARTED = weakref.WeakSet[WorkerProcess]()


def _let_go_of_all() -> None:
    for each in tuple(_STARTED):
        each.let_go()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go_of_all)


def _takes_more(descriptor: int, seconds: float) -> bool:
    """Wait until a pipe takes at least a short line at once. On Windows nothing says so."""
    if sys.platform == "win32":
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(min(seconds * 1000, _LONGEST_POLL_MS)))


def default_command() -> tuple[str, ...]:
    """Return what starts the worker of this installation, with this interpreter."""
    return (sys.executable, "-m", "memory_worker")


def _read(raw: bytes) -> tuple[int, str, dict[str, Any]]:
    """Return a line's level, what it says in a sentence, and what a record of it has besides: its request, and all its fields."""
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or "message" not in found:
        found = {"level": "warning", "message": raw.decode("utf-8", "replace").rstrip()}
    others = (
        f"{name} {_told(name, value)}"
        for name, value in found.items()
        if name not in _APART and value is not None
    )
    about = {name: found.get(name) for name in ("request_id", "traceparent")}
    level = _LEVELS.get(str(found.get("level")), logging.INFO)
    return level, ", ".join((_told("message", found["message"]), *others)), {**about, "fields": found}


def _told(name: str, value: Any) -> str:
    """Return a field as text. Names in it are anybody's: only a traceback has lines of its own."""
    lines = str(value).rstrip().split("\n") if name == "traceback" else [str(value)]
    return "\n".join(map(printable, lines))
