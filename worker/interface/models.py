"""Models, over several devices: the part of the interface that a worker without any never builds."""

from protocol.results import (
    ClearResult,
    GetModelStatusResult,
    LoadModelResult,
    ModelOptimizeResult,
    ModelStatus,
    PlanResult,
    UnloadedModel,
)
from protocol.vocabulary import UnloadMode
from worker.core.actions import Recommended
from worker.core.cancellation import CancelToken
from worker.core.clock import Clock
from worker.core.records import ModelDemand, Report, WayToPlan
from worker.interface.model_optimize import ModelOptimizer, merged
from worker.manager.manager_memory import MemoryManager
from worker.manager.model_table import ModelEntry
from worker.policy.recommendations import IDLE_NS
from worker.watch.device_monitor import READINGS_MAX_AGE_MS, DeviceWatch
from worker.workers.model_load import ModelWorker


class ModelInterface:
    """All models of the worker."""

    def __init__(self, manager: MemoryManager, worker: ModelWorker, watch: DeviceWatch, clock: Clock) -> None:
        self.worker = worker
        self._manager = manager
        self._optimizer = ModelOptimizer(manager, worker, watch, clock)
        self._watch = watch
        self._clock = clock

    # ---- changes ----

    def load(
        self, model_id: str, device_id: str | None, token: CancelToken, report: Report, *,
        make_room: bool, pin: bool | None, keep_alive_ns: int | None, allow_fallback: bool = True,
    ) -> LoadModelResult:  # fmt: skip
        """Load a model, or note one more use of it; of one that another process holds, that it is loaded."""
        models, entry = self.worker.models, self.worker.models.book.get(model_id)
        if entry.spec.external:
            self.worker.external.loaded(
                model_id, device_id or entry.spec.device_id or self.worker.default_device
            )
            return self._loaded(entry, model_id, None, (), pin=pin, keep_alive_ns=keep_alive_ns)
        taken = self.worker.hold(
            model_id, token, report, device_id=device_id, make_room=make_room, fallback=allow_fallback
        )
        try:  # held until the answer is there: so it is of the model as it was loaded, and a pin takes effect
            return self._loaded(
                taken.entry,
                model_id,
                taken.fallback_reason,
                taken.unloaded,
                pin=pin,
                keep_alive_ns=keep_alive_ns,
            )
        finally:
            models.let_go(taken.entry.model_id, taken.residence.handle)

    def _loaded(
        self, entry: ModelEntry, requested_id: str, why: str | None, unloaded: tuple[UnloadedModel, ...], *,
        pin: bool | None, keep_alive_ns: int | None,
    ) -> LoadModelResult:  # fmt: skip
        self.worker.models.configure(entry.model_id, pinned=pin, keep_alive_ns=keep_alive_ns)
        return LoadModelResult(
            **vars(entry.status(self._clock.now_ns())),
            requested_model_id=requested_id,
            fallback_reason=why,
            models_unloaded=unloaded,
        )

    def unload(
        self, model_id: str, mode: UnloadMode, token: CancelToken, *, by_owner: bool = False
    ) -> UnloadedModel:
        """Unload a model, or ask its owner to; ``by_owner``: the owner has."""
        return self.worker.unload(model_id, token, mode, by_owner=by_owner)

    def clear(
        self, device_ids: tuple[str, ...], cleared: ClearResult, token: CancelToken, *, forced: bool
    ) -> ClearResult:
        """Unload what may go, and add that to what was cleared before."""
        return merged(cleared, self._optimizer.clear(device_ids, token, forced=forced))

    def optimize(
        self, device_ids: tuple[str, ...], demand: ModelDemand, token: CancelToken
    ) -> ModelOptimizeResult:
        """Unload models until the goals are met."""
        return self._optimizer.optimize(device_ids, demand, token)

    # ---- questions ----

    def status(self, model_id: str | None, device_ids: tuple[str, ...]) -> GetModelStatusResult:
        """Return the configured models, without what would help: see ``recommendations``."""
        self._watch.refresh(device_ids, max_age_ms=READINGS_MAX_AGE_MS)
        return self._optimizer.status(model_id, device_ids)

    @property
    def configured(self) -> bool:
        """Whether there are any."""
        return len(self.worker.models.book) > 0

    def rows(self) -> tuple[ModelStatus, ...]:
        """Return the configured models, without readings and advice: for whoever looks all the time."""
        now_ns = self._clock.now_ns()
        with self._manager.lock:
            return tuple(entry.status(now_ns) for entry in self.worker.models.book)

    def plan(self, ways: tuple[WayToPlan, ...], *, allow_eviction: bool) -> PlanResult:
        """Choose the first way that fits."""
        return self._optimizer.plan(ways, allow_eviction=allow_eviction)

    def recommendations(self, device_ids: tuple[str, ...], idle_ns: int = IDLE_NS) -> tuple[Recommended, ...]:
        """Return what unloading would bring; by name, where nobody used a model for so long."""
        return self._optimizer.recommendations(device_ids, idle_ns)

    def external(self, model_id: str) -> bool:
        """Tell whether another process holds a model. ModelNotFoundError for one not configured."""
        return self.worker.models.book.get(model_id).spec.external

    def devices(self, model_id: str, device_id: str | None) -> tuple[str, ...]:
        """Return the devices that loading a model may touch. ModelNotFoundError for one not configured."""
        touched: dict[str, None] = {}
        at: str | None = model_id
        while at is not None:  # whichever of its fallbacks it comes to
            spec = self.worker.models.book.get(at).spec
            fixed = device_id or spec.device_id
            found = self._manager.device_ids() if fixed is None else (self._manager.device(fixed).device_id,)
            touched |= dict.fromkeys(found)
            at = spec.fallback
        return tuple(touched)
