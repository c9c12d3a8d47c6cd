"""Where the models' parts are put together. Imported only when something asks for models."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from protocol.vocabulary import HealthState
from worker.app.devices import may_come
from worker.app.options import Arguments, fail
from worker.app.surroundings import Surroundings
from worker.backends.base import DeviceBackend
from worker.core.errors import ModelLoadFailedError
from worker.core.health import PartHealth
from worker.core.log import log
from worker.core.models import ServerSpec
from worker.interface.models import ModelInterface
from worker.loaders.models_file import DeclaredModels, ModelConfigError, declared_models
from worker.manager.models import ModelManager
from worker.watch.device_monitor import DeviceMonitor
from worker.wiring import Core
from worker.workers.consumers import ConsumerWorker
from worker.workers.engine_models import EngineModels
from worker.workers.model_consumers import arenas, externals, own_models
from worker.workers.model_load import ModelWorker
from worker.workers.model_owners import ExternalWorker
from worker.workers.restart import RestartWorker
from worker.workers.weights import ModelWeights

_NO_SERVER = (
    "--models FILE has none that can be used, as servers: {ollama: {kind: ollama}} has (docs/servers.md);"
    " what is wrong with others is in the log"
)
_NOT_ONE = "what is wrong with those that --models FILE has is in the log (docs/servers.md)"


def build_models(
    core: Core,
    monitor: DeviceMonitor,
    restarts: RestartWorker,
    consumers: ConsumerWorker,
    surroundings: Surroundings,
) -> ModelInterface:
    """Build what keeps the models. Exits with 2 for a file that can't be used."""
    for spec in surroundings.models():
        core.manager.models.add(spec)
    for role in surroundings.roles():
        core.manager.models.add_role(role)
    models = ModelManager(core.manager, core.clock, surroundings.record)
    owners = ExternalWorker(core, models, consumers.questions)
    worker = ModelWorker(
        core,
        models,
        ModelWeights(
            core,
            monitor,
            surroundings.process_bytes,
            EngineModels(core, models, monitor, surroundings.prefixes),
        ),
        owners,
        consumers,
        monitor,
        surroundings.default_device,
        restarts.restart_for,
    )
    consumers.add_source(partial(externals, core, models, owners))
    consumers.add_source(partial(arenas, core, worker.unloader))
    consumers.add_listed(partial(own_models, core, models, worker.unloader))
    servers = tuple(surroundings.servers())
    why = _follow(core, models, owners, worker, consumers, servers) if servers else _NO_SERVER
    if why is not None and surroundings.is_broker:
        fail(f"broker: no model server is followed: {why}")
    built = ModelInterface(
        core, worker, monitor, lambda: (tuple(surroundings.models()), tuple(surroundings.roles()))
    )
    if built.configured or built.refused_roles:
        core.health.add("models", built.health)
    return built


def _follow(
    core: Core, models: ModelManager, owners: ExternalWorker, worker: ModelWorker, consumers: ConsumerWorker,
    specs: tuple[ServerSpec, ...],
) -> str | None:  # fmt: skip
    """Follow other model servers until the process ends. Returns why none is followed, which is told; None where one is."""
    try:
        from worker.servers.roster import Servers  # noqa: PLC0415 - needs a library of its own
    except ModuleNotFoundError as error:
        problem = f"{error.name} is not installed: pip install memory-worker[servers]"
        core.health.add("servers", lambda: [PartHealth("servers", HealthState.FAILED, problem)])
        log("warning", "no model server is followed", problem=problem)
        return problem
    followed = Servers(core, models, owners, consumers)
    worker.at_end.append(followed.end)
    return None if followed.follow(specs, worker.placement.default_device) else _NOT_ONE


def configured_models(arguments: Arguments, backends: Mapping[str, DeviceBackend]) -> DeclaredModels:
    """Read ``--models``; what is wrong with one model is logged, and refuses that one. Exits with 2 for no such file."""
    if arguments.models is None:
        return DeclaredModels((), (), ())
    try:
        found = read_configured(arguments, backends)
    except (ModelConfigError, OSError) as error:
        fail(f"--models: {error}")
    return _told(found)


def reread_models(arguments: Arguments, backends: Mapping[str, DeviceBackend]) -> DeclaredModels:
    """Read ``--models`` again, and log what is wrong with one model. ModelLoadFailedError for what is no such file any more."""
    if arguments.models is None:
        return DeclaredModels((), (), ())
    try:
        return _told(read_configured(arguments, backends))
    except (ModelConfigError, OSError) as error:
        message = f"the file of models can't be read, and all models stay as they are: {error}"
        raise ModelLoadFailedError(message, path=arguments.models, cause=str(error)) from error


def _told(found: DeclaredModels) -> DeclaredModels:
    for problem in found.problems:
        log("warning", "a model, role or server is refused", problem=problem)
    return found


def read_configured(arguments: Arguments, backends: Mapping[str, DeviceBackend]) -> DeclaredModels:
    """Read ``--models``. ModelConfigError or OSError for no such file."""
    path = Path(str(arguments.models))
    root = path.parent if arguments.model_root is None else Path(arguments.model_root)
    found = declared_models(path, root)
    specs, problems = [], list(found.problems)
    for spec in found.specs:
        refused = None
        if spec.device_id is not None and not may_come(spec.device_id, backends):
            refused = (
                f"it is for {spec.device_id}; there is {', '.join(backends)}: declare one of these, or auto"
            )
            problems.append(f"{path}: {spec.model_id}: {refused}")
        specs.append(spec if refused is None else replace(spec, refused=refused, device_id=None))
    return DeclaredModels(tuple(specs), found.roles, tuple(problems), found.servers)
