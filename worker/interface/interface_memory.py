"""One answer for several devices: what to try when one is full, what to say when it is lost.

Counts no bytes itself: the manager does, by readings that are taken here when they are needed.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from protocol.record import Record
from protocol.results import (
    AllocateResult,
    ClearResult,
    DeallocateResult,
    DefragmentResult,
    Limits,
    SetLimitsResult,
    TransferResult,
    UnloadedModel,
)
from protocol.vocabulary import (
    ClearType,
    DeviceState,
    GroupBy,
    MemoryType,
    OptimizationLevel,
    TransferType,
)
from worker.backends.base import DeviceBackend
from worker.core.actions import (
    ClearCache,
    Defragment,
    EvictBytes,
    OptimizeOutcome,
    RecommendedAction,
    Step,
    UnloadModel,
)
from worker.core.cancellation import CancelToken
from worker.core.clock import Clock
from worker.core.errors import (
    AllocationNotFoundError,
    LimitExceededError,
    ModelBusyError,
    NoFileRoomError,
    OutOfMemoryError,
    WorkerError,
)
from worker.core.events import AllocationExpired, Publish
from worker.core.records import Allocation, AllocationRequest, ModelDemand, Report
from worker.interface.questions import DeviceAnswers
from worker.manager.manager_memory import MemoryManager
from worker.policy.recommendations import is_allowed
from worker.watch.device_monitor import READINGS_MAX_AGE_MS, DeviceWatch
from worker.workers.allocation import AllocationWorker
from worker.workers.analytics import AnalyticsWorker
from worker.workers.reclaim import ReclaimWorker, total
from worker.workers.restart import RestartWorker
from worker.workers.transfer import TransferWorker

if TYPE_CHECKING:
    from worker.interface.models import ModelInterface

_EXACT_FROM_BYTES = 2**20
"""Allocations from this size are admitted by readings taken now; smaller ones cannot move the headroom much."""


class Workers(Record):
    """What carries single transactions out."""

    allocations: AllocationWorker
    transfers: TransferWorker
    reclaim: ReclaimWorker
    analytics: AnalyticsWorker
    restarts: RestartWorker


class MemoryInterface(DeviceAnswers):
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
        super().__init__(manager, backends, workers.analytics, clock, default_device, watch, build_models)
        self._allocations = workers.allocations
        self._transfers = workers.transfers
        self._reclaim = workers.reclaim
        self._restarts = workers.restarts
        self._publish = publish

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
                elsewhere = request.memory_type is MemoryType.EXTERNAL or isinstance(error, NoFileRoomError)
                if elsewhere or self._is_gone(device_id):
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
        self._publish(AllocationExpired(expired))
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
    ) -> OptimizeOutcome:
        """Carry out the recommended actions that the level allows, cheapest per byte first."""
        token.check()
        before = self.level_now(device_ids)
        steps = tuple(
            Step(row, None if dry_run else self.carry_out(row.action, token))
            for row in self.recommendations(device_ids)
            if is_allowed(row.action, level)
        )
        return OptimizeOutcome(
            steps,
            returned_bytes=0 if dry_run else total([step.returned_bytes for step in steps]),
            pressure_before=before,
            pressure_after=before if dry_run else self.level_now(device_ids),
        )

    def carry_out(
        self, action: RecommendedAction, token: CancelToken, why_unloaded: str = "unloaded: it was idle"
    ) -> int | None:
        """Do what is recommended. Returns what went back to the system: 0 where it is refused by now."""
        match action:
            case ClearCache(device_id=device_id):
                return self.clear((device_id,), ClearType.CACHE, None, token, force=False).returned_bytes
            case UnloadModel(model_id=model_id):
                with suppress(ModelBusyError):  # it came into use since
                    return self.models.worker.unload(model_id, token, reason=why_unloaded).returned_bytes
            case EvictBytes(device_id=device_id):
                demand = ModelDemand(min_bytes=action.min_bytes)
                return self.models.optimize((device_id,), demand, token).memory_returned_bytes
            case Defragment(device_id=device_id):
                # A restart is refused while a model is used there, or what is there has no place.
                with suppress(ModelBusyError, OutOfMemoryError):
                    return self.defragment((device_id,), token, aggressive=action.restart).returned_bytes
        return 0

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

    # ---- on its own ----

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

    def _check_unused(self, device_ids: tuple[str, ...], token: CancelToken) -> None:
        if self._models is not None:
            self._models.worker.models.check_unused(device_ids, token)

    def _evictable_bytes(self, device_id: str) -> int:
        return 0 if self._models is None else self._models.worker.models.evictable_bytes(device_id)

    def _after_change(self, device_id: str, size_bytes: int) -> None:
        """Enter a change; a large one with readings of its own, for it took time and others go on."""
        if size_bytes >= _EXACT_FROM_BYTES:
            self._watch.refresh((device_id,), max_age_ms=0)
        self._watch.observe((device_id,))
