"""When a forecast is worth an event: said once, said again when it got worse, taken back when it is over. Pure."""

from protocol.record import Record
from protocol.results import PressureTrend
from worker.core.clock import NS_PER_S

ALARM_SECONDS = 600.0
"""What runs out later than this is no alarm."""

CONFIRM_NS = 1 * NS_PER_S
"""A forecast has to stand for this long before it is said."""

WITHDRAW_NS = 5 * NS_PER_S
"""It has to be gone for this long before it is taken back."""

_SOONER = 0.7
"""It is said again when the end is nearer than this share of what was said."""


class ForecastAlarm(Record):
    """What was said of a device, and what is about to be."""

    since_ns: int | None = None
    """Since when the forecast has been otherwise than what was said."""
    end_ns: int | None = None
    """When the device runs out, as was said; None if it was not, or was taken back."""


def consider(alarm: ForecastAlarm, trend: PressureTrend | None, now_ns: int) -> tuple[ForecastAlarm, bool]:
    """Take a new forecast into account. Returns the state, and whether to say the trend as it now is.

    1. Nothing foretold, nothing said: quiet.
    2. Foretold, not said: said once it has stood for a while.
    3. Foretold and said: again when the end has come much nearer than what is left of what was said.
    4. Said, but not foretold any more: taken back once it has been gone for a while.
    """
    seconds = None if trend is None else trend.seconds_to_exhaustion
    if seconds is None or seconds > ALARM_SECONDS:
        if alarm.end_ns is None:  # 1
            return ForecastAlarm(), False
        return _after(alarm, now_ns, WITHDRAW_NS, None)  # 4
    end_ns = now_ns + int(seconds * NS_PER_S)
    if alarm.end_ns is None:  # 2
        return _after(alarm, now_ns, CONFIRM_NS, end_ns)
    if seconds * NS_PER_S < _SOONER * (alarm.end_ns - now_ns):  # 3
        return _after(alarm, now_ns, CONFIRM_NS, end_ns)
    return ForecastAlarm(None, alarm.end_ns), False


def _after(alarm: ForecastAlarm, now_ns: int, wait_ns: int, end_ns: int | None) -> tuple[ForecastAlarm, bool]:
    since = now_ns if alarm.since_ns is None else alarm.since_ns
    if now_ns - since < wait_ns:
        return ForecastAlarm(since, alarm.end_ns), False
    return ForecastAlarm(None, end_ns), True
