"""Carrying out what was fenced: offloading or unloading it, and telling of it."""

from contextlib import suppress

from protocol.results import Eviction, UnloadedModel
from worker.core.errors import WorkerError
from worker.core.events import ModelUnloaded, Publish
from worker.manager.model_rooms import Fenced, Room
from worker.manager.models import HOST, ModelManager
from worker.metrics.history import History
from worker.watch.device_monitor import DeviceWatch
from worker.workers.weights import ModelBlocks


class ModelUnloader:
    """Unloads models that nobody can reach any more."""

    def __init__(
        self,
        models: ModelManager,
        blocks: ModelBlocks,
        watch: DeviceWatch,
        history: History,
        publish: Publish,
    ) -> None:
        self._models = models
        self._blocks = blocks
        self._watch = watch
        self._history = history
        self._publish = publish

    def unload_all(self, room: Room, unloaded: list[UnloadedModel]) -> None:
        """Unload every fenced model, whatever fails: a fence that stayed would keep others waiting for ever."""
        failures: list[Exception] = []
        for each in room.fenced:
            try:
                unloaded.append(self._unload(each))
            except Exception as failure:  # noqa: BLE001 - raised when all are gone
                failures.append(failure)
        if failures:
            raise failures[0]

    def unload_and_look(self, fenced: Fenced) -> UnloadedModel:
        """Unload one fenced model, and tell of the level that the device comes to by it."""
        unloaded = self._unload(fenced)
        self.look((fenced.residence.device_id, *((HOST,) if fenced.host_room is not None else ())))
        return unloaded

    def _unload(self, fenced: Fenced) -> UnloadedModel:
        residence, entry, copy, returned = fenced.residence, fenced.entry, None, None
        reason, room = fenced.reason, fenced.host_room
        if room is not None:
            try:
                copy = self._blocks.offload(residence, room.request, room.allocation_id)
            except WorkerError as error:
                reason = f"{reason}; unloaded instead, for offloading failed: {error.message}"
        try:
            returned = self._blocks.unload(residence)
        finally:
            self._models.gone(fenced, copy)
        row = UnloadedModel(entry.model_id, residence.size_bytes, returned, fenced.reload_ms, reason)
        device_id, freed = residence.device_id, residence.size_bytes
        eviction = Eviction(entry.model_id, device_id, 0, freed, returned, reason)
        self._history.record_eviction(eviction)
        self._publish(ModelUnloaded(eviction))
        return row

    def look(self, device_ids: tuple[str, ...]) -> None:
        """Read devices after a change; one that can't be read is told of elsewhere."""
        with suppress(WorkerError):
            self._watch.refresh(device_ids, max_age_ms=0)
            self._watch.observe(device_ids)
