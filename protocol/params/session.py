"""What is asked of the worker itself."""

from typing import Annotated

from pydantic import Field

from protocol.params.fields import EVENTS_MAX, EventName, Params, at_most
from protocol.vocabulary import FIGURES_EVERY_MS, INT64_MAX


class HelloParams(Params):
    """Introduce the host. Optional: a bare ``memory.*`` works."""

    protocol_min: Annotated[int, Field(ge=1, le=INT64_MAX)] | None = None
    protocol_max: Annotated[int, Field(ge=1, le=INT64_MAX)] | None = None
    host_pid: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """The worker ends within a second of this process, even while the pipe stays open."""


class PingParams(Params):
    """Ask whether the worker answers."""


class GetHealthParams(Params):
    """Ask how each part of the worker is."""


class CancelParams(Params):
    """Cancel a request that is queued or running."""

    request_id: Annotated[str, Field(min_length=1, max_length=128)]


class SubscribeParams(Params):
    """Ask for events. The list replaces the one before; an empty one ends the subscription."""

    events: Annotated[tuple[EventName, ...], Field(max_length=EVENTS_MAX, strict=False), at_most(EVENTS_MAX)]
    figures_every_ms: Annotated[int, Field(ge=1_000, le=86_400_000)] = FIGURES_EVERY_MS
    """How often ``memory.figures`` comes, if it is among the events: at once, and then after so long each time."""


class ShutdownParams(Params):
    """Stop admitting, finish what runs, free everything, exit."""
