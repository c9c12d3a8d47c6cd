"""Eviction policies: what a resident model is worth, from how all of them were used.

A policy only ranks. What has to go, what may not go and what is too much is for the planner
(``eviction``), and the same planner and policies serve live models, shadow caches and simulations.
The lowest worth goes first; between equals the one that was used longest ago.
"""

from worker.eviction.use_history import HALF_LIVES, ModelUse, UseHistory


class Policy:
    """Ranks by ``worth``. One that keeps state of its own gets it from ``used`` and ``evicted`` only."""

    name = ""

    def used(self, model: ModelUse, history: UseHistory) -> None:
        """Take note of a use, after ``history`` did and the model is resident."""

    def evicted(self, model: ModelUse) -> None:
        """Take note that the model went, in the cache that this policy rules."""

    def worth(self, model: ModelUse, history: UseHistory) -> float:
        """Give what keeping the model is worth; comparable only within one policy and tick."""
        raise NotImplementedError


class LeastRecentlyUsed(Policy):
    """The one not used for longest goes first: best where use comes in bursts."""

    name = "lru"

    def worth(self, model: ModelUse, history: UseHistory) -> float:
        """Rank by the rate of use if the model comes back after as long as it was away."""
        return 1 / (history.age(model) + 1)


class LeastFrequentlyUsed(Policy):
    """The one with fewest uses goes first: best where a few models stay popular."""

    name = "lfu"

    def worth(self, model: ModelUse, history: UseHistory) -> float:  # noqa: ARG002 - part of the protocol
        """Rank by number of uses."""
        return model.count


class LargestFirst(Policy):
    """The largest goes first: fewest victims."""

    name = "largest_first"

    def worth(self, model: ModelUse, history: UseHistory) -> float:  # noqa: ARG002 - part of the protocol
        """Rank by size, the largest lowest."""
        return -model.size_bytes


class CostAware(Policy):
    """Greedy-dual-size-frequency: a use lifts a model by uses x reload time / size above the clock.

    The clock is the worth of the last victim. It only rises, so that a model once costly and popular
    sinks when others are used and it is not.
    """

    name = "cost_aware"

    def __init__(self) -> None:
        # Mutable: these three, by used and evicted.
        self._clock = 0.0
        self._uses: dict[str, int] = {}
        self._worth: dict[str, float] = {}

    def used(self, model: ModelUse, history: UseHistory) -> None:
        """Lift the model above the clock by what it has earned since it was loaded."""
        uses = self._uses[model.id] = self._uses.get(model.id, 0) + 1
        self._worth[model.id] = self._clock + uses * history.density(model)

    def evicted(self, model: ModelUse) -> None:
        """Set the clock to the victim's worth and forget the victim's uses."""
        self._clock = max(self._clock, self._worth.pop(model.id, 0.0))
        self._uses.pop(model.id, None)

    def worth(self, model: ModelUse, history: UseHistory) -> float:
        """Give the lifted worth; a model that came in without a use stands at the clock."""
        worth = self._worth.get(model.id)
        return self._clock + history.density(model) if worth is None else worth


class CostPerAge(Policy):
    """Reload time a byte, divided by the uses since the last one: LRU for models of unequal cost."""

    name = "cost_per_age"

    def worth(self, model: ModelUse, history: UseHistory) -> float:
        """Rank by what a byte saves if the model comes back after as long as it was away."""
        return history.density(model) / (history.age(model) + 1)


class DecayedFrequency(Policy):
    """Reload time a byte, times the uses of late: LFU that forgets by a half-life."""

    def __init__(self, half_life: int) -> None:
        """Take one of ``HALF_LIVES``."""
        self._half_life = HALF_LIVES.index(half_life)
        self.name = f"frequency_{half_life}"

    def worth(self, model: ModelUse, history: UseHistory) -> float:
        """Rank by what a byte saves at the present rate of use."""
        return history.density(model) * history.rate(model, self._half_life)
