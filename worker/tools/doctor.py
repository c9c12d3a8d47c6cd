"""``python -m memory_worker doctor``: each device, and what can and can't be measured here, and why."""

import platform
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

import orjson

from protocol.results import DeviceStatus, ModelStatus
from protocol.vocabulary import DeviceKind, HealthState
from worker import __version__
from worker.app.devices import why_none
from worker.app.memory import build_memory
from worker.app.options import Arguments
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.health import Health, PartHealth
from worker.core.models import Role
from worker.core.output import put
from worker.core.text import printable
from worker.interface.interface_memory import MemoryInterface
from worker.manager.manager_memory import MemoryManager
from worker.metrics.history import History
from worker.wiring import Core, NoEvents

Ignored = dict[str, tuple[str, ...]]
"""What has no effect of what is declared, by model id."""

_ESTIMATES_S = 60.0
"""How long all models' files may take to be read."""
_SERVERS_S = 5.0
"""How long all model servers may take to answer; each is given less."""
_ANSWERS = "answers"
_FIGURES = (
    ("total_bytes", "total"),
    ("budget_bytes", "budget"),
    ("used_bytes", "used, all processes"),
    ("process_used_bytes", "used by this worker"),
    ("child_process_bytes", "used by its child processes"),
    ("demoted_bytes", "of it in the system's memory"),
    ("available_bytes", "available to one allocation"),
)


def examine(arguments: Arguments, out: TextIO) -> int:
    """Print what this machine offers, for people or (``--json``) as one line. Returns the exit code.

    It is 1 where a model of ``--models`` can't be loaded, or a role stands for none.
    """
    clock = SystemClock()
    core = Core(clock, History(clock), NoEvents(), MemoryManager(clock), {}, Health())
    memory = build_memory(arguments, core, preload=False).memory
    memory.devices.probe_here()
    memory.devices.wait_until_known(CancelToken(clock.now_ns))
    devices = memory.questions.status(memory.devices.ids(None), refresh=True).devices
    notes = {each.device_id: memory.devices.notes(each.device_id) for each in devices}
    absent = {kind: why for kind, why in why_none().items() if all(each.kind != kind for each in devices)}
    default = memory.devices.default
    servers = _servers(core.health)
    models, ignored = _models(arguments, core, memory)
    roles = () if arguments.models is None else memory.models.refused_roles
    memory.close()
    if arguments.json:
        code = put(out, _as_json(devices, notes, absent, default, models, ignored, roles, servers))
    else:
        text = (*_as_text(devices, notes, absent, default), *_models_as_text(models, ignored))
        text += tuple(
            "\n" + printable(f"{each.name.replace(':', ' ', 1)}  {each.reason or _ANSWERS}")
            for each in servers
        )
        text += tuple(f"\n{printable(f'role {each.name}  {each.refused}')}" for each in roles)
        code = put(out, "\n".join(text))
    return code or int(bool(roles) or any(each.state_reason is not None for each in models))


def _models(
    arguments: Arguments, core: Core, memory: MemoryInterface
) -> tuple[tuple[ModelStatus, ...], Ignored]:
    """Return what ``--models`` declares, each checked as a load would check it, and what takes no effect of that."""
    if arguments.models is None:
        return (), {}
    from worker.workers.model_trials import try_out  # noqa: PLC0415 - only where there are models

    memory.models.worker.estimates.wait(_ESTIMATES_S)
    ignored = try_out(core.manager.models, memory.models.worker.placement, CancelToken(core.clock.now_ns))
    return memory.models.rows(), ignored


def _servers(health: Health) -> tuple[PartHealth, ...]:
    """Return how each model server that is followed is, once all were asked; ``servers`` alone where none can be."""
    until = time.monotonic() + _SERVERS_S
    while True:
        found = [each for each in health.read() if each.name.partition(":")[0] in {"server", "servers"}]
        if time.monotonic() > until or all(each.state is not HealthState.STARTING for each in found):
            return tuple(found)
        time.sleep(0.01)


def _models_as_text(models: tuple[ModelStatus, ...], ignored: Ignored) -> Iterator[str]:
    for each in models:
        size = each.estimated_bytes if each.estimated_bytes is not None else each.declared_bytes
        known = "its size is known once it is loaded" if size is None else f"{size:,} bytes"
        known = known if each.loader is None else f"{known}, for the loader {each.loader}"
        said = known if each.state_reason is None else f"CAN'T BE LOADED: {each.state_reason}"
        yield f"\n{printable(f'model {each.model_id}  {said}')}"
        for note in ignored.get(each.model_id, ()):
            yield f"  - {printable(note)}"


def _as_json(
    devices: tuple[DeviceStatus, ...],
    notes: dict[str, tuple[str, ...]],
    absent: dict[DeviceKind, str],
    default: str,
    models: tuple[ModelStatus, ...],
    ignored: Ignored,
    roles: tuple[Role, ...],
    servers: tuple[PartHealth, ...],
) -> str:
    found: dict[str, Any] = {
        "worker_version": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": platform.platform(),
        "default_device": default,
        "devices": [vars(each) | {"notes": notes[each.device_id]} for each in devices],
        "absent": {kind.value: why for kind, why in absent.items()},
        "models": [vars(each) | {"notes": ignored.get(each.model_id, ())} for each in models],
        "refused_roles": [{"name": each.name, "reason": each.refused} for each in roles],
        "servers": [vars(each) for each in servers],
    }
    return orjson.dumps(found).decode()


def _as_text(
    devices: tuple[DeviceStatus, ...],
    notes: dict[str, tuple[str, ...]],
    absent: dict[DeviceKind, str],
    default: str,
) -> Iterator[str]:
    yield f"memory-worker {__version__}, Python {platform.python_version()}, {platform.platform()}"
    for device in devices:
        marker = "  (default)" if device.device_id == default else ""
        yield f"\n{device.device_id}  {device.name}, {device.state}{marker}"
        if device.shared_with is not None:
            yield f"  its memory is that of {device.shared_with}"
        if device.state_reason is not None:
            yield f"  because: {device.state_reason}"
        for field, label in _FIGURES:
            if field == ("demoted_bytes" if device.kind is DeviceKind.CPU else "child_process_bytes"):
                continue  # it is the machine's memory that child processes take, and into which others are moved
            yield f"  {label:28} {_bytes(getattr(device, field))}{_source(device, field)}"
        yield f"  {'pressure':28} {device.pressure_level}"
        for note in notes[device.device_id]:
            yield f"  - {note}"
    for kind, why in absent.items():
        yield f"\n{kind}  none: {why}"


def _source(device: DeviceStatus, field: str) -> str:
    source = getattr(device, field.replace("_bytes", "_source"), None)
    return "" if source is None else f"  from {source}"


def _bytes(value: int | None) -> str:
    return "can't be measured here" if value is None else f"{value:>20,}  ({value / 2**30:.2f} GiB)"
