"""How much unloading models has to free for a goal. Pure."""

import math

from protocol.record import Record
from protocol.results import PressureThresholds
from protocol.vocabulary import PressureLevel
from worker.policy.levels import DEMOTED_THRESHOLDS
from worker.policy.pressure import SEVERITY, Headroom, level_of

_SMALLEST_STEP = 0.001
"""Pressure percentages are rounded to this."""


class ModelGoal(Record):
    """What ``memory.model_optimize`` is to reach."""

    target: PressureLevel | float | None = None
    min_bytes: int = 0
    everything: bool = False
    """Whatever may go, goes."""


def goal_of(target: PressureLevel | float | None, min_bytes: int | None, *, forced: bool) -> ModelGoal:
    """Return the goal of a request.

    1. What it names: a target, bytes, or both.
    2. Nothing, but forced: all that may go.
    3. Nothing: no device is under high pressure.
    """
    if target is not None or min_bytes:  # 1
        return ModelGoal(target, min_bytes or 0)
    if forced:  # 2
        return ModelGoal(everything=True)
    return ModelGoal(PressureLevel.MODERATE)  # 3


def highest_percentage(target: PressureLevel | float, thresholds: PressureThresholds) -> float:
    """Return the pressure up to which a target is met."""
    if not isinstance(target, PressureLevel):
        return target
    above = {
        PressureLevel.LOW: thresholds.moderate,
        PressureLevel.MODERATE: thresholds.high,
        PressureLevel.HIGH: thresholds.critical,
    }
    return above[target] - _SMALLEST_STEP if target in above else 100.0


def bytes_to_free(
    target: PressureLevel | float | None, headroom: Headroom, thresholds: PressureThresholds
) -> int | None:
    """Return what has to be freed on a device to meet a target; None where its pressure can't be told.

    1. So much that it has the headroom: what the system moved out of it comes back before there is any;
    2. and that no more of that stays out than the share which that level allows.
    """
    if target is None:
        return 0
    to_return = bytes_demoted_above(target, headroom, thresholds)  # 2
    if headroom.budget_bytes is None or headroom.total_bytes is None or headroom.pressure_percentage is None:
        return None
    highest = highest_percentage(target, thresholds)
    if headroom.pressure_percentage <= highest:
        return to_return
    wanted = headroom.budget_bytes * (1 - highest / 100)  # 1
    return max(1, math.ceil(wanted) + headroom.owed_bytes - headroom.total_bytes, to_return)


def bytes_demoted_above(
    target: PressureLevel | float, headroom: Headroom, thresholds: PressureThresholds
) -> int:
    """Return what has to be freed so that no more of what is held is demoted than a target allows.

    Each byte that is freed lets one come back.
    """
    level = target if isinstance(target, PressureLevel) else level_of(target, thresholds)
    allowed = highest_percentage(level, DEMOTED_THRESHOLDS) / 100
    above = headroom.demoted_bytes - allowed * max(headroom.held_bytes, headroom.demoted_bytes)
    return math.ceil(above / (1 - allowed)) if above > 0 else 0


def target_met(
    target: PressureLevel | float | None, headroom: Headroom, thresholds: PressureThresholds
) -> bool:
    """Tell whether a device is at its target, or below."""
    if target is None:
        return True
    if headroom.pressure_percentage is None:
        return False
    if bytes_demoted_above(target, headroom, thresholds):
        return False
    if isinstance(target, PressureLevel):
        level = level_of(headroom.pressure_percentage, thresholds)
        return level is not PressureLevel.UNKNOWN and SEVERITY[level] <= SEVERITY[target]
    return headroom.pressure_percentage <= target
