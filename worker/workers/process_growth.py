"""What the process grew by while something was done, where nothing else can be meant by it."""

from collections.abc import Callable

from worker.manager.manager_memory import MemoryManager


class ProcessGrowth:
    """Reads the process's bytes before and after."""

    def __init__(self, manager: MemoryManager, process_bytes: Callable[[], int | None]) -> None:
        self._manager = manager
        self._process_bytes = process_bytes

    def begin(self) -> Callable[[], int | None]:
        """Return what tells the growth since now, if the room that is held by then is the only one.

        None where other memory was taken or given back meanwhile: its share can't be told.
        """
        before, changes = self._process_bytes(), self._manager.changes_alone()

        def end() -> int | None:
            after = self._process_bytes()
            if before is None or after is None or changes is None:
                return None
            return max(0, after - before) if self._manager.changes_alone() == changes else None

        return end
