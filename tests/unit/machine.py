"""The whole worker below the stream, in this process, with its ledgers open: cpu and simulated devices."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from protocol.results import LoadModelResult
from protocol.vocabulary import GroupBy, Initialize, MemoryType, TransferType
from worker.app.devices import Begin
from worker.app.memory import compose
from worker.app.options import parse
from worker.app.stores import LazyStores
from worker.app.surroundings import Surroundings
from worker.backends.base import DeviceBackend
from worker.backends.cpu import CpuBackend
from worker.backends.isolated import IsolatedBackend
from worker.backends.simulated import SimulatedBackend, SimulatedDevice
from worker.background.expiry import Reaper
from worker.core.cancellation import CancelToken
from worker.core.clock import Clock, FixedClock
from worker.core.events import Event, ReleaseRequested, UnloadRequested
from worker.core.health import Health
from worker.core.models import ModelSpec
from worker.core.records import AllocationRequest, Decision
from worker.manager.manager_memory import MemoryManager
from worker.metrics.history import History
from worker.policy.pressure import DEFAULT_LIMITS
from worker.stream.alarm import Alarm
from worker.stream.work import Call, Work
from worker.telemetry.system import FixedSystemMemory, SystemMemory
from worker.wiring import Core

MIB = 2**20

AnyEvent = TypeVar("AnyEvent", bound=Event)


class Machine:
    """The worker's own composition, among surroundings of a test's: a clock that stands, and small devices.

    It is the composition's ``Events``: what is told is kept, and asks for models go to ``on_unload_requested``.
    """

    def __init__(
        self,
        folder: Path,
        *devices: SimulatedDevice,
        pool_bytes: int = 32 * MIB,
        models: tuple[ModelSpec, ...] = (),
        clock: Clock | None = None,
        apart: tuple[IsolatedBackend, ...] = (),
        python_lines: Callable[[], Mapping[str, int]] | None = None,
        system: FixedSystemMemory | SystemMemory | None = None,
    ) -> None:
        self.folder = folder
        self.clock = clock or FixedClock()
        self.history = History(self.clock)
        self.events: list[Event] = []
        self.decisions: list[Decision] = []
        self.process_bytes: Callable[[], int | None] = lambda: None
        self.listening = True
        self.on_unload_requested: Callable[[str], object] = lambda _model_id: None
        """What the owner of a model does when it is asked to unload it."""
        self.on_release_requested: Callable[[ReleaseRequested], object] = lambda _event: None
        """What the host does when a consumer of its own is asked for memory."""
        self.manager = MemoryManager(self.clock)
        self.backends: dict[str, DeviceBackend] = {}
        self.core = Core(self.clock, self.history, self, self.manager, self.backends, Health())

        def backends(_begin: Begin) -> Iterator[DeviceBackend]:
            yield CpuBackend((system or FixedSystemMemory()).read, self.clock.now_ns, pool_bytes, folder)
            for index, device in enumerate(devices):
                yield SimulatedBackend(index, device, self.clock)
            for backend in apart:
                backend.probe()  # a test begins with devices that are there
                yield backend

        self.parts = compose(
            self.core,
            Surroundings(
                backends=backends,
                limits=lambda _info: DEFAULT_LIMITS,
                models=lambda: models,
                process_bytes=self._process_bytes,
                default_device="sim:0" if devices else "cpu",
                python_lines=python_lines,
                record=self.decisions.append,
            ),
        )
        self.stores = LazyStores(parse([]), self.parts).get
        self.later, self.tell = Alarm(self.clock).at, lambda _figures: True
        self.watch, self.memory = self.parts.monitor, self.parts.memory
        for each in apart:
            self.watch.begin(each)
        self.models = self.memory.models.worker  # built at once, as it is with --models
        self.booked = self.models.models
        self.external = self.models.external
        self.reaper = Reaper(self.core, self.memory, self._run)

    def _process_bytes(self) -> int | None:
        return self.process_bytes()

    def _run(self, work: Work) -> None:
        work.run(Call(self.token(), lambda _completed, _total: None))

    def publish(self, event: Event) -> None:
        """Keep what is told."""
        self.events.append(event)
        if isinstance(event, UnloadRequested):
            self.on_unload_requested(event.model_id)
        if isinstance(event, ReleaseRequested):
            self.on_release_requested(event)

    def wanted(self, _kind: type[Event]) -> bool:
        """Tell whether the host listens."""
        return self.listening

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
        allocation_id = self.memory.allocations.new_id()
        return self.memory.allocations.allocate(allocation_id, request, self.token()).allocation_id

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
        opened = self.memory.transfers.open(source_id, device_id, memory_type)
        done = self.memory.transfers.perform(
            opened.transfer_id,
            self.memory.allocations.new_id(),
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
        self.reaper.run_due()

    def figures(self) -> dict[str, Any]:
        """Return every figure of every device's ledger, peaks included."""
        return {
            device_id: (
                self.manager.pressure.status(device_id),
                [self.manager.usage.groups(device_id, group) for group in GroupBy],
                sorted(row.allocation_id for row in self.manager.allocations.all(device_id)),
                self.manager.pressure.headroom(device_id),
                backend.live(),
            )
            for device_id, backend in self.backends.items()
        }

    def check(self) -> None:
        """Hold the three accounts against one another: rows, sums, and what the backends really have."""
        for device_id, backend in self.backends.items():
            rows = self.manager.allocations.all(device_id)
            held = [row for row in rows if not row.external]
            status = self.manager.pressure.status(device_id)
            assert status.allocated_bytes == sum(row.size_bytes for row in held)
            external = [
                entry.residence.size_bytes
                for entry in self.manager.models
                if entry.spec.external and entry.residence and entry.residence.device_id == device_id
            ]
            recorded = sum(row.size_bytes for row in rows if row.external)
            assert status.external_bytes == recorded + sum(external)
            assert status.allocation_count == len(rows)
            assert status.peak_allocated_bytes >= status.allocated_bytes
            weights = self.manager.weights.handles(device_id)
            assert backend.live() == {row.allocation_id for row in held} | weights
            places = [
                place
                for entry in self.manager.models
                if not entry.spec.external
                for place in (entry.residence, entry.host_copy)
                if place is not None and place.device_id == device_id
            ]
            assert {place.handle for place in places} == weights
            assert status.model_bytes == sum(place.size_bytes for place in places)
            self._check_usage(device_id)
            for group_by in GroupBy:
                _, _, groups = self.manager.usage.groups(device_id, group_by)
                assert sum(group.allocated_bytes for group in groups) == sum(row.size_bytes for row in rows)
                assert sum(group.allocation_count for group in groups) == len(rows)
                assert all(group.peak_bytes >= group.allocated_bytes for group in groups)

    def _check_usage(self, device_id: str) -> None:
        """Hold the sums of an answer to ``memory.get_usage``: what is in groups, and what the process uses."""
        for group_by in GroupBy:
            usage = self.memory.questions.usage((device_id,), group_by)[0]
            in_groups = sum(group.allocated_bytes for group in usage.groups)
            recorded = usage.allocated_bytes + usage.external_bytes
            assert in_groups + usage.external_model_bytes == recorded
            if usage.process_used_bytes is not None and usage.unattributed_bytes is not None:
                explained = usage.resident_bytes + usage.cached_bytes + usage.unattributed_bytes
                assert explained >= usage.process_used_bytes
                assert explained == usage.process_used_bytes or usage.unattributed_bytes == 0

    def close(self) -> None:
        """Free everything, and see that both sides agree that it is gone."""
        self.memory.close()
        self.check()
        assert not self.manager.allocations.all()
