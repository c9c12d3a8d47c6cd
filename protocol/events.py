"""The table that binds an event's name to what it carries. Without pydantic, for clients."""

from typing import Any

from protocol import results
from protocol.vocabulary import EventName

EVENTS: dict[str, type[Any]] = {
    "progress": results.ProgressData,
    EventName.PRESSURE_CHANGED: results.PressureChangedData,
    EventName.EXHAUSTION_FORECAST: results.ExhaustionForecastData,
    EventName.BUDGET_CHANGED: results.BudgetChangedData,
    EventName.DEMOTION_CHANGED: results.DemotionChangedData,
    EventName.LEAK_SUSPECTED: results.LeakSuspectedData,
    EventName.OPTIMIZED: results.OptimizedData,
    EventName.ALLOCATION_EXPIRED: results.AllocationExpiredData,
    EventName.MODEL_UNLOADED: results.ModelUnloadedData,
    EventName.UNLOAD_REQUESTED: results.UnloadRequestedData,
    EventName.RELEASE_REQUESTED: results.ReleaseRequestedData,
    EventName.CONSUMER_LIMIT_CHANGED: results.ConsumerLimitChangedData,
    EventName.DEVICE_LOST: results.DeviceLostData,
    EventName.DEVICE_RECOVERED: results.DeviceRecoveredData,
    EventName.CONTENTS_DISPLACED: results.ContentsDisplacedData,
    EventName.FIGURES: results.FiguresData,
}
"""What each event carries in ``data``."""
