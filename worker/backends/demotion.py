"""Device memory that the system moved to its own."""

from protocol.vocabulary import Source
from worker.core.records import Signal, SignalKind


def demotion_signal(used_bytes: int, demoted_bytes: int | None, source: Source) -> tuple[Signal, ...]:
    """Say which share of what this process holds of a device was moved; nothing where none was."""
    if not demoted_bytes:
        return ()
    share = round(100 * demoted_bytes / (used_bytes + demoted_bytes), 3)
    return (Signal("demoted_percentage", share, source, SignalKind.DEMOTED),)
