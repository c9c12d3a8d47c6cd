"""A call on its way: what it may say beside its data, and what it can end with."""

import queue
import threading
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from protocol.record import Record
from protocol.vocabulary import ErrorCode, Executed
from worker.core import errors

_GRACE_SECONDS = 5.0
"""A worker answers when a deadline is over; one that has not by then does not answer at all."""

_CLASSES = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.WorkerError) and hasattr(kind, "code")
    if kind.__bases__ == (errors.WorkerError,)
}


class LeftOut(Enum):
    """The type of ``LEFT_OUT``: a field that is not sent at all, where ``None`` would be sent as ``null``."""

    LEFT_OUT = "left out"


LEFT_OUT = LeftOut.LEFT_OUT


class CallOptions(Record):
    """How one call is to be handled."""

    deadline_ms: int | None = None
    """From arrival at the worker; then ``DeadlineExceededError``, rolled back. None for the client's default."""
    progress: Callable[[int, int], object] | None = None
    """Called with (completed bytes, total bytes), on the caller's own thread or event loop."""
    traceparent: str | None = None
    """W3C trace context, copied into the worker's log."""


class WorkerExitedError(ConnectionError):
    """The worker's process ended, or could not be started. The message has its exit code and last words.

    ``executed`` says what became of the call: ``no`` where it was never sent, else ``unknown``.
    """

    def __init__(self, message: str, executed: Executed = Executed.UNKNOWN) -> None:
        super().__init__(message)
        self.executed = executed


class UnknownCodeError(errors.WorkerError):
    """A refusal with a code that this client does not know; ``word`` has it."""

    code = ErrorCode.INTERNAL_ERROR

    def __init__(self, message: str, word: str, **details: Any) -> None:
        super().__init__(message, **details)
        self.word = word


class Receiver(Protocol):
    """Where the answer of a call goes. All methods are called by the connection's reader: they must not wait."""

    def progress(self, completed: int, total: int) -> None:
        """Take a step of progress over."""

    def reply(self, message: dict[str, Any]) -> None:
        """Take the reply over."""

    def lost(self, error: WorkerExitedError) -> None:
        """Note that there will be no reply."""


class Waiting:
    """The receiver of a thread that waits."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[tuple[int, int] | dict[str, Any] | WorkerExitedError] = (
            queue.SimpleQueue()
        )
        self.progress = lambda completed, total: self._inbox.put((completed, total))
        self.reply = self.lost = self._inbox.put

    def wait(self, options: CallOptions) -> dict[str, Any]:
        """Return the reply's ``data``, reporting progress meanwhile. Raises what the call ended with."""
        seconds = patience_of(options)
        while True:
            try:
                found = self._inbox.get(timeout=seconds)
            except queue.Empty:
                raise no_answer(options) from None
            if isinstance(found, dict):
                return data_of(found)
            if isinstance(found, WorkerExitedError):
                raise found
            if options.progress is not None:
                options.progress(*found)


def patience_of(options: CallOptions) -> float | None:
    """Return for how many seconds an answer is waited for; None for ever."""
    return within(options, _GRACE_SECONDS)


def within(options: CallOptions, more: float = 0.0) -> float | None:
    """Return a call's time in seconds, and so many more, as far as a thread can wait at all; None for as long as it takes."""
    if options.deadline_ms is None:
        return None
    return min(max(0.0, options.deadline_ms / 1000) + more, threading.TIMEOUT_MAX)


def no_answer(options: CallOptions) -> errors.DeadlineExceededError:
    """Make the error of a worker that hangs: what became of the call is not known."""
    message = f"no answer {_GRACE_SECONDS:g} s after the deadline of {options.deadline_ms} ms"
    error = errors.DeadlineExceededError(message)
    error.executed = Executed.UNKNOWN
    return error


def data_of(message: dict[str, Any]) -> dict[str, Any]:
    """Return what a reply carries; raises the error that it reports, as the worker's own class."""
    if message.get("success") is True:
        found = message.get("data")
        return found if isinstance(found, dict) else {}
    body = message.get("error")
    error = error_of(body if isinstance(body, dict) else {})
    error.request_id = message.get("request_id")
    raise error


def error_of(body: dict[str, Any]) -> errors.WorkerError:
    """Return the error of a reply."""
    code, text = str(body.get("code")), str(body.get("message"))
    details = body.get("details")
    known = details if isinstance(details, dict) else {}
    error: errors.WorkerError
    if code in _CLASSES:
        kind = _CLASSES[ErrorCode(code)]
        error = kind.__new__(kind)  # some are made from more than a text: here the text is the worker's
        errors.WorkerError.__init__(error, text)
    else:
        error = UnknownCodeError(f"{code}: {text}", code)
    error.details = known
    if body.get("executed") in tuple(Executed):
        error.executed = Executed(body["executed"])
    if isinstance(body.get("retryable"), bool):  # of the refusal, as it is: its code alone says less
        error.retryable = body["retryable"]
    return error
