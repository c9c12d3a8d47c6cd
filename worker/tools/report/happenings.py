"""What happened, in words: decisions, events and refusals, each with when, where and why."""

from dataclasses import dataclass
from typing import Any

from worker.tools.report.events import told

MAX_HAPPENINGS = 3000
_SAME_WITHIN_MS = 1000
_SAMPLED_WITHIN_MS = 1500
"""A sample comes within a second of what it is of."""


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
            data = dict(line.get("data") or {})
            found = told(str(line["event"]), data)
            if found is not None:
                device_id = str(data.get("device_id", ""))
                self.put(Happening(at_ms, found.kind, device_id, found.title, found.reason, found.severity))

    def explain_level(self, device_id: str, level: str, reason: str, at_ms: int) -> None:
        """Say which signal led to a level that was told of just now; its event says only how full it was."""
        for row in reversed(self.rows[-8:]):
            if at_ms - row.t_ms > _SAMPLED_WITHIN_MS:
                return
            if row.kind == "level" and row.device_id == device_id and row.title.endswith(f" {level}"):
                row.reason = reason
                return

    def told(self) -> list[Happening]:
        """Return the rows, at most so many."""
        if len(self.rows) > MAX_HAPPENINGS:
            self._thin()
        return self.rows

    def _thin(self) -> None:
        keep = sorted(self.rows, key=lambda row: (-row.severity, -row.t_ms))[:MAX_HAPPENINGS]
        self.left_out += len(self.rows) - len(keep)
        self.rows = sorted(keep, key=lambda row: row.t_ms)
