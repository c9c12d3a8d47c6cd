"""What an ONNX file holds, read field by field: no library touches it before that, and nothing of a tensor is read.

A protobuf message is fields, each a number, a wire type and a value; what is of no interest is skipped by its length.
"""

from collections.abc import Iterator
from math import prod
from typing import BinaryIO

from protocol.record import Record
from worker.loaders.base import FormatError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_WINDOW_BYTES = 64 * 1024
_MAX_FIELDS = 5_000_000
"""In all of a file. A graph of a hundred thousand nodes has two million."""
_MAX_DEPTH = 16
"""Graphs within graphs: the bodies of loops and branches."""
_MAX_TEXT_BYTES = 4096

# Field numbers, of onnx.proto.
_GRAPH = 7
_NODE, _INITIALIZER, _SPARSE = 1, 5, 15
_ATTRIBUTE = 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_DIMS, _DATA_TYPE, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 13, 14
_STRING_DATA = 6
_EXTERNAL = 1

_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
"""Of an element, by onnx.TensorProto.DataType; strings have none."""


class OnnxError(FormatError):
    """The file is no ONNX model; the message says what is wrong with it."""


class External(Record):
    """Tensors' bytes in another file."""

    location: str
    """As the file has it: relative to its folder."""
    end_bytes: int
    """Up to where they reach in it, as far as it says."""


class OnnxHeader(Record):
    """What a file says of itself."""

    tensor_bytes: int
    """All constants and weights, wherever they are."""
    tensor_count: int
    external: tuple[External, ...]
    """By location, each once."""


def read_header(file: BinaryIO, size_bytes: int) -> OnnxHeader:
    """Read it. OnnxError; OSError as the system gives it."""
    walker = _Walker(file)
    found_graph = False
    for number, wire, start, length in walker.fields(0, size_bytes):
        if number == _GRAPH and wire == _BYTES:
            found_graph = True
            walker.graph(start, start + length, 0)
    if not found_graph:
        raise OnnxError("it has no graph, so it is no ONNX model")
    external = tuple(External(where, end) for where, end in walker.external.items())
    return OnnxHeader(walker.tensor_bytes, walker.tensor_count, external)


class _Walker:
    """Goes over the fields of a file, in order."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._window, self._window_at = b"", 0
        self._left = _MAX_FIELDS
        # All mutable state: what was found so far.
        self.tensor_bytes = self.tensor_count = 0
        self.external: dict[str, int] = {}

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (number, wire type, start, length) of each field; of a varint, its value in the place of the length."""
        at = start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise OnnxError(f"it has more than {_MAX_FIELDS} fields")
            key, at = self._varint(at, end)
            number, wire = key >> 3, key & 7
            if wire == _VARINT:
                value, at = self._varint(at, end)
                yield number, wire, at, value
            else:
                length = 8 if wire == _FIXED64 else 4
                if wire == _BYTES:
                    length, at = self._varint(at, end)
                elif wire not in {_FIXED64, _FIXED32}:
                    raise OnnxError(f"it is damaged: what is at byte {at} is no field of an ONNX model")
                if not number or length > end - at:
                    raise OnnxError(
                        f"it is cut short: at byte {at} it claims {length} bytes, and has {end - at}"
                    )
                yield number, wire, at, length
                at += length

    def graph(self, start: int, end: int, depth: int) -> None:
        """Add what is in a graph."""
        if depth > _MAX_DEPTH:
            raise OnnxError(f"its graphs nest deeper than {_MAX_DEPTH}")
        for number, wire, at, length in self.fields(start, end):
            if wire != _BYTES:
                continue
            if number == _INITIALIZER:
                self._tensor(at, at + length)
            elif number == _SPARSE:
                self._sparse(at, at + length)
            elif number == _NODE:
                self._node(at, at + length, depth)

    def _node(self, start: int, end: int, depth: int) -> None:
        for number, wire, at, length in self.fields(start, end):
            if number != _ATTRIBUTE or wire != _BYTES:
                continue
            for inner, inner_wire, inner_at, inner_length in self.fields(at, at + length):
                if inner_wire != _BYTES:
                    continue
                if inner in {_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS}:
                    self._tensor(inner_at, inner_at + inner_length)
                elif inner in {_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS}:
                    self.graph(inner_at, inner_at + inner_length, depth + 1)

    def _sparse(self, start: int, end: int) -> None:
        for number, wire, at, length in self.fields(start, end):
            if number in {_SPARSE_VALUES, _SPARSE_INDICES} and wire == _BYTES:
                self._tensor(at, at + length)

    def _tensor(self, start: int, end: int) -> None:
        dims, kind, external, texts = list[int](), 0, dict[str, str](), 0
        where = None
        for number, wire, at, length in self.fields(start, end):
            if number == _DIMS and wire == _VARINT:
                dims.append(length)
            elif number == _DIMS and wire == _BYTES:
                dims += self._packed(at, at + length)
            elif number == _DATA_TYPE and wire == _VARINT:
                kind = length
            elif number == _DATA_LOCATION and wire == _VARINT:
                where = length
            elif number == _EXTERNAL_DATA and wire == _BYTES:
                external |= self._entry(at, at + length)
            elif number == _STRING_DATA and wire == _BYTES:
                texts += length
        count = prod(dims)
        self.tensor_count += 1
        size = texts if kind not in _BITS else -(-count * _BITS[kind] // 8)
        if size >= 2**63:
            raise OnnxError(f"a tensor of it claims {size} bytes")
        self.tensor_bytes += size
        if where == _EXTERNAL:
            self._refer(external, size)

    def _refer(self, entries: dict[str, str], size: int) -> None:
        location = entries.get("location")
        if not location:
            raise OnnxError("a tensor of it is in another file, and it does not say in which")
        try:
            start, length = int(entries.get("offset", "0")), int(entries.get("length", str(size)))
        except ValueError as error:
            raise OnnxError(f"a tensor of it is at no place in {location}") from error
        if start < 0 or length < 0:
            raise OnnxError(f"a tensor of it is at no place in {location}")
        self.external[location] = max(self.external.get(location, 0), start + length)

    def _entry(self, start: int, end: int) -> dict[str, str]:
        found = ["", ""]
        for number, wire, at, length in self.fields(start, end):
            if wire == _BYTES and number in {1, 2}:
                if length > _MAX_TEXT_BYTES:
                    raise OnnxError("it names a place longer than a path can be")
                self._file.seek(at)
                found[number - 1] = self._file.read(length).decode(errors="surrogateescape")
        return {found[0]: found[1]}

    def _packed(self, start: int, end: int) -> Iterator[int]:
        at = start
        while at < end:
            value, at = self._varint(at, end)
            yield value

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """Return the number at a place, and where it ends."""
        index = at - self._window_at
        if not 0 <= index <= len(self._window) - _MAX_VARINT_BYTES:
            self._file.seek(at)
            self._window, self._window_at, index = self._file.read(_WINDOW_BYTES), at, 0
        window, value = self._window, 0
        for shift, byte in enumerate(window[index : index + min(_MAX_VARINT_BYTES, end - at)]):
            if byte < 0x80:  # noqa: PLR2004 - the last byte of a number has its highest bit clear
                return value | byte << 7 * shift, at + shift + 1
            value |= (byte & 0x7F) << 7 * shift
        if end - at >= _MAX_VARINT_BYTES:
            raise OnnxError(f"it is damaged: what is at byte {at} is no number")
        raise OnnxError(f"it is cut short at byte {at}")
