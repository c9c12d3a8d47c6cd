"""Calls into a device's process, and who reads their answers: whoever waits for one, for all who do.

A thread that only reads would have to be woken by each answer and wake the caller in turn. So the first who waits
reads, hands answers to the others as they come, and hands on the reading when it has its own. Where a pipe can't be
waited for with a time limit (Windows), a thread of its own reads all the same.
"""

import itertools
import math
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from worker.backends.isolation.alarm import ALARM
from worker.backends.isolation.call import FAILED, QUESTIONS, SUCCEEDED, WORK, Call, OnQuestion, OnReport
from worker.backends.isolation.codec import error_of
from worker.backends.isolation.endings import EndedError, Ending
from worker.backends.isolation.frames import (
    AS_LINE,
    BrokenFrameError,
    FramePipe,
    Message,
    any_values_line,
    dumps,
    line,
)
from worker.core.cancellation import CancelToken
from worker.core.errors import OutOfMemoryError, WorkerError
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureEvent, SureLock

_LONGEST_LOOK_MS = 1000.0
"""Who reads looks this often whether the process is still there: another may hold its end of the pipe open."""

_AT_ONCE_S = 0.01
"""How long a call is waited for before anything is made ready for a longer wait; where it is alone, up to twice as long."""

_LOOK_AGAIN_S = 0.05
"""Who waits for an answer looks this often whether its own request has ended."""

LAST_WORD_S = 0.25
"""How long the answer to a call is waited for once it was cancelled, or its time is up."""

READS_ALONE = sys.platform == "win32"
"""Whether a thread of its own reads."""

_BROKEN = (BrokenFrameError, IndexError, KeyError, OSError, TypeError, ValueError)
"""What is raised by reading what is no answer."""

_LAST_LOOKS, _LAST_LOOK_S = 500, 0.01
"""How often it is looked whether who reads has come to the end of what a process left in its pipe, and how soon again."""


class Answers:
    """All calls into one process. Thread-safe."""

    def __init__(
        self, pipe: FramePipe, on_broken: Callable[[], None], on_hanging: Callable[[str], None]
    ) -> None:
        """``on_broken`` is called when what comes is no answer, ``on_hanging`` with what it does where none comes."""
        self._pipe = pipe
        self._on_broken = on_broken
        self._on_hanging = on_hanging
        self._numbers = itertools.count(1)
        self._lock = SureLock()
        self.look_up = pipe.wake
        # All mutable state: the calls on their way, the right to read, what ended them, whether there is more to read, and
        # whether the process is gone, when ``end`` alone reads. Whoever takes a call out is who answers it.
        self._calls: dict[int, Call] = {}
        self._right = deque([True])
        """What is in it is taken out by who reads, and put back: a lock that no caller waits for, at a third of the price."""
        self._end: Ending | None = None
        self._more, self._gone = True, False
        self.reading = 0
        """The call whose answer is waited for without a limit of time."""
        self._is_watched = False
        """Whether such a wait is ended before long."""
        self.changed = 0
        """How many messages had come with the last answer to a call that may have changed something there."""
        if not READS_ALONE:
            with suppress(OutOfMemoryError):  # then all is waited for with one
                ALARM.watch(self)
                self._is_watched = True
        else:
            pipe.stop_waking()
            self._begin_reading()  # before any caller does
            start_thread(self._read_all, "device-answers")

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
        number = next(self._numbers)
        left_ns = None if token is None or token.deadline_ns is None else token.left_ns
        message = [number, do, arguments, left_ns]
        try:
            text = any_values_line(message) if do == WORK else dumps(message, None, AS_LINE)
        except TypeError:
            text = any_values_line(message)
        try:
            alone = not self._calls and self._right.pop()
        except IndexError:
            alone = False
        if not alone or not self._is_watched:
            if alone:
                self._end_reading()
            call = self._begin(Call(number, do), text)
            self.wait(call, _AT_ONCE_S)
        else:
            came = None
            self.reading = number
            try:
                if ALARM.asleep:
                    ALARM.rouse()
                came = self._pipe.exchange(text)
                answered, result = came
                if answered == number:  # 1
                    if do not in QUESTIONS:
                        self.changed = self._pipe.received
                    return result
                call = self._begin_late(Call(number, do), came)
            except (BrokenFrameError, OSError, TypeError, ValueError) as error:
                call = self._begin_late(Call(number, do), came, error)
            finally:
                self.reading = 0
                self._right.append(True)
                if self._calls:
                    self._hand_on()
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
            if self._more and not self._gone and self._begin_reading():
                try:
                    in_time = self._read_for(call, end)
                finally:
                    self._end_reading()
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
        with self._lock:
            if call.answer is None:
                call.undo, call.on_answer, call.woken = undo, on_answer, None
            return call.answer is not None

    def cancel(self, call: Call) -> None:
        """Ask for a call to be given up; its answer says whether it was."""
        if call.number in self._calls:
            with suppress(OSError):
                self._pipe.send([call.number])

    def reply(self, call: Call, value: Any) -> None:
        """Answer what work asked of this call."""
        with suppress(OSError):  # it has ended, and whoever watches it says so
            self._pipe.write(any_values_line([call.number, value]))

    def read_what_came(self) -> None:
        """Hand out answers that no caller waits for, unless somebody reads."""
        if self._more and not self._gone and self._begin_reading():
            try:
                self._read_for(None, 0)
            finally:
                self._end_reading()

    def stop_waiting(self) -> None:
        """Note that the process is gone: whoever waits for an answer that it may not have given looks up."""
        self._gone, self._is_watched = True, False
        ALARM.forget(self)
        self._pipe.stop_waking()

    def end(self, end: Ending) -> None:
        """Read what is left, and fail what still waits for an answer. Nobody reads from then on."""
        for _ in range(_LAST_LOOKS):
            if self._begin_reading():
                self._read_for(None, 0)
                break
            time.sleep(_LAST_LOOK_S)
        self._more = False
        self._end = end
        failed: Exception | None = None
        while self._calls:
            with suppress(KeyError):  # another had it answered
                call = self._calls.popitem()[1]
                try:
                    self._answer(call, end)
                except Exception as error:  # noqa: BLE001 - nobody else is to wait for ever for that
                    failed = error
        if failed is not None:
            raise failed

    # ---- inside ----

    def _begin_reading(self) -> bool:
        """Take the right to read, unless another has it."""
        try:
            self._right.pop()
        except IndexError:
            return False
        return True

    def _end_reading(self) -> None:
        """Put the right to read back, and wake one who waits, to read from here on."""
        self._right.append(True)
        if self._calls:
            self._hand_on()

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
                self._break()
            elif came is not None:
                self._hand_out(came)
        except _BROKEN:
            self._break()
        return call

    def _note(self, call: Call) -> bool:
        """Note a call, so that its answer finds it. False, and it is answered, if the process has ended."""
        self._calls[call.number] = call
        if self._end is None:
            return True
        if self._calls.pop(call.number, None) is not None:  # else it was ended with the others
            self._answer(call, self._end)
        return False

    def _read_all(self) -> None:
        try:
            while self._more:
                self._read_for(None, math.inf)
        finally:
            self._end_reading()

    def _read_for(self, mine: Call | None, end: float) -> bool:
        """Read and hand out answers until mine has come, there are no more, or none has come for long.

        False once it is ``end``.
        """
        try:
            while self._more and (mine is None or mine.answer is None):
                message = self._pipe.receive(min(max(0, 1000 * (end - time.monotonic())), _LONGEST_LOOK_MS))
                if message is None:
                    self._more = False
                else:
                    self._hand_out(message)
        except TimeoutError:
            return time.monotonic() < end
        except _BROKEN:
            self._break()
        return True

    def _break(self) -> None:
        """Read no more: what came is no answer."""
        self._more = False
        self._on_broken()

    def _hand_out(self, message: Message) -> None:
        if SUCCEEDED <= len(message) <= FAILED:
            call = self._calls.pop(message[0], None)
            if call is not None:
                if call.do not in QUESTIONS:
                    self.changed = self._pipe.received
                self._answer(call, message)
            return
        number, _, _, progress, *asked = message
        call = self._calls.get(number)
        if call is None:
            return
        if not asked:
            call.on_report(*map(int, progress))
        elif call.on_question is None:
            self.reply(call, None)
        else:
            call.on_question(call, *asked)

    def _answer(self, call: Call, answer: Message | Ending) -> None:
        with self._lock:
            call.answer = answer
            on_answer, woken = call.on_answer, call.woken
        if on_answer is not None:
            on_answer()
        if woken is not None:
            woken.set()
        if call.undo is not None and isinstance(answer, list) and len(answer) == SUCCEEDED:
            self.begin(call.undo[0], call.undo[1:])

    def _follow(self, call: Call, end: float) -> bool:
        """Wait until the call is answered, or the reading is free. False once it is ``end``."""
        with self._lock:
            woken = call.woken = call.woken or SureEvent()
            woken.clear()
            if call.answer is not None:
                return True
        if not self._right or self._gone or not self._more:
            woken.wait(min(max(0, end - time.monotonic()), _LOOK_AGAIN_S))
        return time.monotonic() < end

    def _hand_on(self) -> None:
        """Wake one who waits, to read from here on."""
        with self._lock:
            waiting = next(
                (each.woken for each in tuple(self._calls.values()) if each.woken is not None), None
            )
        if waiting is not None:
            waiting.set()
