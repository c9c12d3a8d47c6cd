"""How each device's headroom moved lately, and where it is heading."""

from protocol.results import Limits, PressureTrend
from worker.core.clock import NS_PER_S, Clock
from worker.core.records import HeadroomSample
from worker.core.sure_lock import SureLock
from worker.manager.pressure_table import Observation
from worker.watch.headroom_series import HeadroomSeries

_SPEED_OVER_NS = NS_PER_S // 2


_Frame = tuple[int | None, Limits]
"""What headroom is measured against. Before and after a change of it cannot be compared."""


class TrendWatch:
    """Notes the headroom at every change and every sample."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = SureLock()
        # All mutable state.
        self._series: dict[str, HeadroomSeries] = {}
        self._frames: dict[str, _Frame] = {}

    def note(self, seen: Observation) -> None:
        """Add a device's present headroom, if it can be told."""
        device_id, headroom = seen.status.device_id, seen.headroom
        frame = (headroom.budget_bytes, seen.limits)
        self._lock.acquire()
        try:
            series = self._series.setdefault(device_id, HeadroomSeries())
            if self._frames.get(device_id) != frame or headroom.total_bytes is None:
                series.clear()
            self._frames[device_id] = frame
            if headroom.total_bytes is not None:
                series.add(HeadroomSample(self._clock.now_ns(), headroom.total_bytes))
        finally:
            self._lock.release()

    def trend(self, device_id: str) -> PressureTrend | None:
        """Return where a device's headroom is heading. Costs up to some ms."""
        from worker.policy.trend import forecast  # noqa: PLC0415 - not for the first answer

        return forecast(self._samples(device_id))

    def alarming_trend(self, device_id: str) -> PressureTrend | None:
        """Return the trend of a device that may run out; None, at next to no cost, for one that cannot."""
        from worker.policy.trend import forecast, may_run_out  # noqa: PLC0415 - as above

        samples = self._samples(device_id)
        return forecast(samples) if may_run_out(samples) else None

    def bytes_per_second(self, device_id: str) -> float:
        """Return how fast the headroom shrank over the last half second or so; negative where it grew."""
        samples = self._samples(device_id)
        if len(samples) < 2:  # noqa: PLR2004 - a speed is between two
            return 0.0
        last = samples[-1]
        before = next(
            (each for each in reversed(samples) if last.at_ns - each.at_ns >= _SPEED_OVER_NS), samples[0]
        )
        span_ns = max(last.at_ns - before.at_ns, _SPEED_OVER_NS)
        return (before.headroom_bytes - last.headroom_bytes) / span_ns * NS_PER_S

    def _samples(self, device_id: str) -> tuple[HeadroomSample, ...]:
        with self._lock:
            series = self._series.get(device_id)
            return () if series is None else series.samples()
