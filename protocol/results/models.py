"""What is said of models, and what loading, unloading and optimizing them answer."""

from protocol.record import Record
from protocol.results.numbers import Bytes, Count, Int64, Milliseconds, Percent
from protocol.results.pieces import KeptModel, Recommendation, ReleasedMemory, UnloadedModel
from protocol.vocabulary import EvictionStrategy, FileLocation, ModelState, PressureLevel


class ModelStatus(Record):
    """One configured model."""

    model_id: str
    state: ModelState
    """``failed`` where the last try to load it failed; ``unloaded`` where it was lost with its device or its engine's
    process, and where it is known beforehand that it can't be loaded, which ``state_reason`` says. Its next use tries
    either again, unless ``state_reason`` says otherwise."""
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
    file_location: FileLocation | None
    """Where its file was when it was last looked at; null for one that has none, or was not looked at yet."""
    names: tuple[str, ...]
    """What it can be asked for by beside its id: aliases, and the roles that it is for."""


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
