"""Models in engine processes: what their processes tell becomes the manager's figures, errors and events.

Nothing of engines is imported before the first model of one is loaded.
"""

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from protocol.results import Eviction
from protocol.vocabulary import DeviceState
from worker.backends.base import RemoteWork
from worker.core.cancellation import CancelToken
from worker.core.errors import EngineLostError, OutOfMemoryError, WorkerError
from worker.core.events import ModelUnloaded
from worker.core.log import log
from worker.core.records import Footprint, Receipt, Report
from worker.core.sure_lock import SureLock
from worker.loaders.base import load_failed
from worker.manager.model_entry import ModelEntry, Residence
from worker.manager.model_table import COMES_BACK
from worker.manager.models import ModelManager
from worker.watch.device_monitor import DeviceMonitor
from worker.wiring import Core
from worker.workers.device_processes import DeviceProcesses

if TYPE_CHECKING:
    from worker.backends.engines.base import AnswerPrefixes, EngineLaunch
    from worker.backends.engines.pool import Engines


class EngineModels:
    """The worker's end of all engines. Thread-safe."""

    def __init__(
        self, core: Core, models: ModelManager, monitor: DeviceMonitor, answer: "AnswerPrefixes"
    ) -> None:
        self._models = models
        self._answer = answer
        self._monitor = monitor
        self._held = DeviceProcesses(core.backends).held
        self._history = core.history
        self._publish = core.events.publish
        self._lock = SureLock()
        # All mutable state: the processes, once there is a model for one, and whether the worker ends.
        self._made: Engines | None = None
        self._closed = False

    def load(
        self, entry: ModelEntry, launch: "EngineLaunch", device_id: str, handle: str, token: CancelToken
    ) -> Footprint:
        """Load a model. ModelLoadFailedError, OutOfMemoryError, or what the token raises; then nothing of it is left."""
        from worker.backends.engines.pool import NoMemoryError, NotOpenedError  # noqa: PLC0415 - see above

        try:
            return self._engines.load(entry.model_id, handle, launch, device_id, token)
        except NotOpenedError as error:
            raise load_failed(entry.spec, str(error)) from error
        except NoMemoryError as error:
            message = f"model {entry.model_id!r} can't be loaded: {error}"
            raise OutOfMemoryError(message, device_id=device_id, requested_bytes=entry.known_bytes) from error

    def check(self, entry: ModelEntry, launch: "EngineLaunch") -> None:
        """Raise ModelLoadFailedError for a file that is not opened any more, because it crashes its engine."""
        why = None if self._made is None else self._made.quarantined(entry.model_id, launch)
        if why is not None:
            raise load_failed(entry.spec, why)

    def consult(self, entry: ModelEntry, launch: "EngineLaunch") -> tuple[str, ...]:
        """Have a library look at a model's params, opening nothing. Returns what it takes no notice of. ModelLoadFailedError."""
        from worker.backends.engines.pool import NotOpenedError  # noqa: PLC0415 - see above

        try:
            return self._engines.consult(launch)
        except NotOpenedError as error:
            raise load_failed(entry.spec, str(error)) from error

    def forgive(self) -> tuple[str, ...]:
        """Have files be opened again that crashed their engine. Returns the ids of their models."""
        return () if self._made is None else self._made.forgive()

    def work(
        self, model_id: str, residence: Residence, work: RemoteWork, token: CancelToken, report: Report
    ) -> Any:
        """Do work where a model is, and take over what it takes after it. Raises what the work raises; OutOfMemoryError; EngineLostError."""
        from worker.backends.engines.pool import NoMemoryError, WorkLostError  # noqa: PLC0415 - see above

        lease = partial(self._models.lease_again, model_id, residence.handle)
        try:
            return self._engines.work(residence.handle, work, token, report, lease)
        except WorkLostError as error:
            raise _lost(model_id, residence, str(error)) from error
        except NoMemoryError as error:
            message = f"work on model {model_id!r} failed: {error}"
            raise OutOfMemoryError(message, device_id=residence.device_id, requested_bytes=None) from error
        finally:
            footprint = self._engines.footprint(residence.handle)
            if footprint is not None:
                self._models.measured({residence.handle: footprint})

    def shrink(self, model_id: str, residence: Residence) -> Receipt:
        """Have a model's engine give back what it keeps beside it. EngineLostError."""
        from worker.backends.engines.pool import WorkLostError  # noqa: PLC0415 - see above

        try:
            return self._engines.shrink(residence.handle)
        except WorkLostError as error:
            raise _lost(model_id, residence, str(error)) from error
        finally:
            self._models.measured(self._engines.footprints())

    def unload(self, residence: Residence) -> Receipt:
        """Give a model up, by as many steps as bring its memory back."""
        receipt = self._engines.unload(residence.handle)
        self._models.measured(self._engines.footprints())
        return replace(receipt, claimed_bytes=residence.size_bytes)

    def close(self) -> None:
        """End all engine processes, and start no other."""
        with self._lock:
            self._closed = True
        if self._made is not None:
            self._made.close()

    # ---- inside ----

    @property
    def _engines(self) -> "Engines":
        from worker.backends.engines.pool import Engines  # noqa: PLC0415 - see above

        with self._lock:
            if self._made is None:
                self._made = Engines(self._went, self._held, self._answer)
                if self._closed:
                    self._made.close()
            return self._made

    def _went(self, handles: tuple[str, ...], how: str) -> None:
        """Tell of models that went with their process; they are loaded again when they are used."""
        why = f"its engine's process was lost: {how}; {COMES_BACK}"
        gone = self._models.lost(frozenset(handles), why)
        for entry, place in gone:
            log("warning", "a model was lost with its engine's process", model_id=entry.model_id, reason=how)
            # What came back can't be measured any more: the process is gone.
            lost = Eviction(entry.model_id, place.device_id, 0, place.size_bytes, None, f"lost: {why}")
            self._history.record_eviction(lost)
            self._publish(ModelUnloaded(lost))
        with suppress(WorkerError):
            devices = tuple(dict.fromkeys(place.device_id for _, place in gone))
            self._monitor.refresh(devices, max_age_ms=0)
            self._monitor.observe(devices)


def _lost(model_id: str, residence: Residence, how: str) -> EngineLostError:
    message = f"model {model_id!r} was lost in its engine's process: {how}; {COMES_BACK}"
    # The device itself is as it was.
    return EngineLostError(
        message, device_id=residence.device_id, model_id=model_id, state=DeviceState.AVAILABLE
    )
