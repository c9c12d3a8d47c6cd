"""Bytes to lines, lines to requests, records to lines."""

import re
from dataclasses import replace
from typing import Any

import orjson
from pydantic import ValidationError

from protocol.envelope import ACTION_MAX, DEADLINE_MAX_MS, REQUEST_ID_MAX, TRACEPARENT_MAX, Request
from protocol.record import Record
from protocol.vocabulary import MAX_NESTING
from worker.core.errors import InvalidJsonError, WorkerError
from worker.stream.envelope import META_KEYS, ignored_member, invalid
from worker.stream.json_values import json_of, text_of
from worker.stream.work import Answer

_BOM = b"\xef\xbb\xbf"
_CUT_CHARACTERS = 64
_NO_DATA: dict[str, Any] = {}
_LARGE_BYTES = 2**20
_LONG_BYTES = 2**18
_BYTES_PER_CHARACTER = 36
"""What a long line takes at the most while it is read: measured 34 with nested empty lists, 15 to 26 with others."""
_SHALLOW_BYTES = 2 * MAX_NESTING
"""A line of so many bytes cannot be nested too deep."""
_HEAD_BYTES = 512
"""How much of an unreadable line is searched for its request_id."""

_HEAD = re.compile(rb'\s*\{\s*"request_id"\s*:\s*("(?:[^"\\\x00-\x1f]|\\.){1,%d}")' % REQUEST_ID_MAX)


class Oversize(Record):
    """A line that was too long: its first bytes, the rest was discarded."""

    head: bytes
    no_memory: bool = False
    """It was not too long: there was no memory for it."""


class Incoming:
    """A request as it was read: what ``protocol.envelope.Request`` says, made without its cost."""

    # Slots: to note there that it was answered needs no memory.
    __slots__ = (
        "action", "answered", "arrived_ns", "body", "data", "deadline_ms", "follows", "frame", "ignored", "owed",
        "progress", "replier", "request_id", "traceparent",
    )  # fmt: skip

    def __init__(self, request_id: str, action: str, data: dict[str, Any]) -> None:
        self.request_id = request_id
        self.action = action
        self.data = data
        self.deadline_ms: int | None = None
        self.progress = False
        self.traceparent: str | None = None
        self.ignored: bytes | None = None
        """What its reply ends with that says which of its keys nothing reads."""
        self.arrived_ns = 0
        self.body: bytes | None = None
        """What a repetition is compared with; None for quick work that changes nothing."""
        self.answered = False
        """Whether its reply was handed to the writer, or to who will make it: there is only ever one."""
        self.frame: bytes | None = None
        """Its reply, once it is made: whatever fails from then on, it is this one."""
        self.follows: Answer | None = None
        """What its reply promises, until that was begun."""
        self.owed: list[bytes] | None = None
        """What is to be written of its reply and of its repetitions'."""
        self.replier = 0
        """The thread that writes it."""

    def take_meta(self, meta: Any) -> bool:
        """Take over how it is to be handled. False if that is not plainly valid."""
        if type(meta) is not dict:
            return False
        deadline_ms = meta.get("deadline_ms")
        if len(meta) == 1 and type(deadline_ms) is int and 0 <= deadline_ms <= DEADLINE_MAX_MS:
            self.deadline_ms = deadline_ms  # what hosts send with every request
            return True
        progress, traceparent = meta.get("progress", False), meta.get("traceparent")
        if (
            (deadline_ms is None or (type(deadline_ms) is int and 0 <= deadline_ms <= DEADLINE_MAX_MS))
            and type(progress) is bool
            and (traceparent is None or (type(traceparent) is str and len(traceparent) <= TRACEPARENT_MAX))
        ):
            self.deadline_ms, self.progress, self.traceparent = deadline_ms, progress, traceparent
            self.ignored = None if META_KEYS.issuperset(meta) else b""
            return True
        return False


class LineSplitter:
    """Cuts a stream into lines without keeping more than one frame."""

    def __init__(self, max_frame_bytes: int) -> None:
        self._max = max_frame_bytes
        # All mutable state.
        self._held: tuple[bytes, ...] = ()
        self._held_bytes = 0
        self._head: bytes | None = None
        self._no_memory = False

    def feed(self, chunk: bytes) -> list[bytes | Oversize]:
        """Return the lines that end in this chunk, without their LF. MemoryError leaves all as it was."""
        end = chunk.find(b"\n")
        if (
            end == len(chunk) - 1 and not self._held and self._head is None
        ):  # one whole line: what most hosts send
            return [self._checked(chunk[:end])]
        lines: list[bytes | Oversize] = []
        held, held_bytes, head = self._held, self._held_bytes, self._head
        *whole, rest = chunk.split(b"\n")
        if whole:
            held, held_bytes, head = self._with(whole[0])
            lines.append(self._joined(held, head))
            others = whole[1:]
            lines += others if len(chunk) <= self._max else map(self._checked, others)
            held, held_bytes, head = self._next(rest)
        elif rest:
            held, held_bytes, head = self._with(rest)
        self._held, self._held_bytes, self._head = held, held_bytes, head
        return lines

    def give_up(self) -> None:
        """Let go of the line that has not ended: there is no memory for it. What comes of it is discarded."""
        if self._held:
            self._head, self._held, self._held_bytes = self._held[0][:_HEAD_BYTES], (), 0
            self._no_memory = True

    def close(self) -> list[bytes | Oversize]:
        """Return the last line where the stream ended without an LF."""
        if not self._held and self._head is None:
            return []
        last = [self._joined(self._held, self._head)]
        self._held, self._held_bytes, self._head = (), 0, None
        return last

    def _checked(self, line: bytes) -> bytes | Oversize:
        if len(line) <= self._max or (len(line) == self._max + 1 and line.endswith(b"\r")):
            return line
        return Oversize(line[:_HEAD_BYTES])

    def _next(self, piece: bytes) -> "_Held":
        """Return what is held where a line begins with this piece."""
        if not piece:
            return (), 0, None
        if len(piece) > self._max + 1:  # one more for the CR of a CRLF
            return (), 0, piece[:_HEAD_BYTES]
        return (piece,), len(piece), None

    def _with(self, piece: bytes) -> "_Held":
        """Return what is held where the present line goes on with this piece."""
        if self._head is not None:
            return (), 0, self._head
        if not self._held:
            return self._next(piece)
        held_bytes = self._held_bytes + len(piece)
        held = (*self._held, piece)
        if held_bytes > self._max + 1:
            return (), 0, b"".join(held)[:_HEAD_BYTES]
        return held, held_bytes, None

    def _joined(self, held: tuple[bytes, ...], head: bytes | None) -> bytes | Oversize:
        if head is not None:
            no_memory, self._no_memory = self._no_memory, False
            return Oversize(head, no_memory=no_memory)
        try:
            return self._checked(b"".join(held))
        except MemoryError:
            if self._held_bytes < _LARGE_BYTES:
                raise
            return Oversize(held[0][:_HEAD_BYTES], no_memory=True)  # there is not room for it twice


_Held = tuple[tuple[bytes, ...], int, bytes | None]
"""The pieces of the line that has not ended yet, their bytes, and the first bytes of one that is being discarded."""


def read_request(line: bytes) -> Incoming | None:
    """Read one line; None for a blank one. InvalidJsonError or InvalidRequestError if it is no request.

    MemoryError where what it holds may find no memory.
    """
    try:
        message = orjson.loads(line if len(line) <= _LONG_BYTES else _with_memory(line))
    except orjson.JSONDecodeError as error:
        if not line.removeprefix(_BOM).strip():
            return None
        if line.startswith(_BOM) and not line.startswith(_BOM, len(_BOM)):
            return read_request(line[len(_BOM) :])
        raise _no_json(error) from None
    if type(message) is not dict:
        text = f"a request is one JSON object, not {_json_name(message)}"
        raise InvalidJsonError(text)
    if len(line) > _SHALLOW_BYTES and _too_deep(line, message):
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
    ):
        request = Incoming(request_id, action, data)
        if meta is None or request.take_meta(meta):
            known = 2 + (data is not _NO_DATA) + (meta is not None)  # request_id and action are there
            if len(message) > known or request.ignored is not None:
                request.ignored = ignored_member(message)
            return request
    return _strictly_read(message)


def _strictly_read(message: dict[str, Any]) -> Incoming:
    """Read what is not plainly valid. InvalidRequestError that names what is wrong."""
    try:
        valid = Request.model_validate(message)
    except ValidationError as error:
        raise invalid(error, message) from None
    request = Incoming(valid.request_id, valid.action, valid.data)
    if valid.meta is not None:
        request.take_meta(vars(valid.meta))
    request.ignored = ignored_member(message)
    return request


def _no_json(error: orjson.JSONDecodeError) -> Exception:
    if error.msg.startswith("Not enough memory"):
        return MemoryError()
    text = f"not valid JSON: {error}"
    return InvalidJsonError(text)


def _with_memory(line: bytes) -> bytes:
    """Return a long line. MemoryError here, where orjson would not look whether it was given memory and crash."""
    bytes(len(line) * _BYTES_PER_CHARACTER)  # taken and given back untouched
    return line


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
    """Write the reply of a request that succeeded. TypeError for a result that JSON cannot hold."""
    reply = {"request_id": request_id, "success": True, "data": result}
    return orjson.dumps(reply, option=orjson.OPT_APPEND_NEWLINE)


def check_depth(frame: bytes) -> None:
    """Raise TypeError for a reply that a client may not be able to read: most read no deeper than requests go."""
    if _too_deep(frame, None):
        text = f"nested deeper than {MAX_NESTING}"
        raise TypeError(text)


def error_frame(request_id: str | None, error: WorkerError, max_frame_bytes: int) -> bytes:
    """Write the reply of a request that failed.

    Whatever its details are, they go: what JSON cannot hold as its text, and what it quotes cut to fit the frame.
    """
    body = error.body()
    reply = {"request_id": request_id, "success": False, "error": body}
    try:
        frame = orjson.dumps(reply, option=orjson.OPT_APPEND_NEWLINE)
        plain = type(body.message) is str and type(body.details) is dict and not _too_deep(frame, None)
    except TypeError:
        plain = False
    if not plain:
        body = reply["error"] = replace(body, message=text_of(body.message), details=json_of(body.details))
        frame = orjson.dumps(reply, option=orjson.OPT_APPEND_NEWLINE)
    if len(frame) <= max_frame_bytes:
        return frame
    message = text_of(body.message[:_CUT_CHARACTERS]) + " [cut to fit the frame]"
    reply["error"] = replace(body, message=message, details={})
    return orjson.dumps(reply, option=orjson.OPT_APPEND_NEWLINE)


def event_frame(event: str, request_id: str | None, sequence: int, data: Any) -> bytes:
    """Write an event; of a request's progress, or of the subscription (no request_id)."""
    line: dict[str, Any] = {"event": event}
    if request_id is not None:
        line["request_id"] = request_id
    line |= {"sequence": sequence, "data": data}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def compact(written: bytes) -> bytes:
    """Return what is to be kept in as much memory as it needs: what orjson wrote keeps a kibibyte or eight."""
    return bytes(memoryview(written))


def with_ignored(frame: bytes, ignored: bytes, max_frame_bytes: int) -> bytes:
    """Add to a reply which of its request's keys nothing reads, where there is place for that."""
    return frame if len(frame) - 2 + len(ignored) > max_frame_bytes else frame[:-2] + ignored


def replayed_frame(frame: bytes) -> bytes:
    """Mark a reply as one that was given before."""
    return frame[:-2] + b',"replayed":true}\n'


def _too_deep(line: bytes, message: object) -> bool:
    # A line that is nested so deep has as many brackets: few lines need the walk.
    if line.count(b"[") + line.count(b"{") <= MAX_NESTING:
        return False
    return _depth(orjson.loads(line) if message is None else message) > MAX_NESTING


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
