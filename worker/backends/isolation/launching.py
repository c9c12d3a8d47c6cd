"""Starting a device's process, saying why where that fails, and bringing one back that ended.

All on one thread, which lives as long as the worker: on Linux a process that is to end with its parent ends
with the thread that started it.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue

from protocol.vocabulary import DeviceState
from worker.backends.isolation import codec
from worker.backends.isolation.child_process import ChildProcess, Launch
from worker.backends.isolation.endings import EndedError, Ending
from worker.backends.isolation.slots import Slots
from worker.backends.torch_errors import Cause, cause_of
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_S, Clock
from worker.core.errors import CancelledError, OutOfMemoryError, WorkerError
from worker.core.log import log
from worker.core.paths import said_of
from worker.core.records import DeviceInfo
from worker.core.shortages import patiently, shortage, start_thread
from worker.core.sure_lock import SureEvent, SureLock

PROBE_PATIENCE_S = 60.0
"""Importing torch from a cold disk takes 20 s; what takes longer than this hangs, or has a machine that is overloaded."""

_MORE_PATIENCE_S = 300.0
"""So much is a first process given once more, in case it is that: one of six seconds took a minute on a machine with
five times as much work as CPUs. No one waits for it."""

_STARTING_S = 10.0
"""The system starts a process, and ends it again, in far less."""

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 30.0
"""A process that ended is started again after 0.1 s, then twice as long each time; one that held out for the
longest delay begins anew."""

Arrived = Callable[[ChildProcess, tuple[DeviceInfo, ...]], bool]
"""Called with a process and its devices; returns whether one of them can be used."""


class LaunchError(Exception):
    """No process could be started that has the devices; the message says why, for people."""


class SlowError(LaunchError):
    """It did not answer in time."""


class ShortError(LaunchError):
    """Memory was short, of the device or of the machine, or something else that there may be more of later."""


class Launching:
    """One process at a time."""

    def __init__(
        self,
        launch: Launch,
        slots: Slots,
        clock: Clock,
        remedies: dict[str, str],
        arrived: Arrived,
        failed: Callable[[str], None],
        on_end: Callable[[ChildProcess, Ending], None],
    ) -> None:
        self._launch = launch
        self._slots = slots
        self._clock = clock
        self._remedies = remedies
        self._arrived = arrived
        self._failed = failed
        self._on_end = on_end
        self._closing = CancelToken(clock.now_ns)
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._beginning = SureLock()
        # All mutable state: the thread, once begun, the next delay, and when the last process was started.
        self._over: SureEvent | None = None
        self._thread: int | None = None
        self._delay_s = FIRST_DELAY_S
        self._started_ns = 0
        self._closed = False

    def begin(self) -> None:
        """Start the first process, unless that was done; ``arrived`` or ``failed`` is called."""
        with self._beginning:
            if self._over is None:
                self._over = start_thread(self._run, "device-launcher")
                self._tasks.put(self._first)

    def bring_back(self) -> None:
        """Start a process in place of one that ended, and try until there is one; ``arrived`` is called."""
        self._tasks.put(self._again)

    def do(self, task: Callable[[], None]) -> None:
        """Have something done beside everything else, after what is being done."""
        self._tasks.put(task)

    def replace(self, attempts: int) -> tuple[ChildProcess, tuple[DeviceInfo, ...]]:
        """Start a process now. LaunchError if it failed so many times."""
        outcome: list[tuple[ChildProcess, tuple[DeviceInfo, ...]] | BaseException] = []
        over = SureEvent()

        def task() -> None:
            try:
                outcome.append(self._started(attempts))
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
                outcome.append(error)
            finally:
                patiently(over.set)

        with self._beginning:
            if self._closed:
                raise LaunchError("the worker ends")
            if self._over is None:
                self._over = start_thread(self._run, "device-launcher")
            self._tasks.put(task)
        over.wait()
        started = outcome[0]
        if isinstance(started, BaseException):
            raise started
        return started

    def _started(self, attempts: int) -> tuple[ChildProcess, tuple[DeviceInfo, ...]]:
        """Start a process. LaunchError if it failed so many times."""
        for _ in range(attempts - 1):
            try:
                return self._start()
            except LaunchError:
                if not self._pause():
                    raise
        return self._start()

    def close(self) -> None:
        """Start nothing more, and return when nothing is being started: a process must not outlive the worker."""
        with self._beginning:
            self._closed = True
            self._tasks.put(None)
        self._closing.cancel()
        if self._over is not None and self._thread != threading.get_ident():
            self._over.wait(_STARTING_S)

    def _run(self) -> None:
        """Do what there is to do: the guard of the thread, with which the devices' processes would end."""
        self._thread = threading.get_ident()
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except BaseException as error:  # noqa: BLE001 - a bug, and the devices' processes go on
                patiently(partial(log, "error", "starting a device's process failed", error=repr(error)))

    def _first(self) -> None:
        try:
            try:
                arrived = self._start()
            except SlowError as error:
                slow = f"{error}; it is given {_MORE_PATIENCE_S:g} s now"
                patiently(lambda: self._failed(slow))
                arrived = self._start(_MORE_PATIENCE_S)
        except ShortError as error:
            short = f"{error}; it is tried again"
            patiently(lambda: self._failed(short))
            self._again()
        except LaunchError as error:
            why = str(error)
            patiently(lambda: self._failed(why))
        else:
            self._arrived(*arrived)

    def _again(self) -> None:
        if self._clock.now_ns() - self._started_ns >= LONGEST_DELAY_S * NS_PER_S:
            self._delay_s = FIRST_DELAY_S
        while self._pause():
            with suppress(LaunchError, MemoryError):
                if self._arrived(*self._start()):
                    return

    def _pause(self) -> bool:
        """Wait before the next try. False if there is to be none."""
        delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s, LONGEST_DELAY_S)
        try:
            self._clock.wait(delay_s, self._closing)
        except CancelledError:
            return False
        return True

    def _start(self, patience_s: float | None = None) -> tuple[ChildProcess, tuple[DeviceInfo, ...]]:
        patience_s = PROBE_PATIENCE_S if patience_s is None else patience_s
        python = self._launch.python
        if self._closed:
            raise LaunchError("the worker ends")
        self._started_ns = self._clock.now_ns()
        began = time.monotonic()
        try:
            child = ChildProcess(self._launch, self._slots, self._on_end)
        except (OSError, OutOfMemoryError, MemoryError) as error:
            said = said_of(error, "run") if isinstance(error, OSError) else str(error)
            raise _kind_of(error)(f"no process can be started with {python}: {said}") from error
        try:
            with self._closing.telling(lambda: child.kill("was stopped")):
                found = codec.infos_of(child.call("start", patience_s=patience_s))
                child.page.begin(each.device_id for each in found if each.state is DeviceState.AVAILABLE)
                return child, found
        except EndedError as error:
            said = f"the probe with {python} did not survive: {error.end.reason}"
            late = time.monotonic() - began >= patience_s and not self._closed
            kind = ShortError if error.end.ran_out else SlowError if late else LaunchError
            raise kind(said) from error
        except (codec.RemoteError, WorkerError, KeyError, TypeError) as error:
            child.stop()
            raise _kind_of(error)(self._explained(error)) from error

    def _explained(self, error: Exception) -> str:
        python = self._launch.python
        if isinstance(error, codec.RemoteError) and error.kind == "ModuleNotFoundError" and error.module:
            remedy = self._remedies.get(error.module.partition(".")[0])
            return f"{error.module} is not installed in {python}" + (f": {remedy}" if remedy else "")
        return f"the probe with {python} failed: {error}"


def _kind_of(error: Exception) -> type[LaunchError]:
    short = shortage(error) is not None or cause_of(error) is Cause.OUT_OF_MEMORY
    return ShortError if short else LaunchError
