"""What happened, in words: decisions, events and refusals, each with when, where and why."""

from dataclasses import dataclass
from typing import Any

from protocol.vocabulary import EventName, PressureLevel

MAX_HAPPENINGS = 3000
_SAME_WITHIN_MS = 1000

_SEVERITY = {
    PressureLevel.LOW: 0,
    PressureLevel.MODERATE: 1,
    PressureLevel.HIGH: 2,
    PressureLevel.CRITICAL: 3,
}
_SEVERE_EVENTS = {"device.lost": 3, "memory.exhaustion_forecast": 2, "memory.leak_suspected": 2}


@dataclass
class Happening:
    """One line of the story. ``severity`` is 0 for what is only said, up to 3 for what hurts."""

    t_ms: int
    kind: str
    device_id: str
    title: str
    reason: str
    severity: int
    count: int = 1


class Happenings:
    """In order of time. What repeats itself within a second is one line; beyond the limit the mildest go."""

    def __init__(self) -> None:
        # All mutable state.
        self.rows: list[Happening] = []
        self.left_out = 0

    def put(self, new: Happening) -> None:
        """Take one over."""
        for last in reversed(self.rows[-8:]):
            if new.t_ms - last.t_ms > _SAME_WITHIN_MS:
                break
            same = (last.kind, last.device_id, last.title) == (new.kind, new.device_id, new.title)
            if same and new.kind in {"refused", "expired", "done"}:
                last.count += 1
                last.reason = new.reason
                return
        self.rows.append(new)
        if len(self.rows) > 2 * MAX_HAPPENINGS:
            self._thin()

    def add(self, line: dict[str, Any], at_ms: int) -> None:
        """Take a record's line over, if it is of something that happened."""
        if "refused" in line:
            title = f"{line['refused']} failed: {line.get('code')}"
            short = line.get("code") in {"out_of_memory", "limit_exceeded", "device_unavailable"}
            device_id, reason = str(line.get("device_id") or ""), str(line.get("reason", ""))
            self.put(Happening(at_ms, "refused", device_id, title, reason, 2 if short else 1))
        elif "done" in line:
            times = int(line.get("count", 1))
            done = Happening(at_ms, "done", "", f"{line['done']} was carried out", "", 0, times)
            self.put(done)
        elif "event" in line:
            found = _of_event(str(line["event"]), dict(line.get("data") or {}), at_ms)
            if found is not None:
                self.put(found)

    def told(self) -> list[Happening]:
        """Return the rows, at most so many."""
        if len(self.rows) > MAX_HAPPENINGS:
            self._thin()
        return self.rows

    def _thin(self) -> None:
        keep = sorted(self.rows, key=lambda row: (-row.severity, -row.t_ms))[:MAX_HAPPENINGS]
        self.left_out += len(self.rows) - len(keep)
        self.rows = sorted(keep, key=lambda row: row.t_ms)


def _of_event(event: str, data: dict[str, Any], at_ms: int) -> Happening | None:
    device_id = str(data.get("device_id", ""))
    if event == EventName.MODEL_UNLOADED:
        return None  # the decision says it, with the reason
    if event == EventName.PRESSURE_CHANGED:
        before, now = str(data.get("from")), str(data.get("to"))
        percent = data.get("pressure_percentage")
        reason = "" if percent is None else f"{percent:.1f} % of the budget taken"
        severity = _SEVERITY.get(PressureLevel(now), 0)
        return Happening(at_ms, "level", device_id, f"{before} → {now}", reason, severity)
    if event == EventName.ALLOCATION_EXPIRED:
        owner = data.get("owner") or "nobody named"
        reason = f"{data.get('allocation_id')} of {owner}, {data.get('freed_bytes', 0):,} bytes"
        return Happening(at_ms, "expired", device_id, "a lease ran out", reason, 0)
    if event == EventName.DEVICE_LOST:
        return Happening(at_ms, "lost", device_id, f"{device_id} is lost", str(data.get("reason", "")), 3)
    rest = ", ".join(
        f"{key} {value}" for key, value in data.items() if key != "device_id" and value is not None
    )
    return Happening(at_ms, "event", device_id, event, rest, _SEVERE_EVENTS.get(event, 1))
