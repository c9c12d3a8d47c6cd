"""Reads what ``--record`` wrote back: samples of each device, models' lanes, and what happened when.

A line that cannot be read is passed over and counted: a worker that was killed leaves half a line behind.
Memory is bounded by what is kept, not by the file: ``samples`` and ``happenings`` thin themselves out.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from protocol.vocabulary import EventName, PressureLevel
from worker.tools.report.happenings import Happening, Happenings
from worker.tools.report.samples import BUDGET_SIGNAL, DeviceSamples, signal_text
from worker.tools.report.words import mebibytes

_SPANS_KEPT = 2000
_USES_KEPT = 4000
"""Of each model: more than can be told apart on a screen."""


MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What comes of a line whose values are not what their names promise: a worker writes none, but others may."""


MAX_LINE = 4 * 2**20
"""Characters; the longest that a worker writes are its models' states, some hundred each."""


class RecordingError(ValueError):
    """A file that holds no record."""


@dataclass
class ModelSpan:
    """A time for which a model was on a device; ``end_ms`` None while it still is."""

    device_id: str
    load_start_ms: int
    start_ms: int
    size_bytes: int
    end_ms: int | None = None
    reason: str | None = None


@dataclass
class ModelLane:
    """A model over time."""

    spans: list[ModelSpan] = field(default_factory=list)
    uses_ms: list[int] = field(default_factory=list)
    load_count: int = 0
    use_count: int = 0
    state: dict[str, Any] = field(default_factory=dict)
    """As it was last told."""


@dataclass
class Recording:
    """What a record says. Mutable: fed by ``add``, line by line."""

    worker_version: str | None = None
    pid: int | None = None
    started: str | None = None
    started_ms: int = 0
    """The worker's clock at ``started``."""
    first_ms: int | None = None
    last_ms: int = 0
    ended: bool = False
    devices: dict[str, DeviceSamples] = field(default_factory=dict)
    models: dict[str, ModelLane] = field(default_factory=dict)
    happenings: Happenings = field(default_factory=Happenings)
    actions: list[dict[str, Any]] = field(default_factory=list)
    lines: int = 0
    unreadable: int = 0
    dropped: int = 0
    _figures: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, text: str) -> None:
        """Take a line over."""
        if not text.strip("\ufeff \t\r\n"):
            return
        self.lines += 1
        try:
            line = json.loads(text)
            self._take(dict(line.items()))  # AttributeError for what is no object
        except MALFORMED:
            self.unreadable += 1

    def _take(self, line: dict[str, Any]) -> None:
        if isinstance(line.get("models"), dict):
            self._figures.update(line["models"])
        if "started" in line:
            self._begin(line)
        at = line.get("t_ms")
        if type(at) is not int:
            self.dropped += int(line.get("dropped", 0))
            return
        self.first_ms = at if self.first_ms is None else min(self.first_ms, at)
        self.last_ms = max(self.last_ms, at)
        for key, take in (
            ("sample", self._sample),
            ("load", self._load),
            ("use", self._use),
            ("evict", self._evict),
            ("model_states", self._model_states),
            ("event", self._event),
        ):
            if key in line:
                take(line, at)
        if "actions" in line:
            self.actions = [dict(row) for row in line["actions"]]
        self.ended = self.ended or bool(line.get("end"))
        self.happenings.add(line, at)

    def _begin(self, line: dict[str, Any]) -> None:
        if self.started is None:
            self.started, self.started_ms = str(line["started"]), int(line.get("t_ms", 0))
            self.worker_version, self.pid = line.get("worker_version"), line.get("pid")

    def _sample(self, line: dict[str, Any], at: int) -> None:
        device_id = str(line["sample"])
        device = self.devices.get(device_id)
        if device is None:
            device = self.devices[device_id] = DeviceSamples()
        for change in device.add(line, at):
            self.happenings.put(Happening(at, "limit", device_id, change, "", 0))
        level = line.get("pressure_level")
        signals = [row for row in line.get("signals") or () if row["level"] == level]
        if signals and not any(row["name"] == BUDGET_SIGNAL for row in signals):
            self.happenings.explain_level(device_id, str(level), ", ".join(map(signal_text, signals)), at)

    def _event(self, line: dict[str, Any], at: int) -> None:
        data = line.get("data") or {}
        device = self.devices.get(str(data.get("device_id")))
        if line["event"] == EventName.PRESSURE_CHANGED and device is not None:
            device.note_level(PressureLevel(data["to"]), at)
        if line["event"] == EventName.EXHAUSTION_FORECAST and device is not None:
            device.note_forecast(data, at)

    def _load(self, line: dict[str, Any], at: int) -> None:
        model_id, device_id = str(line["load"]), str(line.get("device_id", ""))
        figures = self._figures.get(model_id, {})
        size, took = int(figures.get("size_bytes", 0)), int(figures.get("load_ms", 0))
        lane = self.models.setdefault(model_id, ModelLane())
        lane.load_count += 1
        lane.spans.append(ModelSpan(device_id, at - took, at, size))
        del lane.spans[:-_SPANS_KEPT]
        self.happenings.put(
            Happening(at, "load", device_id, f"{model_id} loaded", f"{mebibytes(size)} in {took:,} ms", 0)
        )

    def _use(self, line: dict[str, Any], at: int) -> None:
        lane = self.models.setdefault(str(line["use"]), ModelLane())
        lane.use_count += 1
        lane.uses_ms.append(at)
        if len(lane.uses_ms) > _USES_KEPT:
            del lane.uses_ms[::2]

    def _evict(self, line: dict[str, Any], at: int) -> None:
        model_id, reason = str(line["evict"]), line.get("reason")
        lane = self.models.setdefault(model_id, ModelLane())
        if lane.spans and lane.spans[-1].end_ms is None:
            lane.spans[-1].end_ms, lane.spans[-1].reason = at, reason
        device_id = str(line.get("device_id", ""))
        self.happenings.put(Happening(at, "evict", device_id, f"{model_id} went", str(reason or ""), 1))

    def _model_states(self, line: dict[str, Any], at: int) -> None:
        for state in line["model_states"]:
            self.models.setdefault(str(state["model_id"]), ModelLane()).state = {**state, "t_ms": at}


def bounded_lines(file: TextIO) -> Iterator[str]:
    """Read lines; of one that is longer than any record's only the beginning, which is not readable."""
    while line := file.readline(MAX_LINE):
        yield line
        while len(line) >= MAX_LINE and not line.endswith("\n"):
            line = file.readline(MAX_LINE)


def read_recording(lines: Iterable[str]) -> Recording:
    """Read a record. RecordingError where no line of it has a time."""
    recording = Recording()
    for line in lines:
        recording.add(line)
    if recording.first_ms is None:
        raise RecordingError("no line of it is of a record that --record wrote")
    return recording
