"""Which models go to free memory, and why each of the others stays. Pure: no clock, no device."""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Protocol

from protocol.record import Record
from protocol.vocabulary import UnloadMode

NOTHING_NEEDED = "stays: nothing has to be freed"

SPARE_SHARE = 0.7
"""What a byte freed beyond the need counts for, as a share of the next in order: it serves the next load. Of 0.5, 0.6, 0.7, 0.8 and 1
the best for ``adaptive`` on seeds 100 to 115 and 400 to 407 of ``benchmarks/eviction_traces``; all but 1 are within 0.004 of its way."""


class Candidate(Record):
    """A resident model, as the plan sees it."""

    model_id: str
    device_id: str
    size_bytes: int
    """What its eviction frees on the device."""
    reload_ms: int | None = None
    """Measured load; None if it never was."""
    restore_ms: int | None = None
    """Measured way back from host memory; None if it never was."""
    in_use: int = 0
    """Leases held now."""
    pinned: bool = False
    excluded: bool = False
    """Named by the request as one to leave alone."""
    external: bool = False
    """Held by another process: only its owner's word frees it, so no plan counts on it."""
    priority: int = 0
    """The higher, the longer it stays; read by the strategy ``priority`` only."""
    expired: bool = False
    """Idle past its keep-alive."""
    offloadable: bool = False
    """May go to host memory instead of being unloaded."""
    shrinkable_bytes: int = 0
    """What of its size it can give back and stay."""
    shrink_ms: int | None = None
    """What that took the last time; None if it was never done."""
    cost_ms: float = 0.0
    """Expected milliseconds of rebuilding: what it is compared with other consumers' offers by."""


class Need(Record):
    """What the plan is for."""

    device_id: str
    free_bytes: int
    max_models: int | None = None
    """The most victims; None for any number."""
    forced: bool = False
    """Free as much as can be where the whole cannot. It never reaches what is pinned, in use or excluded."""
    host_headroom_bytes: int = 0
    """Host memory that offloaded models may take."""


class Victim(Record):
    """A model that goes."""

    model_id: str
    freed_bytes: int
    mode: UnloadMode
    reload_ms: int | None
    """What bringing it back takes, from where it goes; None if that was never measured."""
    reason: str


class Survivor(Record):
    """A model that stays."""

    model_id: str
    reason: str


class EvictionPlan(Record):
    """Victims in the order in which they go, and survivors in the order of the candidates."""

    need_bytes: int
    ceiling_bytes: int
    """The most that could be freed within the limits of the need."""
    meetable: bool
    """Whether the ceiling reaches the need."""
    freed_bytes: int
    reload_ms: int | None
    """Sum over the victims; None where one of them was never measured."""
    offloaded_bytes: int
    """Host memory that the victims take."""
    victims: tuple[Victim, ...]
    survivors: tuple[Survivor, ...]


class Ranking(Protocol):
    """An order of candidates, and the words for a candidate's place in it."""

    def worth(self, candidate: Candidate) -> tuple[float, ...]:
        """Give the sort key: the lowest goes first."""

    def loss(self, candidate: Candidate) -> float | None:
        """Give what its eviction loses, in any unit that adds up: worth by the byte x size; None where worth is an order alone."""

    def because(self, candidate: Candidate) -> str:
        """Say what that worth comes from, in words that end a sentence."""


def plan_eviction(candidates: Iterable[Candidate], need: Need, ranking: Ranking) -> EvictionPlan:
    """Decide which models go.

    A candidate stays, for the first of these that holds:
      1. it is on another device;
      2. the request excludes it;
      3. it is in use;
      4. it is pinned;
      5. another process holds it;
      6. it holds no memory;
      7. nothing has to be freed;
      8. the need cannot be met, and is not forced: then no model goes.
    Where what engines keep beside their models is enough, that is given back, the cheapest byte first, and no model
    goes. Else they go in this order until the need is met:
      9. idle past keep-alive, then the others; within both, the lowest worth first, then the id;
     10. but one is passed over where, with it, ``max_models`` victims could no longer free enough;
     11. where losses add up, the order ends where one more, whatever its place, frees the rest for the least loss
         in all: so no large one goes for a small need while a small one of little more worth would do;
     12. and one is spared after all where the others free enough without it, the highest worth first:
         so less than the smallest victim is freed beyond the need.
    A victim is
     13. offloaded, where it may be and the host has headroom, the longest reload first;
     14. else unloaded.
    """
    everyone = list(candidates)
    reasons: dict[str, str] = {}
    free: list[Candidate] = []
    for candidate in everyone:
        reason = why_fixed(candidate, need.device_id)  # 1 to 6
        if reason is None:
            free.append(candidate)
        else:
            reasons[candidate.model_id] = reason
    ceiling = _ceiling([candidate.size_bytes for candidate in free], need.max_models)
    chosen: list[Candidate] = []
    if need.free_bytes <= 0:  # 7
        reasons.update((candidate.model_id, NOTHING_NEEDED) for candidate in free)
    elif ceiling < need.free_bytes and not need.forced:  # 8
        text = (
            f"stays: evicting would not help, {need.free_bytes} bytes are needed and at most {ceiling} "
            f"can be freed{_within(need)}"
        )
        reasons.update((candidate.model_id, text) for candidate in free)
    elif shrunk := _shrunk(free, need):
        return _shrinking(everyone, shrunk, reasons, ceiling, need)
    else:
        free = ranked(free, ranking)  # 9
        sizes = [candidate.size_bytes for candidate in free]
        picked = choose(
            sizes, min(need.free_bytes, ceiling), need.max_models, losses_of(free, ranking)
        )  # 10 to 12
        chosen = [free[index] for index in picked]
        for candidate in free:
            reasons[candidate.model_id] = f"stays: enough is freed without it, {ranking.because(candidate)}"
    victims = _victims(chosen, need, ranking)
    gone = {victim.model_id for victim in victims}
    reload_ms = [victim.reload_ms for victim in victims]
    return EvictionPlan(
        need_bytes=need.free_bytes,
        ceiling_bytes=ceiling,
        meetable=ceiling >= need.free_bytes,
        freed_bytes=sum(victim.freed_bytes for victim in victims),
        reload_ms=None if None in reload_ms else sum(ms for ms in reload_ms if ms is not None),
        offloaded_bytes=sum(one.freed_bytes for one in victims if one.mode is UnloadMode.OFFLOAD),
        victims=victims,
        survivors=tuple(
            Survivor(candidate.model_id, reasons[candidate.model_id])
            for candidate in everyone
            if candidate.model_id not in gone
        ),
    )


def ranked(free: Iterable[Candidate], ranking: Ranking) -> list[Candidate]:
    """Give the candidates that may go in the order in which they go: step 9 of the plan."""
    return sorted(free, key=lambda one: (not one.expired, ranking.worth(one), one.model_id))


def losses_of(free: Iterable[Candidate], ranking: Ranking) -> list[float] | None:
    """Give what each one's eviction loses, nothing where it is idle past its keep-alive; None where that doesn't add up."""
    found = []
    for candidate in free:
        loss = ranking.loss(candidate)
        if loss is None:
            return None
        found.append(0.0 if candidate.expired else loss)
    return found


def choose(
    sizes: Sequence[int],
    need_bytes: int,
    max_models: int | None = None,
    losses: Sequence[float] | None = None,
) -> list[int]:
    """Give the indices that free ``need_bytes``, taking from the front: steps 10 to 12 of the plan.

    The need must not be above what ``max_models`` of the sizes can free. ``losses`` rise by the byte from the front. Shadow
    caches call it too.
    """
    picked: list[int] = []
    freed = 0
    for index, size in enumerate(sizes):
        if freed >= need_bytes:
            break
        if max_models is not None:  # 10
            rest = _ceiling(sizes[index + 1 :], max_models - len(picked) - 1)
            if freed + size + rest < need_bytes:
                continue
        picked.append(index)
        freed += size
    if losses is not None:  # 11
        picked = _least_lost(sizes, losses, need_bytes, picked)
        freed = sum(sizes[index] for index in picked)
    for index in reversed(picked[:-1]):  # 12; the last one was needed when it was taken
        if freed - sizes[index] >= need_bytes:
            picked.remove(index)
            freed -= sizes[index]
    return picked


def _least_lost(
    sizes: Sequence[int], losses: Sequence[float], need_bytes: int, order: list[int]
) -> list[int]:
    """Give some from the front of an order that is enough, and one more after them: those that lose least."""
    freed, lost, least, best = 0, 0.0, inf, order
    for place, index in enumerate(order):
        if lost >= least:
            break
        rest, spare = need_bytes - freed, SPARE_SHARE * losses[index] / (sizes[index] or 1)
        for last in range(index, len(sizes)):
            if sizes[last] >= rest:
                loss = lost + losses[last] - spare * (sizes[last] - rest)
                if loss < least:
                    least, best = loss, [*order[:place], last]
        freed += sizes[index]
        lost += losses[index]
    return best


def why_fixed(candidate: Candidate, device_id: str) -> str | None:
    """Say why a candidate stays whatever is needed on a device; None if it may go."""
    reason = None
    if candidate.device_id != device_id:  # 1
        reason = f"it is on {candidate.device_id}, memory is needed on {device_id}"
    elif candidate.excluded:  # 2
        reason = "excluded by the request"
    elif candidate.in_use > 0:  # 3
        reason = f"in use by {candidate.in_use} {'lease' if candidate.in_use == 1 else 'leases'}"
    elif candidate.pinned:  # 4
        reason = "pinned"
    elif candidate.external:  # 5
        reason = "another process holds it, and only its owner's word frees it"
    elif candidate.size_bytes <= 0:  # 6
        reason = "it holds no memory on this device"
    return None if reason is None else f"stays: {reason}"


def _shrunk(free: Iterable[Candidate], need: Need) -> list[Candidate]:
    """Return the candidates that have to be shrunk; none where all of them together give too little."""
    able = [one for one in free if one.shrinkable_bytes > 0]
    able.sort(
        key=lambda one: ((one.shrink_ms or 0) / one.shrinkable_bytes, -one.shrinkable_bytes, one.model_id)
    )
    sizes = [one.shrinkable_bytes for one in able]
    if _ceiling(sizes, need.max_models) < need.free_bytes:
        return []
    return [able[index] for index in choose(sizes, need.free_bytes, need.max_models)]


def _shrinking(
    everyone: list[Candidate], shrunk: list[Candidate], reasons: dict[str, str], ceiling: int, need: Need
) -> EvictionPlan:
    """Make the plan by which models stay and give back what their engines keep beside them."""
    reason = "shrunk: its engine gives back working memory, and the model stays"
    victims = tuple(
        Victim(one.model_id, one.shrinkable_bytes, UnloadMode.SHRINK, 0, reason) for one in shrunk
    )
    names = {one.model_id for one in shrunk}
    return EvictionPlan(
        need_bytes=need.free_bytes,
        ceiling_bytes=ceiling,
        meetable=True,
        freed_bytes=sum(victim.freed_bytes for victim in victims),
        reload_ms=0,
        offloaded_bytes=0,
        victims=victims,
        survivors=tuple(
            Survivor(
                one.model_id, reasons.get(one.model_id, "stays: enough is given back by engines, without it")
            )
            for one in everyone
            if one.model_id not in names
        ),
    )


def _ceiling(sizes: Sequence[int], max_models: int | None) -> int:
    """Give the most that so many of the sizes add up to."""
    if max_models is None or max_models >= len(sizes):
        return sum(sizes)
    return sum(sorted(sizes, reverse=True)[: max(max_models, 0)])


def _within(need: Need) -> str:
    return "" if need.max_models is None else f" with {need.max_models} models"


def _victims(chosen: list[Candidate], need: Need, ranking: Ranking) -> tuple[Victim, ...]:
    """Give each victim its way out and its reason: steps 13 and 14."""
    headroom = need.host_headroom_bytes
    offloaded: set[str] = set()
    for one in sorted(chosen, key=lambda one: (-(one.reload_ms or 0), one.model_id)):  # 13
        if one.offloadable and one.size_bytes <= headroom:
            headroom -= one.size_bytes
            offloaded.add(one.model_id)
    victims = []
    for one in chosen:
        why = "idle past its keep-alive, " if one.expired else ""
        if one.model_id in offloaded:
            mode, verb, back = UnloadMode.OFFLOAD, "offloaded to host memory", one.restore_ms
        else:  # 14
            mode, verb, back = UnloadMode.UNLOAD, "unloaded", one.reload_ms
            if one.offloadable:
                verb = "unloaded, no headroom to offload it"
        reason = f"{verb}: {why}{ranking.because(one)}"
        victims.append(Victim(one.model_id, one.size_bytes, mode, back, reason))
    return tuple(victims)
