"""The adaptive strategy: policies in simulated caches over the live uses, weighed by what those cost."""

import math
from collections.abc import Sequence

from worker.eviction.planner import choose
from worker.eviction.policies import Policy
from worker.eviction.use_history import ModelUse, UseHistory

HALF_LIFE = 600
"""Uses after which a reload in a shadow counts half: what was cheap of late weighs more."""

_DECAY = 0.5 ** (1 / HALF_LIFE)

DOUBT = 0.5
HEAD_START = 4.0
_LEAST_WEIGHT = 0.01
_LEAST_WORTH = 1e-300
"""In the place of nothing, which has no logarithm: a model that was never used."""


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
           leave less than a model takes).
        3. What is too much goes, as in a live plan.
        """
        self.recent_ms *= _DECAY
        size = model.size_bytes
        if model.id not in self._resident:  # 2
            cost = history.cost_ms(model)
            self.recent_ms += cost
            self.total_ms += cost
            if size > capacity_bytes:
                return
        self._used_bytes += size - self._sizes.pop(model.id, 0)
        self._resident.pop(model.id, None)
        excess = self._used_bytes - capacity_bytes
        if excess > 0 and self._resident:  # 3
            worth = self.policy.worth
            order = sorted((worth(one, history), one.last_tick, one.id) for one in self._resident.values())
            sizes = [self._sizes[model_id] for _, _, model_id in order]
            losses = [each * size for (each, _, _), size in zip(order, sizes, strict=True)]
            for index in choose(sizes, min(excess, sum(sizes)), losses=losses):
                self._evict(self._resident[order[index][2]])
        self._resident[model.id] = model
        self._sizes[model.id] = size
        self.policy.used(model, history)

    def _evict(self, model: ModelUse) -> None:
        del self._resident[model.id]
        self._used_bytes -= self._sizes.pop(model.id)
        self.policy.evicted(model)


class Adaptive(Policy):
    """Ranks by the opinions of several policies, each weighing as much as its shadow has shown it to be worth.

    All of them say what a byte kept saves, so that opinions can be averaged: the logarithms of the worths are.
    A policy's weight falls by a factor of e for each 1 / ``DOUBT`` average loads that its shadow has cost more
    of late than the cheapest one's. No threshold, hence no switching on noise: weights move by a load at a time.
    The first policy has a head start of ``HEAD_START`` in that exponent: it is outweighed only by others that have saved
    some loads.
    """

    name = "adaptive"

    def __init__(self, policies: Sequence[Policy], capacity_bytes: int) -> None:
        """Take the policies to weigh; the first is believed until others prove cheaper."""
        self._head_starts = [HEAD_START, *([0.0] * (len(policies) - 1))]
        self.shadows = tuple(ShadowCache(policy) for policy in policies)
        # Mutable: these, by used; the capacity by its owner.
        self.capacity_bytes = capacity_bytes
        self._mean_load_ms = 0.0
        self._weights = _shares(self._head_starts)

    @property
    def leader(self) -> str:
        """The name of the policy that weighs most now."""
        return self.shadows[self._weights.index(max(self._weights))].policy.name

    def used(self, model: ModelUse, history: UseHistory) -> None:
        """Follow one use in every shadow, then weigh them anew."""
        self._mean_load_ms += (history.cost_ms(model) - self._mean_load_ms) / history.tick
        for shadow in self.shadows:
            shadow.use(model, history, self.capacity_bytes)
        least = min(shadow.recent_ms for shadow in self.shadows)
        doubt = DOUBT / (self._mean_load_ms or 1.0)
        self._weights = _shares(
            [
                head + (least - shadow.recent_ms) * doubt
                for head, shadow in zip(self._head_starts, self.shadows, strict=True)
            ]
        )

    def worth(self, model: ModelUse, history: UseHistory) -> float:
        """Give the weighted geometric mean; whoever weighs next to nothing is not asked."""
        return math.exp(
            sum(
                weight * math.log(max(shadow.policy.worth(model, history), _LEAST_WORTH))
                for shadow, weight in zip(self.shadows, self._weights, strict=True)
                if weight > _LEAST_WEIGHT
            )
        )


def _shares(exponents: Sequence[float]) -> list[float]:
    """Give e to the power of each, divided by the sum."""
    raw = [math.exp(exponent) for exponent in exponents]
    whole = sum(raw)
    return [each / whole for each in raw]
