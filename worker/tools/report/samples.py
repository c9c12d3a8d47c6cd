"""One device's samples over time, thinned out where there are more than a screen can show."""

from collections.abc import Iterator
from typing import Any

from protocol.vocabulary import PressureLevel
from worker.tools.report.words import mebibytes

MAX_SAMPLES = 2048
"""Twice what is wide on a screen."""
MAX_FORECASTS = 100
FIGURES = (
    "total_bytes", "budget_bytes", "limit_bytes", "reserve_bytes", "used_bytes", "process_used_bytes",
    "child_process_bytes", "available_bytes", "allocated_bytes", "peak_bytes", "external_bytes", "model_bytes", "cached_bytes",
    "demoted_bytes", "process_demoted_bytes",
)  # fmt: skip
BUDGET_SIGNAL = "budget_used_percentage"
"""What a level is by, unless it is said otherwise."""
OTHERS = "(others)"
"""Whom a sample does not name."""
RANK = ("unknown", "low", "moderate", "high", "critical")
"""From unknown to the worst."""


class DeviceSamples:
    """Fed in order of time. Where it gets too much, pairs become one that keeps the extremes of both."""

    def __init__(self) -> None:
        # All mutable state.
        self.samples: list[dict[str, Any]] = []
        self.levels: list[tuple[int, str]] = []
        """When each level began."""
        self.forecasts: list[tuple[int, dict[str, Any]]] = []
        """When it was foretold, and what."""
        self.owner_peaks: dict[str | None, int] = {}
        self.last: dict[str, Any] = {}

    def add(self, line: dict[str, Any], at_ms: int) -> list[str]:
        """Take a sample over. Returns what changed of the limits, in words."""
        sample: dict[str, Any] = {name: _size(line.get(name)) for name in FIGURES}
        sample["t_ms"] = at_ms
        owners = {_owner(row): int(row["allocated_bytes"]) for row in line.get("owners", ())}
        sample["owners"] = owners
        sample["signals"] = [signal_text(row) for row in line.get("signals") or ()]
        sample["trend"] = _trend(line.get("trend"))
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

    def note_forecast(self, data: dict[str, Any], at_ms: int) -> None:
        """Note when a device was said to run full."""
        if data.get("seconds_to_exhaustion") is not None:
            self.forecasts.append((at_ms, data))
            del self.forecasts[:-MAX_FORECASTS]


def _halved(samples: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for index in range(0, len(samples) - 1, 2):
        one, two = samples[index], samples[index + 1]
        larger = two if (two["allocated_bytes"] or 0) >= (one["allocated_bytes"] or 0) else one
        peaks = [each["peak_bytes"] for each in (one, two) if each["peak_bytes"] is not None]
        headrooms = [each["available_bytes"] for each in (one, two) if each["available_bytes"] is not None]
        lowest, highest = min(headrooms, default=None), max(peaks, default=None)
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
            word = name.removesuffix("_bytes")
            yield f"{word} {_said(before.get(name))} → {_said(now.get(name))}"
    if before.get("state") != now.get("state"):
        yield f"state {before.get('state')} → {now.get('state')}"


def _said(value: object) -> str:
    return mebibytes(value) if type(value) is int else "none"


def signal_text(row: dict[str, Any]) -> str:
    """Say what makes a level: a share in percent, or the system's word."""
    name, value = str(row["name"]), float(row["value"])
    if not name.endswith("_percentage"):
        return f"{name.replace('_', ' ')} {value:g}"
    return f"{name.removesuffix('_percentage').replace('_', ' ')} {value:.1f} %"


def _trend(trend: dict[str, Any] | None) -> list[float | None] | None:
    """Return bytes a second, and the seconds until it is full with their interval; None for no trend."""
    if trend is None:
        return None
    names = ("bytes_per_second", "seconds_to_exhaustion", "low_seconds", "high_seconds")
    return [None if trend.get(name) is None else float(trend[name]) for name in names]
