"""What becomes of an exception that no action expects: an error with a code, whatever it is and whenever it comes."""

import traceback
import uuid

import orjson

from protocol.vocabulary import Executed
from worker.core.errors import InternalError, OutOfMemoryError, WorkerError
from worker.core.log import log
from worker.core.shortages import shortage
from worker.stream.json_values import text_of

_LAST_ERROR = (
    b',"success":false,"error":{"code":"internal_error","message":"there was no memory for a better answer",'
    b'"executed":"unknown","retryable":false,"details":{}}}\n'
)


def last_words(request_id: str) -> bytes:
    """Return the reply of a request for which no other can be made. Made before it is needed."""
    return b'{"request_id":' + orjson.dumps(request_id) + _LAST_ERROR


def wire_error(
    error: BaseException, action: str, traceparent: str | None, *, changes: bool = False
) -> WorkerError:
    """Return the error for an exception: a passing shortage of the system's, or a bug, which is logged.

    ``changes`` says that what was done of the work is not known here.
    """
    if isinstance(error, WorkerError) and _is_whole(error):
        return error
    short: OutOfMemoryError | None = shortage(error)
    if short is None:
        return log_bug(error, action, traceparent)
    if changes:
        short.executed = Executed.UNKNOWN
    log("warning", "the system is short of something", action=action, **short.details)
    return short


def log_bug(error: BaseException, action: str, traceparent: str | None = None) -> InternalError:
    """Log a bug, and return the error that names where."""
    error_id = uuid.uuid4().hex
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as second:  # noqa: BLE001 - such as an exception whose own text raises
        text = f"{type(error).__name__}; its traceback can't be told: {type(second).__name__}"
    log("error", "a bug", error_id=error_id, action=action, traceparent=traceparent, traceback=text_of(text))
    return InternalError(f"a bug in the worker; the log has it under {error_id}", error_id=error_id)


def _is_whole(error: WorkerError) -> bool:
    """Tell whether it was made as errors are: a plugin's own class may have left that out."""
    try:
        error.body()
    except Exception:  # noqa: BLE001 - whatever it left out
        return False
    return True
