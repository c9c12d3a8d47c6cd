"""What other keep-alives, times to live and bounds would have cost, and the smallest bound within a stated regret."""

import json
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from protocol.record import Record

SECONDS = (60, 300, 600, 1800, 3600)
"""Keep-alives and times to live that are tried, and none."""

FRACTIONS = (0.25, 0.5, 0.75, 0.9, 1.1, 1.25, 1.5, 2.0)
"""Bounds that are tried, as parts of the one that there was."""

_HALVINGS = 7
"""The smallest bound is found to a 128th of the one that there was."""

_GB_FROM = 10**8
_GB_H = 1e9 * 3_600_000
"""Byte-milliseconds in a GB·h."""


class Change(Record):
    """One thing that might have been otherwise."""

    what: str
    """``keep_alive_ms``, ``ttl_ms`` or ``capacity_bytes``."""
    value: int | None
    """None for no limit."""
    consumer: str | None = None
    """Whose; None for everybody's."""


class Outcome(Record):
    """What the uses cost then."""

    reloads: int
    reload_ms: float
    held_byte_ms: int | None
    """None where the trace does not tell all times."""


class WhatIf(Record):
    """What was tried on one device, or on several consumers."""

    as_it_is: Outcome
    capacity_bytes: int
    instead_of: dict[str, str]
    """What holds as it is, in words, by what is changed."""
    tried: tuple[tuple[Change, Outcome], ...]
    within: float
    smallest: tuple[int, Outcome]
    """The smallest bound that costs no more than so much above what it is, in bytes, and what it costs."""


Replay = Callable[[Change | None], Outcome]

Tell = Callable[[int, int], None]
"""Takes which replay begins, and the most that there will be."""


def untold(_step: int, _steps: int) -> None:
    """Tell nobody how far it is."""


def what_if(
    replay: Replay,
    capacity_bytes: int,
    changes: Sequence[Change],
    within: float,
    instead_of: dict[str, str],
    tell: Tell = untold,
) -> WhatIf:
    """Try every change alone, then bounds, and halve towards the smallest bound within ``within``, a part of the cost.

    ``tell`` is called before each replay.
    """
    bounds = [Change("capacity_bytes", max(1, round(capacity_bytes * part))) for part in FRACTIONS]
    steps = count(1)
    most_steps = 1 + len(changes) + len(bounds) + _HALVINGS

    def replayed(change: Change | None) -> Outcome:
        tell(next(steps), most_steps)
        return replay(change)

    as_it_is = replayed(None)
    tried = tuple((change, replayed(change)) for change in (*changes, *bounds))
    most = as_it_is.reload_ms * (1 + within)
    low, high, best = 0, capacity_bytes, as_it_is
    for _ in range(_HALVINGS):
        middle = (low + high) // 2
        if middle in {low, high}:
            break
        outcome = replayed(Change("capacity_bytes", middle))
        if outcome.reload_ms <= most:
            high, best = middle, outcome
        else:
            low = middle
    return WhatIf(as_it_is, capacity_bytes, instead_of, tried, within, (high, best))


def as_json(results: dict[str, WhatIf]) -> str:
    """Write results on one line: by device, or under an empty name where there is none."""
    return json.dumps({"what_if": {name: _row(result) for name, result in results.items()}})


def as_text(results: dict[str, WhatIf]) -> str:
    """Write results for people, a sentence each."""
    lines = list[str]()
    for name, result in results.items():
        lines += [name] if name else []
        held = _held(result.as_it_is.held_byte_ms)
        cost = f"{result.as_it_is.reloads} reloads, {result.as_it_is.reload_ms / 1000:.1f} s"
        lines.append(f"as it is, {told_bytes(result.capacity_bytes)}: {cost}{held and f', {held} held'}")
        for change, outcome in result.tried:
            label = f"{_label(change)} instead of {result.instead_of[change.what]}"
            lines.append(f"{label}: {_compared(outcome, result.as_it_is)}")
        size, outcome = result.smallest
        lines.append(
            f"smallest bound within {result.within:.0%}: {told_bytes(size)}: {_compared(outcome, result.as_it_is)}"
        )
        if result.as_it_is.held_byte_ms is None:
            lines.append("not every use has a t_ms: keep-alives, times to live and GB·h can't be told")
    return "\n".join(lines)


def told_bytes(size_bytes: int) -> str:
    """Return a size for people."""
    return f"{size_bytes / 1e9:.4g} GB" if size_bytes >= _GB_FROM else f"{size_bytes} bytes"


def _label(change: Change) -> str:
    name = {"keep_alive_ms": "keep-alive", "ttl_ms": "TTL", "capacity_bytes": "bound"}[change.what]
    whose = "" if change.consumer is None else f"{change.consumer}: "
    if change.value is None:
        return f"{whose}no {name}"
    value = told_bytes(change.value) if change.what == "capacity_bytes" else f"{change.value // 1000} s"
    return f"{whose}{name} {value}"


def _compared(outcome: Outcome, before: Outcome) -> str:
    more = outcome.reloads - before.reloads
    seconds = (outcome.reload_ms - before.reload_ms) / 1000
    text = f"{abs(more)} {'fewer' if more < 0 else 'more'} reloads ({seconds:+.1f} s)"
    if outcome.held_byte_ms is None or before.held_byte_ms is None:
        return text
    difference = outcome.held_byte_ms - before.held_byte_ms
    return f"{text}, {_held(abs(difference))} {'less' if difference < 0 else 'more'} held"


def _held(byte_ms: int | None) -> str:
    return "" if byte_ms is None else f"{byte_ms / _GB_H:.1f} GB·h"


def _row(result: WhatIf) -> dict[str, Any]:
    before = result.as_it_is
    size, outcome = result.smallest
    smallest = {"within": result.within, "capacity_bytes": size, **vars(outcome)}
    tried = [{**vars(change), **vars(cost), **_differences(cost, before)} for change, cost in result.tried]
    return {
        "capacity_bytes": result.capacity_bytes,
        "as_it_is": vars(before),
        "tried": tried,
        "smallest_bound": smallest,
    }


def _differences(outcome: Outcome, before: Outcome) -> dict[str, float | None]:
    held = None
    if outcome.held_byte_ms is not None and before.held_byte_ms is not None:
        held = outcome.held_byte_ms - before.held_byte_ms
    return {
        "more_reloads": outcome.reloads - before.reloads,
        "more_reload_ms": outcome.reload_ms - before.reload_ms,
        "more_held_byte_ms": held,
    }
