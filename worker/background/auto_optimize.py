"""``--auto-optimize``: the worker makes headroom by itself where a level lasts, and learns when to leave off."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from protocol.results import ReleasedMemory
from protocol.vocabulary import OptimizationLevel, PressureLevel
from worker.core.actions import ClearCache, Recommended, RecommendedAction, ReleaseMemory, Step, UnloadModel
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS, NS_PER_S
from worker.core.events import Optimized
from worker.core.log import log
from worker.core.records import sum_if_known
from worker.core.sure_lock import SureLock
from worker.interface.interface_memory import MemoryInterface
from worker.policy.auto import (
    PROTECTED_NS,
    REGRET_NS,
    AutoState,
    Trigger,
    decide,
    is_due,
    learn,
    pause,
    regret,
)
from worker.policy.recommendations import cheapest_first, is_allowed
from worker.wiring import Core
from worker.workers.gone import Gone

_PROTECTED_AT_WORST_NS = 10 * NS_PER_S
"""Under critical pressure a model is safe for only so long after it was used."""

_TAKEN: dict[OptimizationLevel, tuple[type[RecommendedAction], ...]] = {
    OptimizationLevel.CONSERVATIVE: (ClearCache,),
    OptimizationLevel.NORMAL: (ClearCache, UnloadModel),
    OptimizationLevel.AGGRESSIVE: (ClearCache, UnloadModel),
}
"""What it does of what is recommended, beside what consumers give back. Never what would take models that are in use, pinned or just used."""

_LEAVES_BELOW = 1.0
"""How far below its percentage a device is brought, in percent of its budget: not to be there again at once."""

_BELOW = {
    PressureLevel.MODERATE: PressureLevel.LOW,
    PressureLevel.HIGH: PressureLevel.MODERATE,
    PressureLevel.CRITICAL: PressureLevel.HIGH,
}
"""To which level consumers bring a device: just below the one from which on it acts."""

Submit = Callable[[str, Callable[[CancelToken], None]], bool]
"""Runs something that needs a device for itself, if no request is in its way. Returns whether it does."""


def _together(
    rows: Iterable[Recommended | ReleaseMemory],
) -> Iterator[Recommended | tuple[ReleaseMemory, ...]]:
    """Put consumers that follow one another together: they are asked all at once, by one plan, and each silent one takes its time."""
    for kind, some in groupby(rows, type):
        if kind is ReleaseMemory:
            yield tuple(each for each in some if isinstance(each, ReleaseMemory))
        else:
            yield from (each for each in some if isinstance(each, Recommended))


class AutoOptimizer:
    """Acts on one device at a time, with a pause after each time."""

    def __init__(self, core: Core, memory: MemoryInterface, submit: Submit, trigger: Trigger) -> None:
        self._memory = memory
        self._pressure = core.manager.pressure
        self._models = core.manager.models
        self._clock = core.clock
        self._publish = core.events.publish
        self._submit = submit
        self._trigger = trigger
        self._lock = SureLock()
        # All mutable state.
        self._states: dict[str, AutoState] = {}
        self._busy: set[str] = set()
        self._unloaded: dict[str, tuple[str, int, int]] = {}
        """Device, time and number of loads of each model that it unloaded lately."""

    def consider(self, device_id: str) -> None:
        """Decide whether to act now; called at every sample."""
        now = self._clock.now_ns()
        with self._lock:
            if device_id in self._busy:
                return
            state = self._after_regrets(device_id, self._states.get(device_id, AutoState()), now)
            level = self._pressure.level(device_id)
            state, effort = decide(state, level, self._trigger, now, self._percentage(device_id))
            self._states[device_id] = state
            if effort is None:
                return
            self._busy.add(device_id)
        found = effort

        def act(token: CancelToken) -> None:
            try:
                self._act(device_id, level, found, token)
            finally:
                with self._lock:
                    self._busy.discard(device_id)

        if not self._submit(device_id, act):  # work of the user's is running: later
            with self._lock:
                self._busy.discard(device_id)

    def _act(
        self, device_id: str, level: PressureLevel, effort: OptimizationLevel, token: CancelToken
    ) -> None:
        """Do the cheapest that is recommended until the pressure is gone; only one thing after a failure."""
        worst = effort is OptimizationLevel.AGGRESSIVE
        relief = self._memory.relief
        idle_ns = _PROTECTED_AT_WORST_NS if worst else PROTECTED_NS
        found: tuple[Recommended | ReleaseMemory, ...] = (
            *relief.recommendations((device_id,), idle_ns),
            *relief.releases((device_id,), self._target()),
        )
        rows = tuple(
            row
            for row in cheapest_first(found)
            if (isinstance(row, ReleaseMemory) or isinstance(row.action, _TAKEN[effort]))
            and is_allowed(row, effort)
            and row.expected_freed_bytes
        )
        state = self._states[device_id]
        if not rows:
            with self._lock:
                self._states[device_id] = pause(state, self._clock.now_ns())
            return
        at = f"under {level} pressure"
        if not isinstance(self._trigger, PressureLevel):
            at = f"at {self._trigger:g} % of its budget or above"
        why = f"automatic: {device_id} was {at} for a while"
        before = self._pressure.headroom(device_id).total_bytes
        steps, gone = list[Step](), Gone()
        for row in _together(rows[: 1 if state.restraint else None]):
            if isinstance(row, tuple):
                relief.release(row, token, gone, why)
            else:
                returned = relief.carry_out(row.action, token, f"{why}, and {row.reason}")
                self._note_unloaded(device_id, row)
                steps.append(Step(row, returned))
            if not is_due(self._trigger, relief.level_now((device_id,)), self._percentage(device_id)):
                break
        self._tell(device_id, level, tuple(steps), tuple(gone.released), before, why)

    def _percentage(self, device_id: str) -> float | None:
        return self._pressure.headroom(device_id).pressure_percentage

    def _target(self) -> PressureLevel | float:
        """Return to where consumers bring a device."""
        if isinstance(self._trigger, PressureLevel):
            return _BELOW[self._trigger]
        return self._trigger - _LEAVES_BELOW

    def _tell(
        self,
        device_id: str,
        level: PressureLevel,
        steps: tuple[Step, ...],
        released: tuple[ReleasedMemory, ...],
        before: int | None,
        why: str,
    ) -> None:
        """Learn from what it brought, and say so."""
        after = self._pressure.headroom(device_id).total_bytes
        promises = [step.recommended.expected_freed_bytes for step in steps]
        claimed = sum_if_known([*promises, *(each.claimed_bytes for each in released)])
        promised = claimed or 0
        gained = 0 if before is None or after is None else after - before
        helped = 2 * gained >= promised
        now = self._clock.now_ns()
        with self._lock:
            state = self._states[device_id] = learn(self._states[device_id], helped=helped, now_ns=now)
        came_back = [step.returned_bytes for step in steps]
        returned = sum_if_known([*came_back, *(each.returned_bytes for each in released)])
        pause_ms = (state.quiet_until_ns - now) // NS_PER_MS
        said = f"{why}; {gained} bytes of headroom gained of {promised} promised"
        log("info", "optimized by itself", device_id=device_id, reason=said, helped=helped)
        self._publish(Optimized(device_id, level, steps, claimed, returned, helped, pause_ms, said, released))

    def _note_unloaded(self, device_id: str, row: Recommended) -> None:
        if isinstance(row.action, UnloadModel):
            model_id = row.action.model_id
            loads = self._loads_of(model_id)
            if loads is not None:
                with self._lock:
                    self._unloaded[model_id] = (device_id, self._clock.now_ns(), loads)

    def _after_regrets(self, device_id: str, state: AutoState, now: int) -> AutoState:
        """Learn from models that were loaded again soon after they were unloaded."""
        for model_id, (place, at, loads) in tuple(self._unloaded.items()):
            loads_now = self._loads_of(model_id)
            again = loads_now is not None and loads_now > loads
            if place == device_id and again:
                state = regret(state, now)
            if loads_now is None or again or now - at > REGRET_NS:
                del self._unloaded[model_id]
        return state

    def _loads_of(self, model_id: str) -> int | None:
        """Return how often a model was loaded; None for one that is not declared any more."""
        entry = self._models.find(model_id)
        return None if entry is None else entry.load_count
