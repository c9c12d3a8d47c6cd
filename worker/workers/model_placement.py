"""Choosing the device that a model is loaded on, and telling what it needs there."""

from protocol.vocabulary import DeviceState, ModelState
from worker.core.cancellation import CancelToken
from worker.core.errors import ModelNotFoundError, UnsupportedError
from worker.core.records import HOST
from worker.manager.footprints import FootprintMargins
from worker.manager.model_entry import ModelEntry
from worker.watch.device_monitor import DeviceMonitor
from worker.wiring import Core
from worker.workers.weights import ModelWeights, Source


class ModelPlacement:
    """Where models go. Learns what loaders take beyond what a source says."""

    def __init__(
        self, core: Core, weights: ModelWeights, monitor: DeviceMonitor, default_device: str | None
    ) -> None:
        self._manager = core.manager
        self._table = core.manager.models
        self._weights = weights
        self._monitor = monitor
        self._asked_default = default_device
        # All mutable state.
        self.margins = FootprintMargins()

    @property
    def default_device(self) -> str:
        """The device of models that name none."""
        return self._manager.devices.default(self._asked_default)

    def choose_device(self, entry: ModelEntry, source: Source, asked: str | None, token: CancelToken) -> str:
        """Choose where a model goes: as asked, as declared, else the default or the first other with headroom.

        A device that is being probed is waited for, where it would be the one. UnsupportedError for one where the
        model cannot be.
        """
        if source.loader is not None and asked not in {None, HOST}:
            raise made_here(entry, asked)
        fixed = HOST if source.loader is not None else asked or entry.spec.device_id
        if source.engine is not None:
            there = source.engine_device if source.engine_device in self._manager.devices.ids() else HOST
            fixed = entry.spec.device_id or there
            if asked not in {None, fixed}:
                raise run_there(entry, asked, fixed)
        if fixed is not None:
            self._monitor.wait_until_known((fixed,), token)
            return self._manager.devices.info(fixed).device_id
        self._monitor.wait_until_known((self.default_device,), token)
        default = self.default_device
        choice = (default, *(each for each in self._manager.devices.ids() if each != default))
        self._monitor.refresh(choice, max_age_ms=0)
        fitting = (each for each in choice if self._fits(each, source.size_bytes + entry.working_bytes))
        return next(fitting, default)

    def requirement(self, model_id: str, device_id: str | None, token: CancelToken) -> tuple[str, int]:
        """Return where a model would be loaded, and the bytes that it needs there: none where it is loaded.

        Reads its file's header. Errors as ``ModelWorker.hold``, but those for want of headroom.
        """
        entry = self._table.get(model_id)
        check_ours(entry, device_id)
        place = entry.residence
        if place is not None and entry.state is ModelState.LOADED and device_id in {None, place.device_id}:
            return place.device_id, 0
        source = self._weights.open(entry)
        try:
            target = self.choose_device(entry, source, device_id, token)
            return target, self.needed_bytes(entry, source, target)
        finally:
            source.close()

    def try_out(self, entry: ModelEntry, token: CancelToken) -> tuple[str, ...]:
        """Check a model as a load would, short of loading it. Returns what an engine's library takes no notice of.

        An engine's library is imported in a process that ends with it. Errors as ``ModelWorker.hold``.
        """
        source = self._weights.open(entry)
        try:
            self._weights.check_placement(entry, source, self.choose_device(entry, source, None, token))
            return () if source.engine is None else self._weights.engines.consult(entry, source.engine)
        finally:
            source.close()

    def needed_bytes(self, entry: ModelEntry, source: Source, device_id: str) -> int:
        """Return the bytes of headroom that a load takes; where nothing was measured yet, as others of its kind did."""
        size = source.size_bytes
        if source.learns and entry.measured_bytes is None:
            size = self.margins.expected_bytes(entry.loader, device_id, size)
        return size if source.loader is not None else size + entry.working_bytes

    def note_taken(self, entry: ModelEntry, source: Source, device_id: str, actual_bytes: int) -> None:
        """Learn what a model took that code or an engine made: the next of its kind is expected to."""
        if source.learns and entry.measured_bytes is None:
            self.margins.note(entry.loader, device_id, source.size_bytes, actual_bytes)

    def _fits(self, device_id: str, size_bytes: int) -> bool:
        there = self._manager.devices.info(device_id).state is DeviceState.AVAILABLE
        return there and not self._manager.pressure.missing_bytes(device_id, size_bytes)


def check_ours(entry: ModelEntry, device_id: str | None) -> None:
    """Refuse a model that the worker does not load: ModelNotFoundError, UnsupportedError."""
    if entry.leaving:
        message = f"model {entry.model_id!r} is not declared any more: it goes after its last lease"
        raise ModelNotFoundError(message, model_id=entry.model_id, known_models=[])
    if entry.spec.external:
        message = f"model {entry.model_id!r} is held by another process: there is nothing of it here to use"
        raise UnsupportedError(message, model_id=entry.model_id, device_id=device_id)


def run_there(entry: ModelEntry, asked: str | None, fixed: str) -> UnsupportedError:
    """Return the error of a model whose engine is told by its params where to run it."""
    message = f"model {entry.model_id!r} runs on {fixed}: its device and its engine's params say where, not a request"
    return UnsupportedError(message, model_id=entry.model_id, device_id=asked)


def made_here(entry: ModelEntry, device_id: str | None) -> UnsupportedError:
    """Return the error of a model that can be in host memory alone."""
    message = f"model {entry.model_id!r} is made by the operator's code, in host memory"
    return UnsupportedError(message, model_id=entry.model_id, device_id=device_id)
