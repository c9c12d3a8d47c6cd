"""Where the models' parts are put together. Imported only when something asks for models."""

from collections.abc import Mapping
from pathlib import Path

from worker.app.devices import may_come
from worker.app.memory import Surroundings
from worker.app.options import Arguments, fail
from worker.backends.base import DeviceBackend
from worker.core.models import ModelSpec
from worker.interface.models import ModelInterface
from worker.manager.models import ModelManager
from worker.watch.device_monitor import DeviceMonitor
from worker.wiring import Core
from worker.workers.model_load import ModelWorker
from worker.workers.model_owners import ExternalWorker
from worker.workers.restart import RestartWorker
from worker.workers.weights import ModelWeights


def build_models(
    core: Core, monitor: DeviceMonitor, restarts: RestartWorker, surroundings: Surroundings
) -> ModelInterface:
    """Build what keeps the models. Exits with 2 for a file that can't be used."""
    for spec in surroundings.models():
        core.manager.models.add(spec)
    models = ModelManager(core.manager, core.clock, surroundings.record)
    worker = ModelWorker(
        core,
        models,
        ModelWeights(core, monitor, surroundings.process_bytes),
        ExternalWorker(core, models),
        monitor,
        surroundings.default_device,
        restarts.restart_for,
    )
    return ModelInterface(core, worker, monitor)


def declared_models(arguments: Arguments, backends: Mapping[str, DeviceBackend]) -> tuple[ModelSpec, ...]:
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
