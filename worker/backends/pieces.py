"""Work in pieces, of which this thread and one more take the next in turns."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from worker.core.cancellation import CancelToken
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureEvent, SureLock

PARALLEL_FROM_BYTES = 32 * 2**20
"""Below this a second thread costs more to start than it saves."""

Done = Callable[[int], None]
"""Called with the completed bytes, after each piece."""
Piece = TypeVar("Piece")


def no_progress(_completed_bytes: int) -> None:
    """Tell no one how far a copy has come."""


def take_turns(
    pieces: Iterable[Piece],
    work: Callable[[Piece], int],
    token: CancelToken,
    done: Done | None = None,
    *,
    total_bytes: int,
) -> None:
    """Do every piece; ``work`` returns its bytes. Small work is this thread's alone.

    Errors: what ``work`` raises, and what ``token`` does between pieces; both threads have ended then.
    OutOfMemoryError where there is no second thread; nothing was done then.
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

    helped = SureEvent()

    def help_out() -> None:
        try:
            run()
        finally:
            helped.set()

    if total_bytes >= PARALLEL_FROM_BYTES:
        start_thread(help_out, "pieces")
    else:
        helped.set()
    run()
    helped.wait()
    if failures:
        raise failures[0]
