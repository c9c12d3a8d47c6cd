"""A policy that learns, from the uses themselves, how soon each model comes back.

It foretells the logarithm of the uses until a model's next one, as a weighted sum of a few
observations (``observe``). The weights are fitted by recursive least squares: at every use two models
are noted with what is seen of them, and when they are used next, the truth is known. About 10
observations of at most ``_NOTES`` notes a model: the memory grows with the number of models only.
"""

import math
from collections import deque

from worker.eviction.policies import Policy
from worker.eviction.use_history import HALF_LIVES, ModelUse, UseHistory

_NOTES = 6
_NOTES_A_USE = 2
_FORGET = 0.9995
_WIDEST = 100.0
HORIZON = 2
"""A model not back after this many uses per known model counts as back after twice as many."""

_PRIOR_GAP = 20

_VARIANCES = (
    (1.028,),
    (-0.068, 0.067),
    (-0.212, -0.013, 0.157),
    (0.044, -0.015, -0.001, 0.061),
    (0.046, 0.002, -0.022, -0.056, 0.093),
    (0.053, -0.025, 0.065, 0.032, -0.069, 0.145),
    (0.018, 0.013, -0.027, 0.0, 0.015, -0.051, 0.026),
    (0.018, 0.007, -0.023, 0.004, -0.002, -0.006, 0.005, 0.021),
    (-0.134, -0.013, -0.035, -0.036, 0.021, -0.048, -0.004, -0.013, 0.122),
)
"""Lower triangle of how the weights vary from trace to trace: ``benchmarks/eviction_prior.py`` finds it, and weights that
go together so are fitted to little sooner."""
_MULTIPLIER, _INCREMENT, _MODULUS = 1103515245, 12345, 2**31


class ReuseForecast(Policy):
    """Reload time a byte, divided by the learned time until the next use."""

    name = "reuse_forecast"

    def __init__(self) -> None:
        # Mutable: all of these, by used; the last two are only a memory of what was computed this tick.
        self._weights: list[float] = []
        self._covariance: list[list[float]] = []
        self._notes: dict[str, deque[tuple[int, list[float]]]] = {}
        self._draw = 12345
        self._known_tick = -1
        self._known: dict[str, float] = {}

    def used(self, model: ModelUse, history: UseHistory) -> None:
        """Learn from the notes on this model, which is back now, and note two others."""
        for tick, seen in self._notes.pop(model.id, ()):
            self._learn(seen, math.log(history.tick - tick))
        horizon = HORIZON * len(history.models)
        models = list(history.models.values())
        for _ in range(_NOTES_A_USE):
            # A fixed sequence, not chance: the same uses give the same decisions.
            self._draw = (self._draw * _MULTIPLIER + _INCREMENT) % _MODULUS
            other = models[(self._draw >> 8) % len(models)]
            notes = self._notes.setdefault(other.id, deque())
            notes.append((history.tick, observe(other, history)))
            if len(notes) > _NOTES or history.tick - notes[0][0] > horizon:
                tick, seen = notes.popleft()
                if history.tick - tick > horizon:
                    self._learn(seen, math.log(2 * horizon))
        self._known_tick = -1

    def worth(self, model: ModelUse, history: UseHistory) -> float:
        """Rank by what a byte saves a use until the model comes back, as foretold."""
        if not self._weights:
            return history.density(model)
        if self._known_tick != history.tick:
            self._known_tick = history.tick
            self._known.clear()
        worth = self._known.get(model.id)
        if worth is None:
            log_remaining = sum(map(float.__mul__, self._weights, observe(model, history)))
            # Bounded, because weights fitted to little may foretell nonsense.
            worth = history.density(model) / math.exp(min(max(log_remaining, -5.0), 20.0))
            self._known[model.id] = worth
        return worth

    def _learn(self, seen: list[float], log_remaining: float) -> None:
        """Fit the weights to one more truth."""
        if not self._weights:
            size = len(seen)
            self._weights = [0.0] * size
            self._weights[-2] = self._weights[-1] = 0.5  # the rhythm and the company, until more is known
            self._covariance = [
                [_VARIANCES[max(row, column)][min(row, column)] for column in range(size)]
                for row in range(size)
            ]
        projected = [sum(map(float.__mul__, row, seen)) for row in self._covariance]
        # Where nothing new is seen (a plain cycle), forgetting would inflate the covariance without end.
        widest = max(row[index] for index, row in enumerate(self._covariance))
        forget = _FORGET if widest < _WIDEST else 1.0
        scale = forget + sum(map(float.__mul__, seen, projected))
        error = log_remaining - sum(map(float.__mul__, self._weights, seen))
        for index, value in enumerate(projected):
            gain = value / scale
            self._weights[index] += gain * error
            row = self._covariance[index]
            self._covariance[index] = [
                (old - gain * other) / forget for old, other in zip(row, projected, strict=True)
            ]


def observe(model: ModelUse, history: UseHistory) -> list[float]:
    """What the next use is foretold from, all as logarithms of uses."""
    age = history.age(model)
    usual = math.log(history.tick / model.count) if model.count else math.log(2 * age + _PRIOR_GAP)
    seen = [1.0, math.log(age + 1), usual]
    seen.extend(-math.log(history.rate(model, index) + 1e-3) for index in range(len(HALF_LIVES)))
    seen.append(_rhythm(model, age))
    company, weight = (0.0, 0)
    if history.current is not None:
        company, weight = history.current.followers.get(model.id, (0.0, 0))
    seen.append((company * weight + usual) / (weight + 1))
    return seen


def _rhythm(model: ModelUse, age: int) -> float:
    """What remains of the gaps that are longer than the present one, on the average."""
    gaps = model.gaps
    tail = math.log(max(age, sum(gaps) / len(gaps) if gaps else 2 * age + _PRIOR_GAP) + 1)
    remaining = [math.log(gap - age) for gap in gaps if gap > age]
    return (sum(remaining) + 0.5 * tail) / (len(remaining) + 0.5)
