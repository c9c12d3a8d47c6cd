"""Following one server: asked on a thread of its own, as often as something may have changed, and never waited for."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

import psutil

from protocol.record import Record
from worker.core.clock import NS_PER_MS, Clock
from worker.core.log import log
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureEvent, SureLock
from worker.eviction.entry_prices import ExpectedUses
from worker.servers.base import Seen, Served, Sleeps, Step, tell
from worker.servers.http import NotThereError, ServerError
from worker.servers.known import OpenServer
from worker.servers.processes import HeldBy, device_bytes, listening_on, resident_bytes

LOOK_S = 1.0
"""Between two looks at a server that answers: what a question costs it is some 0.1 ms."""

LOADING_LOOK_S = 0.2
"""While a model is on its way: so its load is timed to that."""

_DOWN_S, _DOWN_MAX_S = 2.0, 30.0
"""After a look in vain, and twice as long each time."""

NOT_ASKED = "it was not asked yet"
"""Why nothing is known of a server at the start."""

_LEARNED_MAX = 256
_LOADS = 4
_SAME_SIZE = 64
"""A size that moved by less than this part of it is the same."""

_HOSTS_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


class View(Record):
    """A server as it was last seen."""

    seen: Seen | None
    """None where it does not answer."""
    why: str | None
    """Why it does not; None where it does."""
    at_ns: int
    gone: bool = False
    """Whether nothing listens at its address any more."""


Changed = Callable[["ServerWatch", View, View], None]
"""Called, by the thread that looked, with the view before and the one now."""


Refused = Callable[["ServerWatch", str, str], None]
"""Called, by the server's thread, with a model that it does not unload, and why."""


class Learned:
    """What was learned of loading one model."""

    def __init__(self) -> None:
        # All mutable state.
        self.loading_since_ns: int | None = None
        self._looks = 0
        self._loads_ms: deque[float] = deque(maxlen=_LOADS)

    @property
    def load_ms(self) -> float | None:
        """The shortest of the last loads: some servers tell of a load and the answer that it was for as one."""
        return min(self._loads_ms, default=None)

    def loads(self, model: Served, *, is_new: bool, before: int, now: int) -> None:
        """Note one look at it, and the time of the one before. It began to load between the two, and ends so."""
        if is_new and model.busy:
            self.loading_since_ns, self._looks = (before + now) // 2, 1
        elif self.loading_since_ns is not None and model.busy:
            self._looks += 1
        elif self.loading_since_ns is not None:
            if self._looks > 1:  # of a load that was seen but once it is not known that it was one
                self._loads_ms.append(((before + now) / 2 - self.loading_since_ns) / NS_PER_MS)
            self.loading_since_ns = None


class ServerWatch:
    """One server, its last view, and what its models taught. Thread-safe."""

    def __init__(
        self, name: str, opened: OpenServer, held_by: HeldBy | None, clock: Clock, on_change: Changed,
        on_refused: Refused, free_bytes: Callable[[], int | None] = lambda: None,
    ) -> None:  # fmt: skip
        """``held_by`` tells what processes hold of the device; None where that is the machine's memory.

        ``free_bytes`` tells what of the device is free; None where that is not known.
        """
        self.name = name
        self.kind = opened.kind
        self.device_id = opened.device_id
        self.server = opened.server
        parts = urlsplit(opened.url)
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._is_here = parts.hostname in _HOSTS_HERE
        self._held_by = held_by
        self._clock = clock
        self._on_change = on_change
        self._on_refused = on_refused
        self._free_bytes = free_bytes
        self._looking = SureLock()
        self._wake = SureEvent()
        # All mutable state: the last view, what was learned by model, orders, and the pace.
        self.view = View(None, NOT_ASKED, clock.now_ns())
        self.uses = ExpectedUses()
        """Of its models, by their names; of the looking thread, and whoever asks for a price."""
        self._learned: dict[str, Learned] = {}
        self._orders: deque[str] = deque()
        self._told: dict[str, str] = {}
        """What was done to models that were told to go, until they are seen to have."""
        self._pause_s = LOOK_S

    def start(self) -> None:
        """Begin to look. OutOfMemoryError where there is no thread for it."""
        start_thread(self._run, f"server-{self.name}"[:15])

    def order(self, model: str) -> None:
        """Have its thread tell it to unload a model; what is seen afterwards is told by ``on_change``."""
        self._orders.append(model)
        self._wake.set()

    def end(self) -> None:
        """Say what stays behind: one that was put to sleep is not woken when the worker ends, for that may take minutes."""
        how = self.server.asleep if isinstance(self.server, Sleeps) else None
        if how is not None:
            log("warning", "a model server stays asleep, answering no one", server=self.name, remedy=how)

    def look(self) -> View:
        """Look now, and tell of what is new; for who needs to know, and for its own thread."""
        with self._looking:
            before = self.view
            try:
                view = View(self._sized(self.server.look()), None, self._clock.now_ns())
            except ServerError as error:
                gone = isinstance(error, NotThereError)
                view = View(None, str(error), self._clock.now_ns(), gone)
            except Exception as error:  # noqa: BLE001 - whatever it said, it is the server's
                view = View(None, f"what it says can't be understood: {error!r}", self._clock.now_ns())
            self._learn(before, view)
            self.view = view
            if before.why != view.why:
                if view.why is None:
                    log("info", "a model server answers", server=self.name)
                else:
                    log("warning", "a model server can't be asked", server=self.name, problem=view.why)
            if before.seen != view.seen or before.why != view.why:
                self._on_change(self, before, view)
        return view

    def tell(self, step: Step) -> bool:
        """Have a step taken, unless what it gives back is in use. Returns whether it was told. ServerError."""
        if step.model is not None:
            self._told[step.model] = step.name  # before: it may be seen to be gone before its server answers
        told = False
        try:
            told = tell(self.server, step)
        finally:
            if not told:
                self._told.pop(step.model or "", None)
        return told

    def why_gone(self, model: str) -> str:
        """Say why a model is not loaded any more; once."""
        done = self._told.pop(model, None)
        return (
            f"unloaded by server {self.name} itself"
            if done is None
            else f"{done}: server {self.name} was told to"
        )

    def learned(self, model: str) -> Learned:
        """Return what was learned of a model; what is not known is so."""
        return self._learned.get(model) or Learned()

    # ---- inside ----

    def _run(self) -> None:
        while True:
            try:
                self._look_once()
                self._wake.wait(self._pause_s)
                self._wake.clear()
            except Exception as error:  # noqa: BLE001 - a bug, or short memory: it is looked at again
                if not isinstance(error, MemoryError):
                    log("error", "looking at a model server failed", server=self.name, error=repr(error))
                time.sleep(LOADING_LOOK_S)

    def _look_once(self) -> None:
        """Do what was ordered, look, and set how long to pause then."""
        while self._orders:
            self._carry_out(self._orders.popleft())
        view = self.look()
        if view.seen is None:
            self._pause_s = min(_DOWN_MAX_S, max(_DOWN_S, 2 * self._pause_s))
        else:
            self._have_it_back(view.seen)
            loading = any(each.loading_since_ns is not None for each in self._learned.values())
            self._pause_s = LOADING_LOOK_S if loading else LOOK_S

    def _carry_out(self, model: str) -> None:
        """Tell it to unload a model that is there and idle."""
        seen = self.look().seen
        steps = () if seen is None else self.server.steps(seen)
        step = next((each for each in steps if each.model == model), None)
        if step is None:
            there = None if seen is None else seen.model(model)
            busy = seen is not None and (seen.busy or (there is not None and there.busy))
            why = (
                "its server does not answer"
                if seen is None
                else "it is in use"
                if busy
                else "its server can't be told to"
            )
            self._on_refused(self, model, why)
            return
        try:
            if not self.tell(step):
                self._on_refused(self, model, "it is in use")
        except ServerError as error:
            self._on_refused(self, model, f"its server refuses: {error}")

    def _have_it_back(self, seen: Seen) -> None:
        """Have a server that gave memory back take it again, where it does not by itself and may."""
        if seen.models or not isinstance(self.server, Sleeps):
            return
        try:
            if self.server.wake(self._free_bytes()):
                log("info", "a model server was woken", server=self.name)
        except ServerError as error:
            log("warning", "a model server does not wake", server=self.name, problem=str(error))

    def _learn(self, before: View, now: View) -> None:
        """Note uses and loads: a use is what the server tells of, a request that began, or a model that came."""
        if now.seen is None:
            return
        earlier = before.seen or Seen(())
        if len(self._told) > _LEARNED_MAX:
            self._told.clear()  # such as were told in vain
        there = {each.name: each for each in now.seen.models}
        for name, model in there.items():
            learned = self._learned[name] = self._learned.pop(name) if name in self._learned else Learned()
            was = earlier.model(name)
            if before.seen is not None and (was is None or (not was.busy and _is_used(was, model))):
                self.uses.used(name, now.at_ns)
            learned.loads(
                model, is_new=was is None and before.seen is not None, before=before.at_ns, now=now.at_ns
            )
        for name in [each for each in self._learned if each not in there]:
            self._learned[name].loading_since_ns = None
            if len(self._learned) > _LEARNED_MAX:  # that which was there longest ago first
                del self._learned[name]

    def _sized(self, seen: Seen) -> Seen:
        """Add what processes take where the server does not say: of a model's own, or of the server with one model."""
        default = self._port if len(seen.models) == 1 else None
        ports = {
            each.name: port
            for each in seen.models
            if each.size_bytes is None and (port := each.port or default) is not None
        }
        if not ports or not self._is_here:
            return seen
        processes = listening_on(set(ports.values()))
        by_name = {name: processes[port] for name, port in ports.items() if port in processes}
        return replace(
            seen, models=tuple(self._sized_model(each, by_name.get(each.name)) for each in seen.models)
        )

    def _sized_model(self, model: Served, process: psutil.Process | None) -> Served:
        if process is None or model.size_bytes is not None:
            return model
        size = resident_bytes(process) if self._held_by is None else device_bytes(process, self._held_by)
        was = None if self.view.seen is None else self.view.seen.model(model.name)
        if size is not None and was is not None and was.size_bytes is not None:
            # A process's size moves with every request: a model is not recorded anew for that.
            size = was.size_bytes if abs(size - was.size_bytes) <= was.size_bytes // _SAME_SIZE else size
        return replace(model, size_bytes=size)


def _is_used(was: Served, now: Served) -> bool:
    """Tell whether a use began between two looks at an idle model, or was over by then."""
    return now.busy or was.used != now.used
