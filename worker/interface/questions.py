"""Which device a request means, and what can be said of all of them: the part of the interface that changes nothing."""

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from protocol.record import Record
from protocol.results import (
    DeviceStatus,
    DeviceUsage,
    GetAllocationsResult,
    GetAnalyticsResult,
    GetMetricsResult,
    GetPressureResult,
    GetStatusResult,
    HostStatus,
    Limits,
)
from protocol.vocabulary import (
    AnalyticsSection,
    DeviceState,
    GroupBy,
    PressureLevel,
)
from worker.backends.base import DeviceBackend, OwnProcess, ProbedBeside
from worker.core.actions import Recommended
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS, Clock
from worker.core.errors import (
    InvalidRequestError,
)
from worker.core.records import OwnerFlow, age_order
from worker.manager.manager_memory import MemoryManager
from worker.policy.pressure import worst
from worker.policy.recommendations import IDLE_NS, cheapest_first
from worker.watch.device_monitor import READINGS_MAX_AGE_MS, DeviceWatch
from worker.workers.analytics import AnalyticsWorker

if TYPE_CHECKING:
    from worker.interface.models import ModelInterface

ALL_DEVICES = "all"
CPU = "cpu"


class _Status(Record):
    """An answer to ``memory.get_status``, good for as long as nothing changes."""

    version: int
    read_ns: int
    devices: tuple[DeviceStatus, ...]
    host: HostStatus
    pressure_level: PressureLevel

    def holds(self, version: int, now_ns: int) -> bool:
        """Tell whether no figure changed and the readings are recent."""
        return version == self.version and now_ns - self.read_ns <= READINGS_MAX_AGE_MS * NS_PER_MS


class DeviceAnswers:
    """All devices of the worker, as one to ask."""

    def __init__(
        self,
        manager: MemoryManager,
        backends: Mapping[str, DeviceBackend],
        analytics: AnalyticsWorker,
        clock: Clock,
        default_device: str | None,
        watch: DeviceWatch,
        build_models: Callable[[], "ModelInterface"],
    ) -> None:
        self._asked_default = default_device
        self.manager = self._manager = manager
        self.trends, self.leaks = analytics.trends, analytics.leaks
        self._backends = backends
        self._analytics = analytics
        self.watch = self._watch = watch
        self._build_models = build_models
        self._building = threading.Lock()
        # None until something asks for it.
        self._models: ModelInterface | None = None
        self._clock = clock
        # Derived, and made again whenever the manager's version is another.
        self._last_status: dict[tuple[tuple[str, ...], bool, bool, bool], _Status] = {}

    @property
    def models(self) -> "ModelInterface":
        """The models' side, built when it is first asked for: a worker without models starts sooner."""
        with self._building:
            if self._models is None:
                self._models = self._build_models()
            return self._models

    # ---- which device ----

    def probe_here(self) -> None:
        """Begin to look for the devices whose libraries this process imports: that can hold all its threads up."""
        for backend in dict.fromkeys(self._backends.values()):
            if isinstance(backend, ProbedBeside) and not isinstance(backend, OwnProcess):
                self._watch.begin(backend)

    def wait_until_known(self, token: CancelToken) -> None:
        """Wait for the end of every probe, also of devices that one of them reveals."""
        known: tuple[str, ...] = ()
        while (there := self.device_ids(None)) != known:
            self._watch.wait_until_known(there, token)
            known = there

    def device_ids(self, device_id: str | None) -> tuple[str, ...]:
        """Return the devices that are meant. DeviceNotFoundError if there is none of that name."""
        if device_id is None or device_id == ALL_DEVICES:
            return self._manager.device_ids()
        return (self._manager.device(device_id).device_id,)

    @property
    def default_device(self) -> str:
        """The device of requests that name none."""
        return self._manager.default_device(self._asked_default, CPU)

    def device_id(self, device_id: str | None, token: CancelToken | None = None) -> str:
        """Return the one device that is meant. DeviceNotFoundError if there is none of that name.

        With a token, a device that is being probed is waited for: which one is the default may hang on it.
        """
        while True:
            found = self._manager.device(device_id or self.default_device).device_id
            if token is None or self._manager.device(found).state is not DeviceState.PROBING:
                return found
            self._watch.wait_until_known((found,), token)

    def candidates(self, device_id: str | None) -> tuple[str, ...]:
        """Return the devices that may turn out to be meant: one, once it is known which there are."""
        found = self.device_id(device_id)
        if device_id is None and self._manager.device(found).state is DeviceState.PROBING:
            return self._manager.device_ids()
        return (found,)

    def is_quick(self, device_id: str, touched_bytes: int) -> bool:
        """Tell whether making or freeing that many bytes keeps nobody waiting."""
        return touched_bytes <= self._backends[device_id].quick_bytes

    def knows(self, allocation_id: str) -> bool:
        """Tell whether an allocation is live."""
        return self._manager.knows(allocation_id)

    def place_of(self, allocation_id: str) -> tuple[str, int]:
        """Return an allocation's device and bytes. AllocationNotFoundError if it is not live."""
        allocation = self._manager.allocation(allocation_id)
        return allocation.device_id, allocation.size_bytes

    # ---- questions ----

    def status(
        self,
        device_ids: tuple[str, ...],
        *,
        allocations: bool = False,
        usage: bool = False,
        fragmentation: bool = False,
        refresh: bool = False,
    ) -> GetStatusResult:
        """Return where the memory is."""
        key = (device_ids, allocations, usage, fragmentation)
        last = self._last_status.get(key)
        now = self._clock.now_ns()
        if last is None or refresh or not last.holds(self._manager.version, now):
            read = tuple(dict.fromkeys((*device_ids, CPU)))
            self._watch.refresh(read, max_age_ms=READINGS_MAX_AGE_MS, forced=refresh)
            version = self._manager.version
            rows = tuple(
                self._analytics.status(
                    device_id, allocations=allocations, usage=usage, fragmentation=fragmentation
                )
                for device_id in device_ids
            )
            level = worst([row.pressure_level for row in rows])
            last = _Status(version, self._manager.read_ns(read), rows, self._host(), level)
            if not allocations:  # rows of allocations have ages
                self._last_status[key] = last
        age_ms = max(0, now - last.read_ns) // NS_PER_MS
        return GetStatusResult(last.devices, last.host, last.pressure_level, age_ms)

    def usage(self, device_ids: tuple[str, ...], group_by: GroupBy) -> tuple[DeviceUsage, ...]:
        """Return allocated bytes in groups."""
        return tuple(self._analytics.usage(device_id, group_by) for device_id in device_ids)

    def allocations(
        self,
        device_ids: tuple[str, ...],
        owner: str | None,
        purpose: str | None,
        limit: int,
        after: str | None,
    ) -> GetAllocationsResult:
        """List allocations, oldest first, from the one after ``after``."""
        start = 0 if after is None else _page_start(after)
        wanted = sorted(
            (
                allocation
                for allocation in self._manager.allocations()
                if allocation.device_id in device_ids
                and (owner is None or allocation.request.owner == owner)
                and (purpose is None or allocation.request.purpose == purpose)
                and age_order(allocation) > start
            ),
            key=age_order,
        )
        page = wanted[:limit]
        following = str(age_order(page[-1])) if len(wanted) > limit else None
        return GetAllocationsResult(tuple(map(self._manager.row, page)), following)

    def allocation(self, allocation_id: str) -> GetAllocationsResult:
        """List one allocation. AllocationNotFoundError if it is not live."""
        return GetAllocationsResult((self._manager.row(self._manager.allocation(allocation_id)),), None)

    def pressure(self, device_ids: tuple[str, ...]) -> GetPressureResult:
        """Return how close devices are to running out, without what would help: see ``recommendations``."""
        self._watch.refresh(device_ids, max_age_ms=READINGS_MAX_AGE_MS)
        rows = tuple(map(self._analytics.pressure, device_ids))
        return GetPressureResult(rows, worst([row.pressure_level for row in rows]))

    def recommendations(self, device_ids: tuple[str, ...], idle_ns: int = IDLE_NS) -> tuple[Recommended, ...]:
        """Return the actions worth taking; models by name, where nobody used them for ``idle_ns``."""
        self._watch.refresh(device_ids, max_age_ms=READINGS_MAX_AGE_MS)
        models = () if self._models is None else self._models.recommendations(device_ids, idle_ns)
        return cheapest_first((*self._analytics.recommendations(device_ids), *models))

    def analytics(
        self, device_ids: tuple[str, ...], range_ms: int, include: frozenset[AnalyticsSection]
    ) -> GetAnalyticsResult:
        """Return what has happened lately."""
        return self._analytics.analytics(device_ids, range_ms, include)

    def available_bytes(self, device_id: str) -> int | None:
        """Return what one allocation can get now. DeviceUnavailableError if the device is not there."""
        self._watch.available((device_id,))
        self._watch.refresh((device_id,), max_age_ms=READINGS_MAX_AGE_MS)
        return self._manager.headroom(device_id).available_bytes

    def notes(self, device_id: str) -> tuple[str, ...]:
        """Say, for people, what can and can't be measured on a device, and why."""
        return self._backends[device_id].notes()

    def flows(self, device_id: str) -> tuple[OwnerFlow, ...]:
        """Return what each owner has and ever had on a device."""
        return self._manager.flows(device_id)

    @property
    def has_models(self) -> bool:
        """Whether anything asked for models yet: a question about them alone does not build their side."""
        return self._models is not None

    def metrics(self) -> GetMetricsResult:
        """Return all figures as OpenMetrics text."""
        from worker.metrics.openmetrics import CONTENT_TYPE, Figures, openmetrics  # noqa: PLC0415 - only where collected

        devices = self.device_ids(None)
        models = () if self._models is None else self._models.rows()
        figures = Figures(self.status(devices), models, self._analytics.totals(devices))
        return GetMetricsResult(CONTENT_TYPE, openmetrics(figures))

    def limits(self, device_id: str) -> Limits:
        """Return a device's limits."""
        return self._manager.limits(device_id)

    def look(self, max_age_ms: int = READINGS_MAX_AGE_MS) -> None:
        """Take readings of every device, and tell of what is new."""
        devices = self.device_ids(None)
        self._watch.refresh(devices, max_age_ms=max_age_ms)
        self._watch.observe(devices)

    def level_now(self, device_ids: tuple[str, ...]) -> PressureLevel:
        """Return what budgets alone say now, nothing held."""
        self._watch.refresh(device_ids, max_age_ms=READINGS_MAX_AGE_MS)
        return worst([self._manager.level_now(device_id) for device_id in device_ids])

    # ---- inside ----

    def _host(self) -> HostStatus:
        """Return the machine's own memory, which is what the CPU's readings are of."""
        machine = self._manager.readings(CPU)
        if machine is None or machine.total_bytes is None or machine.used_bytes is None:
            return HostStatus(None, None, None)
        available = machine.total_bytes - machine.used_bytes
        return HostStatus(machine.total_bytes, available, machine.process_used_bytes)


def _page_start(after: str) -> int:
    if not after.isdecimal():
        raise InvalidRequestError.at("data.after", f"{after!r} is not the next of an earlier page")
    return int(after)
