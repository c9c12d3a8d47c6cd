"""A trace: the models of one device, how they were used, and what happened to them whatever the policy."""

from enum import StrEnum
from itertools import pairwise

from protocol.record import Record


class TraceModel(Record):
    """What a model takes."""

    size_bytes: int
    load_ms: int


class ChangeKind(StrEnum):
    """What no policy decides."""

    CAPACITY = "capacity"
    """Models may take more or less than before."""
    MEASURED = "measured"
    """A load of a model took another time than before: what policies know from then on."""
    KEEP = "keep"
    """A model's keep-alive or pin was set."""
    LEASE = "lease"
    """The last use of a model lasts until its release: it is not idle, and not evicted."""
    RELEASE = "release"
    UNLOAD = "unload"
    """A model was unloaded as asked, or went with its device."""
    IDLE = "idle"
    """A model is recorded to have gone because it was idle past its keep-alive."""


GONE = frozenset({ChangeKind.UNLOAD, ChangeKind.IDLE})


class Change(Record):
    """Something that happened between two uses."""

    kind: ChangeKind
    before_use: int
    """Index of the next use."""
    t_ms: int | None = None
    model_id: str = ""
    capacity_bytes: int = 0
    load_ms: int = 0
    keep_alive_ms: int | None = None
    """None for until evicted."""
    pinned: bool = False


class Recorded(Record):
    """What a recorded worker's models cost as it happened."""

    reload_ms: int
    loads: int
    evictions: int


class Trace(Record):
    """One device's models, capacity and uses."""

    models: dict[str, TraceModel]
    capacity_bytes: int
    """Of all models together, up to the first change of it."""
    uses: tuple[str, ...]
    times: tuple[int | None, ...] = ()
    """Milliseconds of each use; empty or None where they are not known."""
    hits: frozenset[int] = frozenset()
    """Indices of the uses that are recorded to have found their model loaded: its keep-alive had not ended then."""
    changes: tuple[Change, ...] = ()
    recorded: Recorded | None = None

    @property
    def timed(self) -> bool:
        """Whether the time of every use is known."""
        return len(self.times) == len(self.uses) and None not in self.times

    def time(self, use: int) -> int | None:
        """Return when a use was; None where that is not known."""
        return self.times[use] if self.times else None

    def changes_by_use(self) -> dict[int, list[Change]]:
        """Return the changes by the use that they come before."""
        found: dict[int, list[Change]] = {}
        for change in self.changes:
            found.setdefault(change.before_use, []).append(change)
        return found

    def capacities(self) -> list[int]:
        """Return the most that models can have at each use: where the capacity fell, what was loaded before stays."""
        by_use, capacity, found = self.changes_by_use(), self.capacity_bytes, []
        for use in range(len(self.uses)):
            for change in by_use.get(use, ()):
                capacity = max(capacity, change.capacity_bytes)
            found.append(capacity)
        return found

    @property
    def capacity_falls(self) -> bool:
        """Whether models may take less at some time than they might before."""
        found = [self.capacity_bytes]
        found += [each.capacity_bytes for each in self.changes if each.kind is ChangeKind.CAPACITY]
        return any(later < earlier for earlier, later in pairwise(found))

    def lapsed(self) -> frozenset[int]:
        """Return the uses before which the model has gone by itself: idle past its keep-alive, or unloaded."""
        by_use, found, gone, idle = self.changes_by_use(), set[int](), set[str](), Idleness(self)
        for use, model_id in enumerate(self.uses):
            for change in by_use.get(use, ()):
                gone.update(idle.expired(change.t_ms))
                idle.take(change)
                if change.kind in GONE:
                    gone.add(change.model_id)
            now = self.time(use)
            gone.update(idle.expired(now))
            if model_id in gone:
                found.add(use)
            gone.discard(model_id)
            idle.use(use)
        return frozenset(found)


class Idleness:
    """Since when each model has been idle, and how long it may be."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        later: dict[str, int] = {}
        self._kept: set[int] = set()
        """Uses after which the model is recorded to have been there still at its next one."""
        for use in reversed(range(len(trace.uses))):
            if later.get(trace.uses[use]) in trace.hits:
                self._kept.add(use)
            later[trace.uses[use]] = use
        # Mutable: by use and take.
        self._since: dict[str, int | None] = {}
        self._busy: set[str] = set()
        """Leased, so that they are not idle."""
        self.keep: dict[str, Change] = {}

    def use(self, use: int) -> None:
        """Note a use."""
        model_id = self._trace.uses[use]
        self._since[model_id] = None if use in self._kept else self._trace.time(use)

    def take(self, change: Change) -> None:
        """Note a change."""
        match change.kind:
            case ChangeKind.KEEP:
                self.keep[change.model_id] = change
            case ChangeKind.LEASE if self._since.get(change.model_id) is not None:
                self._busy.add(change.model_id)
            case ChangeKind.RELEASE if change.model_id in self._busy:
                self._busy.discard(change.model_id)
                self._since[change.model_id] = change.t_ms
            case ChangeKind.UNLOAD | ChangeKind.IDLE:
                self._busy.discard(change.model_id)  # it went with its device, or the lease had ended

    def expired(self, now_ms: int | None) -> list[str]:
        """Return the models that are past their keep-alive; those of which a time is not known never are."""
        if now_ms is None:
            return []
        return [each for each in self.keep if (due := self.due(each)) is not None and due <= now_ms]

    def due(self, model_id: str) -> int | None:
        """Return when a model is past its keep-alive if it stays idle; None for never, or where that is not known."""
        keep, since = self.keep.get(model_id), self._since.get(model_id)
        if (
            keep is None
            or keep.pinned
            or keep.keep_alive_ms is None
            or since is None
            or model_id in self._busy
        ):
            return None
        return since + keep.keep_alive_ms
