"""Events by their names on the wire, and what each carries there."""

from collections.abc import Callable
from typing import Any

from protocol import results as r
from protocol.vocabulary import EventName
from worker.core import events as e
from worker.instructor.recommendations import wire_recommendations, wire_steps


def event_types(names: tuple[EventName, ...]) -> tuple[type[e.Event], ...]:
    """Return which events are meant by names on the wire."""
    return tuple(_TYPES[name] for name in names)


def wire_event(event: e.Event) -> tuple[EventName, Any]:
    """Return an event's name, and its data as it is written."""
    name, data = _WIRE[type(event)]
    return name, data(event)


def _as_it_is(kind: Callable[..., Any]) -> Callable[[e.Event], Any]:
    return lambda event: kind(**vars(event))


def _pressure_changed(event: e.PressureChanged) -> r.PressureChangedData:
    return {
        "device_id": event.device_id,
        "from": event.before,
        "to": event.after,
        "pressure_percentage": event.pressure_percentage,
        "available_bytes": event.available_bytes,
    }


def _exhaustion_forecast(event: e.ExhaustionForecast) -> r.ExhaustionForecastData:
    device_id, available, trend = event.device_id, event.available_bytes, event.trend
    if trend is None:
        return r.ExhaustionForecastData(device_id, None, available, None, None, None)
    return r.ExhaustionForecastData(device_id, available_bytes=available, **vars(trend))


def _budget_changed(event: e.BudgetChanged) -> r.BudgetChangedData:
    return r.BudgetChangedData(
        event.device_id, event.before, event.after, event.budget_source, event.available_bytes
    )


def _demotion_changed(event: e.DemotionChanged) -> r.DemotionChangedData:
    return r.DemotionChangedData(event.device_id, event.before, event.after)


def _optimized(event: e.Optimized) -> r.OptimizedData:
    return r.OptimizedData(**vars(event) | {"steps": wire_steps(event.steps)})


def _allocation_expired(event: e.AllocationExpired) -> r.AllocationExpiredData:
    row = event.expiration
    return r.AllocationExpiredData(
        row.allocation_id, row.device_id, row.owner, row.freed_bytes, row.returned_bytes
    )


def _model_unloaded(event: e.ModelUnloaded) -> r.ModelUnloadedData:
    row = event.eviction
    return r.ModelUnloadedData(row.model_id, row.device_id, row.freed_bytes, row.returned_bytes, row.reason)


def _figures(event: e.Figures) -> r.FiguresData:
    return r.FiguresData(**vars(event) | {"recommendations": wire_recommendations(event.recommendations)})


_WIRE: dict[type[e.Event], tuple[EventName, Callable[[Any], Any]]] = {
    e.PressureChanged: (EventName.PRESSURE_CHANGED, _pressure_changed),
    e.ExhaustionForecast: (EventName.EXHAUSTION_FORECAST, _exhaustion_forecast),
    e.BudgetChanged: (EventName.BUDGET_CHANGED, _budget_changed),
    e.DemotionChanged: (EventName.DEMOTION_CHANGED, _demotion_changed),
    e.LeakSuspected: (EventName.LEAK_SUSPECTED, lambda event: r.LeakSuspectedData(**vars(event.leak))),
    e.Optimized: (EventName.OPTIMIZED, _optimized),
    e.AllocationExpired: (EventName.ALLOCATION_EXPIRED, _allocation_expired),
    e.ModelUnloaded: (EventName.MODEL_UNLOADED, _model_unloaded),
    e.UnloadRequested: (EventName.UNLOAD_REQUESTED, _as_it_is(r.UnloadRequestedData)),
    e.ReleaseRequested: (EventName.RELEASE_REQUESTED, _as_it_is(r.ReleaseRequestedData)),
    e.ConsumerLimitChanged: (EventName.CONSUMER_LIMIT_CHANGED, _as_it_is(r.ConsumerLimitChangedData)),
    e.DeviceLost: (EventName.DEVICE_LOST, _as_it_is(r.DeviceLostData)),
    e.DeviceRecovered: (EventName.DEVICE_RECOVERED, _as_it_is(r.DeviceRecoveredData)),
    e.ContentsDisplaced: (EventName.CONTENTS_DISPLACED, _as_it_is(r.ContentsDisplacedData)),
    e.Figures: (EventName.FIGURES, _figures),
}
_TYPES = {name: kind for kind, (name, _) in _WIRE.items()}
