"""What each device's eviction strategies remember of its models, and the record of what was decided.

Pure; the manager's lock is held by whoever calls.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol.record import Record
from protocol.vocabulary import EvictionStrategy
from worker.core.clock import NS_PER_MS, Clock
from worker.core.records import Decision, DecisionKind
from worker.eviction.planner import Candidate, Ranking
from worker.manager.manager_memory import MemoryManager
from worker.manager.model_table import ModelBook, ModelEntry

if TYPE_CHECKING:
    from worker.eviction.state import EvictionState


class LastUse(Record):
    """A ranking: the least recently used goes first."""

    book: ModelBook

    def worth(self, candidate: Candidate) -> tuple[float, ...]:
        """Rank by last use."""
        return (self.book.get(candidate.model_id).last_used_ns or 0,)

    def because(self, _candidate: Candidate) -> str:
        """Say so."""
        return "the least recently used"


class ModelMemories:
    """Told of every use, load and eviction, as it happens."""

    def __init__(
        self,
        manager: MemoryManager,
        book: ModelBook,
        clock: Clock,
        record: Callable[[Decision], None] | None,
    ) -> None:
        self._manager = manager
        self._book = book
        self._clock = clock
        self._record = record
        # All mutable state: what each device's strategies remember.
        self._states: dict[str, EvictionState] = {}

    def asked_for(self, entry: ModelEntry, device_id: str) -> None:
        """Note a use, before room is made for it: what is used now tells what is used next."""
        self._state(device_id).record_use(entry.model_id, self._now_ms())

    def used(self, entry: ModelEntry, device_id: str) -> None:
        """Enter a use in the record."""
        self._note(DecisionKind.USE, entry, device_id)

    def loaded(self, entry: ModelEntry, device_id: str, size_bytes: int) -> None:
        """Note that a model became resident."""
        self._state(device_id).record_load(entry.model_id, size_bytes, entry.load_ms)
        self._note(DecisionKind.LOAD, entry, device_id)

    def evicted(self, entry: ModelEntry, device_id: str, reason: str) -> None:
        """Note that a model is no longer resident."""
        self._state(device_id).record_eviction(entry.model_id)
        self._note(DecisionKind.EVICT, entry, device_id, reason)

    def ranking(self, device_id: str, strategy: EvictionStrategy) -> Ranking:
        """Return a strategy's order now."""
        return self._state(device_id).ranking(strategy, self._now_ms())

    def _note(self, kind: DecisionKind, entry: ModelEntry, device_id: str, reason: str | None = None) -> None:
        """Tell whoever records decisions; must not wait, for the lock is held."""
        if self._record is None:
            return
        size, load_ms = entry.measured_bytes or 0, entry.load_ms or 0
        capacity = self._capacity(device_id)
        self._record(
            Decision(kind, entry.model_id, device_id, self._now_ms(), size, load_ms, capacity, reason)
        )

    def _capacity(self, device_id: str) -> int:
        """Return what models may take on a device: what they have, and what is left."""
        room = self._manager.headroom(device_id).total_bytes or 0
        return room + self._manager.model_bytes(device_id)

    def _state(self, device_id: str) -> "EvictionState":
        capacity = self._capacity(device_id)
        state = self._states.get(device_id)
        if state is None:
            from worker.eviction.state import EvictionState  # noqa: PLC0415 - all policies; only models need them

            state = self._states[device_id] = EvictionState(capacity)
            for entry in self._book:
                if entry.known_bytes is not None and not entry.spec.external:
                    state.record_size(entry.model_id, entry.known_bytes)
        state.set_capacity(capacity)
        return state

    def _now_ms(self) -> int:
        return self._clock.now_ns() // NS_PER_MS
