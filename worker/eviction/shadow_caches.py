"""The adaptive strategy: candidate policies in simulated caches over the live uses, the cheapest leads."""

import math
from collections.abc import Sequence

from worker.eviction.planner import choose
from worker.eviction.policies import Policy
from worker.eviction.use_history import ModelUse, UseHistory

HALF_LIFE = 150
"""Uses after which a reload in a shadow counts half: what was cheap of late leads."""

_DECAY = 0.5 ** (1 / HALF_LIFE)

LOADS_TO_LEAVE = 1.0
LOADS_TO_RETURN = 0.5
"""A challenger must be cheaper by this many average loads; to return to a cautious policy takes less."""

NOISE_TO_LEAVE = 0.3
NOISE_TO_RETURN = -0.4
"""And by so many standard deviations of the difference."""


class ShadowCache:
    """What would be resident under one policy, and what its reloads cost. Holds names, no weights."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        # Mutable: these, by use only.
        self.recent_ms = 0.0
        """Reload milliseconds, each halved every ``HALF_LIFE`` uses."""
        self.total_ms = 0.0
        self._resident: dict[str, ModelUse] = {}
        self._sizes: dict[str, int] = {}
        self._used_bytes = 0

    def use(self, model: ModelUse, history: UseHistory, capacity_bytes: int) -> bool:
        """Follow one use: load what is missing, evict what is in its way; say whether it was missing.

        1. A resident model of the same size costs nothing.
        2. One that is missing costs its load; one above the capacity is not kept (a pin or a lease can
           leave less room than a model takes).
        3. What is too much goes, as in a live plan.
        """
        self.recent_ms *= _DECAY
        size = model.size_bytes
        present = model.id in self._resident
        if not present:  # 2
            cost = history.cost_ms(model)
            self.recent_ms += cost
            self.total_ms += cost
            if size > capacity_bytes:
                return True
        self._used_bytes += size - self._sizes.pop(model.id, 0)
        self._resident.pop(model.id, None)
        excess = self._used_bytes - capacity_bytes
        if excess > 0 and self._resident:  # 3
            policy = self.policy
            order = sorted(
                self._resident.values(), key=lambda one: (policy.worth(one, history), one.last_tick, one.id)
            )
            sizes = [self._sizes[one.id] for one in order]
            for index in choose(sizes, min(excess, sum(sizes))):
                self._evict(order[index])
        self._resident[model.id] = model
        self._sizes[model.id] = size
        self.policy.used(model, history)
        return not present

    def _evict(self, model: ModelUse) -> None:
        del self._resident[model.id]
        self._used_bytes -= self._sizes.pop(model.id)
        self.policy.evicted(model)


class Adaptive(Policy):
    """Ranks as the policy does whose shadow was cheapest of late.

    The guard against switching on noise: two shadows differ only where one has a model and the other
    has not. If that were chance, the difference of their recent costs would have the variance of the
    sum of those loads squared. A challenger takes the lead when
      1. its recent cost is below the leader's by more than ``LOADS_TO_LEAVE`` average loads
      2. plus ``NOISE_TO_LEAVE`` standard deviations; ``.._TO_RETURN`` where the challenger is one of the
         cautious policies, which no pattern of use can mislead by much;
      3. and of several such, the cheapest does; of equals, the first.
    """

    name = "adaptive"

    def __init__(self, cautious: Sequence[Policy], bold: Sequence[Policy], capacity_bytes: int) -> None:
        """Take the policies to choose from; the first cautious one leads until another proves cheaper."""
        self.shadows = tuple(ShadowCache(policy) for policy in (*cautious, *bold))
        self._cautious = len(cautious)
        # Mutable: these, by used; the capacity by its owner.
        self.capacity_bytes = capacity_bytes
        self.switches = 0
        self._leader = 0
        self._mean_load_ms = 0.0
        self._variance = [[0.0] * len(self.shadows) for _ in self.shadows]
        """Of the difference between the recent costs of two shadows, in square milliseconds."""

    @property
    def leader(self) -> str:
        """The name of the policy that ranks now."""
        return self.shadows[self._leader].policy.name

    def used(self, model: ModelUse, history: UseHistory) -> None:
        """Follow one use in every shadow, then see who leads."""
        cost = history.cost_ms(model)
        self._mean_load_ms += (cost - self._mean_load_ms) / history.tick
        loaded = [shadow.use(model, history, self.capacity_bytes) for shadow in self.shadows]
        for row, one in zip(self._variance, loaded, strict=True):
            row[:] = [
                value * _DECAY + (cost * cost if one is not other else 0.0)
                for value, other in zip(row, loaded, strict=True)
            ]
        recent = self.shadows[self._leader].recent_ms
        best = self._leader
        for index, shadow in enumerate(self.shadows):
            back = index < self._cautious
            loads, noise = (LOADS_TO_RETURN, NOISE_TO_RETURN) if back else (LOADS_TO_LEAVE, NOISE_TO_LEAVE)
            deviation = math.sqrt(self._variance[self._leader][index])
            margin = loads * self._mean_load_ms + noise * deviation  # 1, 2
            cheaper = shadow.recent_ms < self.shadows[best].recent_ms  # 3
            if cheaper and shadow.recent_ms + margin < recent:
                best = index
        if best != self._leader:
            self._leader = best
            self.switches += 1

    def worth(self, model: ModelUse, history: UseHistory) -> float:
        """Rank as the leader does."""
        return self.shadows[self._leader].policy.worth(model, history)
