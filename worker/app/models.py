"""Where the models' parts are put together. Imported only when something asks for models."""

from collections.abc import Callable
from pathlib import Path

from worker.app.devices import may_come
from worker.app.options import Arguments, fail
from worker.backends.base import DeviceBackend
from worker.core.clock import Clock
from worker.core.events import Event, Publish
from worker.core.models import ModelSpec
from worker.core.records import Decision, OnIdle
from worker.interface.models import ModelInterface
from worker.manager.manager_memory import MemoryManager
from worker.manager.models import ModelManager
from worker.metrics.history import History
from worker.watch.device_monitor import DeviceWatch
from worker.workers.model_load import ModelWorker
from worker.workers.model_objects import ModelObjects
from worker.workers.model_owners import ExternalWorker
from worker.workers.process_growth import ProcessGrowth
from worker.workers.restart import RestartWorker
from worker.workers.weights import ModelBlocks


def build_models(
    arguments: Arguments,
    manager: MemoryManager,
    backends: dict[str, DeviceBackend],
    watch: DeviceWatch,
    restarts: RestartWorker,
    history: History,
    clock: Clock,
    publish: Publish,
    listening: Callable[[type[Event]], bool],
    on_idle: OnIdle,
    process_bytes: Callable[[], int | None],
    default_device: str | None,
    record: Callable[[Decision], None] | None,
) -> ModelInterface:
    """Build what keeps the models. Exits with 2 for a file that can't be used."""
    booked = ModelManager(manager, clock, _declared_models(arguments, backends), on_idle, record)
    worker = ModelWorker(
        manager, booked, ModelBlocks(backends, watch, clock, ModelObjects(process_bytes)),
        ExternalWorker(booked, history, clock, publish, listening), watch, history, clock, publish,
        default_device, ProcessGrowth(manager, process_bytes), restarts.restart_for,
    )  # fmt: skip
    return ModelInterface(manager, worker, watch, clock)


def _declared_models(arguments: Arguments, backends: dict[str, DeviceBackend]) -> tuple[ModelSpec, ...]:
    """Read ``--models``. Exits with 2 and a line for each problem."""
    if arguments.models is None:
        return ()
    from worker.loaders.models_file import ModelConfigError, read_models  # noqa: PLC0415 - reads YAML, which costs

    path = Path(arguments.models)
    root = path.parent if arguments.model_root is None else Path(arguments.model_root)
    try:
        specs = read_models(path, root)
    except (ModelConfigError, OSError) as error:
        fail(f"--models: {error}")
    for spec in specs:
        if spec.device_id is not None and not may_come(spec.device_id, backends):
            fail(f"--models: {spec.model_id} is for {spec.device_id}; there is {', '.join(backends)}")
    return specs
