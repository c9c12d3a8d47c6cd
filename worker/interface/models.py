"""Models, over several devices: the part of the interface that a worker without any never builds."""

from collections.abc import Callable, Iterable, Iterator

from protocol.results import (
    ClearResult,
    GetModelStatusResult,
    LoadModelResult,
    ModelStatus,
    ReloadModelsResult,
    UnloadedModel,
)
from protocol.vocabulary import HealthState, UnloadMode
from worker.core.actions import Recommended
from worker.core.cancellation import CancelToken
from worker.core.errors import InvalidRequestError
from worker.core.health import PartHealth
from worker.core.models import ModelSpec, Role
from worker.core.records import Report
from worker.eviction.planner import EvictionPlan
from worker.interface.model_optimize import ModelOptimizer, merged
from worker.interface.model_plan import ModelPlanner
from worker.manager.model_entry import ModelEntry
from worker.manager.plan_table import Plan
from worker.policy.holders import HeldModel
from worker.policy.recommendations import IDLE_NS, cheapest_first
from worker.watch.device_monitor import READINGS_MAX_AGE_MS, DeviceMonitor
from worker.wiring import Core
from worker.workers.model_load import Acquired, ModelWorker

_ESTIMATES_S = 0.25
"""How long a question about models waits for their files to be read."""


class ModelInterface:
    """All models of the worker."""

    def __init__(
        self,
        core: Core,
        worker: ModelWorker,
        monitor: DeviceMonitor,
        configured: Callable[[], tuple[Iterable[ModelSpec], Iterable[Role]]],
    ) -> None:
        self.worker = worker
        self._configured = configured
        self._manager = core.manager
        self._table = core.manager.models
        self._optimizer = ModelOptimizer(core, worker, monitor)
        self.optimize = self._optimizer.optimize
        self.kept = self._optimizer.kept
        self.plan = ModelPlanner(core, worker, monitor).plan
        self.planned = worker.models.plans.kept.get
        self._monitor = monitor
        self._clock = core.clock
        self.expire = worker.unloader.expire
        self.check_unused = worker.headroom.check_unused
        self.reserve_making_headroom = worker.headroom.reserve_making_headroom
        self.bring_back = worker.bring_back
        self.evictable_bytes = worker.models.plans.evictable_bytes
        self.everything = worker.models.plans.everything
        self.close = worker.close

    def health(self) -> Iterator[PartHealth]:
        """Tell which models can't be loaded, or were lost and not used since, and which roles stand for none."""
        known = [(each.model_id, each.state_reason) for each in self.rows()]
        known += [(each.name, each.refused) for each in self.refused_roles]
        unwell = [each for each in known if each[1] is not None]
        state, said = HealthState.OK, None
        if unwell:
            (first, why), state = unwell[0], HealthState.DEGRADED
            said = f"{len(unwell)} can't be loaded or were lost; {first}: {why}"
        yield PartHealth("models", state, said)

    # ---- changes ----

    def load(
        self, model_id: str, device_id: str | None, token: CancelToken, report: Report, *,
        make_room: bool, pin: bool | None, keep_alive_ns: int | None, allow_fallback: bool = True,
        plan_id: str | None = None,
    ) -> LoadModelResult:  # fmt: skip
        """Load a model, or note one more use of it; of one that another process holds, that it is loaded."""
        models, entry = self.worker.models, self._table.get(model_id)
        if entry.spec.external:
            self.worker.external.loaded(
                model_id, device_id or entry.spec.device_id or self.worker.placement.default_device
            )
            return self._loaded(entry, model_id, pin=pin, keep_alive_ns=keep_alive_ns)
        plan = None if plan_id is None else self.plan_for(plan_id, device_id, model_id=entry.model_id)
        acquired = self.worker.hold(
            model_id,
            token,
            report,
            device_id=device_id,
            make_room=make_room,
            fallback=allow_fallback,
            plan=plan,
        )
        try:  # held until the answer is there: so it is of the model as it was loaded, and a pin takes effect
            return self._loaded(acquired.entry, model_id, acquired, pin=pin, keep_alive_ns=keep_alive_ns)
        finally:
            models.let_go(acquired.entry.model_id, acquired.residence.handle)

    def _loaded(
        self, entry: ModelEntry, requested_id: str, acquired: Acquired | None = None, *,
        pin: bool | None, keep_alive_ns: int | None,
    ) -> LoadModelResult:  # fmt: skip
        self.worker.models.configure(entry.model_id, pinned=pin, keep_alive_ns=keep_alive_ns)
        return LoadModelResult(
            **vars(entry.status(self._clock.now_ns())),
            requested_model_id=requested_id,
            fallback_reason=None if acquired is None else acquired.fallback_reason,
            models_unloaded=() if acquired is None else acquired.unloaded,
            released=() if acquired is None else acquired.released,
        )

    def unload(
        self, model_id: str, mode: UnloadMode, token: CancelToken, *, by_owner: bool = False,
        reason: str = "unloaded: as asked",
    ) -> UnloadedModel:  # fmt: skip
        """Unload a model, or ask its owner to; ``by_owner``: the owner has."""
        return self.worker.unloader.unload(model_id, token, mode, by_owner=by_owner, reason=reason)

    def reload(self) -> ReloadModelsResult:
        """Read what is configured again. ModelLoadFailedError, and all stays as it was, for what is no such file."""
        specs, roles = self._configured()
        return self.worker.reload(specs, roles)

    def clear(
        self, device_ids: tuple[str, ...], cleared: ClearResult, token: CancelToken, *, forced: bool
    ) -> ClearResult:
        """Unload what may go, and add that to what was cleared before."""
        return merged(cleared, self._optimizer.clear(device_ids, token, forced=forced))

    # ---- questions ----

    def status(self, model_id: str | None, device_ids: tuple[str, ...]) -> GetModelStatusResult:
        """Return the configured models. Files that are just being read are waited for, but not for long."""
        self.worker.estimates.wait(_ESTIMATES_S)
        self._monitor.refresh(device_ids, max_age_ms=READINGS_MAX_AGE_MS)
        return self._optimizer.status(model_id, device_ids)

    @property
    def were_read(self) -> bool:
        """Whether no model's file is just being read."""
        return self.worker.estimates.wait(0)

    @property
    def refused_roles(self) -> tuple[Role, ...]:
        """The roles that stand for nothing, each with the reason."""
        return self._table.refused_roles

    @property
    def configured(self) -> bool:
        """Whether there are any."""
        return len(self._table) > 0

    def rows(self) -> tuple[ModelStatus, ...]:
        """Return the configured models, without readings and advice: for whoever asks all the time."""
        now_ns = self._clock.now_ns()
        with self._manager.lock:
            return tuple(entry.status(now_ns) for entry in self._table)

    def plan_for(
        self,
        plan_id: str,
        device_id: str | None,
        *,
        model_id: str | None = None,
        size_bytes: int | None = None,
    ) -> Plan:
        """Return a plan to be taken up. PlanStaleError if it can't be; InvalidRequestError if it is for something else."""
        plan = self.worker.models.plans.kept.get(plan_id)
        same = device_id in {None, plan.device_id} and plan.model_id == model_id
        if not same or (size_bytes is not None and size_bytes != plan.required_bytes):
            what = "an allocation" if plan.model_id is None else f"model {plan.model_id!r}"
            message = f"{plan_id!r} is for {what} of {plan.required_bytes} bytes on {plan.device_id}"
            raise InvalidRequestError.at("data.plan_id", message)
        return plan

    def held(self, device_id: str) -> tuple[HeldModel, ...]:
        """Return the models whose weights take memory on a device, and who alone can free it."""
        with self._manager.lock:
            return tuple(
                HeldModel(entry.model_id, place.size_bytes, entry.freed_by)
                for entry in self._table.on_device(device_id)
                for place in (entry.residence, entry.host_copy)
                if place is not None and place.device_id == device_id
            )

    def recommendations(self, device_ids: tuple[str, ...], idle_ns: int = IDLE_NS) -> tuple[Recommended, ...]:
        """Return what unloading would bring; by name, where a model was not used for so long."""
        plans = ((self.everything(each), each) for each in device_ids if self.configured)
        return cheapest_first(tuple(row for each in plans for row in self.recommended(*each, idle_ns)))

    def recommended(
        self, plan: EvictionPlan, device_id: str, idle_ns: int = IDLE_NS
    ) -> tuple[Recommended, ...]:
        """Return what unloading all of a plan would bring."""
        return self._optimizer.recommended(plan, device_id, idle_ns)

    def resolve(self, name: str) -> str:
        """Return the id of the model that an alias or a role stands for; any other name as it is."""
        return self._table.resolve(name)

    def external(self, model_id: str) -> bool:
        """Tell whether another process holds a model. ModelNotFoundError for one not configured."""
        return self._table.get(model_id).spec.external

    def devices(self, model_id: str, device_id: str | None) -> tuple[str, ...]:
        """Return the devices that loading a model may touch. ModelNotFoundError for one not configured."""
        touched: dict[str, None] = {}
        for each in (model_id, *self._table.fallbacks(model_id)):  # whichever of its fallbacks it comes to
            fixed = device_id or self._table.get(each).spec.device_id
            found = (
                self._manager.devices.ids()
                if fixed is None
                else (self._manager.devices.info(fixed).device_id,)
            )
            touched |= dict.fromkeys(found)
        return tuple(touched)
