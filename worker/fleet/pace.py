"""How long work with a model takes on a node, and how many are worked on side by side: measured by the node's own calls.

No one declares either. A plugin may hold a lock, an engine has so many sequences, the worker so many threads for plugins, and
whatever it is, those that wait for one another take longer together than alone: by how much tells how many do not wait.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable

from protocol.vocabulary import ModelState
from worker.core.sure_lock import SureLock
from worker.fleet.views import ModelView

UnderWay = dict[str, Counter[str]]
"""By model, how many calls each gateway has under way."""
_LATELY = 20
"""Calls that a figure is the mean of, about: what was before them fades."""
_ALONE = 1.05
"""How many are under way at most, on average over a call, for it to count as one that was alone."""
_SLOWED = 4 / 3
"""By how much calls have to be longer together than alone to wait for one another: less than that is chance."""


class Slowdown:
    """Calls on one device: how long each is alone, and how many are worked on at once. Pure; its owner locks."""

    def __init__(self) -> None:
        # All mutable state: how long a call of each model is alone, or its shortest while none was; of those that were not
        # alone their time, the same alone, and how many were under way during it: sums that fade.
        self._alone_ms: dict[str, tuple[float, int]] = {}
        self._held_ms = self._work_ms = self._shared = 0.0
        self.parallel: int | None = None
        """How many are worked on side by side; None while none was seen to wait for another."""

    def work_ms(self, models: Iterable[str]) -> float | None:
        """Return how long a call takes by itself, on average over these; None where none of them was ever made."""
        known = [self._alone_ms[each][0] for each in models if each in self._alone_ms]
        return sum(known) / len(known) if known else None

    @property
    def models(self) -> Iterable[str]:
        """The models that calls were made with."""
        return self._alone_ms.keys()

    def ended(self, model_id: str, held_ms: float, under_way: float) -> None:
        """Note a call: how long it took, and how many were under way on average meanwhile, itself among them."""
        work_ms, count = self._alone_ms.get(model_id, (held_ms, 0))
        if under_way <= _ALONE:
            count = min(count + 1, _LATELY)
            self._alone_ms[model_id] = work_ms + (held_ms - work_ms) / count, count
            return
        if not count:  # none was alone so far
            work_ms = min(work_ms, held_ms)
            self._alone_ms[model_id] = work_ms, 0
        if self.parallel is not None and under_way <= self.parallel:
            return  # none of them had to wait: that says nothing of how many may be
        fading = 1 - 1 / _LATELY
        self._held_ms = self._held_ms * fading + held_ms
        self._work_ms = self._work_ms * fading + work_ms
        self._shared = self._shared * fading + held_ms * under_way
        slowdown, together = self._held_ms / max(self._work_ms, 1e-6), self._shared / self._held_ms
        self.parallel = max(1, round(together / slowdown)) if slowdown > _SLOWED else None


class _Device:
    """What is under way on one device, added up over time."""

    def __init__(self, now: float) -> None:
        self.slowdown = Slowdown()
        self.count, self.sum, self.at = 0, 0.0, now

    def changed(self, now: float, by: int) -> float:
        """Return the sum of calls under way over time so far, and count one more or less from now on."""
        self.sum += self.count * (now - self.at)
        self.count, self.at = self.count + by, now
        return self.sum


class Pace:
    """The calls with models that are under way on a node. Thread-safe."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = SureLock()
        # All mutable state: of each call its gateway and model, and, where that was loaded as it began, its device,
        # when that was and the device's sum then; where models are loaded; and devices.
        self._calls: dict[str, tuple[str, str, tuple[_Device, float, float] | None]] = {}
        self._loaded: dict[str, str] = {}
        self._devices: dict[str, _Device] = {}

    def begin(self, call_id: str, gateway: str, model_id: str) -> None:
        """Count a call with a model from now on."""
        with self._lock:
            now, device_id, began = self._now(), self._loaded.get(model_id), None
            if device_id is not None:
                device = self._devices.setdefault(device_id, _Device(now))
                began = device, now, device.changed(now, 1)
            self._calls[call_id] = gateway, model_id, began

    def end(self, call_id: str, *, done: bool) -> None:
        """Count it no more. How long it took is noted where it was ``done``, and the model did not have to be loaded for it."""
        with self._lock:
            _, model_id, began = self._calls.pop(call_id)
            if began is not None:
                device, since, sum_then = began
                now = self._now()
                shared, held = device.changed(now, -1) - sum_then, now - since
                if done and held > 0:
                    device.slowdown.ended(model_id, held * 1000, shared / held)

    def loaded(self, models: Iterable[ModelView], device_ids: Iterable[str]) -> None:
        """Take over where models are loaded now, and forget devices that are not there any more."""
        there = [each for each in models if each.state is ModelState.LOADED]
        where = {each.model_id: each.device_id for each in there if each.device_id is not None}
        with self._lock:
            self._loaded = where
            kept = frozenset(device_ids)
            self._devices = {name: each for name, each in self._devices.items() if name in kept}

    def under_way(self) -> UnderWay:
        """Return what is under way."""
        found: UnderWay = {}
        with self._lock:
            for gateway, model_id, _ in self._calls.values():
                found.setdefault(model_id, Counter())[gateway] += 1
        return found

    def of(self, device_id: str, models: Iterable[str]) -> tuple[float | None, int | None]:
        """Return how long a call of these models takes by itself on a device, of any where there are none; and how many run at once."""
        with self._lock:
            device = self._devices.get(device_id)
            if device is None:
                return None, None
            found = device.slowdown
            work = found.work_ms(models)
            return (found.work_ms(found.models) if work is None else work), found.parallel
