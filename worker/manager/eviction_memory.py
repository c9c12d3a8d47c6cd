"""What each device's eviction strategies remember of its models, and the record of what was decided.

Pure; the manager's lock is held by whoever calls.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from protocol.record import Record
from protocol.vocabulary import INT64_MAX, EvictionStrategy
from worker.core.clock import NS_PER_MS, Clock
from worker.core.records import Decision, DecisionKind, EvictionCause
from worker.eviction.planner import Candidate, Ranking
from worker.manager.manager_memory import MemoryManager
from worker.manager.model_entry import ModelEntry, Residence
from worker.manager.model_table import ModelTable

if TYPE_CHECKING:
    from worker.eviction.state import EvictionState


class LastUse(Record):
    """A ranking: the least recently used goes first."""

    table: ModelTable

    def worth(self, candidate: Candidate) -> tuple[float, ...]:
        """Rank by last use."""
        return (self.table.get(candidate.model_id).last_used_ns or 0,)

    def loss(self, _candidate: Candidate) -> None:
        """Say that this is an order alone."""

    def because(self, _candidate: Candidate) -> str:
        """Say so."""
        return "the least recently used"


class ModelMemories:
    """Told of every use, load and eviction, as it happens."""

    def __init__(
        self,
        manager: MemoryManager,
        clock: Clock,
        record: Callable[[Decision], None] | None,
    ) -> None:
        self._manager = manager
        self._table = manager.models
        self._clock = clock
        self._record = record
        # All mutable state: what each device's strategies remember, and what models could last take there.
        self._states: dict[str, EvictionState] = {}
        self._capacities: dict[str, int] = {}

    def asked_for(self, entry: ModelEntry, device_id: str) -> None:
        """Note a use, before headroom is made for it: what is used now tells what is used next."""
        self._note_lost()
        state = self._state(device_id)
        state.set_capacity(self._capacity(device_id) or INT64_MAX)
        state.record_use(entry.model_id, self._now_ms())

    def used(self, entry: ModelEntry, device_id: str) -> None:
        """Record a use."""
        self._note(DecisionKind.USE, entry, device_id)

    def leased(self, entry: ModelEntry, kind: DecisionKind) -> None:
        """Record that a model came into use, or is not in use any more."""
        if entry.residence is not None:
            self._note(kind, entry, entry.residence.device_id)

    def kept(self, entry: ModelEntry) -> None:
        """Record that a loaded model's keep-alive or pin was set."""
        if entry.residence is not None and not entry.spec.external:
            self._note(DecisionKind.KEEP, entry, entry.residence.device_id)

    def loaded(self, entry: ModelEntry, device_id: str, size_bytes: int) -> None:
        """Note that a model became resident."""
        self._state(device_id).record_load(entry.model_id, size_bytes, entry.load_ms)
        self._note(DecisionKind.LOAD, entry, device_id, size_bytes)

    def evicted(
        self, entry: ModelEntry, place: Residence, cause: EvictionCause, reason: str | None = None
    ) -> None:
        """Note that a model is no longer resident."""
        self._state(place.device_id).record_eviction(entry.model_id)
        self._note(DecisionKind.EVICT, entry, place.device_id, place.size_bytes, reason, cause)

    def ranking(self, device_id: str, strategy: EvictionStrategy) -> Ranking:
        """Return a strategy's order now."""
        return self._state(device_id).ranking(strategy, self._now_ms())

    def rebuild_ms(self, entry: ModelEntry, place: Residence) -> float:
        """Return what loading a model again takes: as measured, else as others of its device did by the byte."""
        if entry.load_ms is not None:
            return entry.load_ms
        return self._state(place.device_id).rebuild_ms(place.size_bytes)

    def saved_ms(self, entry: ModelEntry, place: Residence) -> float:
        """Return what a use of a loaded model saves: its load, but for what crosses the bus at that use all the same.

        Which model's bytes the system moved out no source says: each is expected to have the same share there. To cross
        takes no longer than the quickest way by which weights came to the device, by the byte.
        """
        rebuild = self.rebuild_ms(entry, place)
        if entry.spec.external or place.engine:  # in another process, whose share is not told
            return rebuild
        share = self._manager.pressure.demoted_share(place.device_id)
        return rebuild - share * min(rebuild, self._crossing_ms(place)) if share else rebuild

    def _crossing_ms(self, place: Residence) -> float:
        """Return what copying a model's weights to its device takes, at most; nothing where no load there was measured."""
        paces = (
            took / where.size_bytes
            for each in self._table
            if (where := each.residence) is not None
            and where.device_id == place.device_id
            and not each.spec.external
            for took in (each.load_ms, each.restore_ms)
            if took is not None
        )
        return min(paces, default=0.0) * place.size_bytes

    def _note(
        self, kind: DecisionKind, entry: ModelEntry, device_id: str, size_bytes: int = 0,
        reason: str | None = None, cause: EvictionCause | None = None,
    ) -> None:  # fmt: skip
        """Tell whoever records decisions; must not wait, for the lock is held."""
        if self._record is None:
            return
        kept_ns = entry.keep_alive_ns
        self._record(
            Decision(
                kind=kind,
                model_id=entry.model_id,
                device_id=device_id,
                t_ms=self._now_ms(),
                size_bytes=size_bytes,
                load_ms=entry.load_ms or 0,
                capacity_bytes=self._capacity(device_id),
                reason=reason,
                cause=cause,
                keep_alive_ms=None if kept_ns is None else kept_ns // NS_PER_MS,
                pinned=entry.pinned,
            )
        )

    def _note_lost(self) -> None:
        for entry, place in self._table.take_lost():
            self.evicted(entry, place, EvictionCause.LOST, "went with its device")

    def _capacity(self, device_id: str) -> int | None:
        """Return what models may take on a device, as it could last be told; None before that."""
        places = (entry.residence for entry in self._table if not entry.spec.external)
        resident = sum(each.size_bytes for each in places if each is not None and each.device_id == device_id)
        capacity = self._manager.pressure.capacity_for(device_id, resident)
        if capacity is not None:
            self._capacities[device_id] = capacity
        return self._capacities.get(device_id)

    def _state(self, device_id: str) -> "EvictionState":
        state = self._states.get(device_id)
        if state is None:
            from worker.eviction.state import EvictionState  # noqa: PLC0415 - all policies; only models need them

            state = self._states[device_id] = EvictionState(self._capacity(device_id) or INT64_MAX)
            for entry in self._table:
                if entry.known_bytes is not None and not entry.spec.external:
                    state.record_size(entry.model_id, entry.known_bytes)
        return state

    def _now_ms(self) -> int:
        return self._clock.now_ns() // NS_PER_MS
