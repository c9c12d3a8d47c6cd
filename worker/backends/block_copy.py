"""Moving bytes between two blocks, by the shortest way that both backends allow."""

from contextlib import ExitStack

from worker.backends.base import (
    COPY_CHUNK_BYTES,
    CopiesWhole,
    DeviceBackend,
    MapsSharedFiles,
    Piecewise,
    SharesFiles,
)
from worker.backends.host_memory import address_of, copy
from worker.backends.pieces import PARALLEL_FROM_BYTES, Done, take_turns
from worker.core.cancellation import CancelToken

_PIECE_BYTES = 256 * 2**20
"""Memory to memory goes in pieces of this size (15-30 ms), not of a chunk's: memcpy by-passes the caches only
for long copies (240 MiB on the machine measured), which makes them 1.4 times as fast."""


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

    1. Both are addressable: memory to memory, with two threads.
    2. One is a file that the other's process maps: it copies by itself.
    3. One is in a process of its own: it takes all pieces without a pause, each filled or emptied where it is.
    4. One is addressable: its backend's counterpart copies straight into or out of it.
    5. Neither is: chunk by chunk through the worker's own memory.
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
        if _copy_whole(
            source, source_id, destination, destination_id, origin, target, size, token, done
        ):  # 3
            return
        bounce = memoryview(bytearray(min(size, COPY_CHUNK_BYTES))) if origin is target else None
        for offset in range(0, size, COPY_CHUNK_BYTES):
            end = min(size, offset + COPY_CHUNK_BYTES)
            if target is not None:  # 4
                source.read(source_id, offset, target[offset:end], token)
            elif origin is not None:  # 4
                destination.write(destination_id, offset, origin[offset:end], token)
            elif bounce is not None:  # 5
                source.read(source_id, offset, bounce[: end - offset], token)
                destination.write(destination_id, offset, bounce[: end - offset], token)
            done(end)


def _copy_memory(target: memoryview, origin: memoryview, size: int, token: CancelToken, done: Done) -> None:
    """Copy with this thread and one more."""
    threads = 2 if size >= PARALLEL_FROM_BYTES else 1
    piece = min(_PIECE_BYTES, -(-size // threads))
    to_address, from_address = address_of(target), address_of(origin)

    def move(offset: int) -> int:
        length = min(piece, size - offset)
        copy(to_address + offset, from_address + offset, length)
        return length

    take_turns(range(0, size, piece), move, token, done, total_bytes=size)


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
    """Copy without a pause. False unless just one takes pieces: of two, each could wait for the other's memory for them."""
    whole_in, whole_out = isinstance(destination, CopiesWhole), isinstance(source, CopiesWhole)
    if isinstance(destination, CopiesWhole) and not whole_out:
        fill = _from_memory(origin) if origin is not None else _from_block(source, source_id, token)
        destination.write_each(destination_id, size, fill, token, done)
        return True
    if isinstance(source, CopiesWhole) and not whole_in:
        take = _to_memory(target) if target is not None else _to_block(destination, destination_id, token)
        source.read_each(source_id, size, take, token, done)
        return True
    return False


def _from_memory(origin: memoryview) -> Piecewise:
    address = address_of(origin)
    return lambda at, piece: copy(address_of(piece), address + at, len(piece))


def _to_memory(target: memoryview) -> Piecewise:
    address = address_of(target)
    return lambda at, piece: copy(address + at, address_of(piece), len(piece))


def _from_block(source: DeviceBackend, source_id: str, token: CancelToken) -> Piecewise:
    return lambda at, piece: source.read(source_id, at, piece, token)


def _to_block(destination: DeviceBackend, destination_id: str, token: CancelToken) -> Piecewise:
    return lambda at, piece: destination.write(destination_id, at, piece, token)
