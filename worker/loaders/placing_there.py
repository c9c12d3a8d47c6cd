"""Getting a file's tensors into a block of another process, which reads by itself what lies in the file as it is placed."""

from collections.abc import Iterator
from functools import partial

from worker.backends.base import COPY_CHUNK_BYTES, Range, ReadsFiles, WritesEach
from worker.backends.pieces import Done
from worker.core.cancellation import CancelToken
from worker.core.records import FileRange
from worker.loaders.base import StoredFile, WeightFile

Piece = tuple[int, int, int]
"""A part's number, a place in it, and how many bytes from there on."""

_RANGES = 512
"""So many small tensors are read in one go, at most: a message of about 20 KiB."""


def pieces_of(file: WeightFile) -> Iterator[Piece]:
    """Yield pieces of at most a chunk each, in the block's order; no element is split."""
    for index, part in enumerate(file.parts):
        for start in range(0, part.placed_bytes, COPY_CHUNK_BYTES):
            yield index, start, min(COPY_CHUNK_BYTES, part.placed_bytes - start)


def place_there(file: WeightFile, write: WritesEach, token: CancelToken, done: Done | None) -> None:
    """Have the process read what it can, and fill the rest where it is sent from.

    What it refuses to read is sent after all: where that fails, it is said why.
    """
    placing = _Placing(file, write, token, done)
    if isinstance(write, ReadsFiles) and isinstance(file, StoredFile):
        placing.have_read(file, write)
    else:
        placing.send(pieces_of(file))


class _Placing:
    def __init__(self, file: WeightFile, write: WritesEach, token: CancelToken, done: Done | None) -> None:
        self._file = file
        self._write = write
        self._token = token
        self._done = done
        # All mutable state: what is there, and what has to be sent after all, with the files that were refused.
        self._completed = 0
        self._left: list[Piece] = []
        self._refused: set[int] = set()

    def have_read(self, file: StoredFile, write: ReadsFiles) -> None:
        """Place everything. Pieces are placed in the block's order unless they were refused."""
        for stored, pieces in _groups(file):
            if stored is None:
                self.send(pieces)
            elif stored.descriptor in self._refused:
                self._left += pieces
            else:
                length = sum(length for _, _, length in pieces)
                write.put_ranges(
                    stored,
                    [_range(file, piece) for piece in pieces],
                    partial(self._add, length),
                    partial(self._refuse, stored.descriptor, pieces),
                )
        write.settle()
        self.send(self._left)

    def send(self, pieces: Iterator[Piece] | list[Piece]) -> None:
        """Fill pieces where they are sent from."""
        for index, start, length in pieces:
            offset = self._file.parts[index].offset
            self._write.put_each(offset + start, length, partial(self._fill, index, offset), self._adding())

    def _fill(self, index: int, offset: int, at: int, piece: memoryview) -> None:
        self._file.read_into(index, at - offset, piece, self._token)

    def _refuse(self, descriptor: int, pieces: list[Piece]) -> None:
        self._refused.add(descriptor)
        self._left += pieces

    def _add(self, length: int) -> None:
        self._completed += length
        if self._done is not None:
            self._done(self._completed)

    def _adding(self) -> Done:
        """Return what is told how much of one piece is there."""
        before = 0

        def there(length: int) -> None:
            nonlocal before
            more, before = length - before, length
            self._add(more)

        return there


def _groups(file: StoredFile) -> Iterator[tuple[FileRange | None, list[Piece]]]:
    """Yield all pieces in the block's order; what lies in one file goes together, at most a chunk.

    With where the first of them lies; None, and one piece, for what is in no file as it is placed.
    """
    first: FileRange | None = None
    group: list[Piece] = []
    size = 0
    for piece in pieces_of(file):
        stored, length = file.stored(piece[0]), piece[2]
        together = stored is not None and first is not None and stored.descriptor == first.descriptor
        if group and not (together and size + length <= COPY_CHUNK_BYTES and len(group) < _RANGES):
            yield first, group
            group, size = [], 0
        if not group:
            first = stored
        group.append(piece)
        size += length
    if group:
        yield first, group


def _range(file: StoredFile, piece: Piece) -> Range:
    index, start, length = piece
    stored = file.stored(index)
    if stored is None:
        raise AssertionError(piece)
    return file.parts[index].offset + start, stored.start + start, length
