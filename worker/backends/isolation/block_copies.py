"""Copies of blocks in a device's process: out of it and into it, and of those that wait in host memory meanwhile."""

from protocol.vocabulary import Executed
from worker.backends.base import Piecewise
from worker.backends.isolation.copying import Sending, copy_file, receive, receive_each, send
from worker.backends.isolation.displaced import Displaced
from worker.backends.isolation.held_blocks import HeldBlocks
from worker.backends.isolation.presence import Presence
from worker.backends.isolation.slots import SLOT_BYTES, Slots
from worker.backends.pieces import Done, copy_parts, no_progress, threads_for
from worker.core.cancellation import CancelToken


class BlockCopies:
    """Wherever a block is. Thread-safe."""

    def __init__(self, presence: Presence, slots: Slots, held: HeldBlocks, displaced: Displaced) -> None:
        self._presence = presence
        self._slots = slots
        self._held = held
        self._displaced = displaced

    def read(self, allocation_id: str, offset: int, into: memoryview, token: CancelToken) -> None:
        """Copy out of a block."""
        device_id = self._held.place_of(allocation_id)
        if self._displaced.read(allocation_id, offset, into):
            return
        with self._presence.using(device_id, Executed.NO, token=token) as child:
            if not self._displaced.read(allocation_id, offset, into):
                receive(child, self._slots, allocation_id, offset, into, token)

    def write(self, allocation_id: str, offset: int, data: memoryview, token: CancelToken) -> None:
        """Copy into a block."""
        device_id = self._held.place_of(allocation_id)
        if self._displaced.write(allocation_id, offset, data):
            return
        with self._presence.using(device_id, Executed.UNKNOWN, len(data), token=token) as child:
            if not self._displaced.write(allocation_id, offset, data):
                send(child, self._slots, "write", allocation_id, offset, data, token)

    def read_each(
        self, allocation_id: str, size: int, take: Piecewise, token: CancelToken, done: Done,
        *, in_order: bool = False,
    ) -> None:  # fmt: skip
        """Copy all of a block out, without a pause: ``take`` is called with each place and what lies there."""
        device_id = self._held.place_of(allocation_id)
        with self._presence.using(device_id, Executed.NO, token=token) as child:
            if not self._displaced.names():
                threads = 1 if in_order else _threads_for(size)
                if threads == 1:
                    receive_each(child, self._slots, allocation_id, 0, size, take, token, done)
                    return

                def receive_part(start: int, length: int) -> None:
                    receive_each(child, self._slots, allocation_id, start, length, take, token)

                copy_parts(size, receive_part, token, done, threads=threads)
                return
        chunk = memoryview(bytearray(min(size, SLOT_BYTES)))
        for start in range(0, size, SLOT_BYTES):
            piece = chunk[: size - start]
            self.read(allocation_id, start, piece, token)
            take(start, piece)
            done(start + len(piece))

    def write_each(
        self,
        allocation_id: str,
        size: int,
        fill: Piecewise,
        token: CancelToken,
        done: Done,
    ) -> None:
        """Copy all of a block in, without a pause: ``fill`` is called with each place and the memory to fill."""
        device_id = self._held.place_of(allocation_id)
        with self._presence.using(device_id, Executed.UNKNOWN, size, token=token) as child:
            if not self._displaced.names():

                def send_part(start: int, length: int, told: Done = no_progress) -> None:
                    with Sending(child, self._slots, "write", allocation_id, token) as sending:
                        sending.put_each(start, length, fill, told)

                threads = _threads_for(size)
                if threads == 1:
                    send_part(0, size, done)
                else:
                    copy_parts(size, send_part, token, done, threads=threads)
                return
        chunk = memoryview(bytearray(min(size, SLOT_BYTES)))
        for start in range(0, size, SLOT_BYTES):
            piece = chunk[: size - start]
            fill(start, piece)
            self.write(allocation_id, start, piece, token)
            done(start + len(piece))

    def copy_within(
        self, source_id: str, destination_id: str, offset: int, length: int, token: CancelToken
    ) -> bool:
        """Have the process copy part of a block to another. False, and nothing was done, where its devices can't."""
        with self._presence.using(
            self._held.place_of(source_id), Executed.UNKNOWN, length, token=token
        ) as child:
            if self._displaced.names():
                return False
            return bool(child.call("copy_within", source_id, destination_id, offset, length, token=token))

    def read_file(self, allocation_id: str, path: str, size: int, token: CancelToken, done: Done) -> bool:
        """Have all of a block copied to a file that a host maps. False, and nothing was done, where it can't be mapped there."""
        return self._copy_file("read_file", Executed.NO, allocation_id, path, size, token, done)

    def write_file(self, allocation_id: str, path: str, size: int, token: CancelToken, done: Done) -> bool:
        """Have all of a block copied from a file that a host maps. Returns as ``read_file``."""
        return self._copy_file("write_file", Executed.UNKNOWN, allocation_id, path, size, token, done)

    def _copy_file(
        self, do: str, executed: Executed, name: str, path: str, size: int, token: CancelToken, done: Done
    ) -> bool:
        device_id = self._held.place_of(name)
        with self._presence.using(device_id, executed, token=token) as child:
            if self._displaced.names() or not child.call("map", path, size, token=token):
                return False
            copy_file(child, self._slots, do, name, path, size, token, done)
            return True


def _threads_for(size: int) -> int:
    """Return how many threads copy to or from slots: one less than of a copy in one process, for the other end has as much to do."""
    return max(1, threads_for(size) - 1)
