"""The answers of changing requests, for a host that sends one again because it never saw the first."""

import hashlib
from collections import OrderedDict
from typing import Any

import orjson

from protocol.record import Record
from protocol.vocabulary import REPLAY_CAPACITY
from worker.core.errors import DuplicateRequestIdError

_MAX_BYTES = 64 * 2**20
"""Kept answers are bounded in bytes too; the oldest go first."""


class _Given(Record):
    body: bytes
    frame: bytes


class Replay:
    """The last 1,024 answers. Used under the loop's lock."""

    def __init__(self) -> None:
        self._given: OrderedDict[str, _Given] = OrderedDict()
        self._bytes = 0

    def find(self, request_id: str, body: bytes | None) -> bytes | None:
        """Return the answer given before. DuplicateRequestIdError if that was to another body."""
        given = self._given.get(request_id)
        if given is None:
            return None
        if given.body != body:
            raise duplicate(request_id)
        return given.frame

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._given

    def keep(self, request_id: str, body: bytes, frame: bytes) -> None:
        """Remember an answer."""
        self._given[request_id] = _Given(body, frame)
        self._bytes += len(frame) + len(body)
        while len(self._given) > REPLAY_CAPACITY or self._bytes > _MAX_BYTES:
            _, dropped = self._given.popitem(last=False)
            self._bytes -= len(dropped.frame) + len(dropped.body)


def body_of(action: str, data: dict[str, Any]) -> bytes:
    """Return what two requests have in common exactly if they ask for the same work."""
    return hashlib.sha256(orjson.dumps([action, data], option=orjson.OPT_SORT_KEYS)).digest()


def duplicate(request_id: str) -> DuplicateRequestIdError:
    """Make the error for an id that was used for other work."""
    message = f"request_id {request_id!r} was used before for different work"
    return DuplicateRequestIdError(message, request_id=request_id)
