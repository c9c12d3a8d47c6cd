"""Actions to handlers, wire to records, and back. Decides nothing.

Refuses to start if a handler is missing, or takes or returns another type than the table says.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol, get_type_hints

import orjson
from pydantic import ValidationError

from protocol import params as p
from protocol import results as r
from protocol.actions import ACTIONS, OLDER_NAMES
from protocol.schema_digest import SCHEMA_SHA256
from protocol.vocabulary import (
    INT64_MAX,
    PROTOCOL_VERSION,
    AnalyticsSection,
    EventName,
    Initialize,
    MemoryType,
    TransferType,
)
from worker.core.clock import NS_PER_MS, Clock
from worker.core.errors import InvalidRequestError, UnknownActionError, UnsupportedError
from worker.core.records import AllocationRequest
from worker.instructor.models import ModelHandlers
from worker.interface.interface_memory import MemoryInterface
from worker.policy.batches import plan_batches
from worker.stream.work import Answer, Call, Claim, PluginAction, Work

_EVERYTHING = frozenset(AnalyticsSection)
_FIELD_OF_SEVERAL_TYPES = 2
_NAMING = {"memory.allocate", "memory.transfer"}
"""Actions whose allocation gets its id when they are admitted, so that ids follow the order of requests."""

_IDS = "allocation ids"
"""Claimed by what makes ids and, alone, by what names one that is not known yet: it may be in the making."""


class Session(Protocol):
    """What the worker's own actions ask of the loop that carries them."""

    max_frame_bytes: int
    max_inflight: int

    def cancel(self, request_id: str) -> Callable[[], None] | None:
        """Return what cancels a request that is queued or running; None if there is none."""
        ...

    def subscribe(self, events: tuple[EventName, ...]) -> None:
        """Send these events from now on."""
        ...

    def watch_host(self, pid: int) -> None:
        """End within a second of that process."""
        ...

    def drain(self) -> int:
        """Admit nothing more, finish or cancel what runs. Returns how many requests that was."""
        ...

    def end(self) -> None:
        """Free everything and exit."""
        ...


class Instructor:
    """Every action of the protocol, bound to its handler."""

    def __init__(
        self,
        memory: MemoryInterface,
        session: Session,
        clock: Clock,
        version: str,
        pid: int | None,
        plugins: Mapping[str, PluginAction] = MappingProxyType({}),
        started_ns: int | None = None,
    ) -> None:
        self._plugins = plugins
        self._memory = memory
        self._session = session
        self._clock = clock
        self._version = version
        self._pid = os.getpid() if pid is None else pid
        self._started_ns = clock.now_ns() if started_ns is None else started_ns
        models = ModelHandlers(memory)
        self._handlers: dict[str, Callable[..., Any]] = {
            "memory.get_status": self._get_status,
            "memory.get_usage": self._get_usage,
            "memory.get_allocations": self._get_allocations,
            "memory.allocate": self._allocate,
            "memory.deallocate": self._deallocate,
            "memory.transfer": self._transfer,
            "memory.get_transfer": self._get_transfer,
            "memory.clear": self._clear,
            "memory.defragment": self._defragment,
            "memory.optimize": self._optimize,
            "memory.get_model_status": models.get_model_status,
            "memory.model_optimize": models.model_optimize,
            "memory.get_pressure": self._get_pressure,
            "memory.get_analytics": self._get_analytics,
            "memory.get_metrics": self._get_metrics,
            "memory.get_optimization_recommendations": self._get_optimization_recommendations,
            "memory.load_model": models.load_model,
            "memory.unload_model": models.unload_model,
            "memory.plan": models.plan,
            "memory.plan_batches": self._plan_batches,
            "memory.set_limits": self._set_limits,
            "worker.hello": self._hello,
            "worker.ping": self._ping,
            "worker.cancel": self._cancel,
            "worker.subscribe": self._subscribe,
            "worker.shutdown": self._shutdown,
        }
        check_handlers(self._handlers)
        self._claims: dict[str, Callable[[Any], tuple[tuple[Claim, ...], bool]]] = {
            "memory.allocate": self._claims_of_allocate,
            "memory.deallocate": self._claims_of_deallocate,
            "memory.transfer": self._claims_of_transfer,
            "memory.clear": self._claims_of_devices,
            "memory.defragment": self._claims_of_devices,
            "memory.optimize": self._claims_of_devices,
            "memory.model_optimize": self._claims_of_devices,
            "memory.load_model": models.claims_of_load_model,
            "memory.unload_model": models.claims_of_unload_model,
            "memory.set_limits": lambda params: (self._claims_of_devices(params)[0], True),
            "worker.shutdown": lambda _: ((), False),
        }
        # Device rows as they were last answered, and as they are written.
        self._written: tuple[object, orjson.Fragment] = (None, orjson.Fragment(b""))
        # The work of requests that carry no data and claim nothing, made once.
        self._bare: dict[str, Work] = {}

    def prepare(self, action: str, data: dict[str, Any]) -> Work:
        """Turn a request into work. UnknownActionError or InvalidRequestError if it is none."""
        if not data and action in self._bare:
            return self._bare[action]
        name = OLDER_NAMES.get(action, action)
        row = ACTIONS.get(name)
        if row is None:
            return self._prepare_plugin(action, data)
        try:
            params = row.params.model_validate(data)
        except ValidationError as error:
            raise _invalid(error, row.params) from None
        claims: tuple[Claim, ...] = ()
        quick = True
        if name in self._claims:
            claims, quick = self._claims[name](params)
        handler = self._handlers[name]
        start = None
        if name in _NAMING:
            start = partial(self._named, partial(handler, params))
        work = Work(
            action=name,
            run=lambda call: handler(params, call),
            start=start,
            claims=claims,
            quick=quick,
            changes=row.changes,
            control=row.control,
        )
        if not data and name not in self._claims:
            self._bare[action] = work
        return work

    def _prepare_plugin(self, action: str, data: dict[str, Any]) -> Work:
        """Turn a request for a plugin's action into work: it may take its time, and claims nothing here."""
        run = self._plugins.get(action)
        if run is None:
            raise _unknown_action(action, self._plugins)
        return Work(action=action, run=lambda call: run(data, call), quick=False)

    def _named(self, run: Callable[..., Any]) -> Callable[[Call], Any]:
        """Give an admitted request the next allocation id; nothing else gets the id of one that fails."""
        allocation_id = self._memory.new_allocation_id()

        def run_as(call: Call) -> Any:
            try:
                return run(call, allocation_id)
            except BaseException:
                self._memory.unused_allocation_id(allocation_id)
                raise

        return run_as

    # ---- where the memory is ----

    def _get_status(self, params: p.GetStatusParams, _: Call) -> r.GetStatusResult:
        status = self._memory.status(
            self._memory.device_ids(params.device_id),
            allocations=params.include_allocations,
            usage=params.include_usage_stats,
            fragmentation=params.include_fragmentation,
            refresh=params.refresh,
        )
        if status.devices is not self._written[0]:
            self._written = (status.devices, orjson.Fragment(orjson.dumps(status.devices)))
        rows: Any = self._written[1]  # as long as nothing changes, the same rows are not written again
        return r.GetStatusResult(rows, status.host, status.pressure_level, status.age_ms)

    def _get_usage(self, params: p.GetUsageParams, _: Call) -> r.GetUsageResult:
        devices = self._memory.device_ids(params.device_id)
        return r.GetUsageResult(self._memory.usage(devices, params.group_by))

    def _get_allocations(self, params: p.GetAllocationsParams, _: Call) -> r.GetAllocationsResult:
        devices = self._memory.device_ids(params.device_id)
        if params.allocation_id is not None:
            return self._memory.allocation(params.allocation_id)
        return self._memory.allocations(devices, params.owner, params.purpose, params.limit, params.after)

    def _get_pressure(self, params: p.GetPressureParams, _: Call) -> r.GetPressureResult:
        return self._memory.pressure(self._memory.device_ids(params.device_id))

    def _get_analytics(self, params: p.GetAnalyticsParams, _: Call) -> r.GetAnalyticsResult:
        include = _EVERYTHING if params.include is None else frozenset(params.include)
        devices = self._memory.device_ids(params.device_id)
        return self._memory.analytics(devices, p.parse_duration_ms(params.time_range), include)

    def _get_metrics(self, _params: p.GetMetricsParams, _: Call) -> r.GetMetricsResult:
        return self._memory.metrics()

    def _get_optimization_recommendations(
        self, params: p.GetOptimizationRecommendationsParams, _: Call
    ) -> r.GetOptimizationRecommendationsResult:
        devices = self._memory.device_ids(params.device_id)
        return r.GetOptimizationRecommendationsResult(self._memory.recommendations(devices))

    # ---- allocations ----

    def _allocate(self, params: p.AllocateParams, call: Call, allocation_id: str) -> r.AllocateResult:
        request = AllocationRequest(
            device_id=self._memory.device_id(params.device_id, call.token),
            size_bytes=params.size_bytes,
            memory_type=params.memory_type,
            initialize=params.initialize,
            alignment=params.alignment,
            purpose=params.purpose,
            owner=params.owner,
            persistent=params.persistent,
            lease_ns=None if params.lease_ms is None else params.lease_ms * NS_PER_MS,
        )
        return self._memory.allocate(allocation_id, request, call.token, make_room=params.make_room)

    def _claims_of_allocate(self, params: p.AllocateParams) -> tuple[tuple[Claim, ...], bool]:
        device_id = self._memory.device_id(params.device_id)
        untouched = params.initialize is Initialize.NONE or params.memory_type is MemoryType.EXTERNAL
        touched = 0 if untouched else params.size_bytes
        places = (Claim(each, alone=False) for each in self._memory.candidates(params.device_id))
        claims = (*places, Claim(_IDS, alone=False))
        return claims, not params.make_room and self._memory.is_quick(device_id, touched)

    def _deallocate(self, params: p.DeallocateParams, _: Call) -> r.DeallocateResult:
        return self._memory.deallocate(params.allocation_id, force=params.force)

    def _claims_of_deallocate(self, params: p.DeallocateParams) -> tuple[tuple[Claim, ...], bool]:
        if not self._memory.knows(params.allocation_id):
            return (Claim(_IDS, alone=True),), True
        device_id, size = self._memory.place_of(params.allocation_id)
        claims = (Claim(params.allocation_id, alone=True), Claim(device_id, alone=False))
        return claims, self._memory.is_quick(device_id, size)

    # ---- transfers ----

    def _transfer(
        self, params: p.TransferParams, call: Call, allocation_id: str
    ) -> r.TransferResult | Answer:
        opened = self._memory.open_transfer(
            params.source_allocation_id, params.destination_device_id, params.memory_type
        )

        def perform(call: Call) -> r.TransferResult:
            return self._memory.perform_transfer(
                opened.transfer_id,
                allocation_id,
                params.transfer_type,
                params.memory_type,
                call.token,
                call.report,
                verify=params.verify,
            )

        if params.wait:
            return perform(call)
        later = Work(
            action="memory.transfer",
            run=perform,
            claims=self._claims_of_copy(params),
            quick=False,
            abandoned=lambda error: self._memory.abandon_transfer(opened.transfer_id, error),
        )
        return Answer(opened, background=later)

    def _claims_of_transfer(self, params: p.TransferParams) -> tuple[tuple[Claim, ...], bool]:
        if not self._memory.knows(params.source_allocation_id):
            return (Claim(_IDS, alone=True),), not params.wait
        if not params.wait:
            return (), True  # only opened here; the copy claims for itself
        return self._claims_of_copy(params), False

    def _claims_of_copy(self, params: p.TransferParams) -> tuple[Claim, ...]:
        source, _ = self._memory.place_of(params.source_allocation_id)
        return (
            Claim(params.source_allocation_id, alone=params.transfer_type is TransferType.MOVE),
            Claim(source, alone=False),
            Claim(self._memory.device_id(params.destination_device_id), alone=False),
            Claim(_IDS, alone=False),
        )

    def _get_transfer(self, params: p.GetTransferParams, _: Call) -> r.TransferResult:
        return self._memory.transfer(params.transfer_id)

    # ---- making room ----

    def _clear(self, params: p.ClearParams, call: Call) -> r.ClearResult:
        devices = self._memory.device_ids(params.device_id)
        return self._memory.clear(devices, params.clear_type, params.owner, call.token, force=params.force)

    def _defragment(self, params: p.DefragmentParams, call: Call) -> r.DefragmentResult:
        devices = self._memory.device_ids(params.device_id)
        return self._memory.defragment(devices, call.token, aggressive=params.aggressive)

    def _optimize(self, params: p.OptimizeParams, call: Call) -> r.OptimizeResult:
        devices = self._memory.device_ids(params.device_id)
        return self._memory.optimize(devices, params.optimization_level, call.token, dry_run=params.dry_run)

    def _set_limits(self, params: p.SetLimitsParams, _: Call) -> r.SetLimitsResult:
        changes: dict[str, Any] = {}
        if "limit_bytes" in params.model_fields_set:  # null takes the cap away, left out keeps it
            changes["limit_bytes"] = params.limit_bytes
        if params.reserve_bytes is not None:
            changes["reserve_bytes"] = params.reserve_bytes
        if params.thresholds is not None:
            changes["thresholds"] = r.PressureThresholds(**params.thresholds.model_dump())
        device_id = self._memory.device_id(params.device_id)
        return self._memory.set_limits(device_id, replace(self._memory.limits(device_id), **changes))

    def _plan_batches(self, params: p.PlanBatchesParams, _: Call) -> r.PlanBatchesResult:
        device_id = self._memory.device_id(params.device_id)
        return plan_batches(
            params.item_count,
            params.bytes_per_item,
            params.fixed_bytes,
            params.max_fraction,
            device_id,
            self._memory.available_bytes(device_id),
        )

    def _claims_of_devices(self, params: Any) -> tuple[tuple[Claim, ...], bool]:
        devices = self._memory.device_ids(params.device_id)
        return (*(Claim(device_id, alone=True) for device_id in devices), Claim(_IDS, alone=False)), False

    # ---- the worker's own ----

    def _hello(self, params: p.HelloParams, _: Call) -> r.HelloResult:
        lowest, highest = params.protocol_min or 1, params.protocol_max or INT64_MAX
        if lowest > highest:
            raise InvalidRequestError.at(
                "data.protocol_min", f"{lowest} is more than protocol_max, {highest}"
            )
        if not lowest <= PROTOCOL_VERSION <= highest:
            asked = f"at least {lowest}" if lowest > PROTOCOL_VERSION else f"at most {highest}"
            message = f"this worker speaks protocol {PROTOCOL_VERSION}; {asked} asked for"
            raise UnsupportedError(message, protocol=PROTOCOL_VERSION)
        if params.host_pid is not None:
            self._session.watch_host(params.host_pid)
        return r.HelloResult(
            protocol=PROTOCOL_VERSION,
            worker_version=self._version,
            pid=self._pid,
            actions=(*self._handlers, *self._plugins),
            limits=r.WorkerLimits(self._session.max_frame_bytes, self._session.max_inflight),
            schema_sha256=SCHEMA_SHA256,
        )

    def _ping(self, _params: p.PingParams, _: Call) -> r.PingResult:
        return r.PingResult((self._clock.now_ns() - self._started_ns) // NS_PER_MS)

    def _cancel(self, params: p.CancelParams, _: Call) -> Answer:
        cancel = self._session.cancel(params.request_id)
        return Answer(r.CancelResult(cancel is not None), then=cancel)

    def _subscribe(self, params: p.SubscribeParams, _: Call) -> r.SubscribeResult:
        events = tuple(dict.fromkeys(params.events))
        self._memory.look()  # what is the case now is no event; what changes from here on is
        self._session.subscribe(events)
        return r.SubscribeResult(events)

    def _shutdown(self, _params: p.ShutdownParams, _: Call) -> Answer:
        return Answer(r.ShutdownResult(self._session.drain()), then=self._session.end)


def check_handlers(handlers: dict[str, Callable[..., Any]]) -> None:
    """Hold the handlers against the table. TypeError names the first that differs."""
    differing = set(handlers) ^ set(ACTIONS)
    if differing:
        message = f"handlers and table differ in {', '.join(sorted(differing))}"
        raise TypeError(message)
    for name, handler in handlers.items():
        row, hints = ACTIONS[name], get_type_hints(handler)
        takes = next(iter(hints.values()))
        answers = hints["return"]
        if takes is not row.params or answers not in {row.result, Answer, row.result | Answer}:
            message = f"{name}: the handler takes {takes} and answers {answers}, the table says"
            message += f" {row.params} and {row.result}"
            raise TypeError(message)


def _unknown_action(action: str, plugins: Mapping[str, PluginAction]) -> UnknownActionError:
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake needs it

    known = sorted((*ACTIONS, *plugins))
    nearest = next(iter(get_close_matches(action, known, n=1, cutoff=0.4)), None)
    hint = f"; did you mean {nearest}?" if nearest is not None else ""
    message = f"no action {action!r}{hint}"
    return UnknownActionError(message, action=action, known_actions=known, nearest=nearest)


def _invalid(error: ValidationError, params: type[p.Params]) -> InvalidRequestError:
    """Name each path of what pydantic refused, an unknown key with the nearest known one."""
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake needs it

    found = []
    for each in error.errors(include_url=False, include_context=False, include_input=False):
        message = each["msg"].removeprefix("Value error, ")
        if each["type"] == "extra_forbidden":
            message = "unknown key"
            nearest = get_close_matches(str(each["loc"][-1]), list(params.model_fields), n=1)
            if nearest:
                message += f"; did you mean {nearest[0]}?"
        path = ["data", *map(str, each["loc"])]
        if len(path) > _FIELD_OF_SEVERAL_TYPES and path[-1].endswith(("]", "float")):
            path.pop()  # not a key: the type that did not fit, of several that might
        found.append({"path": ".".join(path), "message": message})
    return InvalidRequestError(found)
