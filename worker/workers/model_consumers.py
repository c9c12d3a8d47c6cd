"""Models as consumers: those that other processes hold, and the worker's own."""

from collections.abc import Iterator

from protocol.vocabulary import ModelState
from worker.core.cancellation import CancelToken
from worker.core.consumers import EXTERNAL, Holding, Offer
from worker.manager.model_table import ModelEntry
from worker.manager.models import ModelManager
from worker.wiring import Core
from worker.workers.model_owners import UNHEARD, ExternalWorker, external_id
from worker.workers.model_unload import ModelUnloader


class ExternalConsumer:
    """A model that another process holds: its owner is asked, and only its word counts."""

    kind = EXTERNAL

    def __init__(self, entry: ModelEntry, models: ModelManager, owners: ExternalWorker) -> None:
        self.consumer_id = external_id(entry.model_id)
        self._entry = entry
        self._models = models
        self._owners = owners
        self._place = entry.residence

    @property
    def device_id(self) -> str:
        """Where its owner has it."""
        return "" if self._place is None else self._place.device_id

    def holding(self) -> Holding:
        """Return what its owner declared; all of it is floor where it is pinned."""
        size = 0 if self._place is None else self._place.size_bytes
        return Holding(size, size if self._entry.pinned else 0)

    def offers(self, _need_bytes: int) -> tuple[Offer, ...]:
        """Offer the whole model."""
        if self._place is None:
            return ()
        cost = self._models.plans.cost_ms(self._entry)
        return (Offer(self._place.size_bytes, cost, "a model that its owner holds"),)

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

    def __init__(self, entry: ModelEntry, models: ModelManager, unloader: ModelUnloader) -> None:
        self.consumer_id = f"model:{entry.model_id}"
        self._entry = entry
        self._models = models
        self._unloader = unloader
        self._place = entry.residence

    @property
    def device_id(self) -> str:
        """Where it is."""
        return "" if self._place is None else self._place.device_id

    def holding(self) -> Holding:
        """Return what its weights take; all of it is floor where it is pinned."""
        size = 0 if self._place is None else self._place.size_bytes
        return Holding(size, size if self._entry.pinned else 0, size if self._entry.in_use else 0)

    def offers(self, _need_bytes: int) -> tuple[Offer, ...]:
        """Offer the whole model."""
        size = 0 if self._place is None else self._place.size_bytes
        return (Offer(size, self._models.plans.cost_ms(self._entry), ""),)

    def release(self, offer: Offer, token: CancelToken) -> int:
        """Unload it, unless it is not loaded any more. ModelBusyError where it came into use."""
        row = self._unloader.evict(self._entry.model_id, f"unloaded: {offer.reason}", token)
        return 0 if row is None else row.freed_bytes


def externals(
    core: Core, models: ModelManager, owners: ExternalWorker, device_id: str | None
) -> Iterator[ExternalConsumer]:
    """Return the models that hosts declared on a device, or on all, the least recently used first."""
    # What a model server has that this worker follows is that server's to offer.
    found = [each for each in _loaded(core, device_id) if each.spec.external and each.spec.server is None]
    for entry in sorted(found, key=lambda each: (each.last_used_ns or 0, each.model_id)):
        yield ExternalConsumer(entry, models, owners)


def own_models(
    core: Core, models: ModelManager, unloader: ModelUnloader, device_id: str | None
) -> Iterator[ModelConsumer]:
    """Return the worker's own models that are loaded on a device, or on any."""
    for entry in _loaded(core, device_id):
        if not entry.spec.external:
            yield ModelConsumer(entry, models, unloader)


def _loaded(core: Core, device_id: str | None) -> list[ModelEntry]:
    return [
        entry
        for entry in tuple(core.manager.models)
        if entry.state is ModelState.LOADED
        and entry.residence is not None
        and device_id in {None, entry.residence.device_id}
    ]
