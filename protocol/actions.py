"""The table that binds an action's name to what it takes and what it answers."""

from dataclasses import dataclass
from typing import Any

from protocol import params, results
from protocol.events import EVENTS as EVENTS  # noqa: PLC0414 - the contract's other table


@dataclass(frozen=True)
class Action:
    """One row of the table."""

    params: type[params.Params]
    result: type[Any]
    changes: bool = False
    """A repeated ``request_id`` is answered from the record instead of being run again."""
    control: bool = False
    """Answered also while the worker is overloaded or draining."""


class _StoreAction(Action):
    """A row whose types are imported when they are first asked for: most workers start without any store."""

    def __init__(self, name: str, *, changes: bool = False) -> None:
        vars(self).update(name=name, changes=changes, control=False)

    def __getattr__(self, field: str) -> Any:  # only what is not set yet comes here
        if field not in {"params", "result"}:
            raise AttributeError(field)
        from protocol import store_params, store_results  # noqa: PLC0415 - each imports the other

        name = vars(self)["name"]
        vars(self).update(
            params=getattr(store_params, f"{name}Params"), result=getattr(store_results, f"{name}Result")
        )
        return vars(self)[field]


ACTIONS: dict[str, Action] = {
    "memory.get_status": Action(params.GetStatusParams, results.GetStatusResult),
    "memory.get_usage": Action(params.GetUsageParams, results.GetUsageResult),
    "memory.get_allocations": Action(params.GetAllocationsParams, results.GetAllocationsResult),
    "memory.allocate": Action(params.AllocateParams, results.AllocateResult, changes=True),
    "memory.deallocate": Action(params.DeallocateParams, results.DeallocateResult, changes=True),
    "memory.renew_lease": Action(params.RenewLeaseParams, results.RenewLeaseResult, changes=True),
    "memory.transfer": Action(params.TransferParams, results.TransferResult, changes=True),
    "memory.get_transfer": Action(params.GetTransferParams, results.TransferResult),
    "memory.clear": Action(params.ClearParams, results.ClearResult, changes=True),
    "memory.defragment": Action(params.DefragmentParams, results.DefragmentResult, changes=True),
    "memory.optimize": Action(params.OptimizeParams, results.OptimizeResult, changes=True),
    "memory.get_model_status": Action(params.GetModelStatusParams, results.GetModelStatusResult),
    "memory.model_optimize": Action(params.ModelOptimizeParams, results.ModelOptimizeResult, changes=True),
    "memory.get_pressure": Action(params.GetPressureParams, results.GetPressureResult),
    "memory.get_analytics": Action(params.GetAnalyticsParams, results.GetAnalyticsResult),
    "memory.get_metrics": Action(params.GetMetricsParams, results.GetMetricsResult),
    "memory.get_optimization_recommendations": Action(
        params.GetOptimizationRecommendationsParams, results.GetOptimizationRecommendationsResult
    ),
    "memory.load_model": Action(params.LoadModelParams, results.LoadModelResult, changes=True),
    "memory.unload_model": Action(params.UnloadModelParams, results.UnloadedModel, changes=True),
    "memory.reload_models": Action(params.ReloadModelsParams, results.ReloadModelsResult, changes=True),
    "memory.plan": Action(params.PlanParams, results.PlanResult),
    "memory.plan_batches": Action(params.PlanBatchesParams, results.PlanBatchesResult),
    "memory.set_limits": Action(params.SetLimitsParams, results.SetLimitsResult, changes=True),
    "memory.register_consumer": Action(
        params.RegisterConsumerParams, results.RegisterConsumerResult, changes=True
    ),
    "memory.released": Action(params.ReleasedParams, results.ReleasedResult, changes=True),
    "memory.unregister_consumer": Action(
        params.UnregisterConsumerParams, results.UnregisterConsumerResult, changes=True
    ),
    "memory.get_consumers": Action(params.GetConsumersParams, results.GetConsumersResult),
    "store.open": _StoreAction("StoreOpen", changes=True),
    "store.put": _StoreAction("StorePut", changes=True),
    "store.get": _StoreAction("StoreGet"),
    "store.search": _StoreAction("StoreSearch"),
    "store.load_folder": _StoreAction("StoreLoadFolder", changes=True),
    "store.list": _StoreAction("StoreList"),
    "store.delete": _StoreAction("StoreDelete", changes=True),
    "store.clear": _StoreAction("StoreClear", changes=True),
    "store.close": _StoreAction("StoreClose", changes=True),
    "store.delete_scope": _StoreAction("StoreDeleteScope", changes=True),
    "store.stats": _StoreAction("StoreStats"),
    "operation.begin": Action(params.OperationBeginParams, results.OperationBeginResult, changes=True),
    "operation.end": Action(params.OperationEndParams, results.OperationEndResult, changes=True),
    "fleet.drain": Action(params.FleetDrainParams, results.FleetDrainResult, changes=True),
    "worker.hello": Action(params.HelloParams, results.HelloResult, control=True),
    "worker.ping": Action(params.PingParams, results.PingResult, control=True),
    "worker.get_health": Action(params.GetHealthParams, results.GetHealthResult, control=True),
    "worker.cancel": Action(params.CancelParams, results.CancelResult, control=True),
    "worker.subscribe": Action(params.SubscribeParams, results.SubscribeResult, control=True),
    "worker.shutdown": Action(params.ShutdownParams, results.ShutdownResult, control=True),
}

OLDER_NAMES: dict[str, str] = {
    "memory.model_status": "memory.get_model_status",
    "memory.analytics": "memory.get_analytics",
    "memory.optimization_recs": "memory.get_optimization_recommendations",
}
"""What older hosts send, and the action that it means."""
