"""What can be said of all devices: the part of the interface that changes nothing."""

from dataclasses import replace

from protocol.record import Record
from protocol.results import (
    DeviceFigures,
    DeviceStatus,
    DeviceUsage,
    GetAllocationsResult,
    GetMetricsResult,
    GetPressureResult,
    GetStatusResult,
    HostStatus,
)
from protocol.vocabulary import GroupBy, PressureLevel
from worker.core.clock import NS_PER_MS
from worker.core.errors import InvalidRequestError
from worker.core.records import HOST, age_order
from worker.interface.lazy_models import LazyModels
from worker.policy.pressure import worst
from worker.watch.device_monitor import READINGS_MAX_AGE_MS, DeviceMonitor
from worker.wiring import Core
from worker.workers.analytics import AnalyticsWorker
from worker.workers.device_processes import DeviceProcesses

_STATUS_PATIENCE_S = 0.04
"""So long a status waits for devices that hang, all of them together."""

_STATUSES_KEPT = 256

_Asked = tuple[tuple[str, ...], bool, bool, bool]
"""Which devices were asked about, and which of the optional parts."""


class _Status(Record):
    """An answer to ``memory.get_status``, good for as long as nothing changes."""

    version: int
    read_ns: int
    devices: tuple[DeviceStatus, ...]
    host: HostStatus
    pressure_level: PressureLevel
    aged_until_ns: int = 0
    """Until then every device's figures are as many milliseconds old as its row says."""

    def holds(self, version: int, now_ns: int) -> bool:
        """Tell whether no figure changed and the readings are recent."""
        return version == self.version and now_ns - self.read_ns <= READINGS_MAX_AGE_MS * NS_PER_MS


def _of_age(row: DeviceStatus, age_ms: int | None) -> DeviceStatus:
    """Return a row with another age. Not by ``replace``, which looks at every field."""
    return DeviceStatus(**{**vars(row), "age_ms": age_ms})


class Questions:
    """Answers about devices. Takes readings where those at hand are too old."""

    def __init__(
        self, core: Core, monitor: DeviceMonitor, analytics: AnalyticsWorker, models: LazyModels
    ) -> None:
        self._manager = core.manager
        self._monitor = monitor
        self._analytics = analytics
        self._models = models
        self._clock = core.clock
        self.analytics = analytics.analytics
        self._processes = DeviceProcesses(core.backends)
        # Derived, and made again whenever the manager's version is another.
        self._last_status: dict[_Asked, _Status] = {}

    def status(
        self,
        device_ids: tuple[str, ...],
        *,
        allocations: bool = False,
        usage: bool = False,
        fragmentation: bool = False,
        processes: bool = False,
        refresh: bool = False,
    ) -> GetStatusResult:
        """Return where the memory is.

        ``refresh`` asks the devices themselves, where else what their processes noted lately will do. Those that do
        not answer in 40 ms are told of by their last figures. ``processes`` asks drivers, which may take as long as
        they do to answer.
        """
        key = (device_ids, allocations, usage, fragmentation)
        last = self._last_status.get(key)
        now = self._clock.now_ns()
        if last is None or refresh or not last.holds(self._manager.devices.version, now):
            read = tuple(dict.fromkeys((*device_ids, HOST)))
            self._monitor.refresh(
                read, max_age_ms=READINGS_MAX_AGE_MS, forced=refresh, patience_s=_STATUS_PATIENCE_S
            )
            version = self._manager.devices.version
            rows = tuple(
                self._analytics.status(
                    device_id, allocations=allocations, usage=usage, fragmentation=fragmentation
                )
                for device_id in device_ids
            )
            level = worst([row.pressure_level for row in rows])
            last = _Status(version, self._manager.samples.oldest_ns(read), rows, self._host(), level)
            if not allocations:  # rows of allocations have ages
                if len(self._last_status) >= _STATUSES_KEPT:  # pages begin and end anywhere
                    self._last_status.clear()
                self._last_status[key] = last
        age_ms = max(0, now - last.read_ns) // NS_PER_MS
        devices = self._aged(key, last, now)
        if processes:
            devices = tuple(replace(row, processes=self._processes.on(row.device_id)) for row in devices)
        return GetStatusResult(devices, last.host, last.pressure_level, age_ms)

    def _aged(self, key: _Asked, last: _Status, now_ns: int) -> tuple[DeviceStatus, ...]:
        """Return the rows of an answer with the age that each device's figures have by now: new rows once a millisecond."""
        if now_ns < last.aged_until_ns:
            return last.devices
        read = [self._manager.samples.read_ns(row.device_id) for row in last.devices]
        ages = [None if at is None else max(0, now_ns - at) // NS_PER_MS for at in read]
        rows = tuple(_of_age(row, age) for row, age in zip(last.devices, ages, strict=True))
        if key in self._last_status:
            # The first whose next whole millisecond comes, and none later than the next from now.
            left = [NS_PER_MS - max(0, now_ns - at) % NS_PER_MS for at in read if at is not None]
            until = now_ns + min(left, default=NS_PER_MS)
            self._last_status[key] = replace(last, devices=rows, aged_until_ns=until)
        return rows

    def usage(self, device_ids: tuple[str, ...], group_by: GroupBy) -> tuple[DeviceUsage, ...]:
        """Return allocated bytes in groups."""
        self._monitor.refresh(device_ids, max_age_ms=READINGS_MAX_AGE_MS)
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
                for allocation in self._manager.allocations.all()
                if allocation.device_id in device_ids
                and (owner is None or allocation.request.owner == owner)
                and (purpose is None or allocation.request.purpose == purpose)
                and age_order(allocation) > start
            ),
            key=age_order,
        )
        page = wanted[:limit]
        following = str(age_order(page[-1])) if len(wanted) > limit else None
        return GetAllocationsResult(tuple(map(self._manager.allocations.row, page)), following)

    def allocation(self, allocation_id: str) -> GetAllocationsResult:
        """List one allocation. AllocationNotFoundError if it is not live."""
        return GetAllocationsResult(
            (self._manager.allocations.row(self._manager.allocations.get(allocation_id)),), None
        )

    def pressure(self, device_ids: tuple[str, ...]) -> GetPressureResult:
        """Return how close devices are to running out, without what would help: see ``recommendations``."""
        self._monitor.refresh(device_ids, max_age_ms=READINGS_MAX_AGE_MS)
        built = self._models.built
        rows = tuple(
            self._analytics.pressure(each, () if built is None else built.held(each)) for each in device_ids
        )
        return GetPressureResult(rows, worst([row.pressure_level for row in rows]))

    def figures(self, device_ids: tuple[str, ...]) -> tuple[DeviceFigures, ...]:
        """Return devices' memory in figures, where it is heading among them."""
        self._monitor.refresh(device_ids, max_age_ms=READINGS_MAX_AGE_MS, patience_s=_STATUS_PATIENCE_S)
        return tuple(map(self._analytics.figures, device_ids))

    def available_bytes(self, device_id: str) -> int | None:
        """Return what one allocation can get now. DeviceUnavailableError if the device is not there."""
        self._monitor.available((device_id,))
        self._monitor.refresh((device_id,), max_age_ms=READINGS_MAX_AGE_MS)
        return self._manager.pressure.headroom(device_id).available_bytes

    def metrics(self) -> GetMetricsResult:
        """Return all figures as OpenMetrics text."""
        from worker.metrics.openmetrics import CONTENT_TYPE, Figures, openmetrics  # noqa: PLC0415 - only where collected

        devices, built = self._manager.devices.ids(), self._models.built
        models = () if built is None else built.rows()
        figures = Figures(self.status(devices), models, self._analytics.totals(devices))
        return GetMetricsResult(CONTENT_TYPE, openmetrics(figures))

    # ---- inside ----

    def _host(self) -> HostStatus:
        """Return the machine's own memory, which is what the CPU's readings are of."""
        machine = self._manager.samples.latest(HOST)
        if machine is None or machine.total_bytes is None or machine.used_bytes is None:
            return HostStatus(None, None, None)
        available = machine.total_bytes - machine.used_bytes
        return HostStatus(machine.total_bytes, available, machine.process_used_bytes)


def _page_start(after: str) -> int:
    if not after.isdecimal():
        raise InvalidRequestError.at("data.after", f"{after!r} is not the next of an earlier page")
    return int(after)
