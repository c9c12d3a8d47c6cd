"""Where the parts below the stream are put together, whatever stands in for devices and models."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from protocol.record import Record
from protocol.results import Limits
from worker.app.devices import Begin, accelerators, devices_of, host, may_come
from worker.app.options import Arguments, fail
from worker.app.surroundings import Surroundings, no_prefixes
from worker.backends.base import DeviceBackend, OwnProcess
from worker.core.models import ModelSpec, PrefixCache
from worker.core.records import HOST, Decision, DeviceInfo
from worker.interface.interface_memory import MemoryInterface, Workers
from worker.metrics.totals import GarbageTotals
from worker.policy.pressure import default_limits
from worker.telemetry.garbage import GarbageWatch
from worker.telemetry.system import FixedSystemMemory, SystemMemory
from worker.watch.device_health import device_health
from worker.watch.device_monitor import DeviceMonitor
from worker.watch.leaks import LeakWatch
from worker.watch.pace import Pace
from worker.watch.trends import TrendWatch
from worker.wiring import Core
from worker.workers.allocation import AllocationWorker
from worker.workers.analytics import AnalyticsWorker
from worker.workers.consumers import ConsumerWorker
from worker.workers.operations import OperationWorker
from worker.workers.pools import pools
from worker.workers.questions import Questions
from worker.workers.reclaim import ReclaimWorker
from worker.workers.restart import RestartWorker
from worker.workers.transfer import TransferWorker

if TYPE_CHECKING:
    from worker.interface.models import ModelInterface
    from worker.loaders.models_file import DeclaredModels


class Parts(Record):
    """The worker below the stream."""

    core: Core
    memory: MemoryInterface
    monitor: DeviceMonitor
    trends: TrendWatch
    leaks: LeakWatch
    pace: Pace


def compose(core: Core, surroundings: Surroundings) -> Parts:
    """Put the parts together. No device is sampled yet, and no probe begun."""
    core.health.add("devices", partial(device_health, core.manager, core.clock))
    trends, pace = TrendWatch(core.clock), Pace(core.clock)
    monitor = DeviceMonitor(core, trends, pace)
    for backend in surroundings.backends(monitor.begin):
        for info in devices_of(backend):
            core.backends[info.device_id] = backend
            core.manager.devices.add(info, surroundings.limits(info))
    allocations, restarts = AllocationWorker(core), RestartWorker(core, monitor)
    consumers = ConsumerWorker(core, monitor, Questions(core.clock))
    consumers.add_source(partial(pools, core))
    leaks = LeakWatch(
        core.manager,
        core.clock,
        consumers.held_here,
        core.history.operations_grown,
        surroundings.python_lines,
    )
    workers = Workers(
        allocations=allocations,
        transfers=TransferWorker(core, allocations),
        reclaim=ReclaimWorker(core, allocations),
        analytics=AnalyticsWorker(core, trends, leaks, consumers, surroundings.garbage),
        restarts=restarts,
        consumers=consumers,
        operations=OperationWorker(core, surroundings.process_bytes),
    )

    def models() -> "ModelInterface":
        from worker.app.models import build_models  # noqa: PLC0415 - only when something asks for models

        return build_models(core, monitor, restarts, consumers, surroundings)

    memory = MemoryInterface(core, workers, monitor, surroundings.default_device, models)
    return Parts(core, memory, monitor, trends, leaks, pace)


def build_memory(
    arguments: Arguments,
    core: Core,
    record: Callable[[Decision], None] | None = None,
    *,
    preload: bool = True,
    prefixes: Callable[[PrefixCache, Any], Any] = no_prefixes,
) -> Parts:
    """Put the parts together as the command line asks. Exits with 2 for a device or file that can't be used."""
    system = FixedSystemMemory() if arguments.deterministic else SystemMemory()
    budget = system.read().budget_bytes or 0
    default = arguments.default_device

    def backends(begin: Begin) -> Iterable[DeviceBackend]:
        yield host(arguments, core.clock, system)
        yield from accelerators(arguments, core.clock, begin)

    def limits(info: DeviceInfo) -> Limits:
        on_host = info.device_id == HOST
        return default_limits(
            cpu_budget_bytes=budget if on_host else None,
            limit_bytes=arguments.limit_bytes if on_host else None,
        )

    # Mutable: what the file of models declared when it was read last.
    read: list[DeclaredModels] = []

    def models() -> Iterable[ModelSpec]:
        from worker.app.models import configured_models, reread_models  # noqa: PLC0415 - only when something asks

        again = reread_models if read else configured_models
        read[:] = [again(arguments, core.backends)]
        return read[0].specs

    python_lines = None
    if arguments.trace_python is not None:
        from worker.telemetry.python_memory import PythonMemory  # noqa: PLC0415 - only for --trace-python

        python_lines = PythonMemory(arguments.trace_python).lines
    parts = compose(
        core,
        Surroundings(
            backends=backends,
            limits=limits,
            models=models,
            roles=lambda: read[0].roles,
            servers=lambda: () if arguments.deterministic else read[0].servers,
            is_broker=arguments.command == "broker",
            process_bytes=system.process_bytes,
            garbage=_garbage(watched=not arguments.deterministic),
            default_device=default,
            python_lines=python_lines,
            record=record,
            prefixes=prefixes,
        ),
    )
    if default is not None and not may_come(default, core.backends):
        fail(f"--default-device {default}: there is {', '.join(core.backends)}")
    for backend in dict.fromkeys(core.backends.values()):
        if isinstance(backend, OwnProcess):
            parts.monitor.begin(backend)
    if arguments.models is not None:
        parts.memory.models.worker.estimate(beside=not arguments.deterministic, preload=preload)
    return parts


def _garbage(*, watched: bool) -> Callable[[], GarbageTotals | None]:
    """Return what tells of Python's collector: of a deterministic worker nothing, for what it does depends on the interpreter."""
    if not watched:
        return lambda: None
    watch = GarbageWatch()
    return lambda: GarbageTotals(*watch.figures())
