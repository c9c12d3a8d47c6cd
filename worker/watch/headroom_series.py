"""How much headroom a device had lately: dense for the last seconds, sparse further back. Pure; its owner locks."""

from worker.core.clock import NS_PER_MS, NS_PER_S
from worker.core.records import HeadroomSample

CAPACITY = 64
REACH_NS = 900 * NS_PER_S
STEP_NS = 50 * NS_PER_MS
"""Samples closer than this are one: a burst of small allocations must not push the past out."""


class HeadroomSeries:
    """At most 64 samples over a quarter of an hour. The spacing grows with the age."""

    def __init__(self) -> None:
        # All mutable state.
        self._samples: list[HeadroomSample] = []

    def add(self, sample: HeadroomSample) -> None:
        """Add what is the case now."""
        samples = self._samples
        if len(samples) > 1 and sample.at_ns - samples[-2].at_ns < STEP_NS:
            samples[-1] = sample
            return
        samples.append(sample)
        if sample.at_ns - samples[0].at_ns > REACH_NS:
            del samples[0]
        if len(samples) > CAPACITY:
            del samples[self._closest()]

    def clear(self) -> None:
        """Forget all: what comes now is measured against another limit."""
        self._samples.clear()

    def samples(self) -> tuple[HeadroomSample, ...]:
        """Return them, oldest first."""
        return tuple(self._samples)

    def _closest(self) -> int:
        """Return the one that is missed least: whose neighbours are closest together for their age."""
        samples = self._samples
        now = samples[-1].at_ns

        def missed(index: int) -> float:
            gap = samples[index + 1].at_ns - samples[index - 1].at_ns
            return gap / (now - samples[index - 1].at_ns + NS_PER_S)

        return min(range(1, len(samples) - 1), key=missed)
