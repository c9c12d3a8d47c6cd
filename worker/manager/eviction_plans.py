"""What would go to make headroom for something, and what was said of that. Pure; under the manager's lock."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from protocol.vocabulary import INT64_MAX, EvictionStrategy, ModelState, UnloadMode
from worker.core.clock import Clock
from worker.core.consumers import Quote, Release
from worker.core.errors import LimitExceededError, OutOfMemoryError
from worker.core.records import HOST, AllocationRequest
from worker.eviction.planner import Candidate, EvictionPlan, Need, Victim, plan_eviction
from worker.eviction.release_need import ReleaseNeed
from worker.eviction.release_planner import ReleasePlan, plan_releases
from worker.manager.eviction_memory import LastUse, ModelMemories
from worker.manager.manager_memory import MemoryManager
from worker.manager.model_entry import ModelEntry
from worker.manager.model_table import SettlingError
from worker.manager.plan_table import Plan, PlannedVictim, PlanTable
from worker.policy.admission import does_not_fit


class EvictionPlans:
    """Decides by plan. Changes nothing but the plans that it remembers."""

    def __init__(self, manager: MemoryManager, clock: Clock, memories: ModelMemories) -> None:
        self._manager = manager
        self._table = manager.models
        self._changed = manager.models.changed
        self._clock = clock
        self._memories = memories
        self.kept = PlanTable(clock, manager.ids)
        """Plans that were answered, and may be taken up."""

    def plan(
        self, device_id: str, need_bytes: int, *, strategy: EvictionStrategy = EvictionStrategy.ADAPTIVE,
        max_models: int | None = None, forced: bool = False, excluded: frozenset[str] = frozenset(),
    ) -> EvictionPlan:  # fmt: skip
        """Decide what would go to free so much on a device. Changes nothing."""
        with self._changed:
            there = 0 if device_id == HOST else self._manager.pressure.headroom(HOST).available_bytes or 0
            return plan_eviction(
                self._candidates(excluded),
                Need(device_id, need_bytes, max_models, forced=forced, host_headroom_bytes=there),
                self._memories.ranking(device_id, strategy),
            )

    def plan_releases(
        self, device_id: str, need_bytes: int, quotes: Sequence[Quote], *, own_bytes: int = 0,
        forced: bool = False, excluded: frozenset[str] = frozenset(),
    ) -> ReleasePlan:  # fmt: skip
        """Decide what all consumers would give back to free so much on a device. Changes nothing.

        ``own_bytes`` of it only the worker's own can free: what idle allocations give is taken first, models meet the rest.
        """
        with self._changed:
            there = 0 if device_id == HOST else self._manager.pressure.headroom(HOST).available_bytes or 0
            return plan_releases(
                quotes,
                self._candidates(frozenset()),
                ReleaseNeed(
                    device_id,
                    need_bytes,
                    own_bytes,
                    forced=forced,
                    host_headroom_bytes=there,
                    excluded=excluded,
                ),
                self._memories.ranking(device_id, EvictionStrategy.ADAPTIVE),
            )

    def cost_ms(self, entry: ModelEntry) -> float:
        """Return what losing a loaded model costs: what a use of it saves, by the uses expected before it would go anyway."""
        with self._changed:
            place, now_ns = entry.residence, self._clock.now_ns()
            return (
                0.0 if place is None else self._memories.saved_ms(entry, place) * entry.expected_uses(now_ns)
            )

    def everything(self, device_id: str) -> EvictionPlan:
        """Decide what would go if as much was to be freed on a device as unloading models can free. Changes nothing."""
        return self.plan(device_id, INT64_MAX, forced=True)

    def evictable_bytes(self, device_id: str) -> int:
        """Return the most that unloading models could free on a device."""
        with self._changed:
            return self.plan(device_id, 0).ceiling_bytes

    def check_fits(
        self, request: AllocationRequest, *, make_room: bool, quotes: Sequence[Quote] = ()
    ) -> None:
        """Raise as ``reserve`` would, holding nothing. After a wait the device is to be read again."""
        device_id, size = request.device_id, request.size_bytes
        with self._changed:
            missing = self._manager.pressure.missing_bytes(device_id, size)
            if not missing:
                return
            own = self._manager.pressure.missing_below_cap(device_id, size)
            if make_room and self.plan_releases(device_id, missing, quotes, own_bytes=own).meetable:
                return
            if self._table.settling(device_id):
                raise SettlingError
            raise self.does_not_fit(request)

    def owners_to_ask(
        self, device_id: str, need_bytes: int, *, max_models: int | None = None, forced: bool = False,
        excluded: frozenset[str] = frozenset(),
    ) -> tuple[str, ...]:  # fmt: skip
        """Return whose owners to ask for so much; none where all of them have too little and it is not forced."""
        with self._changed:
            external = (replace(each, external=False) for each in self._candidates(excluded) if each.external)
            need = Need(device_id, need_bytes, max_models, forced=forced)
            return tuple(
                each.model_id for each in plan_eviction(external, need, LastUse(self._table)).victims
            )

    def propose(
        self, device_id: str, required_bytes: int, model_id: str | None, victims: Iterable[Victim],
        releases: tuple[Release, ...] = (),
    ) -> Plan:  # fmt: skip
        """Keep a plan, to be taken up as it is; the lock is held since it was made."""
        with self._changed:
            return self.kept.add(device_id, required_bytes, model_id, self.as_they_are(victims), releases)

    def as_they_are(self, victims: Iterable[Victim]) -> tuple[PlannedVictim, ...]:
        """Note how victims are; the lock is held since they were chosen."""
        planned = []
        for victim in victims:
            entry = self._table.get(victim.model_id)
            if entry.residence is None:
                raise AssertionError(victim)
            planned.append(PlannedVictim(victim, entry.residence.handle, entry.use_count))
        return tuple(planned)

    def check(self, plan: Plan, *, released: bool = True) -> None:
        """Raise PlanStaleError where a plan can't be carried out exactly as it was said any more.

        Unless what it takes of others was ``released``, it counts for what is expected of it. It was taken up by another,
        or its time is over; or its victims are not exactly those that have to go.
        """
        with self._changed:
            self.kept.get(plan.plan_id)
            expected = () if released else (each.expected_bytes for each in plan.releases if not each.counted)
            why = self.why_stale(plan.device_id, plan.required_bytes, plan.victims, sum(expected))
            if why is not None:
                raise plan.stale(why)

    def why_stale(
        self, device_id: str, required_bytes: int, victims: Sequence[PlannedVictim], expected_bytes: int = 0
    ) -> str | None:
        """Say why victims that were planned are not exactly those that have to go by now; None where they are.

        1. One is not there any more, is in use or pinned, was used since, or host memory can't take it.
        2. More has to go than they have: headroom was used meanwhile, or others gave less than was expected.
        3. Less has to go: headroom was made meanwhile.
        ``expected_bytes`` are still to come from others.
        """
        with self._changed:
            for each in victims:  # 1
                entry = self._table.find(each.victim.model_id)
                there = None if entry is None else entry.residence
                if (
                    entry is None
                    or there is None
                    or there.handle != each.handle
                    or entry.state is not ModelState.LOADED
                ):
                    return f"model {each.victim.model_id!r} is not there any more"
                if entry.in_use or entry.pinned or entry.use_count != each.use_count:
                    return f"model {entry.model_id!r} was used or pinned since"
            offloaded = [
                each.victim.freed_bytes for each in victims if each.victim.mode is UnloadMode.OFFLOAD
            ]
            if offloaded and self._manager.pressure.missing_bytes(HOST, sum(offloaded)):
                return "host memory has no headroom any more for what it would offload"
            missing = self._manager.pressure.missing_bytes(device_id, required_bytes)
            missing = max(0, missing - expected_bytes)
            freed = [each.victim.freed_bytes for each in victims]
            if sum(freed) < missing:  # 2
                return f"{missing - sum(freed)} bytes more are missing on {device_id} by now"
            if freed and sum(freed) - min(freed) >= missing:  # 3
                return f"fewer models have to go on {device_id} by now"
            return None

    def does_not_fit(
        self, request: AllocationRequest, asked: Mapping[str, str] = MappingProxyType({})
    ) -> OutOfMemoryError | LimitExceededError:
        """Make the error for what does not fit even by eviction; ``asked``: whose owners stay, and why."""
        device_id = request.device_id
        headroom = self._manager.pressure.headroom(device_id)
        limits = self._manager.devices.limits(device_id)
        error = does_not_fit(request, limits, headroom, self.evictable_bytes(device_id), asked)
        error.retryable = error.retryable and self._manager.pressure.can_ever_fit(request)
        return error

    # ---- inside ----

    def _candidates(self, excluded: frozenset[str]) -> tuple[Candidate, ...]:
        """Return the loaded models as the eviction plan sees them."""
        now_ns = self._clock.now_ns()
        return tuple(
            Candidate(
                model_id=entry.model_id,
                device_id=entry.residence.device_id,
                size_bytes=entry.residence.size_bytes + entry.working_bytes,
                reload_ms=entry.load_ms,
                restore_ms=entry.restore_ms,
                in_use=entry.in_use,
                pinned=entry.pinned,
                excluded=entry.model_id in excluded,
                external=entry.spec.external,
                priority=entry.spec.priority,
                expired=entry.expired(now_ns),
                offloadable=entry.spec.offload
                and entry.residence.device_id != HOST
                and not entry.residence.engine,
                shrinkable_bytes=entry.shrinkable_bytes,
                shrink_ms=None if entry.footprint is None else entry.footprint.shrink_ms,
                cost_ms=self.cost_ms(entry),
            )
            for entry in self._table
            if entry.state is ModelState.LOADED and entry.residence is not None
        )
