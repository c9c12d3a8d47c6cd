"""Replays a trace through the planner and the policies that serve live models."""

from collections.abc import Sequence

from protocol.record import Record
from protocol.vocabulary import EvictionStrategy
from worker.eviction.planner import Candidate, Need, plan_eviction
from worker.eviction.state import EvictionState
from worker.tools.simulate.trace_file import Trace

_DEVICE = "sim:0"


class ReplayCost(Record):
    """What a trace cost under one policy."""

    reload_ms: int
    """Sum over all loads, each model's first one included: that one no policy can save."""
    loads: int
    evictions: int


def replay(trace: Trace, strategy: EvictionStrategy) -> ReplayCost:
    """Use the models in their order, loading what is missing and evicting as planned. Deterministic.

    1. A use of a resident model costs nothing.
    2. A missing one costs its ``load_ms`` and becomes resident; nothing else is ever loaded.
    3. Where it does not fit, a plan frees what is lacking: no model is pinned, leased or expired.
    """
    state = EvictionState(trace.capacity_bytes, adaptive=strategy is EvictionStrategy.ADAPTIVE)
    resident: dict[str, Candidate] = {}
    used_bytes = reload_ms = loads = evictions = 0
    for model_id in trace.uses:
        model = trace.models[model_id]
        state.record_size(model_id, model.size_bytes)
        state.record_use(model_id, None)
        if model_id in resident:  # 1
            continue
        lacking = used_bytes + model.size_bytes - trace.capacity_bytes
        if lacking > 0:  # 3
            plan = plan_eviction(resident.values(), Need(_DEVICE, lacking), state.ranking(strategy, None))
            for victim in plan.victims:
                del resident[victim.model_id]
                used_bytes -= victim.freed_bytes
                state.record_eviction(victim.model_id)
            evictions += len(plan.victims)
        resident[model_id] = Candidate(model_id, _DEVICE, model.size_bytes, model.load_ms)  # 2
        used_bytes += model.size_bytes
        reload_ms += model.load_ms
        loads += 1
        state.record_load(model_id, model.size_bytes, model.load_ms)
    return ReplayCost(reload_ms, loads, evictions)


def replay_all(
    trace: Trace, strategies: Sequence[EvictionStrategy] = tuple(EvictionStrategy)
) -> dict[EvictionStrategy, ReplayCost]:
    """Replay under each strategy, in the order given."""
    return {strategy: replay(trace, strategy) for strategy in strategies}
