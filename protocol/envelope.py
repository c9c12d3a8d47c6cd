"""What stands around ``data``: the request line, the reply line and the event line."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from protocol.results import ErrorBody

REQUEST_ID_MAX = 128
ACTION_MAX = 256

RequestId = Annotated[str, Field(min_length=1, max_length=REQUEST_ID_MAX)]


class Meta(BaseModel):
    """How a request is to be handled. Unknown keys are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", defer_build=True)

    deadline_ms: Annotated[int, Field(ge=0, le=2**53)] | None = None
    """From arrival; queued work that is older is shed, running work is cancelled."""
    progress: bool = False
    traceparent: Annotated[str, Field(max_length=256)] | None = None
    """W3C trace context, copied into the logs."""


class Request(BaseModel):
    """One line in. Unknown keys are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    request_id: RequestId
    action: Annotated[str, Field(min_length=1, max_length=ACTION_MAX)]
    data: dict[str, Any] = Field(default_factory=dict)
    meta: Meta | None = None


class _Line(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", defer_build=True)


class SuccessReply(_Line):
    """One line out, for a request that succeeded."""

    request_id: RequestId
    success: Literal[True]
    data: dict[str, Any]
    replayed: Literal[True] | None = None
    """Present where the answer was given before."""


class ErrorReply(_Line):
    """One line out, for a request that failed."""

    request_id: RequestId | None
    success: Literal[False]
    error: ErrorBody
    replayed: Literal[True] | None = None
    """Present where the answer was given before."""


class Event(_Line):
    """One line out, for a subscription (no ``request_id``) or a request's progress."""

    event: str
    request_id: RequestId | None = None
    sequence: Annotated[int, Field(ge=1)]
    data: dict[str, Any]
