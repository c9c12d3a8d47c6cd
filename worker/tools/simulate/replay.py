"""Replays a trace through the planner and the policies that serve live models."""

from collections.abc import Sequence
from dataclasses import replace

from protocol.record import Record
from protocol.vocabulary import EvictionStrategy
from worker.eviction.planner import Candidate, Need, plan_eviction
from worker.eviction.state import EvictionState
from worker.tools.simulate.trace import GONE, Change, ChangeKind, Idleness, Trace

_DEVICE = "sim:0"


class ReplayCost(Record):
    """What a trace cost under one policy."""

    reload_ms: int
    """Sum over all loads, each model's first one included: that one no policy can save."""
    loads: int
    evictions: int
    """Models that went, by policy, keep-alive or request."""


def replay(trace: Trace, strategy: EvictionStrategy) -> ReplayCost:
    """Use the models in their order, loading what is missing and evicting as planned. Deterministic.

    1. What happened meanwhile whatever the policy, happens: unloads as asked, leases that end, keep-alives
       that are set, a capacity that changes. A model idle past its keep-alive goes.
    2. A use of a resident model costs nothing.
    3. A missing one costs its ``load_ms`` and becomes resident; nothing else is ever loaded.
    4. Where it does not fit, a plan frees what is lacking; where that can't be, it is not kept.
    """
    return _Replay(trace, strategy).run()


def replay_held(trace: Trace, strategy: EvictionStrategy) -> tuple[ReplayCost, int | None]:
    """Replay, and return also the bytes held by the milliseconds for which they were; None where times are missing."""
    replayed = _Replay(trace, strategy)
    return replayed.run(), replayed.held_byte_ms if trace.timed else None


def replay_all(
    trace: Trace, strategies: Sequence[EvictionStrategy] = tuple(EvictionStrategy)
) -> dict[EvictionStrategy, ReplayCost]:
    """Replay under each strategy, in the order given."""
    return {strategy: replay(trace, strategy) for strategy in strategies}


class _Replay:
    """One device under one strategy."""

    def __init__(self, trace: Trace, strategy: EvictionStrategy) -> None:
        self._trace = trace
        self._strategy = strategy
        # All mutable state: what the policies remember, what is resident, and what it cost.
        self._state = EvictionState(trace.capacity_bytes, adaptive=strategy is EvictionStrategy.ADAPTIVE)
        self._resident: dict[str, Candidate] = {}
        self._idle = Idleness(trace)
        self._measured_ms = {model_id: model.load_ms for model_id, model in trace.models.items()}
        self._capacity_bytes = trace.capacity_bytes
        self._used_bytes = self._reload_ms = self._loads = self._evictions = 0
        self._clock_ms: int | None = None
        self.held_byte_ms = 0

    def run(self) -> ReplayCost:
        """Go through the trace."""
        changes = self._trace.changes_by_use()
        for use, model_id in enumerate(self._trace.uses):
            for change in changes.get(use, ()):
                self._expire(change.t_ms)
                self._happen(change)
            now = self._trace.time(use)
            self._expire(now)  # 1
            self._idle.use(use)
            self._use(model_id)
        return ReplayCost(self._reload_ms, self._loads, self._evictions)

    def _happen(self, change: Change) -> None:
        self._idle.take(change)
        if change.kind in GONE and change.model_id in self._resident:
            self._go(change.model_id)
        if change.kind is ChangeKind.CAPACITY:
            self._capacity_bytes = change.capacity_bytes
            self._state.set_capacity(change.capacity_bytes)
        if change.kind is ChangeKind.MEASURED:
            self._measured_ms[change.model_id] = change.load_ms
        there = self._resident.get(change.model_id)
        if there is None:
            return
        match change.kind:
            case ChangeKind.KEEP:
                self._resident[there.model_id] = replace(there, pinned=change.pinned)
            case ChangeKind.LEASE | ChangeKind.RELEASE:
                in_use = int(change.kind is ChangeKind.LEASE)
                self._resident[there.model_id] = replace(there, in_use=in_use)

    def _expire(self, now_ms: int | None) -> None:
        if now_ms is None:
            return
        passed = 0 if self._clock_ms is None else max(0, now_ms - self._clock_ms)
        self._clock_ms = now_ms if self._clock_ms is None else max(now_ms, self._clock_ms)
        self.held_byte_ms += self._used_bytes * passed
        for model_id in self._idle.expired(now_ms):
            if model_id in self._resident:
                due = self._idle.due(model_id) or now_ms
                self.held_byte_ms -= self._resident[model_id].size_bytes * min(passed, now_ms - due)
                self._go(model_id)

    def _use(self, model_id: str) -> None:
        model, state = self._trace.models[model_id], self._state
        state.record_size(model_id, model.size_bytes)
        state.record_use(model_id, None)
        if model_id not in self._resident:  # 3
            self._reload_ms += model.load_ms
            self._loads += 1
            lacking = self._used_bytes + model.size_bytes - self._capacity_bytes
            if lacking > 0:  # 4
                ranking = state.ranking(self._strategy, None)
                plan = plan_eviction(self._resident.values(), Need(_DEVICE, lacking), ranking)
                if not plan.meetable:
                    return
                for victim in plan.victims:
                    self._go(victim.model_id)
            pinned = model_id in self._idle.keep and self._idle.keep[model_id].pinned
            self._resident[model_id] = Candidate(
                model_id, _DEVICE, model.size_bytes, model.load_ms, pinned=pinned
            )
            self._used_bytes += model.size_bytes
            state.record_load(model_id, model.size_bytes, self._measured_ms[model_id])

    def _go(self, model_id: str) -> None:
        self._used_bytes -= self._resident.pop(model_id).size_bytes
        self._state.record_eviction(model_id)
        self._evictions += 1
