"""The answers of changing requests, for a host that sends one again because it never saw the first."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import orjson

from protocol.record import Record
from protocol.vocabulary import REPLAY_CAPACITY
from worker.core.errors import DuplicateRequestIdError
from worker.core.sure_lock import SureLock
from worker.stream.frames import Incoming, compact, replayed_frame

_MAX_BYTES = 64 * 2**20
"""Kept answers are bounded in bytes too; the oldest go first."""


class _Given(Record):
    body: bytes
    frame: bytes


class Replay:
    """The last 1,024 answers. Used under the loop's lock."""

    def __init__(self) -> None:
        self.given: OrderedDict[str, _Given] = OrderedDict()
        self._bytes = 0

    def find(self, request_id: str, body: bytes | None) -> bytes | None:
        """Return the answer given before. DuplicateRequestIdError if that was to another body."""
        given = self.given.get(request_id)
        if given is None:
            return None
        if given.body != body:
            raise duplicate(request_id)
        return given.frame

    def __contains__(self, request_id: str) -> bool:
        return request_id in self.given

    def keep(self, request_id: str, body: bytes, frame: bytes) -> None:
        """Remember an answer. The first stays: whoever has it may have acted on it."""
        if request_id in self.given:
            return
        self.given[request_id] = _Given(body, compact(frame))
        self._bytes += len(frame) + len(body)
        while len(self.given) > REPLAY_CAPACITY or self._bytes > _MAX_BYTES:
            _, dropped = self.given.popitem(last=False)
            self._bytes -= len(dropped.frame) + len(dropped.body)


class Answers:
    """What was answered, and what is being answered: one reply for each request, and for each repetition. Thread-safe."""

    def __init__(self) -> None:
        self._lock = SureLock()
        # All mutable state.
        self._replay = Replay()
        self.given = self._replay.given
        """By id what was answered, and is remembered."""
        self.in_flight: dict[str, tuple[bytes, int]] = {}
        """Body, and how many repetitions wait for its answer, of each request in the lanes."""

    def again(self, request: Incoming, body: bytes) -> bytes | None:
        """Return the answer to a repetition; None where it comes with the first one's, or it is none (see ``body``).

        DuplicateRequestIdError for an id of other work.
        """
        self._lock.acquire()
        try:
            frame = self._replay.find(request.request_id, body)
            if frame is not None:
                return replayed_frame(frame)
            unanswered = self.in_flight.get(request.request_id)
            if unanswered is None:
                request.body = body
                return None
            if unanswered[0] != body:
                raise duplicate(request.request_id)
            self.in_flight[request.request_id] = (body, unanswered[1] + 1)
            request.answered = True  # with the one that is being made
            return None
        finally:
            self._lock.release()

    def expect(self, request_id: str, body: bytes) -> None:
        """Note that a request is in flight."""
        with self._lock:
            self.in_flight[request_id] = (body, 0)

    def expect_no_more(self, request_id: str) -> None:
        """Note that it is not after all."""
        with self._lock:
            self.in_flight.pop(request_id, None)

    def keep(self, request_id: str, body: bytes, frame: bytes) -> None:
        """Remember an answer."""
        self._lock.acquire()
        try:
            self._replay.keep(request_id, body, frame)
        finally:
            self._lock.release()

    def give(self, request: Incoming, frame: bytes, write: Callable[[bytes], None]) -> None:
        """Answer a request that was in flight, repetitions included: only once, whichever thread comes first.

        That one may call again where memory was short, and goes on.
        """
        replier = threading.get_ident()
        with self._lock:
            if request.owed is None:
                repetitions = self.in_flight[request.request_id][1]
                owed = [frame, *[replayed_frame(frame)] * repetitions]
                request.replier, request.owed = replier, owed
                del self.in_flight[request.request_id]
            elif request.replier != replier:
                return
        while request.owed:
            write(request.owed[0])
            del request.owed[0]


def body_of(action: str, data: dict[str, Any]) -> bytes:
    """Return what two requests have in common exactly if they ask for the same work."""
    return hashlib.sha256(orjson.dumps([action, data], option=orjson.OPT_SORT_KEYS)).digest()


def duplicate(request_id: str) -> DuplicateRequestIdError:
    """Make the error for an id that was used for other work."""
    message = f"request_id {request_id!r} was used before for different work"
    return DuplicateRequestIdError(message, request_id=request_id)
