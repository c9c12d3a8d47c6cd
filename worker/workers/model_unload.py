"""Unloading models: as asked, by plan, idle or at the end; and carrying pending evictions out, which is told of."""

from contextlib import suppress
from functools import partial

from protocol.results import Eviction, UnloadedModel
from protocol.vocabulary import UnloadMode
from worker.core.actions import with_returned
from worker.core.cancellation import CancelToken
from worker.core.errors import EngineLostError, InvalidRequestError, ModelNotFoundError, WorkerError
from worker.core.events import ModelUnloaded
from worker.core.log import log
from worker.core.records import HOST, EvictionCause, Receipt
from worker.manager.model_table import EvictingReservation, PendingEviction
from worker.manager.models import ModelManager
from worker.watch.device_monitor import DeviceMonitor
from worker.wiring import Core
from worker.workers.model_owners import ExternalWorker
from worker.workers.model_waits import once_settled
from worker.workers.weights import ModelWeights

_AS_ASKED = {
    UnloadMode.OFFLOAD: "offloaded to host memory: as asked",
    UnloadMode.SHRINK: "shrunk, and still loaded: as asked",
}


class ModelUnloader:
    """Unloads models, each once it is out of reach: its eviction is pending."""

    def __init__(
        self,
        core: Core,
        models: ModelManager,
        weights: ModelWeights,
        external: ExternalWorker,
        monitor: DeviceMonitor,
    ) -> None:
        self._table = core.manager.models
        self._lock = core.manager.lock
        self._models = models
        self._evictions = models.evictions
        self._weights = weights
        self._external = external
        self._monitor = monitor
        self._history = core.history
        self.now_ns = core.clock.now_ns
        self._publish = core.events.publish

    def unload(
        self, model_id: str, token: CancelToken, mode: UnloadMode = UnloadMode.UNLOAD, *,
        reason: str = "unloaded: as asked", forced: bool = False, by_owner: bool = False,
    ) -> UnloadedModel:  # fmt: skip
        """Unload a model, or ask its owner to; ``by_owner`` is the owner's word that it has.

        Raises:
            ModelNotFoundError: not configured.
            ModelBusyError: in use, pinned, or not unloaded by its owner.
            InvalidRequestError: the owner's word on a model that the worker holds itself.
        """
        entry = self._table.get(model_id)
        model_id = entry.model_id  # it may have been an alias, or a role
        if by_owner:
            if entry.spec.external:
                return self._external.unloaded(model_id)
            raise InvalidRequestError.at("data.by_owner", f"model {model_id!r} is held by the worker itself")
        if entry.spec.external:
            return self._external.unload(entry, reason, token, mode, forced=forced)
        if mode is UnloadMode.OFFLOAD:
            self._monitor.refresh((HOST,), max_age_ms=0)
        if mode is not UnloadMode.UNLOAD:
            reason = _AS_ASKED[mode]
        row = self.evict(model_id, reason, token, forced=forced, mode=mode)
        if row is not None:
            return row
        copy = self._evictions.drop_host_copy(entry) if mode is UnloadMode.UNLOAD else None
        if copy is not None:
            receipt = self._weights.unload(copy)
            self.observe((copy.device_id,))
            return _row(
                model_id, copy.size_bytes, receipt, entry.load_ms, "unloaded from host memory: as asked", mode
            )
        nothing = Receipt(0, 0)
        return _row(model_id, 0, nothing, entry.load_ms, f"nothing to {mode}: it is {entry.state}", mode)

    def evict(
        self, model_id: str, reason: str, token: CancelToken, *, forced: bool = False,
        mode: UnloadMode = UnloadMode.UNLOAD,
    ) -> UnloadedModel | None:  # fmt: skip
        """Unload a model by plan; None if it is not loaded any more, or not declared. ModelBusyError if it came into use."""
        begin = partial(self._evictions.begin_once_settled, model_id, reason, forced=forced, mode=mode)
        try:
            eviction = once_settled(self._table, begin, token)
        except ModelNotFoundError:
            return None
        return None if eviction is None else self._unload_and_observe(eviction)

    def expire(self, model_id: str) -> None:
        """Unload a model that has been idle past its keep-alive, or ask its owner; one used again stays."""
        with self._lock:
            kept_ms, eviction = self._evictions.expired_after_ms(model_id), None
            entry = self._table.get(model_id)
            why = (
                "it is declared otherwise by now"
                if entry.outdated
                else f"idle past its keep-alive of {kept_ms} ms"
            )
            external = entry.spec.external
            if kept_ms is not None and not external:
                eviction = self._evictions.begin(
                    model_id, f"unloaded: {why}", forced=entry.outdated, cause=EvictionCause.IDLE
                )
        if kept_ms is not None and external:
            self._external.request(model_id, why)
        elif eviction is not None:
            self._unload_and_observe(eviction)

    def unload_everything(self) -> None:
        """Unload everything that is not in use, and tell no one: the worker ends."""
        for entry in self._table:
            if entry.spec.external:
                self._models.unloaded_externally(entry.model_id)
                continue
            with suppress(WorkerError):
                why = "unloaded: the worker ends"
                eviction = self._evictions.begin(entry.model_id, why, forced=True)
                if eviction is not None:
                    self._weights.unload(eviction.residence)
                    self._evictions.evicted(eviction, None)
            copy = self._evictions.drop_host_copy(entry)
            if copy is not None:
                self._weights.unload(copy)

    def unload_all(self, held: EvictingReservation, unloaded: list[UnloadedModel]) -> None:
        """Carry all evictions out, whatever fails: one that stayed pending would keep others waiting for ever."""
        failures: list[Exception] = []
        for each in held.evictions:
            try:
                unloaded.append(self._unload(each))
            except Exception as failure:  # noqa: BLE001 - raised when all are gone
                failures.append(failure)
        if failures:
            raise failures[0]

    def _unload_and_observe(self, eviction: PendingEviction) -> UnloadedModel:
        """Carry one eviction out, and tell of the level that the device comes to by it."""
        unloaded = self._unload(eviction)
        self.observe((eviction.residence.device_id, *((HOST,) if eviction.host_reservation else ())))
        return unloaded

    def _unload(self, eviction: PendingEviction) -> UnloadedModel:
        if eviction.mode is UnloadMode.SHRINK:
            return self._shrink(eviction)
        residence, entry, copy = eviction.residence, eviction.entry, None
        reason, held = eviction.reason, eviction.host_reservation
        try:
            if held is not None:
                copy = self._weights.offload(residence, held.request, held.allocation_id)
        except WorkerError as error:
            reason = f"{reason}; unloaded instead, for offloading failed: {error.message}"
        finally:  # whatever else it raises: one that stayed pending would keep others waiting for ever
            try:
                receipt = self._weights.unload(residence)
            finally:
                self._evictions.evicted(eviction, copy)
        row = _row(entry.model_id, residence.size_bytes, receipt, eviction.reload_ms, reason, eviction.mode)
        self._tell(residence.device_id, row)
        return row

    def _tell(self, device_id: str, row: UnloadedModel) -> None:
        """Record and tell of a model that has left its device."""
        recorded = Eviction(row.model_id, device_id, 0, row.freed_bytes, row.returned_bytes, row.reason)
        self._history.record_eviction(recorded)
        self._publish(ModelUnloaded(recorded))
        told = {"model_id": row.model_id, "device_id": device_id, "freed_bytes": row.freed_bytes}
        log("debug", "unloaded", **told, reason=row.reason)

    def _shrink(self, eviction: PendingEviction) -> UnloadedModel:
        """Have a model's engine give back what it keeps beside it; the model stays, unless its process ends under it."""
        entry, mode = eviction.entry, eviction.mode
        try:
            receipt = self._weights.shrink(entry, eviction.residence)
        except EngineLostError as error:
            self._evictions.evicted(eviction, None)
            entry.state_reason, size = error.message, eviction.residence.size_bytes
            lost, whole = Receipt(size, None), UnloadMode.UNLOAD
            row = _row(entry.model_id, size, lost, entry.load_ms, f"lost: {error.message}", whole)
            self._tell(eviction.residence.device_id, row)
            return row
        except BaseException:
            self._evictions.shrunk(eviction)
            raise
        self._evictions.shrunk(eviction)
        reason = eviction.reason
        if not eviction.residence.engine:
            reason = "nothing to shrink: what is loaded is its weights alone"
        row = _row(entry.model_id, receipt.claimed_bytes or 0, receipt, eviction.reload_ms, reason, mode)
        log("debug", "shrunk", model_id=entry.model_id, returned_bytes=row.returned_bytes, reason=row.reason)
        return row

    def observe(self, device_ids: tuple[str, ...]) -> None:
        """Read devices after a change; one that can't be read is told of elsewhere."""
        with suppress(WorkerError):
            self._monitor.refresh(device_ids, max_age_ms=0)
            self._monitor.observe(device_ids)


def _row(
    model_id: str, freed_bytes: int, receipt: Receipt, reload_ms: int | None, reason: str, mode: UnloadMode
) -> UnloadedModel:
    """Make the receipt that is answered: what should have come back, what has, and what has not."""
    claimed, returned = receipt.claimed_bytes, receipt.returned_bytes
    kept = None if claimed is None or returned is None else max(0, claimed - returned)
    if kept and receipt.process_bytes is not None:
        kept = 0  # a process that has ended keeps nothing: it had given back more before
    return UnloadedModel(
        model_id=model_id,
        freed_bytes=freed_bytes,
        returned_bytes=returned,
        reload_ms=reload_ms,
        reason=with_returned(reason, claimed, returned),
        claimed_bytes=claimed,
        kept_bytes=kept,
        mode=mode,
        steps=receipt.steps,
        process_returned_bytes=receipt.process_bytes,
    )
