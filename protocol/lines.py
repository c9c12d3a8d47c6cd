"""The lines that a worker writes: what stands around ``data`` in a reply and in an event.

A running worker writes them from its records; these models are what hosts and tests hold them to.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from protocol.envelope import RequestId
from protocol.results import ErrorBody
from protocol.vocabulary import INT64_MAX


class _Line(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", defer_build=True)


class IgnoredKey(BaseModel):
    """A key of a request line that nothing reads."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", defer_build=True)

    path: str
    message: str
    """What may be meant by it."""


class SuccessReply(_Line):
    """One line out, for a request that succeeded."""

    request_id: RequestId
    success: Literal[True]
    data: dict[str, Any]
    replayed: Literal[True] | None = None
    """Present where the answer was given before."""
    ignored: list[IgnoredKey] | None = None
    """Present where the request line has keys, beside or in ``meta``, that nothing reads."""


class ErrorReply(_Line):
    """One line out, for a request that failed."""

    request_id: RequestId | None
    success: Literal[False]
    error: ErrorBody
    replayed: Literal[True] | None = None
    """Present where the answer was given before."""
    ignored: list[IgnoredKey] | None = None
    """Present where the request line has keys, beside or in ``meta``, that nothing reads."""


class Event(_Line):
    """One line out, for a subscription (no ``request_id``) or a request's progress."""

    event: str
    request_id: RequestId | None = None
    sequence: Annotated[int, Field(ge=1, le=INT64_MAX)]
    data: dict[str, Any]
