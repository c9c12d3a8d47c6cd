"""What has to be freed, and of whom it may be asked."""

from protocol.record import Record


class ReleaseNeed(Record):
    """What the plan is for."""

    device_id: str
    free_bytes: int
    models_bytes: int = 0
    """The part of it that only the worker's own can free, models and idle allocations: what is missing below its cap."""
    forced: bool = False
    """Free as much as can be where the whole cannot."""
    host_headroom_bytes: int = 0
    """Host memory that offloaded models may take."""
    excluded: frozenset[str] = frozenset()
    """Consumers that are not asked, by id."""
