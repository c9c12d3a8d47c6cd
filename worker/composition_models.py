"""Where the models' parts are put together. Imported only when something asks for models."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from worker.backends.base import DeviceBackend
from worker.books.history import History
from worker.clock import Clock
from worker.command_line import Arguments, fail
from worker.composition_devices import may_come
from worker.device_watch import DeviceWatch, Publish
from worker.interface_models import ModelInterface
from worker.loaders.base import ModelSpec
from worker.manager_memory import MemoryManager
from worker.manager_models import ModelManager
from worker.model_objects import ModelObjects
from worker.records import OnIdle
from worker.worker_models import ModelWorker

if TYPE_CHECKING:
    from worker.decision_log import DecisionLog


def build_models(
    arguments: Arguments,
    manager: MemoryManager,
    backends: dict[str, DeviceBackend],
    watch: DeviceWatch,
    history: History,
    clock: Clock,
    publish: Publish,
    on_idle: OnIdle,
    process_bytes: Callable[[], int | None],
    default_device: str | None,
) -> ModelInterface:
    """Build what keeps the models. Exits with 2 for a file that can't be used."""
    decisions = _decision_log(arguments)
    record = None if decisions is None else decisions.record
    on_closed = _nothing if decisions is None else decisions.close
    booked = ModelManager(manager, clock, _declared_models(arguments, backends), on_idle, record)
    worker = ModelWorker(
        manager, booked, backends, watch, history, clock, publish, ModelObjects(process_bytes),
        default_device, on_closed,
    )  # fmt: skip
    return ModelInterface(manager, worker, watch, clock)


def _declared_models(arguments: Arguments, backends: dict[str, DeviceBackend]) -> tuple[ModelSpec, ...]:
    """Read ``--models``. Exits with 2 and a line for each problem."""
    if arguments.models is None:
        return ()
    from worker.model_config import ModelConfigError, read_models  # noqa: PLC0415 - reads YAML, which costs

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


def _decision_log(arguments: Arguments) -> "DecisionLog | None":
    """Open ``--record``. Exits with 2 if it cannot be written."""
    if arguments.record is None:
        return None
    from worker.decision_log import DecisionLog  # noqa: PLC0415 - only for --record

    try:
        return DecisionLog(Path(arguments.record))
    except OSError as error:
        fail(f"--record: {error}")


def _nothing() -> None:
    """Do nothing: no decisions are recorded."""
