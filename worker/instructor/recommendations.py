"""Recommended actions as a host can send them back, and the steps that were made of them."""

from typing import Any

from protocol.results import OptimizeResult, OptimizeStep, Recommendation
from worker.core.actions import (
    ClearCache,
    Defragment,
    EvictBytes,
    OptimizeOutcome,
    Recommended,
    RecommendedAction,
    Step,
    UnloadModel,
    with_returned,
)


def wire_recommendations(rows: tuple[Recommended, ...]) -> tuple[Recommendation, ...]:
    """Return recommended actions, each as a request that can be sent as it stands."""
    return tuple(
        Recommendation(*_request(row.action), row.expected_freed_bytes, row.cost_ms, row.cost_of, row.reason)
        for row in rows
    )


def wire_steps(steps: tuple[Step, ...]) -> tuple[OptimizeStep, ...]:
    """Return what was done, each step by the request that would have done it."""
    return tuple(
        OptimizeStep(
            *_request(step.recommended.action),
            step.recommended.expected_freed_bytes,
            step.returned_bytes,
            with_returned(
                step.recommended.reason, step.recommended.expected_freed_bytes, step.returned_bytes
            ),
        )
        for step in steps
    )


def wire_outcome(outcome: OptimizeOutcome) -> OptimizeResult:
    """Return what optimizing did."""
    return OptimizeResult(
        outcome.claimed_bytes,
        outcome.returned_bytes,
        wire_steps(outcome.steps),
        outcome.pressure_before,
        outcome.pressure_after,
        outcome.released,
        outcome.models_kept,
        outcome.consumers_kept,
    )


def _request(action: RecommendedAction) -> tuple[str, dict[str, Any]]:
    """Return the name and the data of the request that does it."""
    match action:
        case ClearCache():
            return "memory.clear", {"device_id": action.device_id, "clear_type": "cache"}
        case UnloadModel():
            return "memory.unload_model", {"model_id": action.model_id}
        case EvictBytes():
            data = {"device_id": action.device_id, "min_memory_to_free_bytes": action.min_bytes}
            return "memory.model_optimize", data
        case Defragment():
            aggressive = {"aggressive": True} if action.restart else {}
            return "memory.defragment", {"device_id": action.device_id} | aggressive
