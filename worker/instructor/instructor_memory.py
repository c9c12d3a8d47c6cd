"""Actions to handlers, wire to records, and back. Decides nothing.

Refuses to start if a handler is missing, or takes or returns another type than the table says.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError

from protocol import params as p
from protocol import results as r
from protocol.actions import ACTIONS, OLDER_NAMES
from protocol.vocabulary import AnalyticsSection
from worker.core.clock import Clock
from worker.core.errors import UnsupportedError
from worker.core.events import Figures
from worker.instructor.allocations import IDS, AllocationHandlers
from worker.instructor.binding import Bindings, Claims
from worker.instructor.consumers import ConsumerHandlers
from worker.instructor.models import ModelHandlers
from worker.instructor.recommendations import wire_outcome, wire_recommendations
from worker.instructor.refusals import check_size, invalid, unknown_action
from worker.instructor.session import Session, SessionHandlers
from worker.interface.interface_memory import MemoryInterface
from worker.manager.batch_table import BatchWork
from worker.metrics.history import History
from worker.stream.figures_ticker import FiguresTicker, Later
from worker.stream.work import Call, Claim, PluginAction, Work, optimizing

if TYPE_CHECKING:
    from worker.stores.registry import Stores

_EVERYTHING = frozenset(AnalyticsSection)

_MADE_HERE = ("allocation_id", "source_allocation_id", "plan_id", "transfer_id", "operation_id")
"""Fields whose ids the worker makes."""

_STORES = tuple(name for name in ACTIONS if name.startswith("store."))


def _bind_stores(memory: MemoryInterface, stores: Callable[[], "Stores"], bindings: Bindings) -> None:
    from worker.instructor.stores import StoreHandlers  # noqa: PLC0415 - when the first store is asked for

    StoreHandlers(memory, stores).bind_all(bindings)


def _drain(params: p.FleetDrainParams, _: Call) -> r.FleetDrainResult:
    message = f"this worker is no fleet, and has no node {params.node!r} to drain: "
    message += "ask the `python -m memory_worker fleet` that has it, or stop this worker with worker.shutdown"
    raise UnsupportedError(message, node=params.node)


class Instructor:
    """Every action of the protocol, bound to its handler."""

    def __init__(
        self,
        memory: MemoryInterface,
        session: Session,
        clock: Clock,
        history: History,
        version: str,
        pid: int | None,
        stores: Callable[[], "Stores"],
        later: Later,
        tell: Callable[[Figures], bool],
        plugins: Mapping[str, PluginAction] = MappingProxyType({}),
        started_ns: int | None = None,
    ) -> None:
        self._plugins = plugins
        self._memory = memory
        self._history = history
        self._bindings = Bindings()
        self._allocations = AllocationHandlers(memory)
        self._bind_memory(self._bindings)
        self._bindings.bind_later(_STORES, partial(_bind_stores, memory, stores))
        own = SessionHandlers(
            session,
            clock,
            version,
            os.getpid() if pid is None else pid,
            clock.now_ns() if started_ns is None else started_ns,
            lambda: tuple(dict.fromkeys((*self._bindings, *self._plugins))),
            memory.sample,
            memory.health,
            FiguresTicker(clock.now_ns, later, lambda: tell(memory.figures())),
        )
        bind = self._bindings.bind
        bind("worker.hello", own.hello)
        bind("worker.ping", own.ping)
        bind("worker.get_health", own.get_health)
        bind("worker.cancel", own.cancel)
        bind("worker.subscribe", own.subscribe)
        bind("worker.shutdown", own.shutdown, own.claims_of_shutdown)
        self._bindings.check_complete()
        # Device rows as they were last answered, and as they are written.
        self._written: tuple[object, orjson.Fragment] = (None, orjson.Fragment(b""))
        # The work of requests that carry no data, claim nothing and change nothing, made once.
        self._bare: dict[str, Work] = {}

    def _bind_memory(self, bindings: Bindings) -> None:
        bind, models = bindings.bind, ModelHandlers(self._memory)
        consumers, allocations = ConsumerHandlers(self._memory), self._allocations
        bind("memory.get_status", self._get_status, self._claim_processes)
        bind("memory.get_usage", self._get_usage)
        bind("memory.get_allocations", self._get_allocations)
        bind("memory.allocate", allocations.allocate, allocations.claims_of_allocate, makes_allocation=True)
        bind("memory.deallocate", allocations.deallocate, allocations.claims_of_deallocate, brief=True)
        bind("memory.renew_lease", allocations.renew_lease, allocations.claims_of_renew_lease)
        bind("memory.transfer", allocations.transfer, allocations.claims_of_transfer, makes_allocation=True)
        bind("memory.get_transfer", allocations.get_transfer)
        bind("memory.clear", self._clear, self._claims_of_devices, intervenes=True)
        bind("memory.defragment", self._defragment, self._claims_of_devices, intervenes=True)
        bind("memory.optimize", self._optimize, self._claims_of_optimizing, intervenes=True)
        bind("memory.get_model_status", models.get_model_status, models.claims_of_get_model_status)
        bind("memory.model_optimize", models.model_optimize, self._claims_of_optimizing, intervenes=True)
        bind("memory.get_pressure", self._get_pressure)
        bind("memory.get_analytics", self._get_analytics)
        bind("memory.get_metrics", self._get_metrics)
        bind("memory.get_optimization_recommendations", self._get_optimization_recommendations)
        bind("memory.load_model", models.load_model, models.claims_of_load_model)
        bind("memory.unload_model", models.unload_model, models.claims_of_unload_model)
        bind("memory.reload_models", models.reload_models, models.claims_of_reload_models)
        bind("memory.plan", models.plan, models.claims_of_plan)
        bind("memory.plan_batches", self._plan_batches)
        bind("memory.register_consumer", consumers.register, consumers.claims_in_turn, brief=True)
        bind("memory.released", consumers.released, consumers.claims_in_turn, brief=True)
        bind("memory.unregister_consumer", consumers.unregister, consumers.claims_in_turn, brief=True)
        bind("memory.get_consumers", consumers.get_consumers)
        bind("operation.begin", self._begin_operation)
        bind("operation.end", self._end_operation)
        bind("fleet.drain", _drain)
        bind("memory.set_limits", self._set_limits, self._claims_of_set_limits, intervenes=True)

    def prepare(self, action: str, data: dict[str, Any]) -> Work:
        """Turn a request into work. UnknownActionError or InvalidRequestError if it is none."""
        if not data:
            bare = self._bare.get(action)
            if bare is not None:
                return bare
        name = OLDER_NAMES.get(action, action)
        binding = self._bindings.get(name)
        if binding is None or name in self._plugins:  # one that had the name before the contract did keeps it
            return self._prepare_plugin(action, data)
        row, handler = binding.row, binding.handler
        if binding.intervenes and not data.get("dry_run"):
            handler = partial(self._intervene, name, handler)
        check_size(data)
        for field in _MADE_HERE:
            given = data.get(field)
            if isinstance(given, str) and (meant := self._memory.ids.complete(given)) != given:
                data = {**data, field: meant}
        try:
            params = row.params.model_validate(data)
        except ValidationError as error:
            raise invalid(error, row.params) from None
        claims, quick = ((), True) if binding.claims is None else binding.claims(params)
        start = None
        if binding.makes_allocation:
            start = partial(self._allocations.named, partial(handler, params))
        work = Work(
            action=name,
            run=lambda call: handler(params, call),
            start=start,
            claims=claims,
            quick=quick,
            changes=row.changes,
            control=row.control,
            brief=binding.brief,
        )
        if not data and quick and not claims and not row.changes:
            self._bare[action] = work
        return work

    def _prepare_plugin(self, action: str, data: dict[str, Any]) -> Work:
        """Turn a request for a plugin's action into work: it may take its time, and claims nothing here."""
        run = self._plugins.get(action)
        if run is None:
            raise unknown_action(action, self._plugins)
        return Work(action=action, run=lambda call: run(data, call), quick=False, plugin=True)

    def _intervene(self, name: str, run: Callable[..., Any], params: p.Params, call: Call) -> Any:
        """Carry something out, and note that it was."""
        result = run(params, call)
        try:
            self._history.record_intervention(name)
        except MemoryError:
            return result  # it is done, and goes uncounted
        return result

    # ---- where the memory is ----

    def _get_status(self, params: p.GetStatusParams, _: Call) -> r.GetStatusResult:
        page, following = self._memory.devices.page(params.device_id, params.limit, params.after)
        status = self._memory.questions.status(
            page,
            allocations=params.include_allocations,
            usage=params.include_usage_stats,
            fragmentation=params.include_fragmentation,
            processes=params.include_processes,
            refresh=params.refresh,
        )
        if status.devices is not self._written[0]:
            self._written = (status.devices, orjson.Fragment(orjson.dumps(status.devices)))
        rows: Any = self._written[1]  # as long as nothing changes, the same rows are not written again
        return r.GetStatusResult(rows, status.host, status.pressure_level, status.age_ms, following)

    def _claim_processes(self, params: p.GetStatusParams) -> Claims:
        return (), not params.include_processes  # which asks devices, and they may hang

    def _get_usage(self, params: p.GetUsageParams, _: Call) -> r.GetUsageResult:
        devices = self._memory.devices.ids(params.device_id)
        return r.GetUsageResult(self._memory.questions.usage(devices, params.group_by))

    def _get_allocations(self, params: p.GetAllocationsParams, _: Call) -> r.GetAllocationsResult:
        devices = self._memory.devices.ids(params.device_id)
        if params.allocation_id is not None:
            return self._memory.questions.allocation(params.allocation_id)
        return self._memory.questions.allocations(
            devices, params.owner, params.purpose, params.limit, params.after
        )

    def _get_pressure(self, params: p.GetPressureParams, _: Call) -> r.GetPressureResult:
        devices = self._memory.devices.ids(params.device_id)
        result = self._memory.questions.pressure(devices)
        rows = tuple(
            replace(row, recommended_actions=self._recommended((row.device_id,))) for row in result.devices
        )
        return replace(result, devices=rows)

    def _get_analytics(self, params: p.GetAnalyticsParams, _: Call) -> r.GetAnalyticsResult:
        include = _EVERYTHING if params.include is None else frozenset(params.include)
        devices = self._memory.devices.ids(params.device_id)
        return self._memory.questions.analytics(devices, p.parse_duration_ms(params.time_range), include)

    def _get_metrics(self, _params: p.GetMetricsParams, _: Call) -> r.GetMetricsResult:
        return self._memory.questions.metrics()

    def _get_optimization_recommendations(
        self, params: p.GetOptimizationRecommendationsParams, _: Call
    ) -> r.GetOptimizationRecommendationsResult:
        devices = self._memory.devices.ids(params.device_id)
        return r.GetOptimizationRecommendationsResult(self._recommended(devices))

    def _recommended(self, device_ids: tuple[str, ...]) -> tuple[r.Recommendation, ...]:
        return wire_recommendations(self._memory.relief.recommendations(device_ids))

    # ---- freeing memory, and how much may be taken ----

    def _clear(self, params: p.ClearParams, call: Call) -> r.ClearResult:
        devices = self._memory.devices.ids(params.device_id)
        return self._memory.relief.clear(
            devices, params.clear_type, params.owner, call.token, force=params.force
        )

    def _defragment(self, params: p.DefragmentParams, call: Call) -> r.DefragmentResult:
        devices = self._memory.devices.ids(params.device_id)
        return self._memory.relief.defragment(devices, call.token, aggressive=params.aggressive)

    def _optimize(self, params: p.OptimizeParams, call: Call) -> r.OptimizeResult:
        devices = self._memory.devices.ids(params.device_id)
        outcome = self._memory.relief.optimize(
            devices, params.optimization_level, call.token, dry_run=params.dry_run
        )
        return wire_outcome(outcome)

    def _set_limits(self, params: p.SetLimitsParams, _: Call) -> r.SetLimitsResult:
        changes: dict[str, Any] = {}
        if "limit_bytes" in params.model_fields_set:  # null takes the cap away, left out keeps it
            changes["limit_bytes"] = params.limit_bytes
        if params.reserve_bytes is not None:
            changes["reserve_bytes"] = params.reserve_bytes
        if params.thresholds is not None:
            changes["thresholds"] = r.PressureThresholds(**params.thresholds.model_dump())
        device_id = self._memory.devices.one(params.device_id)
        return self._memory.relief.set_limits(
            device_id, replace(self._memory.relief.limits(device_id), **changes)
        )

    def _plan_batches(self, params: p.PlanBatchesParams, _: Call) -> r.PlanBatchesResult:
        if params.item_count is None or params.bytes_per_item is None:
            return self._memory.batches.plan_rest(params.plan_id or "", params.done_items)
        work = BatchWork(
            params.item_count,
            params.bytes_per_item,
            params.fixed_bytes,
            params.max_fraction,
            self._memory.devices.one(params.device_id),
        )
        return self._memory.batches.plan(work)

    def _begin_operation(self, params: p.OperationBeginParams, _: Call) -> r.OperationBeginResult:
        return r.OperationBeginResult(self._memory.operations.begin(params.name))

    def _end_operation(self, params: p.OperationEndParams, _: Call) -> r.OperationEndResult:
        ended = self._memory.operations.end(params.operation_id, failed=params.failed)
        return r.OperationEndResult(ended.name, ended.duration_us, ended.peak_bytes, ended.delta_bytes)

    def _claims_of_set_limits(self, params: p.SetLimitsParams) -> Claims:
        return self._device_claims(params.device_id), True

    def _claims_of_devices(self, params: p.ClearParams | p.DefragmentParams) -> Claims:
        return self._device_claims(params.device_id), False

    def _claims_of_optimizing(self, params: p.OptimizeParams | p.ModelOptimizeParams) -> Claims:
        """Return one optimization at a time for each device: it may wait for owners, and what frees memory must not."""
        devices = self._memory.devices.ids(params.device_id)
        return (*chain.from_iterable(map(optimizing, devices)), Claim(IDS, exclusive=False)), False

    def _device_claims(self, device_id: str | None) -> tuple[Claim, ...]:
        devices = self._memory.devices.ids(device_id)
        return (*(Claim(each, exclusive=True) for each in devices), Claim(IDS, exclusive=False))
