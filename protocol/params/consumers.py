"""What is said by whoever holds memory and gives it back."""

from typing import Annotated

from pydantic import Field

from protocol.params.fields import (
    OFFERS_MAX,
    Bytes,
    Count,
    Name,
    Params,
    Part,
    SizeBytes,
    at_most,
)
from protocol.vocabulary import INT64_MAX


class ConsumerOffer(Part):
    """Memory that a consumer would give back, and what that costs."""

    bytes: SizeBytes
    cost_ms: Annotated[float, Field(ge=0, le=INT64_MAX)]
    """What rebuilding it takes if it is needed again, in milliseconds."""


class RegisterConsumerParams(Params):
    """Say what a consumer of memory outside the worker holds, and what giving it back costs; sent again, it updates."""

    consumer_id: Name
    """The host's own name for it; what begins with ``model:``, ``engine:``, ``pool:``, ``external:`` or ``server:`` is the worker's."""
    kind: Name | None = None
    """Free text, such as ``response_cache``."""
    device_id: Name | None = None
    """Where its memory is; null for ``cpu``."""
    held_bytes: Bytes
    floor_bytes: Bytes = 0
    """What it can't give back."""
    offers: Annotated[
        tuple[ConsumerOffer, ...], Field(max_length=OFFERS_MAX, strict=False), at_most(OFFERS_MAX)
    ]
    """What it would give back, cheapest per byte first; any part of one may be asked for."""
    hits: Count | None = None
    """Since it was made, as the two below: what is used of it tells whether what goes will be needed again."""
    misses: Count | None = None
    saved_ms: Annotated[float, Field(ge=0, le=INT64_MAX)] | None = None
    """Milliseconds of rebuilding that its hits have saved."""
    owner: Name | None = None
    lease_ms: Annotated[int, Field(ge=1, le=INT64_MAX)] | None = None
    """It is forgotten when it was not registered again for so long; null for until it is unregistered."""


class ReleasedParams(Params):
    """Say that a consumer gave memory back: the answer to ``memory.release_requested``, or of its own accord."""

    consumer_id: Name
    bytes: Bytes
    """0 for none: what was asked for is not waited for any longer."""


class UnregisterConsumerParams(Params):
    """Have a consumer forgotten."""

    consumer_id: Name


class GetConsumersParams(Params):
    """Ask what holds memory, the worker's own models and pools among it, and what giving it back costs."""

    device_id: Name | None = None
    kind: Name | None = None
