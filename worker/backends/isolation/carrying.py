"""Everything on a process's devices, out to host memory and into the next process: compared byte by byte.

Host memory keeps its copy of a block until that block is back.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from protocol.record import Record
from worker.backends.host_memory import AnonymousBuffer
from worker.backends.isolation import codec
from worker.backends.isolation.child_process import ChildProcess
from worker.backends.isolation.copying import receive, send
from worker.backends.isolation.endings import EndedError
from worker.backends.isolation.slots import SLOT_BYTES, Slots
from worker.core.cancellation import CancelToken
from worker.core.errors import ChecksumMismatchError, DeviceLostError, WorkerError
from worker.core.records import AllocationRequest


class Held(Record):
    """A block in a device's process."""

    request: AllocationRequest
    actual_bytes: int
    weights: bool


def read_out(
    child: ChildProcess, slots: Slots, held: Mapping[str, Held], token: CancelToken
) -> dict[str, AnonymousBuffer]:
    """Copy every block to host memory, and compare. Raises as ``call``, or ChecksumMismatchError.

    Nothing has changed until it returns, so that it can be cancelled.
    """
    copies: dict[str, AnonymousBuffer] = {}
    try:
        for name, block in held.items():
            copies[name] = buffer = AnonymousBuffer(block.request.size_bytes)
            receive(child, slots, name, 0, buffer.view, token)
            _compare(child, slots, name, buffer.view, token)
    except BaseException:
        give_up(copies)
        raise
    return copies


def write_back(
    child: ChildProcess, slots: Slots, held: Mapping[str, Held], copies: dict[str, AnonymousBuffer],
    token: CancelToken,
) -> tuple[dict[str, Held], dict[str, str]]:  # fmt: skip
    """Make every block again, largest first, and fill it. Returns those that are back, and why others are not.

    The copies stay as they are. EndedError or DeviceLostError if the process ended on the way.
    """
    back: dict[str, Held] = {}
    failed: dict[str, str] = {}
    for name in sorted(held, key=lambda each: -held[each].actual_bytes):
        try:
            back[name] = remake(child, slots, name, held[name], copies[name].view, token)
        except (DeviceLostError, EndedError):
            raise
        except (WorkerError, RuntimeError) as error:
            failed[name] = str(error)
    return back, failed


def give_up(copies: dict[str, AnonymousBuffer]) -> None:
    """Give host memory back."""
    while copies:
        copies.popitem()[1].close()


def remake(
    child: ChildProcess, slots: Slots, name: str, block: Held, content: memoryview, token: CancelToken
) -> Held:
    """Make one block again, fill it and compare. Failing in any way leaves nothing of it there."""
    request = codec.packed_request(block.request)
    made = child.call("load" if block.weights else "allocate", name, request)
    undo: tuple[Any, ...] = ("filled", name, False) if block.weights else ("free", name)
    try:
        send(child, slots, "fill" if block.weights else "write", name, 0, content, token)
        if block.weights:
            undo = ("unload", name)
            made = child.call("filled", name, True)  # noqa: FBT003 - as it goes over the wire
        _compare(child, slots, name, content, token)
    except BaseException:
        with suppress(KeyError):  # it was not made
            child.call(*undo)
        raise
    return Held(block.request, codec.block_of(made).actual_bytes, block.weights)


def _compare(child: ChildProcess, slots: Slots, name: str, expected: memoryview, token: CancelToken) -> None:
    """Read a block once more. ChecksumMismatchError where it is not as it was."""
    chunk = bytearray(min(4 * SLOT_BYTES, len(expected)))
    for offset in range(0, len(expected), 4 * SLOT_BYTES):
        length = min(len(chunk), len(expected) - offset)
        if length < len(chunk):
            chunk = bytearray(length)
        with memoryview(chunk) as into:
            receive(child, slots, name, offset, into, token)
        # Compared as a bytearray, which takes memcmp; two memoryviews are compared item by item.
        if chunk != expected[offset : offset + length]:
            message = f"{name} reads differently the second time, from {offset} to {offset + length}"
            raise ChecksumMismatchError(message, allocation_id=name, offset=offset)
