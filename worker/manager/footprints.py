"""How much more models take than was said of them before they were loaded. Pure."""

import math
from collections import deque

KEPT = 32
"""Loads that are remembered, per loader and device."""
QUANTILE = 0.9
HIGHEST = 1.5
"""The margin is never more: what takes more than that was declared wrongly, and is measured from then on."""
TELLING_FROM_BYTES = 16 * 2**20
"""A process grows by whole arenas: below this its growth says nothing about what was said."""


class FootprintMargins:
    """The upper end of measured to said bytes, per loader and device."""

    def __init__(self) -> None:
        # All mutable state: the latest ratios.
        self._ratios: dict[tuple[str | None, str], deque[float]] = {}

    def note(self, loader: str | None, device_id: str, said_bytes: int, measured_bytes: int) -> None:
        """Note what a load turned out to take."""
        if said_bytes >= TELLING_FROM_BYTES:
            ratios = self._ratios.setdefault((loader, device_id), deque(maxlen=KEPT))
            ratios.append(measured_bytes / said_bytes)

    def factor(self, loader: str | None, device_id: str) -> float:
        """Return what to multiply a said size by, from 1 to ``HIGHEST``.

        It is the upper quantile, but never the largest ratio itself: one model that was declared wrongly
        changes nothing for the others.
        """
        ratios = sorted(self._ratios.get((loader, device_id), ()))
        rank = min(math.ceil(QUANTILE * len(ratios)), len(ratios) - 1)
        if rank < 1:
            return 1.0
        return min(HIGHEST, max(1.0, ratios[rank - 1]))

    def expected_bytes(self, loader: str | None, device_id: str, said_bytes: int) -> int:
        """Return what a model that says so much will take."""
        return math.ceil(said_bytes * self.factor(loader, device_id))
