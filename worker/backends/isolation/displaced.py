"""Blocks that found no headroom in a device's new process: their contents stay in host memory until there is some."""

from collections.abc import Mapping

from protocol.record import Record
from worker.backends.host_memory import AnonymousBuffer
from worker.backends.isolation.carrying import Held, remake
from worker.backends.isolation.child_process import ChildProcess
from worker.backends.isolation.endings import EndedError
from worker.backends.isolation.slots import Slots
from worker.core.cancellation import CancelToken
from worker.core.errors import DeviceLostError, WorkerError
from worker.core.sure_lock import SureRLock


class _Block(Record):
    held: Held
    content: AnonymousBuffer
    why: str


class Displaced:
    """Read, written and freed where they are. Thread-safe."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._lock = SureRLock()
        """Held while a block is on its way back, so that no write to it is lost."""
        # All mutable state: the blocks, and whether there are any, which nearly always there are not.
        self._blocks: dict[str, _Block] = {}
        self.any = False

    def put(
        self, held: Mapping[str, Held], copies: dict[str, AnonymousBuffer], why: Mapping[str, str]
    ) -> None:
        """Take over the copies of blocks that are not back, and why that is."""
        with self._lock:
            for name in why:
                self._blocks[name] = _Block(held[name], copies.pop(name), why[name])
                self.any = True

    def names(self, device_id: str | None = None) -> frozenset[str]:
        """Return those of a device, or of all."""
        with self._lock:
            return frozenset(
                name
                for name, block in self._blocks.items()
                if device_id in {None, block.held.request.device_id}
            )

    def bytes_of(self, device_id: str) -> int:
        """Return what those of a device take there, once they are back."""
        if not self.any:
            return 0
        with self._lock:
            blocks = [block.held for block in self._blocks.values()]
            return sum(block.actual_bytes for block in blocks if block.request.device_id == device_id)

    def sizes(self) -> list[int]:
        """Return what each of them takes on its device, once it is back."""
        with self._lock:
            return [block.held.actual_bytes for block in self._blocks.values()]

    def why(self, device_id: str) -> str | None:
        """Return why those of a device are here, in words; None if there are none."""
        with self._lock:
            blocks = [each for each in self._blocks.values() if each.held.request.device_id == device_id]
            reasons = "; ".join(sorted({each.why for each in blocks}))
            total = sum(each.held.request.size_bytes for each in blocks)
            return f"{len(blocks)} blocks of {total} bytes wait in host memory: {reasons}" if blocks else None

    def read(self, name: str, offset: int, into: memoryview) -> bool:
        """Copy out of a block. False if it is not here."""
        if not self.any:
            return False
        with self._lock:
            block = self._blocks.get(name)
            if block is not None:
                into[:] = block.content.view[offset : offset + len(into)]
            return block is not None

    def write(self, name: str, offset: int, data: memoryview) -> bool:
        """Copy into a block. False if it is not here."""
        if not self.any:
            return False
        with self._lock:
            block = self._blocks.get(name)
            if block is not None:
                block.content.view[offset : offset + len(data)] = data
            return block is not None

    def drop(self, name: str) -> int | None:
        """Give a block up. Returns the bytes of host memory that went back; None if it is not here."""
        with self._lock:
            block = self._blocks.pop(name, None)
            self.any = bool(self._blocks)
            return None if block is None else block.content.close()

    def bring_back(self, child: ChildProcess, token: CancelToken) -> dict[str, Held]:
        """Put what fits into a process now, largest first. Returns what is back. EndedError, DeviceLostError."""
        back: dict[str, Held] = {}
        with self._lock:
            order = sorted(self._blocks, key=lambda each: -self._blocks[each].held.actual_bytes)
        for name in order:
            with self._lock:
                block = self._blocks.get(name)
                if block is None:
                    continue  # freed meanwhile
                try:
                    back[name] = remake(child, self._slots, name, block.held, block.content.view, token)
                except (DeviceLostError, EndedError):
                    raise
                except (WorkerError, RuntimeError) as error:
                    self._blocks[name] = _Block(block.held, block.content, str(error))
                else:
                    self.drop(name)
        return back

    def clear(self) -> None:
        """Give all of them up."""
        for name in self.names():
            self.drop(name)
