"""One device's samples over time, thinned out where there are more than a screen can show."""

from collections.abc import Iterator
from typing import Any

from protocol.vocabulary import PressureLevel

MAX_SAMPLES = 2048
"""Twice what is wide on a screen."""
FIGURES = (
    "total_bytes", "budget_bytes", "limit_bytes", "reserve_bytes", "used_bytes", "process_used_bytes",
    "available_bytes", "allocated_bytes", "peak_bytes", "external_bytes", "model_bytes", "cached_bytes",
)  # fmt: skip
OTHERS = "(others)"
"""Whom a sample does not name."""
RANK = ("unknown", "low", "moderate", "high", "critical")
_NOTABLE = 0.01
"""A budget that moved by less is the system's breathing."""


class DeviceSamples:
    """Fed in order of time. Where it gets too much, pairs become one that keeps the extremes of both."""

    def __init__(self) -> None:
        # All mutable state.
        self.samples: list[dict[str, Any]] = []
        self.levels: list[tuple[int, str]] = []
        """When each level began."""
        self.owner_peaks: dict[str | None, int] = {}
        self.last: dict[str, Any] = {}

    def add(self, line: dict[str, Any], at_ms: int) -> list[str]:
        """Take a sample over. Returns what changed of the limits, in words."""
        sample: dict[str, Any] = {name: _size(line.get(name)) for name in FIGURES}
        sample["t_ms"] = at_ms
        owners = {_owner(row): int(row["allocated_bytes"]) for row in line.get("owners", ())}
        sample["owners"] = owners
        self.note_level(PressureLevel(line.get("pressure_level", PressureLevel.UNKNOWN)), at_ms)
        for owner, size in owners.items():
            self.owner_peaks[owner] = max(self.owner_peaks.get(owner, 0), size)
        changes = list(_changes(self.last, line)) if self.last else []
        self.last = line
        self.samples.append(sample)
        if len(self.samples) > MAX_SAMPLES:
            self.samples = [*_halved(self.samples[:-2]), *self.samples[-2:]]
        return changes

    def note_level(self, level: PressureLevel, at_ms: int) -> None:
        """Note a level, as a sample or an event has it: events come at once, samples once a second."""
        if not self.levels or self.levels[-1][1] != level:
            self.levels.append((at_ms, level))
            if len(self.levels) > 2 * MAX_SAMPLES:
                self.levels = list(_worse_of_pairs(self.levels))


def _halved(samples: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for index in range(0, len(samples) - 1, 2):
        one, two = samples[index], samples[index + 1]
        larger = two if (two["allocated_bytes"] or 0) >= (one["allocated_bytes"] or 0) else one
        peaks = [each["peak_bytes"] for each in (one, two) if each["peak_bytes"] is not None]
        rooms = [each["available_bytes"] for each in (one, two) if each["available_bytes"] is not None]
        lowest, highest = min(rooms, default=None), max(peaks, default=None)
        yield {**larger, "t_ms": two["t_ms"], "peak_bytes": highest, "available_bytes": lowest}
    if len(samples) % 2:
        yield samples[-1]


def _worse_of_pairs(levels: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    last = None
    for index in range(0, len(levels), 2):
        worse = max(levels[index : index + 2], key=lambda entry: RANK.index(entry[1]))[1]
        if worse != last:
            yield levels[index][0], worse
        last = worse


def _owner(row: dict[str, Any]) -> str | None:
    if "others" in row:
        return OTHERS
    owner = row["owner"]
    return None if owner is None else str(owner)


def _size(value: object) -> int | None:
    return value if type(value) is int else None


def _changes(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for name in ("limit_bytes", "reserve_bytes"):
        if before.get(name) != now.get(name):
            yield f"{name} {_said(before.get(name))} → {_said(now.get(name))}"
    old, new = before.get("budget_bytes"), now.get("budget_bytes")
    if type(old) is int and type(new) is int and abs(new - old) > _NOTABLE * max(old, 1):
        yield f"budget_bytes {old:,} → {new:,}"
    if before.get("state") != now.get("state"):
        yield f"state {before.get('state')} → {now.get('state')}"


def _said(value: object) -> str:
    return f"{value:,}" if type(value) is int else "none"
