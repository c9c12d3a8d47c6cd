"""Moving bytes between two blocks, by the shortest way that both backends allow."""

import threading
from collections.abc import Callable
from contextlib import ExitStack

from worker.backends.base import COPY_CHUNK_BYTES, DeviceBackend
from worker.backends.host_memory import address_of, copy
from worker.cancellation import CancelToken

_PARALLEL_FROM_BYTES = 32 * 2**20
"""Below this a second thread costs more to start than it saves."""

_PIECE_BYTES = 256 * 2**20
"""Memory to memory goes in pieces of this size (15-30 ms), not of a chunk's: memcpy by-passes the caches only
for long copies (240 MiB on the machine measured), which makes them 1.4 times as fast."""

Done = Callable[[int], None]
"""Called with the completed bytes, after each chunk."""


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
    2. One is: its backend's counterpart copies straight into or out of it.
    3. Neither is: chunk by chunk through the worker's own memory.
    """
    with ExitStack() as views:
        origin = source.view(source_id, writable=False)
        target = destination.view(destination_id, writable=True)
        for view in (origin, target):
            if view is not None:
                views.enter_context(view)
        if origin is not None and target is not None:  # 1
            _copy_memory(target, origin, size, token, done)
            return
        bounce = memoryview(bytearray(min(size, COPY_CHUNK_BYTES))) if origin is target else None
        for offset in range(0, size, COPY_CHUNK_BYTES):
            end = min(size, offset + COPY_CHUNK_BYTES)
            if target is not None:  # 2
                source.read(source_id, offset, target[offset:end], token)
            elif origin is not None:  # 2
                destination.write(destination_id, offset, origin[offset:end], token)
            elif bounce is not None:  # 3
                source.read(source_id, offset, bounce[: end - offset], token)
                destination.write(destination_id, offset, bounce[: end - offset], token)
            done(end)


def _copy_memory(target: memoryview, origin: memoryview, size: int, token: CancelToken, done: Done) -> None:
    """Copy with this thread and one more; each takes the next piece until none is left."""
    threads = 2 if size >= _PARALLEL_FROM_BYTES else 1
    piece = min(_PIECE_BYTES, -(-size // threads))
    to_address, from_address = address_of(target), address_of(origin)
    offsets = iter(range(0, size, piece))
    lock = threading.Lock()
    failures: list[BaseException] = []
    completed = 0

    def work() -> None:
        nonlocal completed
        try:
            while not failures:
                token.check()
                with lock:
                    offset = next(offsets, None)
                if offset is None:
                    return
                length = min(piece, size - offset)
                copy(to_address + offset, from_address + offset, length)
                with lock:
                    completed += length
                    done(completed)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
            failures.append(error)

    helper = threading.Thread(target=work, name="copy") if threads > 1 else None
    if helper is not None:
        helper.start()
    work()
    if helper is not None:
        helper.join()
    if failures:
        raise failures[0]
