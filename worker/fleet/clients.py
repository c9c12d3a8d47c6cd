"""Who asks a gateway: its host, and live views on ``--monitor-socket``. Each has its own session and events."""

import os
from collections.abc import Callable
from typing import Any

from protocol.vocabulary import HealthState
from worker import __version__
from worker.app.export import monitor_socket
from worker.core.clock import Clock
from worker.core.health import Health, PartHealth
from worker.export.monitor_client import MonitorClient, Prepare
from worker.fleet.channel import Channel
from worker.fleet.everywhere import Everywhere
from worker.fleet.figures import tell_figures
from worker.fleet.gateway import Gateway
from worker.instructor.binding import Bindings
from worker.instructor.session import Session, SessionHandlers
from worker.stream.figures_ticker import FiguresTicker, Later


class Clients:
    """Makes what answers a client."""

    def __init__(
        self,
        clock: Clock,
        started_ns: int,
        later: Later,
        actions: tuple[str, ...],
        health: Health,
        everywhere: Everywhere,
        gateway_with: Callable[[Bindings], Gateway],
    ) -> None:
        """``gateway_with`` makes a gateway with the actions that are about one client's own session."""
        self._clock, self._started_ns, self._later = clock, started_ns, later
        self._actions, self._health, self._everywhere = actions, health, everywhere
        self._gateway_with = gateway_with

    def gateway(self, session: Session, events: Channel, is_there: Callable[[], bool]) -> Gateway:
        """Return what answers a client for as long as it is there."""
        clock, started_ns = self._clock, self._started_ns
        figures = FiguresTicker(
            clock.now_ns,
            self._later,
            lambda: is_there() and tell_figures(self._everywhere, clock, started_ns, events),
        )
        handlers = SessionHandlers(
            session, clock, __version__, os.getpid(), started_ns, lambda: self._actions, lambda: None, self._health,
            figures,
        )  # fmt: skip
        here = Bindings()
        here.bind("worker.hello", handlers.hello)
        here.bind("worker.ping", handlers.ping)
        here.bind("worker.cancel", handlers.cancel)
        here.bind("worker.subscribe", handlers.subscribe)
        here.bind("worker.shutdown", handlers.shutdown, handlers.claims_of_shutdown)
        return self._gateway_with(here)

    def prepare_for(self, view: MonitorClient[Channel]) -> Prepare:
        """Return what turns a live view's requests into work."""
        return self.gateway(view, view.events, lambda: view.is_there).prepare


class LiveViews:
    """Those on the socket, where it was asked for. Exits with 2 where it can't be made."""

    def __init__(self, asked: str | None, clock: Clock, host: Channel) -> None:
        self._host = host
        self._socket = None if asked is None else monitor_socket(asked, clock, Channel)

    def start(self, clients: Clients, health: Health) -> None:
        """Let them in."""
        if self._socket is not None:
            health.add("monitor_socket", lambda: [PartHealth("monitor_socket", HealthState.OK)])
            self._socket.start(clients.prepare_for)

    def publish(self, name: str, data: Any) -> None:
        """Send an event to those that asked for it, the host among them."""
        self._host.publish(name, data)
        for each in () if self._socket is None else self._socket.events:
            each.publish(name, data)

    def close(self) -> None:
        """Let none in any more, and all of them go."""
        if self._socket is not None:
            self._socket.close()
