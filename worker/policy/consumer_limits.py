"""How much a consumer is to hold: falls with what it is asked for, and rises again once there is headroom. Pure.

A limit never rises and falls in a loop: it rises in steps, only while the device is calm and has headroom to spare, and
where it has to fall again soon after a rise, the next one comes later.
"""

from protocol.record import Record
from protocol.vocabulary import PressureLevel
from worker.core.clock import NS_PER_S

PAUSE_NS, PAUSE_MAX_NS = 30 * NS_PER_S, 3600 * NS_PER_S
"""Between a fall and a rise, and between two rises."""

STEPS = 4
"""Rises that it takes from a limit to no limit, where there is headroom for that."""

_STEP_LEAST = 2**20
_CALM = frozenset({PressureLevel.LOW})


class ConsumerLimit(Record):
    """The most that a consumer is to hold."""

    limit_bytes: int
    top_bytes: int
    """What it held when its limit began to fall: from there on it needs none."""
    changed_ns: int
    pause_ns: int = PAUSE_NS
    rose: bool = False
    """Whether the last change was a rise."""


def fall(before: ConsumerLimit | None, held_bytes: int, asked_bytes: int, now_ns: int) -> ConsumerLimit:
    """Return the limit of a consumer that is asked for so much of what it holds."""
    limit = max(0, held_bytes - asked_bytes)
    if before is None:
        return ConsumerLimit(limit, held_bytes, now_ns)
    pause = before.pause_ns
    if before.rose and now_ns - before.changed_ns < 2 * pause:
        pause = min(2 * pause, PAUSE_MAX_NS)  # it rose too soon, or too far
    top = max(before.top_bytes, held_bytes)
    return ConsumerLimit(min(before.limit_bytes, limit), top, now_ns, pause)


def rise(limit: ConsumerLimit, level: PressureLevel, spare_bytes: int, now_ns: int) -> ConsumerLimit | None:
    """Return a limit as it is to be now; None for no limit any more.

    1. The device is not calm: it stays, and the pause begins anew.
    2. The pause is not over: it stays.
    3. There is too little to spare: it stays. ``spare_bytes`` is what can be used before the device is less calm.
    4. It rises by a step, of at most half of what is to spare; where it comes to what was held before it fell, it ends.
    """
    if level not in _CALM:  # 1
        return ConsumerLimit(limit.limit_bytes, limit.top_bytes, now_ns, limit.pause_ns, limit.rose)
    if now_ns - limit.changed_ns < limit.pause_ns:  # 2
        return limit
    step = min(max(_STEP_LEAST, limit.top_bytes // STEPS), spare_bytes // 2)
    if step < min(_STEP_LEAST, limit.top_bytes - limit.limit_bytes):  # 3
        return limit
    if limit.limit_bytes + step >= limit.top_bytes:  # 4
        return None
    return ConsumerLimit(limit.limit_bytes + step, limit.top_bytes, now_ns, limit.pause_ns, rose=True)
