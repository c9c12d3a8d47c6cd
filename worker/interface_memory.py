"""One answer for several devices: which one is meant, what to try when it is full, what to say when it is lost.

Counts no bytes itself: the manager does, by readings that are taken here when they are needed.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from protocol.record import Record
from protocol.results import (
    AllocateResult,
    AllocationExpiredData,
    ClearResult,
    DeallocateResult,
    DefragmentResult,
    DeviceStatus,
    DeviceUsage,
    GetAllocationsResult,
    GetAnalyticsResult,
    GetMetricsResult,
    GetPressureResult,
    GetStatusResult,
    HostStatus,
    Limits,
    OptimizeResult,
    OptimizeStep,
    Recommendation,
    SetLimitsResult,
    TransferResult,
    UnloadedModel,
)
from protocol.vocabulary import (
    AnalyticsSection,
    ClearType,
    DeviceState,
    EventName,
    GroupBy,
    MemoryType,
    OptimizationLevel,
    PressureLevel,
    TransferType,
)
from worker.backends.base import DeviceBackend, OwnProcess, ProbedBeside
from worker.cancellation import CancelToken
from worker.clock import NS_PER_MS, Clock
from worker.device_watch import READINGS_MAX_AGE_MS, DeviceWatch, Publish
from worker.errors import (
    AllocationNotFoundError,
    InvalidRequestError,
    LimitExceededError,
    ModelBusyError,
    OutOfMemoryError,
    WorkerError,
)
from worker.manager_memory import MemoryManager
from worker.policy.pressure import worst
from worker.policy.recommendations import IDLE_NS, cheapest_first
from worker.records import Allocation, AllocationRequest, ModelDemand, OwnerFlow, Report
from worker.worker_allocation import AllocationWorker
from worker.worker_analytics import AnalyticsWorker, age_order
from worker.worker_reclaim import ReclaimWorker, total
from worker.worker_restart import RestartWorker
from worker.worker_transfer import TransferWorker

if TYPE_CHECKING:
    from worker.interface_models import ModelInterface

ALL_DEVICES = "all"
CPU = "cpu"

_EXACT_FROM_BYTES = 2**20
"""Allocations from this size are admitted by readings taken now; smaller ones cannot move the headroom much."""

_ALLOWED = {
    OptimizationLevel.CONSERVATIVE: {"memory.clear"},
    OptimizationLevel.NORMAL: {"memory.clear", "memory.defragment", "memory.unload_model"},
    OptimizationLevel.AGGRESSIVE: {
        "memory.clear",
        "memory.defragment",
        "memory.unload_model",
        "memory.model_optimize",
    },
}
"""What each level of ``memory.optimize`` may carry out of what is recommended."""


class Workers(Record):
    """What carries single transactions out."""

    allocations: AllocationWorker
    transfers: TransferWorker
    reclaim: ReclaimWorker
    analytics: AnalyticsWorker
    restarts: RestartWorker


class _Status(Record):
    """An answer to ``memory.get_status``, good for as long as nothing changes."""

    version: int
    read_ns: int
    devices: tuple[DeviceStatus, ...]
    host: HostStatus
    pressure_level: PressureLevel

    def holds(self, version: int, now_ns: int) -> bool:
        """Tell whether no figure changed and the readings are recent."""
        return version == self.version and now_ns - self.read_ns <= READINGS_MAX_AGE_MS * NS_PER_MS


class MemoryInterface:
    """All devices of the worker, as one."""

    def __init__(
        self,
        manager: MemoryManager,
        backends: Mapping[str, DeviceBackend],
        workers: Workers,
        clock: Clock,
        default_device: str | None,
        publish: Publish,
        watch: DeviceWatch,
        build_models: Callable[[], "ModelInterface"],
    ) -> None:
        self._asked_default = default_device
        self.manager = self._manager = manager
        self.trends, self.leaks = workers.analytics.trends, workers.analytics.leaks
        self._backends = backends
        self._allocations = workers.allocations
        self._transfers = workers.transfers
        self._reclaim = workers.reclaim
        self._analytics = workers.analytics
        self._publish = publish
        self.watch = self._watch = watch
        self._restarts = workers.restarts
        self._build_models = build_models
        self._building = threading.Lock()
        # None until something asks for it.
        self._models: ModelInterface | None = None
        self._clock = clock
        # Derived, and made again whenever the manager's version is another.
        self._last_status: dict[tuple[tuple[str, ...], bool, bool, bool], _Status] = {}

    @property
    def models(self) -> "ModelInterface":
        """The models' side, built when it is first asked for: a worker without models starts sooner."""
        with self._building:
            if self._models is None:
                self._models = self._build_models()
            return self._models

    # ---- which device ----

    def probe_here(self) -> None:
        """Begin to look for the devices whose libraries this process imports: that can hold all its threads up."""
        for backend in dict.fromkeys(self._backends.values()):
            if isinstance(backend, ProbedBeside) and not isinstance(backend, OwnProcess):
                self._watch.begin(backend)

    def wait_until_known(self, token: CancelToken) -> None:
        """Wait for the end of every probe, also of devices that one of them reveals."""
        known: tuple[str, ...] = ()
        while (there := self.device_ids(None)) != known:
            self._watch.wait_until_known(there, token)
            known = there

    def device_ids(self, device_id: str | None) -> tuple[str, ...]:
        """Return the devices that are meant. DeviceNotFoundError if there is none of that name."""
        if device_id is None or device_id == ALL_DEVICES:
            return self._manager.device_ids()
        return (self._manager.device(device_id).device_id,)

    @property
    def default_device(self) -> str:
        """The device of requests that name none."""
        return self._manager.default_device(self._asked_default, CPU)

    def device_id(self, device_id: str | None, token: CancelToken | None = None) -> str:
        """Return the one device that is meant. DeviceNotFoundError if there is none of that name.

        With a token, a device that is being probed is waited for: which one is the default may hang on it.
        """
        while True:
            found = self._manager.device(device_id or self.default_device).device_id
            if token is None or self._manager.device(found).state is not DeviceState.PROBING:
                return found
            self._watch.wait_until_known((found,), token)

    def candidates(self, device_id: str | None) -> tuple[str, ...]:
        """Return the devices that may turn out to be meant: one, once it is known which there are."""
        found = self.device_id(device_id)
        if device_id is None and self._manager.device(found).state is DeviceState.PROBING:
            return self._manager.device_ids()
        return (found,)

    def is_quick(self, device_id: str, touched_bytes: int) -> bool:
        """Tell whether making or freeing that many bytes keeps nobody waiting."""
        return touched_bytes <= self._backends[device_id].quick_bytes

    def knows(self, allocation_id: str) -> bool:
        """Tell whether an allocation is live."""
        return self._manager.knows(allocation_id)

    def place_of(self, allocation_id: str) -> tuple[str, int]:
        """Return an allocation's device and bytes. AllocationNotFoundError if it is not live."""
        allocation = self._manager.allocation(allocation_id)
        return allocation.device_id, allocation.size_bytes

    # ---- changes ----

    def new_allocation_id(self) -> str:
        """Return the next id, for a request that is being admitted."""
        return self._manager.new_allocation_id()

    def unused_allocation_id(self, allocation_id: str) -> None:
        """Note that nothing came of an id."""
        self._manager.unused_allocation_id(allocation_id)

    def allocate(
        self, allocation_id: str, request: AllocationRequest, token: CancelToken, *, make_room: bool = False
    ) -> AllocateResult:
        """Allocate.

        1. Small requests are admitted by recent readings, larger ones by readings taken now.
        2. Out of memory: caches are given up. If that, or newer readings, can help, it is tried once more.
        3. Still, room may be made, and the device's process keeps it in pieces: that process is replaced.
        4. Still, or over a limit, and models may go: enough of them are unloaded, and it is tried a last
           time in the room that was held meanwhile.
        """
        device_id, unloaded = request.device_id, list[UnloadedModel]()
        self._watch.wait_until_known((device_id,), token)
        with self._watch.watching_for_loss():
            exact = request.size_bytes >= _EXACT_FROM_BYTES
            self._watch.refresh((device_id,), max_age_ms=READINGS_MAX_AGE_MS, exact=exact)  # 1
            try:
                allocation = self._allocate_as_it_is(allocation_id, request, token, exact=exact)
            except (OutOfMemoryError, LimitExceededError) as error:
                if request.memory_type is MemoryType.EXTERNAL or self._is_gone(device_id):
                    raise
                error.details["evictable_bytes"] = self._evictable_bytes(device_id)
                if not make_room:
                    raise
                allocation = self._allocate_making_room(allocation_id, request, token, unloaded)
        self._after_change(device_id, request.size_bytes)
        return AllocateResult(
            allocation_id=allocation.allocation_id,
            device_id=device_id,
            memory_type=request.memory_type,
            size_bytes=request.size_bytes,
            actual_bytes=allocation.block.actual_bytes,
            shared_memory=allocation.block.shared_memory,
            available_bytes=self._manager.headroom(device_id).available_bytes,
            models_unloaded=tuple(unloaded),
        )

    def _allocate_as_it_is(
        self, allocation_id: str, request: AllocationRequest, token: CancelToken, *, exact: bool
    ) -> Allocation:
        """Allocate in what is free, or becomes so when caches are given up."""
        device_id = request.device_id
        try:
            return self._allocations.allocate(allocation_id, request, token)
        except OutOfMemoryError:  # 2
            if self._is_gone(device_id) or (not self._backends[device_id].trim(device_id) and exact):
                raise
            self._watch.refresh((device_id,), max_age_ms=0)
            return self._allocations.allocate(allocation_id, request, token)

    def _allocate_making_room(
        self,
        allocation_id: str,
        request: AllocationRequest,
        token: CancelToken,
        unloaded: list[UnloadedModel],
    ) -> Allocation:
        """Allocate in room that a restart or models made; free memory in pieces is joined first.

        If that fails, the models return.
        """
        device_id, backend = request.device_id, self._backends[request.device_id]
        if self._restarts.restart_for(request, token, self._check_unused):  # 3
            try:
                return self._allocations.allocate(allocation_id, request, token)
            except OutOfMemoryError:
                if self._is_gone(device_id):
                    raise
        models = self.models.worker  # 4
        try:
            reservation = models.reserve_making_room(allocation_id, request, token, unloaded)
            try:
                largest = backend.readings(device_id).largest_block_bytes
                if largest is not None and largest < request.size_bytes:
                    backend.defragment(device_id)
            except BaseException:
                self._manager.release(reservation)
                raise
            return self._allocations.allocate(allocation_id, request, token, reservation)
        except BaseException as error:
            models.bring_back(unloaded, device_id, error)
            raise

    def deallocate(self, allocation_id: str, *, force: bool) -> DeallocateResult:
        """Free one allocation."""
        with self._watch.watching_for_loss():
            allocation, returned = self._allocations.free(allocation_id, force=force)
        self._after_change(allocation.device_id, allocation.size_bytes)
        return DeallocateResult(
            allocation_id=allocation_id,
            device_id=allocation.device_id,
            freed_bytes=allocation.size_bytes,
            returned_bytes=returned,
            available_bytes=self._manager.headroom(allocation.device_id).available_bytes,
        )

    def expire(self, allocation_id: str) -> None:
        """Free an allocation whose lease ran out; one that is gone meanwhile is none of our business."""
        with self._watch.watching_for_loss():
            try:
                expired = self._allocations.expire(allocation_id)
            except AllocationNotFoundError:
                return
        self._publish(
            EventName.ALLOCATION_EXPIRED,
            allocation_id,
            AllocationExpiredData(
                allocation_id, expired.device_id, expired.owner, expired.freed_bytes, expired.returned_bytes
            ),
        )
        self._watch.observe((expired.device_id,))

    def open_transfer(
        self, source_id: str, destination_device_id: str, memory_type: MemoryType
    ) -> TransferResult:
        """Enter a transfer, to be performed."""
        return self._transfers.open(source_id, self.device_id(destination_device_id), memory_type)

    def perform_transfer(
        self,
        transfer_id: str,
        destination_id: str,
        kind: TransferType,
        memory_type: MemoryType,
        token: CancelToken,
        report: Report,
        *,
        verify: bool,
    ) -> TransferResult:
        """Carry a transfer out."""
        devices = self._transfers.get(transfer_id)
        ends = (devices.source_device_id, devices.destination_device_id)
        self._watch.wait_until_known(ends, token)
        with self._watch.watching_for_loss():
            self._watch.refresh(ends, max_age_ms=0)
            result = self._transfers.perform(
                transfer_id, destination_id, kind, memory_type, token, report, verify=verify
            )
        self._watch.observe(ends)
        return result

    def abandon_transfer(self, transfer_id: str, error: WorkerError) -> None:
        """Note that a transfer was given up before it began."""
        self._transfers.abandon(transfer_id, error)

    def transfer(self, transfer_id: str) -> TransferResult:
        """Return a transfer as it stands."""
        return self._transfers.get(transfer_id)

    def clear(
        self,
        device_ids: tuple[str, ...],
        kind: ClearType,
        owner: str | None,
        token: CancelToken,
        *,
        force: bool,
    ) -> ClearResult:
        """Give up caches, allocations or models."""
        present = self._watch.available(device_ids, token)
        with self._watch.watching_for_loss():
            self._watch.refresh(present, max_age_ms=0)
            result = self._reclaim.clear(present, kind, owner, token, force=force)
            if self._models is not None and kind in {ClearType.MODELS, ClearType.ALL}:
                result = self._models.clear(present, result, token, forced=force)
        self._watch.observe(present)
        return result

    def defragment(
        self, device_ids: tuple[str, ...], token: CancelToken, *, aggressive: bool = False
    ) -> DefragmentResult:
        """Join free memory; ``aggressive`` by replacing processes, where devices have some of their own."""
        present = self._watch.available(device_ids, token)
        with self._watch.watching_for_loss():
            if aggressive and any(map(self._restarts.can_restart, present)):
                result = self._restarts.defragment(
                    present, lambda stay: self._reclaim.defragment(stay, token), token, self._check_unused
                )
            else:
                result = self._reclaim.defragment(present, token)
        self._watch.observe(present)
        return result

    def optimize(
        self, device_ids: tuple[str, ...], level: OptimizationLevel, token: CancelToken, *, dry_run: bool
    ) -> OptimizeResult:
        """Carry out the recommended actions that the level allows, cheapest per byte first."""
        token.check()
        before = self.level_now(device_ids)
        steps = []
        for row in self.recommendations(device_ids):
            restarts = row.data.get("aggressive") is True
            if row.action not in _ALLOWED[level] or (restarts and level is not OptimizationLevel.AGGRESSIVE):
                continue
            returned = None
            if not dry_run:
                returned = self.carry_out(row, token)
            steps.append(OptimizeStep(row.action, row.data, row.expected_freed_bytes, returned, row.reason))
        return OptimizeResult(
            returned_bytes=0 if dry_run else total([step.returned_bytes for step in steps]),
            steps=tuple(steps),
            pressure_before=before,
            pressure_after=before if dry_run else self.level_now(device_ids),
        )

    def level_now(self, device_ids: tuple[str, ...]) -> PressureLevel:
        """Return what budgets alone say now, nothing held."""
        self._watch.refresh(device_ids, max_age_ms=READINGS_MAX_AGE_MS)
        return worst([self._manager.level_now(device_id) for device_id in device_ids])

    def carry_out(
        self, row: Recommendation, token: CancelToken, why_unloaded: str = "unloaded: it was idle"
    ) -> int | None:
        """Do what is recommended. Returns what went back to the system."""
        match row.action:
            case "memory.clear":
                target = (row.data["device_id"],)
                return self.clear(target, ClearType.CACHE, None, token, force=False).returned_bytes
            case "memory.unload_model":
                try:
                    return self.models.worker.unload(
                        row.data["model_id"], token, reason=why_unloaded
                    ).returned_bytes
                except ModelBusyError:
                    return 0  # it came into use since
            case "memory.model_optimize":
                demand = ModelDemand(min_bytes=row.data["min_memory_to_free_bytes"])
                return self.models.optimize((row.data["device_id"],), demand, token).memory_returned_bytes
            case _:
                aggressive = row.data.get("aggressive") is True
                try:
                    return self.defragment(
                        (row.data["device_id"],), token, aggressive=aggressive
                    ).returned_bytes
                except (ModelBusyError, OutOfMemoryError):
                    return (
                        0  # a restart is refused while a model is used there, or what is there has no place
                    )

    def set_limits(self, device_id: str, limits: Limits) -> SetLimitsResult:
        """Replace a device's limits; says what lies over the new cap, and frees none of it."""
        previous = self._manager.limits(device_id)
        self._manager.set_limits(device_id, limits)
        allocated, _, _ = self._manager.usage(device_id, GroupBy.OWNER)
        taken = allocated + self._manager.model_bytes(device_id)
        over = 0 if limits.limit_bytes is None else max(0, taken - limits.limit_bytes)
        affected = 0
        if over:
            affected = sum(not row.external for row in self._manager.allocations(device_id))
        self._watch.observe((device_id,))
        return SetLimitsResult(previous, limits, affected, over)

    # ---- questions ----

    def status(
        self,
        device_ids: tuple[str, ...],
        *,
        allocations: bool = False,
        usage: bool = False,
        fragmentation: bool = False,
        refresh: bool = False,
    ) -> GetStatusResult:
        """Return where the memory is."""
        key = (device_ids, allocations, usage, fragmentation)
        last = self._last_status.get(key)
        now = self._clock.now_ns()
        if last is None or refresh or not last.holds(self._manager.version, now):
            read = tuple(dict.fromkeys((*device_ids, CPU)))
            self._watch.refresh(read, max_age_ms=READINGS_MAX_AGE_MS, forced=refresh)
            version = self._manager.version
            rows = tuple(
                self._analytics.status(
                    device_id, allocations=allocations, usage=usage, fragmentation=fragmentation
                )
                for device_id in device_ids
            )
            level = worst([row.pressure_level for row in rows])
            last = _Status(version, self._manager.read_ns(read), rows, self._host(), level)
            if not allocations:  # rows of allocations have ages
                self._last_status[key] = last
        age_ms = max(0, now - last.read_ns) // NS_PER_MS
        return GetStatusResult(last.devices, last.host, last.pressure_level, age_ms)

    def usage(self, device_ids: tuple[str, ...], group_by: GroupBy) -> tuple[DeviceUsage, ...]:
        """Return allocated bytes in groups."""
        return tuple(self._analytics.usage(device_id, group_by) for device_id in device_ids)

    def allocations(
        self,
        device_ids: tuple[str, ...],
        owner: str | None,
        purpose: str | None,
        limit: int,
        after: str | None,
    ) -> GetAllocationsResult:
        """List allocations, oldest first, from the one after ``after``."""
        start = 0 if after is None else _page_start(after)
        wanted = sorted(
            (
                allocation
                for allocation in self._manager.allocations()
                if allocation.device_id in device_ids
                and (owner is None or allocation.request.owner == owner)
                and (purpose is None or allocation.request.purpose == purpose)
                and age_order(allocation) > start
            ),
            key=age_order,
        )
        page = wanted[:limit]
        following = str(age_order(page[-1])) if len(wanted) > limit else None
        return GetAllocationsResult(tuple(map(self._manager.row, page)), following)

    def allocation(self, allocation_id: str) -> GetAllocationsResult:
        """List one allocation. AllocationNotFoundError if it is not live."""
        return GetAllocationsResult((self._manager.row(self._manager.allocation(allocation_id)),), None)

    def pressure(self, device_ids: tuple[str, ...]) -> GetPressureResult:
        """Return how close devices are to running out."""
        self._watch.refresh(device_ids, max_age_ms=READINGS_MAX_AGE_MS)
        rows = tuple(
            replace(
                self._analytics.pressure(device_id), recommended_actions=self.recommendations((device_id,))
            )
            for device_id in device_ids
        )
        return GetPressureResult(rows, worst([row.pressure_level for row in rows]))

    def recommendations(
        self, device_ids: tuple[str, ...], idle_ns: int = IDLE_NS
    ) -> tuple[Recommendation, ...]:
        """Return the actions worth taking; models by name, where nobody used them for ``idle_ns``."""
        self._watch.refresh(device_ids, max_age_ms=READINGS_MAX_AGE_MS)
        models = () if self._models is None else self._models.recommendations(device_ids, idle_ns)
        return cheapest_first((*self._analytics.recommendations(device_ids), *models))

    def analytics(
        self, device_ids: tuple[str, ...], range_ms: int, include: frozenset[AnalyticsSection]
    ) -> GetAnalyticsResult:
        """Return what has happened lately."""
        return self._analytics.analytics(device_ids, range_ms, include)

    def available_bytes(self, device_id: str) -> int | None:
        """Return what one allocation can get now. DeviceUnavailableError if the device is not there."""
        self._watch.available((device_id,))
        self._watch.refresh((device_id,), max_age_ms=READINGS_MAX_AGE_MS)
        return self._manager.headroom(device_id).available_bytes

    def notes(self, device_id: str) -> tuple[str, ...]:
        """Say, for people, what can and can't be measured on a device, and why."""
        return self._backends[device_id].notes()

    def flows(self, device_id: str) -> tuple[OwnerFlow, ...]:
        """Return what each owner has and ever had on a device."""
        return self._manager.flows(device_id)

    @property
    def has_models(self) -> bool:
        """Whether anything asked for models yet: a question about them alone does not build their side."""
        return self._models is not None

    def metrics(self) -> GetMetricsResult:
        """Return all figures as OpenMetrics text."""
        from worker.openmetrics import CONTENT_TYPE, Figures, openmetrics  # noqa: PLC0415 - only where collected

        devices = self.device_ids(None)
        models = () if self._models is None else self._models.rows()
        figures = Figures(self.status(devices), models, self._analytics.totals(devices))
        return GetMetricsResult(CONTENT_TYPE, openmetrics(figures))

    def limits(self, device_id: str) -> Limits:
        """Return a device's limits."""
        return self._manager.limits(device_id)

    # ---- on its own ----

    def look(self, max_age_ms: int = READINGS_MAX_AGE_MS) -> None:
        """Take readings of every device, and tell of what is new."""
        devices = self.device_ids(None)
        self._watch.refresh(devices, max_age_ms=max_age_ms)
        self._watch.observe(devices)

    def tick(self) -> None:
        """Let backends give up what they kept for nothing. About once a second where something is kept."""
        for backend in dict.fromkeys(self._backends.values()):
            backend.tick()

    def close(self) -> None:
        """Free everything, whatever goes wrong on the way: the last error is raised at the end."""
        with ExitStack() as stack:
            for backend in dict.fromkeys(self._backends.values()):
                stack.callback(backend.close)
            if self._models is not None:
                stack.callback(self._models.worker.close)
            for allocation in self._manager.allocations():
                with suppress(AllocationNotFoundError):  # it went by itself meanwhile
                    self._allocations.free(allocation.allocation_id)

    # ---- inside ----

    def _is_gone(self, device_id: str) -> bool:
        return self._manager.device(device_id).state is not DeviceState.AVAILABLE

    def _check_unused(self, device_ids: tuple[str, ...]) -> None:
        if self._models is not None:
            self._models.worker.models.check_unused(device_ids)

    def _evictable_bytes(self, device_id: str) -> int:
        return 0 if self._models is None else self._models.worker.models.evictable_bytes(device_id)

    def _after_change(self, device_id: str, size_bytes: int) -> None:
        """Enter a change; a large one with readings of its own, for it took time and others go on."""
        if size_bytes >= _EXACT_FROM_BYTES:
            self._watch.refresh((device_id,), max_age_ms=0)
        self._watch.observe((device_id,))

    def _host(self) -> HostStatus:
        """Return the machine's own memory, which is what the CPU's readings are of."""
        machine = self._manager.readings(CPU)
        if machine is None or machine.total_bytes is None or machine.used_bytes is None:
            return HostStatus(None, None, None)
        available = machine.total_bytes - machine.used_bytes
        return HostStatus(machine.total_bytes, available, machine.process_used_bytes)


def _page_start(after: str) -> int:
    if not after.isdecimal():
        raise InvalidRequestError.at("data.after", f"{after!r} is not the next of an earlier page")
    return int(after)
