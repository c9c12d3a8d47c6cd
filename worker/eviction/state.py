"""What the eviction strategies of one device remember, fed by events and asked for a ranking."""

from protocol.record import Record
from protocol.vocabulary import EvictionStrategy
from worker.eviction.planner import Candidate, Ranking
from worker.eviction.policies import (
    CostAware,
    CostPerAge,
    DecayedFrequency,
    LargestFirst,
    LeastFrequentlyUsed,
    LeastRecentlyUsed,
    Policy,
)
from worker.eviction.reuse_forecast import ReuseForecast
from worker.eviction.shadow_caches import Adaptive
from worker.eviction.use_history import ModelUse, UseHistory


class EvictionState:
    """Use history, the greedy-dual clock and the shadow caches of one device.

    Every event goes in as it happens, in order:
      1. ``record_size`` when a model's size is first known, declared or estimated;
      2. ``record_use`` when a model is asked for: before memory is freed for it, because what is used now
         tells what is used next;
      3. ``record_eviction`` when one went, whoever decided it;
      4. ``record_load`` when one became resident, with its measured size and time.
    The same events give the same rankings. Memory grows with the number of model ids, not with time.
    Not thread-safe: the owner's lock is held. Each device has a state of its own.
    """

    def __init__(self, capacity_bytes: int, *, adaptive: bool = True) -> None:
        """Take what models may hold on the device; without ``adaptive`` the shadows cost no time."""
        # Mutable: the history and the policies with state of their own; only through the methods.
        self._history = UseHistory()
        self._adaptive = _adaptive(capacity_bytes)
        self._shadowing = adaptive
        self._resident: set[str] = set()
        self._awaited: set[str] = set()
        """Used while not resident: their use counts for ``cost_aware`` once they are loaded."""
        self._cost_aware = CostAware()
        recency = LeastRecentlyUsed()
        self._policies: dict[EvictionStrategy, Policy] = {
            EvictionStrategy.ADAPTIVE: self._adaptive,
            EvictionStrategy.COST_AWARE: self._cost_aware,
            EvictionStrategy.LRU: recency,
            EvictionStrategy.LFU: LeastFrequentlyUsed(),
            EvictionStrategy.LARGEST_FIRST: LargestFirst(),
            EvictionStrategy.PRIORITY: recency,  # within one priority
        }

    def record_size(self, model_id: str, size_bytes: int) -> None:
        """Note a size that is known before the first load."""
        self._history.sized(model_id, size_bytes)

    def record_use(self, model_id: str, now_ms: int | None) -> None:
        """Note one use, at a time on the clock that ``ranking`` is asked with as well; None if unknown."""
        model = self._history.used(model_id, now_ms)
        if model_id in self._resident:
            self._cost_aware.used(model, self._history)
        else:
            self._awaited.add(model_id)
        if self._shadowing:
            self._adaptive.used(model, self._history)

    def record_load(self, model_id: str, size_bytes: int, load_ms: int | None) -> None:
        """Note that a model became resident: its measured bytes, and its measured load or None."""
        model = self._history.loaded(model_id, size_bytes, load_ms)
        self._resident.add(model_id)
        if model_id in self._awaited:
            # Only now: what went for its sake has moved the clock that its worth starts from.
            self._awaited.discard(model_id)
            self._cost_aware.used(model, self._history)

    def record_eviction(self, model_id: str) -> None:
        """Note that a model is no longer resident."""
        model = self._history.find(model_id)
        if model is not None and model_id in self._resident:
            self._resident.discard(model_id)
            self._cost_aware.evicted(model)

    def set_capacity(self, capacity_bytes: int) -> None:
        """Take over a changed limit; the shadows follow at the next use."""
        self._adaptive.capacity_bytes = capacity_bytes

    def rebuild_ms(self, size_bytes: int) -> float:
        """Return what building so much takes: as long a byte as what was measured here, on the average."""
        return self._history.usual_cost_ms(size_bytes)

    @property
    def leader(self) -> str:
        """The policy that weighs most in ``adaptive`` now."""
        return self._adaptive.leader

    @property
    def shadow_reload_ms(self) -> dict[str, int]:
        """What each policy that ``adaptive`` watches would have reloaded so far, in milliseconds."""
        return {shadow.policy.name: round(shadow.total_ms) for shadow in self._adaptive.shadows}

    def ranking(self, strategy: EvictionStrategy, now_ms: int | None) -> Ranking:
        """Give the strategy's order at this moment, for one plan: not to be kept over further events."""
        policy = self._policies[strategy]
        return _PolicyRanking(strategy, policy, self._history, now_ms)


def _adaptive(capacity_bytes: int) -> Adaptive:
    """Give the policies that ``adaptive`` weighs: docs/eviction.md says what each is good for."""
    rates = (DecayedFrequency(16), DecayedFrequency(64), DecayedFrequency(256))
    return Adaptive((ReuseForecast(), LeastRecentlyUsed(), CostPerAge(), *rates), capacity_bytes)


class _PolicyRanking(Record):
    """Ranks candidates by a policy over a history, and says so in words."""

    strategy: EvictionStrategy
    policy: Policy
    history: UseHistory
    now_ms: int | None

    def worth(self, candidate: Candidate) -> tuple[float, ...]:
        """Rank by priority where that is the strategy, then by the policy, then by last use."""
        model = self._model(candidate)
        worth = self.policy.worth(model, self.history)
        if self.strategy is EvictionStrategy.PRIORITY:
            return (candidate.priority, worth)
        return (worth, model.last_tick)

    def loss(self, candidate: Candidate) -> float | None:
        """Give the worth of all its bytes by ``adaptive``; of the other strategies, it is an order alone."""
        if self.strategy is not EvictionStrategy.ADAPTIVE:
            return None
        return candidate.size_bytes * self.policy.worth(self._model(candidate), self.history)

    def because(self, candidate: Candidate) -> str:
        """Say what the strategy looked at."""
        model = self._model(candidate)
        last = self._last_use(model)
        match self.strategy:
            case EvictionStrategy.LRU:
                return last
            case EvictionStrategy.LFU:
                return f"{_times(model.count)}, {last}"
            case EvictionStrategy.LARGEST_FIRST:
                return f"{candidate.size_bytes} bytes, {last}"
            case EvictionStrategy.PRIORITY:
                return f"priority {candidate.priority}, {last}"
            case EvictionStrategy.COST_AWARE | EvictionStrategy.ADAPTIVE:
                cost = "reload not measured" if model.load_ms is None else f"reload {model.load_ms} ms"
                text = f"{_times(model.count)}, {last}, {cost} for {candidate.size_bytes} bytes"
                if isinstance(self.policy, Adaptive):
                    return f"{text} (adaptive, mostly by {self.policy.leader})"
                return text

    def _model(self, candidate: Candidate) -> ModelUse:
        model = self.history.find(candidate.model_id)
        if model is None:  # resident before the history began: as if loaded and never used
            model = ModelUse(candidate.model_id)
            model.size_bytes, model.load_ms = candidate.size_bytes, candidate.reload_ms
        return model

    def _last_use(self, model: ModelUse) -> str:
        if not model.last_tick:
            return "never used"
        if self.now_ms is None or model.last_ms is None:
            return f"last used {self.history.age(model)} uses ago"
        return f"last used {max(self.now_ms - model.last_ms, 0)} ms ago"


def _times(count: int) -> str:
    return "used once" if count == 1 else f"used {count} times"
