"""A device's process as the worker sees it: started, called, and answered for when it ends."""

import itertools
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from protocol.record import Record
from worker.backends.isolation.codec import error_of
from worker.backends.isolation.endings import ending
from worker.backends.isolation.frames import BrokenFrameError, FramePipe, Message
from worker.backends.isolation.slots import Slots
from worker.backends.torch_errors import Cause, cause_of_death
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_S, Clock
from worker.core.errors import CancelledError, WorkerError

_BOOTSTRAP = Path(__file__).with_name("bootstrap.py")
_OWN = ("worker", "protocol")
_LENT = ("annotated_types", "typing_extensions")
"""Pure Python and without dependencies: what the worker's own modules need of others in that process."""

_LOOK_AGAIN_S = 0.05
"""Who waits for an answer looks this often whether its own request has ended."""

LAST_WORD_S = 0.25
"""How long the answer to a call is waited for once it was cancelled, or its time is up."""

_LAST_LINES = 20
_LONGEST_LINE_BYTES = 2**16
_GOING_S = 5.0
"""How long a process may take to go once it was asked or told to."""


class Launch(Record):
    """What is to run, and under which interpreter."""

    python: str
    factory: str
    """``module:callable``, found by that interpreter; makes a ``DeviceBackend``."""
    options: dict[str, Any]
    """What it is called with: plain values, by name."""


class Ending(Record):
    """Why a process is no more."""

    reason: str
    ran_out: bool
    """Whether what it left behind says that the device's memory was exhausted."""


class EndedError(Exception):
    """The process ended before it answered."""

    def __init__(self, end: Ending) -> None:
        super().__init__(end.reason)
        self.end = end


OnReport = Callable[[int, int], None]
"""Called, by the thread that reads answers, with how much of a call is done, and how much there is."""


def _no_report(_completed: int, _total: int) -> None:
    """Nobody asked for progress."""


class Call:
    """One call on its way. ``done`` is cancelled by the answer: that is what a clock can wait for."""

    __slots__ = ("answer", "do", "done", "number", "on_answer", "on_report", "undo")

    def __init__(
        self, number: int, do: str, done: CancelToken, on_answer: Callable[[], None], on_report: OnReport
    ) -> None:
        self.number = number
        self.do = do
        self.done = done
        self.on_answer = on_answer
        self.on_report = on_report
        self.answer: Message | Ending | None = None
        self.undo: tuple[Any, ...] | None = None
        """What to call if nobody waits any more and it is done all the same."""


class ChildProcess:
    """One process. Thread-safe. OSError if it cannot be started at all.

    On Linux it ends with the thread that started it: that has to live as long as the worker.
    """

    def __init__(
        self, launch: Launch, slots: Slots, clock: Clock, on_end: Callable[["ChildProcess", Ending], None]
    ) -> None:
        self._clock = clock
        self._on_end = on_end
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        # All mutable state: the calls on their way, why it is being ended, how it ended, and its last lines.
        self._calls: dict[int, Call] = {}
        self._why: str | None = None
        self._end: Ending | None = None
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._process = _start(launch, slots)
        self.pid = self._process.pid
        self._pipe, self._stderr = _ends(self._process)
        self._listener = threading.Thread(target=self._listen, name="device-stderr", daemon=True)
        self._listener.start()
        self._receiver = threading.Thread(target=self._receive, name="device-answers", daemon=True)
        self._receiver.start()

    @property
    def end(self) -> Ending | None:
        """Why it is no more; None while it runs."""
        return self._end

    # ---- calling ----

    def call(
        self, do: str, *arguments: Any, token: CancelToken | None = None, patience_s: float | None = None,
        on_report: OnReport = _no_report, undo: tuple[Any, ...] | None = None,
    ) -> Any:  # fmt: skip
        """Call, and wait for the answer. Raises its error, or EndedError.

        A process that has not answered after ``patience_s`` hangs, and is killed. Once the token has ended, an
        answer is waited for a moment longer; then it raises what the token does, and ``undo`` is called if the
        call is done in the end.
        """
        call = self.begin(do, *arguments, token=token, on_report=on_report)
        if token is None:
            return self.finish(call, patience_s)
        with token.telling(lambda: self.cancel(call)):
            self.wait(call, token, undo)
        return self.finish(call)

    def begin(
        self, do: str, *arguments: Any, token: CancelToken | None = None,
        on_answer: Callable[[], None] = lambda: None, on_report: OnReport = _no_report,
    ) -> Call:  # fmt: skip
        """Call, and go on; ``on_answer`` is called once it is answered, or never will be."""
        call = Call(next(self._numbers), do, CancelToken(self._clock.now_ns), on_answer, on_report)
        left_ns = None if token is None else token.left_ns
        with self._lock:
            end = self._end
            if end is None:
                self._calls[call.number] = call
        if end is not None:
            self._answer(call, end)
            return call
        with suppress(OSError):  # it has ended, and whoever reads its answers says so
            self._pipe.send({"call": call.number, "do": do, "with": arguments, "left_ns": left_ns})
        return call

    def wait(self, call: Call, token: CancelToken, undo: tuple[Any, ...] | None = None) -> None:
        """Wait for an answer until the token ends, and for a moment more: it says what became of the call.

        Raises what the token raises where there is none; then ``undo`` is called if the call is done in the end.
        """
        while call.answer is None:
            left_ns = token.left_ns
            call.done.wait(_LOOK_AGAIN_S if left_ns is None else min(_LOOK_AGAIN_S, left_ns / NS_PER_S))
            try:
                token.check()
            except WorkerError:
                call.done.wait(LAST_WORD_S)
                if not self.abandon(call, undo):
                    raise

    def abandon(
        self, call: Call, undo: tuple[Any, ...] | None = None, on_answer: Callable[[], None] | None = None
    ) -> bool:
        """Wait no longer for a call: ``undo`` is called if it succeeds yet, ``on_answer`` when it is answered.

        True, and neither is called, if it was answered already.
        """
        with self._lock:
            if call.answer is None:
                call.undo = undo
                if on_answer is not None:
                    call.on_answer = on_answer
            return call.answer is not None

    def finish(self, call: Call, patience_s: float | None = None) -> Any:
        """Wait for an answer. Raises as ``call`` does."""
        if patience_s is not None:
            try:
                self._clock.wait(patience_s, call.done)
            except CancelledError:
                pass
            else:
                self.kill(f"did not answer {call.do!r} within {patience_s:g} s and was killed")
        call.done.wait(None)
        answer = call.answer
        if isinstance(answer, Ending):
            raise EndedError(answer)
        if answer is None:
            raise AssertionError(call.do)
        if "error" in answer:
            raise error_of(answer["error"])
        return answer["result"]

    def cancel(self, call: Call) -> None:
        """Ask for a call to be given up; its answer says whether it was."""
        if call.number in self._calls:
            with suppress(OSError):
                self._pipe.send({"cancel": call.number})

    # ---- ending ----

    def kill(self, why: str) -> None:
        """End it now, for this reason, and return when it is gone."""
        self._why = self._why or why
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # stuck in a driver: it is given up all the same
            self._process.wait(_GOING_S)
        self._receiver.join(_GOING_S)
        self._ended()

    def stop(self) -> None:
        """Let it go by itself, and return when it is gone."""
        self._why = self._why or "was stopped"
        self._pipe.close_output()
        try:
            self._process.wait(_GOING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._receiver.join(_GOING_S)
        self._ended()

    def _receive(self) -> None:
        """Hand answers to those who wait, until there are no more."""
        try:
            while (message := self._pipe.receive()) is not None:
                with self._lock:
                    reported = message.get("report")
                    take = self._calls.get if reported else self._calls.pop
                    call = take(message["call"], None)
                if call is not None and reported:
                    call.on_report(*map(int, reported))
                elif call is not None:
                    self._answer(call, message)
        except (BrokenFrameError, KeyError, OSError, TypeError, ValueError):
            self._why = self._why or "wrote what is no answer, and was killed"
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:  # it closed its output, and lives
            self._process.kill()
        self._process.wait()
        self._pipe.close()
        self._ended()

    def _listen(self) -> None:
        """Pass on what it writes to stderr, and remember the last of it."""
        while line := self._stderr.readline(_LONGEST_LINE_BYTES):
            text = line.decode(errors="replace").strip()
            if text:
                self._last_lines.append(text)
            with suppress(OSError):
                os.write(2, line)
        self._stderr.close()

    def _ended(self) -> None:
        """Say once how it ended, then fail what still waits for it."""
        self._listener.join(1)  # its last words; a process of its own may hold the pipe open
        with self._lock:
            if self._end is not None:
                return
            self._end = end = self._how_it_ended()
            calls, self._calls = list(self._calls.values()), {}
        self._on_end(self, end)
        for call in calls:
            self._answer(call, end)

    def _how_it_ended(self) -> Ending:
        code, last = self._process.returncode, "\n".join(self._last_lines)
        if self._why is not None:
            return Ending(f"process {self.pid} {self._why}", ran_out=False)
        said = ending(code, windows=sys.platform == "win32")
        words = f"; its last words: {self._last_lines[-1]}" if self._last_lines else ""
        ran_out = cause_of_death(code, last) is Cause.OUT_OF_MEMORY
        return Ending(f"process {self.pid} {said}{words}", ran_out)

    def _answer(self, call: Call, answer: Message | Ending) -> None:
        with self._lock:
            call.answer = answer
        call.on_answer()
        call.done.cancel()
        if call.undo is not None and isinstance(answer, dict) and "result" in answer:
            self.begin(*call.undo)


def _start(launch: Launch, slots: Slots) -> "subprocess.Popen[bytes]":
    setup = {
        "factory": launch.factory,
        "options": launch.options,
        "slots": slots.place,
        "parent": os.getpid(),
        "own": {name: _folder_of(name) for name in _OWN},
        "lent": {name: _folder_of(name) for name in _LENT},
    }
    more: dict[str, Any] = {}
    if sys.platform == "win32":
        more["creationflags"] = subprocess.CREATE_NO_WINDOW
    else:
        more["pass_fds"] = slots.inherited
    return subprocess.Popen(  # noqa: S603 - the operator names the interpreter
        [launch.python, str(_BOOTSTRAP), json.dumps(setup)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(launch.python),
        **more,
    )


def _environment(python: str) -> dict[str, str]:
    """Return what another interpreter inherits: not where this one's packages are."""
    if python == sys.executable:
        return dict(os.environ)
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}


def _ends(process: "subprocess.Popen[bytes]") -> tuple[FramePipe, Any]:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise AssertionError(process)
    pipe = FramePipe(os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno()))
    process.stdin.close()
    process.stdout.close()
    return pipe, process.stderr


def _folder_of(name: str) -> str:
    """Return the folder in which a top-level package or module lies."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name)
    place = Path(spec.origin).parent
    return str(place.parent if spec.submodule_search_locations is not None else place)
