"""What plans, batches, operations and limits answer."""

from protocol.record import Record
from protocol.results.numbers import Bytes, Cost, Count, Int64, Microseconds, Milliseconds, Percent
from protocol.results.pieces import KeptConsumer
from protocol.results.pressure import PressureThresholds


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
    consumers_kept: tuple[KeptConsumer, ...] = ()
    """Of those that hold memory and would be asked for nothing, the first 16: the cheapest first, then those of which nothing can be had, then
    those on other devices. Empty where nothing has to be freed, or with ``allow_eviction: false``."""


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
