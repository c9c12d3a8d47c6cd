"""What is asked of models."""

from typing import Annotated

from pydantic import Field

from protocol import vocabulary as words
from protocol.params.fields import (
    EXCLUDED_MODELS_MAX,
    Bytes,
    Count,
    EvictionStrategy,
    Milliseconds,
    Name,
    Params,
    Percent,
    PressureLevel,
    UnloadMode,
    at_most,
)
from protocol.vocabulary import FOREVER, INT64_MAX


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
