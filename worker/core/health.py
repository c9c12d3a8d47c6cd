"""How each part of the worker is: asked of the parts themselves, in their own words."""

from collections.abc import Callable, Iterable

from protocol.record import Record
from protocol.vocabulary import HealthState
from worker.core.sure_lock import SureLock

_SEVERITY = (
    HealthState.OFF,
    HealthState.OK,
    HealthState.STARTING,
    HealthState.DEGRADED,
    HealthState.FAILED,
)


class PartHealth(Record):
    """How one part is."""

    name: str
    state: HealthState
    reason: str | None = None
    """Why it is not ``ok``, and what it does; None where there is nothing to say."""


Source = Callable[[], Iterable[PartHealth]]


class Health:
    """The parts that can be asked, in the order in which they were added. Thread-safe."""

    def __init__(self) -> None:
        self._lock = SureLock()
        # All mutable state: who can be asked.
        self._sources: tuple[tuple[str, Source], ...] = ()

    def add(self, name: str, source: Source) -> None:
        """Have a part asked from now on. It answers at once, of what it knows: nothing is tried for the question."""
        with self._lock:
            self._sources = (*self._sources, (name, source))

    def read(self) -> tuple[PartHealth, ...]:
        """Ask all parts. One that fails to answer has failed."""
        found: list[PartHealth] = []
        for name, source in self._sources:
            try:
                found += source()
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - a bug in a part is what is asked for
                found.append(PartHealth(name, HealthState.FAILED, f"it can't say: {error!r}"))
        return tuple(found)


def worst(parts: Iterable[PartHealth]) -> HealthState:
    """Return how the whole is: as its worst part that is not off."""
    return max((each.state for each in parts), key=_SEVERITY.index, default=HealthState.OK)
