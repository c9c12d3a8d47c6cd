"""What each error code means, whether anything was done, and whether asking again can help."""

from protocol.record import Record
from protocol.vocabulary import ErrorCode, Executed


class ErrorRule(Record):
    """One code's meaning."""

    when: str
    executed: Executed = Executed.NO
    retryable: bool = False


ERRORS: dict[ErrorCode, ErrorRule] = {
    ErrorCode.INVALID_JSON: ErrorRule(
        "the line is not one JSON object, is not UTF-8, has NaN, or nests deeper than 64"
    ),
    ErrorCode.INVALID_REQUEST: ErrorRule(
        "the envelope or `data` fails validation; `errors` names each path; `reason` is `not_known` for a transfer that is "
        "none, or none any more"
    ),
    ErrorCode.UNKNOWN_ACTION: ErrorRule("no such action; with the known ones and the nearest"),
    ErrorCode.FRAME_TOO_LARGE: ErrorRule("the line is too long, or (executed: yes) the reply would be"),
    ErrorCode.DUPLICATE_REQUEST_ID: ErrorRule("the `request_id` was used before for different work"),
    ErrorCode.DEVICE_NOT_FOUND: ErrorRule("no such device"),
    ErrorCode.DEVICE_UNAVAILABLE: ErrorRule(
        "its probe failed or it was lost, with the cause", Executed.UNKNOWN, retryable=True
    ),
    ErrorCode.ALLOCATION_NOT_FOUND: ErrorRule("never existed, or freed already; `reason` says which"),
    ErrorCode.MODEL_NOT_FOUND: ErrorRule("not configured"),
    ErrorCode.MODEL_BUSY: ErrorRule("in use or pinned", retryable=True),
    ErrorCode.MODEL_LOAD_FAILED: ErrorRule("with the cause"),
    ErrorCode.CONSUMER_NOT_FOUND: ErrorRule(
        "not registered, unregistered, or forgotten because its lease ran out"
    ),
    ErrorCode.STORE_NOT_FOUND: ErrorRule("not open in that scope: asking for it opens none"),
    ErrorCode.OPERATION_NOT_FOUND: ErrorRule("not under way: ended before, or never begun"),
    ErrorCode.NODE_NOT_FOUND: ErrorRule("no node of that name in the fleet; with the known ones"),
    ErrorCode.PLAN_STALE: ErrorRule(
        "what a plan was made on has changed, or it was taken up or is too old; ask again; `reason` is `not_known` where "
        "there is no such plan, or none any more",
        retryable=True,
    ),
    ErrorCode.OUT_OF_MEMORY: ErrorRule(
        "would not fit; with what was asked for, available, and could be evicted; `retryable: false` where no waiting "
        "or evicting could ever make it fit: the device's budget, less what is pinned, persistent or reserved, is smaller",
        retryable=True,
    ),
    ErrorCode.LIMIT_EXCEEDED: ErrorRule(
        "a configured cap or reserve, not the hardware; an entry larger than its store may be"
    ),
    ErrorCode.UNSUPPORTED: ErrorRule("this device, or this worker, cannot do that"),
    ErrorCode.CHECKSUM_MISMATCH: ErrorRule(
        "a verified transfer differed; the copy is discarded, the source kept", retryable=True
    ),
    ErrorCode.CANCELLED: ErrorRule(
        "rolled back: as if never asked; a plugin's action that had begun: `executed: unknown`",
        retryable=True,
    ),
    ErrorCode.DEADLINE_EXCEEDED: ErrorRule(
        "shed or rolled back: as if never asked; a plugin's action that had begun: `executed: unknown`",
        retryable=True,
    ),
    ErrorCode.OVERLOADED: ErrorRule("more in flight than is admitted; `retry_after_ms`", retryable=True),
    ErrorCode.SHUTTING_DOWN: ErrorRule("draining", retryable=True),
    ErrorCode.INTERNAL_ERROR: ErrorRule(
        "a bug, of the worker or of the `plugin` named; `error_id` finds it in the log", Executed.UNKNOWN
    ),
}
