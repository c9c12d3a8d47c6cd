"""llama.cpp's file of what a sequence has in the cache, cut into blocks of tokens and put together again.

After the tokens come the cache's streams, of which one has the sequence: a position for each cell, then the keys of each layer,
and the values, by cell or, without flash attention, by component. A cache that is none such (windows, recurrent states,
positions of several dimensions) has other or more bytes, and is told by that: nothing of it is taken for what it is not.
"""

import json
import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from worker.core.tensor_file import Buffer, Part, packed, unpacked

_HEAD, _WORD, _PAIR, _KEYS, _VALUES, _ACROSS = "<III", "<I", "<II", "<iQ", "<iQ", "<iII"
_CELL = 3
"""Numbers of 32 bits that a cell has: its position, of how many sequences it is, and the sequence."""
_MOST_MORE = 4
_OPENING = (-1, 1)
"""What the newer form of the tokens begins with: no token, and its version. How many tokens comes next, and media at the end."""


class Layout(NamedTuple):
    """All that two states need to have alike so that parts of one go with the other's."""

    version: int
    magic: int
    counted: bool
    """Whether the tokens are in the newer form."""
    streams: int
    more: Sequence[int]
    """Numbers before the keys that newer versions have, whatever they say."""
    across: bool
    """Whether values are by component."""
    keys: Sequence[Sequence[int]]
    """Of each layer: its type, and the bytes of a cell."""
    values: Sequence[Sequence[int]]
    """Of each layer: its type, the bytes of a cell, or of one of its components, and how many those are."""


class State(NamedTuple):
    """A sequence's state."""

    tokens: "array[int]"
    layout: Layout
    content: memoryview
    keys: Sequence[int]
    """Where each layer's begin."""
    values: Sequence[int]

    def block(self, start: int, stop: int) -> bytes:
        """Return what it has of some tokens, as safetensors."""
        parts = {"tokens": Part("I32", (stop - start,), memoryview(self.tokens)[start:stop].cast("B"))}
        for layer, (at, (_, row)) in enumerate(zip(self.keys, self.layout.keys, strict=True)):
            content = self.content[at + start * row : at + stop * row]
            parts[f"k.{layer}"] = Part("U8", (stop - start, row), content)
        for layer, (at, (_, row, width)) in enumerate(zip(self.values, self.layout.values, strict=True)):
            shape = (width, (stop - start) * row) if self.layout.across else (stop - start, row)
            all_cells, size = row * len(self.tokens), (stop - start) * row
            begin = at + start * row
            rows = [self.content[begin + n * all_cells :][:size] for n in range(width)]
            parts[f"v.{layer}"] = Part("U8", shape, b"".join(rows) if len(rows) > 1 else rows[0])
        return packed(parts, {"layout": json.dumps(self.layout)})


class _Reader:
    """Takes numbers off bytes."""

    def __init__(self, data: Buffer) -> None:
        self.view = memoryview(data).cast("B")
        self.at = 0

    def take(self, form: str) -> tuple[int, ...]:
        found: tuple[int, ...] = struct.unpack_from(form, self.view, self.at)
        self.at += struct.calcsize(form)
        return found

    def numbers(self, count: int) -> "array[int]":
        found = array("i")
        found.frombytes(self.skip(4 * count))
        return found

    def skip(self, size: int) -> memoryview:
        if size > len(self.view) - self.at:
            raise ValueError("it ends early")
        self.at += size
        return self.view[self.at - size : self.at]


def parsed(data: Buffer) -> State:
    """Read a state; the bytes are looked at where they are. ValueError for another form than is known here."""
    why: Exception | None = None
    for more in range(_MOST_MORE + 1):  # of one number of them alone the sizes come to that of the whole
        try:
            return _parsed(_Reader(data), more)
        except (ValueError, struct.error) as error:
            why = why or error
    raise ValueError(f"{why}") from why


def _parsed(reader: _Reader, more: int) -> State:
    magic, version, count = reader.take(_HEAD)
    tokens, counted = _tokens_of(reader.numbers(count))
    (streams,) = reader.take(_WORD)
    found: _Layers | None = None
    for _ in range(streams):
        (cells,) = reader.take(_WORD)
        if not cells:
            continue
        if found is not None or cells != len(tokens):
            raise ValueError(f"it has {cells} cells for {len(tokens)} tokens")
        about = reader.numbers(_CELL * cells)
        if about[0::_CELL] != array("i", range(cells)) or set(about[1::_CELL]) != {1}:
            raise ValueError("its cells are not one for each token, in their order")
        found = _layers_of(reader, cells, more)
    if found is None or reader.at != len(reader.view):
        raise ValueError("it has more than keys and values of one sequence")
    layout = Layout(version, magic, counted, streams, *found.about)
    return State(tokens, layout, reader.view, found.keys, found.values)


def _tokens_of(said: "array[int]") -> tuple["array[int]", bool]:
    """Return the tokens, and whether they are in the newer form."""
    if tuple(said[:2]) == _OPENING:
        if len(said) < 4 or said[2] != len(said) - 4 or said[-1] != 0:  # noqa: PLR2004 - the opening of two, their count, and a 0 at the end
            raise ValueError("its tokens are in a form that is not known, or have media among them")
        said, counted = said[3:-1], True
    else:
        counted = False
    if not said or min(said) < 0:
        raise ValueError("it has no tokens, or what is none among them")
    return said, counted


class _Layers(NamedTuple):
    about: tuple[Sequence[int], bool, Sequence[Sequence[int]], Sequence[Sequence[int]]]
    keys: list[int]
    values: list[int]


def _layers_of(reader: _Reader, cells: int, more: int) -> _Layers:
    across, layers = reader.take(_PAIR)
    said = reader.numbers(more).tolist()
    if across > 1:
        raise ValueError("its values are in a form that is not known")
    keys, values, of_keys, of_values = list[int](), list[int](), list[list[int]](), list[list[int]]()
    for _ in range(layers):
        kind, row = reader.take(_KEYS)
        keys.append(reader.at)
        of_keys.append([kind, row])
        reader.skip(row * cells)
    for _ in range(layers):
        kind, row, width = reader.take(_ACROSS) if across else (*reader.take(_VALUES), 1)
        values.append(reader.at)
        of_values.append([kind, row, width])
        reader.skip(row * width * cells)
    return _Layers((said, bool(across), of_keys, of_values), keys, values)


def joined(blocks: Sequence[Buffer], tokens: Sequence[int]) -> Iterator[Buffer]:
    """Return, piece by piece, the state of the tokens whose blocks these are. ValueError where they are of other tokens."""
    opened = [unpacked(each) for each in blocks]
    (said,) = {metadata.get("layout", "") for _, metadata in opened}  # of others they are no whole
    layout = Layout(*json.loads(said))
    parts = [each for each, _ in opened]
    whole = array("i", tokens)
    if b"".join(each["tokens"].content for each in parts) != whole.tobytes():
        raise ValueError("blocks of other tokens")
    payload = array("i", (*_OPENING, len(whole), *whole, 0)) if layout.counted else whole
    yield struct.pack(_HEAD, layout.magic, layout.version, len(payload))
    yield payload.tobytes()
    cells = array("i", (number for at in range(len(whole)) for number in (at, 1, 0)))
    yield struct.pack(_PAIR, layout.streams, len(whole))
    yield cells.tobytes()
    yield struct.pack(_PAIR, layout.across, len(layout.keys))
    yield array("i", layout.more).tobytes()
    for layer, (kind, row) in enumerate(layout.keys):
        yield struct.pack(_KEYS, kind, row)
        yield from (each[f"k.{layer}"].content for each in parts)
    for layer, (kind, row, width) in enumerate(layout.values):
        contents = [memoryview(each[f"v.{layer}"].content) for each in parts]
        if not layout.across:
            yield struct.pack(_VALUES, kind, row)
            yield from contents
            continue
        yield struct.pack(_ACROSS, kind, row, width)
        lengths = [len(each) // width for each in contents]
        for n in range(width):
            yield from (each[n * size : (n + 1) * size] for each, size in zip(contents, lengths, strict=True))
    yield bytes(4 * (layout.streams - 1))
