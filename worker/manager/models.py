"""The models' part of the numbers: who has which model, what goes for whom, and room held meanwhile.

Pure, as the manager is, and under the manager's lock: a plan, the fences around its victims and the room
it is made for are one step that nobody comes between. A model in transit is its thread's alone; all others
wait for the end of that, holding nothing themselves, so that nobody waits in a circle.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from protocol.vocabulary import EvictionStrategy, ModelState
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS, Clock
from worker.core.errors import LimitExceededError, ModelBusyError, OutOfMemoryError, UnsupportedError
from worker.core.models import ModelSpec
from worker.core.records import AllocationRequest, Decision, OnIdle
from worker.eviction.planner import EvictionMode, EvictionPlan, Need, Victim, plan_eviction
from worker.manager.eviction_memory import LastUse, ModelMemories
from worker.manager.manager_memory import MemoryManager
from worker.manager.model_rooms import Asking, Fenced, Room
from worker.manager.model_table import IN_TRANSIT, ModelBook, ModelEntry, Residence
from worker.policy.admission import does_not_fit

HOST = "cpu"
_LOOK_AGAIN_S = 0.05
"""Whoever waits looks this often whether its own request was cancelled or its time is up."""


class ModelManager:
    """Every model's state."""

    def __init__(
        self,
        manager: MemoryManager,
        clock: Clock,
        specs: Iterable[ModelSpec] = (),
        on_idle: OnIdle = lambda _model_id, _due_ns: None,
        record: Callable[[Decision], None] | None = None,
    ) -> None:
        self.book = ModelBook(specs)
        self._manager = manager
        self._clock = clock
        self._on_idle = on_idle
        self._memories = ModelMemories(manager, self.book, clock, record)
        self._changed = threading.Condition(manager.lock)
        self._handles = itertools.count(1)
        manager.on_lost = self._lose

    # ---- coming ----

    def begin(self, model_id: str, token: CancelToken) -> Residence | None:
        """Hold a loaded model until ``let_go`` or ``lease``, or take the right to load it: then None.

        Waits while it comes or goes. Whoever gets None calls ``arrived`` or ``failed``.
        """
        with self._changed:
            entry = self.book.get(model_id)
            while entry.state in IN_TRANSIT:
                self._wait(token)
            if entry.state is ModelState.LOADED and entry.residence is not None:
                entry.holds += 1
                return entry.residence
            entry.state = ModelState.LOADING
            return None

    def begin_return(self, entry: ModelEntry) -> bool:
        """Take the right to load a model that went for something that failed; False if others have it.

        Nobody uses it: that is not noted, and no lease is taken when it arrives.
        """
        with self._changed:
            if entry.state not in {ModelState.UNLOADED, ModelState.OFFLOADED}:
                return False
            entry.state, entry.use_noted = ModelState.LOADING, True
            return True

    def hold_room(
        self, request: AllocationRequest, entry: ModelEntry | None, token: CancelToken, *, make_room: bool,
        until_ns: int | None = None, name: str | None = None, asked: Mapping[str, str] = MappingProxyType({}),
    ) -> Room | Asking | None:  # fmt: skip
        """Hold room, with the plan for what goes for it; None after a wait: look at the device and ask again.

        1. It fits: held.
        2. A model is coming, going or held there: wait, for that changes what there is, and a load on its way
           counts twice: as room that is held, and as memory that the device has given.
        3. Models may go, and those that can are enough: fenced, and held.
        4. With those that other processes hold they would be: their owners are to be asked, but for those
           ``asked`` before; nothing else goes until they have answered.
        5. Leases may end until ``until_ns``: wait for one.
        6. Out of memory, or over a limit, with what could be evicted, and who was asked in vain.
        """
        device_id = request.device_id
        with self._changed:
            token.check()
            if entry is not None and not entry.use_noted:
                # Before the plan: what is used now tells what is used next.
                entry.use_noted = True
                self._memories.asked_for(entry, device_id)
            missing = self._manager.missing_bytes(device_id, request.size_bytes)
            if missing and self.book.settling(device_id):  # 2
                self._wait(token)
                return None
            plan = self.plan(device_id, missing) if missing and make_room else None
            if not missing or (plan is not None and plan.meetable):  # 1, 3
                reservation = self._manager.hold(request, name or self._new_handle())
                if entry is not None:
                    entry.reserved_on = device_id
                victims = () if plan is None else plan.victims
                return Room(reservation, tuple(self._fence(victim) for victim in victims))
            if plan is not None:  # 4
                owners = self.owners_to_ask(
                    device_id, missing - plan.ceiling_bytes, excluded=frozenset(asked)
                )
                if owners:
                    return Asking(owners)
            waits = until_ns is not None and self._clock.now_ns() < until_ns
            if waits and self._leased(device_id):  # 5
                self._wait(token)
                return None
            raise self._does_not_fit(request, asked)  # 6

    def arrived(
        self, entry: ModelEntry, room: Room, size_bytes: int, actual_bytes: int, load_ms: int | None, *,
        for_use: bool = True,
    ) -> Residence:  # fmt: skip
        """Enter a model that was loaded: used once and held, if ``for_use``. ``load_ms`` None: from its copy."""
        request = room.reservation.request
        with self._changed:
            residence = Residence(request.device_id, self.handle_of(room), size_bytes, actual_bytes)
            self._manager.enter_weights(room.reservation, residence.handle, size_bytes, actual_bytes)
            entry.reserved_on, entry.use_noted = None, False
            entry.residence = residence
            entry.state = ModelState.LOADED
            entry.measured_bytes = actual_bytes
            entry.load_count += 1
            if load_ms is not None:
                entry.load_ms = load_ms
            self._memories.loaded(entry, request.device_id, size_bytes)
            if for_use:
                self._use(entry, request.device_id)
                entry.holds += 1
            else:
                self.watch_idle(entry)
            self._changed.notify_all()
            return residence

    def failed(self, entry: ModelEntry, room: Room | None, *, blamed: bool) -> None:
        """Take a load back; ``blamed`` where the model itself cannot be loaded."""
        with self._changed:
            if room is not None:
                self._manager.release(room.reservation)
            entry.reserved_on, entry.use_noted = None, False
            if entry.host_copy is not None:
                entry.state = ModelState.OFFLOADED
            else:
                entry.state = ModelState.FAILED if blamed else ModelState.UNLOADED
            self._changed.notify_all()

    @staticmethod
    def handle_of(room: Room) -> str:
        """Return the name under which the backend has the weights that room is held for."""
        return room.reservation.allocation_id

    # ---- held by other processes ----

    def held_outside(self, model_id: str, device_id: str) -> None:
        """Note that another process has loaded a model that it holds, or used it again."""
        with self._changed:
            entry = self.book.get(model_id)
            there = entry.residence
            if there is None or there.device_id != device_id:
                size, handle = entry.spec.declared_bytes or 0, self._new_handle()
                self._manager.enter_outside(device_id, handle, size)
                if there is not None:
                    self._manager.strike_outside(there.device_id, there.handle)
                entry.residence = Residence(device_id, handle, size, size)
                entry.state = ModelState.LOADED
                entry.load_count += 1
            entry.use_count += 1
            entry.last_used_ns = self._clock.now_ns()
            self.watch_idle(entry)
            self._changed.notify_all()

    def let_go_outside(self, model_id: str) -> Residence | None:
        """Note that another process has unloaded a model. Returns where it was; None if it was not loaded."""
        with self._changed:
            entry = self.book.get(model_id)
            there, entry.residence, entry.state = entry.residence, None, ModelState.UNLOADED
            if there is not None:
                self._manager.strike_outside(there.device_id, there.handle)
            self._changed.notify_all()
            return there

    def owners_to_ask(
        self, device_id: str, need_bytes: int, *, max_models: int | None = None, forced: bool = False,
        excluded: frozenset[str] = frozenset(),
    ) -> tuple[str, ...]:  # fmt: skip
        """Return whose owners to ask for so much; none where all of them have too little and it is not forced."""
        with self._changed:
            everyone = self.book.candidates(self._clock.now_ns(), HOST, excluded)
            outside = (replace(each, external=False) for each in everyone if each.external)
            need = Need(device_id, need_bytes, max_models, forced=forced)
            return tuple(each.model_id for each in plan_eviction(outside, need, LastUse(self.book)).victims)

    # ---- being used ----

    def use(self, model_id: str, handle: str) -> None:
        """Count a use of a model that is held."""
        with self._changed:
            entry = self._having(model_id, handle)
            if entry is not None and entry.residence is not None:
                self._memories.asked_for(entry, entry.residence.device_id)
                self._use(entry, entry.residence.device_id)

    def lease(self, model_id: str, handle: str) -> None:
        """Turn a hold into a lease, under which the model stays where it is, whoever waits for it to go."""
        with self._changed:
            entry = self._having(model_id, handle)
            if entry is not None:
                entry.in_use += 1
            self.let_go(model_id, handle)

    def let_go(self, model_id: str, handle: str) -> None:
        """End a hold."""
        with self._changed:
            entry = self._having(model_id, handle)
            if entry is not None:
                entry.holds -= 1
                self.watch_idle(entry)
                self._changed.notify_all()

    def release(self, model_id: str, handle: str) -> None:
        """End a lease."""
        with self._changed:
            entry = self._having(model_id, handle)
            if entry is not None:
                entry.in_use -= 1
                entry.last_used_ns = self._clock.now_ns()
                self.watch_idle(entry)
                self._changed.notify_all()

    def configure(self, model_id: str, *, pinned: bool | None, keep_alive_ns: int | None) -> None:
        """Pin a model or not, and set how long it stays; None leaves either as it is."""
        with self._changed:
            entry = self.book.get(model_id)
            entry.pinned = entry.pinned if pinned is None else pinned
            entry.keep_alive_ns = entry.keep_alive_ns if keep_alive_ns is None else keep_alive_ns
            self.watch_idle(entry)

    def watch_idle(self, entry: ModelEntry) -> None:
        """Have a model looked at again when it will have been idle for too long; one that is held, when it is let go."""
        due = None if entry.holds else entry.expires_ns()
        if due is not None and (entry.alarm_ns is None or due < entry.alarm_ns):
            entry.alarm_ns = due
            self._on_idle(entry.model_id, due)

    # ---- going ----

    def fence(
        self, model_id: str, reason: str, *, token: CancelToken | None = None, forced: bool = False,
        offload: bool = False,
    ) -> Fenced | None:  # fmt: skip
        """Take a model out of everybody's reach, to unload it; None if it is not loaded.

        With a token it waits while the model comes, goes or is held, and for room in host memory while a model
        does so there. ModelBusyError if it is in use, or pinned and not forced; OutOfMemoryError where it is to
        be offloaded and host memory has no room.
        """
        with self._changed:
            entry = self.book.get(model_id)
            while token is not None and (entry.settling or (offload and self._blocks_offload(entry))):
                self._wait(token)
            if entry.state is not ModelState.LOADED or entry.residence is None:
                return None
            leases = entry.in_use + entry.holds
            if leases or (entry.pinned and not forced):
                cause = f"in use by {leases} {'lease' if leases == 1 else 'leases'}" if leases else "pinned"
                message = f"model {model_id!r} is {cause}"
                raise ModelBusyError(message, model_id=model_id, cause="in_use" if leases else "pinned")
            if offload and entry.residence.device_id == HOST:
                message = f"model {model_id!r} is in host memory: there is nowhere to offload it to"
                raise UnsupportedError(message, model_id=model_id, device_id=HOST)
            mode = EvictionMode.OFFLOAD if offload else EvictionMode.UNLOAD
            back = entry.restore_ms if offload else entry.load_ms
            victim = Victim(model_id, entry.residence.size_bytes, mode, back, reason)
            return self._fence(victim)

    def fence_expired(self, model_id: str) -> Fenced | None:
        """Fence a model that has been idle for too long; None if it has not, and then it is watched on."""
        with self._changed:
            kept_ms = self.expired_after_ms(model_id)
            if kept_ms is None:
                return None
            return self.fence(model_id, f"unloaded: idle past its keep-alive of {kept_ms} ms")

    def expired_after_ms(self, model_id: str) -> int | None:
        """Return the keep-alive that a model has been idle past; None if it has not, and then it is watched on."""
        with self._changed:
            entry = self.book.get(model_id)
            entry.alarm_ns = None
            if not entry.expired(self._clock.now_ns()):
                self.watch_idle(entry)
                return None
            return (entry.keep_alive_ns or 0) // NS_PER_MS

    def gone(self, fenced: Fenced, host_copy: Residence | None) -> None:
        """Note that a fenced model has left its device."""
        entry, residence = fenced.entry, fenced.residence
        with self._changed:
            self._manager.strike_weights(residence.device_id, residence.handle, fenced.last_look)
            if fenced.host_room is not None:
                if host_copy is None:
                    self._manager.release(fenced.host_room)
                else:
                    self._manager.enter_weights(
                        fenced.host_room, host_copy.handle, host_copy.size_bytes, host_copy.actual_bytes
                    )
            entry.host_copy = host_copy
            if entry.residence is residence:
                entry.residence = None
                entry.state = ModelState.UNLOADED if host_copy is None else ModelState.OFFLOADED
            self._memories.evicted(entry, residence.device_id, fenced.reason)
            self._changed.notify_all()

    def drop_host_copy(self, entry: ModelEntry) -> Residence | None:
        """Strike an offloaded copy out: it was brought back, or is given up. Its backend still has it."""
        with self._changed:
            if entry.state is ModelState.LOADING:
                return None  # it is being brought back from there
            copy, entry.host_copy = entry.host_copy, None
            if copy is not None:
                self._manager.strike_weights(
                    copy.device_id, copy.handle, self._manager.last_look(copy.device_id)
                )
                if entry.state is ModelState.OFFLOADED:
                    entry.state = ModelState.UNLOADED
                self._changed.notify_all()
            return copy

    # ---- questions ----

    def plan(
        self, device_id: str, need_bytes: int, *, strategy: EvictionStrategy = EvictionStrategy.ADAPTIVE,
        max_models: int | None = None, forced: bool = False, excluded: frozenset[str] = frozenset(),
    ) -> EvictionPlan:  # fmt: skip
        """Decide what would go to free so much on a device. Changes nothing."""
        with self._changed:
            now_ns = self._clock.now_ns()
            host_room = 0 if device_id == HOST else self._manager.headroom(HOST).available_bytes or 0
            return plan_eviction(
                self.book.candidates(now_ns, HOST, excluded),
                Need(device_id, need_bytes, max_models, forced=forced, host_room_bytes=host_room),
                self._memories.ranking(device_id, strategy),
            )

    def check_room(self, request: AllocationRequest, token: CancelToken, *, make_room: bool) -> bool:
        """Raise as ``hold_room`` would, holding nothing; False after a wait: look at the device and ask again."""
        with self._changed:
            missing = self._manager.missing_bytes(request.device_id, request.size_bytes)
            if not missing or (make_room and self.plan(request.device_id, missing).meetable):
                return True
            if not self.book.settling(request.device_id):
                raise self._does_not_fit(request)
            self._wait(token)
            return False

    def evictable_bytes(self, device_id: str) -> int:
        """Return the most that unloading models could free on a device."""
        with self._changed:
            return self.plan(device_id, 0).ceiling_bytes

    def changed(self, token: CancelToken) -> None:
        """Wait until a model came, went or was released. Raises what the token raises."""
        with self._changed:
            self._wait(token)

    # ---- inside ----

    def _having(self, model_id: str, handle: str) -> ModelEntry | None:
        """Return a model, unless its weights are others by now: their device went away, and holds and leases with it."""
        entry = self.book.get(model_id)
        return entry if entry.residence is not None and entry.residence.handle == handle else None

    def _use(self, entry: ModelEntry, device_id: str) -> None:
        entry.use_count += 1
        entry.last_used_ns = self._clock.now_ns()
        self._memories.used(entry, device_id)

    def _blocks_offload(self, entry: ModelEntry) -> bool:
        """Tell whether host memory has no room for a model yet, and a model comes, goes or is held there."""
        size = 0 if entry.residence is None else entry.residence.size_bytes
        return self.book.settling(HOST) and self._manager.missing_bytes(HOST, size) > 0

    def _fence(self, victim: Victim) -> Fenced:
        entry = self.book.get(victim.model_id)
        residence = entry.residence
        if residence is None:
            raise AssertionError(victim)
        entry.state = ModelState.UNLOADING
        host_room = None
        if victim.mode is EvictionMode.OFFLOAD:
            request = AllocationRequest(HOST, residence.size_bytes)
            if self._manager.missing_bytes(HOST, residence.size_bytes):
                entry.state = ModelState.LOADED
                raise self._does_not_fit(request)
            host_room = self._manager.hold(request, self._new_handle())
        last_look = self._manager.last_look(residence.device_id)
        return Fenced(entry, residence, victim.reason, victim.reload_ms, last_look, host_room)

    def _new_handle(self) -> str:
        return f"weights-{next(self._handles)}"

    def _leased(self, device_id: str) -> bool:
        return any(entry.in_use for entry in self.book.on_device(device_id))

    def _does_not_fit(
        self, request: AllocationRequest, asked: Mapping[str, str] = MappingProxyType({})
    ) -> OutOfMemoryError | LimitExceededError:
        room, limits = self._manager.headroom(request.device_id), self._manager.limits(request.device_id)
        return does_not_fit(request, limits, room, self.evictable_bytes(request.device_id), asked)

    def check_unused(self, device_ids: tuple[str, ...], token: CancelToken) -> None:
        """Refuse what must not happen under a lease, and wait while a model comes, goes or is held there.

        ModelBusyError; the lock is held by whoever calls, or it means nothing (a wait lets go of it meanwhile).
        """
        with self._changed:
            while True:
                for device_id in device_ids:
                    for entry in self.book.on_device(device_id):
                        if entry.in_use:
                            message = f"model {entry.model_id!r} is in use on {device_id}"
                            raise ModelBusyError(message, model_id=entry.model_id, cause="in_use")
                if not any(map(self.book.settling, device_ids)):
                    return
                self._wait(token)

    def _lose(self, device_id: str, handles: frozenset[str] | None) -> tuple[str, ...]:
        """Note that models went with their device: these, or all on it. The lock is held."""
        lost = []
        for entry in self.book.on_device(device_id):
            place = entry.residence
            if place is None or place.device_id != device_id or entry.spec.external:
                continue  # of what another process holds, its owner knows what became of it
            if handles is None or place.handle in handles:
                entry.residence, entry.in_use, entry.holds = None, 0, 0
                entry.state = ModelState.UNLOADED
                lost.append(entry.model_id)
        self._changed.notify_all()
        return tuple(lost)

    def _wait(self, token: CancelToken) -> None:
        token.check()
        self._changed.wait(_LOOK_AGAIN_S)
        token.check()
