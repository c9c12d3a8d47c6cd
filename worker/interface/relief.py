"""Making headroom: clearing, joining free memory, limits, and what is recommended and carried out of that."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice

from protocol.results import (
    MOST_KEPT_CONSUMERS,
    ClearResult,
    DefragmentResult,
    KeptConsumer,
    KeptModel,
    Limits,
    ReleasedMemory,
    SetLimitsResult,
)
from protocol.vocabulary import ClearType, GroupBy, OptimizationLevel, PressureLevel, UnloadMode
from worker.core.actions import (
    ClearCache,
    Defragment,
    EvictBytes,
    OptimizeOutcome,
    Recommended,
    RecommendedAction,
    ReleaseMemory,
    Step,
    UnloadModel,
)
from worker.core.cancellation import CancelToken
from worker.core.consumers import EXTERNAL, POOL, price_per_mib, told_bytes
from worker.core.errors import DeviceUnavailableError, ModelBusyError, ModelNotFoundError, OutOfMemoryError
from worker.core.records import ModelDemand, sum_if_known
from worker.core.shortages import patiently
from worker.eviction.release_need import ReleaseNeed
from worker.eviction.release_planner import idle_allocations, plan_others
from worker.interface.lazy_models import LazyModels
from worker.policy.model_goals import bytes_to_free
from worker.policy.pressure import for_others, worst
from worker.policy.recommendations import IDLE_NS, cheapest_first, is_allowed
from worker.watch.device_monitor import READINGS_MAX_AGE_MS, DeviceMonitor
from worker.wiring import Core
from worker.workers.analytics import AnalyticsWorker
from worker.workers.consumers import ConsumerWorker
from worker.workers.gone import Gone
from worker.workers.reclaim import ReclaimWorker
from worker.workers.restart import CheckUnused, RestartWorker

_ELSEWISE = {
    EXTERNAL: "its owner is asked by memory.model_optimize, and where a request needs the memory",
    POOL: "what is kept for reuse goes by the actions that are recommended",
}
"""Why consumers of a kind are no part of the plan that optimizing makes."""


class Relief:
    """What gives memory back, on several devices."""

    def __init__(
        self,
        core: Core,
        monitor: DeviceMonitor,
        reclaim: ReclaimWorker,
        restarts: RestartWorker,
        analytics: AnalyticsWorker,
        consumers: ConsumerWorker,
        models: LazyModels,
        check_unused: CheckUnused,
    ) -> None:
        self._manager = core.manager
        self._monitor = monitor
        self._reclaim = reclaim
        self._restarts = restarts
        self._analytics = analytics
        self._consumers = consumers
        self._models = models
        self._check_unused = check_unused
        self.limits = core.manager.devices.limits

    def clear(
        self,
        device_ids: tuple[str, ...],
        kind: ClearType,
        owner: str | None,
        token: CancelToken,
        *,
        force: bool,
    ) -> ClearResult:
        """Give up caches, allocations or models; with the caches goes what consumers keep for its next use at no cost."""
        present = self._monitor.available(device_ids, token)
        token.check()
        caches = present if kind in {ClearType.CACHE, ClearType.ALL} else ()
        idle = [self._consumers.give_back_idle(each) for each in caches]
        with self._monitor.watching_for_loss():
            self._monitor.refresh(present, max_age_ms=0)
            result = self._reclaim.clear(present, kind, owner, token, force=force)
            result = replace(
                result,
                cleared_bytes=result.cleared_bytes + sum(size for size, _ in idle),
                returned_bytes=sum_if_known((result.returned_bytes, *(returned for _, returned in idle))),
            )
            built = self._models.built
            if built is not None and kind in {ClearType.MODELS, ClearType.ALL}:
                result = built.clear(present, result, token, forced=force)
        self._monitor.observe(present, changed=True)
        return result

    def defragment(
        self, device_ids: tuple[str, ...], token: CancelToken, *, aggressive: bool = False
    ) -> DefragmentResult:
        """Join free memory; ``aggressive`` by replacing processes, where devices have some of their own."""
        present = self._monitor.available(device_ids, token)
        with self._monitor.watching_for_loss():
            if aggressive and any(map(self._restarts.can_restart, present)):
                result = self._restarts.defragment(
                    present, lambda stay: self._reclaim.defragment(stay, token), token, self._check_unused
                )
            else:
                result = self._reclaim.defragment(present, token)
        self._monitor.observe(present, changed=True)
        return result

    def recommendations(self, device_ids: tuple[str, ...], idle_ns: int = IDLE_NS) -> tuple[Recommended, ...]:
        """Return the actions worth taking; models by name, where they were not used for ``idle_ns``."""
        self._monitor.refresh(device_ids, max_age_ms=READINGS_MAX_AGE_MS)
        built = self._models.built
        models = () if built is None else built.recommendations(device_ids, idle_ns)
        return cheapest_first((*self._analytics.recommendations(device_ids), *models))

    def optimize(
        self, device_ids: tuple[str, ...], level: OptimizationLevel, token: CancelToken, *, dry_run: bool
    ) -> OptimizeOutcome:
        """Carry out what the level allows: the recommended actions all, cheapest per byte first, and then a plan for the rest.

        Consumers give back only what is missing then for a device to be calm, in a dry run by what the actions should free.
        """
        token.check()
        before, built = self.level_now(device_ids), self._models.built
        steps, gone = list[Step](), Gone()
        models, consumers = list[KeptModel](), list[KeptConsumer]()
        for device_id in device_ids:
            self._monitor.refresh((device_id,), max_age_ms=READINGS_MAX_AGE_MS)
            found, stayed = self._analytics.recommendations((device_id,)), dict[str, str]()
            plan = built.everything(device_id) if built is not None and built.configured else None
            if built is not None and plan is not None:
                found = (*found, *built.recommended(plan, device_id))
            rows = [row for row in cheapest_first(found) if is_allowed(row, level)]
            steps += [
                Step(row, None if dry_run else self.carry_out(row.action, token, stayed=stayed))
                for row in rows
            ]
            freed = sum(row.expected_freed_bytes or 0 for row in rows) if dry_run else 0
            ways, others = self._planned(device_id, PressureLevel.LOW, freed)
            allowed = [each for each in ways if is_allowed(each, level)]
            why = "memory is wanted back, as asked"
            refused = self.release(allowed, token, gone, why, dry_run=dry_run)
            held = _held_back(ways, level, refused)
            consumers += islice(chain(held, others), MOST_KEPT_CONSUMERS)
            if built is not None and plan is not None:
                models += built.kept(plan, device_id, level, stayed, dry_run=dry_run)
        released = gone.released
        claimed = [step.recommended.expected_freed_bytes for step in steps]
        returned = [step.returned_bytes for step in steps]
        return OptimizeOutcome(
            tuple(steps),
            claimed_bytes=0
            if dry_run
            else sum_if_known([*claimed, *(each.claimed_bytes for each in released)]),
            returned_bytes=0
            if dry_run
            else sum_if_known([*returned, *(each.returned_bytes for each in released)]),
            pressure_before=before,
            pressure_after=before if dry_run else self.level_now(device_ids),
            released=tuple(released),
            models_kept=tuple(models),
            consumers_kept=tuple(consumers),
        )

    def releases(
        self,
        device_ids: tuple[str, ...],
        target: PressureLevel | float = PressureLevel.LOW,
        *,
        freed_bytes: int = 0,
    ) -> tuple[ReleaseMemory, ...]:
        """Return what consumers would give back to bring devices to a level, or a percentage, as far as they can.

        ``freed_bytes`` is what is freed of each before that. What is missing only below a cap of the worker's own, idle
        allocations of the ledger give alone: what all others hold does not count towards it.
        """
        return tuple(way for each in device_ids for way in self._planned(each, target, freed_bytes)[0])

    def _planned(
        self, device_id: str, target: PressureLevel | float, freed_bytes: int
    ) -> tuple[tuple[ReleaseMemory, ...], Iterator[KeptConsumer]]:
        """Return what consumers of a device would give back, and why nothing is taken of all others that hold anything there."""
        missing, need = (max(0, each - freed_bytes) for each in self._missing(device_id, target))
        quotes = [
            replace(each, silent=_ELSEWISE[each.kind]) if each.kind in _ELSEWISE else each
            for each in self._consumers.quotes(device_id, missing)
        ]
        idle = idle_allocations(quotes, device_id, frozenset()) if missing > need else ()
        need = max(0, need - sum(each.expected_bytes for each in idle))
        asked = frozenset(each.consumer_id for each in idle)
        plan = plan_others(quotes, ReleaseNeed(device_id, need, forced=True, excluded=asked))
        ways = tuple(ReleaseMemory(device_id, each, target) for each in (*idle, *plan.releases))
        return ways, (each for each in plan.why_kept() if each.consumer_id not in asked)

    def _missing(self, device_id: str, target: PressureLevel | float) -> tuple[int, int]:
        """Return how much has to be freed for a level, or a percentage, and what of that the device itself lacks.

        Nothing where the pressure can't be told.
        """
        headroom, thresholds = self._manager.pressure.headroom(device_id), self.limits(device_id).thresholds
        there = (headroom, for_others(headroom))
        whole, others = (bytes_to_free(target, each, thresholds) or 0 for each in there)
        return whole, others

    def release(
        self,
        ways: Sequence[ReleaseMemory],
        token: CancelToken,
        gone: Gone,
        why: str,
        *,
        dry_run: bool = False,
    ) -> dict[str, str]:
        """Have consumers of one device give back memory that is needed still; in a dry run only say what that would be.

        Returns those that are not asked any more, or of which nothing more is to be had, and why.
        """
        refused = dict[str, str]()
        if dry_run:
            gone.released += [
                ReleasedMemory(each.consumer_id, each.kind, each.bytes, None, each.cost_ms, each.reason)
                for each in (way.release for way in ways)
            ]
            return refused
        for device_id, target in dict.fromkeys((way.device_id, way.target) for way in ways):
            whole, others = self._missing(device_id, target)
            wanted = [way.release for way in ways if (whole if way.release.allocated else others)]
            names = {each.consumer_id for each in wanted}
            asked = (way.release.consumer_id for way in ways)
            refused |= {each: "enough came back without it" for each in asked if each not in names}
            if wanted:
                refused |= self._consumers.release(wanted, device_id, why, token, gone)
                self._monitor.observe((device_id,))  # it was read when the last of them had given back
        return refused

    def carry_out(
        self,
        action: RecommendedAction,
        token: CancelToken,
        why_unloaded: str = "unloaded: it was idle",
        stayed: dict[str, str] | None = None,
    ) -> int | None:
        """Do what is recommended. Returns what went back to the system: 0 where it is refused by now.

        A model came into use since, or is not declared any more; a restart has no place for what is there; the device went
        away, which is told of. Why models stayed is added to ``stayed``.
        """
        stayed = {} if stayed is None else stayed
        try:
            match action:
                case ClearCache(device_id=device_id):
                    return self.clear((device_id,), ClearType.CACHE, None, token, force=False).returned_bytes
                case UnloadModel(model_id=model_id):
                    models = self._models.get()
                    return models.unload(
                        model_id, UnloadMode.UNLOAD, token, reason=why_unloaded
                    ).returned_bytes
                case EvictBytes(device_id=device_id):
                    demand = ModelDemand(min_bytes=action.min_bytes)
                    result = self._models.get().optimize((device_id,), demand, token)
                    stayed |= {each.model_id: each.reason for each in result.models_kept}
                    return result.memory_returned_bytes
                case Defragment(device_id=device_id):
                    return self.defragment((device_id,), token, aggressive=action.restart).returned_bytes
        except ModelNotFoundError:
            return 0
        except (ModelBusyError, OutOfMemoryError, DeviceUnavailableError) as error:
            if isinstance(action, UnloadModel):
                stayed[action.model_id] = f"stays: {error.message}"
        return 0

    def set_limits(self, device_id: str, limits: Limits) -> SetLimitsResult:
        """Replace a device's limits; says what lies over the new cap, and frees none of it."""
        previous = self._manager.devices.limits(device_id)
        allocated, _, _ = self._manager.usage.groups(device_id, GroupBy.OWNER)
        counted = allocated + self._manager.usage.model_bytes(device_id)
        over = 0 if limits.limit_bytes is None else max(0, counted - limits.limit_bytes)
        affected = 0
        if over:
            affected = sum(not row.external for row in self._manager.allocations.all(device_id))
        result = SetLimitsResult(previous, limits, affected, over)
        observe = partial(self._monitor.observe, (device_id,))
        self._manager.devices.set_limits(device_id, limits)
        patiently(observe)  # from here on nothing may fail: it is done
        return result

    def level_now(self, device_ids: tuple[str, ...]) -> PressureLevel:
        """Return what budgets alone say now, nothing held."""
        self._monitor.refresh(device_ids, max_age_ms=READINGS_MAX_AGE_MS)
        return worst([self._manager.pressure.level_now(device_id) for device_id in device_ids])


def _held_back(
    ways: Iterable[ReleaseMemory], level: OptimizationLevel, refused: Mapping[str, str]
) -> Iterator[KeptConsumer]:
    """Say of consumers that could give what is wanted why they don't: the level forbids it, or they would not when asked."""
    for way in ways:
        each = way.release
        why = refused.get(each.consumer_id)
        if not is_allowed(way, level):
            why = f"{told_bytes(each.bytes)} would be asked for, but {level} asks for nothing that has to be rebuilt"
        if why is not None:
            price = round(price_per_mib(each.cost_ms, each.expected_bytes), 6)
            yield KeptConsumer(each.consumer_id, each.kind, price, f"stays: {why}")
