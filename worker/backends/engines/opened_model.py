"""A model in an engine's process, and what is known of the memory that it takes there."""

from collections import deque
from collections.abc import Mapping
from statistics import median

from worker.backends.engines.base import EngineLaunch
from worker.backends.engines.meter import Meter
from worker.backends.isolation.child_process import ChildProcess
from worker.core.records import HOST, Footprint

_WORKS = 9
"""The latest so many tell what work usually takes."""


class OpenedModel:
    """A model in a process."""

    def __init__(
        self,
        child: ChildProcess,
        launch: EngineLaunch,
        meter: Meter,
        opened_bytes: int | None,
        mapped_bytes: int,
        process_bytes: int | None,
    ) -> None:
        self.child = child
        self.launch = launch
        self.meter = meter
        # Mutable: what it takes of what opening it took, what it grew by, what the library says of its cache, and how
        # long shrinking took.
        self.opened_bytes = opened_bytes
        self.mapped_bytes = mapped_bytes
        self.process_bytes = process_bytes
        self.grown_bytes = 0
        self.figures: Mapping[str, int | None] = {}
        self.shrink_ms: int | None = None
        self.regrow_ms: int | None = None
        self.shrunk_bytes = 0
        self._took_ms: deque[float] = deque(maxlen=_WORKS)
        self._is_shrunk = False

    def shrunk(self, took_ms: float, left_bytes: int) -> None:
        """Note that its working memory was given back, what that took, and what of it stayed."""
        self.shrink_ms, self.shrunk_bytes, self._is_shrunk = round(took_ms), left_bytes, True

    def worked(self, took_ms: float) -> None:
        """Note how long work took. The first after shrinking has the memory grow again: that is what it took above the usual."""
        if not self._is_shrunk:
            self._took_ms.append(took_ms)
            return
        self._is_shrunk = False
        if self._took_ms:
            self.regrow_ms = max(0, round(took_ms - median(self._took_ms)))

    def give_up(self, less: int) -> int:
        """Count it with so much less, of its work first. Returns what is left of that once nothing is counted."""
        of_work = min(less, self.grown_bytes)
        of_its_own = min(less - of_work, self.opened_bytes or 0)
        self.grown_bytes -= of_work
        if self.opened_bytes is not None:
            self.opened_bytes -= of_its_own
        if self.meter.device_id == HOST and self.process_bytes is not None:
            self.process_bytes = max(0, self.process_bytes - of_its_own)
        return less - of_work - of_its_own

    @property
    def footprint(self) -> Footprint:
        """What it takes."""
        figures = {name: self.figures.get(name) for name in ("kv_bytes", "kv_bytes_per_token")}
        return Footprint(
            None if self.opened_bytes is None else self.opened_bytes + self.mapped_bytes,
            self.grown_bytes,
            self.process_bytes,
            **figures,
            shrink_ms=self.shrink_ms,
            regrow_ms=self.regrow_ms,
            shrunk_bytes=self.shrunk_bytes,
        )
