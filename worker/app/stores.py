"""Where the stores are put together: when something first asks for one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.vocabulary import HealthState
from worker.app.memory import Parts
from worker.core.clock import FixedClock
from worker.core.health import PartHealth
from worker.core.sure_lock import SureLock

if TYPE_CHECKING:
    from worker.stores.host import HostStores
    from worker.stores.registry import Stores

_TEND_S = 1.0


class LazyStores:
    """Makes them once; a worker that uses none imports nothing of them."""

    def __init__(self, folder: str | None, parts: Parts) -> None:
        self._folder = None if folder is None else Path(folder)
        self._parts = parts
        self._lock = SureLock()
        # All mutable state: None until something asks.
        self._made: Stores | None = None

    def get(self) -> "Stores":
        """Return the stores."""
        with self._lock:
            if self._made is None:
                from worker.stores.base import Tools  # noqa: PLC0415 - only where stores are used
                from worker.stores.registry import Stores  # noqa: PLC0415

                core = self._parts.core
                tools = Tools(
                    consumers=self._parts.memory.consumers,
                    now_ns=core.clock.now_ns,
                    utc_ms=lambda: int(core.clock.utc().timestamp() * 1000),
                    folder=self._folder,
                    tend_s=None if isinstance(core.clock, FixedClock) else _TEND_S,
                )
                self._made = Stores(tools)
            return self._made

    def health(self) -> Iterator[PartHealth]:
        """Tell whether any store is open."""
        if self._made is None:
            yield PartHealth("stores", HealthState.OFF, "none was asked for")
        else:
            yield PartHealth("stores", HealthState.OK)

    def host(self) -> "HostStores":
        """Return the stores as a plugin uses them."""
        from worker.stores.host import HostStores  # noqa: PLC0415 - only where stores are used

        return HostStores(self.get())

    def close(self, then: Callable[[], None]) -> None:
        """Give everything back, where there is anything, and go on with what is below."""
        try:
            if self._made is not None:
                self._made.close()
        finally:
            then()
