"""Everything a request can fail with. Each class carries its wire code; the message is for people."""

from typing import TYPE_CHECKING, Any, ClassVar

from protocol.error_codes import ERRORS
from protocol.vocabulary import ErrorCode

if TYPE_CHECKING:
    from protocol.results import ErrorBody  # 10 ms that a device's process does not need


NOT_KNOWN = "not_known"
"""``reason`` in the details of an id that is none, or none any more, where the error's code does not say so by itself."""


class WorkerError(Exception):
    """Root of all errors that have a wire code."""

    code: ClassVar[ErrorCode]
    request_id: str | None = None
    """In a client: of the request that was refused, which the worker's log names."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.executed = ERRORS[self.code].executed
        self.retryable = ERRORS[self.code].retryable
        self.details = details

    def body(self) -> "ErrorBody":
        """Return what goes on the wire."""
        from protocol.results import ErrorBody  # noqa: PLC0415 - see above

        return ErrorBody(self.code, self.message, self.executed, self.retryable, self.details)


class InvalidJsonError(WorkerError):
    """The line is not one JSON object."""

    code = ErrorCode.INVALID_JSON


class InvalidRequestError(WorkerError):
    """The envelope or ``data`` fails validation; ``errors`` names each path."""

    code = ErrorCode.INVALID_REQUEST

    def __init__(self, errors: list[dict[str, str]], **details: Any) -> None:
        told = "; ".join(f"{error['path']}: {error['message']}" for error in errors)
        super().__init__(told, errors=errors, **details)

    @classmethod
    def at(cls, path: str, message: str, **details: Any) -> "InvalidRequestError":
        """Make the error for a single field."""
        return cls([{"path": path, "message": message}], **details)


class UnknownActionError(WorkerError):
    """No such action."""

    code = ErrorCode.UNKNOWN_ACTION


class FrameTooLargeError(WorkerError):
    """A request line, or the reply it would make, is longer than a frame may be."""

    code = ErrorCode.FRAME_TOO_LARGE


class DuplicateRequestIdError(WorkerError):
    """The ``request_id`` was used before for different work."""

    code = ErrorCode.DUPLICATE_REQUEST_ID


class DeviceNotFoundError(WorkerError):
    """No such device."""

    code = ErrorCode.DEVICE_NOT_FOUND


class DeviceUnavailableError(WorkerError):
    """The device's probe failed, or the device was lost; the message has the cause."""

    code = ErrorCode.DEVICE_UNAVAILABLE


class EngineLostError(DeviceUnavailableError):
    """A model's engine process ended under it: the device is as it was, and the model is loaded again when it is used."""


class DeviceLostError(DeviceUnavailableError):
    """The device went away, and every block on it."""


class AllocationNotFoundError(WorkerError):
    """The allocation never existed, or was freed before."""

    code = ErrorCode.ALLOCATION_NOT_FOUND


class ModelNotFoundError(WorkerError):
    """The model is not configured."""

    code = ErrorCode.MODEL_NOT_FOUND


class ModelBusyError(WorkerError):
    """The model is in use or pinned; ``cause`` says which."""

    code = ErrorCode.MODEL_BUSY


class ModelLoadFailedError(WorkerError):
    """The model could not be loaded; ``cause`` says why, and nothing of it is left."""

    code = ErrorCode.MODEL_LOAD_FAILED


class ConsumerNotFoundError(WorkerError):
    """The consumer is not registered, or was forgotten because its lease ran out."""

    code = ErrorCode.CONSUMER_NOT_FOUND


class StoreNotFoundError(WorkerError):
    """The store is not open in that scope."""

    code = ErrorCode.STORE_NOT_FOUND


class OperationNotFoundError(WorkerError):
    """The operation is not under way: it is over, or never began."""

    code = ErrorCode.OPERATION_NOT_FOUND


class NodeNotFoundError(WorkerError):
    """The fleet has no node of that name."""

    code = ErrorCode.NODE_NOT_FOUND


class PlanStaleError(WorkerError):
    """A plan can't be carried out as it was said any more; nothing was done."""

    code = ErrorCode.PLAN_STALE


class OutOfMemoryError(WorkerError):
    """It would not fit: the hardware, or what the system leaves of it. Not retryable where it never can."""

    code = ErrorCode.OUT_OF_MEMORY


class NoFileRoomError(OutOfMemoryError):
    """The file system of shared memory is full: nothing that a device gives up makes room there."""


class LimitExceededError(WorkerError):
    """It would go over a configured cap, although the hardware has headroom."""

    code = ErrorCode.LIMIT_EXCEEDED


class UnsupportedError(WorkerError):
    """This device, or this worker, cannot do that."""

    code = ErrorCode.UNSUPPORTED


class ChecksumMismatchError(WorkerError):
    """A verified transfer differed; the copy was discarded and the source kept."""

    code = ErrorCode.CHECKSUM_MISMATCH


class CancelledError(WorkerError):
    """The request was cancelled and rolled back."""

    code = ErrorCode.CANCELLED


class DeadlineExceededError(WorkerError):
    """The request's deadline passed; it was shed or rolled back."""

    code = ErrorCode.DEADLINE_EXCEEDED


class OverloadedError(WorkerError):
    """More requests are in flight than the worker admits."""

    code = ErrorCode.OVERLOADED


class ShuttingDownError(WorkerError):
    """The worker is draining and admits nothing new."""

    code = ErrorCode.SHUTTING_DOWN


class InternalError(WorkerError):
    """A bug in the worker; ``error_id`` finds it in the log."""

    code = ErrorCode.INTERNAL_ERROR
