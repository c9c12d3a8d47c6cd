"""The records of a zip archive as they lie in its file: read by position, never inflated, nothing extracted.

Only what a mapping or a positional read can use: each record's name, where its bytes begin, and how many.
"""

import struct

from protocol.record import Record
from worker.loaders.base import FormatError
from worker.loaders.positional_file import PositionalFile

_END = struct.Struct("<4s4H2LH")
_END64_PLACE = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MAX_COMMENT_BYTES = 2**16
_MAX_DIRECTORY_BYTES = 64 * 2**20
"""A million storages. Each takes about 70 bytes in the directory."""
_IN_ZIP64 = 0xFFFFFFFF
_STORED = 0


class ZipRecord(Record):
    """One record, not opened yet."""

    name: str
    header_at: int
    size_bytes: int
    stored_bytes: int
    stored: bool
    """Whether it lies there as it is, not compressed and not encrypted."""


class ZipError(FormatError):
    """It is no such archive; the message says what was found."""


class ZipRecords:
    """The archive's directory, by name."""

    def __init__(self, file: PositionalFile) -> None:
        self._file = file
        directory, self._directory_at = _directory(file)
        self.records = {each.name: each for each in _entries(directory)}

    def begin(self, record: ZipRecord) -> int:
        """Return where a record's bytes begin in the file. ZipError if they can't all be there, as they are."""
        if not record.stored or record.size_bytes != record.stored_bytes:
            message = f"its record {record.name!r} is compressed"
            raise ZipError(message, "save it anew by torch.save, which compresses nothing")
        header = read_exactly(self._file, record.header_at, _LOCAL.size)
        mark, *_, name_bytes, extra_bytes = _LOCAL.unpack(header)
        begin: int = record.header_at + _LOCAL.size + name_bytes + extra_bytes
        if mark != b"PK\3\4" or begin + record.size_bytes > self._directory_at:
            message = f"its record {record.name!r} is not where its directory says"
            raise ZipError(message)
        return begin


def read_exactly(file: PositionalFile, at: int, size_bytes: int) -> bytes:
    """Read so many bytes. ZipError where the file has fewer."""
    if at < 0 or size_bytes > file.size_bytes - at:
        raise ZipError("it is cut short")
    content = bytearray(size_bytes)
    if file.read_into(at, memoryview(content)) < size_bytes:
        raise ZipError("it was cut short while it was read")
    return bytes(content)


def _directory(file: PositionalFile) -> tuple[bytes, int]:
    """Find the archive's directory by the record at its end. Returns its bytes, and where it begins."""
    tail_bytes = min(file.size_bytes, _END.size + _MAX_COMMENT_BYTES)
    tail_at = file.size_bytes - tail_bytes
    tail = read_exactly(file, tail_at, tail_bytes)
    found = tail.rfind(b"PK\5\6")
    if found < 0 or len(tail) - found < _END.size:
        raise ZipError("it is cut short: a zip archive ends with its directory, which is not there")
    *_, size, at, _comment = _END.unpack_from(tail, found)
    if _IN_ZIP64 in {size, at}:
        place = read_exactly(file, tail_at + found - _END64_PLACE.size, _END64_PLACE.size)
        mark, _, end64_at, _ = _END64_PLACE.unpack(place)
        if mark != b"PK\6\7":
            raise ZipError("its end record refers to one that is not there")
        mark, *_, size, at = _END64.unpack(read_exactly(file, end64_at, _END64.size))
        if mark != b"PK\6\6":
            raise ZipError("its end record refers to one that is not there")
    if size > _MAX_DIRECTORY_BYTES:
        message = f"its directory has {size} bytes; {_MAX_DIRECTORY_BYTES} is the most that is read"
        raise ZipError(message)
    return read_exactly(file, at, size), at


def _entries(directory: bytes) -> list[ZipRecord]:
    found, at = [], 0
    while at + _ENTRY.size <= len(directory):
        (mark, _, _, flags, method, _, _, _, stored, size, name_bytes, extra_bytes, comment_bytes, _, _, _, header) = (
            _ENTRY.unpack_from(directory, at)
        )  # fmt: skip
        if mark != b"PK\1\2":
            raise ZipError("its directory is damaged")
        at += _ENTRY.size
        name = directory[at : at + name_bytes].decode("utf-8", "replace")
        extra = directory[at + name_bytes : at + name_bytes + extra_bytes]
        size, stored, header = _large(extra, (size, stored, header))
        found.append(ZipRecord(name, header, size, stored, method == _STORED and not flags & 1))
        at += name_bytes + extra_bytes + comment_bytes
    return found


def _large(extra: bytes, fields: tuple[int, int, int]) -> tuple[int, int, int]:
    """Fill in what does not fit 32 bits, from the zip64 field, which has just those, in this order."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            body, taken, wide = extra[at + 4 : at + 4 + length], 0, []
            for field in fields:
                if field == _IN_ZIP64 and taken + 8 <= len(body):
                    wide.append(struct.unpack_from("<Q", body, taken)[0])
                    taken += 8
                else:
                    wide.append(field)
            return wide[0], wide[1], wide[2]
        at += 4 + length
    return fields
