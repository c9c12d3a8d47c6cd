"""Bytes to lines, lines to requests, records to lines."""

import re
from dataclasses import replace
from typing import Any

import orjson
from pydantic import ValidationError

from protocol.envelope import ACTION_MAX, REQUEST_ID_MAX, Meta, Request
from protocol.record import Record
from protocol.vocabulary import MAX_NESTING
from worker.core.errors import InvalidJsonError, InvalidRequestError, WorkerError

_BOM = b"\xef\xbb\xbf"
_CUT_CHARACTERS = 64
_NO_DATA: dict[str, Any] = {}
_HEAD_BYTES = 512
"""How much of an unreadable line is searched for its request_id."""

_HEAD = re.compile(rb'\s*\{\s*"request_id"\s*:\s*("(?:[^"\\\x00-\x1f]|\\.){1,%d}")' % REQUEST_ID_MAX)


class Oversize(Record):
    """A line that was too long: its first bytes, the rest was discarded."""

    head: bytes


class Incoming:
    """A request as it was read: what ``protocol.envelope.Request`` says, made without its cost."""

    __slots__ = ("action", "arrived_ns", "body", "data", "meta", "request_id")

    def __init__(self, request_id: str, action: str, data: dict[str, Any], meta: Meta | None) -> None:
        self.request_id = request_id
        self.action = action
        self.data = data
        self.meta = meta
        self.arrived_ns = 0
        self.body: bytes | None = None
        """What a repetition is compared with; None for work that changes nothing."""


class LineSplitter:
    """Cuts a stream into lines without keeping more than one frame."""

    def __init__(self, max_frame_bytes: int) -> None:
        self._max = max_frame_bytes
        # All mutable state: the pieces of the line that has not ended yet.
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._head: bytes | None = None
        """First bytes of a line that is being discarded."""

    def feed(self, chunk: bytes) -> list[bytes | Oversize]:
        """Return the lines that end in this chunk, without their LF."""
        held = self._held or self._head is not None
        end = chunk.find(b"\n")
        if end == len(chunk) - 1 and not held:  # one whole line: what most hosts send
            return [self._checked(chunk[:end])]
        if end < 0:
            self._hold(chunk)
            return []
        first, *lines, last = chunk.split(b"\n")
        if held:
            self._hold(first)
            whole = self._take()
        else:
            whole = self._checked(first)
        if last:
            self._hold(last)
        return [whole, *map(self._checked, lines)]

    def close(self) -> list[bytes | Oversize]:
        """Return the last line where the stream ended without an LF."""
        return [self._take()] if self._held or self._head is not None else []

    def _checked(self, line: bytes) -> bytes | Oversize:
        if len(line) <= self._max or (len(line) == self._max + 1 and line.endswith(b"\r")):
            return line
        return Oversize(line[:_HEAD_BYTES])

    def _hold(self, piece: bytes) -> None:
        if self._head is not None:
            return
        self._held.append(piece)
        self._held_bytes += len(piece)
        if self._held_bytes > self._max + 1:  # one more for the CR of a CRLF
            self._head = b"".join(self._held)[:_HEAD_BYTES]
            self._held, self._held_bytes = [], 0

    def _take(self) -> bytes | Oversize:
        if self._head is not None:
            head, self._head = self._head, None
            return Oversize(head)
        line = b"".join(self._held)
        self._held, self._held_bytes = [], 0
        return self._checked(line)


def read_request(line: bytes) -> Incoming | None:
    """Read one line; None for a blank one. InvalidJsonError or InvalidRequestError if it is no request."""
    try:
        message = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if not line.removeprefix(_BOM).strip():
            return None
        if line.startswith(_BOM) and not line.startswith(_BOM, len(_BOM)):
            return read_request(line[len(_BOM) :])
        text = f"not valid JSON: {error}"
        raise InvalidJsonError(text) from None
    if type(message) is not dict:
        text = f"a request is one JSON object, not {_json_name(message)}"
        raise InvalidJsonError(text)
    if len(line) > 2 * MAX_NESTING and _too_deep(line, message):
        text = f"nested deeper than {MAX_NESTING}"
        raise InvalidJsonError(text)
    request_id, action = message.get("request_id"), message.get("action")
    data, meta = message.get("data", _NO_DATA), message.get("meta")
    if (
        type(request_id) is str
        and 0 < len(request_id) <= REQUEST_ID_MAX
        and type(action) is str
        and 0 < len(action) <= ACTION_MAX
        and type(data) is dict
        and meta is None
    ):
        return Incoming(request_id, action, data, None)
    try:
        request = Request.model_validate(message)
        return Incoming(request.request_id, request.action, request.data, request.meta)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidRequestError(
            [{"path": ".".join(map(str, each["loc"])), "message": each["msg"]} for each in details]
        ) from None


def find_request_id(line: bytes) -> str | None:
    """Read the request_id of a line that is no valid request, so that its host knows which call ended."""
    match = _HEAD.match(line[:_HEAD_BYTES].removeprefix(_BOM))
    try:
        if match is not None:
            return str(orjson.loads(match[1]))
        message = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    found = message.get("request_id") if type(message) is dict else None
    return found if type(found) is str and 0 < len(found) <= REQUEST_ID_MAX else None


def success_frame(request_id: str, result: Any) -> bytes:
    """Write the reply of a request that succeeded."""
    reply = {"request_id": request_id, "success": True, "data": result}
    return orjson.dumps(reply, option=orjson.OPT_APPEND_NEWLINE)


def error_frame(request_id: str | None, error: WorkerError, max_frame_bytes: int) -> bytes:
    """Write the reply of a request that failed. What it quotes of the request is cut to fit the frame."""
    body = error.body()
    reply = {"request_id": request_id, "success": False, "error": body}
    frame = orjson.dumps(reply, option=orjson.OPT_APPEND_NEWLINE)
    if len(frame) <= max_frame_bytes:
        return frame
    message = body.message[:_CUT_CHARACTERS] + " [cut to fit the frame]"
    reply["error"] = replace(body, message=message, details={})
    return orjson.dumps(reply, option=orjson.OPT_APPEND_NEWLINE)


def event_frame(event: str, request_id: str | None, sequence: int, data: Any) -> bytes:
    """Write an event; of a request's progress, or of the subscription (no request_id)."""
    line: dict[str, Any] = {"event": event}
    if request_id is not None:
        line["request_id"] = request_id
    line |= {"sequence": sequence, "data": data}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def replayed_frame(frame: bytes) -> bytes:
    """Mark a reply as one that was given before."""
    return frame[:-2] + b',"replayed":true}\n'


def _too_deep(line: bytes, message: object) -> bool:
    # A line that is nested so deep has as many brackets: few lines need the walk.
    return line.count(b"[") + line.count(b"{") > MAX_NESTING and _depth(message) > MAX_NESTING


def _depth(value: object) -> int:
    """Return how deep objects and arrays are nested, level by level."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [child for each in level for child in (each.values() if isinstance(each, dict) else each)]
    return depth


def _json_name(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
