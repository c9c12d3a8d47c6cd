"""Reads traces of model uses: JSON lines, written by hand, by a program or by ``--record``.

The first line that is not empty names the models and the capacity, every further one may be a use::

    {"models": {"a": {"size_bytes": 4294967296, "load_ms": 4000}}, "capacity_bytes": 8589934592}
    {"use": "a", "t_ms": 12}

``t_ms`` is optional; with it a model's ``keep_alive_ms`` counts, which is -1 or left out for until evicted. A
``device_id`` says which device a line is of: each has a trace of its own, and a line without one belongs to the
first device that is named. Further keys are ignored.

A recorded log is read as it is. Later lines with ``models`` add models or replace their figures; a replay takes the
last figures for the whole trace, so that every policy is charged the same for the same load, but knows of each only
what was measured by then. A ``capacity_bytes``
of a device holds from its line on; one without ``device_id``, only where there was none before. ``keep`` sets a
model's keep-alive and pin, from ``lease`` to ``release`` it is in use, and an ``evict`` with the cause ``asked``,
``idle`` or ``lost`` happens under every policy; evictions by policy, and loads, are what was recorded, and no part of
a replay, but that a model was loaded at a use tells that its keep-alive had not ended. Lines with none of these keys are skipped.
"""

from collections.abc import Iterable
from typing import Any

from protocol.vocabulary import FOREVER
from worker.core.records import EvictionCause
from worker.tools.simulate.lines import TraceError, at, integer, objects
from worker.tools.simulate.trace import Change, ChangeKind, Recorded, Trace, TraceModel

_HAPPENS_ANYWAY: dict[str, ChangeKind] = {
    EvictionCause.ASKED: ChangeKind.UNLOAD,
    EvictionCause.LOST: ChangeKind.UNLOAD,
    EvictionCause.IDLE: ChangeKind.IDLE,
}


def read_traces(lines: Iterable[str], capacity_bytes: int | None = None) -> dict[str, Trace]:
    """Read the trace of each device, by its id; ``capacity_bytes`` replaces those in the file.

    The id is empty where no line names a device.

    Raises:
        TraceError: for a line that is not a JSON object, a header without models or capacity, a size
            or time that is not an integer in range, a use of an unknown model or of one above every capacity.

    """
    reader = _Reader(capacity_bytes)
    for number, line in objects(lines):
        reader.read(line, number)
    return reader.traces()


class _DeviceReader:
    """What has been read of one device."""

    def __init__(self, capacity_bytes: int | None) -> None:
        # Mutable: all of these, by the file's reader.
        self.capacity_bytes = capacity_bytes
        self.fixed = capacity_bytes is not None
        """Whether lines change the capacity no more."""
        self.largest_bytes = capacity_bytes or 0
        self.models: dict[str, TraceModel] = {}
        self.uses: list[str] = []
        self.times: list[int | None] = []
        self.changes: list[Change] = []
        self.first_lines: dict[str, int] = {}
        self.loaded: list[str] = []
        self._loaded_since: set[str] = set()
        """Models that were loaded after their last use."""
        self._hits: set[int] = set()
        self.evictions = 0

    def use(self, model_id: str, number: int, t_ms: int | None) -> None:
        """Note a use."""
        if model_id not in self._loaded_since:
            self._hits.add(len(self.uses))
        self._loaded_since.discard(model_id)
        self.uses.append(model_id)
        self.times.append(t_ms)
        self.first_lines.setdefault(model_id, number)

    def load(self, model_id: str) -> None:
        """Note a load."""
        self.loaded.append(model_id)
        self._loaded_since.add(model_id)

    def change(self, kind: ChangeKind, **more: Any) -> None:
        """Note what happens before the next use."""
        self.changes.append(Change(kind, len(self.uses), **more))

    def take_capacity(self, capacity_bytes: int, t_ms: int | None) -> None:
        """Note what models may take from here on."""
        if self.fixed:
            return
        self.largest_bytes = max(self.largest_bytes, capacity_bytes)
        if self.capacity_bytes is None:
            self.capacity_bytes = capacity_bytes
        else:
            self.change(ChangeKind.CAPACITY, t_ms=t_ms, capacity_bytes=capacity_bytes)

    def trace(self, models: dict[str, TraceModel], capacity_bytes: int | None) -> Trace:
        """Give what was read, if every model that is used fits at some time."""
        capacity = capacity_bytes if self.capacity_bytes is None else self.capacity_bytes
        if capacity is None:
            raise TraceError(at(1, "no model was used yet, and no line has a capacity_bytes"))
        found, largest = models | self.models, max(self.largest_bytes, capacity)
        for model_id, number in self.first_lines.items():
            size = found[model_id].size_bytes
            if size > largest:
                text = f"model {model_id!r} takes {size} bytes, the capacity is {largest}"
                raise TraceError(at(number, text))
        recorded = None
        if self.loaded:
            reload_ms = sum(found[each].load_ms for each in self.loaded if each in found)
            recorded = Recorded(reload_ms, len(self.loaded), self.evictions)
        return Trace(
            models=found,
            capacity_bytes=capacity,
            uses=tuple(self.uses),
            times=tuple(self.times),
            hits=frozenset(self._hits if self.loaded else ()),
            changes=tuple(self.changes),
            recorded=recorded,
        )


class _Reader:
    """What has been read so far."""

    def __init__(self, capacity_bytes: int | None) -> None:
        # Mutable: all of these, by read.
        self._asked = self._capacity = capacity_bytes
        self._begun = False
        self._models: dict[str, TraceModel] = {}
        """Of lines that name no device."""
        self._keep: list[dict[str, Any]] = []
        """Keep-alives and pins that such lines set, for each device that comes later."""
        self._devices: dict[str, _DeviceReader] = {}

    def read(self, line: dict[str, Any], number: int) -> None:
        """Take over one line."""
        if not self._begun:
            self._read_header(line, number)
        t_ms = line.get("t_ms")
        if t_ms is not None and "use" in line:
            integer(t_ms, number, "t_ms", 0)
        t_ms = t_ms if type(t_ms) is int else None
        self._read_figures(line, number, t_ms)
        self._read_event(line, number, t_ms)

    def traces(self) -> dict[str, Trace]:
        """Give what was read."""
        if not self._begun:
            raise TraceError(at(1, "the trace is empty"))
        if not self._devices:
            self._device(None)
        return {name: each.trace(self._models, self._capacity) for name, each in self._devices.items()}

    def _read_header(self, line: dict[str, Any], number: int) -> None:
        if not isinstance(line.get("models"), dict):
            text = 'the first line must be {"models": {...}, "capacity_bytes": N}'
            raise TraceError(at(number, text))
        if "devices" not in line and line.get("capacity_bytes", 0) is not None:
            integer(line.get("capacity_bytes"), number, "capacity_bytes", 1)
        self._begun = True

    def _read_figures(self, line: dict[str, Any], number: int, t_ms: int | None) -> None:
        """Take over models and capacities."""
        named = line.get("device_id")
        device = self._device(named) if isinstance(named, str) else None
        if isinstance(line.get("models"), dict):
            self._read_models(device, line["models"], number, t_ms)
        capacity = line.get("capacity_bytes")
        if capacity is not None:
            capacity = integer(capacity, number, "capacity_bytes", 1)
            if device is not None:
                device.take_capacity(capacity, t_ms)
            elif self._capacity is None:
                self._capacity = capacity
        for name, row in _object_at(line, "devices").items():
            if isinstance(row, dict) and row.get("capacity_bytes") is not None:
                value = integer(row["capacity_bytes"], number, f"capacity_bytes of {name}", 1)
                self._device(name).take_capacity(value, t_ms)

    def _read_models(
        self, device: _DeviceReader | None, found: dict[str, Any], number: int, t_ms: int | None
    ) -> None:
        figures = _models(found, number)
        if device is None:
            self._models.update(figures)
        else:
            device.models.update(figures)
            for model_id, each in figures.items():
                device.change(ChangeKind.MEASURED, t_ms=t_ms, model_id=model_id, load_ms=each.load_ms)
        for model_id, row in found.items():
            if "keep_alive_ms" in row or "pinned" in row:
                self._read_keep(device, model_id, row, number, t_ms)

    def _read_event(self, line: dict[str, Any], number: int, t_ms: int | None) -> None:
        """Take over a use, or what happened to a model."""
        kinds = [kind for kind in ("use", "load", "evict", "keep", "lease", "release") if kind in line]
        if not kinds:
            return
        kind, model_id = kinds[0], line[kinds[0]]
        if not isinstance(model_id, str):
            if kind == "use":
                raise TraceError(at(number, f"use must be a model id, not {model_id!r}"))
            return
        device = self._device(line.get("device_id"))
        match kind:
            case "use":
                if model_id not in self._models and model_id not in device.models:
                    raise TraceError(at(number, f"model {model_id!r} was not declared"))
                device.use(model_id, number, t_ms)
            case "load":
                device.load(model_id)
            case "evict":
                device.evictions += 1
                gone = _HAPPENS_ANYWAY.get(str(line.get("cause")))
                if gone is not None:
                    device.change(gone, t_ms=t_ms, model_id=model_id)
            case "keep":
                self._read_keep(device, model_id, line, number, t_ms)
            case _:
                device.change(ChangeKind(kind), t_ms=t_ms, model_id=model_id)

    def _read_keep(
        self, device: _DeviceReader | None, model_id: str, row: dict[str, Any], number: int, t_ms: int | None
    ) -> None:
        kept = row.get("keep_alive_ms")
        if kept is not None:
            kept = integer(kept, number, f"keep_alive_ms of model {model_id!r}", FOREVER)
        facts = {
            "t_ms": t_ms,
            "model_id": model_id,
            "keep_alive_ms": None if kept == FOREVER else kept,
            "pinned": row.get("pinned") is True,
        }
        if device is None:
            self._keep.append(facts)
        for each in self._devices.values() if device is None else (device,):
            each.change(ChangeKind.KEEP, **facts)

    def _device(self, named: object) -> _DeviceReader:
        """Return a device's reader; for a line that names none, the first one's."""
        if not isinstance(named, str):
            if self._devices:
                return next(iter(self._devices.values()))
            named = ""
        if named not in self._devices:
            if "" in self._devices:  # until now no line named one
                self._devices = {named: self._devices.pop("")}
            else:
                made = self._devices[named] = _DeviceReader(self._asked)
                for facts in self._keep:
                    made.change(ChangeKind.KEEP, **facts)
        return self._devices[named]


def _object_at(line: dict[str, Any], key: str) -> dict[str, Any]:
    found = line.get(key)
    return found if isinstance(found, dict) else {}


def _models(found: dict[str, Any], number: int) -> dict[str, TraceModel]:
    models = {}
    for model_id, figures in found.items():
        if not isinstance(figures, dict):
            raise TraceError(at(number, f'model {model_id!r} must be {{"size_bytes": N, "load_ms": T}}'))
        size = integer(figures.get("size_bytes"), number, f"size_bytes of model {model_id!r}", 1)
        load = integer(figures.get("load_ms"), number, f"load_ms of model {model_id!r}", 0)
        models[model_id] = TraceModel(size, load)
    return models
