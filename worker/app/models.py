"""Where the models' parts are put together. Imported only when something asks for models."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from worker.app.devices import may_come
from worker.app.options import Arguments, fail
from worker.backends.base import DeviceBackend
from worker.core.clock import Clock
from worker.core.events import Event, Publish
from worker.core.log import log
from worker.core.records import Decision, OnIdle
from worker.interface.models import ModelInterface
from worker.loaders.models_file import DeclaredModels, ModelConfigError, declared_models
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
    declared = declared_in(arguments, backends)
    booked = ModelManager(manager, clock, declared.specs, on_idle, record)
    worker = ModelWorker(
        manager, booked, ModelBlocks(backends, watch, clock, ModelObjects(process_bytes)),
        ExternalWorker(booked, history, clock, publish, listening), watch, history, clock, publish,
        default_device, ProcessGrowth(manager, process_bytes), restarts.restart_for,
    )  # fmt: skip
    return ModelInterface(manager, worker, watch, clock)


def declared_in(arguments: Arguments, backends: dict[str, DeviceBackend]) -> DeclaredModels:
    """Read ``--models``; what is wrong with one model is logged, and refuses that one. Exits with 2 for no such file."""
    if arguments.models is None:
        return DeclaredModels((), (), ())
    try:
        found = read_declared(arguments, backends)
    except (ModelConfigError, OSError) as error:
        fail(f"--models: {error}")
    for problem in found.problems:
        log("warning", "a model is refused", problem=problem)
    return found


def read_declared(arguments: Arguments, backends: dict[str, DeviceBackend]) -> DeclaredModels:
    """Read ``--models``. ModelConfigError or OSError for no such file."""
    path = Path(str(arguments.models))
    root = path.parent if arguments.model_root is None else Path(arguments.model_root)
    found = declared_models(path, root)
    specs, problems = [], list(found.problems)
    for spec in found.specs:
        refused = None
        if spec.device_id is not None and not may_come(spec.device_id, backends):
            refused = f"it is for {spec.device_id}; there is {', '.join(backends)}"
            problems.append(f"{path}: {spec.model_id}: {refused}")
        specs.append(spec if refused is None else replace(spec, refused=refused, device_id=None))
    return DeclaredModels(tuple(specs), found.roles, tuple(problems))
