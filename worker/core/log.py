"""JSON lines on stderr: one object each, with a time, a level and a message.

A process that serves has a thread that writes them: whoever logs never waits for who reads stderr. Where no one
reads, lines beyond a bound are dropped, and a line tells how many once somebody does.
"""

import _thread
import atexit
import contextlib
import os
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Any, TextIO, cast

import orjson

from protocol.vocabulary import HealthState
from worker.core.health import PartHealth
from worker.core.sure_lock import SureEvent, SureLock
from worker.core.text import UNSEEN, printable

LEVELS = ("debug", "info", "warning", "error")
MAX_WAITING = 2_000
"""Lines that wait for stderr to take them."""
_MAX_LINE_BYTES = 64 * 1024
_CUT_CHARACTERS = 16 * 1024

_threshold = LEVELS.index("warning")
_about = threading.local()
_writer: "_Writer | None" = None
_fd = 2
"""Where lines go."""
_plain = False


def set_level(level: str) -> None:
    """Log this level and what is more severe. ValueError for a word that is none."""
    global _threshold  # noqa: PLW0603 - one process, one log
    _threshold = LEVELS.index(level)


def logs(level: str) -> bool:
    """Tell whether lines of this level are written."""
    return LEVELS.index(level) >= _threshold


def note_request(request_id: str | None, traceparent: str | None = None) -> None:
    """Name this thread's request in its lines from now on; None: it works for none."""
    _about.request = None if request_id is None else (request_id, traceparent)  # every request passes here


def log(level: str, message: str, **fields: Any) -> None:
    """Write a line, unless its level is below the threshold. Never raises: a log must not fail work."""
    if LEVELS.index(level) < _threshold:
        return
    _write(level, message, fields)


def pass_on(source: str, text: str) -> None:
    """Write what somebody else said, whatever the level, a line for each of its lines; lines of a log stay lines."""
    for each in text.splitlines():
        if _is_line(each):
            with contextlib.suppress(Exception):
                _put(_line(orjson.loads(each)))
        elif each.strip():
            _write("info", each.rstrip(), {"source": source})


def message_of(text: str) -> str:
    """Return what a line says to people: of a line of a log its message, any other as it is."""
    if _is_line(text):
        with contextlib.suppress(orjson.JSONDecodeError, KeyError):
            return str(orjson.loads(text)["message"])
    return text


def _is_line(text: str) -> bool:
    return text.startswith('{"time":') and text.endswith("}")


def write_plainly() -> None:
    """Write lines for people from now on instead of JSON. Call once, before serving."""
    global _plain  # noqa: PLW0603 - one process, one log
    _plain = True


def put_line(text: str) -> None:
    """Write a line as it is, whatever the level, with nothing in it that a terminal would obey."""
    _put(printable(text).encode() + b"\n")


def serve_log() -> None:
    """Write from a thread from now on, and say all that Python says on stderr as lines of the log.

    What C libraries and faulthandler write stays as it is. Call once, before serving.
    """
    global _writer  # noqa: PLW0603 - one process, one log
    writer = _Writer()
    try:
        writer.start()
    except (RuntimeError, MemoryError):
        return  # no thread is to be had: lines are written by whoever logs
    _writer = writer
    atexit.register(end_log, 1.0)
    warnings.showwarning = _show_warning
    sys.excepthook = _show_exception
    threading.excepthook = lambda told: _show_exception(told.exc_type, told.exc_value, told.exc_traceback)
    sys.unraisablehook = lambda told: _show_exception(told.exc_type, told.exc_value, told.exc_traceback)
    sys.stdout = sys.stderr = cast("TextIO", _Printed())


def gather(source: str) -> Callable[[], None]:
    """Have what C libraries and child processes write to descriptor 2 become lines of the log. Returns what ends that.

    Call once, after ``serve_log``. OSError or RuntimeError where there is no pipe or no thread.
    """
    global _fd  # noqa: PLW0603 - one process, one log
    readable, writable = os.pipe()
    own = os.dup(2)

    def read() -> None:
        with os.fdopen(readable, encoding="utf-8", errors="replace") as lines:
            for each in lines:
                pass_on(source, each)

    _thread.start_new_thread(read, ())
    _fd = own
    for fd in (1, 2):
        os.dup2(writable, fd)
    os.close(writable)

    def end() -> None:
        os.dup2(own, 2)

    return end


def end_log(seconds: float) -> None:
    """Let what waits be written, for so long at most."""
    if _writer is not None:
        _writer.end(seconds)


def _write(level: str, message: str, fields: dict[str, Any]) -> None:
    try:  # not contextlib.suppress: it needs memory itself, before it suppresses anything
        said = {"time": round(time.time(), 3), "level": level, "message": message}
        request = getattr(_about, "request", None)
        if request is not None:
            said |= {"request_id": request[0], "traceparent": request[1]}
        _put(_line({**said, **fields}))
    except Exception:  # noqa: BLE001, S110 - a log must not fail work
        pass


def _put(line: bytes) -> None:
    if _writer is None:
        with contextlib.suppress(OSError):
            os.write(_fd, line)
    else:
        _writer.put(line)


def _line(fields: dict[str, Any]) -> bytes:
    if _plain:
        rest = (each for each in fields.items() if each[0] not in {"time", "level", "message"})
        about = (f"{key} {value}" for key, value in rest if value is not None)
        when = time.strftime("%H:%M:%S", time.localtime(fields.get("time")))
        said = ", ".join((str(fields.get("message")), *about))
        return printable(f"{when} {said}"[:_CUT_CHARACTERS]).encode() + b"\n"
    try:
        line = orjson.dumps(fields, default=repr)
    except TypeError:  # such as an integer above 64 bits, or half a surrogate pair
        line = orjson.dumps({key: printable(str(value)) for key, value in fields.items()})
    if len(line) > _MAX_LINE_BYTES:
        line = orjson.dumps({key: _cut(value) for key, value in fields.items()}, default=repr)
    text = line.decode()
    return (printable(text) if UNSEEN.search(text) else text).encode() + b"\n"


def _cut(value: Any) -> Any:
    return value if isinstance(value, int | float | None) else str(value)[:_CUT_CHARACTERS]


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: Any = None, line: str | None = None,
) -> None:  # fmt: skip
    del file, line
    log("warning", str(message), category=category.__name__, at=f"{filename}:{lineno}")


def _show_exception(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    with contextlib.suppress(Exception):
        log("error", "uncaught", traceback="".join(traceback.format_exception(kind, error, trace)))


def log_health() -> tuple[PartHealth]:
    """Tell whether lines are lost because no reader takes what stderr has."""
    waiting = 0 if _writer is None else _writer.waiting
    said = (
        f"nobody reads stderr: {waiting} lines wait, and more are dropped" if waiting >= MAX_WAITING else None
    )
    return (PartHealth("log", HealthState.OK if said is None else HealthState.DEGRADED, said),)


class _Printed:
    """``sys.stdout`` and ``sys.stderr`` of a process that serves: what is printed becomes lines of the log."""

    encoding, errors, newlines, closed = "utf-8", "backslashreplace", None, False

    def __init__(self) -> None:
        self._held = threading.local()

    def write(self, text: str) -> int:
        """Log each whole line, and hold the rest until it ends."""
        whole, newline, rest = (getattr(self._held, "text", "") + text).rpartition("\n")
        if newline:
            pass_on("printed", whole)
        self._held.text = rest[-_CUT_CHARACTERS:]
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write each."""
        for each in lines:
            self.write(each)

    def flush(self) -> None:
        """Do nothing: a line is logged when it ends."""

    def fileno(self) -> int:
        """Return stderr's descriptor: who writes there goes past the log."""
        return 2

    def isatty(self) -> bool:
        """Return False: no colours, no progress bars."""
        return False

    def writable(self) -> bool:
        """Return True."""
        return True


class _Writer:
    """The thread, and the lines that wait for it."""

    def __init__(self) -> None:
        self._waiting = deque[bytes]()
        self._wake = SimpleQueue[None]()
        self._idle = SureEvent()
        self._counting = SureLock()
        # All mutable state besides: how many lines were dropped, and not told of yet.
        self._dropped = 0

    def start(self) -> None:
        """Begin. RuntimeError where there is no thread."""
        _thread.start_new_thread(self._run, ())

    @property
    def waiting(self) -> int:
        """How many lines wait."""
        return len(self._waiting)

    def put(self, line: bytes) -> None:
        """Take a line over, at once."""
        if len(self._waiting) >= MAX_WAITING:
            with self._counting:
                self._dropped += 1
            return
        self._idle.clear()
        self._waiting.append(line)
        self._wake.put(None)

    def end(self, seconds: float) -> None:
        """Wait until nothing waits."""
        if self._waiting:
            self._idle.wait(seconds)

    def _run(self) -> None:
        while True:
            try:
                if not self._waiting:
                    self._idle.set()
                self._wake.get()
                self._write(self._waiting[0])
                if self._dropped:
                    self._tell_dropped()
            except BaseException:  # noqa: BLE001, S110 - a thread must not end, and where could it say so
                pass
            if self._waiting:
                self._waiting.popleft()

    def _tell_dropped(self) -> None:
        with self._counting:
            dropped, self._dropped = self._dropped, 0
        told = {"message": "nobody read stderr: lines were dropped", "dropped": dropped}
        self._write(_line({"time": round(time.time(), 3), "level": "warning", **told}))

    def _write(self, line: bytes) -> None:
        left = memoryview(line)
        while left:
            left = left[os.write(_fd, left) :]
