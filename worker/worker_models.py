"""What can be said and done about models: this worker has none configured."""

from protocol.results import GetModelStatusResult, ModelOptimizeResult, PerformanceImpact
from protocol.vocabulary import EvictionStrategy, PressureLevel
from worker.clock import Clock
from worker.errors import ModelNotFoundError
from worker.manager_memory import MemoryManager
from worker.policy.pressure import SEVERITY, worst

NONE_CONFIGURED = "no models are configured, so there is nothing to unload"


class ModelWorker:
    """Answers truthfully for a worker without models."""

    def __init__(self, manager: MemoryManager, clock: Clock) -> None:
        self._manager = manager
        self._clock = clock

    def status(self, model_id: str | None, device_ids: tuple[str, ...]) -> GetModelStatusResult:
        """Return the models on these devices. ModelNotFoundError for one that is not configured."""
        if model_id is not None:
            message = f"no model {model_id!r}: none are configured"
            raise ModelNotFoundError(message, model_id=model_id, known_models=[])
        return GetModelStatusResult(
            models=(),
            pressure_level=self._level(device_ids),
            pressure_percentage=self._percentage(device_ids),
            available_operations=(),
            optimization_recommendations=(),
            last_synchronized=self._clock.utc().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        )

    def optimize(
        self,
        device_ids: tuple[str, ...],
        target: PressureLevel | float | None,
        strategy: EvictionStrategy,
        min_bytes: int | None,
    ) -> ModelOptimizeResult:
        """Unload models until the goals are met: there are none, so they are met already or not at all."""
        level, percentage = self._level(device_ids), self._percentage(device_ids)
        met = not min_bytes
        if isinstance(target, PressureLevel):
            met = met and level is not PressureLevel.UNKNOWN and SEVERITY[level] <= SEVERITY[target]
        elif target is not None:
            met = met and percentage is not None and percentage <= target
        return ModelOptimizeResult(
            optimization_triggered=False,
            optimization_strategy=strategy,
            memory_freed_bytes=0,
            memory_returned_bytes=0,
            models_unloaded=(),
            models_kept=(),
            performance_impact=PerformanceImpact(0, 0),
            optimization_time_ms=0,
            pressure_before=level,
            pressure_after=level,
            goal_met=met,
            message=NONE_CONFIGURED + ("; the goal is met as it is" if met else "; the goal is not met"),
        )

    def _level(self, device_ids: tuple[str, ...]) -> PressureLevel:
        return worst([self._manager.level(device_id) for device_id in device_ids])

    def _percentage(self, device_ids: tuple[str, ...]) -> float | None:
        rooms = [self._manager.headroom(device_id).pressure_percentage for device_id in device_ids]
        return max((room for room in rooms if room is not None), default=None)
