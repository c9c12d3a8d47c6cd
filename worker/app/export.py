"""Where what tells those who watch is put together. Imported only where somebody is to."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from worker import __version__
from worker.app.options import Arguments, fail
from worker.core.clock import NS_PER_MS, Clock
from worker.core.events import Event, Publish
from worker.core.log import log
from worker.core.records import Decision
from worker.export.decision_log import DecisionLog
from worker.export.metrics_file import MetricsFile
from worker.export.monitor_socket import MonitorSocket, PrepareFor, default_path
from worker.export.recorder import Recorder
from worker.instructor.events import wire_event
from worker.interface.interface_memory import MemoryInterface
from worker.metrics.history import History
from worker.stream.alarm import Alarm


class Watchers:
    """The record, the metrics file and the live view's socket, as far as they were asked for."""

    def __init__(self, arguments: Arguments, clock: Clock, history: History, publish: Publish) -> None:
        self._arguments = arguments
        self._clock = clock
        self._history = history
        self._publish = publish
        self._log = _decision_log(arguments, clock)
        # What needs the memory, which needs this: they come with ``start``.
        self._recorder: Recorder | None = None
        self._metrics: MetricsFile | None = None
        self._socket: MonitorSocket | None = None

    @property
    def record(self) -> Callable[[Decision], None] | None:
        """Take decisions about models over; None where nothing is recorded."""
        return None if self._log is None else self._log.record

    def publish(self, event: Event) -> None:
        """Pass an event on to the host, the record and the views."""
        self._publish(event)
        if self._recorder is not None:
            self._recorder.event(*wire_event(event))
        if self._socket is not None:
            self._socket.publish(event)

    def start(self, memory: MemoryInterface, alarm: Alarm, prepare_for: PrepareFor) -> None:
        """Begin. Exits with 2 for a file or socket that can't be used."""
        arguments = self._arguments
        if self._log is not None:
            self._recorder = Recorder(self._log.note, memory, self._history, self._clock)
            self._recorder.tick()
        if arguments.metrics_file is not None:
            path = Path(arguments.metrics_file)
            metrics = MetricsFile(path, lambda: memory.metrics().text, arguments.metrics_seconds)
            try:
                metrics.start()
            except OSError as error:
                fail(f"--metrics-file: {error}")
            self._metrics = metrics
        if arguments.monitor_socket is not None:
            try:
                path = (
                    Path(arguments.monitor_socket) if arguments.monitor_socket else default_path(os.getpid())
                )
                self._socket = MonitorSocket(path, prepare_for, self._clock, alarm, wire_event)
            except OSError as error:
                fail(f"--monitor-socket: {error}")
            self._socket.start()

    def tick(self) -> None:
        """Note what changed. About once a second."""
        if self._recorder is not None:
            try:
                self._recorder.tick()
            except Exception as error:  # noqa: BLE001 - a bug in watching, and leases still have to run out
                log("error", "a bug in recording", error=repr(error))

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


def _decision_log(arguments: Arguments, clock: Clock) -> DecisionLog | None:
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
        fail(f"--record: {error}")
