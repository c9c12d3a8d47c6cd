"""What events carry."""

from typing_extensions import TypedDict

from protocol.record import Record
from protocol.results.numbers import Bytes, Count, Milliseconds, Percent
from protocol.results.pieces import Recommendation, ReleasedMemory
from protocol.results.pressure import PressureTrend, SuspectedLeak
from protocol.results.reclaim import OptimizeStep
from protocol.vocabulary import DeviceState, PressureLevel, Source


class ProgressData(Record):
    """How far the work has come."""

    completed_bytes: Bytes
    total_bytes: Bytes


# ``from`` is a Python keyword, so this one cannot be a dataclass.
PressureChangedData = TypedDict(
    "PressureChangedData",
    {
        "device_id": str,
        "from": PressureLevel,
        "to": PressureLevel,
        "pressure_percentage": Percent | None,
        "available_bytes": Bytes | None,
    },
)
PressureChangedData.__doc__ = "A device came to another level of pressure."
PressureChangedData.__pydantic_config__ = Record.__pydantic_config__  # type: ignore[attr-defined]  # pydantic reads it


class DeviceFigures(Record):
    """A device's memory in figures; what is unknown is null."""

    device_id: str
    state: DeviceState
    pressure_level: PressureLevel
    pressure_percentage: Percent | None
    """Share of the budget that is not to be had any more."""
    budget_bytes: Bytes | None
    """The most that this worker may use: the smallest of all limits."""
    available_bytes: Bytes | None
    """What one allocation can still get."""
    used_bytes: Bytes | None
    """Whole device, every process."""
    process_used_bytes: Bytes | None
    """This worker, as the operating system or driver sees it."""
    allocated_bytes: Bytes
    """Ledger: live allocations, as asked for."""
    allocation_count: Count
    model_bytes: Bytes
    cached_bytes: Bytes
    """Kept for reuse by the runtime, not live."""
    trend: PressureTrend | None
    """Where the use is heading."""


class FiguresData(Record):
    """All devices' memory and what would help, told as often as the subscription asks."""

    uptime_ms: Milliseconds
    """Of the worker, when the figures were taken."""
    pressure_level: PressureLevel
    """The worst of the devices'."""
    devices: tuple[DeviceFigures, ...]
    recommendations: tuple[Recommendation, ...]
    """The actions worth taking, cheapest per byte first: each is a request that can be sent as it stands."""
    skipped: Count
    """How many were taken since the last that was sent and are left out, because the host did not read."""


class ExhaustionForecastData(Record):
    """A device is about to run out, if it goes on like this; all null once it is not any more."""

    device_id: str
    bytes_per_second: float | None
    available_bytes: Bytes | None
    seconds_to_exhaustion: float | None
    low_seconds: float | None
    high_seconds: float | None


class BudgetChangedData(Record):
    """The most that this worker may use of a device is another than before."""

    device_id: str
    previous_bytes: Bytes | None
    budget_bytes: Bytes | None
    budget_source: Source | None
    available_bytes: Bytes | None


class DemotionChangedData(Record):
    """The system moved device memory of this worker to its own, or back: began to, went on by 16 MiB, or all is back."""

    device_id: str
    previous_bytes: Bytes
    """What was told of last."""
    demoted_bytes: Bytes
    """As `process_demoted_bytes` of the device."""


class LeakSuspectedData(SuspectedLeak):
    """Something looks like a leak; told again when it has doubled."""


class OptimizedData(Record):
    """The worker made room by itself (``--auto-optimize``), and why."""

    device_id: str
    pressure_level: PressureLevel
    """Which was sustained, and so led to it."""
    steps: tuple[OptimizeStep, ...]
    claimed_bytes: Bytes | None
    """What the steps should have freed, by the ledger."""
    returned_bytes: Bytes | None
    """What came back of it, measured at the operating system or driver."""
    helped: bool
    next_in_ms: Milliseconds
    """It does nothing more before this is over."""
    reason: str
    released: tuple[ReleasedMemory, ...] = ()
    """What other consumers than models gave back."""


class AllocationExpiredData(Record):
    """A lease ran out and the allocation was freed."""

    allocation_id: str
    device_id: str
    owner: str | None
    freed_bytes: Bytes
    returned_bytes: Bytes | None


class ModelUnloadedData(Record):
    """A model was dropped, and why."""

    model_id: str
    device_id: str
    freed_bytes: Bytes
    returned_bytes: Bytes | None
    reason: str


class UnloadRequestedData(Record):
    """A model that another process holds is wanted unloaded; nothing is freed until its owner says so."""

    model_id: str
    device_id: str
    size_bytes: Bytes
    """What its owner declared."""
    reason: str
    wait_ms: Milliseconds | None
    """How long an answer is waited for; null where nothing waits."""


class ReleaseRequestedData(Record):
    """A consumer is to give memory back, and to say so by ``memory.released``."""

    consumer_id: str
    bytes: Bytes
    limit_bytes: Bytes
    """The most that it is to hold from now on."""
    reason: str
    wait_ms: Milliseconds
    """How long the answer is waited for."""


class ConsumerLimitChangedData(Record):
    """The most that a consumer is to hold is another: it rises again once there is headroom."""

    consumer_id: str
    limit_bytes: Bytes | None
    """Null for no limit any more."""
    reason: str


class DeviceLostData(Record):
    """A device went away, and its contents with it."""

    device_id: str
    reason: str
    allocation_ids: tuple[str, ...]
    model_ids: tuple[str, ...]


class DeviceRecoveredData(Record):
    """A device that was lost can be asked for memory again. Nothing that was on it came back."""

    device_id: str
    lost_ms: Milliseconds
    """How long it was away."""
