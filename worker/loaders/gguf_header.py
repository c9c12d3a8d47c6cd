"""The header of a GGUF file: keys and values, then where each tensor lies.

Read by position, a window at a time, and bounded: a count in it is the file's word, and nothing is made of it before
the bytes for it were seen. What sizes follow from is kept; the rest, most of it the tokenizer, is passed over.
"""

import math
import struct
from collections.abc import Iterator
from typing import Any

from protocol.record import Record
from worker.loaders.base import FormatError
from worker.loaders.positional_file import PositionalFile

MAGIC = b"GGUF"
MAX_HEADER_BYTES = 256 * 2**20
MAX_ITEMS = 2_000_000
"""Keys, tensors and texts in lists. The largest vocabularies have 262,144 tokens, and about as many merges."""
_MAX_NAME_BYTES = 64 * 1024
_MAX_KEPT = 4096
"""Bytes of a text, or numbers of a list, that are kept: a list has one number a layer."""
_KEPT = {
    "architecture", "alignment", "split.count", "context_length", "embedding_length", "block_count",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
}  # fmt: skip
"""The keys that are kept, after the architecture's name or ``general``."""
_MAX_DIMENSIONS = 4
_MAX_DEPTH = 4
_INT64_MAX = 2**63 - 1
_VERSIONS = (2, 3)
_WINDOW_BYTES = 2**20
_TEXT, _LIST = 8, 9
_NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
"""The format's types of single values, as struct has them."""
TYPE_SIZES = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
    40: (64, 36), 41: (128, 18),
}  # fmt: skip
"""Of each of ggml's types: elements of a block, and its bytes. As the package gguf 0.19 has them."""


class GgufError(FormatError):
    """It is no such file, or not all of it; the message says what was found."""

    advice = "download it again, or convert it anew"


class GgufHeader(Record):
    """What a file says of itself."""

    architecture: str
    """Empty in all pieces of a split model but the first."""
    values: dict[str, Any]
    """Numbers and lists of one number a layer, by key."""
    weight_bytes: int
    """What its tensors take, up to the end of the last."""

    def number(self, key: str, otherwise: int = 0) -> int:
        """Return a whole number of the architecture's, such as ``block_count``; of a list the largest."""
        found = self.values.get(f"{self.architecture}.{key}", otherwise)
        found = max(found, default=otherwise) if isinstance(found, list) else found
        return found if type(found) is int else otherwise

    def numbers(self, key: str, count: int) -> list[int] | None:
        """Return one whole number a layer; None where there are none of that."""
        found = self.values.get(f"{self.architecture}.{key}")
        if count > _MAX_KEPT:
            return None
        found = found if isinstance(found, list) else [found] * count
        return found if len(found) == count and all(type(each) is int for each in found) else None


def read_header(file: PositionalFile) -> GgufHeader:
    """Read a file's header, and see that its tensors are in the file. GgufError, or OSError as the system gives it."""
    text = _Text(file)
    if text.take(4) != MAGIC:
        raise GgufError("it is no GGUF file")
    version = text.number("<I")
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        what, advice = "is not one that is known", "convert it anew"
        if swapped in _VERSIONS:
            what = "is for machines of the other byte order"
        elif version > max(_VERSIONS):
            advice = f"update memory-worker, or convert it to version {max(_VERSIONS)}"
        message = f"its version {version} {what}"
        raise GgufError(message, advice)
    tensors, keys = text.number("<Q"), text.number("<Q")
    text.count(tensors + keys)
    values = dict(_keys(text, keys))
    alignment = values.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
        message = f"its alignment {alignment!r} is no power of two"
        raise GgufError(message)
    weight_bytes, last = max((_tensor_end(text, alignment) for _ in range(tensors)), default=(0, ""))
    start = -(-text.position // alignment) * alignment
    missing = start + weight_bytes - file.size_bytes
    if missing > 0 and weight_bytes:
        message = f"it is cut short: its tensor {last!r} ends {missing} bytes behind its end"
        raise GgufError(message)
    architecture = values.get("general.architecture")
    if (not isinstance(architecture, str) or not architecture) and "split.count" not in values:
        raise GgufError("it does not say what architecture it is of")
    return GgufHeader(str(architecture or ""), values, weight_bytes)


class _Text:
    """The header from its beginning on, through a window; ``position`` is how far it was read."""

    def __init__(self, file: PositionalFile) -> None:
        self.position = 0
        self._file = file
        self._most = min(file.size_bytes, MAX_HEADER_BYTES)
        self._window, self._at = b"", 0
        self._items = MAX_ITEMS

    def take(self, size: int) -> bytes:
        """Read so many bytes. GgufError where there are fewer."""
        begin = self.position - self._at
        if begin + size > len(self._window):
            self._check(size)
            window = bytearray(min(max(size, _WINDOW_BYTES), self._most - self.position))
            got = self._file.read_into(self.position, memoryview(window))
            self._window, self._at, begin = bytes(window[:got]), self.position, 0
            if got < size:
                raise GgufError("it was cut short while it was read")
        self.position += size
        return self._window[begin : begin + size]

    def skip(self, size: int) -> None:
        """Pass over so many bytes. GgufError where there are fewer."""
        self._check(size)
        self.position += size

    def number(self, form: str) -> Any:
        """Read a number."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, items: int) -> None:
        """Count what is to be read one by one. GgufError when it is too much."""
        self._items -= items
        if self._items < 0:
            message = f"it claims more than {MAX_ITEMS} keys, tensors and texts"
            raise GgufError(message)

    def name(self) -> str:
        """Read a text that is kept whole."""
        size = self.number("<Q")
        if size > _MAX_NAME_BYTES:
            message = f"it has a name of {size} bytes"
            raise GgufError(message)
        return self.take(size).decode("utf-8", "replace")

    def _check(self, size: int) -> None:
        if size > self._most - self.position:
            if self._most == MAX_HEADER_BYTES:
                message = f"its header takes more than {MAX_HEADER_BYTES} bytes"
                raise GgufError(message)
            raise GgufError("it is cut short in its header")


def _keys(text: _Text, count: int) -> Iterator[tuple[str, Any]]:
    """Read the keys, and yield those that are kept."""
    for _ in range(count):
        name = text.name()
        kept = name in _KEPT or name.partition(".")[2] in _KEPT
        value = _value(text, text.number("<I"), 0, kept=kept)
        if kept:
            yield name, value


def _value(text: _Text, kind: int, depth: int, *, kept: bool) -> Any:
    """Read a value; None for one that is passed over."""
    form = _NUMBERS.get(kind)
    if form is not None:
        return text.number(form)
    if kind == _TEXT:
        size = text.number("<Q")
        if kept and size <= _MAX_KEPT:
            return text.take(size).decode("utf-8", "replace")
        text.skip(size)
        return None
    if kind != _LIST or depth >= _MAX_DEPTH:
        message = f"it has a value of type {kind}, at depth {depth}, which the format does not know"
        raise GgufError(message)
    inner, count = text.number("<I"), text.number("<Q")
    form = _NUMBERS.get(inner)
    if form is None:
        text.count(count)
        for _ in range(count):
            _value(text, inner, depth + 1, kept=False)
        return None
    item = struct.calcsize(form)
    if not kept or count > _MAX_KEPT:
        text.skip(count * item)
        return None
    text.count(count)
    return list(struct.unpack(f"<{count}{form[1]}", text.take(count * item)))


def _tensor_end(text: _Text, alignment: int) -> tuple[int, str]:
    """Read where a tensor ends, counted from the first one's begin; where it begins, if its type is not known."""
    name, dimensions = text.name(), text.number("<I")
    if dimensions > _MAX_DIMENSIONS:
        message = f"its tensor {name!r} has {dimensions} dimensions"
        raise GgufError(message)
    shape = [text.number("<Q") for _ in range(dimensions)]
    kind, offset = text.number("<I"), text.number("<Q")
    block, size = TYPE_SIZES.get(kind, (1, 0))
    elements = math.prod(shape)
    if elements > _INT64_MAX or elements % block or offset % alignment or offset > _INT64_MAX:
        message = f"its tensor {name!r} can't be of shape {shape} and type {kind}, at {offset}"
        raise GgufError(message)
    return offset + elements // block * size, name
