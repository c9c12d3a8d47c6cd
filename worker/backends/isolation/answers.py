"""Calls into a device's process, and how their answers are waited for: who reads them is in ``reader``."""

import itertools
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from worker.backends.isolation.alarm import ALARM
from worker.backends.isolation.call import QUESTIONS, SUCCEEDED, WORK, Call, OnQuestion, OnReport
from worker.backends.isolation.codec import error_of
from worker.backends.isolation.endings import EndedError, Ending
from worker.backends.isolation.frames import (
    AS_LINE,
    BrokenFrameError,
    FramePipe,
    any_values_line,
    dumps,
    line,
)
from worker.backends.isolation.reader import BROKEN, Reader
from worker.core.cancellation import CancelToken
from worker.core.errors import WorkerError
from worker.core.sure_lock import SureEvent

_AT_ONCE_S = 0.01
"""How long a call is waited for before anything is made ready for a longer wait; where it is alone, up to twice as long."""

_LOOK_AGAIN_S = 0.05
"""Who waits for an answer looks this often whether its own request has ended."""

LAST_WORD_S = 0.25
"""How long the answer to a call is waited for once it was cancelled, or its time is up."""


class Answers:
    """All calls into one process. Thread-safe."""

    def __init__(
        self, pipe: FramePipe, on_broken: Callable[[], None], on_hanging: Callable[[str], None]
    ) -> None:
        """``on_broken`` is called when what comes is no answer, ``on_hanging`` with what it does where none comes."""
        self._pipe = pipe
        self._on_hanging = on_hanging
        self._numbers = itertools.count(1)
        self.reader = Reader(pipe, on_broken, self.reply, lambda undo: self.begin(undo[0], undo[1:]))
        # Mutable state, beside the reader's: what ended all calls.
        self._end: Ending | None = None

    def call(  # noqa: C901 - straight: on the way of every call
        self, do: str, arguments: tuple[Any, ...], token: CancelToken | None = None,
        undo: tuple[Any, ...] | None = None, patience_s: float | None = None,
        late: Callable[[Call], Any] | None = None,
    ) -> Any:  # fmt: skip
        """Call, and wait for the answer. Raises its error, or EndedError.

        1. Where no other is on its way, the answer is what comes next, and at once, as nearly always: nothing is made
           ready for anything else, and the call can't be cancelled.
        2. Else it is waited for among others: by ``late``, which is given it, or as ``result`` does.
        """
        reader, number = self.reader, next(self._numbers)
        left_ns = None if token is None or token.deadline_ns is None else token.left_ns
        message = [number, do, arguments, left_ns]
        try:
            text = any_values_line(message) if do == WORK else dumps(message, None, AS_LINE)
        except TypeError:
            text = any_values_line(message)
        try:
            alone = not reader.calls and reader.right.pop()
        except IndexError:
            alone = False
        if not alone or not reader.is_watched:
            if alone:
                reader.end()
            call = self._begin(Call(number, do), text)
            self.wait(call, _AT_ONCE_S)
        else:
            came = None
            reader.reading = number
            try:
                if ALARM.asleep:
                    ALARM.rouse()
                came = self._pipe.exchange(text)
                answered, result = came
                if answered == number:  # 1
                    if do not in QUESTIONS:
                        reader.changed = self._pipe.received
                    return result
                call = self._begin_late(Call(number, do), came)
            except (BrokenFrameError, OSError, TypeError, ValueError) as error:
                call = self._begin_late(Call(number, do), came, error)
            finally:
                reader.reading = 0
                reader.right.append(True)
                if reader.calls:
                    reader.hand_on()
        if late is not None:  # 2
            return late(call)
        return self.result(call, token, undo, patience_s)

    def begin(
        self, do: str, arguments: tuple[Any, ...], token: CancelToken | None = None,
        on_report: OnReport | None = None, on_question: OnQuestion | None = None,
    ) -> Call:  # fmt: skip
        """Call, and go on."""
        call = Call(next(self._numbers), do)
        if on_report is not None:
            call.on_report = on_report
        call.on_question = on_question
        message = [call.number, do, arguments, None if token is None else token.left_ns]
        return self._begin(call, any_values_line(message) if do == WORK else line(message))

    def result(
        self, call: Call, token: CancelToken | None = None, undo: tuple[Any, ...] | None = None,
        patience_s: float | None = None,
    ) -> Any:  # fmt: skip
        """Wait for an answer, and return what it says. Raises its error, or EndedError.

        A process that has not answered after ``patience_s`` hangs, and is killed. Once the token has ended, an
        answer is waited for a moment longer; then it raises what the token does, and ``undo`` is called if the
        call is done in the end.
        """
        if call.answer is None:
            if token is None:
                self.wait(call, patience_s)
            else:
                with token.telling(lambda: self.cancel(call)):
                    self.wait_while(call, token, undo, math.inf if patience_s is None else patience_s)
        if call.answer is None:
            self._on_hanging(f"did not answer {call.do!r} within {patience_s:g} s and was killed")
            self.wait(call)
        answer = call.answer
        if isinstance(answer, list):
            if len(answer) == SUCCEEDED:
                return answer[1]
            raise error_of(answer[2])
        if answer is None:
            raise AssertionError(call.do)
        raise EndedError(answer)

    def wait(self, call: Call, seconds: float | None = None) -> bool:
        """Wait for an answer, and read for all who wait while no other caller does. False if it did not come in time."""
        end = math.inf if seconds is None else time.monotonic() + seconds
        while call.answer is None:
            if self.reader.more and not self.reader.gone and self.reader.begin():
                try:
                    in_time = self.reader.read_for(call, end)
                finally:
                    self.reader.end()
            else:
                in_time = self._follow(call, end)
            if not in_time:
                return call.answer is not None
        return True

    def wait_while(
        self,
        call: Call,
        token: CancelToken,
        undo: tuple[Any, ...] | None = None,
        patience_s: float = math.inf,
    ) -> None:
        """Wait for an answer until the token ends, and for a moment more: it says what became of the call.

        Raises what the token raises where there is none; then ``undo`` is called if the call is done in the end.
        Returns without an answer after ``patience_s``.
        """
        end = time.monotonic() + patience_s
        while call.answer is None and time.monotonic() < end:
            left_ns = token.left_ns
            if self.wait(call, _LOOK_AGAIN_S if left_ns is None else min(_LOOK_AGAIN_S, left_ns / 1e9)):
                return
            try:
                token.check()
            except WorkerError:
                if not self.wait(call, LAST_WORD_S) and not self.abandon(call, undo):
                    raise

    def abandon(
        self, call: Call, undo: tuple[Any, ...] | None = None, on_answer: Callable[[], None] | None = None
    ) -> bool:
        """Wait no longer for a call: ``undo`` is called if it succeeds yet, ``on_answer`` when it is answered.

        True, and neither is called, if it was answered already.
        """
        with self.reader.lock:
            if call.answer is None:
                call.undo, call.on_answer, call.woken = undo, on_answer, None
            return call.answer is not None

    def cancel(self, call: Call) -> None:
        """Ask for a call to be given up; its answer says whether it was."""
        if call.number in self.reader.calls:
            with suppress(OSError):
                self._pipe.send([call.number])

    def reply(self, call: Call, value: Any) -> None:
        """Answer what work asked of this call."""
        with suppress(OSError):  # it has ended, and whoever watches it says so
            self._pipe.write(any_values_line([call.number, value]))

    def end(self, end: Ending) -> None:
        """Read what is left, and fail what still waits for an answer. Nobody reads from then on."""
        self.reader.drain()
        self._end = end
        failed: Exception | None = None
        while self.reader.calls:
            with suppress(KeyError):  # another had it answered
                call = self.reader.calls.popitem()[1]
                try:
                    self.reader.answer(call, end)
                except Exception as error:  # noqa: BLE001 - nobody else is to wait for ever for that
                    failed = error
        if failed is not None:
            raise failed

    # ---- inside ----

    def _begin(self, call: Call, text: bytes) -> Call:
        """Note a call, and send it, unless the process has ended."""
        if self._note(call):
            with suppress(OSError):  # it has ended, and whoever watches it says so
                self._pipe.write(text)
        return call

    def _begin_late(self, call: Call, came: Any, error: Exception | None = None) -> Call:
        """Note a call that was sent, whose answer is not what came, or nothing did; the reading is held."""
        self._note(call)
        try:
            if isinstance(error, BrokenFrameError) or not isinstance(came, list | None):
                self.reader.break_off()
            elif came is not None:
                self.reader.hand_out(came)
        except BROKEN:
            self.reader.break_off()
        return call

    def _note(self, call: Call) -> bool:
        """Note a call, so that its answer finds it. False, and it is answered, if the process has ended."""
        self.reader.calls[call.number] = call
        if self._end is None:
            return True
        if self.reader.calls.pop(call.number, None) is not None:  # else it was ended with the others
            self.reader.answer(call, self._end)
        return False

    def _follow(self, call: Call, end: float) -> bool:
        """Wait until the call is answered, or the reading is free. False once it is ``end``."""
        with self.reader.lock:
            woken = call.woken = call.woken or SureEvent()
            woken.clear()
            if call.answer is not None:
                return True
        if not self.reader.right or self.reader.gone or not self.reader.more:
            woken.wait(min(max(0, end - time.monotonic()), _LOOK_AGAIN_S))
        return time.monotonic() < end
