"""What is said of pressure, and of the past: analytics and metrics."""

from protocol.record import Record
from protocol.results.numbers import Bytes, Count, Fraction, Int64, Microseconds, Milliseconds, Percent
from protocol.results.pieces import Recommendation
from protocol.vocabulary import FreedBy, LeakKind, PressureLevel, Source


class PressureThresholds(Record):
    """Pressure percentages at which a device becomes moderate, high and critical."""

    moderate: Percent
    high: Percent
    critical: Percent


class PressureSignal(Record):
    """One reason for a level."""

    name: str
    value: float
    level: PressureLevel
    source: Source


class PressureTrend(Record):
    """Where the use is heading."""

    bytes_per_second: float
    seconds_to_exhaustion: float | None
    low_seconds: float | None
    high_seconds: float | None


class Holder(Record):
    """What holds memory of a device, and who alone can free it."""

    owner: str | None
    """As the allocations say, or the id of the model, or of the store or other consumer in the worker's process; null for none."""
    purpose: str | None
    """As the allocations say; ``model``, a consumer's kind, ``cache``, ``unattributed`` or ``other processes`` where there are none."""
    bytes: Bytes
    allocation_count: Count | None
    """Null for what is no allocation."""
    oldest_age_ms: Milliseconds | None
    """Of the allocations; null for what is none."""
    suspected: bool
    """Whether it looks like a leak: see ``memory.get_analytics``."""
    freed_by: FreedBy
    """Who alone can free it; docs/pressure.md says what each word means."""


class DevicePressure(Record):
    """How close one device is to running out."""

    device_id: str
    pressure_level: PressureLevel
    pressure_percentage: Percent | None
    """Share of the budget that is not to be had any more."""
    available_memory_bytes: Bytes | None
    total_memory_bytes: Bytes | None
    utilization_percentage: Percent | None
    thresholds: PressureThresholds
    signals: tuple[PressureSignal, ...]
    trend: PressureTrend | None
    recommended_actions: tuple[Recommendation, ...]
    """What the worker can do about it; what its consumers would give back besides, ``memory.optimize`` says in a dry run."""
    held_by: tuple[Holder, ...]
    """What holds the device's memory, the largest 64 first."""


class GetPressureResult(Record):
    """How close devices are to running out, and what would help."""

    devices: tuple[DevicePressure, ...]
    pressure_level: PressureLevel
    """The worst of the devices'."""


class ActionStatistics(Record):
    """How often an action was asked for and how long it took, from its line to its reply."""

    action: str
    count: Count
    errors: Count
    p50_us: Microseconds | None
    p95_us: Microseconds | None
    p99_us: Microseconds | None
    peak_bytes: Bytes | None
    """The most that this process grew while one was under way; null but for ``operation:`` names."""
    delta_bytes: Int64 | None
    """What this process had grown by when they ended, added up."""


class TimelinePoint(Record):
    """A device's memory in one span of time: as it ended, and the most that was allocated within."""

    device_id: str
    ms_ago: Milliseconds
    span_ms: Milliseconds
    """How long it stands for: until the next point, where nothing changed meanwhile. From 1 second on over the
    last minute, 10 over the last hour, 60 over the last day."""
    allocated_bytes: Bytes
    peak_allocated_bytes: Bytes
    process_used_bytes: Bytes | None
    available_bytes: Bytes | None
    pressure_level: PressureLevel


class SuspectedLeak(Record):
    """Something that only ever grows, with the evidence. Suspected, not declared."""

    device_id: str
    kind: LeakKind
    owner: str | None
    """Of Python objects: the file and line that made them; of a process: the operation (`operation:NAME`) in which it grew, null where none stands out."""
    purpose: str | None
    allocation_count: Count | None
    allocated_bytes: Bytes
    """What is held now: live allocations, or what nothing explains."""
    oldest_age_ms: Milliseconds
    bytes_per_second: float | None
    """How fast it grows; null where it was not watched for long enough."""
    confidence: Fraction
    evidence: str


class Eviction(Record):
    """A model that was dropped, and why."""

    model_id: str
    device_id: str
    ms_ago: Milliseconds
    freed_bytes: Bytes
    returned_bytes: Bytes | None
    reason: str


class Expiration(Record):
    """An allocation whose lease ran out."""

    allocation_id: str
    device_id: str
    owner: str | None
    ms_ago: Milliseconds
    freed_bytes: Bytes
    returned_bytes: Bytes | None


class GetAnalyticsResult(Record):
    """What has happened lately. A section that was not asked for is null."""

    time_range_ms: Milliseconds
    covered_ms: Milliseconds
    """How far back the record reaches within the range."""
    actions: tuple[ActionStatistics, ...] | None
    timeline: tuple[TimelinePoint, ...] | None
    suspected_leaks: tuple[SuspectedLeak, ...] | None
    evictions: tuple[Eviction, ...] | None
    expirations: tuple[Expiration, ...] | None


class GetMetricsResult(Record):
    """The worker's figures for a metrics collector."""

    content_type: str
    """What to serve the text as."""
    text: str
    """OpenMetrics 1.0, which collectors of the older Prometheus format read, too."""


class GetOptimizationRecommendationsResult(Record):
    """The actions worth taking, cheapest per byte first."""

    recommendations: tuple[Recommendation, ...]
