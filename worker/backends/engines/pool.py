"""All engine processes: one a model, or one a group of models. A file that crashes its parser twice is not opened again."""

import sys
from collections.abc import Callable
from typing import Any

from protocol.record import Record
from worker.backends.base import RemoteWork
from worker.backends.engines.base import AnswerPrefixes, EngineError, EngineLaunch, FileState, LibraryError
from worker.backends.engines.meter import Held
from worker.backends.engines.process import RELEASE_S, EndedUnderOthersError, EngineProcess, Idle, Lease
from worker.backends.isolation.call import OnReport
from worker.backends.isolation.child_process import ChildProcess, Launch
from worker.backends.isolation.codec import RemoteError
from worker.backends.isolation.endings import EndedError, Ending
from worker.backends.isolation.launching import LaunchError, Launching
from worker.backends.isolation.slots import Slots
from worker.backends.torch_errors import Cause, cause_in_words
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.records import Footprint, Receipt
from worker.core.sure_lock import SureLock

CRASHES = 2
"""A file whose opening ended so many processes in a row is not opened again."""

_TRIES = 3
"""So often a model is opened in a process that ends under the work of others."""

OnLost = Callable[[tuple[str, ...], str], None]
"""Called with the handles of models that went with their process, and how that ended; by a thread of its own."""


class NotOpenedError(Exception):
    """A model can't be opened; the message is the cause, for people."""


class NoMemoryError(Exception):
    """A model was not opened, or work on it not done, for want of memory; the message says how."""


class WorkLostError(Exception):
    """The process ended under work; the message says how."""


class _Crashes(Record):
    files: FileState
    count: int
    reason: str


class Engines:
    """Loads models into engine processes, by handle. Thread-safe; starts nothing before the first model."""

    def __init__(
        self, on_lost: OnLost, held: Held, answer: AnswerPrefixes, python: str = sys.executable
    ) -> None:
        self._on_lost = on_lost
        self._answer = answer
        self._held = held
        self._slots: Slots | None = None
        self._python = python
        self._lock = SureLock()
        # All mutable state: the processes by the name of a group or of a model, which of them each model is in, and
        # the files that crashed theirs.
        self._launching: Launching | None = None
        self._processes: dict[str, EngineProcess] = {}
        self._places: dict[str, EngineProcess] = {}
        self._crashes: dict[str, _Crashes] = {}
        self._closed = False

    # ---- coming ----

    def load(
        self, name: str, handle: str, launch: EngineLaunch, device_id: str, token: CancelToken
    ) -> Footprint:
        """Open a model of this name, counted on this device. NotOpenedError, NoMemoryError, or what the token raises: nothing of it is left."""
        files = launch.state()
        why = self.quarantined(name, launch)
        if why is not None:
            raise NotOpenedError(why)
        key = f"group {launch.group}" if launch.group is not None else f"model {name}"
        with self._lock:
            process = self._processes.setdefault(
                key, EngineProcess(self._start, self._find_idle, self._held, self._answer)
            )
        try:
            footprint = self._load(process, handle, launch, device_id, token)
        except EndedError as error:
            raise self._crashed(name, files, error.end) from error
        except LaunchError as error:
            message = f"its engine can't be started: {error}"
            raise NotOpenedError(message) from error
        except RemoteError as error:
            if _ran_out(error):
                raise NoMemoryError(_out_of_memory(_explained(error, launch))) from error
            raise NotOpenedError(_explained(error, launch)) from error
        with self._lock:
            self._places[handle] = process
            self._crashes.pop(name, None)
        return footprint

    def consult(self, launch: EngineLaunch) -> tuple[str, ...]:
        """Have a library look at a model's params, in a process that ends with it. Returns what it takes no notice of.

        NotOpenedError for what it can't do, or where it is not to be had.
        """
        try:
            child = self._start()
            try:
                asked = {"engine": launch.engine, "params": dict(launch.params)}
                entry = "worker.backends.engines.host:consult"
                return tuple(child.call("work", "", entry, asked, {}, patience_s=RELEASE_S))
            finally:
                child.kill("had been asked what its library can do")
        except EndedError as error:
            message = f"its engine ended while its library was imported: {error.end.reason}"
            raise NotOpenedError(message) from error
        except LaunchError as error:
            message = f"its engine can't be started: {error}"
            raise NotOpenedError(message) from error
        except RemoteError as error:
            raise NotOpenedError(_explained(error, launch)) from error

    def _load(
        self,
        process: EngineProcess,
        handle: str,
        launch: EngineLaunch,
        device_id: str,
        token: CancelToken,
    ) -> Footprint:
        """Open a model, and again in another process where others were at work in one that ended: they may have crashed it."""
        for _ in range(_TRIES):
            try:
                return process.load(handle, launch, device_id, token)
            except EndedUnderOthersError as error:
                how = error.end.reason
        message = f"the process of its group ended {_TRIES} times while it was opened and others worked there, the last"
        raise NotOpenedError(
            f"{message} time so: {how}; load it again, or give it an engine_group of its own"
        )

    def quarantined(self, name: str, launch: EngineLaunch) -> str | None:
        """Return why a model's file is not opened any more; None where it may be."""
        crashes = self._crashes.get(name)
        if crashes is None or crashes.count < CRASHES or crashes.files != launch.state():
            return None
        return crashes.reason

    def forgive(self) -> tuple[str, ...]:
        """Have all files be opened again. Returns the names of the models that were not."""
        with self._lock:
            names = tuple(name for name, each in self._crashes.items() if each.count >= CRASHES)
            self._crashes.clear()
            return names

    def _crashed(self, name: str, files: FileState, end: Ending) -> NotOpenedError | NoMemoryError:
        if end.ran_out:
            return NoMemoryError(_out_of_memory(end.reason))
        with self._lock:
            before = self._crashes.get(name)
            count = 1 + (before.count if before is not None and before.files == files else 0)
            reason = f"its file crashed its engine {count} times, the last time so: {end.reason}; it is opened again once"
            reason += " it is another file, or memory.reload_models was called"
            self._crashes[name] = _Crashes(files, count, reason)
        if count >= CRASHES:
            return NotOpenedError(reason)
        return NotOpenedError(f"its engine ended while it was opened: {end.reason}")

    # ---- being used ----

    def work(self, handle: str, work: RemoteWork, token: CancelToken, report: OnReport, lease: Lease) -> Any:
        """Do work where a model is; ``lease`` holds the model for work that goes on after its request. Raises what that raises; NoMemoryError; WorkLostError where its process is gone."""
        try:
            return self._places[handle].work(handle, work, token, report, lease)
        except EndedError as error:
            if error.end.ran_out:
                raise NoMemoryError(_out_of_memory(error.end.reason)) from error
            raise WorkLostError(error.end.reason) from error
        except RemoteError as error:
            if _ran_out(error):
                raise NoMemoryError(_out_of_memory(str(error).strip())) from error
            raise
        except KeyError as error:
            if error.args == (handle,):
                raise WorkLostError("its process has ended") from error
            raise

    def footprint(self, handle: str) -> Footprint | None:
        """Return what a model takes; None where it is gone."""
        try:
            return self._places[handle].footprint(handle)
        except KeyError:
            return None

    def footprints(self) -> dict[str, Footprint]:
        """Return what each model takes, by handle: of those that share a process, one that goes may change others'."""
        with self._lock:
            handles = tuple(self._places)
        found = {handle: self.footprint(handle) for handle in handles}
        return {handle: each for handle, each in found.items() if each is not None}

    def shrink(self, handle: str) -> Receipt:
        """Have working memory given back. WorkLostError where the model is gone."""
        try:
            return self._places[handle].shrink(handle)
        except EndedError as error:
            raise WorkLostError(error.end.reason) from error
        except KeyError as error:
            raise WorkLostError("its process has ended") from error

    # ---- going ----

    def unload(self, handle: str) -> Receipt:
        """Give a model up. Nothing is left to do, nor to measure, for one that went with its process."""
        with self._lock:
            process = self._places.pop(handle, None)
        try:
            return Receipt(None, None) if process is None else process.unload(handle)
        except KeyError:
            return Receipt(None, None)

    def close(self) -> None:
        """End all processes, and start no other."""
        with self._lock:
            self._closed = True
            launching, processes = self._launching, list(self._processes.values())
        # First: they would end with the thread that started them, and be taken for lost.
        for each in processes:
            each.end("belongs to a worker that ends")
        if launching is not None:
            launching.close()
        for each in processes:  # what was being started meanwhile
            each.end("belongs to a worker that ends")
        if self._slots is not None:
            self._slots.close()

    # ---- inside ----

    def _start(self) -> ChildProcess:
        """Start a process. LaunchError."""
        with self._lock:
            if self._closed:
                raise LaunchError("the worker ends")
            if self._launching is None:
                self._slots = Slots.create()
                launch = Launch(self._python, "worker.backends.engines.host:EngineHost", {})
                self._launching = Launching(
                    launch, self._slots, SystemClock(), {}, lambda *_: True, lambda _: None, self._ended
                )
        child, _ = self._launching.replace(1)
        return child

    def _find_idle(self, engine: str) -> Idle | None:
        """Take over the process of another model that is gone: this one need not start its own, nor import the library."""
        with self._lock:
            processes = list(self._processes.values())
        return next(filter(None, (each.give_idle(engine) for each in processes)), None)

    def _ended(self, child: ChildProcess, end: Ending) -> None:
        with self._lock:
            processes = list(self._processes.values())
        for each in processes:
            gone = each.ended(child)
            if gone:
                with self._lock:
                    for handle in gone:
                        self._places.pop(handle, None)
                self._on_lost(gone, end.reason)


def _ran_out(error: RemoteError) -> bool:
    return cause_in_words(str(error)) is Cause.OUT_OF_MEMORY


def _out_of_memory(how: str) -> str:
    return f"its engine ran out of memory: {how}"


def _explained(error: RemoteError, launch: EngineLaunch) -> str:
    """Say why it was not opened, in words that tell what to do."""
    if error.module is not None:
        remedy = (launch.remedies or {}).get(error.module.partition(".")[0])
        return f"needs {error.module}, which is not installed" + ("" if remedy is None else f": {remedy}")
    said = " ".join(str(error).split())
    broken = said.removeprefix(f"{LibraryError.__name__}: ")
    if broken != said:
        remedy = next(iter((launch.remedies or {}).values()), "pip install")
        return f"its library can't be imported: {broken}; mend it, as by {remedy} --force-reinstall"
    ours = said.removeprefix(f"{EngineError.__name__}: ")
    if ours != said:
        return ours
    return f"its library refuses it: {said}; see that it is whole, and one that the installed version runs"
