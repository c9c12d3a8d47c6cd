"""Bulk data between the worker's memory and a device's process: piece by piece, several on their way at once."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Self

from worker.backends.base import Piecewise
from worker.backends.block_copy import from_memory, to_memory
from worker.backends.isolation.answers import LAST_WORD_S
from worker.backends.isolation.call import Call
from worker.backends.isolation.child_process import ChildProcess
from worker.backends.isolation.slots import SLOT_BYTES, Slots
from worker.backends.pieces import Done, no_progress
from worker.core.cancellation import CancelToken

_ON_THEIR_WAY = 3
"""Pieces of one copy that may be under way at once: one being filled, one being emptied, one between."""

_FILE_PIECE_BYTES, _LONG_FILE_PIECE_BYTES = 32 * 2**20, 256 * 2**20
"""What needs no slot is cut into pieces of this size, for progress and cancelling; of the second where it has as many bytes:
memcpy by-passes the caches only for long copies (240 MiB on the machine measured), which makes them 1.6 times as fast."""

_LOOK_AGAIN_S = 0.05
"""Who waits for a slot looks this often whether its own request has ended."""


def send(
    child: ChildProcess, slots: Slots, do: str, name: str, offset: int, data: memoryview, token: CancelToken
) -> None:
    """Copy to the device: ``do`` is called with (name, offset, slot, length) for each piece."""
    with Sending(child, slots, do, name, token) as sending:
        sending(offset, data)


def receive(
    child: ChildProcess, slots: Slots, name: str, offset: int, into: memoryview, token: CancelToken
) -> None:
    """Copy from the device."""
    receive_each(child, slots, name, offset, len(into), to_memory(into, offset), token)


def receive_each(
    child: ChildProcess, slots: Slots, name: str, offset: int, length: int, take: Piecewise, token: CancelToken,
    done: Done = no_progress,
) -> None:  # fmt: skip
    """Copy from the device, and hand out the pieces in order, each where it arrived."""

    def arrive(at: int, piece: memoryview) -> None:
        take(at, piece)
        done(at - offset + len(piece))

    with _UnderWay(child, slots, token) as under_way:
        for start, size in _pieces(offset, length):
            token.check()
            slot = under_way.slot()
            under_way.begin(
                slot, partial(arrive, start, slots.view(slot, size)), "read", name, start, slot, size
            )


def copy_file(
    child: ChildProcess, slots: Slots, do: str, name: str, path: str, size: int, token: CancelToken, done: Done
) -> None:  # fmt: skip
    """Have the process copy between a block and a file that it has mapped; ``do`` says which way."""
    with _UnderWay(child, slots, token) as under_way:
        piece = _FILE_PIECE_BYTES if size < _LONG_FILE_PIECE_BYTES else _LONG_FILE_PIECE_BYTES
        for start in range(0, size, piece):
            token.check()
            under_way.make_way()
            length = min(piece, size - start)
            under_way.begin(None, partial(done, start + length), do, name, start, length, path, size)


def _nothing() -> None:
    """Give back no slot."""


class _UnderWay:
    """The pieces of one copy that are on their way, oldest first; none is when the block ends."""

    def __init__(self, child: ChildProcess, slots: Slots, token: CancelToken) -> None:
        self._child = child
        self._slots = slots
        self._token = token
        self._pieces: deque[tuple[Call, Callable[[], None], Callable[[], None]]] = deque()
        self._waited = False
        """Whether an answer was waited for as long as for the last of a call that is given up."""
        self.hangs = False
        """Whether pieces that were given up were not answered for: more that the process is told of this copy may not be."""

    def __enter__(self) -> Self:
        self._cancelling = self._token.telling(self._cancel)
        self._cancelling.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.settle()
        finally:
            self._give_up()

    def settle(self) -> None:
        """Wait until none is on its way."""
        while self._pieces:
            self._finish_oldest()

    def _give_up(self) -> None:
        """Leave what is on its way yet, because the copy failed, to whoever reads its answer."""
        self._cancelling.__exit__(None, None, None)
        self._cancel()
        end = time.monotonic() + (0 if self._waited else LAST_WORD_S)
        while self._pieces:
            call, _, give_back = self._pieces.popleft()
            answers = self._child.answers
            in_time = answers.wait(call, max(0, end - time.monotonic()))
            if in_time or answers.abandon(call, on_answer=give_back):
                give_back()
            else:  # the device may use its slot until then
                self.hangs = True

    def slot(self) -> int:
        """Take a slot, finishing pieces of our own rather than wait for others' where that can help."""
        self.make_way()
        while True:
            slot = self._slots.take(wait_s=0 if self._pieces else _LOOK_AGAIN_S)
            if slot is not None:
                return slot
            if self._pieces:
                self._finish_oldest()
            else:  # the answers that free them may be there, and no caller waits for them any more
                self._token.check()
                self._child.answers.reader.read_what_came()

    def begin(self, slot: int | None, arrived: Callable[[], None], do: str, *arguments: Any) -> Call:
        """Send a piece on its way; ``arrived`` is called once the device is done with it, and with its slot."""
        call = self._child.begin(do, *arguments, token=self._token)
        give_back = _nothing if slot is None else partial(self._slots.give_back, slot)
        self._pieces.append((call, arrived, give_back))
        return call

    def make_way(self) -> None:
        """Wait until one more piece may be on its way."""
        while len(self._pieces) >= _ON_THEIR_WAY:
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        call, arrived, give_back = self._pieces[0]  # taken out only then: it can be cancelled meanwhile
        self._waited = True
        self._child.answers.wait_while(call, self._token)
        self._waited = False
        self._pieces.popleft()
        try:
            self._child.finish(call)
            arrived()
        finally:
            give_back()

    def _cancel(self) -> None:
        for call, _, _ in tuple(self._pieces):
            self._child.answers.cancel(call)


class Sending(_UnderWay):
    """A copy to the device that goes on from one part to the next; what was put is there when the block ends."""

    def __init__(self, child: ChildProcess, slots: Slots, do: str, name: str, token: CancelToken) -> None:
        super().__init__(child, slots, token)
        self._do = do
        self._name = name

    def __call__(self, offset: int, data: memoryview) -> None:
        """Send bytes on their way; they may be changed from then on. Raises what became of those before."""
        self.put_each(offset, len(data), from_memory(data, offset))

    def put_each(self, offset: int, length: int, fill: Piecewise, done: Done = no_progress) -> None:
        """Have each piece filled where it is sent from."""
        for start, size in _pieces(offset, length):
            self._token.check()
            slot = self.slot()
            try:
                fill(start, self._slots.view(slot, size))
            except BaseException:
                self._slots.give_back(slot)
                raise
            arrived = partial(done, start - offset + size)
            self.begin(slot, arrived, self._do, self._name, start, slot, size)


def _pieces(offset: int, length: int) -> Iterator[tuple[int, int]]:
    for start in range(offset, offset + length, SLOT_BYTES):
        yield start, min(SLOT_BYTES, offset + length - start)
