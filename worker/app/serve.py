"""The one place where the parts are put together."""

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

from worker import __version__
from worker.app.devices import accelerators, devices_of, host, may_come
from worker.app.options import Arguments, fail
from worker.app.pressure import build_pressure
from worker.backends.base import DeviceBackend, OwnProcess, ProbedBeside
from worker.backends.cpu import DEVICE_ID as CPU
from worker.core.clock import NS_PER_S, Clock, FixedClock, SystemClock
from worker.core.events import Event, Publish
from worker.core.log import log, set_level
from worker.core.records import Allocation, Decision, OnIdle
from worker.instructor.events import wire_event
from worker.instructor.instructor_memory import Instructor
from worker.instructor.models import model_claim
from worker.interface.interface_memory import MemoryInterface, Workers
from worker.manager.manager_memory import MemoryManager
from worker.metrics.history import History
from worker.policy.levels import DWELL_NS
from worker.policy.pressure import default_limits
from worker.stream.alarm import Alarm
from worker.stream.event_channel import INTERVAL_NS, EventChannel
from worker.stream.frame_writer import FrameWriter
from worker.stream.job_runner import JobRunner
from worker.stream.stdio_loop import StdioLoop
from worker.stream.work import Claim, PluginAction, Work
from worker.telemetry.system import FixedSystemMemory, SystemMemory
from worker.watch.device_monitor import DeviceWatch
from worker.workers.allocation import AllocationWorker, OnLease
from worker.workers.analytics import AnalyticsWorker
from worker.workers.reclaim import ReclaimWorker
from worker.workers.restart import RestartWorker
from worker.workers.transfer import TransferWorker

if TYPE_CHECKING:
    from worker.app.export import Watchers
    from worker.interface.models import ModelInterface

_DETERMINISTIC_PID = 1


def serve(arguments: Arguments, read_fd: int, write_fd: int) -> None:
    """Serve requests until the host is done. Does not return: the process ends with 0."""
    set_level(arguments.log_level)
    fixed_clock = FixedClock() if arguments.deterministic else None
    clock: Clock = fixed_clock if fixed_clock is not None else SystemClock()
    alarm, history, started_ns = Alarm(clock), History(clock), clock.now_ns()

    def on_broken() -> None:
        loop.host_gone()

    writer = FrameWriter(write_fd, on_broken)
    events = EventChannel(
        writer.write_made, clock, alarm, 0 if arguments.deterministic else INTERVAL_NS, wire_event
    )
    runner = JobRunner(
        writer,
        clock,
        alarm,
        history,
        max_inflight=arguments.max_inflight,
        max_frame_bytes=arguments.max_frame_bytes,
    )

    def on_lease(allocation: Allocation, expires_ns: int) -> None:
        allocation_id = allocation.allocation_id
        expire = Work(
            action="memory.deallocate",
            run=lambda _: memory.expire(allocation_id),
            claims=(Claim(allocation_id, alone=True), Claim(allocation.device_id, alone=False)),
            quick=False,
        )
        alarm.at(expires_ns, lambda: runner.submit(expire, alone=True))

    def on_idle(model_id: str, due_ns: int) -> None:
        expire = Work(
            action="memory.unload_model",
            run=lambda _: memory.models.worker.expire(model_id),
            claims=(model_claim(model_id),),
            quick=False,
        )
        alarm.at(due_ns, lambda: runner.submit(expire))

    watchers = _watchers(arguments, clock, history, events.publish)
    publish, record = (events.publish, None) if watchers is None else (watchers.publish, watchers.record)
    memory = build_memory(arguments, clock, history, publish, on_lease, on_idle, events.wanted, record)
    pressure = build_pressure(
        memory, runner, alarm, clock, publish, arguments.auto_optimize, arguments.trace_python
    )
    loop = StdioLoop(
        read_fd,
        writer,
        runner,
        events,
        alarm,
        memory.close if watchers is None else lambda: watchers.close(memory.close),
        max_frame_bytes=arguments.max_frame_bytes,
        fixed_clock=fixed_clock,
    )
    pid = _DETERMINISTIC_PID if arguments.deterministic else None
    plugins = _plugins(arguments, memory, clock, history)
    runner.bind(Instructor(memory, loop, clock, __version__, pid, plugins).prepare)
    if watchers is not None:
        watchers.start(
            memory,
            alarm,
            lambda session: (
                Instructor(memory, session, clock, __version__, pid, plugins, started_ns=started_ns).prepare
            ),
        )
    if fixed_clock is None:
        if watchers is not None:
            _tick_every_second(alarm, clock, watchers)
        alarm.start()
    log("info", "serving", version=__version__)
    gc.freeze()
    gc.enable()

    def go_on() -> None:
        if fixed_clock is None:
            pressure.start()
        memory.probe_here()

    loop.run(go_on)  # looking around would only keep the first answer waiting


def build_memory(
    arguments: Arguments,
    clock: Clock,
    history: History,
    publish: Publish,
    on_lease: OnLease,
    on_idle: OnIdle = lambda _model_id, _due_ns: None,
    listening: Callable[[type[Event]], bool] = lambda _event: False,
    record: Callable[[Decision], None] | None = None,
) -> MemoryInterface:
    """Build the devices and what keeps their books. Exits with 2 for a device or file that can't be used."""
    system = FixedSystemMemory() if arguments.deterministic else SystemMemory()
    budget = system.read().budget_bytes or 0
    # A fixed clock does not move by itself, so that a level would never fall.
    manager = MemoryManager(clock, dwell_ns=0 if arguments.deterministic else DWELL_NS)
    backends: dict[str, DeviceBackend] = {}

    def begin(later: ProbedBeside) -> None:
        watch.begin(later)

    everything = (host(arguments, clock, system), *accelerators(arguments, clock, begin))
    for backend in everything:
        for info in devices_of(backend):
            on_cpu = info.device_id == CPU
            limits = default_limits(
                cpu_budget_bytes=budget if on_cpu else None,
                limit_bytes=arguments.limit_bytes if on_cpu else None,
            )
            backends[info.device_id] = backend
            manager.add_device(info, limits)
    default = arguments.default_device
    if default is not None and not may_come(default, backends):
        fail(f"--default-device {default}: there is {', '.join(backends)}")
    allocations = AllocationWorker(manager, backends, history, on_lease)
    analytics = AnalyticsWorker(manager, history, clock)
    watch = DeviceWatch(manager, backends, analytics.observe, publish)
    workers = Workers(
        allocations=allocations,
        transfers=TransferWorker(manager, backends, allocations, clock),
        reclaim=ReclaimWorker(manager, backends, allocations),
        analytics=analytics,
        restarts=RestartWorker(manager, backends, watch),
    )

    def models() -> "ModelInterface":
        from worker.app.models import build_models  # noqa: PLC0415 - only when something asks for models

        return build_models(
            arguments, manager, backends, watch, workers.restarts, history, clock, publish, listening, on_idle,
            lambda: system.read().process_rss_bytes, default, record,
        )  # fmt: skip

    for backend in everything:
        if isinstance(backend, OwnProcess):
            watch.begin(backend)
    memory = MemoryInterface(manager, backends, workers, clock, default, publish, watch, models)
    if arguments.models is not None:
        memory.models.worker.estimate()
    return memory


def _watchers(arguments: Arguments, clock: Clock, history: History, publish: Publish) -> "Watchers | None":
    """Build what tells those who watch, where anybody is to. Exits with 2 for a file that can't be written."""
    asked = (arguments.record, arguments.metrics_file, arguments.monitor_socket)
    if all(each is None for each in asked):
        return None
    from worker.app.export import Watchers  # noqa: PLC0415 - only where somebody watches

    return Watchers(arguments, clock, history, publish)


def _plugins(
    arguments: Arguments, memory: MemoryInterface, clock: Clock, history: History
) -> dict[str, PluginAction]:
    """Import ``--plugin``. Exits with 2 for one that can't be used."""
    if not arguments.plugin:
        return {}
    import psutil  # noqa: PLC0415 - only for --plugin

    from worker.plugins.host import PluginError, load_plugins  # noqa: PLC0415
    from worker.plugins.leases import Models  # noqa: PLC0415
    from worker.plugins.operations import Operations  # noqa: PLC0415

    process = psutil.Process()
    try:
        operations = Operations(history, clock, lambda: process.memory_info().rss)
        return load_plugins(arguments.plugin, Models(memory.models.worker, clock), operations)
    except PluginError as error:
        fail(f"--plugin {error}")


def _tick_every_second(alarm: Alarm, clock: Clock, ticking: "Watchers") -> None:
    def tick() -> None:
        ticking.tick()
        alarm.at(clock.now_ns() + NS_PER_S, tick)

    alarm.at(clock.now_ns() + NS_PER_S, tick)
