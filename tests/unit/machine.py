"""The whole worker below the stream, in this process, with its books open: cpu and two simulated devices."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from protocol.results import LoadModelResult
from protocol.vocabulary import GroupBy, Initialize, MemoryType, TransferType
from worker.backends.base import DeviceBackend
from worker.backends.cpu import CpuBackend
from worker.backends.isolated import IsolatedBackend
from worker.backends.simulated import SimulatedBackend, SimulatedDevice
from worker.core.cancellation import CancelToken
from worker.core.clock import Clock, FixedClock
from worker.core.events import Event, UnloadRequested
from worker.core.models import ModelSpec
from worker.core.records import Allocation, AllocationRequest, Decision
from worker.interface.interface_memory import MemoryInterface, Workers
from worker.interface.models import ModelInterface
from worker.manager.manager_memory import MemoryManager
from worker.manager.models import ModelManager
from worker.metrics.history import History
from worker.policy.pressure import DEFAULT_LIMITS
from worker.telemetry.system import FixedSystemMemory
from worker.watch.device_monitor import DeviceWatch
from worker.workers.allocation import AllocationWorker
from worker.workers.analytics import AnalyticsWorker
from worker.workers.model_load import ModelWorker
from worker.workers.model_objects import ModelObjects
from worker.workers.model_owners import ExternalWorker
from worker.workers.process_growth import ProcessGrowth
from worker.workers.reclaim import ReclaimWorker
from worker.workers.restart import RestartWorker
from worker.workers.transfer import TransferWorker
from worker.workers.weights import ModelBlocks

MIB = 2**20

AnyEvent = TypeVar("AnyEvent", bound=Event)


class Machine:
    """Put together as the worker is, under a clock that stands."""

    def __init__(
        self,
        folder: Path,
        *devices: SimulatedDevice,
        pool_bytes: int = 32 * MIB,
        models: tuple[ModelSpec, ...] = (),
        clock: Clock | None = None,
        apart: tuple[IsolatedBackend, ...] = (),
    ) -> None:
        self.folder = folder
        self.clock = clock or FixedClock()
        self.history = History(self.clock)
        self.events: list[Event] = []
        self.leases: list[tuple[int, str]] = []
        cpu = CpuBackend(FixedSystemMemory().read, self.clock.now_ns, pool_bytes, folder)
        self.backends: dict[str, DeviceBackend] = {"cpu": cpu}
        for index, device in enumerate(devices):
            self.backends[f"sim:{index}"] = SimulatedBackend(index, device, self.clock)
        for backend in apart:
            self.backends |= {info.device_id: backend for info in backend.probe()}
        self.manager = MemoryManager(self.clock)
        for backend in self.backends.values():
            for info in backend.probe():
                self.manager.add_device(info, DEFAULT_LIMITS)
        self.allocations = AllocationWorker(self.manager, self.backends, self.history, self._on_lease)
        self.transfers = TransferWorker(self.manager, self.backends, self.allocations, self.clock)
        analytics = AnalyticsWorker(self.manager, self.history, self.clock)
        self.watch = watch = DeviceWatch(self.manager, self.backends, analytics.observe, self._publish)
        for each in apart:
            each.begin(partial(watch.note_devices, each))
        self.idle: list[tuple[int, str]] = []
        self.decisions: list[Decision] = []
        self.booked = ModelManager(
            self.manager,
            self.clock,
            models,
            lambda model_id, due_ns: self.idle.append((due_ns, model_id)),
            self.decisions.append,
        )
        self.process_bytes: Callable[[], int | None] = lambda: None
        self.listening = True
        self.on_unload_requested: Callable[[str], object] = lambda _model_id: None
        """What the owner of a model does when it is asked to unload it."""
        self.external = ExternalWorker(
            self.booked, self.history, self.clock, self._publish, lambda _event: self.listening
        )
        objects = ModelObjects(self._process_bytes)
        restarts = RestartWorker(self.manager, self.backends, watch)
        self.models = ModelWorker(
            self.manager,
            self.booked,
            ModelBlocks(self.backends, watch, self.clock, objects),
            self.external,
            watch,
            self.history,
            self.clock,
            self._publish,
            "sim:0" if devices else "cpu",
            ProcessGrowth(self.manager, self._process_bytes),
            restarts.restart_for,
        )
        self.memory = MemoryInterface(
            self.manager,
            self.backends,
            Workers(
                allocations=self.allocations,
                transfers=self.transfers,
                reclaim=ReclaimWorker(self.manager, self.backends, self.allocations),
                analytics=analytics,
                restarts=restarts,
            ),
            self.clock,
            "cpu",
            self._publish,
            watch,
            lambda: ModelInterface(self.manager, self.models, watch, self.clock),
        )
        assert self.memory.models.worker is self.models  # built at once, as it is with --models

    def _process_bytes(self) -> int | None:
        return self.process_bytes()

    def _publish(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, UnloadRequested):
            self.on_unload_requested(event.model_id)

    def told(self, kind: type[AnyEvent]) -> list[AnyEvent]:
        """Return the events of a kind, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def load(self, model_id: str, **more: Any) -> LoadModelResult:
        """Load a model, as a request does."""
        options = {"device_id": None, "make_room": True, "pin": None, "keep_alive_ns": None} | more
        device_id, token = options.pop("device_id"), options.pop("token", None) or self.token()
        return self.memory.models.load(model_id, device_id, token, lambda _completed, _total: None, **options)

    def token(self) -> CancelToken:
        """Return a token that nobody cancels."""
        return CancelToken(self.clock.now_ns)

    def allocate(self, device_id: str, size: int, **more: Any) -> str:
        """Allocate; returns the id."""
        more.setdefault("initialize", Initialize.NONE)
        request = AllocationRequest(device_id, size, **more)
        allocation_id = self.memory.new_allocation_id()
        return self.memory.allocate(allocation_id, request, self.token()).allocation_id

    def transfer(
        self,
        source_id: str,
        device_id: str,
        kind: TransferType = TransferType.COPY,
        *,
        memory_type: MemoryType = MemoryType.DEVICE,
        verify: bool = False,
        token: CancelToken | None = None,
        report: Callable[[int, int], None] = lambda _completed, _total: None,
    ) -> str:
        """Transfer; returns the destination's id."""
        opened = self.memory.open_transfer(source_id, device_id, memory_type)
        done = self.memory.perform_transfer(
            opened.transfer_id,
            self.memory.new_allocation_id(),
            kind,
            memory_type,
            token or self.token(),
            report,
            verify=verify,
        )
        assert done.destination_allocation_id is not None
        return done.destination_allocation_id

    def pass_time(self, ns: int) -> None:
        """Let time pass, and what falls due meanwhile happen."""
        self.clock.wait(ns / 1e9, self.token())
        for lease in sorted(self.leases):
            if lease[0] <= self.clock.now_ns():
                self.leases.remove(lease)
                self.memory.expire(lease[1])
        for due_ns, model_id in sorted(self.idle):
            if due_ns <= self.clock.now_ns():
                self.idle.remove((due_ns, model_id))
                self.memory.models.worker.expire(model_id)

    def figures(self) -> dict[str, Any]:
        """Return every figure of every device's books, peaks included."""
        return {
            device_id: (
                self.manager.status(device_id),
                [self.manager.usage(device_id, group) for group in GroupBy],
                sorted(row.allocation_id for row in self.manager.allocations(device_id)),
                self.manager.headroom(device_id),
                backend.live(),
            )
            for device_id, backend in self.backends.items()
        }

    def check(self) -> None:
        """Hold the three accounts against one another: rows, sums, and what the backends really have."""
        for device_id, backend in self.backends.items():
            rows = self.manager.allocations(device_id)
            held = [row for row in rows if not row.external]
            status = self.manager.status(device_id)
            assert status.allocated_bytes == sum(row.size_bytes for row in held)
            outside = [
                entry.residence.size_bytes
                for entry in self.booked.book
                if entry.spec.external and entry.residence and entry.residence.device_id == device_id
            ]
            recorded = sum(row.size_bytes for row in rows if row.external)
            assert status.external_bytes == recorded + sum(outside)
            assert status.allocation_count == len(rows)
            assert status.peak_allocated_bytes >= status.allocated_bytes
            weights = self.manager.weights(device_id)
            assert backend.live() == {row.allocation_id for row in held} | weights
            places = [
                place
                for entry in self.booked.book
                if not entry.spec.external
                for place in (entry.residence, entry.host_copy)
                if place is not None and place.device_id == device_id
            ]
            assert {place.handle for place in places} == weights
            assert status.model_bytes == sum(place.size_bytes for place in places)
            for group_by in GroupBy:
                _, _, groups = self.manager.usage(device_id, group_by)
                assert sum(group.allocated_bytes for group in groups) == sum(row.size_bytes for row in rows)
                assert sum(group.allocation_count for group in groups) == len(rows)
                assert all(group.peak_bytes >= group.allocated_bytes for group in groups)

    def close(self) -> None:
        """Free everything, and see that both sides agree that it is gone."""
        self.memory.close()
        self.check()
        assert not self.manager.allocations()

    def _on_lease(self, allocation: Allocation, expires_ns: int) -> None:
        self.leases.append((expires_ns, allocation.allocation_id))
