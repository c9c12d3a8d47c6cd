"""What each action answers: frozen records that are written as they are, every field always present.

Standard library only (plus the annotation types that pydantic reads), so that the layers below the
instructor may build them. ``protocol.contract`` turns them into validators and JSON Schemas.
"""

from typing import Annotated, Any

from annotated_types import Ge, Le
from typing_extensions import TypedDict

from protocol.record import Record
from protocol.vocabulary import (
    INT64_MAX,
    DeviceKind,
    DeviceState,
    ErrorCode,
    EventName,
    EvictionStrategy,
    Executed,
    FreedBy,
    HealthState,
    LeakKind,
    MemoryType,
    ModelState,
    PressureLevel,
    SharedMemoryKind,
    Source,
    TransferState,
    UnloadMode,
)

Bytes = Annotated[int, Ge(0), Le(INT64_MAX)]
Count = Annotated[int, Ge(0), Le(INT64_MAX)]
Milliseconds = Annotated[int, Ge(0), Le(INT64_MAX)]
Microseconds = Annotated[int, Ge(0), Le(INT64_MAX)]
Int64 = Annotated[int, Ge(-INT64_MAX), Le(INT64_MAX)]
Percent = Annotated[float, Ge(0), Le(100)]
Fraction = Annotated[float, Ge(0), Le(1)]
Cost = Annotated[float, Ge(0)]
"""Milliseconds, in parts: of a price by how often it is expected to be paid."""


# ---- pieces -------------------------------------------------------------------------------------


class SharedMemory(Record):
    """What the host can map."""

    path: str
    """Of the file; a section's name, which is opened by that."""
    size_bytes: Bytes
    kind: SharedMemoryKind


class AllocationRow(Record):
    """One live allocation."""

    allocation_id: str
    device_id: str
    memory_type: MemoryType
    size_bytes: Bytes
    """As asked for; what the ledger counts."""
    actual_bytes: Bytes
    """As the device rounds it."""
    owner: str | None
    purpose: str | None
    persistent: bool
    age_ms: Milliseconds
    lease_expires_in_ms: Milliseconds | None
    shared_memory: SharedMemory | None


class UsageGroup(Record):
    """Allocations that share an owner, a purpose or a memory type."""

    key: str | None
    allocated_bytes: Bytes
    peak_bytes: Bytes
    allocation_count: Count


class Fragmentation(Record):
    """How far free memory lies in pieces."""

    free_bytes: Bytes
    largest_free_block_bytes: Bytes
    fragmentation_percentage: Percent
    """Share of the free bytes that lies outside the largest block."""


class Recommendation(Record):
    """An action that can be sent back as it stands."""

    action: str
    data: dict[str, Any]
    expected_freed_bytes: Bytes | None
    cost_ms: Milliseconds | None
    """Of what ``cost_of`` says; null where it was never measured."""
    cost_of: str
    """What takes that long: the action itself, or bringing back what goes by it."""
    reason: str


class ReleaseStep(Record):
    """One thing that was done to give memory back, and what came back by it."""

    step: str
    returned_bytes: Bytes | None
    """By the system's figures, or the driver's; null where they do not say."""


class UnloadedModel(Record):
    """A model that gave memory back, and why: the receipt."""

    model_id: str
    freed_bytes: Bytes
    """What the model was counted with, and is no longer: by the ledger."""
    returned_bytes: Bytes | None
    """What came back of its memory, as the operating system or driver shows before and after; null where neither says.
    More than was claimed where its engine's process has grown since it was last counted."""
    reload_ms: Milliseconds | None
    reason: str
    """Why; and what came back, where that is not what the ledger freed."""
    claimed_bytes: Bytes | None = None
    """What should have come back, the same as ``freed_bytes``; null where only its owner knows."""
    kept_bytes: Bytes | None = None
    """``claimed_bytes`` less ``returned_bytes``, 0 where more came back, or its process ended; null where that was not measured."""
    mode: UnloadMode = UnloadMode.UNLOAD
    """How much of it went: a model that was shrunk is still loaded."""
    steps: tuple[ReleaseStep, ...] = ()
    """What was done, in this order; where all were measured they add up to ``returned_bytes``."""
    process_returned_bytes: Bytes | None = None
    """What came back besides where its engine's process ended: interpreter and library, which are no model's; null
    where no process ended."""


class Kept(Record):
    """Something that stays, and why."""

    id: str
    reason: str


class KeptModel(Record):
    """A model that stays, and why."""

    model_id: str
    reason: str


class ReleasedMemory(Record):
    """What a consumer gave back, and why it was asked."""

    consumer_id: str
    kind: str
    claimed_bytes: Bytes
    """By its own word."""
    returned_bytes: Bytes | None
    """What the device's readings showed after it; null where they can't tell."""
    cost_ms: Cost | None
    """What rebuilding it takes, by how often it is expected to be needed in ten minutes; null where unknown."""
    reason: str


# ---- status -------------------------------------------------------------------------------------


class DeviceProcess(Record):
    """A process that holds memory of a device."""

    pid: Count
    name: str | None
    """Of its program; null where the system does not say."""
    bytes: Bytes | None
    """What it holds of the device; null where the driver lists the process without its bytes."""
    ours: bool
    """Whether it is this worker, or a process that it started."""


class DeviceStatus(Record):
    """Where the memory of one device is."""

    device_id: str
    kind: DeviceKind
    name: str
    state: DeviceState
    state_reason: str | None
    age_ms: Milliseconds | None
    """How old the figures are; null where there are none yet."""
    total_bytes: Bytes | None
    total_source: Source | None
    """Whose figure it is, as for the others."""
    budget_bytes: Bytes | None
    """The most that this worker may use: the smallest of all limits."""
    budget_source: Source | None
    """Where the smallest limit comes from."""
    used_bytes: Bytes | None
    """Whole device, every process."""
    used_source: Source | None
    process_used_bytes: Bytes | None
    """This worker, as the operating system or driver sees it."""
    process_used_source: Source | None
    child_process_bytes: Bytes | None
    """On the CPU: what the processes take that this worker started, engines' and devices' among them. Not in
    `process_used_bytes`. One that a plugin started is found within 250 ms."""
    allocated_bytes: Bytes
    """Ledger: live allocations, as asked for."""
    external_bytes: Bytes
    """Ledger: recorded for the host, which holds them."""
    cached_bytes: Bytes
    """Kept for reuse by the runtime, not live."""
    unattributed_bytes: Bytes | None
    """What the process uses beyond what ledger, models and caches explain."""
    available_bytes: Bytes | None
    """Headroom: what one allocation can still get."""
    peak_allocated_bytes: Bytes
    allocation_count: Count
    model_bytes: Bytes
    utilization_percentage: Percent | None
    """Used share of the whole device."""
    pressure_level: PressureLevel
    allocations: tuple[AllocationRow, ...] | None
    usage: tuple[UsageGroup, ...] | None
    fragmentation: Fragmentation | None
    demoted_bytes: Bytes | None = None
    """What every process has of this device in the system's memory instead: moved there for want of headroom, or put
    there by its program. Not in `used_bytes`; null where no source says."""
    process_demoted_bytes: Bytes | None = None
    """Part of this worker's device memory that the system moved to its own: slow until it is back. Not in
    `process_used_bytes`."""
    shared_with: str | None = None
    """The device whose memory this one's is, as `cpu` for integrated GPUs: those bytes are in both figures."""
    processes: tuple[DeviceProcess, ...] | None = None
    """Who else is on the device, the largest first; null where it was not asked for, or no source says."""


class HostStatus(Record):
    """The machine's own memory."""

    total_bytes: Bytes | None
    available_bytes: Bytes | None
    process_rss_bytes: Bytes | None


class GetStatusResult(Record):
    """Where the memory is."""

    devices: tuple[DeviceStatus, ...]
    host: HostStatus
    pressure_level: PressureLevel
    """The worst of the devices'."""
    age_ms: Milliseconds
    """Of the oldest reading in the answer."""
    next: str | None = None
    """Send it as ``after`` for the next page; null on the last, and where no ``limit`` was given."""


class DeviceUsage(Record):
    """Allocated bytes of one device, in groups, and all that adds up to what the process uses of it.

    The groups and ``external_model_bytes`` add up to ``allocated_bytes`` and ``external_bytes``. ``resident_bytes``,
    ``cached_bytes`` and ``unattributed_bytes`` add up to ``process_used_bytes``, where ``unattributed_bytes`` is not 0.
    """

    device_id: str
    allocated_bytes: Bytes
    """Live allocations, as asked for."""
    peak_allocated_bytes: Bytes
    external_bytes: Bytes
    """Recorded for the host and other processes, which hold them."""
    external_model_bytes: Bytes
    """Part of ``external_bytes``: models, which are in no group."""
    model_bytes: Bytes
    resident_bytes: Bytes
    """Part of ``allocated_bytes`` and ``model_bytes`` that takes memory now, as the device rounds it: what nothing
    was written to may take none yet."""
    cached_bytes: Bytes
    """Kept for reuse by the runtime, not live."""
    unattributed_bytes: Bytes | None
    """What the process uses beyond what ledger, models and caches explain; 0 also where they explain more than it uses
    by the system's figure, which is not of the same instant."""
    process_used_bytes: Bytes | None
    """This worker, as the operating system or driver sees it."""
    groups: tuple[UsageGroup, ...]


class GetUsageResult(Record):
    """Allocated bytes by owner, purpose or memory type."""

    devices: tuple[DeviceUsage, ...]


class GetAllocationsResult(Record):
    """A page of allocations."""

    allocations: tuple[AllocationRow, ...]
    next: str | None
    """Send it as ``after`` for the next page; null on the last."""


# ---- allocations and transfers --------------------------------------------------------------------


class AllocateResult(Record):
    """Memory that was handed out."""

    allocation_id: str
    device_id: str
    memory_type: MemoryType
    size_bytes: Bytes
    actual_bytes: Bytes
    shared_memory: SharedMemory | None
    available_bytes: Bytes | None
    """After."""
    models_unloaded: tuple[UnloadedModel, ...]
    released: tuple[ReleasedMemory, ...] = ()
    """What other consumers than models gave back for it."""


class DeallocateResult(Record):
    """Memory that was given back."""

    allocation_id: str
    device_id: str
    freed_bytes: Bytes
    returned_bytes: Bytes | None
    """Measured at the operating system or driver."""
    available_bytes: Bytes | None
    """After."""


class RenewLeaseResult(Record):
    """How long the allocation stays now."""

    allocation_id: str
    lease_expires_in_ms: Milliseconds


class ErrorBody(Record):
    """Why a request failed, and what the host may do about it."""

    code: ErrorCode
    message: str
    executed: Executed
    retryable: bool
    details: dict[str, Any]


class TransferResult(Record):
    """A transfer as it stands; ``memory.transfer`` and ``memory.get_transfer`` answer it alike."""

    transfer_id: str
    state: TransferState
    source_allocation_id: str
    destination_allocation_id: str | None
    source_device_id: str
    destination_device_id: str
    size_bytes: Bytes
    completed_bytes: Bytes
    duration_us: Microseconds | None
    bytes_per_second: Count | None
    checksum: str | None
    """``sha256:`` and the digest, where it was verified."""
    shared_memory: SharedMemory | None
    error: ErrorBody | None


# ---- reclaiming -----------------------------------------------------------------------------------


class ClearResult(Record):
    """What was given up, and what stayed."""

    cleared_bytes: Bytes
    returned_bytes: Bytes | None
    allocations_freed: Count
    models_unloaded: tuple[UnloadedModel, ...]
    kept: tuple[Kept, ...]
    allocation_ids: tuple[str, ...] | None
    """Of the allocations that were freed; null where they are more than 10,000: what is left is listed."""


class DefragmentStep(Record):
    """One thing that was done, and what came back."""

    step: str
    returned_bytes: Bytes | None


class ContentsDisplacedData(Record):
    """What of a device's contents is in host memory until the device has room for it; empty once all is back.

    It can be read, written and freed meanwhile. It happens where the budget falls while a process is replaced.
    """

    device_id: str
    reason: str | None
    displaced_bytes: Bytes
    allocation_ids: tuple[str, ...]
    model_ids: tuple[str, ...]


class DefragmentResult(Record):
    """What defragmenting did. The fragmentation is null where the device cannot tell, or over several."""

    returned_bytes: Bytes | None
    allocations_moved: Count
    fragmentation_before: Fragmentation | None
    fragmentation_after: Fragmentation | None
    steps: tuple[DefragmentStep, ...]
    displaced: tuple[ContentsDisplacedData, ...]
    """What a new process had no room for after all, and so waits in host memory."""


class OptimizeStep(Record):
    """A recommended action, carried out unless it was a dry run."""

    step: str
    data: dict[str, Any]
    expected_bytes: Bytes | None
    returned_bytes: Bytes | None
    """Measured at the operating system or driver; null in a dry run, or where it can't be measured."""
    reason: str
    """Why; and what came back, where that is not what was expected."""


class OptimizeResult(Record):
    """What optimizing did."""

    claimed_bytes: Bytes | None
    """What the steps that were carried out should have freed, by the ledger."""
    returned_bytes: Bytes | None
    """What came back of it, measured at the operating system or driver."""
    steps: tuple[OptimizeStep, ...]
    pressure_before: PressureLevel
    pressure_after: PressureLevel
    released: tuple[ReleasedMemory, ...] = ()
    """What other consumers than models gave back, or in a dry run would be asked for; not among the steps."""


# ---- models ---------------------------------------------------------------------------------------


class ModelStatus(Record):
    """One configured model."""

    model_id: str
    state: ModelState
    """``failed`` where the last try to load it failed, and where it can't be loaded; ``unloaded`` where it was lost with
    its device or its engine's process. Its next use tries either again, unless ``state_reason`` says otherwise."""
    device_id: str | None
    loader: str | None
    declared_bytes: Bytes | None
    estimated_bytes: Bytes | None
    measured_bytes: Bytes | None
    measured_process_bytes: Bytes | None
    """What the process that it is in grew by while it was loaded, by the system: its engine's, its device's where that
    has one, else the worker's; null where other changes hide it."""
    working_bytes: Bytes | None
    """What a model in an engine's process takes beside what it took when it was loaded, measured after its last work;
    null for others."""
    kv_bytes: Bytes | None
    """What its cache of keys and values takes, as its engine says; null where there is none, or it does not say."""
    kv_bytes_per_token: Bytes | None
    """What one more token takes of it."""
    pinned: bool
    priority: Int64
    in_use: Count
    load_count: Count
    use_count: Count
    load_ms: Milliseconds | None
    last_used_ms_ago: Milliseconds | None
    keep_alive_ms: Milliseconds | None
    expires_in_ms: Milliseconds | None
    state_reason: str | None
    """Why it can't be loaded, found out before it is asked for or when it was, or how it was lost with its device or
    its engine's process, or, of one that is loaded, why the file that took the place of its own can't be; else null."""


class LoadModelResult(ModelStatus):
    """The model as it is now, and what went for it. ``load_ms`` is of the load that made it resident."""

    requested_model_id: str
    """Another than ``model_id`` where its fallback was loaded instead."""
    fallback_reason: str | None
    """Why, in bytes; null where the model asked for was loaded."""
    models_unloaded: tuple[UnloadedModel, ...]
    released: tuple[ReleasedMemory, ...] = ()
    """What other consumers than models gave back for it."""


class GetModelStatusResult(Record):
    """The configured models and where they are."""

    models: tuple[ModelStatus, ...]
    pressure_level: PressureLevel
    pressure_percentage: Percent | None
    available_operations: tuple[str, ...]
    optimization_recommendations: tuple[Recommendation, ...]
    last_synchronized: str
    """RFC 3339, UTC."""


class RefusedModel(Record):
    """A model whose declaration can't be used, and why."""

    model_id: str
    reason: str


class ReloadModelsResult(Record):
    """What the file of models declares otherwise than before, by id."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    """Loaded anew at the next use; those in use, after their last lease."""
    removed: tuple[str, ...]
    """Gone; those in use, after their last lease."""
    kept: tuple[str, ...]
    """Declared as before: what of them is loaded stays."""
    refused: tuple[RefusedModel, ...]
    """Declared so that they can't be used; those that were there before stay as they were."""


class PerformanceImpact(Record):
    """What unloading will cost when the models are needed again."""

    reload_ms: Milliseconds | None
    models_affected: Count


class ModelOptimizeResult(Record):
    """Which models went, which stayed, and whether the goal was met."""

    optimization_triggered: bool
    optimization_strategy: EvictionStrategy
    memory_freed_bytes: Bytes
    memory_returned_bytes: Bytes | None
    models_unloaded: tuple[UnloadedModel, ...]
    models_kept: tuple[KeptModel, ...]
    performance_impact: PerformanceImpact
    optimization_time_ms: Milliseconds
    pressure_before: PressureLevel
    pressure_after: PressureLevel
    goal_met: bool
    message: str


# ---- pressure and analytics -----------------------------------------------------------------------


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
    """Of Python objects: the file and line that made them."""
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


# ---- planning -------------------------------------------------------------------------------------


class PlannedEviction(Record):
    """A model that would go."""

    model_id: str
    freed_bytes: Bytes
    reload_ms: Milliseconds | None
    reason: str


class PlannedRelease(Record):
    """What another consumer than the worker's own models would be asked to give back."""

    consumer_id: str
    kind: str
    expected_bytes: Bytes
    """What is expected back, by what came of its promises before."""
    cost_ms: Cost | None
    """What rebuilding it takes, by how often it is expected to be needed in ten minutes; null where unknown."""
    reason: str


class PlannedCandidate(Record):
    """Whether one way fits, and what would have to go for it."""

    name: str
    fits: bool
    device_id: str
    shortfall_bytes: Bytes | None
    """What is missing after the evictions; null where the headroom can't be told."""
    evictions: tuple[PlannedEviction, ...]
    reload_ms: Milliseconds | None
    """To bring back what went; null where one of them was never measured."""
    required_bytes: Bytes | None = None
    """What it needs: of a model, what is not there yet; null for a model that can't be loaded."""
    releases: tuple[PlannedRelease, ...] = ()
    """What other consumers would be asked for, before the evictions."""


class PlanResult(Record):
    """The first way that fits, and why. Nothing was changed."""

    selected: str | None
    reason: str
    candidates: tuple[PlannedCandidate, ...]
    plan_id: str | None = None
    """Has ``memory.allocate`` or ``memory.load_model`` do what was selected; null where there is nothing to do."""
    plan_expires_in_ms: Milliseconds | None = None


class PlanBatchesResult(Record):
    """The largest batch that fits, and what it saves against doing all at once."""

    batch_size: Count
    batch_count: Count
    peak_bytes: Bytes
    unbatched_bytes: Count
    savings_percentage: Percent
    plan_id: str | None = None
    """By which the rest is asked for anew, with ``done_items``, as often as pressure may have changed. A thousand are kept."""
    remaining_items: Count | None = None
    """Items that this is the plan for."""


class OperationBeginResult(Record):
    """The operation is under way."""

    operation_id: str


class OperationEndResult(Record):
    """What an operation took: its time, and how the worker's own process grew meanwhile.

    Other processes have figures of their own: devices and engines in ``memory.get_status``.
    """

    name: str
    duration_us: Microseconds
    peak_bytes: Bytes | None
    """The most that the process had grown by, as it was sampled a hundred times a second; null where the system does not say."""
    delta_bytes: Int64 | None
    """What it had grown by at the end; negative where it shrank."""


# ---- fleets ---------------------------------------------------------------------------------------


class MovedMemory(Record):
    """An allocation or a model that a node held, and that another node holds from now on."""

    allocation_id: str | None
    """As it was named before; null for a model."""
    destination_allocation_id: str | None
    """As it is named from now on; null for a model."""
    model_id: str | None
    """Null for an allocation."""
    source_device_id: str
    destination_device_id: str
    moved_bytes: Bytes
    """What the allocation is, as asked for, or what the model takes where it is now."""


class DrainedModel(Record):
    """A model that a node unloaded, and that no other loaded for it: that is done at its next use."""

    model_id: str
    device_id: str
    freed_bytes: Bytes
    """What the model was counted with, and is no longer: by the ledger."""
    returned_bytes: Bytes | None
    """What the system shows came back; null where it does not say."""
    reload_ms: Milliseconds | None
    reason: str


class FleetDrainResult(Record):
    """What became of all that a node held; it is empty where nothing was kept."""

    node: str
    moved: tuple[MovedMemory, ...]
    unloaded: tuple[DrainedModel, ...]
    kept: tuple[Kept, ...]
    """Allocations and models that stay on the node, and why: nothing else has room for them, or they are in use. Drain
    it again when that is over."""
    cost_ms: Cost | None
    """What moving took, and what loading again what was unloaded is expected to take; null where that was never measured."""


# ---- limits ---------------------------------------------------------------------------------------


class Limits(Record):
    """A device's configured limits."""

    limit_bytes: Bytes | None
    reserve_bytes: Bytes
    thresholds: PressureThresholds


class SetLimitsResult(Record):
    """The limits before and after, and what lies over the new cap."""

    previous: Limits
    limits: Limits
    allocations_affected: Count
    """Live allocations on the device while it is over its cap; none is freed."""
    bytes_over_limit: Bytes


# ---- consumers ------------------------------------------------------------------------------------


class RegisterConsumerResult(Record):
    """The consumer is known, and the most that it is to hold now."""

    consumer_id: str
    created: bool
    limit_bytes: Bytes | None
    """Null for no limit."""


class ReleasedResult(Record):
    """What the consumer holds now, as far as it was said, and the most that it is to hold."""

    consumer_id: str
    held_bytes: Bytes
    limit_bytes: Bytes | None


class UnregisterConsumerResult(Record):
    """The consumer is not known any more."""

    consumer_id: str
    existed: bool


class ConsumerStatus(Record):
    """One consumer of memory: of the host, of a plugin, or one of the worker's own models and pools."""

    consumer_id: str
    kind: str
    device_id: str
    held_bytes: Bytes
    floor_bytes: Bytes
    """What it can't give back."""
    in_use_bytes: Bytes
    """What is in use just now, and so can't go either."""
    limit_bytes: Bytes | None
    """The most that it is to hold; null for no limit."""
    hits: Count | None
    misses: Count | None
    saved_ms: Cost | None
    price_ms_per_mib: Cost | None
    """Of the next MiB; null where it is unknown, or there is nothing to be had."""
    claimed_bytes: Bytes
    """What it said it gave back, since it is known."""
    returned_bytes: Bytes
    """What of that the device's readings showed."""
    last_released_ms_ago: Milliseconds | None


class GetConsumersResult(Record):
    """What holds memory, and what giving it back costs."""

    consumers: tuple[ConsumerStatus, ...]


# ---- the worker's own -----------------------------------------------------------------------------


class WorkerLimits(Record):
    """What the stream accepts."""

    max_frame_bytes: Bytes
    max_inflight: Count


class HelloResult(Record):
    """Who answers, and what it can be asked."""

    protocol: Count
    worker_version: str
    pid: Count
    actions: tuple[str, ...]
    limits: WorkerLimits
    schema_sha256: str
    host_watched: bool | None = None
    """Whether the worker ends with the process that ``host_pid`` names; false where it cannot be seen, as across
    containers: then only the end of the input ends it. Null without ``host_pid``."""


class PingResult(Record):
    """The worker answers."""

    uptime_ms: Milliseconds


class PartHealth(Record):
    """How one part of the worker is."""

    name: str
    """``requests``, ``events``, ``log``, ``stores``, ``device:ID``, ``models``, ``server:NAME``, ``record``,
    ``metrics_file``, ``monitor_socket``: those that there are."""
    state: HealthState
    reason: str | None
    """Why it is not ``ok``, or what it does; null where there is nothing to say."""


class GetHealthResult(Record):
    """How the worker is: what each part knows of itself. Nothing is tried out for the question, so it is answered at once."""

    state: HealthState
    """That of the worst part; what is ``off`` does not count."""
    parts: tuple[PartHealth, ...]


class CancelResult(Record):
    """Whether the request was queued or running."""

    found: bool


class SubscribeResult(Record):
    """What is subscribed to now."""

    events: tuple[EventName, ...]


class ShutdownResult(Record):
    """How many requests were finished or cancelled while draining."""

    drained: Count


# ---- events ---------------------------------------------------------------------------------------


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
