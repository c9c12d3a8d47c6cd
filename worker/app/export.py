"""Where what tells those who watch is put together. Imported only where somebody is to."""

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from protocol.vocabulary import HealthState
from worker import __version__
from worker.app.memory import Parts
from worker.app.options import Arguments, fail
from worker.core.clock import NS_PER_MS, Clock
from worker.core.events import Event
from worker.core.health import PartHealth
from worker.core.log import log as write_log
from worker.core.paths import said_of
from worker.export.decision_log import DecisionLog
from worker.export.event_hub import EventHub
from worker.export.metrics_file import MetricsFile
from worker.export.monitor_client import EventsT
from worker.export.monitor_socket import MonitorSocket, PrepareFor, default_path
from worker.export.recorder import Recorder
from worker.instructor.events import wire_event
from worker.stream.alarm import Alarm
from worker.stream.event_channel import INTERVAL_NS, EventChannel, Write


class Watchers:
    """The record, the metrics file and the live view's socket, as far as they were asked for.

    Exits with 2 for a file or socket that can't be used.
    """

    def __init__(
        self,
        arguments: Arguments,
        parts: Parts,
        events: EventHub,
        log: DecisionLog | None,
        timers: Alarm,
        prepare_for: PrepareFor[EventChannel],
    ) -> None:
        memory, core = parts.memory, parts.core
        health = core.health
        self._log, self._prepare_for = log, prepare_for
        self._recorder = None
        if log is not None:
            health.add("record", log.health)
            self._recorder = recorder = Recorder(log.note, core, memory, parts.trends)
            events.follow(lambda event: recorder.event(*wire_event(event)))
        self._metrics = self._socket = None
        self._metrics_path = arguments.metrics_file
        if arguments.metrics_file is not None:
            self._metrics = MetricsFile(
                Path(arguments.metrics_file),
                lambda: memory.questions.metrics().text,
                arguments.metrics_seconds,
                arguments.metrics_mode,
            )
            health.add("metrics_file", self._metrics.health)
        if arguments.monitor_socket is not None:
            self._socket = socket = monitor_socket(
                arguments.monitor_socket,
                core.clock,
                lambda write: EventChannel(write, core.clock, timers, INTERVAL_NS, wire_event),
            )
            health.add("monitor_socket", lambda: [PartHealth("monitor_socket", HealthState.OK)])

            def publish(event: Event) -> None:
                for each in socket.events:
                    each.publish(event)

            events.follow(publish)

    def start(self) -> None:
        """Begin."""
        if self._recorder is not None:
            self._recorder.tick()
        if self._metrics is not None:
            try:
                self._metrics.start()
            except OSError as error:
                fail(f"--metrics-file: {self._metrics_path}: {said_of(error, 'written')}")
        if self._socket is not None:
            self._socket.start(self._prepare_for)

    def tick(self) -> None:
        """Note what changed. About once a second."""
        if self._recorder is not None:
            try:
                self._recorder.tick()
            except Exception as error:  # noqa: BLE001 - a bug in watching, and leases still have to run out
                write_log("error", "a bug in recording", error=repr(error))

    def close(self, close_memory: Callable[[], None]) -> None:
        """End: the last figures are those before everything is freed, the last decisions those of freeing."""
        with ExitStack() as stack:  # whatever goes wrong on the way; from the last line up
            if self._log is not None:
                stack.callback(self._log.close)
            stack.callback(close_memory)
            if self._recorder is not None:
                stack.callback(self._recorder.finish)
            if self._metrics is not None:
                stack.callback(self._metrics.close)
            if self._socket is not None:
                stack.callback(self._socket.close)


def monitor_socket(asked: str, clock: Clock, events: Callable[[Write], EventsT]) -> MonitorSocket[EventsT]:
    """Bind ``--monitor-socket``; empty for this process's own. Exits with 2 where that can't be."""
    path = Path(asked) if asked else default_path(os.getpid())
    try:
        return MonitorSocket(path, clock, events)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        said = "it is there already: name another path" if taken else said_of(error, "written")
        fail(f"--monitor-socket: {path}: {said}")


def decision_log(arguments: Arguments, clock: Clock) -> DecisionLog | None:
    """Open ``--record``. Exits with 2 if it cannot be written."""
    if arguments.record is None:
        return None
    started = clock.utc().isoformat(timespec="milliseconds").replace("+00:00", "Z")
    about = {
        "worker_version": __version__,
        "pid": os.getpid(),
        "started": started,
        "t_ms": clock.now_ns() // NS_PER_MS,
    }
    try:
        return DecisionLog(Path(arguments.record), about=about)
    except OSError as error:
        fail(f"--record: {arguments.record}: {said_of(error, 'written')}")
