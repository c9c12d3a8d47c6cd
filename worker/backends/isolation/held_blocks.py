"""What is on the devices of a process, and what went with the last one."""

from collections.abc import Mapping

from protocol.vocabulary import DeviceState
from worker.backends.isolation.carrying import Held
from worker.backends.isolation.child_process import ChildProcess
from worker.backends.isolation.endings import EndedError
from worker.core.errors import DeviceUnavailableError


class HeldBlocks:
    """Blocks by name.

    One entry is added, read or removed without a lock. Of a process that ends all are forgotten at once: ``forget`` is
    called with the lock of its presence held, as ``clear`` and ``take_back`` are.
    """

    def __init__(self) -> None:
        # All mutable state: the blocks that are there, and the names of those that went.
        self.blocks: dict[str, Held] = {}
        self._gone: frozenset[str] = frozenset()

    def add(self, child: ChildProcess, name: str, held: Held) -> None:
        """Note what a process made. EndedError where it has ended since: what it made went with it."""
        self.blocks[name] = held
        if child.end is not None:
            self.blocks.pop(name, None)
            raise EndedError(child.end)

    def besides(self, names: frozenset[str]) -> dict[str, Held]:
        """Return all but these."""
        return {name: block for name, block in tuple(self.blocks.items()) if name not in names}

    def device_of(self, name: str) -> str | None:
        """Return where a block is; None if it went with its process. KeyError for one that never was."""
        held = self.blocks.get(name)
        if held is not None:
            return held.request.device_id
        if name not in self._gone:
            raise KeyError(name)
        return None

    def place_of(self, name: str) -> str:
        """Return where a block is. DeviceUnavailableError if it went with its process."""
        device_id = self.device_of(name)
        if device_id is None:
            message = f"{name} was lost with its device's process"
            raise DeviceUnavailableError(message, allocation_id=name, state=DeviceState.LOST)
        return device_id

    def take_back(self, back: Mapping[str, Held], *, all_of_it: bool) -> None:
        """Take over blocks that were made again; unless ``all_of_it``, of those alone that were not given up since."""
        self.blocks.update({name: block for name, block in back.items() if all_of_it or name in self.blocks})

    def forget(self) -> None:
        """Note that all of them went with their process."""
        self._gone, self.blocks = frozenset(self.blocks), {}

    def clear(self) -> None:
        """Give all of them up."""
        self.blocks = {}
