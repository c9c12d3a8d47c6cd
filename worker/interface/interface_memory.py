"""All devices of the worker, as one.

Counts no bytes itself: the manager does, by readings that are taken here when they are needed.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from protocol.record import Record
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS
from worker.core.events import Figures
from worker.interface.allocations import Allocations
from worker.interface.batches import Batches
from worker.interface.contents import Contents
from worker.interface.device_choice import DeviceChoice
from worker.interface.lazy_models import LazyModels
from worker.interface.questions import Questions
from worker.interface.relief import Relief
from worker.interface.transfers import Transfers
from worker.policy.pressure import worst
from worker.watch.device_monitor import READINGS_MAX_AGE_MS, DeviceMonitor
from worker.wiring import Core
from worker.workers.allocation import AllocationWorker
from worker.workers.analytics import AnalyticsWorker
from worker.workers.consumers import ConsumerWorker
from worker.workers.operations import OperationWorker
from worker.workers.reclaim import ReclaimWorker
from worker.workers.restart import RestartWorker
from worker.workers.transfer import TransferWorker

if TYPE_CHECKING:
    from worker.interface.models import ModelInterface


class Workers(Record):
    """What carries single transactions out."""

    allocations: AllocationWorker
    transfers: TransferWorker
    reclaim: ReclaimWorker
    analytics: AnalyticsWorker
    restarts: RestartWorker
    consumers: ConsumerWorker
    operations: OperationWorker


class MemoryInterface:
    """A service for each concern, and what concerns them all."""

    def __init__(
        self,
        core: Core,
        workers: Workers,
        monitor: DeviceMonitor,
        default_device: str | None,
        build_models: Callable[[], "ModelInterface"],
    ) -> None:
        self._core = core
        self._monitor = monitor
        self._models = models = LazyModels(build_models)

        def check_unused(device_ids: tuple[str, ...], token: CancelToken) -> None:
            """Refuse what must not happen while a model is used there."""
            if models.built is not None:
                models.built.check_unused(device_ids, token)

        self.ids = core.manager.ids
        self.health = core.health
        self.devices = DeviceChoice(core, monitor, default_device)
        self.questions = Questions(core, monitor, workers.analytics, models)
        self.batches = Batches(core, self.questions)
        self.allocations = Allocations(
            core, monitor, workers.allocations, workers.restarts, models, check_unused
        )
        self.contents = Contents(core, self.allocations)
        self.consumers = workers.consumers
        self.operations = workers.operations
        self.transfers = Transfers(monitor, workers.transfers)
        self.relief = Relief(
            core,
            monitor,
            workers.reclaim,
            workers.restarts,
            workers.analytics,
            workers.consumers,
            models,
            check_unused,
        )

    @property
    def models(self) -> "ModelInterface":
        """The models' side, built when it is first asked for."""
        return self._models.get()

    @property
    def built_models(self) -> "ModelInterface | None":
        """The models' side, if anything asked for it yet."""
        return self._models.built

    def figures(self) -> Figures:
        """Return what a subscriber is told of regularly."""
        devices = self._core.manager.devices.ids()
        rows = self.questions.figures(devices)
        level = worst([row.pressure_level for row in rows])
        uptime_ms = self._core.history.uptime_ns() // NS_PER_MS
        return Figures(uptime_ms, level, rows, self.relief.recommendations(devices))

    def sample(self, max_age_ms: int = READINGS_MAX_AGE_MS) -> None:
        """Take readings of every device, and tell of what is new."""
        devices = self._core.manager.devices.ids()
        self._monitor.refresh(devices, max_age_ms=max_age_ms)
        self._monitor.observe(devices)
        for device_id in devices:
            self.consumers.tend(device_id)

    def tick(self) -> None:
        """Let backends give up what they kept for nothing. About once a second where something is kept."""
        for backend in dict.fromkeys(self._core.backends.values()):
            self._monitor.tick(backend)

    def close(self) -> None:
        """Free everything, whatever goes wrong on the way: the last error is raised at the end."""
        with ExitStack() as stack:
            for backend in dict.fromkeys(self._core.backends.values()):
                stack.callback(backend.close)
            if self._models.built is not None:
                stack.callback(self._models.built.close)
            self.allocations.free_all()
