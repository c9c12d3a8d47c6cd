"""``python -m worker doctor``: each device, and what can and can't be measured here and why, for people."""

import platform

from protocol.results import DeviceStatus
from worker import __version__
from worker.app.devices import why_none
from worker.app.options import Arguments
from worker.app.serve import build_memory
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.metrics.history import History

_FIGURES = (
    ("total_bytes", "total"),
    ("budget_bytes", "budget"),
    ("used_bytes", "used, all processes"),
    ("process_used_bytes", "used by this worker"),
    ("available_bytes", "available to one allocation"),
)


def examine(arguments: Arguments) -> int:
    """Print what this machine offers. Returns the exit code."""
    clock = SystemClock()
    memory = build_memory(arguments, clock, History(clock), lambda *_: None, lambda *_: None)
    memory.probe_here()
    memory.wait_until_known(CancelToken(clock.now_ns))
    status = memory.status(memory.device_ids(None), refresh=True)
    print(f"memory-worker {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for device in status.devices:
        marker = "  (default)" if device.device_id == memory.default_device else ""
        print(f"\n{device.device_id}  {device.name}, {device.state}{marker}")
        if device.state_reason is not None:
            print(f"  because: {device.state_reason}")
        for field, label in _FIGURES:
            print(f"  {label:28} {_bytes(getattr(device, field))}{_source(device, field)}")
        print(f"  {'pressure':28} {device.pressure_level}")
        for note in memory.notes(device.device_id):
            print(f"  - {note}")
    kinds = {device.kind for device in status.devices}
    for kind, why in why_none().items():
        if kind not in kinds:
            print(f"\n{kind}  none: {why}")
    memory.close()
    return 0


def _source(device: DeviceStatus, field: str) -> str:
    if field == "budget_bytes" and device.budget_source is not None:
        return f"  from {device.budget_source}"
    return ""


def _bytes(value: int | None) -> str:
    return "can't be measured here" if value is None else f"{value:>20,}  ({value / 2**30:.2f} GiB)"
