"""What unloading models can do for a device: carried out, or only recommended."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from protocol.results import (
    ClearResult,
    GetModelStatusResult,
    Kept,
    KeptModel,
    ModelOptimizeResult,
    PerformanceImpact,
    UnloadedModel,
)
from protocol.vocabulary import INT64_MAX, ModelState, OptimizationLevel, PressureLevel
from worker.core.actions import EvictBytes, Recommended, UnloadModel
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS
from worker.core.errors import ModelBusyError, OutOfMemoryError
from worker.core.records import HOST, ModelDemand, sum_if_known
from worker.eviction.planner import EvictionPlan
from worker.policy.model_goals import ModelGoal, bytes_to_free, goal_of, target_met
from worker.policy.pressure import worst
from worker.policy.recommendations import IDLE_NS
from worker.watch.device_monitor import DeviceMonitor
from worker.wiring import Core
from worker.workers.model_load import ModelWorker

NONE_CONFIGURED = "no models are configured, so there is nothing to unload"


class _Progress:
    """What one optimization has done so far."""

    def __init__(self) -> None:
        self.unloaded: list[UnloadedModel] = []
        self.kept: dict[str, str] = {}
        self.asked: dict[str, str] = {}
        """Models of other processes whose owners were asked in vain, and why they stay."""
        self.out_of_time = False
        self.together = False
        """Whether several devices free enough together, where no one of them has to."""

    @property
    def freed_bytes(self) -> int:
        return sum(row.freed_bytes for row in self.unloaded)


class ModelOptimizer:
    """Decides by plan and unloads one model at a time, until the goal is met."""

    def __init__(self, core: Core, worker: ModelWorker, monitor: DeviceMonitor) -> None:
        self._manager = core.manager
        self._table = core.manager.models
        self._unloader = worker.unloader
        self._external = worker.external
        self._models = worker.models
        self._monitor = monitor
        self._clock = core.clock

    # ---- carried out ----

    def optimize(
        self, device_ids: tuple[str, ...], demand: ModelDemand, token: CancelToken
    ) -> ModelOptimizeResult:
        """Unload models until the goal is met, or nothing more may go. Cancelling ends it between two models."""
        started_ns = self._clock.now_ns()
        goal = goal_of(demand.target, demand.min_bytes, forced=demand.forced)
        self._monitor.refresh(tuple(dict.fromkeys((*device_ids, HOST))), max_age_ms=0)
        before = self._level_now(device_ids)
        progress = _Progress()
        if len(device_ids) > 1 and goal.min_bytes:
            ceilings = [self._plan(each, goal, demand, progress).ceiling_bytes for each in device_ids]
            progress.together = sum(ceilings) >= goal.min_bytes
        for device_id in device_ids:
            self._relieve(device_id, goal, demand, progress, started_ns, token)
        met = self._met(device_ids, goal, demand, progress)
        gone = {row.model_id for row in progress.unloaded}
        reload_ms = [row.reload_ms for row in progress.unloaded]
        returned = [row.returned_bytes for row in progress.unloaded]
        return ModelOptimizeResult(
            optimization_triggered=bool(progress.unloaded) and not demand.dry_run,
            optimization_strategy=demand.strategy,
            memory_freed_bytes=progress.freed_bytes,
            memory_returned_bytes=0 if demand.dry_run else sum_if_known(returned),
            models_unloaded=tuple(progress.unloaded),
            models_kept=tuple(
                KeptModel(each, why)
                for each, why in (progress.kept | progress.asked).items()
                if each not in gone
            ),
            performance_impact=PerformanceImpact(sum_if_known(reload_ms), len(progress.unloaded)),
            optimization_time_ms=(self._clock.now_ns() - started_ns) // NS_PER_MS,
            pressure_before=before,
            pressure_after=self._level_now(device_ids),
            goal_met=met,
            message=self._message(goal, demand, progress, met=met),
        )

    def _relieve(
        self, device_id: str, goal: ModelGoal, demand: ModelDemand, progress: _Progress, started_ns: int,
        token: CancelToken,
    ) -> None:  # fmt: skip
        """Unload models of one device, each after checking again that it still has to go."""
        self._ask_owners(device_id, goal, demand, progress, started_ns, token)
        plan = self._plan(device_id, goal, demand, progress)
        progress.kept.update({row.model_id: row.reason for row in plan.survivors})
        for victim in plan.victims:
            if demand.dry_run:
                row = UnloadedModel(
                    victim.model_id, victim.freed_bytes, None, victim.reload_ms, victim.reason,
                    mode=victim.mode,
                )  # fmt: skip
                progress.unloaded.append(row)
                continue
            token.check()
            if self._out_of_time(demand, started_ns):
                progress.out_of_time = True
                progress.kept[victim.model_id] = "stays: the time allowed was over"
                continue
            if not goal.everything and self._reached(device_id, goal, progress):
                progress.kept[victim.model_id] = "stays: the goal was met without it"
                continue
            try:
                row_or_none = self._unloader.evict(victim.model_id, victim.reason, token, mode=victim.mode)
            except (ModelBusyError, OutOfMemoryError) as error:
                progress.kept[victim.model_id] = f"stays: {error.message}"
                continue
            if row_or_none is not None:
                progress.unloaded.append(row_or_none)

    def _ask_owners(
        self, device_id: str, goal: ModelGoal, demand: ModelDemand, progress: _Progress, started_ns: int,
        token: CancelToken,
    ) -> None:  # fmt: skip
        """Where the worker's own models are not enough, ask the owners of others, and wait for their word."""
        plan = self._plan(device_id, goal, demand, progress)
        missing = plan.need_bytes - plan.ceiling_bytes
        if demand.dry_run or missing <= 0:
            return
        owners = self._models.plans.owners_to_ask(
            device_id,
            missing,
            max_models=self._left(demand, progress),
            forced=self._forced(goal, demand, progress),
            excluded=demand.excluded,
        )
        if not owners:
            return
        within_ns = None
        if demand.max_time_ms is not None:
            within_ns = max(0, started_ns + demand.max_time_ms * NS_PER_MS - self._clock.now_ns())
        reason = f"memory is wanted back on {device_id}"
        for model_id, said in self._external.ask(owners, reason, token, within_ns).items():
            if isinstance(said, UnloadedModel):
                progress.unloaded.append(said)
            else:
                progress.asked[model_id] = f"stays: {said}"
        self._monitor.refresh((device_id,), max_age_ms=0, forced=True)

    def _plan(
        self, device_id: str, goal: ModelGoal, demand: ModelDemand, progress: _Progress
    ) -> EvictionPlan:
        return self._models.plans.plan(
            device_id,
            self._need(device_id, goal, progress),
            strategy=demand.strategy,
            max_models=self._left(demand, progress),
            forced=self._forced(goal, demand, progress),
            excluded=demand.excluded,
        )

    def _left(self, demand: ModelDemand, progress: _Progress) -> int | None:
        return None if demand.max_models is None else demand.max_models - len(progress.unloaded)

    def _forced(self, goal: ModelGoal, demand: ModelDemand, progress: _Progress) -> bool:
        return demand.forced or goal.everything or progress.together

    def _need(self, device_id: str, goal: ModelGoal, progress: _Progress) -> int:
        if goal.everything:
            return INT64_MAX
        headroom = self._manager.pressure.headroom(device_id)
        thresholds = self._manager.devices.limits(device_id).thresholds
        for_target = bytes_to_free(goal.target, headroom, thresholds) or 0
        return max(for_target, goal.min_bytes - progress.freed_bytes, 0)

    def _reached(self, device_id: str, goal: ModelGoal, progress: _Progress) -> bool:
        return self._need(device_id, goal, progress) == 0

    def _out_of_time(self, demand: ModelDemand, started_ns: int) -> bool:
        spent_ms = (self._clock.now_ns() - started_ns) // NS_PER_MS
        return demand.max_time_ms is not None and spent_ms >= demand.max_time_ms

    def _met(
        self, device_ids: tuple[str, ...], goal: ModelGoal, demand: ModelDemand, progress: _Progress
    ) -> bool:
        """Tell whether the goal is met: by figures read now, or by the plan's own where nothing was done."""
        if progress.freed_bytes < goal.min_bytes or (goal.everything and progress.out_of_time):
            return False
        freed: dict[str, int] = dict.fromkeys(device_ids, 0)
        if demand.dry_run:
            for row in progress.unloaded:
                residence = self._table.get(row.model_id).residence
                if residence is not None:
                    freed[residence.device_id] += row.freed_bytes
        for device_id in device_ids:
            headroom = self._manager.pressure.headroom(device_id)
            limits = self._manager.devices.limits(device_id)
            if not demand.dry_run:
                if not target_met(goal.target, headroom, limits.thresholds):
                    return False
                continue
            need = bytes_to_free(goal.target, headroom, limits.thresholds)
            if need is None or need > freed[device_id]:
                return False
        return True

    def _message(self, goal: ModelGoal, demand: ModelDemand, progress: _Progress, *, met: bool) -> str:
        """Say what was done, and whether less came back than was freed."""
        count, freed = len(progress.unloaded), progress.freed_bytes
        if not progress.unloaded:
            said = "nothing was unloaded" if len(self._table) else NONE_CONFIGURED
        else:
            verb = "would be unloaded" if demand.dry_run else "unloaded"
            said = f"{count} {'model' if count == 1 else 'models'} {verb}, {freed} bytes"
            returned = sum_if_known([row.returned_bytes for row in progress.unloaded])
            if not demand.dry_run and returned is not None and returned < freed:
                said += f", of which {returned} came back"
        if progress.out_of_time:
            said += "; the time allowed was over"
        if goal.everything:
            return said
        return f"{said}; the goal is {'met' if met else 'not met'}"

    def clear(self, device_ids: tuple[str, ...], token: CancelToken, *, forced: bool) -> ClearResult:
        """Unload all models that are not in use, and not pinned unless forced."""
        token.check()
        unloaded, kept = self._clear_external(device_ids, token, forced=forced)
        for device_id in device_ids:
            for entry in self._table.on_device(device_id):
                if entry.spec.external:
                    continue
                try:
                    if entry.state is ModelState.OFFLOADED:
                        unloaded.append(self._unloader.unload(entry.model_id, token))
                        continue
                    why = "unloaded: cleared, as asked"
                    row = self._unloader.evict(entry.model_id, why, token, forced=forced)
                except ModelBusyError as error:
                    more = "; force: true unloads it too" if error.details["cause"] == "pinned" else ""
                    kept.append(Kept(entry.model_id, f"{error.details['cause'].replace('_', ' ')}{more}"))
                else:
                    unloaded.extend([] if row is None else [row])
        returned = sum_if_known([row.returned_bytes for row in unloaded])
        cleared = sum(row.freed_bytes for row in unloaded)
        return ClearResult(cleared, returned, 0, tuple(unloaded), tuple(kept), ())

    def _clear_external(
        self, device_ids: tuple[str, ...], token: CancelToken, *, forced: bool
    ) -> tuple[list[UnloadedModel], list[Kept]]:
        """Ask the owners of all models that other processes hold, and wait for their word."""
        found = [entry for each in device_ids for entry in self._table.on_device(each)]
        external = [entry for entry in found if entry.spec.external]
        pinned = [entry.model_id for entry in external if entry.pinned and not forced]
        kept = [Kept(each, "pinned; force: true asks its owner too") for each in pinned]
        owners = [entry.model_id for entry in external if entry.model_id not in pinned]
        if not owners:
            return [], kept
        answers = self._external.ask(owners, "cleared, as asked", token)
        kept += [Kept(each, said) for each, said in answers.items() if isinstance(said, str)]
        return [said for said in answers.values() if isinstance(said, UnloadedModel)], kept

    # ---- answered ----

    def status(self, model_id: str | None, device_ids: tuple[str, ...]) -> GetModelStatusResult:
        """Return the models on these devices, and those that are on none yet.

        What can be asked for, and what would help, is for who answers to add, by the wire's names.
        """
        now = self._clock.now_ns()
        table = self._table
        entries = list(table) if model_id is None else [table.get(model_id)]
        with self._manager.lock:
            rows = [entry.status(now) for entry in entries]
        return GetModelStatusResult(
            models=tuple(row for row in rows if row.device_id is None or row.device_id in device_ids),
            pressure_level=worst([self._manager.pressure.level(device_id) for device_id in device_ids]),
            pressure_percentage=self._percentage(device_ids),
            available_operations=(),
            optimization_recommendations=(),
            last_synchronized=self._clock.utc().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        )

    def recommended(self, plan: EvictionPlan, device_id: str, idle_ns: int) -> tuple[Recommended, ...]:
        """Propose to unload each model of a plan for everything that was not used for so long, and to evict the rest."""
        found, now = [], self._clock.now_ns()
        recent = []
        for victim in plan.victims:
            unused_ns = self._unused_ns(victim.model_id, now)
            if unused_ns < idle_ns:
                recent.append(victim)
                continue
            found.append(
                Recommended(
                    UnloadModel(victim.model_id),
                    expected_freed_bytes=victim.freed_bytes,
                    cost_ms=victim.reload_ms,
                    cost_of="loading it again, when it is needed",
                    reason=f"{victim.model_id} was not used for {unused_ns // NS_PER_MS} ms",
                )
            )
        if recent:
            names = ", ".join(victim.model_id for victim in recent)
            freed = sum(victim.freed_bytes for victim in recent)
            found.append(
                Recommended(
                    EvictBytes(device_id, freed),
                    expected_freed_bytes=freed,
                    cost_ms=sum_if_known([victim.reload_ms for victim in recent]),
                    cost_of="loading them again, when they are needed",
                    reason=f"neither pinned nor in use, but used lately: {names}",
                )
            )
        return tuple(found)

    def kept(
        self,
        plan: EvictionPlan,
        device_id: str,
        level: OptimizationLevel,
        said: Mapping[str, str],
        *,
        dry_run: bool,
    ) -> Iterator[KeptModel]:
        """Say of the models that are still on a device, or in a dry run would be after ``memory.optimize`` at a level, why.

        ``plan`` is the one for everything that was recommended by, ``said`` why those stayed that were to go by it.
        """
        now = self._clock.now_ns()
        here = {entry.model_id for entry in self._table.on_device(device_id)}
        yield from (KeptModel(row.model_id, row.reason) for row in plan.survivors if row.model_id in here)
        for victim in plan.victims:
            if victim.model_id not in here:
                continue
            unused_ns = self._unused_ns(victim.model_id, now)
            if level is OptimizationLevel.CONSERVATIVE:
                why = f"stays: {level} unloads no model"
            elif victim.model_id in said:
                why = said[victim.model_id]
            elif level is OptimizationLevel.NORMAL and unused_ns < IDLE_NS:
                least_ms = IDLE_NS // NS_PER_MS
                why = f"stays: it was used {unused_ns // NS_PER_MS} ms ago, and {level} unloads what was not for {least_ms} ms"
            elif dry_run:
                continue  # it is among the steps
            else:
                why = "stays: it was loaded again meanwhile"
            yield KeptModel(victim.model_id, why)

    def _unused_ns(self, model_id: str, now_ns: int) -> int:
        last_ns = self._table.get(model_id).last_used_ns
        return 0 if last_ns is None else now_ns - last_ns

    def _level_now(self, device_ids: tuple[str, ...]) -> PressureLevel:
        return worst([self._manager.pressure.level_now(device_id) for device_id in device_ids])

    def _percentage(self, device_ids: tuple[str, ...]) -> float | None:
        shares = [self._manager.pressure.headroom(device_id).pressure_percentage for device_id in device_ids]
        return max((share for share in shares if share is not None), default=None)


def merged(one: ClearResult, other: ClearResult) -> ClearResult:
    """Add two results up."""
    return replace(
        one,
        cleared_bytes=one.cleared_bytes + other.cleared_bytes,
        returned_bytes=sum_if_known([one.returned_bytes, other.returned_bytes]),
        allocations_freed=one.allocations_freed + other.allocations_freed,
        models_unloaded=(*one.models_unloaded, *other.models_unloaded),
        kept=(*one.kept, *other.kept),
    )
