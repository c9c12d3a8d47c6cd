"""A node's views of itself: made by a thread that looks at its worker, and told to the directory by another, in that order."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import ray

from worker.client.calls import WorkerExitedError
from worker.core.errors import WorkerError
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureCondition
from worker.fleet.changes import EVERY_NS, Outbox
from worker.fleet.node_worker import NodeWorker
from worker.fleet.observing import Observer
from worker.fleet.pace import Pace
from worker.fleet.views import NodeChange, NodeView
from worker.fleet.words import DIRECTORY, LEASE_SECONDS, LOOK_SECONDS, NAMESPACE, Guard, Told
from worker.stream.failures import wire_error

_EVERY_SECONDS = EVERY_NS / 1e9
_UNTOLD_MAX = 64
"""Views that wait for a directory that does not answer: beyond these it is told the last one, whole."""
_BEAT_SECONDS = LEASE_SECONDS
"""A worker that hangs has nothing to tell: so often it is asked all the same whether any gateway is there, and what they have."""
_PATIENCE_SECONDS = 1.0
"""How long an answer waits for the view that shows what it did."""


class Telling:
    """What a node knows of itself, and what it told. Thread-safe."""

    def __init__(
        self,
        node_id: str,
        pace: Pace,
        on_heard: Callable[[tuple[str, ...] | None], None],
    ) -> None:
        """``on_heard``: called with the gateways that are there, where the directory knows."""
        self._node_id, self._pace, self._on_heard = node_id, pace, on_heard
        self._changed = SureCondition()
        # All mutable state: whether anything is different since the last look, who waits for the next, whether one is being
        # made, the last view, what is still to be told, and until when what was told counts.
        self._dirty, self._building, self._looked = True, False, False
        self._waiting: list[Callable[[], object]] = []
        self._draining = False
        self._view: NodeView | None = None
        self._outbox = Outbox()
        self._untold: list[NodeView | NodeChange] = []
        self._lease_until = 0.0
        self._observer: Observer | None = None

    def start(self, worker: NodeWorker) -> None:
        """Begin to look at the worker, and to tell of it."""
        start_thread(partial(self._look_for_ever, worker), "fleet-node-look")
        start_thread(partial(self._tell_for_ever, worker), "fleet-node-tell")

    # ---- asked by the node ----

    def note_change(self) -> None:
        """Have the worker looked at: something is different there."""
        with self._changed:
            self._dirty = True
            self._changed.notify_all()

    def drain(self, *, draining: bool) -> None:
        """Have nothing more placed here; or again."""
        self._draining = draining
        self.note_change()

    def why_not(self, guard: Guard) -> tuple[str | None, NodeView | None]:
        """Say why nothing that was placed by this is carried out; None where it is. And the view that it is past by."""
        if time.monotonic() >= self._lease_until:
            return "it has not reached the directory for a lease, and so admits nothing that is placed", None
        if self._draining:
            return "it is draining", None
        view = self._view
        if view is not None and (guard.incarnation, guard.revision) != (view.incarnation, view.revision):
            return f"revision {guard.revision} is past: it is at {view.revision}", view
        return None, None

    def shown_at(self) -> int:
        """Return the revision of the first view that is made from here on."""
        with self._changed:
            return self._outbox.next_revision + self._building

    async def view_from_now(self) -> NodeView | None:
        """Return a view that shows all that was done until now; the last one where the worker does not answer in time."""
        loop = asyncio.get_running_loop()
        looked = asyncio.Event()
        with self._changed:
            self._waiting.append(lambda: loop.call_soon_threadsafe(looked.set))
            self._changed.notify_all()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(looked.wait(), _PATIENCE_SECONDS)
        return self._view

    # ---- looking ----

    def _look_for_ever(self, worker: NodeWorker) -> None:
        """Look at the worker, now and then and whenever it is asked for: the guard of this thread."""
        looked_at = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._dirty or self._waiting, LOOK_SECONDS)
                pause = looked_at + _EVERY_SECONDS - time.monotonic()
                self._changed.wait_for(lambda: self._waiting, max(0.0, pause))
                waiting, self._waiting = self._waiting, []
                self._dirty = False
            looked_at = time.monotonic()
            try:
                if worker.restart():
                    self._look(worker, at_once=bool(waiting))
            except (WorkerError, WorkerExitedError):
                pass  # it is asked again
            except Exception as error:  # noqa: BLE001 - a bug: the thread must not end, or nothing is placed here any more
                wire_error(error, "looking at the worker", None)
            for each in waiting:
                each()

    def _look(self, worker: NodeWorker, *, at_once: bool) -> None:
        """Look at the worker, and note what is to be told of it."""
        with self._changed:
            self._building = True
        try:
            observer = self._observer
            if observer is None or observer.incarnation != worker.incarnation:
                observer = self._observer = Observer(self._node_id, worker.incarnation, self._pace)
            now = observer.observe(worker.ask, draining=self._draining, down_ms=worker.down_ms)
        finally:
            with self._changed:
                self._building = False
        with self._changed:
            said = self._outbox.next_message(now, time.monotonic_ns(), at_once=at_once)
            if said is not None:
                self._view = replace(now, revision=said.revision)
                self._untold.append(said)
            if len(self._untold) > _UNTOLD_MAX:
                self._tell_whole()
            self._looked = True
            self._changed.notify_all()

    # ---- telling ----

    def _tell_for_ever(self, worker: NodeWorker) -> None:
        """Tell the directory what was seen, and the worker's events: the guard of this thread."""
        while True:
            with self._changed:
                looked = self._changed.wait_for(lambda: self._looked, _BEAT_SECONDS)
                self._looked = False
                said: list[NodeView | NodeChange | None] = [*self._untold] if looked else [None]
                self._untold.clear()
            try:
                self._tell(worker, said)
            except (ray.exceptions.RayError, ValueError):
                pass  # it is told again
            except Exception as error:  # noqa: BLE001 - a bug: the thread must not end, or nothing is placed here any more
                wire_error(error, "telling the directory", None)

    def _tell(self, worker: NodeWorker, said: list[NodeView | NodeChange | None]) -> None:
        """Tell it all, the events last; None for nothing, to learn which gateways there are. What can't be told is told again, whole."""
        events = worker.take_events()
        told = [Told(self._node_id, each) for each in said]
        if events:
            told[-1:] = [Told(self._node_id, said[-1] if said else None, tuple(events))]
        heard = done = None
        try:
            for each in told:
                sent_at = time.monotonic()
                directory = ray.get_actor(DIRECTORY, NAMESPACE)
                heard = ray.get(directory.tell.remote(each), timeout=LEASE_SECONDS)
                if heard.refused is not None or not heard.known:
                    return
                if each.said is not None:
                    self._lease_until = sent_at + LEASE_SECONDS
            done = heard
        finally:
            if told and done is None:
                worker.put_back(events)
                with self._changed:
                    self._tell_whole()
        if done is not None:
            self._on_heard(done.gateways)

    def _tell_whole(self) -> None:
        """Have everything told the next time: the directory is a new one, or missed something. Whoever calls locks."""
        self._outbox.forget()
        self._untold.clear()
        self._dirty = True
        self._changed.notify_all()
