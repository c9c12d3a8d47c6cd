"""Bulk data between the worker's memory and a device's process: piece by piece, several on their way at once."""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Self

from worker.backends.host_memory import address_of, copy
from worker.backends.isolation.answers import LAST_WORD_S, Call
from worker.backends.isolation.child_process import ChildProcess
from worker.backends.isolation.slots import SLOT_BYTES, Slots
from worker.core.cancellation import CancelToken

_ON_THEIR_WAY = 3
"""Pieces of one copy that may be under way at once: one being filled, one being emptied, one between."""

_LOOK_AGAIN_S = 0.05
"""Who waits for a slot looks this often whether its own request has ended."""


def send(
    child: ChildProcess, slots: Slots, do: str, name: str, offset: int, data: memoryview, token: CancelToken
) -> None:
    """Copy to the device: ``do`` is called with (name, offset, slot, length) for each piece."""
    with _UnderWay(child, token) as under_way:
        for start, length in _pieces(len(data)):
            token.check()
            slot = under_way.slot(slots)
            _copy(slots.view(slot, length), data[start : start + length])
            under_way.begin(slots, slot, do, name, offset + start, slot, length)
        under_way.finish_all()


def receive(
    child: ChildProcess, slots: Slots, name: str, offset: int, into: memoryview, token: CancelToken
) -> None:
    """Copy from the device."""
    with _UnderWay(child, token) as under_way:
        for start, length in _pieces(len(into)):
            token.check()
            slot = under_way.slot(slots)
            arrived = partial(_take, slots, slot, into[start : start + length])
            under_way.begin(slots, slot, "read", name, offset + start, slot, length, arrived=arrived)
        under_way.finish_all()


class _UnderWay:
    """The pieces of one copy that are on their way, oldest first; none is when the block ends."""

    def __init__(self, child: ChildProcess, token: CancelToken) -> None:
        self._child = child
        self._token = token
        self._pieces: deque[tuple[Call, Callable[[], None], Callable[[], None]]] = deque()

    def __enter__(self) -> Self:
        self._cancelling = self._token.telling(self._cancel)
        self._cancelling.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._cancelling.__exit__(None, None, None)
        self._cancel()  # where the copy failed; nothing is left otherwise
        while self._pieces:
            call, _, give_back = self._pieces.popleft()
            answers = self._child.answers
            if answers.wait(call, LAST_WORD_S) or answers.abandon(
                call, on_answer=give_back
            ):  # else the device may use its slot until then
                give_back()

    def slot(self, slots: Slots) -> int:
        """Take a slot, finishing pieces of our own rather than wait for others' where that can help."""
        while len(self._pieces) >= _ON_THEIR_WAY:
            self._finish_oldest()
        while True:
            slot = slots.take(wait_s=0 if self._pieces else _LOOK_AGAIN_S)
            if slot is not None:
                return slot
            if self._pieces:
                self._finish_oldest()
            else:  # the answers that free them may be there, and no caller waits for them any more
                self._token.check()
                self._child.answers.read_what_came()

    def begin(
        self, slots: Slots, slot: int, do: str, *arguments: Any, arrived: Callable[[], None] = lambda: None
    ) -> None:
        """Send a piece on its way; ``arrived`` is called once the device is done with it."""
        call = self._child.begin(do, *arguments, token=self._token)
        self._pieces.append((call, arrived, partial(slots.give_back, slot)))

    def finish_all(self) -> None:
        """Wait for all of them."""
        while self._pieces:
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        call, arrived, give_back = self._pieces[0]  # taken out only then: it can be cancelled meanwhile
        self._child.answers.wait_while(call, self._token)
        self._pieces.popleft()
        try:
            self._child.finish(call)
            arrived()
        finally:
            give_back()

    def _cancel(self) -> None:
        for call, _, _ in tuple(self._pieces):
            self._child.answers.cancel(call)


def _pieces(length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, SLOT_BYTES):
        yield start, min(SLOT_BYTES, length - start)


def _take(slots: Slots, slot: int, into: memoryview) -> None:
    _copy(into, slots.view(slot, len(into)))


def _copy(to: memoryview, from_: memoryview) -> None:
    """Copy with the interpreter's lock free where both ends can be addressed."""
    if from_.readonly:
        to[:] = from_
    else:
        copy(address_of(to), address_of(from_), len(to))
