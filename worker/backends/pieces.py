"""Work in pieces, of which this thread and others take the next in turns."""

import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from worker.core.cancellation import CancelToken
from worker.core.errors import OutOfMemoryError
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureEvent, SureLock
from worker.core.system_calls import WithoutCall

PARALLEL_FROM_BYTES = 32 * 2**20
"""Below this a second thread costs more to start than it saves."""

_FEWEST, _MOST, _CPUS_EACH = 2, 4, 4
"""Threads, where there are so many processors for each: copies and reads of files go up with them (5, 11 and 21 GiB/s of
the page cache by one, two and four threads where there were 16), and most of the processors are left to inference."""

PART_BYTES = 32 * 2**20
"""What a thread copies before it takes the next part, where a copy is of many pieces: the wait for the last of them is 1 % of it."""

Done = Callable[[int], None]
"""Called with the completed bytes, after each piece."""
Piece = TypeVar("Piece")


def no_progress(_completed_bytes: int) -> None:
    """Tell no one how far a copy has come."""


def threads_for(total_bytes: int) -> int:
    """Return how many threads share work on so many bytes."""
    if total_bytes < PARALLEL_FROM_BYTES:
        return 1
    return max(_FEWEST, min(_MOST, _cpus() // _CPUS_EACH))


def take_turns(
    pieces: Iterable[Piece],
    work: Callable[[Piece], int],
    token: CancelToken,
    done: Done | None = None,
    *,
    threads: int,
) -> None:
    """Do every piece by so many threads, this one among them; ``work`` returns its bytes.

    Errors: what ``work`` raises, and what ``token`` does between pieces; all threads have ended then.
    """
    left = iter(pieces)
    lock = SureLock()
    failures: list[BaseException] = []
    completed = 0

    def run() -> None:
        nonlocal completed
        try:
            while not failures:
                token.check()
                with lock:
                    piece = next(left, None)
                if piece is None:
                    return
                length = work(piece)
                with lock:
                    completed += length
                    if done is not None:
                        done(completed)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
            failures.append(error)

    helpers: list[SureEvent] = []
    with suppress(OutOfMemoryError):  # who finds no more threads does it with those that are there
        for _ in range(1, threads):
            helpers.append(start_thread(run, "pieces"))  # noqa: PERF401 - those that started are waited for
    run()
    for ended in helpers:
        ended.wait()
    if failures:
        raise failures[0]


def copy_parts(
    size: int, copy: Callable[[int, int], None], token: CancelToken, done: Done, *, threads: int
) -> None:
    """Copy parts of a block by so many threads: ``copy`` is called with where each begins, and its length."""

    def copy_part(start: int) -> int:
        length = min(PART_BYTES, size - start)
        copy(start, length)
        return length

    take_turns(range(0, size, PART_BYTES), copy_part, token, done, threads=threads)


if sys.platform == "linux":

    def _cpus() -> int:
        with WithoutCall():
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

else:

    def _cpus() -> int:
        return os.cpu_count() or 1
