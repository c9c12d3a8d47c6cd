"""A device's process as the worker sees it: started, called, and answered for when it ends."""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from protocol.record import Record
from worker.backends.isolation import notices
from worker.backends.isolation.answers import Answers
from worker.backends.isolation.call import Call, OnQuestion, OnReport
from worker.backends.isolation.endings import Ending
from worker.backends.isolation.figures_page import Dated, FiguresReader
from worker.backends.isolation.frames import FramePipe
from worker.backends.isolation.slots import Slots
from worker.backends.torch_errors import Cause, cause_of_death
from worker.core.cancellation import CancelToken
from worker.core.exit_codes import ending
from worker.core.log import message_of
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureLock
from worker.telemetry.process_memory import note_start

_BOOTSTRAP = Path(__file__).with_name("bootstrap.py")
_OWN = ("worker", "protocol")
_LENT = ("annotated_types", "typing_extensions")
"""Pure Python and without dependencies: what the worker's own modules need of others in that process."""

_LAST_LINES = 20
_LONGEST_LINE_BYTES = 2**16
_ASKED_S = 2.0
"""How long a process may take to go by itself, which is as soon as its input has ended."""
_GOING_S = 5.0
"""How long one that was killed may take: the system has all of its memory to take back."""


class Launch(Record):
    """What is to run, and under which interpreter."""

    python: str
    factory: str
    """``module:callable``, found by that interpreter; makes a ``DeviceBackend``."""
    options: dict[str, Any]
    """What it is called with: plain values, by name."""


class ChildProcess:
    """One process. Thread-safe. OSError if it cannot be started at all.

    On Linux it ends with the thread that started it: that has to live as long as the worker.
    """

    def __init__(
        self, launch: Launch, slots: Slots, on_end: Callable[["ChildProcess", Ending], None]
    ) -> None:
        self._on_end = on_end
        self._lock = SureLock()
        # All mutable state: why it is being ended, how it ended, and its last lines.
        self._why: str | None = None
        self.end: Ending | None = None
        """Why it is no more; None while it runs."""
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self.on_figures: Callable[[str], None] = lambda _: None
        """Called with a device whose figures have changed from outside, and are on the page."""
        life = next(slots.lives)
        self.page = FiguresReader(slots.page, life)
        self._process, self._pipe, self._stderr = _start(launch, slots, life)
        note_start()
        self.pid = self._process.pid
        self.answers = answers = Answers(self._pipe, self._write_broken, self.kill)
        """The calls on their way."""
        self.finish = answers.result
        try:
            self._listened = start_thread(self._listen, "device-stderr")
            self._watched = start_thread(self._watch, "device-end")
        except BaseException:
            self._process.kill()
            self._process.wait()
            self.answers.reader.stop_waiting()
            raise

    # ---- calling ----

    def call(
        self, do: str, *arguments: Any, token: CancelToken | None = None,
        undo: tuple[Any, ...] | None = None, patience_s: float | None = None,
    ) -> Any:  # fmt: skip
        """Call, and wait for the answer. Raises its error, EndedError, or what the token does.

        A process that has not answered after ``patience_s`` hangs, and is killed. ``undo`` is called if the token has
        ended and the call is done in the end.
        """
        return self.answers.call(do, arguments, token, undo, patience_s)

    def begin(
        self, do: str, *arguments: Any, token: CancelToken | None = None, on_report: OnReport | None = None,
        on_question: OnQuestion | None = None,
    ) -> Call:  # fmt: skip
        """Call, and go on."""
        return self.answers.begin(do, arguments, token, on_report, on_question)

    def figures(self, device_id: str) -> Dated | None:
        """Return a device's figures on the page; None where something was changed since. Never waits."""
        changed = self.answers.reader.changed
        found = self.page.read(device_id)
        return None if found is None or found.changes < changed else found

    # ---- ending ----

    def kill(self, why: str) -> None:
        """End it now, for this reason, and return when it is gone."""
        self._why = self._why or why
        self._process.kill()
        # Stuck in a driver or a file system it is given up all the same.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GOING_S)
            self._watched.wait(_GOING_S)
        self._ended()

    def stop(self) -> None:
        """Let it go by itself, and return when it is gone."""
        self._why = self._why or "was stopped"
        self._pipe.close_output()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_ASKED_S)
        self.kill(self._why)

    def _write_broken(self) -> None:
        self._why = self._why or "wrote what is no answer, and was killed"
        self._process.kill()

    def _watch(self) -> None:
        """Wait for its end, which no caller that waits for an answer may be there to see."""
        self._process.wait()
        self.answers.reader.stop_waiting()
        self._ended()

    def _listen(self) -> None:
        """Pass on what it writes to stderr, and remember the last of it."""
        while line := self._stderr.readline(_LONGEST_LINE_BYTES):
            said, device_id = notices.split(line)
            text = said.decode(errors="replace").strip()
            if text:
                self._last_lines.append(message_of(text))
            if said:
                with suppress(OSError):
                    os.write(2, said)
            if device_id is not None:
                self.on_figures(device_id)
        self._stderr.close()

    def _ended(self) -> None:
        """Say once how it ended, then fail what still waits for it."""
        self._listened.wait(1)  # its last words; a process of its own may hold the pipe open
        with self._lock:
            if self.end is not None:
                return
            self.end = end = self._how_it_ended()
        self._on_end(self, end)
        self.answers.end(end)
        self._pipe.close()

    def _how_it_ended(self) -> Ending:
        code, last = self._process.returncode, "\n".join(self._last_lines)
        if self._why is not None:
            return Ending(f"process {self.pid} {self._why}", ran_out=False)
        said = ending(code, windows=sys.platform == "win32")
        words = f"; its last words: {self._last_lines[-1]}" if self._last_lines else ""
        ran_out = cause_of_death(code, last) is Cause.OUT_OF_MEMORY
        return Ending(f"process {self.pid} {said}{words}", ran_out)


def _start(launch: Launch, slots: Slots, life: int) -> "tuple[subprocess.Popen[bytes], FramePipe, IO[bytes]]":
    """Start a process. Returns it, what it is called through, and what it writes to stderr."""
    setup = {
        "factory": launch.factory,
        "options": launch.options,
        "slots": slots.place,
        "life": life,
        "parent": os.getpid(),
        "own": {name: _folder_of(name) for name in _OWN},
        "lent": {name: _folder_of(name) for name in _LENT},
    }
    more: dict[str, Any] = {}
    if sys.platform == "win32":
        more["creationflags"] = subprocess.CREATE_NO_WINDOW
    else:
        more["pass_fds"] = slots.inherited
    read_fd, wake_fd = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 - the operator names the interpreter
            [launch.python, str(_BOOTSTRAP), json.dumps(setup)],
            stdin=subprocess.PIPE,
            stdout=wake_fd,
            stderr=subprocess.PIPE,
            env=_environment(launch.python),
            **more,
        )
    except BaseException:
        os.close(read_fd)
        os.close(wake_fd)
        raise
    if process.stdin is None or process.stderr is None:
        raise AssertionError(process)
    pipe = FramePipe(read_fd, os.dup(process.stdin.fileno()), wake_fd, waits_briefly=True)
    process.stdin.close()
    return process, pipe, process.stderr


def _environment(python: str) -> dict[str, str]:
    """Return what another interpreter inherits: not where this one's packages are."""
    if python == sys.executable:
        return dict(os.environ)
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}


def _folder_of(name: str) -> str:
    """Return the folder in which a top-level package or module lies."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name)
    place = Path(spec.origin).parent
    return str(place.parent if spec.submodule_search_locations is not None else place)
