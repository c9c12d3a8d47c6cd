"""One engine process as the worker sees it: started for its first model, measured from outside, ended where it keeps."""

import itertools
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from protocol.record import Record
from worker.backends.base import RemoteWork
from worker.backends.engines.accounts import Accounts
from worker.backends.engines.arrays import Segments
from worker.backends.engines.asking import Questions
from worker.backends.engines.base import AnswerPrefixes, EngineLaunch
from worker.backends.engines.meter import Held, Meter
from worker.backends.engines.opened_model import OpenedModel
from worker.backends.engines.patience import end_unless_answered, later
from worker.backends.isolation.call import OnReport
from worker.backends.isolation.child_process import ChildProcess
from worker.backends.isolation.codec import RemoteError
from worker.backends.isolation.endings import EndedError, Ending
from worker.core.cancellation import CancelToken
from worker.core.errors import CancelledError, DeadlineExceededError, WorkerError
from worker.core.records import HOST, Footprint, Receipt
from worker.core.sure_lock import SureEvent, SureLock, SureRLock
from worker.telemetry.process_figures import mapped_bytes, private_bytes

OPEN_S = 900.0
"""A model of a hundred gigabytes from a slow disk opens in less; what takes longer hangs."""

RELEASE_S = 60.0
"""No library takes so long to give memory back; one that does is ended, which gives it back."""

WORK_S = 20.0
"""Work that has not stopped so long after it was cancelled, or its time was up, hangs: its process is ended."""

ENOUGH = 0.95
"""Where less of what a model took came back, the process ends: that returns the rest."""

IDLE_S = 60.0
"""A process without models is kept so long: starting another takes half a second."""

_HOST_MODULE = "worker.backends.engines.host"
_ENDED = "its process ended"

Start = Callable[[], ChildProcess]

Lease = Callable[[], Callable[[], object]]
"""Leases a model that is leased once more, and returns what ends that."""


class Idle(Record):
    """A process without models."""

    child: ChildProcess
    engines: frozenset[str] = frozenset()
    """The libraries that it has imported."""
    empty_bytes: int | None = 0
    """What it took with them, before any model."""


FindIdle = Callable[[str], Idle | None]
"""Looks for a process without models that has imported an engine's library."""


class EndedUnderOthersError(EndedError):
    """The process ended while it opened a model and other models of it worked: either may have been the cause."""


class EngineProcess:
    """At most one process at a time, and the models in it. Thread-safe. EndedError where it ends during a call."""

    def __init__(self, start: Start, find_idle: FindIdle, held: Held, answer: AnswerPrefixes) -> None:
        self._start = start
        self._find_idle = find_idle
        self._held = held
        self._answer = answer
        self._changing = SureRLock()
        """Held while a model comes, goes or shrinks, so that no two are measured as one."""
        self._lock = SureLock()
        # All mutable state: the process, models by handle (of one that has just ended, too, until that is told of),
        # its libraries, and how many calls work there; what its memory is of is in the accounts.
        self._child: ChildProcess | None = None
        self._models: dict[str, OpenedModel] = {}
        self._accounts = Accounts(self._models, self._lock)
        self._working = self._works = 0
        self._engines: frozenset[str] = frozenset()
        self._idle: SureEvent | None = None
        self._segments = Segments()
        self._numbers = itertools.count()

    # ---- coming ----

    def load(self, handle: str, launch: EngineLaunch, device_id: str, token: CancelToken) -> Footprint:
        """Open a model. Raises what the engine raised, and nothing of the model is left; LaunchError."""
        meter, host = Meter(device_id, self._held), Meter(HOST, self._held)
        with self._changing:
            token.check()
            self._stop_waiting()
            child = self._child
            if child is None or child.end is not None:  # what was in it goes with it: see ``ended``
                idle = self._find_idle(launch.engine) or Idle(self._start())
                child = self._child = idle.child
                self._engines, self._accounts.empty_bytes = idle.engines, idle.empty_bytes
            works, working = self._works, self._working
            try:
                self._prepare(child, launch.engine)
                before, host_before = _both(meter, host, child.pid)
                self._accounts.note_left(child, host_before)
                arguments = {
                    "engine": launch.engine,
                    "path": str(launch.path),
                    "params": dict(launch.params),
                    "model_id": launch.model_id,
                }
                figures = self._open(child, handle, arguments, token)
                after, host_after = _both(meter, host, child.pid)
            except EndedError as error:
                self._end_if_empty("could not open its model")
                if working or self._works != works:
                    raise EndedUnderOthersError(error.end) from error
                raise
            except BaseException:
                self._end_if_empty("could not open its model")
                raise
            grown, mapped = host.grown(host_before, host_after), mapped_bytes(child.pid, launch.files)
            process_bytes = None if grown is None else grown + mapped
            on_host = meter.device_id == HOST
            opened, mapped_here = meter.grown(before, after), mapped if on_host else 0
            model = OpenedModel(child, launch, meter, opened, mapped_here, process_bytes)
            model.figures = figures
            with self._lock:
                if self._child is not child:
                    raise EndedError(child.end or Ending("it ended", ran_out=False))
                self._models[handle] = model
            return model.footprint

    def _prepare(self, child: ChildProcess, engine: str) -> None:
        """Import the library, which is none of the model's memory."""
        if engine in self._engines:
            return
        before = 0 if not self._engines else private_bytes(child.pid)
        self._ask(child, "", "prepare", {"engine": engine}, RELEASE_S)
        self._engines |= {engine}
        self._accounts.add_library(before, private_bytes(child.pid))

    def _open(
        self, child: ChildProcess, handle: str, arguments: dict[str, Any], token: CancelToken
    ) -> Mapping[str, int | None]:
        """Open it. No library lets go of that half-way: a process of which the answer is not awaited is ended."""
        try:
            entry = f"{_HOST_MODULE}:open_session"
            undo: tuple[Any, ...] = ("work", handle, f"{_HOST_MODULE}:close_session", {}, {})
            figures: dict[str, int | None] = child.call(
                "work", handle, entry, arguments, {}, token=token, undo=undo, patience_s=OPEN_S
            )
        except (CancelledError, DeadlineExceededError):
            self._end_if_empty("was opening a model that is not wanted any more")
            raise
        return figures

    # ---- being used ----

    def work(self, handle: str, work: RemoteWork, token: CancelToken, report: OnReport, lease: Lease) -> Any:
        """Do work on a model there, and measure what it left behind. KeyError for one that is not there.

        Where the request ends before the work does, ``lease`` holds the model for it until it has ended.
        Shared memory under way is taken back by whoever sent it: of a call that is given up, when it is answered.
        """
        model = self._models[handle]
        child, number = model.child, next(self._numbers)
        rest, arrays = self._segments.send(work.arguments)
        entry = f"{_HOST_MODULE}:work"
        arguments = {"entry": work.entry, "arguments": rest, "number": number, "arrays": arrays}
        received: tuple[Any, ...] = ("work", handle, f"{_HOST_MODULE}:received", {"number": number}, {})
        asked = None
        if model.launch.prefixes is not None:
            asked = Questions(child.answers, self._segments, partial(self._answer, model.launch.prefixes))
        over, given_up = partial(self._work_is_over, arrays, asked), False
        take_back = partial(child.begin, *received)
        with self._lock:
            self._working, self._works = self._working + 1, self._works + 1
        try:
            began = time.monotonic()
            call = child.begin(
                "work", handle, entry, arguments, work.lent, token=token, on_report=report, on_question=asked
            )
            try:
                with token.telling(lambda: child.answers.cancel(call)):
                    child.answers.wait_while(call, token)
            except (CancelledError, DeadlineExceededError):
                release = lease()
                given_up = not child.answers.abandon(call, on_answer=partial(_both_of, over, take_back))
                if given_up:
                    end_unless_answered(child, call, WORK_S, release)
                else:
                    release()
                    take_back()
                raise
            try:
                answer = child.finish(call)
                model.worked(1000 * (time.monotonic() - began))
            except BaseException as error:  # there may be a result that could not be sent
                take_back()
                if asked is not None and isinstance(error, EndedError):
                    asked.lost()
                raise
        finally:
            if not given_up:
                over()
            self._accounts.note_growth(model)
        model.figures, sent = answer["figures"], answer["arrays"]
        try:
            return self._segments.receive(answer["result"], sent, copied=True)
        finally:
            if sent is not None:
                take_back()

    def _work_is_over(self, arrays: dict[str, Any] | None, asked: Questions | None) -> None:
        """Note that a call is answered: what was sent with it is not read any more."""
        self._segments.done(arrays)
        if asked is not None:
            asked.over()
        with self._lock:
            self._working -= 1

    def footprint(self, handle: str) -> Footprint:
        """Return what a model takes. KeyError."""
        return self._models[handle].footprint

    # ---- going ----

    def shrink(self, handle: str) -> Receipt:
        """Have a model's working memory given back; it is in no use. KeyError.

        Where less than half of it came back, the model is opened anew, if its engine can do that. EndedError where it
        can't be opened any more: then it is gone.
        """
        with self._changing:
            model = self._models[handle]
            self._accounts.note_growth(model, exact=True)
            child, claimed, began = model.child, model.grown_bytes, time.monotonic()
            steps = self._accounts.steps(model)
            model.figures = self._ask(child, handle, "shrink", {}, RELEASE_S)
            steps.add("the engine gave working memory back")
            child.call("trim", HOST, patience_s=RELEASE_S)
            steps.add("free pages went back to the system")
            if (steps.returned or 0) < claimed // 2 and self._reopen(handle, model):
                child.call("trim", HOST, patience_s=RELEASE_S)
                steps.add("the engine opened the model anew")
            took_ms = 1000 * (time.monotonic() - began)
            self._accounts.note_growth(model, exact=True)
            if model.mapped_bytes:  # of a file that was opened anew, less may be
                model.mapped_bytes = min(model.mapped_bytes, mapped_bytes(child.pid, model.launch.files))
            model.shrunk(took_ms, model.grown_bytes)
            return Receipt(claimed, steps.returned, steps.done)

    def _reopen(self, handle: str, model: OpenedModel) -> bool:
        """Have a model opened anew. False if its engine can't do that."""
        try:
            return bool(self._ask(model.child, handle, "reopen", {}, OPEN_S))
        except (KeyError, RemoteError, WorkerError) as error:  # there is no session of it any more
            with self._lock:
                self._models.pop(handle, None)
            if self._alone(model):
                self.end("could not open its model anew")
            else:
                with suppress(KeyError, RemoteError, WorkerError):
                    self._ask(model.child, handle, "close_session", {}, RELEASE_S)
            why = f"it could not be opened anew after it had given working memory back: {error}"
            raise EndedError(Ending(why, ran_out=False)) from error

    def unload(self, handle: str) -> Receipt:
        """Give a model up, and end the process where that alone returns what it took. KeyError.

        1. The library drops it, and with it what it keeps for it.
        2. The C library gives free pages back.
        3. Where that is less than ``ENOUGH`` of what it took, and no other model is there, the process ends.
        """
        with self._changing:
            model = self._models[handle]
            child, steps, own = model.child, self._accounts.steps(model), None
            try:
                self._ask(child, handle, "close_session", {}, RELEASE_S)  # 1
                steps.add("the engine dropped the model")
                child.call("trim", HOST, patience_s=RELEASE_S)  # 2
                steps.add("free pages went back to the system")
            except EndedError:
                steps.end(_ENDED)
                own = self._accounts.empty_bytes
            self._segments.clear()
            with self._lock:
                self._models.pop(handle, None)
            if self._child is child and child.end is None and self._alone(model):
                if steps.kept_share() > 1 - ENOUGH:  # 3
                    self.end("kept memory of a model that was unloaded")
                    steps.end(_ENDED)
                    own = self._accounts.empty_bytes
                else:
                    self._wait_idle()
            else:
                self._accounts.note_growth(model, exact=True)
            return Receipt(None, steps.returned, steps.done, own)

    def _alone(self, model: OpenedModel) -> bool:
        """Tell whether no other model is in the process of one."""
        with self._lock:
            return not any(each.child is model.child for each in self._models.values() if each is not model)

    # ---- ending ----

    def give_idle(self, engine: str) -> Idle | None:
        """Hand a process over that is kept without models, and has this library. Waits for nothing."""
        if engine not in self._engines or not self._changing.acquire(blocking=False):
            return None
        try:
            child = self._child
            if self._idle is None or child is None or child.end is not None:
                return None
            self._stop_waiting()
            with self._lock:
                self._child = None
            return Idle(child, self._engines, self._accounts.empty_bytes)
        finally:
            self._changing.release()

    def ended(self, child: ChildProcess) -> tuple[str, ...]:
        """Note that a process ended by itself. Returns the handles of the models that went with it."""
        with self._lock:
            if self._child is child:
                self._child = None
            return self._take_out(child)

    def end(self, why: str) -> None:
        """End the process, and all that is in it."""
        with self._lock:
            child, self._child = self._child, None
            if child is not None:
                self._take_out(child)
        if child is not None:
            child.kill(f"was ended: it {why}")

    def _take_out(self, child: ChildProcess) -> tuple[str, ...]:
        """Forget the models of a process, and return their handles; the lock is held."""
        gone = tuple(handle for handle, each in self._models.items() if each.child is child)
        for handle in gone:
            del self._models[handle]
        return gone

    def _end_if_empty(self, why: str) -> None:
        child = self._child
        if not any(each.child is child for each in self._models.values()):
            self.end(why)

    def _wait_idle(self) -> None:
        self._idle = later(IDLE_S, self._end_idle)

    def _end_idle(self) -> None:
        with self._changing:
            self._end_if_empty(f"had no model for {IDLE_S:g} s")

    def _stop_waiting(self) -> None:
        if self._idle is not None:
            self._idle.set()
            self._idle = None

    # ---- inside ----

    def _ask(
        self, child: ChildProcess, handle: str, do: str, arguments: dict[str, Any], patience_s: float
    ) -> Any:
        return child.call("work", handle, f"{_HOST_MODULE}:{do}", arguments, {}, patience_s=patience_s)


def _both_of(first: Callable[[], object], then: Callable[[], object]) -> None:
    first()
    then()


def _both(meter: Meter, host: Meter, pid: int) -> tuple[int | None, int | None]:
    """Return what a process holds where its model is, and of the machine's memory."""
    on_host = host.taken(pid)
    return (on_host if meter.device_id == HOST else meter.taken(pid)), on_host
