"""The adaptive strategy: candidate policies in simulated caches over the live uses, the cheapest leads."""

from collections.abc import Sequence

from worker.eviction import choose
from worker.eviction_policies import Policy
from worker.use_history import ModelUse, UseHistory

HALF_LIFE = 150
"""Uses after which a reload in a shadow counts half: what was cheap of late leads."""

MARGIN_RATIO = 0.03
MARGIN_LOADS = 1.0
"""A policy takes over when it is cheaper by this share and this many average loads: less is noise."""


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

    def use(self, model: ModelUse, history: UseHistory, capacity_bytes: int) -> None:
        """Follow one use: load what is missing, evict what is in its way.

        1. A resident model of the same size costs nothing.
        2. One that is missing costs its load; one above the capacity is not kept (a pin or a lease can
           leave less room than a model takes).
        3. What is too much goes, as in a live plan.
        """
        self.recent_ms *= 0.5 ** (1 / HALF_LIFE)
        size = model.size_bytes
        present = model.id in self._resident
        if not present:  # 2
            cost = history.cost_ms(model)
            self.recent_ms += cost
            self.total_ms += cost
            if size > capacity_bytes:
                return
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

    def _evict(self, model: ModelUse) -> None:
        del self._resident[model.id]
        self._used_bytes -= self._sizes.pop(model.id)
        self.policy.evicted(model)


class Adaptive(Policy):
    """Ranks as the shadow does that was cheapest of late; the first one leads at the start.

    The guard against switching on noise: a challenger must be cheaper than the leader by
    ``MARGIN_RATIO`` of the leader's recent cost and by ``MARGIN_LOADS`` average loads.
    """

    name = "adaptive"

    def __init__(self, policies: Sequence[Policy], capacity_bytes: int) -> None:
        self.shadows = tuple(ShadowCache(policy) for policy in policies)
        # Mutable: these, by used; the capacity by its owner.
        self.capacity_bytes = capacity_bytes
        self.switches = 0
        self._leader = self.shadows[0]
        self._mean_load_ms = 0.0

    @property
    def leader(self) -> str:
        """The name of the policy that ranks now."""
        return self._leader.policy.name

    def used(self, model: ModelUse, history: UseHistory) -> None:
        """Follow one use in every shadow, then see who leads."""
        for shadow in self.shadows:
            shadow.use(model, history, self.capacity_bytes)
        self._mean_load_ms += (history.cost_ms(model) - self._mean_load_ms) / history.tick
        best = min(self.shadows, key=lambda shadow: shadow.recent_ms)  # the first of equals
        margin = MARGIN_RATIO * self._leader.recent_ms + MARGIN_LOADS * self._mean_load_ms
        if best.recent_ms + margin < self._leader.recent_ms:
            self._leader = best
            self.switches += 1

    def worth(self, model: ModelUse, history: UseHistory) -> float:
        """Rank as the leader does."""
        return self._leader.policy.worth(model, history)
