"""The worker's own actions: hello, ping, cancel, subscribe, shutdown. About the conversation, not the memory."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from protocol import params as p
from protocol import results as r
from protocol.schema_digest import SCHEMA_SHA256
from protocol.vocabulary import INT64_MAX, PROTOCOL_VERSION, EventName
from worker.core.clock import NS_PER_MS, Clock
from worker.core.errors import InvalidRequestError, UnsupportedError
from worker.core.events import Event
from worker.core.health import Health, worst
from worker.instructor.binding import Claims
from worker.instructor.events import event_types
from worker.stream.figures_ticker import FiguresTicker
from worker.stream.work import Answer, Call


class Session(Protocol):
    """What these actions ask of the loop that carries them."""

    max_frame_bytes: int
    max_inflight: int

    def cancel(self, request_id: str) -> Callable[[], None] | None:
        """Return what cancels a request that is queued or running; None if there is none."""
        ...

    def subscribe(self, events: tuple[type[Event], ...]) -> None:
        """Send these events from now on."""
        ...

    def watch_host(self, pid: int) -> bool:
        """End within a second of that process. False where it can't be seen from here."""
        ...

    def drain(self) -> int:
        """Admit nothing more, finish or cancel what runs. Returns how many requests that was."""
        ...

    def end(self) -> None:
        """Free everything and exit."""
        ...


class SessionHandlers:
    """What the instructor binds to the worker's own actions."""

    def __init__(
        self,
        session: Session,
        clock: Clock,
        version: str,
        pid: int,
        started_ns: int,
        actions: Callable[[], tuple[str, ...]],
        observe: Callable[[], None],
        health: Health,
        figures: FiguresTicker,
    ) -> None:
        self._session = session
        self._clock = clock
        self._version = version
        self._pid = pid
        self._started_ns = started_ns
        self._actions = actions
        self._observe = observe
        self._health = health
        self._figures = figures

    def hello(self, params: p.HelloParams, _: Call) -> r.HelloResult:
        """Say who answers. UnsupportedError for a host that speaks only other protocols."""
        lowest, highest = params.protocol_min or 1, params.protocol_max or INT64_MAX
        if lowest > highest:
            raise InvalidRequestError.at(
                "data.protocol_min", f"{lowest} is more than protocol_max, {highest}"
            )
        if not lowest <= PROTOCOL_VERSION <= highest:
            asked = f"at least {lowest}" if lowest > PROTOCOL_VERSION else f"at most {highest}"
            message = f"this worker speaks protocol {PROTOCOL_VERSION}; {asked} asked for"
            raise UnsupportedError(message, protocol=PROTOCOL_VERSION)
        watched = None if params.host_pid is None else self._session.watch_host(params.host_pid)
        return r.HelloResult(
            protocol=PROTOCOL_VERSION,
            worker_version=self._version,
            pid=self._pid,
            actions=self._actions(),
            limits=r.WorkerLimits(self._session.max_frame_bytes, self._session.max_inflight),
            schema_sha256=SCHEMA_SHA256,
            host_watched=watched,
        )

    def ping(self, _params: p.PingParams, _: Call) -> r.PingResult:
        """Say for how long the worker has been there."""
        return r.PingResult((self._clock.now_ns() - self._started_ns) // NS_PER_MS)

    def get_health(self, _params: p.GetHealthParams, _: Call) -> r.GetHealthResult:
        """Say how each part is."""
        parts = self._health.read()
        return r.GetHealthResult(worst(parts), tuple(r.PartHealth(*vars(each).values()) for each in parts))

    def cancel(self, params: p.CancelParams, _: Call) -> Answer:
        """Cancel a request, once the host has read that it was found."""
        cancel = self._session.cancel(params.request_id)
        return Answer(r.CancelResult(cancel is not None), then=cancel)

    def subscribe(self, params: p.SubscribeParams, _: Call) -> Answer:
        """Send these events from now on; the first figures once the host has read that."""
        events = tuple(dict.fromkeys(params.events))
        every_ms = params.figures_every_ms if EventName.FIGURES in events else None
        self._observe()  # what is the case now is no event; what changes from here on is
        self._session.subscribe(event_types(events))
        every_ns = None if every_ms is None else every_ms * NS_PER_MS
        return Answer(r.SubscribeResult(events, every_ms), then=partial(self._figures.set, every_ns))

    def shutdown(self, _params: p.ShutdownParams, _: Call) -> Answer:
        """Finish or cancel what runs, answer, and end."""
        return Answer(r.ShutdownResult(self._session.drain()), then=self._session.end)

    def claims_of_shutdown(self, _params: p.ShutdownParams) -> Claims:
        """Return that it claims nothing, and is not quick: it waits for all others."""
        return (), False
