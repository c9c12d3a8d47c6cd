"""The models' part of the numbers: who has which model, what goes for whom, and headroom held meanwhile.

Pure, as the manager is, and under the manager's lock: a plan, the pending evictions of its victims and the
headroom it is made for are one step that nothing comes between. A model in transit is its thread's alone; all
others get SettlingError, and wait for the end of that (``workers/model_waits.py``), holding nothing themselves, so
that there is no waiting in a circle.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from protocol.vocabulary import ModelState
from worker.core.clock import Clock
from worker.core.consumers import Quote
from worker.core.errors import LimitExceededError, ModelBusyError
from worker.core.models import FOREVER_NS, ModelSpec
from worker.core.records import AllocationRequest, Decision, DecisionKind, EvictionCause, Footprint
from worker.eviction.planner import Victim
from worker.manager.eviction_memory import ModelMemories
from worker.manager.eviction_plans import EvictionPlans
from worker.manager.evictions import Evictions
from worker.manager.manager_memory import MemoryManager
from worker.manager.model_entry import IN_TRANSIT, ModelEntry, Residence
from worker.manager.model_table import EvictingReservation, ReleasesToMake, SettlingError
from worker.manager.plan_table import Plan


class ModelManager:
    """Every model's state, and what follows from it."""

    def __init__(
        self, manager: MemoryManager, clock: Clock, record: Callable[[Decision], None] | None = None
    ) -> None:
        self._manager = manager
        self._table = manager.models
        self._clock = clock
        self._memories = ModelMemories(manager, clock, record)
        self._changed = manager.models.changed
        self.plans = EvictionPlans(manager, clock, self._memories)
        self.evictions = Evictions(manager, clock, self._memories, self.plans)

    # ---- coming ----

    def begin(self, model_id: str) -> Residence | None:
        """Hold a loaded model until ``let_go`` or ``lease``, or acquire the right to load it: then None.

        Whoever gets None calls ``arrived`` or ``failed``.
        """
        with self._changed:
            entry = self._table.get(model_id)
            if entry.state in IN_TRANSIT:
                raise SettlingError
            if entry.state is ModelState.LOADED and entry.residence is not None:
                entry.holds += 1
                return entry.residence
            entry.state = ModelState.LOADING
            return None

    def begin_return(self, entry: ModelEntry) -> bool:
        """Acquire the right to load a model that went for something that failed; False if others have it.

        That is no use of it, and it is not held when it arrives.
        """
        with self._changed:
            if entry.state not in {ModelState.UNLOADED, ModelState.OFFLOADED}:
                return False
            entry.state, entry.use_noted = ModelState.LOADING, True
            return True

    def reserve(
        self, request: AllocationRequest, entry: ModelEntry | None, *, make_room: bool,
        until_ns: int | None = None, name: str | None = None, asked: Mapping[str, str] = MappingProxyType({}),
        planned: Plan | None = None, quotes: tuple[Quote, ...] = (),
    ) -> EvictingReservation | ReleasesToMake:  # fmt: skip
        """Hold headroom, with the plan for what goes for it. After a wait the device is to be read again.

        1. It fits: held.
        2. A model is coming, going or held there: wait, for that changes what there is, and a load on its way
           counts twice: as headroom that is held, and as memory that the device has given.
        3. Something may go, and by the plan over all consumers' ``quotes`` it is the worker's own models alone: their
           evictions are pending, and it is held.
        4. The plan takes something of others, but for those ``asked`` in vain: they are to give it back first, and
           no model goes until they have answered and the device shows what came of it. Then ``go_on``.
        5. Leases may end until ``until_ns``: wait for one.
        6. Out of memory, or over a limit, with what could be evicted, and who was asked in vain.
        With a plan that is taken up, 3 to 6 are: its victims, which may all go and have to; else PlanStaleError. What it
        takes of others was given back before.
        """
        device_id = request.device_id
        with self._changed:
            if entry is not None and not entry.use_noted:
                # Before the plan: what is used now tells what is used next.
                entry.use_noted = True
                self._memories.asked_for(entry, device_id)
            missing = self._manager.pressure.missing_bytes(device_id, request.size_bytes)
            if (missing or planned is not None) and self._table.settling(device_id):  # 2
                raise SettlingError
            if planned is not None:
                return self._take_up(planned, request, entry, name)
            if not missing:  # 1
                return self._hold(request, entry, name, ())
            if make_room:
                own = self._manager.pressure.missing_below_cap(device_id, request.size_bytes)
                plan = self.plans.plan_releases(
                    device_id, missing, quotes, own_bytes=own, excluded=frozenset(asked)
                )
                if plan.meetable and not plan.releases:  # 3
                    return self._hold(request, entry, name, plan.eviction.victims)
                if plan.releases:  # 4
                    return ReleasesToMake(plan.releases, self.plans.as_they_are(plan.eviction.victims))
            waits = until_ns is not None and self._clock.now_ns() < until_ns
            if waits and self._leased(device_id):  # 5
                raise SettlingError
            silent = {each.consumer_id: each.silent for each in quotes if each.silent is not None}
            raise self.plans.does_not_fit(request, silent | dict(asked))  # 6

    def go_on(
        self, made: ReleasesToMake, request: AllocationRequest, entry: ModelEntry | None, name: str | None
    ) -> EvictingReservation | None:
        """Hold headroom by the rest of a plan, now that others gave back what it took of them, and the device was read.

        None where its models are not exactly those that have to go: then it is to be planned anew.
        """
        with self._changed:
            if self._table.settling(request.device_id):
                raise SettlingError
            if self.plans.why_stale(request.device_id, request.size_bytes, made.victims) is not None:
                return None
            return self._hold(request, entry, name, tuple(each.victim for each in made.victims))

    def arrived(
        self, entry: ModelEntry, held: EvictingReservation, size_bytes: int, actual_bytes: int, load_ms: int | None, *,
        for_use: bool = True, footprint: Footprint | None = None,
    ) -> Residence:  # fmt: skip
        """Add a model that was loaded: used once and held, if ``for_use``. ``load_ms`` None: from its copy.

        ``footprint``: of one in an engine's process.
        """
        request = held.reservation.request
        with self._changed:
            engine = footprint is not None
            residence = Residence(request.device_id, held.handle, size_bytes, actual_bytes, engine)
            entry.footprint = footprint
            self._manager.weights.add(
                held.reservation,
                residence.handle,
                size_bytes,
                actual_bytes,
                is_object=entry.spec.factory is not None,
                working_bytes=entry.working_bytes,
            )
            entry.state_reason = None
            entry.reserved_on, entry.use_noted = None, False
            entry.residence = residence
            entry.state = ModelState.LOADED
            self._manager.weights.pin(residence.device_id, residence.handle, pinned=entry.pinned)
            entry.measured_bytes, entry.given_up_bytes = actual_bytes, 0
            entry.load_count += 1
            if load_ms is not None:
                entry.load_ms = load_ms
            self._memories.loaded(entry, request.device_id, size_bytes)
            if for_use:
                self._use(entry, request.device_id)
                entry.holds += 1
            else:
                self._table.watch_idle(entry)
            self._changed.notify_all()
            return residence

    def failed(self, entry: ModelEntry, held: EvictingReservation | None, *, blamed: bool) -> None:
        """Take a load back; ``blamed`` where the model itself cannot be loaded."""
        with self._changed:
            if held is not None:
                self._manager.allocations.release(held.reservation)
            entry.reserved_on, entry.use_noted = None, False
            if entry.host_copy is not None:
                entry.state = ModelState.OFFLOADED
            else:
                entry.state = ModelState.FAILED if blamed else ModelState.UNLOADED
            self._table.settle(entry)
            self._changed.notify_all()

    # ---- engines ----

    def measured(self, footprints: Mapping[str, Footprint]) -> None:
        """Take over what models take in engines' processes by now, by handle; each is counted with all of it."""
        with self._changed:
            for entry in self._table:
                place = entry.residence
                footprint = None if place is None else footprints.get(place.handle)
                if place is None or footprint is None or footprint == entry.footprint:
                    continue
                more = entry.take_over(footprint)
                size, actual = max(0, place.size_bytes + more), max(0, place.actual_bytes + more)
                entry.residence = replace(place, size_bytes=size, actual_bytes=actual)
                self._manager.weights.resize(place.device_id, place.handle, more, entry.working_bytes)
            self._changed.notify_all()

    def lost(self, handles: frozenset[str], why: str) -> tuple[tuple[ModelEntry, Residence], ...]:
        """Note that models went with their engine's process. Returns which, and where they were."""
        with self._changed:
            gone = self._table.lose_weights(handles, why)
            for entry, place in gone:
                last_sample = self._manager.weights.last_sample(place.device_id)
                self._manager.weights.remove(place.device_id, place.handle, last_sample)
                self._memories.evicted(entry, place, EvictionCause.LOST, why)
                self._table.settle(entry)
            self._changed.notify_all()
            return tuple(gone)

    # ---- external: held by other processes ----

    def loaded_externally(self, model_id: str, device_id: str) -> None:
        """Note that another process has loaded a model that it holds, or used it again."""
        with self._changed:
            entry = self._table.get(model_id)
            there = entry.residence
            if there is None or there.device_id != device_id:
                size, handle = entry.spec.declared_bytes or 0, self._manager.weights.new_handle()
                self._manager.weights.add_external(device_id, handle, size)
                if there is not None:
                    self._manager.weights.remove_external(there.device_id, there.handle)
                entry.residence = Residence(device_id, handle, size, size)
                entry.state, entry.state_reason = ModelState.LOADED, None
                entry.load_count += 1
            entry.used(self._clock.now_ns())
            self._table.watch_idle(entry)
            self._changed.notify_all()

    def seen_externally(self, spec: ModelSpec, device_id: str) -> bool:
        """Note what a model server has loaded. False where another model has its name, or it can't be counted.

        A model whose size is another than before is recorded anew.
        """
        with self._changed:
            entry = next((each for each in self._table if each.model_id == spec.model_id), None)
            if entry is None:
                if self._table.resolve(spec.model_id) != spec.model_id:
                    return False
                self._table.add(spec)
            elif entry.spec.server != spec.server:
                return False
            elif entry.spec != spec:
                entry.spec = spec
                if entry.residence is not None and entry.residence.size_bytes != (spec.declared_bytes or 0):
                    self.unloaded_externally(spec.model_id)
                if entry.spec is not spec:
                    return False  # it was declared otherwise, and is that from here on
            try:
                self.loaded_externally(spec.model_id, device_id)
            except LimitExceededError:
                return False
            return True

    def unloaded_externally(self, model_id: str, why: str | None = None) -> Residence | None:
        """Note that another process has unloaded a model, or why it is not known to have it.

        Returns where it was; None if it was not loaded, and where its name is by now that of one that the worker holds itself.
        """
        with self._changed:
            entry = self._table.find(model_id)
            if entry is None or entry.model_id != model_id or not entry.spec.external:
                return None
            there, entry.residence, entry.state = entry.residence, None, ModelState.UNLOADED
            entry.state_reason = why
            self._table.watch_idle(entry)
            self._table.settle(entry)
            if there is not None:
                self._manager.weights.remove_external(there.device_id, there.handle)
            self._changed.notify_all()
            return there

    # ---- being used ----

    def use(self, model_id: str, handle: str, plan: Plan | None = None) -> None:
        """Count a use of a model that is held; a plan for no more than that has been taken up."""
        with self._changed:
            if plan is not None:
                self.plans.kept.remove(plan)
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
                if entry.in_use == 1:
                    self._memories.leased(entry, DecisionKind.LEASE)
                self.let_go(model_id, handle)

    def lease_again(self, model_id: str, handle: str) -> Callable[[], None]:
        """Lease a model that is leased once more, for work that goes on without its caller. Returns what ends that."""
        with self._changed:
            entry = self._having(model_id, handle)
            if entry is not None:
                entry.in_use += 1
        return partial(self.release, model_id, handle)

    def let_go(self, model_id: str, handle: str) -> None:
        """End a hold."""
        with self._changed:
            entry = self._having(model_id, handle)
            if entry is not None:
                entry.holds -= 1
                self._table.watch_idle(entry)
                self._changed.notify_all()

    def release(self, model_id: str, handle: str) -> None:
        """End a lease."""
        with self._changed:
            entry = self._having(model_id, handle)
            if entry is not None:
                entry.in_use -= 1
                if not entry.in_use:
                    self._memories.leased(entry, DecisionKind.RELEASE)
                entry.last_used_ns = self._clock.now_ns()
                self._table.watch_idle(entry)
                self._changed.notify_all()

    def configure(self, model_id: str, *, pinned: bool | None, keep_alive_ns: int | None) -> None:
        """Pin a model or not, and set how long it stays, ``FOREVER_NS`` for until evicted; None leaves either as it is."""
        with self._changed:
            entry = self._table.get(model_id)
            if pinned is not None:
                entry.pinned = pinned
                if entry.residence is not None:
                    place = entry.residence
                    self._manager.weights.pin(place.device_id, place.handle, pinned=pinned)
            if keep_alive_ns is not None:
                entry.keep_alive_ns = None if keep_alive_ns == FOREVER_NS else keep_alive_ns
            if pinned is not None or keep_alive_ns is not None:
                self._memories.kept(entry)
            self._table.watch_idle(entry)

    # ---- questions ----

    def check_unused(self, device_ids: tuple[str, ...]) -> None:
        """Refuse what must not happen under a lease. ModelBusyError; the lock is held, or it means nothing."""
        with self._changed:
            for device_id in device_ids:
                for entry in self._table.on_device(device_id):
                    if entry.in_use:
                        message = f"model {entry.model_id!r} is in use on {device_id}"
                        raise ModelBusyError(message, model_id=entry.model_id, cause="in_use")
            if any(map(self._table.settling, device_ids)):
                raise SettlingError

    # ---- inside ----

    def _take_up(
        self, plan: Plan, request: AllocationRequest, entry: ModelEntry | None, name: str | None
    ) -> EvictingReservation:
        if request.size_bytes > plan.required_bytes:
            raise plan.stale(f"{request.size_bytes} bytes are needed by now")
        self.plans.check(plan)
        held = self._hold(request, entry, name, tuple(each.victim for each in plan.victims))
        self.plans.kept.remove(plan)
        return held

    def _hold(
        self,
        request: AllocationRequest,
        entry: ModelEntry | None,
        name: str | None,
        victims: tuple[Victim, ...],
    ) -> EvictingReservation:
        reservation = self._manager.allocations.hold(request, name or self._manager.weights.new_handle())
        if entry is not None:
            entry.reserved_on = request.device_id
        cause = EvictionCause.ASKED if entry is None else EvictionCause.POLICY
        return EvictingReservation(
            reservation, tuple(self.evictions.begin_for(each, cause) for each in victims)
        )

    def _having(self, model_id: str, handle: str) -> ModelEntry | None:
        """Return a model, unless its weights are others by now: their device went away, and holds and leases with it."""
        entry = self._table.find(model_id)
        there = None if entry is None else entry.residence
        return entry if there is not None and there.handle == handle else None

    def _use(self, entry: ModelEntry, device_id: str) -> None:
        entry.used(self._clock.now_ns())
        self._memories.used(entry, device_id)

    def _leased(self, device_id: str) -> bool:
        return any(entry.in_use for entry in self._table.on_device(device_id))
