"""A model in an engine's process, and what is known of the memory that it takes there."""

from collections.abc import Mapping

from worker.backends.engines.base import EngineLaunch
from worker.backends.engines.meter import Meter
from worker.backends.isolation.child_process import ChildProcess
from worker.core.records import Footprint


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
        self.opened_bytes = opened_bytes
        self.loaded_bytes = None if opened_bytes is None else opened_bytes + mapped_bytes
        self.process_bytes = process_bytes
        # Mutable: what it grew by, what the library says of its cache, and how long shrinking took.
        self.grown_bytes = 0
        self.figures: Mapping[str, int | None] = {}
        self.shrink_ms: int | None = None
        self.shrunk_bytes = 0

    @property
    def footprint(self) -> Footprint:
        """What it takes."""
        figures = {name: self.figures.get(name) for name in ("kv_bytes", "kv_bytes_per_token")}
        return Footprint(
            self.loaded_bytes,
            self.grown_bytes,
            self.process_bytes,
            **figures,
            shrink_ms=self.shrink_ms,
            shrunk_bytes=self.shrunk_bytes,
        )
