"""The one place where the parts are put together."""

import gc
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from worker import __version__
from worker.app.background import build_pressure_monitor, build_reaper
from worker.app.first_use import first_uses
from worker.app.memory import Parts, build_memory
from worker.app.options import Arguments, fail
from worker.app.stores import LazyStores
from worker.background.due_thread import start
from worker.core.clock import NS_PER_S, Clock, FixedClock, SystemClock
from worker.core.errors import OutOfMemoryError
from worker.core.events import Event, Publish
from worker.core.health import Health
from worker.core.heap import use_one_heap
from worker.core.ids import Ids
from worker.core.log import log, log_health, serve_log, set_level
from worker.core.records import HOST
from worker.core.shortages import RESERVE, shortage
from worker.instructor.events import wire_event
from worker.instructor.instructor_memory import Instructor
from worker.manager.manager_memory import MemoryManager
from worker.metrics.history import History
from worker.stream.alarm import Alarm
from worker.stream.event_channel import INTERVAL_NS, EventChannel
from worker.stream.event_writer import EventWriter
from worker.stream.figures_ticker import taken_by
from worker.stream.frame_writer import FrameWriter
from worker.stream.job_runner import JobRunner
from worker.stream.stdio_loop import StdioLoop
from worker.stream.thread_lanes import BRIEF, PLUGINS
from worker.stream.work import PluginAction, Work
from worker.wiring import Core

if TYPE_CHECKING:
    from worker.app.export import Watchers
    from worker.export.decision_log import DecisionLog
    from worker.export.event_hub import EventHub
    from worker.export.monitor_client import MonitorClient, Prepare

_DETERMINISTIC_PID = 1
_INSTANCE_BYTES = 4
"""Of chance in each id: of two processes in a row, one pair in four billion has the same."""
_STACK_BYTES = 2 * 2**20
"""Of each thread. The system's own measure, 8 MiB, would take most of a limited address space."""
_OTHERS = 0o077
"""All that an umask is to take: the host has to open what is shared with it, whatever it was itself started with."""
_NO_THREADS = (
    "; see to 'ulimit -u' and the container's limit of processes, and in a container where none starts update what runs it:"
    " its filter of system calls may be older than the C library in it"
)


def serve(arguments: Arguments, read_fd: int, write_fd: int, narrate: Publish | None = None) -> None:
    """Serve requests until the host is done. Does not return: the process ends with 0.

    ``narrate`` is told of every event. Exits with 2 where the system is too short of something for a start.
    """
    try:
        _serve(arguments, read_fd, write_fd, narrate)
    except Exception as error:
        short = error if isinstance(error, OutOfMemoryError) else shortage(error)
        if short is None:
            raise
        fail(short.message + (_NO_THREADS if short.details.get("resource") == "threads" else ""))


def _serve(arguments: Arguments, read_fd: int, write_fd: int, narrate: Publish | None) -> None:
    _prepare(arguments)
    fixed_clock = FixedClock() if arguments.deterministic else None
    clock: Clock = fixed_clock if fixed_clock is not None else SystemClock()
    timers, history, started_ns = Alarm(clock), History(clock), clock.now_ns()
    writer = FrameWriter(write_fd)
    event_writer = EventWriter(writer)
    interval_ns = 0 if fixed_clock is not None else INTERVAL_NS
    channel = EventChannel(event_writer.write, clock, timers, interval_ns, wire_event)
    # A fixed clock does not move by itself, so that a level would never fall.
    manager = (
        MemoryManager(clock, ids=Ids(os.urandom(_INSTANCE_BYTES).hex()))
        if fixed_clock is None
        else MemoryManager(clock, dwell_ns=0)
    )
    runner = JobRunner(
        writer,
        event_writer,
        clock,
        timers,
        history,
        manager.devices.ids,
        max_inflight=arguments.max_inflight,
        max_frame_bytes=arguments.max_frame_bytes,
    )
    hub, decisions = _watched(arguments, channel, clock, narrate)
    parts = build_memory(
        arguments,
        Core(clock, history, hub or channel, manager, {}, Health()),
        None if decisions is None else decisions.record,
        prefixes=lambda *asked: stores.prefixes(*asked),  # noqa: PLW0108 - they are made below
    )
    memory, stores = parts.memory, LazyStores(arguments, parts)
    _add_health(parts.core.health, runner, event_writer, stores)
    reaper = build_reaper(parts, runner)
    pressure = build_pressure_monitor(parts, runner, arguments.auto_optimize)
    plugins = stores.embedding_by(_plugins(arguments, parts, timers, runner, stores))
    pid = _DETERMINISTIC_PID if fixed_clock is not None else None
    later = taken_by(runner.submit, timers)
    watchers, close = None, partial(stores.close, memory.close)
    if hub is not None:
        from worker.app.export import Watchers  # noqa: PLC0415 - as above

        def prepare_for(session: "MonitorClient[EventChannel]") -> "Prepare":
            def publish(event: Event) -> bool:
                session.events.publish(event)
                return session.is_there

            return Instructor(
                memory,
                session,
                clock,
                history,
                __version__,
                pid,
                stores.get,
                later,
                publish,
                plugins,
                started_ns,
            ).prepare

        watchers = Watchers(arguments, parts, hub, decisions, timers, prepare_for)
        close = partial(watchers.close, close)

    loop = StdioLoop(
        read_fd,
        writer,
        runner,
        channel,
        (timers.run_due, reaper.run_due),
        close,
        max_frame_bytes=arguments.max_frame_bytes,
        fixed_clock=fixed_clock,
    )
    writer.when_broken(loop.output_lost)
    prepare = Instructor(
        memory, loop, clock, history, __version__, pid, stores.get, later, partial(_tell, channel), plugins
    ).prepare
    if watchers is not None:
        watchers.start()
    if watchers is not None and fixed_clock is None:
        _tick_every_second(timers, clock, watchers)
    # All threads before the first readings: they take addresses, which may be limited.
    by_clock = (
        timers.start, event_writer.start, partial(start, reaper, clock, "expiry"),
        partial(start, pressure, clock, "pressure"),
    )  # fmt: skip
    _start_threads(runner, manager, plugins, by_clock if fixed_clock is None else ())
    log("info", "serving", version=__version__)
    gc.freeze()
    gc.enable()

    def go_on() -> None:
        if fixed_clock is None:
            parts.pace.set(clock.now_ns())
        memory.devices.probe_here()

    loop.run(prepare, go_on, first_uses)  # sampling would only keep the first answer waiting


def _tell(channel: EventChannel, event: Event) -> bool:
    """Tell the host, which is there for as long as the worker is."""
    channel.publish(event)
    return True


def _add_health(health: Health, runner: JobRunner, event_writer: EventWriter, stores: LazyStores) -> None:
    health.add("requests", runner.health)
    health.add("events", event_writer.health)
    health.add("log", log_health)
    health.add("stores", stores.health)


def _watched(
    arguments: Arguments, channel: EventChannel, clock: Clock, narrate: Publish | None
) -> "tuple[EventHub | None, DecisionLog | None]":
    """Make what tells others than the host of events and decisions; None where nobody is to be told."""
    if not arguments.watched and narrate is None:
        return None, None
    from worker.app.export import decision_log  # noqa: PLC0415 - only where somebody watches
    from worker.export.event_hub import EventHub  # noqa: PLC0415 - as above

    hub = EventHub(channel)
    if narrate is not None:
        hub.follow(narrate)
    return hub, decision_log(arguments, clock)


def _prepare(arguments: Arguments) -> None:
    """Take what a shortage would need, while there is no shortage, and see that what is made here is its user's to open."""
    set_level(arguments.log_level or "warning")
    threading.stack_size(_STACK_BYTES)
    use_one_heap()
    serve_log()
    RESERVE.fill()
    os.umask(os.umask(_OTHERS) & _OTHERS)


def _start_threads(
    runner: JobRunner,
    manager: MemoryManager,
    plugins: dict[str, PluginAction],
    others: tuple[Callable[[], None], ...],
) -> None:
    """Make a thread for each kind of work while there are some: later ones are only more of them."""
    devices = manager.devices.ids()
    runner.start(*devices, *(each + BRIEF for each in devices), *([PLUGINS] if plugins else []))
    for begin in others:
        begin()


def _plugins(
    arguments: Arguments, parts: Parts, timers: Alarm, runner: JobRunner, stores: LazyStores
) -> dict[str, PluginAction]:
    """Import ``--plugin``. Exits with 2 for one that can't be used."""
    if not arguments.plugin:
        return {}
    from worker.plugins._batches import Plannable  # noqa: PLC0415 - only where there are plugins
    from worker.plugins._buffers import Buffers  # noqa: PLC0415 - only where there are plugins
    from worker.plugins._host import PluginHost  # noqa: PLC0415 - only where there are plugins
    from worker.plugins._leases import Models  # noqa: PLC0415 - only where there are plugins
    from worker.plugins._loading import PluginError, load_plugins  # noqa: PLC0415 - only where there are plugins
    from worker.plugins._streams import Streams  # noqa: PLC0415 - only where there are plugins

    def later(due_ns: int, run: Callable[[], None]) -> None:
        work = Work(action="end of idle buffers", run=lambda _: run(), quick=False, plugin=True)
        timers.at(due_ns, lambda: runner.submit(work))

    core, memory = parts.core, parts.memory
    try:
        buffers = Buffers(core, memory.allocations, later)
        memory.consumers.add_source(buffers.consumers)
        streams = Streams(
            buffers,
            core.clock,
            partial(memory.questions.available_bytes, HOST),
            partial(core.manager.pressure.level, HOST),
        )
        plannable = Plannable(
            memory.questions.available_bytes,
            buffers.idle_bytes,
            buffers.drop,
            core.manager.pressure.can_ever_fit,
            core.clock.now_ns,
        )
        models = Models(memory.models.worker, core.clock)
        host_of = partial(
            PluginHost, models, memory.operations, memory.consumers, buffers, streams, plannable, stores.host
        )
        return load_plugins(arguments.plugin, host_of)
    except PluginError as error:
        fail(f"--plugin {error}")


def _tick_every_second(timers: Alarm, clock: Clock, ticking: "Watchers") -> None:
    def tick() -> None:
        ticking.tick()
        timers.at(clock.now_ns() + NS_PER_S, tick)

    timers.at(clock.now_ns() + NS_PER_S, tick)
