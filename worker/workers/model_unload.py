"""Carrying pending evictions out: offloading or unloading, and telling of it."""

from contextlib import suppress

from protocol.results import Eviction, UnloadedModel
from worker.core.actions import with_returned
from worker.core.errors import WorkerError
from worker.core.events import ModelUnloaded
from worker.core.records import HOST
from worker.manager.model_table import EvictingReservation, PendingEviction
from worker.manager.models import ModelManager
from worker.watch.device_monitor import DeviceMonitor
from worker.wiring import Core
from worker.workers.weights import ModelWeights


class ModelUnloader:
    """Unloads models that are out of reach: their eviction is pending."""

    def __init__(
        self, core: Core, models: ModelManager, weights: ModelWeights, monitor: DeviceMonitor
    ) -> None:
        self._models = models
        self._weights = weights
        self._monitor = monitor
        self._history = core.history
        self._publish = core.events.publish

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

    def unload_and_observe(self, eviction: PendingEviction) -> UnloadedModel:
        """Carry one eviction out, and tell of the level that the device comes to by it."""
        unloaded = self._unload(eviction)
        self.observe((eviction.residence.device_id, *((HOST,) if eviction.host_reservation else ())))
        return unloaded

    def _unload(self, eviction: PendingEviction) -> UnloadedModel:
        residence, entry, copy, returned = eviction.residence, eviction.entry, None, None
        reason, held = eviction.reason, eviction.host_reservation
        if held is not None:
            try:
                copy = self._weights.offload(residence, held.request, held.allocation_id)
            except WorkerError as error:
                reason = f"{reason}; unloaded instead, for offloading failed: {error.message}"
        try:
            returned = self._weights.unload(residence)
        finally:
            self._models.evicted(eviction, copy)
        reason = with_returned(reason, residence.size_bytes, returned)
        row = UnloadedModel(entry.model_id, residence.size_bytes, returned, eviction.reload_ms, reason)
        device_id, freed = residence.device_id, residence.size_bytes
        recorded = Eviction(entry.model_id, device_id, 0, freed, returned, reason)
        self._history.record_eviction(recorded)
        self._publish(ModelUnloaded(recorded))
        return row

    def observe(self, device_ids: tuple[str, ...]) -> None:
        """Read devices after a change; one that can't be read is told of elsewhere."""
        with suppress(WorkerError):
            self._monitor.refresh(device_ids, max_age_ms=0)
            self._monitor.observe(device_ids)
