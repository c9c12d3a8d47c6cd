"""The level of each signal, held so that it never flaps: up at once, down only late and only when clear. Pure."""

from protocol.record import Record
from protocol.results import PressureSignal, PressureThresholds
from protocol.vocabulary import PressureLevel, Source
from worker.core.clock import NS_PER_S
from worker.core.records import Signal, SignalKind
from worker.policy.pressure import SEVERITY, level_of

MARGIN = 2.0
"""A signal has to lie this many points below a threshold before its level begins to fall."""

DWELL_NS = 3 * NS_PER_S
"""How long it has to stay there before the level falls."""

STALL_THRESHOLDS = {
    SignalKind.SOME_STALLED: PressureThresholds(10.0, 40.0, 101.0),
    SignalKind.ALL_STALLED: PressureThresholds(1.0, 10.0, 40.0),
}
"""Percent of the last ten seconds in which some, or all, processes waited for memory. Others are slow before
they are dead: that some wait is never critical."""

DEMOTED_THRESHOLDS = PressureThresholds(0.1, 10.0, 50.0)
"""Percent of this process's device memory that the system moved to its own. What is used of it crosses the bus each
time, 10 to 50 times as slow: any of it says that more is held than there is place for."""

DEMOTION_STEP_BYTES = 16 * 2**20
"""Less of a change than this is not told of, but for the first and the last: it is a copy's, or the system's own."""

SWAP_WORST = PressureLevel.MODERATE
"""A swap that is full holds what no caller asked for lately: by itself it is no emergency."""


BUDGET_USED = "budget_used_percentage"
"""The signal of use against the budget, which a cap may be."""

_FALLING = (PressureLevel.LOW, PressureLevel.MODERATE, PressureLevel.HIGH)
_NEVER_CLEAR = (None, None, None)


class HeldLevel(Record):
    """A signal's level as it is told, and how far it is on the way down."""

    level: PressureLevel
    clear_since_ns: tuple[int | None, ...] = _NEVER_CLEAR
    """Since when the signal has been low, at most moderate, and at most high, each clear by the margin."""


def signal_level(signal: Signal, thresholds: PressureThresholds, margin: float = 0.0) -> PressureLevel:
    """Name the level of a signal, as if it stood ``margin`` points higher.

    1. Shares of something that can be used up go by the device's own thresholds,
    2. except swap, which by itself is never worse than moderate.
    3. Stalls go by how much time is lost to them, and demotion by how much is slow.
    4. The system's own word is taken as it is.
    """
    margin = min(margin, thresholds.moderate / 2)  # so that there is a way down also from a low threshold
    match signal.kind:
        case SignalKind.USED:  # 1
            return level_of(signal.value + margin, thresholds)
        case SignalKind.SWAP_USED:  # 2
            level = level_of(signal.value + margin, thresholds)
            return min(level, SWAP_WORST, key=SEVERITY.__getitem__)
        case SignalKind.SOME_STALLED | SignalKind.ALL_STALLED:  # 3
            # Stalls fade by themselves, and a margin of points would hold the lowest level for ever.
            return level_of(signal.value * (1.25 if margin else 1.0), STALL_THRESHOLDS[signal.kind])
        case SignalKind.DEMOTED:  # 3
            return level_of(signal.value, DEMOTED_THRESHOLDS)
        case SignalKind.NOTIFIED:  # 4
            return _NOTIFIED[int(signal.value)]


_NOTIFIED = (PressureLevel.LOW, PressureLevel.HIGH, PressureLevel.CRITICAL)
"""Windows: plenty; neither plenty nor low, which is under about 200 MiB available; low, about 64 MiB."""


def settle(
    held: HeldLevel | None, level: PressureLevel, clear_level: PressureLevel, now_ns: int, dwell_ns: int
) -> HeldLevel:
    """Move a held level on. ``clear_level`` is what the signal would say with the margin added.

    1. Nothing was known, or it got worse: told at once.
    2. It is clear of the level by the margin: the time runs for every lower level that would do.
    3. It falls to the lowest for which it has been clear long enough; else it stays.
    """
    if held is None or SEVERITY[level] > SEVERITY[held.level]:  # 1
        return HeldLevel(level)
    if held.clear_since_ns is _NEVER_CLEAR and SEVERITY[clear_level] >= SEVERITY[held.level]:
        return held
    clear_since = tuple(  # 2
        None if SEVERITY[clear_level] > SEVERITY[lower] else now_ns if since is None else since
        for lower, since in zip(_FALLING, held.clear_since_ns, strict=True)
    )
    for lower, since in zip(_FALLING, clear_since, strict=True):  # 3
        if SEVERITY[lower] >= SEVERITY[held.level]:
            break
        if since is not None and now_ns - since >= dwell_ns:
            return HeldLevel(lower, clear_since)
    return HeldLevel(held.level, clear_since)


def settle_all(
    held: dict[str, HeldLevel],
    signals: tuple[Signal, ...],
    thresholds: PressureThresholds,
    now_ns: int,
    dwell_ns: int,
) -> dict[str, HeldLevel]:
    """Move the levels of all signals on; what is no longer measured has none."""
    return {
        signal.name: settle(
            held.get(signal.name),
            signal_level(signal, thresholds),
            signal_level(signal, thresholds, MARGIN),
            now_ns,
            dwell_ns,
        )
        for signal in signals
    }


def as_signals(signals: tuple[Signal, ...], held: dict[str, HeldLevel]) -> tuple[PressureSignal, ...]:
    """Return every reason for the level, each with its own, the worst first."""
    rows = [PressureSignal(each.name, each.value, held[each.name].level, each.source) for each in signals]
    return tuple(sorted(rows, key=lambda row: -SEVERITY[row.level]))


def is_another_demotion(told_bytes: int, now_bytes: int) -> bool:
    """Tell whether what is demoted is worth telling of again: it began, it ended, or it changed by a step."""
    if told_bytes == now_bytes:
        return False
    return not told_bytes or not now_bytes or abs(now_bytes - told_bytes) >= DEMOTION_STEP_BYTES


def budget_signal(percentage: float | None, source: Source | None) -> tuple[Signal, ...]:
    """Return use against the budget as a signal; nothing where it can't be told."""
    if percentage is None or source is None:
        return ()
    return (Signal(BUDGET_USED, percentage, source),)
