"""What is asked of plans, batches, limits and operations, and of a fleet."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

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
    exactly_one,
)
from protocol.vocabulary import INT64_MAX


class PlanCandidate(Part):
    """One way to do the work, and what it takes: so many bytes, or a model."""

    model_config = ConfigDict(json_schema_extra=exactly_one("required_bytes", "model_id"))

    name: Name
    required_bytes: Bytes | None = None
    """0 for a way that needs nothing, such as a ladder's last rung."""
    model_id: Name | None = None
    """A model to load, which needs what its file says or it took before, and nothing where it is loaded."""
    device_id: Name | None = None
    """Null for the default one, and with a model for its own, else whichever has room."""

    @model_validator(mode="after")
    def _one_need(self) -> Self:
        if (self.required_bytes is None) is (self.model_id is None):
            raise ValueError("exactly one of required_bytes and model_id is needed")
        return self


class PlanParams(Params):
    """Ask which of several ways fits, in the order of preference. Changes nothing: ``plan_id`` takes it up."""

    candidates: Annotated[
        tuple[PlanCandidate, ...],
        Field(min_length=1, max_length=CANDIDATES_MAX, strict=False),
        at_most(CANDIDATES_MAX),
    ]
    allow_eviction: bool = True
    """Models may be counted as room where they could be unloaded."""


_NEW_PLAN, _KNOWN_PLAN = {"item_count", "bytes_per_item"}, {"plan_id", "done_items"}


class PlanBatchesParams(Params):
    """Ask how to cut work into batches that fit: ``item_count`` and ``bytes_per_item``, or with ``plan_id`` the rest of it, anew."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {
                    "required": ["item_count", "bytes_per_item"],
                    "properties": {
                        **{key: {"not": {"type": "null"}} for key in sorted(_NEW_PLAN)},
                        **{key: {"type": "null"} for key in sorted(_KNOWN_PLAN)},
                    },
                },
                {
                    "required": ["plan_id"],
                    "properties": {
                        "plan_id": {"not": {"type": "null"}},
                        **{key: {"type": "null"} for key in [*sorted(_NEW_PLAN), "device_id"]},
                        **dict.fromkeys(["fixed_bytes", "max_fraction"], False),
                    },
                },
            ]
        }
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

    @model_validator(mode="after")
    def _new_or_known(self) -> Self:
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        if not (given >= _NEW_PLAN and not given & _KNOWN_PLAN) and not (
            "plan_id" in given and given <= _KNOWN_PLAN
        ):
            message = "item_count and bytes_per_item are needed, or plan_id, with done_items alone beside it"
            raise ValueError(message)
        return self


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
