"""Models as consumers: those that other processes hold, the worker's own, and what engines keep beside theirs."""

from collections.abc import Iterator

from protocol.vocabulary import ModelState, UnloadMode
from worker.core.cancellation import CancelToken
from worker.core.consumers import ENGINE, ENGINE_PREFIX, EXTERNAL, MODEL_PREFIX, Holding, Offer
from worker.core.errors import ModelBusyError
from worker.manager.model_entry import ModelEntry, Residence
from worker.manager.models import ModelManager
from worker.wiring import Core
from worker.workers.model_owners import UNHEARD, ExternalWorker, external_id
from worker.workers.model_unload import ModelUnloader


class ExternalConsumer:
    """A model that another process holds: its owner is asked, and only its word counts."""

    kind = EXTERNAL

    def __init__(
        self, entry: ModelEntry, place: Residence, models: ModelManager, owners: ExternalWorker
    ) -> None:
        self.consumer_id = external_id(entry.model_id)
        self._entry = entry
        self._models = models
        self._owners = owners
        self.device_id, self._size_bytes = place.device_id, place.size_bytes

    def holding(self) -> Holding:
        """Return what its owner declared; all of it is floor where it is pinned."""
        return Holding(self._size_bytes, self._size_bytes if self._entry.pinned else 0)

    def offers(self, _need_bytes: int) -> tuple[Offer, ...]:
        """Offer the whole model."""
        cost = self._models.plans.cost_ms(self._entry)
        return (Offer(self._size_bytes, cost, "a model that its owner holds"),)

    @property
    def unheard(self) -> str | None:
        """Say so where no owner listens."""
        return None if self._owners.listened_to else UNHEARD

    def ask(self, _size_bytes: int, reason: str, wait_ms: int) -> None:
        """Ask its owner to unload it."""
        self._owners.request(self._entry.model_id, reason, wait_ms)

    def release(self, _offer: Offer, _token: CancelToken) -> int:
        """Do nothing: its owner is asked."""
        raise TypeError(self.consumer_id)


class ModelConsumer:
    """A model of the worker's own. For a plan it goes as its strategy says, with the headroom for which it goes held meanwhile."""

    kind = "model"

    def __init__(
        self, entry: ModelEntry, place: Residence, models: ModelManager, unloader: ModelUnloader
    ) -> None:
        self.consumer_id = f"{MODEL_PREFIX}{entry.model_id}"
        self._entry = entry
        self._models = models
        self._unloader = unloader
        self.device_id, self._size_bytes = place.device_id, place.size_bytes

    def holding(self) -> Holding:
        """Return what its weights take; all of it is floor where it is pinned."""
        size = self._size_bytes
        return Holding(size, size if self._entry.pinned else 0, size if self._entry.in_use else 0)

    def offers(self, _need_bytes: int) -> tuple[Offer, ...]:
        """Offer the whole model."""
        return (Offer(self._size_bytes, self._models.plans.cost_ms(self._entry), ""),)

    def release(self, offer: Offer, token: CancelToken) -> int:
        """Unload it, unless it is not loaded any more. ModelBusyError where it came into use."""
        row = self._unloader.evict(self._entry.model_id, f"unloaded: {offer.reason}", token)
        return 0 if row is None else row.freed_bytes


class ArenaConsumer:
    """What an engine keeps beside a model for its work, caches with it: it goes, and the model stays.

    Its price is the time that giving it back and growing it again took the last time, by how often the model is expected to be
    used; what was never given back yet has no price yet, and costs nothing.
    """

    kind = ENGINE

    def __init__(self, entry: ModelEntry, place: Residence, unloader: ModelUnloader) -> None:
        self.consumer_id, self.device_id = f"{ENGINE_PREFIX}{entry.model_id}", place.device_id
        self._entry = entry
        self._unloader = unloader

    def holding(self) -> Holding:
        """Return what the engine's process grew by since the model was loaded; all of it is in use with the model."""
        held = _working_bytes(self._entry)
        return Holding(held, max(0, held - self._entry.shrinkable_bytes), held if self._entry.in_use else 0)

    def offers(self, _need_bytes: int) -> tuple[Offer, ...]:
        """Offer what is more than stayed the last time that it was given back."""
        footprint, now_ns = self._entry.footprint, self._unloader.now_ns()
        took_ms = 0 if footprint is None else (footprint.shrink_ms or 0) + (footprint.regrow_ms or 0)
        cost = took_ms * self._entry.expected_uses(now_ns)
        return (Offer(self._entry.shrinkable_bytes, cost, "its engine gives it back, and the model stays"),)

    def release(self, offer: Offer, token: CancelToken) -> int:
        """Give it back, unless the model came into use. Returns what the engine's process shrank by."""
        before = _working_bytes(self._entry)
        try:
            row = self._unloader.evict(
                self._entry.model_id, f"shrunk: {offer.reason}", token, mode=UnloadMode.SHRINK
            )
        except ModelBusyError:
            return 0
        return 0 if row is None else max(0, before - _working_bytes(self._entry))


def _working_bytes(entry: ModelEntry) -> int:
    footprint = entry.footprint
    return 0 if footprint is None else footprint.working_bytes


def externals(
    core: Core, models: ModelManager, owners: ExternalWorker, device_id: str | None
) -> Iterator[ExternalConsumer]:
    """Return the models that hosts declared on a device, or on all, the least recently used first."""
    # What a model server has that this worker follows is that server's to offer.
    loaded = _loaded(core, device_id)
    found = [(entry, place) for entry, place in loaded if entry.spec.external and entry.spec.server is None]
    for entry, place in sorted(found, key=lambda each: (each[0].last_used_ns or 0, each[0].model_id)):
        yield ExternalConsumer(entry, place, models, owners)


def own_models(
    core: Core, models: ModelManager, unloader: ModelUnloader, device_id: str | None
) -> Iterator[ModelConsumer]:
    """Return the worker's own models that are loaded on a device, or on any."""
    for entry, place in _loaded(core, device_id):
        if not entry.spec.external:
            yield ModelConsumer(entry, place, models, unloader)


def arenas(core: Core, unloader: ModelUnloader, device_id: str | None) -> Iterator[ArenaConsumer]:
    """Return what engines keep beside the models that are loaded on a device, or on any."""
    for entry, place in _loaded(core, device_id):
        if place.engine:
            yield ArenaConsumer(entry, place, unloader)


def _loaded(core: Core, device_id: str | None) -> list[tuple[ModelEntry, Residence]]:
    """Return the models that are loaded, each with its place as it is now: it may go while it is asked."""
    return [
        (entry, place)
        for entry in tuple(core.manager.models)
        if entry.state is ModelState.LOADED
        and (place := entry.residence) is not None
        and device_id in {None, place.device_id}
    ]
