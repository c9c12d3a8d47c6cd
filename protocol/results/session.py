"""What the worker's own actions answer."""

from protocol.record import Record
from protocol.results.numbers import Bytes, Count, Milliseconds
from protocol.vocabulary import EventName, HealthState


class WorkerLimits(Record):
    """What the stream accepts."""

    max_frame_bytes: Bytes
    max_inflight: Count


class HelloResult(Record):
    """Who answers, and what it can be asked."""

    protocol: Count
    worker_version: str
    pid: Count
    actions: tuple[str, ...]
    limits: WorkerLimits
    schema_sha256: str
    host_watched: bool | None = None
    """Whether the worker ends with the process that ``host_pid`` names; false where it cannot be seen, as across
    containers: then only the end of the input ends it. Null without ``host_pid``."""


class PingResult(Record):
    """The worker answers."""

    uptime_ms: Milliseconds


class PartHealth(Record):
    """How one part of the worker is."""

    name: str
    """``requests``, ``events``, ``log``, ``stores``, ``device:ID``, ``models``, ``server:NAME``, ``record``,
    ``metrics_file``, ``monitor_socket``: those that there are."""
    state: HealthState
    reason: str | None
    """Why it is not ``ok``, or what it does; null where there is nothing to say."""


class GetHealthResult(Record):
    """How the worker is: what each part knows of itself. Nothing is tried out for the question, so it is answered at once."""

    state: HealthState
    """That of the worst part; what is ``off`` does not count."""
    parts: tuple[PartHealth, ...]


class CancelResult(Record):
    """Whether the request was queued or running."""

    found: bool


class SubscribeResult(Record):
    """What is subscribed to now."""

    events: tuple[EventName, ...]
    figures_every_ms: Milliseconds | None = None
    """How often ``memory.figures`` comes; null where it is not among the events."""


class ShutdownResult(Record):
    """How many requests were finished or cancelled while draining."""

    drained: Count
