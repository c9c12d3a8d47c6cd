"""What is known of how each model is used: the one memory that every eviction policy reads.

Time is counted in uses (``tick``), so that the same order of uses always gives the same figures;
milliseconds are kept only for texts. The memory grows with the number of models, not with time: at
most ``GAPS`` gaps and ``FOLLOWERS`` followers a model.
"""

import math
from collections import deque
from itertools import islice

HALF_LIVES = (4, 16, 64, 256)
"""Uses after which a past use counts half, one rate each: from nearly LRU to nearly LFU."""

GAPS = 24
FOLLOWERS = 64
FOLLOWER_WEIGHT = 12
"""Observations after which an old one is outweighed by new ones."""

UNKNOWN_MS_PER_BYTE = 1e-6
"""Taken for a load that was never measured while none was: 1 GB/s."""


class ModelUse:
    """The figures of one model."""

    __slots__ = ("count", "followers", "gaps", "id", "last_ms", "last_tick", "load_ms", "rates", "size_bytes")

    def __init__(self, model_id: str) -> None:
        self.id = model_id
        self.size_bytes = 0
        self.load_ms: int | None = None
        self.count = 0
        self.last_tick = 0
        """0 before the first use."""
        self.last_ms: int | None = None
        self.gaps: deque[int] = deque(maxlen=GAPS)
        """Uses from one use of this model to the next, the newest last."""
        self.rates = [0.0] * len(HALF_LIVES)
        """Uses, decayed by each half-life up to ``last_tick``."""
        self.followers: dict[str, tuple[float, int]] = {}
        """Model -> mean logarithm of the uses from this one to the next of that one, and its weight."""


class UseHistory:
    """Every model's uses, fed in their order. Not thread-safe: its owner holds the lock."""

    def __init__(self) -> None:
        # Mutable: everything below, and only through the methods.
        self.tick = 0
        self.models: dict[str, ModelUse] = {}
        """Those that were used, by last use, the oldest first."""
        self.current: ModelUse | None = None
        """What was used last."""
        self._unused: dict[str, ModelUse] = {}
        self._measured_ms = 0
        self._measured_bytes = 0

    def find(self, model_id: str) -> ModelUse | None:
        """Give a model's figures, used or not; None if it was never named."""
        return self.models.get(model_id) or self._unused.get(model_id)

    def sized(self, model_id: str, size_bytes: int) -> ModelUse:
        """Note a model's size, as far as it is known."""
        model = self.find(model_id)
        if model is None:
            model = self._unused[model_id] = ModelUse(model_id)
        model.size_bytes = size_bytes
        return model

    def loaded(self, model_id: str, size_bytes: int, load_ms: int | None) -> ModelUse:
        """Note what a load took; None where that was not measured."""
        model = self.sized(model_id, size_bytes)
        if load_ms is not None:
            model.load_ms = load_ms
            self._measured_ms += load_ms
            self._measured_bytes += size_bytes
        return model

    def used(self, model_id: str, now_ms: int | None) -> ModelUse:
        """Count one use and give the model's figures, the use included."""
        self.tick += 1
        model = self.models.pop(model_id, None) or self._unused.pop(model_id, None) or ModelUse(model_id)
        self._follow(model)
        if model.last_tick:
            gap = self.tick - model.last_tick
            model.gaps.append(gap)
            for index, half_life in enumerate(HALF_LIVES):
                model.rates[index] *= 0.5 ** (gap / half_life)
        for index in range(len(HALF_LIVES)):
            model.rates[index] += 1
        model.count += 1
        model.last_tick = self.tick
        model.last_ms = now_ms
        self.models[model_id] = model
        self.current = model
        return model

    def age(self, model: ModelUse) -> int:
        """Uses since this model's last one; 0 for the current one."""
        return self.tick - model.last_tick

    def rate(self, model: ModelUse, half_life: int) -> float:
        """Uses decayed by ``HALF_LIVES[half_life]`` up to now."""
        decayed: float = model.rates[half_life] * 0.5 ** (self.age(model) / HALF_LIVES[half_life])
        return decayed

    def cost_ms(self, model: ModelUse) -> float:
        """What a reload takes: as measured, else as long a byte as the others on the average."""
        return self.usual_cost_ms(model.size_bytes) if model.load_ms is None else model.load_ms

    def usual_cost_ms(self, size_bytes: int) -> float:
        """What a load of so many bytes takes on the average."""
        if self._measured_bytes:
            return size_bytes * self._measured_ms / self._measured_bytes
        return size_bytes * UNKNOWN_MS_PER_BYTE

    def density(self, model: ModelUse) -> float:
        """Reload milliseconds saved a byte kept: the weight of a reuse."""
        return (self.cost_ms(model) or 1e-3) / (model.size_bytes or 1)

    def _follow(self, model: ModelUse) -> None:
        """Note how long after each model used since its own last use this one came."""
        for other in islice(reversed(self.models.values()), FOLLOWERS):
            if other.last_tick < model.last_tick:
                break
            self._add_follower(other, model.id, math.log(self.tick - other.last_tick))
        if model.last_tick:
            self._add_follower(model, model.id, math.log(self.tick - model.last_tick))

    @staticmethod
    def _add_follower(model: ModelUse, follower: str, log_distance: float) -> None:
        mean, weight = model.followers.pop(follower, (0.0, 0))
        if len(model.followers) == FOLLOWERS:
            del model.followers[next(iter(model.followers))]  # the one that followed longest ago
        weight = min(weight + 1, FOLLOWER_WEIGHT)
        model.followers[follower] = (mean + (log_distance - mean) / weight, weight)
