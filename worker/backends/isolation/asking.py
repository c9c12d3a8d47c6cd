"""Questions about a device's figures: waited for so long and no longer, however the device's process is.

Who gets no answer in time answers from the last figures, which have an age. A process that has not answered one
for long hangs, and is killed.
"""

from functools import partial
from typing import Any

from protocol.vocabulary import DeviceState, Executed
from worker.backends.isolation import codec
from worker.backends.isolation.call import Call
from worker.backends.isolation.child_process import ChildProcess
from worker.core.clock import NS_PER_MS, NS_PER_S, Clock
from worker.core.errors import DeviceUnavailableError
from worker.core.records import Readings
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureLock

ANSWER_S = 0.25
"""How long an answer is waited for."""

PATIENCE_S = 20.0
"""A process that has not answered a question within this time hangs."""


class Asking:
    """The oldest question that is not answered yet. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = SureLock()
        # All mutable state: that question, if there is one, whom it was asked, and when.
        self._oldest: tuple[Call, ChildProcess, int] | None = None

    def readings(self, child: ChildProcess, device_id: str) -> Readings:
        """Return a device's figures. DeviceUnavailableError where they don't come in time; EndedError."""
        now = self._clock.now_ns()
        with self._lock:
            oldest = self._oldest
            if oldest is not None and (oldest[0].answer is not None or oldest[1] is not child):
                oldest = self._oldest = None
            if oldest is not None and now - oldest[2] >= ANSWER_S * NS_PER_S:
                raise _silent(device_id, now - oldest[2])
        wait = partial(self._wait, child, device_id, now)
        return codec.readings_of(child.answers.call("readings", (device_id,), late=wait))

    def _wait(self, child: ChildProcess, device_id: str, asked_ns: int, call: Call) -> Any:
        with self._lock:
            is_oldest = self._oldest is None
            if is_oldest:
                self._oldest = (call, child, asked_ns)
        if child.answers.wait(call, ANSWER_S):
            return child.finish(call)
        if is_oldest:
            start_thread(partial(_wait_or_kill, child, call), "device-patience")
        raise _silent(device_id, self._clock.now_ns() - asked_ns)


def _wait_or_kill(child: ChildProcess, call: Call) -> None:
    try:
        child.finish(call, patience_s=PATIENCE_S)
    except Exception:  # noqa: BLE001 - whoever asks next is told; here it is only whether there is an answer
        return


def _silent(device_id: str, for_ns: int) -> DeviceUnavailableError:
    message = (
        f"{device_id} has not answered for {for_ns // NS_PER_MS} ms; its last figures hold until it does"
    )
    error = DeviceUnavailableError(message, device_id=device_id, state=DeviceState.AVAILABLE)
    error.executed = Executed.NO
    return error
