"""Replays a trace as it might have been: one keep-alive, time to live or bound changed, all else as it was."""

from dataclasses import replace
from functools import cache

from protocol.vocabulary import EvictionStrategy
from worker.tools.simulate import trace as models
from worker.tools.simulate.consumer_replay import ConsumerCost, Rules, replay_planned
from worker.tools.simulate.consumer_trace import ConsumerTrace
from worker.tools.simulate.replay import replay_held
from worker.tools.simulate.trace import ChangeKind, Trace
from worker.tools.simulate.what_if import SECONDS, Change, Outcome, Tell, WhatIf, told_bytes, untold, what_if

_MS = (*(1000 * seconds for seconds in SECONDS), None)


def models_what_if(trace: Trace, strategy: EvictionStrategy, within: float, tell: Tell = untold) -> WhatIf:
    """Try keep-alives for all models that are not pinned, and bounds of the device, under one strategy."""

    def outcome(change: Change | None) -> Outcome:
        cost, held = replay_held(_changed(trace, change), strategy)
        return Outcome(cost.loads, cost.reload_ms, held)

    changes = [Change("keep_alive_ms", value) for value in _MS] if trace.timed else []
    instead_of = {"keep_alive_ms": _kept(trace), "capacity_bytes": told_bytes(trace.capacity_bytes)}
    return what_if(outcome, trace.capacity_bytes, changes, within, instead_of, tell)


def _kept(trace: Trace) -> str:
    """Return the keep-alive that holds, in words."""
    set_ms = {each.model_id: each.keep_alive_ms for each in trace.changes if each.kind is ChangeKind.KEEP}
    values = {set_ms.get(model_id) for model_id in trace.models}
    (kept_ms, *others) = values or {None}
    if others:
        return "as it was set"
    return "none" if kept_ms is None else f"{kept_ms / 1000:g}"


def consumers_what_if(trace: ConsumerTrace, within: float, tell: Tell = untold) -> WhatIf:
    """Try keep-alives and times to live for all consumers and for each alone, and bounds of what they share.

    What can change nothing is not replayed: a keep-alive or a time to live that nothing reached, and memory beyond what all
    entries take.
    """
    everything = sum(trace.entry(key).size_bytes for key in set(trace.uses))

    @cache
    def replayed(capacity_bytes: int, rules: Rules) -> ConsumerCost:
        return replay_planned(replace(trace, capacity_bytes=capacity_bytes), rules)

    def outcome(change: Change | None) -> Outcome:
        bound, rules = trace.capacity_bytes, Rules()
        match change:
            case Change("capacity_bytes", int(size), _):
                bound = size
            case Change("keep_alive_ms", int(value), consumer):
                rules = Rules(idle_ms=value, consumer=consumer)
            case Change("ttl_ms", int(value), consumer):
                rules = Rules(ttl_ms=value, consumer=consumer)
        bound = min(bound, max(1, everything))
        as_it_is = replayed(bound, Rules())
        cost = as_it_is if _never_reached(rules, as_it_is) else replayed(bound, rules)
        return Outcome(cost.rebuilds, cost.total_ms, cost.held_byte_ms)

    whose = (None, *(trace.entries if len(trace.entries) > 1 else ()))
    changes = [
        Change(what, 1000 * seconds, consumer)
        for consumer in whose
        for what in ("keep_alive_ms", "ttl_ms")
        for seconds in (SECONDS if trace.timed else ())
    ]
    words = {"keep_alive_ms": "none", "ttl_ms": "none", "capacity_bytes": told_bytes(trace.capacity_bytes)}
    return what_if(outcome, trace.capacity_bytes, changes, within, words, tell)


def _never_reached(rules: Rules, as_it_is: ConsumerCost) -> bool:
    """Tell whether nothing was ever kept for as long as the rules allow, so that all goes as without them."""

    def longest(times: dict[str, int]) -> int:
        return max((time for of, time in times.items() if rules.consumer in {None, of}), default=-1)

    idle = rules.idle_ms is None or longest(as_it_is.longest_idle_ms) < rules.idle_ms
    return idle and (rules.ttl_ms is None or longest(as_it_is.longest_kept_ms) < rules.ttl_ms)


def _changed(trace: Trace, change: Change | None) -> Trace:
    """Return a trace of models with one thing changed.

    What is recorded to have gone because it was idle goes by the keep-alive that then holds, and that a use found its
    model loaded is no sign of it: so that what is changed and what is not are told by the same rules.
    """
    changes = [each for each in trace.changes if each.kind is not ChangeKind.IDLE]
    capacity = trace.capacity_bytes
    if change is not None and change.what == "capacity_bytes":
        bound = change.value or capacity
        changes = [
            replace(each, capacity_bytes=max(1, each.capacity_bytes * bound // capacity))
            if each.kind is ChangeKind.CAPACITY
            else each
            for each in changes
        ]
        return replace(trace, capacity_bytes=bound, changes=tuple(changes), hits=frozenset())
    if change is not None:
        pinned = {each.model_id for each in changes if each.kind is ChangeKind.KEEP and each.pinned}
        first = [
            models.Change(ChangeKind.KEEP, 0, model_id=model_id, keep_alive_ms=change.value)
            for model_id in trace.models
            if model_id not in pinned
        ]
        changes = first + [
            replace(each, keep_alive_ms=change.value) if each.kind is ChangeKind.KEEP else each
            for each in changes
        ]
    return replace(trace, changes=tuple(changes), hits=frozenset())
