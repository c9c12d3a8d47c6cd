"""The nodes as a gateway knows them: which there are, what each said last, and which are lost."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import ray

from protocol.vocabulary import DeviceKind, DeviceState, Executed, ModelState
from worker.core.cancellation import CancelToken, wait_for_change
from worker.core.errors import DeviceNotFoundError, DeviceUnavailableError
from worker.core.health import PartHealth
from worker.core.log import log
from worker.core.sure_lock import SureCondition
from worker.fleet.candidates import Candidates
from worker.fleet.conditions import Condition, condition
from worker.fleet.freeing import Freeing
from worker.fleet.holdings import LATEST
from worker.fleet.known import KnownNode
from worker.fleet.leaving import leave
from worker.fleet.links import LOST, PROCESS_LOST, Link, why_of
from worker.fleet.losses import Lost, OnLost
from worker.fleet.machines import Machines
from worker.fleet.names import in_order, joined, split
from worker.fleet.placement import Placement
from worker.fleet.silence import Silence
from worker.fleet.views import (
    Choice,
    DeviceView,
    NodeChange,
    NodeView,
    PlacementRequest,
    others_only,
)
from worker.fleet.words import LEASE_SECONDS, START_SECONDS, Answered, Guard, News, Since

_UNTOLD = (DeviceView("cpu", DeviceKind.CPU, state=DeviceState.PROBING),)
"""What a node has that never told of itself."""


class Roster:
    """What is known of nodes, kept up to date by a thread that follows the directory. Thread-safe."""

    def __init__(
        self,
        machines: Machines,
        gateway: str,
        on_event: Callable[[str, str, Any], None],
        on_lost: OnLost,
        on_back: Callable[[str, float, NodeView], None],
    ) -> None:
        self._on_event, self._on_lost, self._on_back = on_event, on_lost, on_back
        self._changed = SureCondition()
        # All mutable state, under its lock: which machines have nodes, to each node the link that it is reached by since it was last back, the last
        # views and what was placed that none shows yet, which nodes are lost and since when, when each was heard of last or its start began, and what ends with a link.
        self._machines = machines
        self._links: dict[str, Link] = {}
        self._candidates = Candidates()
        self._lost: dict[str, Lost] = {}
        self._heard_at: dict[str, float] = {}
        self._watches: dict[Any, Link] = {}
        self._closed = False
        self.plugins: frozenset[str] = frozenset()
        """Actions that the nodes have beside the contract's: all have the same options."""
        self.freeing = Freeing()
        self.silence = Silence()
        self.directory = machines.cluster.directory()
        self.gateway = gateway

    # ---- who is there ----

    def names(self) -> tuple[str, ...]:
        """Return all nodes, the lost ones too."""
        with self._changed:
            return tuple(in_order(self._links))

    def link(self, node_id: str) -> Link:
        """Return how to reach a node. DeviceNotFoundError for one that there is not; DeviceUnavailableError for one that is lost, or hangs."""
        with self._changed:
            link = self._links.get(node_id)
        if link is None:
            known = ", ".join(self.names())
            raise DeviceNotFoundError(
                f"no node {node_id!r}; there is {known}", device_id=node_id, known=self.names()
            )
        how = self.condition(node_id)
        if how.devices in {DeviceState.LOST, DeviceState.UNAVAILABLE}:
            refusal = DeviceUnavailableError(f"{node_id} {how.why}", node=node_id)
            refusal.executed = Executed.NO
            raise refusal
        return link

    def handle(self, node_id: str) -> Any:
        """Return what Ray reaches a node by now, whether it is lost or not."""
        with self._changed:
            return self._links[node_id].handle

    def reachable(self, *, starting: bool = False) -> tuple[Link, ...]:
        """Return the nodes that are neither lost nor hang; on request also those that are being started, which answer once they are."""
        hanging = self.silence.nodes()
        with self._changed:
            left_out = {*self._lost, *hanging, *(() if starting else self._starting())}
            return tuple(self._links[each] for each in in_order(self._links) if each not in left_out)

    def await_start(self, token: CancelToken, *, elsewhere: bool = False) -> bool:
        """Wait until a node more has told of itself, or is lost. False at once where none is being started. Raises what the token raises.

        ``elsewhere``: only for those on other machines than the gateway's, where all read the same files with the same options.
        """
        with self._changed:
            starting = {each for each in self._starting() if not (elsewhere and self.is_here(each))}
            while starting and self._starting() >= starting:
                wait_for_change(self._changed, token)
        return bool(starting)

    def _starting(self) -> set[str]:
        """Return the nodes that did not tell of themselves yet."""
        return {each for each in self._links.keys() - self._lost.keys() if self._candidates.get(each) is None}

    def condition(self, node_id: str) -> Condition:
        """Say how a node is that there is."""
        with self._changed:
            link, lost, known = (
                self._links.get(node_id),
                self._lost.get(node_id),
                self._candidates.get(node_id),
            )
            silent = None if link is None else self.silence.why(link)
            return condition(lost, silent, known, time.monotonic_ns())

    def is_here(self, node_id: str) -> bool:
        """Tell whether a node is on the gateway's own machine."""
        with self._changed:
            return self._machines.is_here(node_id)

    def view(self, node_id: str) -> NodeView | None:
        """Return what a node said last."""
        with self._changed:
            known = self._candidates.get(node_id)
            return None if known is None else known.view()

    def meant(self, name: str, own: str) -> str | None:
        """Return the id of the model that a name stands for, be it an id, an alias or a role: on a gateway's own node, else on any."""
        with self._changed:
            first = self._candidates.get(own)
            nodes = self._candidates.nodes if first is None else (first, *self._candidates.nodes)
            return next((found for each in nodes if (found := each.meant(name)) is not None), None)

    def devices(self) -> tuple[tuple[str, DeviceState], ...]:
        """Return every device in the fleet's names, and its state; of a node that never told of itself, what every node has."""
        with self._changed:
            known, lost = self._known(), frozenset(self._lost)
            found = {
                name: tuple(known[name].devices.values()) if name in known else _UNTOLD
                for name in in_order({*self._links, *known})
            }
        return tuple(
            (joined(name, each.device_id), DeviceState.LOST if name in lost else each.state)
            for name, devices in found.items()
            for each in devices
        )

    def health(self) -> Iterator[PartHealth]:
        """Tell of each node whether it can be asked and placed on."""
        for name in self.names():
            how = self.condition(name)
            yield PartHealth(f"node:{name}", how.health, how.why and f"it {how.why}")

    # ---- placing ----

    def place(self, request: PlacementRequest) -> Placement:
        """Decide where something goes, by what is known now. Where it goes nowhere, it is also said now why."""
        hanging = self.silence.nodes()
        with self._changed:
            if self._lost or hanging:
                request = replace(request, excluded=request.excluded | self._lost.keys() | hanging)
            placement = self._candidates.place(request, time.monotonic_ns())
            if placement.chosen is not None:
                return placement
            passed = placement.why_passed()
        return replace(placement, why_passed=lambda: passed)

    def reserve(self, key: str, choice: Choice, request: PlacementRequest) -> Guard:
        """Count a placement from now on. Returns what the node is to compare with what it is."""
        with self._changed:
            uses = request.new_use and request.model_id is not None
            self._candidates.reservations.add(key, choice, request.model_id, uses=uses)
            known = self._candidates.get(choice.node_id)
        incarnation = "" if known is None else known.incarnation
        return Guard(incarnation, choice.revision, request.model_id if uses else None)

    def reserve_named(self, key: str, device: str, model_id: str | None, size_bytes: int) -> None:
        """Count from now on what goes to a device that was named, as if it had been placed there."""
        node_id, device_id = split(device)
        with self._changed:
            known = self._candidates.get(node_id or "")
            if known is not None and device_id in known.devices:  # else it will be refused
                self._candidates.reservations.add_named(key, known, device_id, model_id, size_bytes)

    def settle(self, key: str, node_id: str, found: Answered | None) -> None:
        """Note what a node answered, None for nothing; what it did not do is counted no more."""
        with self._changed:
            held = self._candidates.reservations
            if found is not None and found.succeeded:
                held.accepted(key, node_id, found.incarnation, found.revision)
                held.answered(key, node_id)
            else:
                held.refused(key, node_id)

    def heard(self, link: Link, action: str, found: Answered) -> None:
        """Know from now on what a node answered."""
        self.silence.heard(link)
        with self._changed:
            self._heard_at[link.node_id] = time.monotonic()
            if found.view is not None:
                self._take(found.view)
            if action == "memory.deallocate" and found.succeeded:
                freed = (found.message or {})["data"]
                key = f"freed {freed['allocation_id']} {found.incarnation}"
                device_id, size = freed["device_id"], freed["freed_bytes"]
                held = self._candidates.reservations
                held.add_freed(key, link.node_id, device_id, size, (found.incarnation, found.revision))

    def having(self, model_id: str) -> tuple[Link, ...]:
        """Return the nodes where a model is, or is about to be."""
        with self._changed:
            return tuple(
                self._links[name]
                for name, known in self._known().items()
                if name in self._links and name not in self._lost and self._has(known, model_id)
            )

    def _known(self) -> dict[str, KnownNode]:
        """Return the nodes that said anything, in the order of their names."""
        known = {each.node_id: each for each in self._candidates.nodes}
        return {name: known[name] for name in in_order(known)}

    def _has(self, known: KnownNode, model_id: str) -> bool:
        model = known.models.get(model_id)
        there = model is not None and model.state not in {ModelState.UNLOADED, ModelState.FAILED}
        return there or model_id in self._candidates.reservations.of(known.node_id).loads

    def lose(self, link: Link, why: str) -> None:
        """Note that a node is lost by which a link ended; nothing of one that is back, and has another link since."""
        with self._changed:
            if self._links.get(link.node_id) is link:
                self._lose(link.node_id, why)

    def _lose(self, node_id: str, why: str, since: float | None = None, before: str | None = None) -> None:
        """Note that a node is lost: once, until it is back.

        ``since``: when it was lost, by ``time.monotonic``; None where that is not known: since it was heard of last.
        ``before``: the start of its worker that is not lost.
        """
        if node_id in self._lost or node_id not in self._links or self._closed:
            return
        now = time.monotonic()
        self._lost[node_id] = Lost(why, self._heard_at.get(node_id, now) if since is None else since, now)
        self._links[node_id].end(why)
        self._machines.lost(node_id, with_process=before is None)
        self._candidates.reservations.lost(node_id)
        log("warning", "a node is lost", node=node_id, reason=why)
        known = self._candidates.get(node_id)
        if known is not None:
            self._on_lost(node_id, why, known.view(), before or known.incarnation + LATEST)

    def close(self, patience: float) -> None:
        """Have every node free what this gateway has there, and leave, in so many seconds at most."""
        with self._changed:
            self._closed = True
            hanging = [self._links[each] for each in self.silence.nodes() if each not in self._lost]
        leave(self.reachable(), hanging, self.directory, self.gateway, patience)

    # ---- following ----

    @property
    def closed(self) -> bool:
        """Whether nothing is to be followed any more."""
        return self._closed

    def watches(self) -> list[Any]:
        """Return what Ray answers once a node's process ends."""
        with self._changed:
            return list(self._watches)

    def hear(self, news: News) -> Since:
        """Take over what the directory told. Returns since when it is asked next."""
        since = news.since
        with self._changed:
            for each in news.said:
                if not self._take(each):  # something was missed: all is asked for anew
                    since = Since(since.directory, 0, since.event)
            now = time.monotonic()
            for name, left in news.leases.items():
                self._candidates.renew(name, round((now + left) * 1e9))
                told_at = now + left - LEASE_SECONDS
                self._heard_at[name] = max(told_at, self._heard_at.get(name, told_at))
                if name in self._links:
                    self.silence.heard(self._links[name], told_at)
            for name in self._links.keys() - news.leases.keys() - self._lost.keys() - self._starting():
                self.silence.ask(self._links[name])
            self._changed.notify_all()
        for node_id, name, data in news.events:
            self._on_event(node_id, name, data)
        return since

    def _take(self, said: NodeView | NodeChange) -> bool:
        """Take over what a node said. False where it does not follow on what is known."""
        said = others_only(said, self.gateway)
        name, known = said.node_id, self._candidates.get(said.node_id)
        if known is not None and (said.incarnation, said.revision) <= (known.incarnation, known.revision):
            return True
        if isinstance(said, NodeChange):
            if not self._candidates.apply(said):
                return False
            self._note_alive(name)
            return True
        again = known is not None and said.incarnation != known.incarnation
        if again:
            if said.down_ms:
                self._lose(name, "its worker died", time.monotonic() - said.down_ms / 1000, said.incarnation)
            else:  # the first worker of another process, which does not know since when there was none
                self._lose(name, PROCESS_LOST, before=said.incarnation)
        self._candidates.update(said)
        if known is None:
            self._candidates.renew(name, 0)  # until the directory says how long it lasts
            if name in self._links:
                self._links[name].start()
        if (again or known is None) and name in self._lost and name in self._links:
            self._bring_back(name)
        return True

    def _note_alive(self, name: str) -> None:
        """Take a node back that is there after all: it was not to be reached, and the host was told that all is gone."""
        lost = self._lost.get(name)
        if lost is not None and time.monotonic() - lost.noticed_at > LEASE_SECONDS and name in self._links:
            self._links[name].leave()
            self._bring_back(name)

    def _bring_back(self, name: str) -> None:
        lost = self._lost.pop(name)
        self._link(name, self._links[name].handle)
        view = self._known()[name].view()
        log("info", "a node is back, empty", node=name)
        self._on_lost(name, lost.why, view, view.incarnation, again=True)
        self._on_back(name, time.monotonic() - lost.since, view)

    def note_end(self, ref: Any) -> None:
        """Note that a node's process ended."""
        with self._changed:
            link = self._watches.pop(ref, None)
        if link is not None:
            try:
                ray.get(ref)
            except LOST as error:
                self.lose(link, why_of(error))

    def _link(self, name: str, handle: Any) -> None:
        """Reach a node by a new link from now on: what ends an older one says nothing of it any more."""
        for ref, link in [each for each in self._watches.items() if each[1].node_id == name]:
            del self._watches[ref]
            ray.cancel(ref)
            link.end(PROCESS_LOST)
        known = self._candidates.get(name) is not None
        if name in self._links:
            self.silence.forget(self._links[name])
        link = Link(
            name, handle, self.gateway, self.freeing, self.silence, self.heard, self.lose, started=known
        )
        self._links[name] = link
        self._watches[handle.watch.remote()] = link

    def look_for_machines(self, only: str | None = None) -> None:
        """Start a node on every machine that has none, also where one came back; those that do not start in time are lost."""
        with self._changed:
            for name in self._starting():
                if self._heard_at[name] + START_SECONDS < time.monotonic():
                    self._lose(name, f"it did not start in {START_SECONDS:.0f} s")
        for name, machine in self._machines.without_node().items():
            if only not in {None, name}:
                continue
            handle = self._machines.start(machine)
            with self._changed:
                self._machines.started(name, machine)
                self._heard_at.setdefault(name, time.monotonic())
                self._link(name, handle)
