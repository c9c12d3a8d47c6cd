"""When the worker makes headroom by itself, how far it goes, and when it leaves off. Pure."""

from typing import Any

from protocol.record import Record
from protocol.vocabulary import OptimizationLevel, PressureLevel
from worker.core.clock import NS_PER_S
from worker.policy.pressure import SEVERITY

SUSTAINED_NS = 5 * NS_PER_S
"""A level that passes by itself within this is left to."""

COOL_DOWN_NS = 30 * NS_PER_S
COOL_DOWN_MAX_NS = 3600 * NS_PER_S

NOTHING_NS = 6 * NS_PER_S
"""Where all that may go was just used, it is sampled again after this."""

HOUR_NS = 3600 * NS_PER_S
MOST_PER_HOUR = 12
"""Whatever it seems to bring: a load that takes all that is freed must not keep the worker busy with freeing."""

PROTECTED_NS = 60 * NS_PER_S
"""A model that the user loaded or used within this is not touched."""

REGRET_NS = 600 * NS_PER_S
"""What is loaded again this soon after it went should not have gone."""

_EFFORTS = (OptimizationLevel.CONSERVATIVE, OptimizationLevel.NORMAL, OptimizationLevel.AGGRESSIVE)
_FURTHEST = {
    PressureLevel.LOW: 0,
    PressureLevel.MODERATE: 0,
    PressureLevel.HIGH: 1,
    PressureLevel.CRITICAL: 2,
}


Trigger = PressureLevel | float
"""From where on it acts: a level, or a share of the budget in percent."""


class AutoState(Record):
    """What is remembered of one device."""

    sustained_since_ns: int | None = None
    quiet_until_ns: int = 0
    cool_down_ns: int = COOL_DOWN_NS
    restraint: int = 0
    """How many steps less far it goes than the level would have it."""
    acted_ns: tuple[int, ...] = ()
    """When it acted, within the last hour."""
    failed_ns: int | None = None
    """When it last did not help, or was regretted."""


def is_due(trigger: Trigger, level: PressureLevel, percentage: float | None) -> bool:
    """Tell whether a device is where it is to be relieved: at a level or above, or at a percentage of its budget."""
    if isinstance(trigger, PressureLevel):
        return SEVERITY[level] >= SEVERITY[trigger]
    return percentage is not None and percentage >= trigger


def decide(
    state: AutoState,
    level: PressureLevel,
    trigger: Trigger,
    now_ns: int,
    percentage: float | None = None,
) -> tuple[AutoState, OptimizationLevel | None]:
    """Decide whether to act now, and how far to go.

    1. Not there: nothing, and the next time it has to be sustained anew.
    2. Not sustained yet: wait.
    3. Cooling down, or as often as it may within an hour: wait.
    4. Otherwise as far as the level asks, less what restraint was learned; at a percentage as far as at ``high``, whatever
       the level there is called.
    """
    if not is_due(trigger, level, percentage):  # 1
        return _with(state, sustained_since_ns=None), None
    since = now_ns if state.sustained_since_ns is None else state.sustained_since_ns
    acted = tuple(at for at in state.acted_ns if now_ns - at < HOUR_NS)
    state = _with(state, sustained_since_ns=since, acted_ns=acted)
    if now_ns - since < SUSTAINED_NS:  # 2
        return state, None
    if now_ns < state.quiet_until_ns or len(acted) >= MOST_PER_HOUR:  # 3
        return state, None
    furthest = _FURTHEST.get(level, 0)
    if not isinstance(trigger, PressureLevel):
        furthest = max(furthest, _FURTHEST[PressureLevel.HIGH])
    return state, _EFFORTS[max(0, furthest - state.restraint)]  # 4


def learn(state: AutoState, *, helped: bool, now_ns: int) -> AutoState:
    """Take into account what an action brought, and cool down.

    1. It did not help: twice as long a pause as before, up to an hour, and a step less far.
    2. It helped, but not long after it did not, or was regretted: a pause as before. Nothing is forgotten yet,
       for what seems to help may be what is regretted next.
    3. It helped, and there was peace for twice the pause: half the pause, and a step further.
    """
    acted = (*state.acted_ns, now_ns)
    if not helped:  # 1
        cool_down = min(2 * state.cool_down_ns, COOL_DOWN_MAX_NS)
        restraint = min(state.restraint + 1, len(_EFFORTS) - 1)
        return AutoState(None, now_ns + cool_down, cool_down, restraint, acted, now_ns)
    cool_down, restraint = state.cool_down_ns, state.restraint
    if state.failed_ns is not None and now_ns - state.failed_ns >= 2 * cool_down:  # 3
        cool_down, restraint = max(cool_down // 2, COOL_DOWN_NS), max(0, restraint - 1)
    return AutoState(None, now_ns + cool_down, cool_down, restraint, acted, state.failed_ns)  # 2


def pause(state: AutoState, now_ns: int) -> AutoState:
    """Note that there is nothing that may be done yet: it is not looked for again at once."""
    return _with(state, quiet_until_ns=now_ns + NOTHING_NS)


def regret(state: AutoState, now_ns: int) -> AutoState:
    """Take into account that what went was asked for again: as if it had not helped, without having acted."""
    return _with(learn(state, helped=False, now_ns=now_ns), acted_ns=state.acted_ns)


def _with(state: AutoState, **changes: Any) -> AutoState:
    return AutoState(**(vars(state) | changes))
