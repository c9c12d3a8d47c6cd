"""Getting all of a file's tensors into a block: straight where it is addressable, in chunks where not."""

from collections.abc import Callable

from worker.backends.base import COPY_CHUNK_BYTES, PutsAtOnce, WritesEach
from worker.backends.pieces import Done, no_progress, take_turns, threads_for
from worker.core.cancellation import CancelToken
from worker.loaders.base import WeightFile
from worker.loaders.placing_there import Piece, pieces_of, place_there

Write = Callable[[int, memoryview], None]
"""Writes to a place in the block: a backend's ``write`` with the allocation and token filled in."""


def place(file: WeightFile, block: memoryview, token: CancelToken, done: Done | None = None) -> None:
    """Read every part into its place in addressable memory; this thread and one more take turns.

    Errors: what ``read_into`` raises, and what ``token`` does between pieces; both threads have ended then.
    """

    def read(piece: Piece) -> int:
        index, start, length = piece
        at = file.parts[index].offset + start
        with block[at : at + length] as target:
            file.read_into(index, start, target, token)
        return length

    take_turns(pieces_of(file), read, token, done, threads=threads_for(file.total_bytes))


def place_through(file: WeightFile, write: Write, token: CancelToken, done: Done | None = None) -> None:
    """Do the same for memory that only its backend can write: where it sends from, or through one chunk of our own."""
    if isinstance(write, PutsAtOnce):
        _place_at_once(file, write, token, done)
        return
    if isinstance(write, WritesEach):
        place_there(file, write, token, done)
        return
    chunk = memoryview(bytearray(COPY_CHUNK_BYTES))
    completed = 0
    for index, start, length in pieces_of(file):
        token.check()
        with chunk[:length] as piece:
            file.read_into(index, start, piece, token)
            write(file.parts[index].offset + start, piece)
        completed += length
        if done is not None:
            done(completed)


def _place_at_once(file: WeightFile, write: PutsAtOnce, token: CancelToken, done: Done | None) -> None:
    """Read every part to where it is sent from; this thread and one more take turns."""

    def put(piece: Piece) -> int:
        index, start, length = piece
        offset = file.parts[index].offset

        def fill(at: int, target: memoryview) -> None:
            file.read_into(index, at - offset, target, token)

        write.put_each(offset + start, length, fill, no_progress)
        return length

    take_turns(pieces_of(file), put, token, done, threads=threads_for(file.total_bytes))
