"""Who reads the answers to calls into a device's process: whoever waits for one, for all who do.

A thread that only reads would have to be woken by each answer and wake the caller in turn. So the first who waits
reads, hands answers to the others as they come, and hands on the reading when it has its own. Where a pipe can't be
waited for with a time limit (Windows), a thread of its own reads all the same.
"""

import math
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from worker.backends.isolation.alarm import ALARM
from worker.backends.isolation.call import FAILED, QUESTIONS, SUCCEEDED, Call
from worker.backends.isolation.endings import Ending
from worker.backends.isolation.frames import BrokenFrameError, FramePipe, Message
from worker.core.errors import OutOfMemoryError
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureLock

_LONGEST_LOOK_MS = 1000.0
"""Who reads looks this often whether the process is still there: another may hold its end of the pipe open."""

READS_ALONE = sys.platform == "win32"
"""Whether a thread of its own reads."""

BROKEN = (BrokenFrameError, IndexError, KeyError, OSError, TypeError, ValueError)
"""What is raised by reading what is no answer."""

_LAST_LOOKS, _LAST_LOOK_S = 500, 0.01
"""How often it is looked whether who reads has come to the end of what a process left in its pipe, and how soon again."""


class Reader:
    """The calls on their way, and the reading of their answers. Thread-safe."""

    def __init__(
        self,
        pipe: FramePipe,
        on_broken: Callable[[], None],
        reply: Callable[[Call, Any], None],
        undo: Callable[[tuple[Any, ...]], object],
    ) -> None:
        """``on_broken`` is called when what comes is no answer, ``reply`` with None for what work asks and nobody hears.

        ``undo`` is called with the call that undoes one which was given up, and is done all the same.
        """
        self._pipe = pipe
        self._on_broken = on_broken
        self._reply = reply
        self._undo = undo
        self.look_up = pipe.wake
        self.lock = SureLock()
        """Guards what is to be done with each call's answer."""
        # All mutable state: the calls on their way, the right to read, whether there is more to read, and whether the process is gone,
        # when ``drain`` alone reads. Whoever takes a call out is who answers it.
        self.calls: dict[int, Call] = {}
        self.right = deque([True])
        """What is in it is taken out by who reads, and put back: a lock that no caller waits for, at a third of the price."""
        self.more, self.gone = True, False
        self.reading = 0
        """The call whose answer is waited for without a limit of time."""
        self.is_watched = False
        """Whether such a wait is ended before long."""
        self.changed = 0
        """How many messages had come with the last answer to a call that may have changed something there."""
        if not READS_ALONE:
            with suppress(OutOfMemoryError):  # then all is waited for with one
                ALARM.watch(self)
                self.is_watched = True
        else:
            pipe.stop_waking()
            self.begin()  # before any caller does
            start_thread(self._read_all, "device-answers")

    def begin(self) -> bool:
        """Take the right to read, unless another has it."""
        try:
            self.right.pop()
        except IndexError:
            return False
        return True

    def end(self) -> None:
        """Put the right to read back, and wake one who waits, to read from here on."""
        self.right.append(True)
        if self.calls:
            self.hand_on()

    def hand_on(self) -> None:
        """Wake one who waits, to read from here on."""
        with self.lock:
            waiting = next(
                (each.woken for each in tuple(self.calls.values()) if each.woken is not None), None
            )
        if waiting is not None:
            waiting.set()

    def read_for(self, mine: Call | None, end: float) -> bool:
        """Read and hand out answers until mine has come, there are no more, or none has come for long.

        False once it is ``end``.
        """
        try:
            while self.more and (mine is None or mine.answer is None):
                message = self._pipe.receive(min(max(0, 1000 * (end - time.monotonic())), _LONGEST_LOOK_MS))
                if message is None:
                    self.more = False
                else:
                    self.hand_out(message)
        except TimeoutError:
            return time.monotonic() < end
        except BROKEN:
            self.break_off()
        return True

    def read_what_came(self) -> None:
        """Hand out answers that no caller waits for, unless somebody reads."""
        if self.more and not self.gone and self.begin():
            try:
                self.read_for(None, 0)
            finally:
                self.end()

    def stop_waiting(self) -> None:
        """Note that the process is gone: whoever waits for an answer that it may not have given looks up."""
        self.gone, self.is_watched = True, False
        ALARM.forget(self)
        self._pipe.stop_waking()

    def drain(self) -> None:
        """Read what is left, once the process is gone. Nobody reads from then on."""
        for _ in range(_LAST_LOOKS):
            if self.begin():
                self.read_for(None, 0)
                break
            time.sleep(_LAST_LOOK_S)
        self.more = False

    def hand_out(self, message: Message) -> None:
        """Have what came heard: an answer, how far work has come, or what it asks. One of ``BROKEN`` for what is none of these."""
        if SUCCEEDED <= len(message) <= FAILED:
            call = self.calls.pop(message[0], None)
            if call is not None:
                if call.do not in QUESTIONS:
                    self.changed = self._pipe.received
                self.answer(call, message)
            return
        number, _, _, progress, *asked = message
        call = self.calls.get(number)
        if call is None:
            return
        if not asked:
            call.on_report(*map(int, progress))
        elif call.on_question is None:
            self._reply(call, None)
        else:
            call.on_question(call, *asked)

    def break_off(self) -> None:
        """Read no more: what came is no answer."""
        self.more = False
        self._on_broken()

    def answer(self, call: Call, answer: Message | Ending) -> None:
        """Answer a call, which was taken out."""
        with self.lock:
            call.answer = answer
            on_answer, woken = call.on_answer, call.woken
        if on_answer is not None:
            on_answer()
        if woken is not None:
            woken.set()
        if call.undo is not None and isinstance(answer, list) and len(answer) == SUCCEEDED:
            self._undo(call.undo)

    # ---- inside ----

    def _read_all(self) -> None:
        try:
            while self.more:
                self.read_for(None, math.inf)
        finally:
            self.end()
