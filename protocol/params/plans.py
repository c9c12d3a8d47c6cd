"""What is asked of plans, batches, limits and operations, and of a fleet."""

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from protocol.params.choices import Choice, Choosing, Way, exactly_one
from protocol.params.fields import (
    CANDIDATES_MAX,
    Bytes,
    Count,
    Name,
    Params,
    Part,
    Percent,
    SizeBytes,
    at_most,
)
from protocol.vocabulary import INT64_MAX


class PlanCandidate(Part, Choosing):
    """One way to do the work, and what it takes: so many bytes, or a model."""

    choices: ClassVar = (exactly_one("required_bytes", "model_id"),)

    name: Name
    required_bytes: Bytes | None = None
    """0 for a way that needs nothing, such as a ladder's last rung."""
    model_id: Name | None = None
    """A model to load, which needs what its file says or it took before, and nothing where it is loaded."""
    device_id: Name | None = None
    """Null for the default one, and with a model for its own, else whichever has room."""


class PlanParams(Params):
    """Ask which of several ways fits, in the order of preference. Changes nothing: ``plan_id`` takes it up."""

    candidates: Annotated[
        tuple[PlanCandidate, ...],
        Field(min_length=1, max_length=CANDIDATES_MAX, strict=False),
        at_most(CANDIDATES_MAX),
    ]
    allow_eviction: bool = True
    """Models may be counted as room where they could be unloaded."""


class PlanBatchesParams(Choosing):
    """Ask how to cut work into batches that fit: ``item_count`` and ``bytes_per_item``, or with ``plan_id`` the rest of it, anew."""

    choices: ClassVar = (
        Choice(
            "item_count and bytes_per_item are needed, or plan_id, with done_items alone beside it",
            Way("item_count", "bytes_per_item", beside=("fixed_bytes", "device_id", "max_fraction")),
            Way("plan_id", beside=("done_items",)),
        ),
    )

    item_count: Annotated[int, Field(ge=1, le=INT64_MAX)] | None = None
    bytes_per_item: SizeBytes | None = None
    fixed_bytes: Bytes = 0
    """Needed once beside each batch, whatever its size."""
    device_id: Name | None = None
    max_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the device's headroom that a batch may take."""
    plan_id: Name | None = None
    """Work that was cut before: the headroom is another by now. Everything else but ``done_items`` is as it was."""
    done_items: Count | None = None
    """Items of it that are done."""


class OperationBeginParams(Params):
    """Begin to measure something that the host does."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    """What ``memory.get_analytics`` counts it as: ``operation:NAME``. At most 256 names are told apart."""


class OperationEndParams(Params):
    """End an operation, and ask what it took."""

    operation_id: Name
    failed: bool = False
    """Whether what was done failed: it is counted so."""


class FleetDrainParams(Params):
    """Empty a node of a fleet, so that it can be taken away; nothing is placed on it until it is started again."""

    node: Name
    """What stands before the slash of its device ids."""


class Thresholds(Part):
    """Pressure percentages at which a device becomes moderate, high and critical."""

    moderate: Percent
    high: Percent
    critical: Percent

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        if not self.moderate < self.high < self.critical:
            message = f"{self.moderate} < {self.high} < {self.critical} does not hold"
            raise ValueError(message)
        return self


class SetLimitsParams(Params):
    """Change what is left out stays; ``limit_bytes: null`` takes the cap away."""

    device_id: Name
    limit_bytes: SizeBytes | None = None
    """Hard cap on this worker's allocations on the device."""
    reserve_bytes: Bytes | None = None
    """Kept free for the host."""
    thresholds: Thresholds | None = None
