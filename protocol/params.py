"""What each action takes in ``data``. Strict: no coercion, and an unknown key is refused by name.

``device_id: "all"`` means the same as leaving it out wherever several devices can be answered for.
"""

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from protocol import vocabulary as words
from protocol.vocabulary import FOREVER, INT64_MAX

_MILLISECONDS_PER_UNIT = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION_PATTERN = r"^[1-9][0-9]{0,8}(ms|s|m|h|d)$"


def parse_duration_ms(text: str) -> int:
    """Read ``"90s"`` or ``"1h"`` as milliseconds. Units ms, s, m, h, d; ValueError for anything else."""
    match = re.fullmatch(r"(\d+)(\D+)", text)
    if match is None or match[2] not in _MILLISECONDS_PER_UNIT:
        message = f"{text!r} is not a duration such as '500ms', '90s', '15m', '1h' or '7d'"
        raise ValueError(message)
    return int(match[1]) * _MILLISECONDS_PER_UNIT[match[2]]


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        message = f"{value} is not a power of two"
        raise ValueError(message)
    return value


KEYS_MAX = 32
"""An object with more keys than this is refused without naming them: none has as many."""

EVENTS_MAX = 100
SECTIONS_MAX = 100
EXCLUDED_MODELS_MAX = 10_000
CANDIDATES_MAX = 1_000
OFFERS_MAX = 64


def exactly_one(*names: str) -> dict[str, Any]:
    """Return what a JSON Schema says of fields of which one, and no other, is given."""

    def only(one: str) -> dict[str, Any]:
        others = {each: {"type": "null"} for each in names if each != one}
        return {"required": [one], "properties": {one: {"not": {"type": "null"}}, **others}}

    return {"oneOf": [only(each) for each in names]}


def at_most(most: int) -> Any:
    """Refuse a longer list before its items are looked at: pydantic makes an error of each that is wrong."""

    def check(value: Any) -> Any:
        if isinstance(value, list) and len(value) > most:
            message = f"a list of {len(value)} items; at most {most} are taken"
            raise ValueError(message)
        return value

    return BeforeValidator(check)


def few_keys(value: Any) -> Any:
    """Refuse an object with too many keys before they are looked at. ValueError with their number."""
    if isinstance(value, dict) and len(value) > KEYS_MAX:
        message = f"an object of {len(value)} keys; none has more than {KEYS_MAX}"
        raise ValueError(message)
    return value


Name = Annotated[str, Field(min_length=1, max_length=256)]
Bytes = Annotated[int, Field(ge=0, le=INT64_MAX)]
SizeBytes = Annotated[int, Field(ge=1, le=INT64_MAX)]
Count = Annotated[int, Field(ge=0, le=INT64_MAX)]
Milliseconds = Annotated[int, Field(ge=0, le=INT64_MAX)]
Percent = Annotated[float, Field(gt=0, le=100)]
Alignment = Annotated[int, Field(ge=1, le=2**30), AfterValidator(_power_of_two)]
Duration = Annotated[str, Field(pattern=DURATION_PATTERN)]

# JSON has no enums: a word is read as its member, although the models are strict otherwise.
_WORD = Field(strict=False)
MemoryType = Annotated[words.MemoryType, _WORD]
Initialize = Annotated[words.Initialize, _WORD]
TransferType = Annotated[words.TransferType, _WORD]
ClearType = Annotated[words.ClearType, _WORD]
OptimizationLevel = Annotated[words.OptimizationLevel, _WORD]
GroupBy = Annotated[words.GroupBy, _WORD]
EvictionStrategy = Annotated[words.EvictionStrategy, _WORD]
UnloadMode = Annotated[words.UnloadMode, _WORD]
AnalyticsSection = Annotated[words.AnalyticsSection, _WORD]
EventName = Annotated[words.EventName, _WORD]
PressureLevel = Annotated[words.PressureLevel, _WORD]


class Params(BaseModel):
    """Base of every action's ``data``."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", protected_namespaces=(), defer_build=True
    )


class Part(Params):
    """Base of an object within ``data``."""

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, value: Any) -> Any:
        return few_keys(value)


class GetStatusParams(Params):
    """Ask where the memory is, on one device or all."""

    device_id: Name | None = None
    include_allocations: bool = False
    include_usage_stats: bool = False
    include_fragmentation: bool = False
    include_processes: bool = False
    """List the processes that hold memory of each device. Asks the driver or the system: some milliseconds."""
    refresh: bool = False
    """Ask the operating system and the devices now, instead of answering from readings up to 100 ms old (250 ms, of a
    device in a process of its own). One that does not answer in 40 ms is told of by its last figures."""
    limit: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Devices on a page; null for all of them."""
    after: Name | None = None
    """The ``next`` of the page before."""


class GetUsageParams(Params):
    """Ask for allocated bytes by owner, purpose or memory type."""

    device_id: Name | None = None
    group_by: GroupBy = words.GroupBy.OWNER


class GetAllocationsParams(Params):
    """List allocations, oldest first, a page at a time."""

    device_id: Name | None = None
    allocation_id: Name | None = None
    owner: Name | None = None
    purpose: Name | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 100
    after: Name | None = None
    """The ``next`` of the page before."""


class AllocateParams(Params):
    """Ask for memory. All or nothing: a failed allocate changes no figure."""

    size_bytes: SizeBytes
    device_id: Name | None = None
    memory_type: MemoryType = words.MemoryType.DEVICE
    initialize: Initialize = words.Initialize.ZERO
    alignment: Alignment | None = None
    """Bytes, a power of two up to 1 GiB; null for the device's own."""
    purpose: Name | None = None
    owner: Name | None = None
    persistent: bool = False
    lease_ms: Annotated[int, Field(ge=1, le=INT64_MAX)] | None = None
    """The allocation is freed when this runs out."""
    make_room: bool = False
    """Models may be unloaded to make it fit."""
    plan_id: Name | None = None
    """A plan for so many bytes, which is carried out as it was answered, or refused as ``plan_stale``."""


class DeallocateParams(Params):
    """Give one allocation back."""

    allocation_id: Name
    force: bool = False
    """Also while it is persistent."""


class RenewLeaseParams(Params):
    """Have an allocation's lease end later, or sooner; one without a lease gets one."""

    allocation_id: Name
    lease_ms: Annotated[int, Field(ge=1, le=INT64_MAX)]
    """From now on, whatever was left of it."""


class TransferParams(Params):
    """Copy or move an allocation's contents to a new allocation."""

    source_allocation_id: Name
    destination_device_id: Name
    transfer_type: TransferType = words.TransferType.COPY
    memory_type: MemoryType = words.MemoryType.DEVICE
    """Of the new allocation."""
    verify: bool = False
    """Read the copy back and compare SHA-256 digests."""
    wait: bool = True
    """False answers at once; follow it with ``memory.get_transfer``."""


class GetTransferParams(Params):
    """Ask how far a transfer has come."""

    transfer_id: Name


class ClearParams(Params):
    """Give up caches, allocations or models."""

    device_id: Name | None = None
    clear_type: ClearType = words.ClearType.CACHE
    owner: Name | None = None
    """Only this owner's allocations."""
    force: bool = False
    """Also what is persistent or pinned."""


class DefragmentParams(Params):
    """Join free memory into larger blocks and give back what is not needed."""

    device_id: Name | None = None
    aggressive: bool = False
    """May restart the device's own process; its contents are carried over."""


class OptimizeParams(Params):
    """Carry out the recommended actions up to a level."""

    device_id: Name | None = None
    optimization_level: OptimizationLevel = words.OptimizationLevel.CONSERVATIVE
    dry_run: bool = False


class GetModelStatusParams(Params):
    """Ask for the configured models and where they are."""

    model_id: Name | None = None
    device_id: Name | None = None


class ModelOptimizeParams(Params):
    """Unload models until a goal is met."""

    device_id: Name | None = None
    target_pressure_level: PressureLevel | Percent | None = None
    """A level's name, or a percentage up to 100."""
    strategy: EvictionStrategy = words.EvictionStrategy.ADAPTIVE
    max_models_to_unload: Count | None = None
    min_memory_to_free_bytes: Bytes | None = None
    force_optimization: bool = False
    exclude_models: Annotated[
        tuple[Name, ...], Field(max_length=EXCLUDED_MODELS_MAX, strict=False), at_most(EXCLUDED_MODELS_MAX)
    ] = ()
    max_optimization_time_ms: Milliseconds | None = None
    dry_run: bool = False


class LoadModelParams(Params):
    """Load a model, or note one more use of it if it is loaded."""

    model_id: Name
    device_id: Name | None = None
    """Null for the model's own, else whichever has room."""
    make_room: bool = True
    """Other models may be unloaded to make it fit."""
    pin: bool | None = None
    """Whether it stays until unloaded by force; null leaves that as it is."""
    keep_alive_ms: Annotated[int, Field(ge=FOREVER, le=INT64_MAX)] | None = None
    """How long it stays after its last use, -1 for until evicted; null leaves that as it is."""
    allow_fallback: bool = True
    """The model's declared fallback may be loaded where it has no room itself."""
    plan_id: Name | None = None
    """A plan for this model, which is carried out as it was answered, or refused as ``plan_stale``; then
    ``make_room`` and ``allow_fallback`` have no say."""


class ReloadModelsParams(Params):
    """Read the file of models again; what is loaded and declared as before stays loaded."""


class UnloadModelParams(Params):
    """Unload a model that is not in use; where another process holds it, ask its owner to."""

    model_id: Name
    mode: UnloadMode = words.UnloadMode.UNLOAD
    """How much goes: `shrink` gives back what an engine keeps beside the model, which stays loaded; `offload` keeps a
    copy in the machine's own memory; `unload` keeps nothing."""
    by_owner: bool = False
    """The owner's word that it has unloaded the model, which another process than the worker held."""


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


class GetPressureParams(Params):
    """Ask how close devices are to running out, and what would help."""

    device_id: Name | None = None


class GetAnalyticsParams(Params):
    """Ask what has happened lately."""

    device_id: Name | None = None
    time_range: Duration = "1h"
    include: (
        Annotated[
            tuple[AnalyticsSection, ...],
            Field(min_length=1, max_length=SECTIONS_MAX, strict=False),
            at_most(SECTIONS_MAX),
        ]
        | None
    ) = None
    """Sections to answer; null for all."""


class GetMetricsParams(Params):
    """Ask for all figures as a metrics collector reads them."""


class GetOptimizationRecommendationsParams(Params):
    """Ask for the actions worth taking, over all devices, cheapest per byte first."""

    device_id: Name | None = None


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


class ConsumerOffer(Part):
    """Memory that a consumer would give back, and what that costs."""

    bytes: SizeBytes
    cost_ms: Annotated[float, Field(ge=0, le=INT64_MAX)]
    """What rebuilding it takes if it is needed again, in milliseconds."""


class RegisterConsumerParams(Params):
    """Say what a consumer of memory outside the worker holds, and what giving it back costs; sent again, it updates."""

    consumer_id: Name
    """The host's own name for it; what begins with ``model:``, ``engine:``, ``pool:``, ``external:`` or ``server:`` is the worker's."""
    kind: Name | None = None
    """Free text, such as ``response_cache``."""
    device_id: Name | None = None
    """Where its memory is; null for ``cpu``."""
    held_bytes: Bytes
    floor_bytes: Bytes = 0
    """What it can't give back."""
    offers: Annotated[
        tuple[ConsumerOffer, ...], Field(max_length=OFFERS_MAX, strict=False), at_most(OFFERS_MAX)
    ]
    """What it would give back, cheapest per byte first; any part of one may be asked for."""
    hits: Count | None = None
    """Since it was made, as the two below: what is used of it tells whether what goes will be needed again."""
    misses: Count | None = None
    saved_ms: Annotated[float, Field(ge=0, le=INT64_MAX)] | None = None
    """Milliseconds of rebuilding that its hits have saved."""
    owner: Name | None = None
    lease_ms: Annotated[int, Field(ge=1, le=INT64_MAX)] | None = None
    """It is forgotten when it was not registered again for so long; null for until it is unregistered."""


class ReleasedParams(Params):
    """Say that a consumer gave memory back: the answer to ``memory.release_requested``, or of its own accord."""

    consumer_id: Name
    bytes: Bytes
    """0 for none: what was asked for is not waited for any longer."""


class UnregisterConsumerParams(Params):
    """Have a consumer forgotten."""

    consumer_id: Name


class GetConsumersParams(Params):
    """Ask what holds memory, the worker's own models and pools among it, and what giving it back costs."""

    device_id: Name | None = None
    kind: Name | None = None


class HelloParams(Params):
    """Introduce the host. Optional: a bare ``memory.*`` works."""

    protocol_min: Annotated[int, Field(ge=1, le=INT64_MAX)] | None = None
    protocol_max: Annotated[int, Field(ge=1, le=INT64_MAX)] | None = None
    host_pid: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """The worker ends within a second of this process, even while the pipe stays open."""


class PingParams(Params):
    """Ask whether the worker answers."""


class GetHealthParams(Params):
    """Ask how each part of the worker is."""


class CancelParams(Params):
    """Cancel a request that is queued or running."""

    request_id: Annotated[str, Field(min_length=1, max_length=128)]


class SubscribeParams(Params):
    """Ask for events. The list replaces the one before; an empty one ends the subscription."""

    events: Annotated[tuple[EventName, ...], Field(max_length=EVENTS_MAX, strict=False), at_most(EVENTS_MAX)]
    figures_every_ms: Annotated[int, Field(ge=1_000, le=86_400_000)] = words.FIGURES_EVERY_MS
    """How often ``memory.figures`` comes, if it is among the events: at once, and then after so long each time."""


class ShutdownParams(Params):
    """Stop admitting, finish what runs, free everything, exit."""
