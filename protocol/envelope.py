"""What stands around ``data`` in a request line."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

REQUEST_ID_MAX = 128
ACTION_MAX = 256
DEADLINE_MAX_MS = 2**53
TRACEPARENT_MAX = 256

RequestId = Annotated[str, Field(min_length=1, max_length=REQUEST_ID_MAX)]


class Meta(BaseModel):
    """How a request is to be handled. Unknown keys are ignored, which the reply says."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", defer_build=True)

    deadline_ms: Annotated[int, Field(ge=0, le=DEADLINE_MAX_MS)] | None = None
    """From arrival; queued work that is older is shed, running work is cancelled."""
    progress: bool = False
    traceparent: Annotated[str, Field(max_length=TRACEPARENT_MAX)] | None = None
    """W3C trace context, copied into the logs."""


class Request(BaseModel):
    """One line in. Unknown keys are ignored, which the reply says."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", defer_build=True)

    request_id: RequestId
    action: Annotated[str, Field(min_length=1, max_length=ACTION_MAX)]
    data: dict[str, Any] = Field(default_factory=dict)
    meta: Meta | None = None
