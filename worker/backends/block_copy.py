"""Moving bytes between two blocks, by the shortest way that both backends allow."""

from contextlib import ExitStack

from worker.backends.base import (
    COPY_CHUNK_BYTES,
    CopiesWhole,
    CopiesWithin,
    DeviceBackend,
    MapsSharedFiles,
    OwnProcess,
    Piecewise,
    SharesFiles,
)
from worker.backends.host_memory import address_of, copy, copy_between
from worker.backends.pieces import Done, take_turns, threads_for
from worker.core.cancellation import CancelToken

_PIECE_BYTES = 256 * 2**20
"""Memory to memory goes in pieces of this size (15-30 ms), not of a chunk's: memcpy by-passes the caches only
for long copies (240 MiB on the machine measured), which makes them 1.4 times as fast."""

_WITHIN_BYTES = 256 * 2**20
"""What devices copy by themselves goes in pieces of this size: 5 ms at the 50 GiB/s of PCIe 5. Threads take turns, so that
one piece is on its way while another's end is waited for, which takes 0.2 to 0.4 ms."""


def copy_block(
    source: DeviceBackend,
    source_id: str,
    destination: DeviceBackend,
    destination_id: str,
    size: int,
    token: CancelToken,
    done: Done,
) -> None:
    """Copy ``size`` bytes.

    1. Both are addressable: memory to memory, with several threads.
    2. One is a file that the other's process maps: it copies by itself.
    3. One backend has both: its devices copy by themselves, where they can.
    4. One takes all pieces without a pause, each filled or emptied where it is: it is in a process of its own, or copies
       through memory that is locked for it.
    5. One is addressable: its backend's counterpart copies straight into or out of it.
    6. Neither is: chunk by chunk through the worker's own memory.
    """
    if _copy_file(source, source_id, destination, destination_id, size, token, done):  # 2
        return
    with ExitStack() as views:
        origin = source.view(source_id, writable=False)
        target = destination.view(destination_id, writable=True)
        for view in (origin, target):
            if view is not None:
                views.enter_context(view)
        if origin is not None and target is not None:  # 1
            _copy_memory(target, origin, size, token, done)
            return
        if source is destination and isinstance(source, CopiesWithin):  # 3
            _copy_within(source, source_id, destination_id, size, token, done)
            return
        if _copy_whole(
            source, source_id, destination, destination_id, origin, target, size, token, done
        ):  # 4
            return
        for offset in range(0, size, COPY_CHUNK_BYTES):
            end = min(size, offset + COPY_CHUNK_BYTES)
            if target is not None:  # 5
                source.read(source_id, offset, target[offset:end], token)
            elif origin is not None:  # 5
                destination.write(destination_id, offset, origin[offset:end], token)
            else:
                _bounce(source, source_id, destination, destination_id, offset, end, token)  # 6
            done(end)


def _bounce(
    source: DeviceBackend, source_id: str, destination: DeviceBackend, destination_id: str,
    start: int, end: int, token: CancelToken,
) -> None:  # fmt: skip
    """Copy a part of a block through memory of the worker's own."""
    chunk = memoryview(bytearray(min(COPY_CHUNK_BYTES, end - start)))
    for offset in range(start, end, COPY_CHUNK_BYTES):
        with chunk[: end - offset] as piece:
            source.read(source_id, offset, piece, token)
            destination.write(destination_id, offset, piece, token)


def _copy_within(
    backend: CopiesWithin, source_id: str, destination_id: str, size: int, token: CancelToken, done: Done
) -> None:
    """Have devices copy by themselves what they can, several threads taking turns."""

    def move(offset: int) -> int:
        length = min(_WITHIN_BYTES, size - offset)
        if not backend.copy_within(source_id, destination_id, offset, length, token):
            _bounce(backend, source_id, backend, destination_id, offset, offset + length, token)
        return length

    take_turns(range(0, size, _WITHIN_BYTES), move, token, done, threads=threads_for(size))


def _copy_memory(target: memoryview, origin: memoryview, size: int, token: CancelToken, done: Done) -> None:
    """Copy with this thread and others."""
    piece = min(_PIECE_BYTES, -(-size // threads_for(size)))
    to_address, from_address = address_of(target), address_of(origin)

    def move(offset: int) -> int:
        length = min(piece, size - offset)
        copy(to_address + offset, from_address + offset, length)
        return length

    take_turns(range(0, size, piece), move, token, done, threads=threads_for(size))


def _copy_file(
    source: DeviceBackend, source_id: str, destination: DeviceBackend, destination_id: str, size: int,
    token: CancelToken, done: Done,
) -> bool:  # fmt: skip
    """Have the one's process copy from or to the other's file. False where there is no such pair."""
    if isinstance(destination, MapsSharedFiles) and isinstance(source, SharesFiles):
        path = source.shared_file(source_id)
        return path is not None and destination.write_file(destination_id, path, size, token, done)
    if isinstance(source, MapsSharedFiles) and isinstance(destination, SharesFiles):
        path = destination.shared_file(destination_id)
        return path is not None and source.read_file(source_id, path, size, token, done)
    return False


def _copy_whole(
    source: DeviceBackend, source_id: str, destination: DeviceBackend, destination_id: str,
    origin: memoryview | None, target: memoryview | None, size: int, token: CancelToken, done: Done,
) -> bool:  # fmt: skip
    """Copy without a pause. False where neither takes pieces, and where each could wait for the other's memory for them."""
    apart = isinstance(source, OwnProcess)
    if source is destination or (apart and isinstance(destination, OwnProcess)):
        return False
    if isinstance(destination, CopiesWhole) and not apart:
        fill = from_memory(origin) if origin is not None else _from_block(source, source_id, token)
        destination.write_each(destination_id, size, fill, token, done)
        return True
    if isinstance(source, CopiesWhole):
        take = to_memory(target) if target is not None else _to_block(destination, destination_id, token)
        source.read_each(source_id, size, take, token, done)
        return True
    return False


def copy_out(backend: DeviceBackend, block_id: str, into: memoryview, token: CancelToken, done: Done) -> None:
    """Copy the first bytes of a block into memory."""
    if isinstance(backend, CopiesWhole):
        backend.read_each(block_id, len(into), to_memory(into), token, done)
    else:
        each_piece(into, len(into), lambda at, piece: backend.read(block_id, at, piece, token), token, done)


def each_piece(view: memoryview, size: int, work: Piecewise, token: CancelToken, done: Done) -> None:
    """Do something with each chunk of memory, in order."""
    for start in range(0, size, COPY_CHUNK_BYTES):
        token.check()
        end = min(size, start + COPY_CHUNK_BYTES)
        with view[start:end] as piece:
            work(start, piece)
        done(end)


def from_memory(data: memoryview, offset: int = 0) -> Piecewise:
    """Return what fills pieces of a block with bytes that belong there from ``offset`` on."""

    def fill(at: int, piece: memoryview) -> None:
        with data[at - offset : at - offset + len(piece)] as part:
            copy_between(piece, part)

    return fill


def to_memory(into: memoryview, offset: int = 0) -> Piecewise:
    """Return what takes pieces of a block from ``offset`` on."""

    def take(at: int, piece: memoryview) -> None:
        with into[at - offset : at - offset + len(piece)] as part:
            copy_between(part, piece)

    return take


def _from_block(source: DeviceBackend, source_id: str, token: CancelToken) -> Piecewise:
    return lambda at, piece: source.read(source_id, at, piece, token)


def _to_block(destination: DeviceBackend, destination_id: str, token: CancelToken) -> Piecewise:
    return lambda at, piece: destination.write(destination_id, at, piece, token)
