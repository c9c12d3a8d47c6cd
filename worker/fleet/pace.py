"""How long work with a model takes on a node, and how many are worked on side by side: measured by the node's own calls.

No one declares either. A plugin may hold a lock, an engine has so many sequences, the worker so many threads for plugins.
Where ``p`` are worked on at once, in order of arrival, the call that comes as the ``n``-th of those under way takes
``max(1, n / p)`` times its work. So for each possible ``p`` it is kept what that makes of every call's work, and how well
the next call's time was foretold by it: the ``p`` that foretells best is what is found.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from math import exp, inf, log
from typing import NamedTuple

from protocol.vocabulary import ModelState
from worker.core.sure_lock import SureLock
from worker.fleet.views import ModelView

UnderWay = dict[str, Counter[str]]
"""By model, how many calls each gateway has under way."""
_LIMITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, inf)
"""How many may be worked on side by side."""
_LATELY = 20
"""Calls that a figure is the mean of, about: what was before them fades."""
_SURE = exp(2 / _LATELY)
"""By how much a limit has to foretell better than none to be taken for one: Akaike's criterion for one figure more."""
_NOISE = 0.01
"""Squared error of a forecast that is as good as none: times that differ by a tenth."""
_SLOWED = 4 / 3
"""By how much a call has to be longer than its work to have waited for others: less than that is chance."""
_BLURRED = 0.05
"""The share of its time by which a call's beginning may be unknown for it to be measured."""

_Mean = tuple[float, ...]
"""Of a model's calls, how long each works, for each limit."""


class Slowdown:
    """Calls on one device: how long each works, and how many are worked on at once. Pure; its owner locks."""

    def __init__(self) -> None:
        # All mutable state: by model, how many calls were noted of late and what their work is for each limit; the squared
        # errors of what each limit foretold, which fade; and how many were side by side at most without waiting.
        self._models: dict[str, tuple[int, _Mean]] = {}
        self._errors = [0.0] * len(_LIMITS)
        self._foretold = 0.0
        self._best = len(_LIMITS) - 1
        self.unslowed = 0

    @property
    def parallel(self) -> int | None:
        """How many are worked on side by side; None while none was seen to wait for another."""
        limit = _LIMITS[self._best]
        return None if limit == inf else int(limit)

    def ended(self, model_id: str, held_ms: float, place: int) -> None:
        """Note a call: how long it took, and as which of those under way it came, from 1 on."""
        works = tuple(held_ms / max(1.0, place / limit) for limit in _LIMITS)
        count, means = self._models.get(model_id, (0, works))
        if count:
            fading = 1 - 1 / _LATELY
            self._foretold = self._foretold * fading + 1
            for index, (work, mean) in enumerate(zip(works, means, strict=True)):
                missed = log(max(work, 1e-3) / max(mean, 1e-3))
                self._errors[index] = self._errors[index] * fading + missed * missed
            self._choose()
        if held_ms <= _SLOWED * means[self._best]:
            self.unslowed = max(self.unslowed, place)
        count = min(count + 1, _LATELY)
        self._models[model_id] = (
            count,
            tuple(mean + (work - mean) / count for work, mean in zip(works, means, strict=True)),
        )

    def work_ms(self, under_way: Iterable[tuple[str, float, int]]) -> float | None:
        """Return how long a call works, on average over those under way; None where no such call was ever noted.

        ``under_way``: of each its model, how long it is held so far, and its place. One that has worked for longer
        than its model's do counts with that: those that last are the last to end, and would be left out at first.
        """
        total, count = 0.0, 0
        for model_id, held_ms, place in under_way:
            known = self._models.get(model_id)
            if known is not None:
                noted, means = known
                work, so_far = means[self._best], self.worked_ms(held_ms, place)
                total += (noted * work + so_far) / (noted + 1) if so_far > work else work
                count += 1
        return total / count if count else None

    def usual_ms(self) -> float | None:
        """Return how long calls of all models that were noted work."""
        works = [means[self._best] for _, means in self._models.values()]
        return sum(works) / len(works) if works else None

    def worked_ms(self, held_ms: float, place: int) -> float:
        """Return how much of the time that a call was held it was worked on, at least as far as is known."""
        return held_ms / max(1.0, place / (self.parallel or max(1, self.unslowed)))

    def _choose(self) -> None:
        """Take the limit that foretold best; of equals the largest, and none unless one is surely better."""
        floors = [each + _NOISE * self._foretold for each in self._errors]
        least = min(floors)
        if floors[-1] <= least * _SURE:
            self._best = len(_LIMITS) - 1
        else:
            self._best = max(index for index, each in enumerate(floors) if each <= least)


class Measured(NamedTuple):
    """What a node knows of the calls on one of its devices, as its view has it (``DeviceView``)."""

    work_ms: float | None = None
    so_far_ms: float = 0.0
    parallel: int | None = None
    unslowed: int = 0


class _Device:
    """What is under way on one device."""

    def __init__(self) -> None:
        self.slowdown = Slowdown()
        self.count = 0


class _Call:
    """One call that is under way."""

    __slots__ = ("begun", "blurred", "device", "gateway", "model_id", "place")

    def __init__(self, gateway: str, model_id: str) -> None:
        self.gateway, self.model_id = gateway, model_id
        self.device: _Device | None = None
        self.begun = self.blurred = 0.0
        self.place = 0

    def begin(self, device: _Device, now: float, blurred: float) -> None:
        """Count it from now on; it began by so many seconds earlier at most."""
        device.count += 1
        self.device, self.begun, self.blurred, self.place = device, now, blurred, device.count


class Pace:
    """The calls with models that are under way on a node. Thread-safe."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = SureLock()
        # All mutable state: calls in order of arrival; where models are loaded, and when that was looked at last; and devices.
        self._calls: dict[str, _Call] = {}
        self._loaded: dict[str, str] = {}
        self._looked = now()
        self._devices: dict[str, _Device] = {}

    def begin(self, call_id: str, gateway: str, model_id: str) -> None:
        """Count a call with a model from now on."""
        with self._lock:
            call = self._calls[call_id] = _Call(gateway, model_id)
            if model_id in self._loaded:
                call.begin(self._device(self._loaded[model_id]), self._now(), 0.0)

    def end(self, call_id: str, *, done: bool) -> None:
        """Count it no more. How long it took is noted where it was ``done``, from when its model was loaded."""
        with self._lock:
            call = self._calls.pop(call_id)
            if call.device is not None:
                held = self._now() - call.begun
                call.device.count -= 1
                if done and held > 0 and call.blurred <= _BLURRED * held:
                    call.device.slowdown.ended(call.model_id, held * 1000, call.place)

    def loaded(self, models: Iterable[ModelView], device_ids: Iterable[str]) -> None:
        """Take over where models are loaded now, and forget devices that are not there any more."""
        there = [each for each in models if each.state is ModelState.LOADED]
        where = {each.model_id: each.device_id for each in there if each.device_id is not None}
        with self._lock:
            now = self._now()
            self._loaded = where
            kept = frozenset(device_ids)
            self._devices = {name: each for name, each in self._devices.items() if name in kept}
            for call in self._calls.values():
                if call.device is None and call.model_id in where:
                    call.begin(self._device(where[call.model_id]), now, now - self._looked)
            self._looked = now

    def under_way(self) -> UnderWay:
        """Return what is under way."""
        found: UnderWay = {}
        with self._lock:
            for call in self._calls.values():
                found.setdefault(call.model_id, Counter())[call.gateway] += 1
        return found

    def of(self, device_id: str) -> Measured:
        """Return what is known of the calls on a device."""
        with self._lock:
            device, now = self._devices.get(device_id), self._now()
            if device is None:
                return Measured()
            here = [
                (each.model_id, (now - each.begun) * 1000, each.place)
                for each in self._calls.values()
                if each.device is device
            ]
            found = device.slowdown
            work = found.work_ms(here)
            work = found.usual_ms() if work is None else work
            so_far = max((found.worked_ms(held, place) for _, held, place in here), default=0.0)
            return Measured(work, so_far if work is None else 0.0, found.parallel, found.unslowed)

    def _device(self, device_id: str) -> _Device:
        return self._devices.setdefault(device_id, _Device())
