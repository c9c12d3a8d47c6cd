"""The handlers of the models' actions, wire to records and back, as the instructor's own."""

from dataclasses import replace

from protocol import params as p
from protocol import results as r
from protocol.vocabulary import FOREVER
from worker.core.clock import NS_PER_MS
from worker.core.models import FOREVER_NS
from worker.core.records import ModelDemand, WayToPlan
from worker.instructor.binding import Claims
from worker.instructor.recommendations import wire_recommendations
from worker.interface.interface_memory import MemoryInterface
from worker.stream.work import Call, Claim, model_claim

_OPERATIONS = ("memory.load_model", "memory.unload_model", "memory.model_optimize", "memory.plan")


class ModelHandlers:
    """What the instructor binds to the models' actions."""

    def __init__(self, memory: MemoryInterface) -> None:
        self._memory = memory

    def get_model_status(self, params: p.GetModelStatusParams, _: Call) -> r.GetModelStatusResult:
        """Answer with the configured models."""
        models, devices = self._memory.models, self._memory.devices.ids(params.device_id)
        result = models.status(params.model_id, devices)
        return replace(
            result,
            available_operations=_OPERATIONS if models.configured else (),
            optimization_recommendations=wire_recommendations(models.recommendations(devices)),
        )

    def model_optimize(self, params: p.ModelOptimizeParams, call: Call) -> r.ModelOptimizeResult:
        """Unload models until the goals are met."""
        demand = ModelDemand(
            target=params.target_pressure_level,
            strategy=params.strategy,
            max_models=params.max_models_to_unload,
            min_bytes=params.min_memory_to_free_bytes,
            forced=params.force_optimization,
            excluded=frozenset(map(self._memory.models.resolve, params.exclude_models)),
            max_time_ms=params.max_optimization_time_ms,
            dry_run=params.dry_run,
        )
        return self._memory.models.optimize(self._memory.devices.ids(params.device_id), demand, call.token)

    def load_model(self, params: p.LoadModelParams, call: Call) -> r.LoadModelResult:
        """Load a model."""
        kept = params.keep_alive_ms
        keep_alive_ns = FOREVER_NS if kept == FOREVER else None if kept is None else kept * NS_PER_MS
        return self._memory.models.load(
            params.model_id,
            None if params.device_id is None else self._memory.devices.one(params.device_id),
            call.token,
            call.report,
            make_room=params.make_room,
            pin=params.pin,
            keep_alive_ns=keep_alive_ns,
            allow_fallback=params.allow_fallback,
            plan_id=params.plan_id,
        )

    def unload_model(self, params: p.UnloadModelParams, call: Call) -> r.UnloadedModel:
        """Unload a model."""
        return self._memory.models.unload(params.model_id, params.mode, call.token, by_owner=params.by_owner)

    def reload_models(self, _: p.ReloadModelsParams, __: Call) -> r.ReloadModelsResult:
        """Read the file of models again."""
        return self._memory.models.reload()

    def claims_of_get_model_status(self, _: p.GetModelStatusParams) -> Claims:
        """Return that it touches nothing, and is quick unless files are being read, which is waited for."""
        models = self._memory.built_models  # there from the start where any are declared
        return (), models is None or models.were_read

    def claims_of_reload_models(self, _: p.ReloadModelsParams) -> Claims:
        """Return that one reading follows the other, and that none is quick."""
        return (Claim("file of models", exclusive=True),), False

    def claims_of_load_model(self, params: p.LoadModelParams) -> Claims:
        """Return what loading touches, and that it is not quick; an owner's word touches nothing."""
        if self._memory.models.external(params.model_id):
            return (), True
        devices = self._memory.models.devices(params.model_id, params.device_id)
        return (
            model_claim(self._memory.models.resolve(params.model_id)),
            *(Claim(each, exclusive=False) for each in devices),
        ), False

    def claims_of_unload_model(self, params: p.UnloadModelParams) -> Claims:
        """Return what unloading touches, and that it is not quick.

        What another process holds is claimed by no request: its owner's word must not wait behind the question.
        """
        if self._memory.models.external(params.model_id):
            return (), params.by_owner
        devices = self._memory.models.devices(params.model_id, None)
        return (
            model_claim(self._memory.models.resolve(params.model_id)),
            *(Claim(each, exclusive=False) for each in devices),
        ), False

    def plan(self, params: p.PlanParams, call: Call) -> r.PlanResult:
        """Choose the first way that fits."""
        ways = tuple(
            WayToPlan(
                each.name,
                each.required_bytes,
                None
                if each.device_id is None and each.model_id
                else self._memory.devices.one(each.device_id),
                each.model_id,
            )
            for each in params.candidates
        )
        return self._memory.models.plan(ways, call.token, allow_eviction=params.allow_eviction)

    def claims_of_plan(self, params: p.PlanParams) -> Claims:
        """Return that a plan touches nothing, and is quick where no model's file is to be read for it."""
        return (), all(each.model_id is None for each in params.candidates)
