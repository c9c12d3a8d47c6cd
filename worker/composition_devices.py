"""Which devices this worker looks for, and where each kind's backend lives: here, or in a process of its own."""

import sys
from collections.abc import Iterator
from typing import Any

from protocol.vocabulary import DeviceKind
from worker.backends.base import DeviceBackend, OwnProcess
from worker.clock import Clock, SystemClock
from worker.command_line import Arguments, fail
from worker.records import DeviceInfo

_REMEDIES = {
    "torch_directml": "pip install torch-directml==0.2.5.dev240914 there (it needs Python 3.8 to 3.12), or name an"
    " interpreter that has it with --directml-python",
    "torch": "pip install torch there",
}
"""What to do about a module that a device's process does not find."""


def accelerators(arguments: Arguments, clock: Clock) -> Iterator[DeviceBackend]:
    """Make the backends besides the CPU's. Exits with 2 for options that exclude one another."""
    if arguments.isolate and arguments.deterministic:
        fail("--isolate: another process has its own clock, which --deterministic cannot hold")
    yield from _simulated(arguments, clock)
    if "cuda" in arguments.isolate:
        yield _isolated(sys.executable, "worker.backends.cuda:CudaBackend", {}, DeviceKind.CUDA, "cuda:0")
    wanted = arguments.directml_python is not None or sys.platform == "win32"
    if wanted and not arguments.deterministic:
        chosen = arguments.directml_allocator
        yield _isolated(
            arguments.directml_python or sys.executable,
            "worker.backends.directml:DirectMlBackend",
            {} if chosen is None else {"allocator": chosen},
            DeviceKind.DIRECTML,
            "dml:0",
        )


def devices_of(backend: DeviceBackend) -> tuple[DeviceInfo, ...]:
    """Return a backend's devices, without waiting for those that have yet to be looked for."""
    return backend.devices if isinstance(backend, OwnProcess) else backend.probe()


def may_come(device_id: str, backends: dict[str, DeviceBackend]) -> bool:
    """Tell whether a device is there, or may be found by a probe that has not ended."""
    kind = device_id.partition(":")[0]
    return device_id in backends or any(
        name.partition(":")[0] == kind and isinstance(backend, OwnProcess)
        for name, backend in backends.items()
    )


def _simulated(arguments: Arguments, clock: Clock) -> Iterator[DeviceBackend]:
    for index, knobs in enumerate(arguments.simulated_device):
        if "simulated" in arguments.isolate:
            factory = "worker.backends.simulated:simulated_in_process"
            options = {"index": index, **knobs}
            yield _isolated(sys.executable, factory, options, DeviceKind.SIMULATED, f"sim:{index}")
        else:
            from worker.backends.simulated import SimulatedBackend, SimulatedDevice  # noqa: PLC0415 - rarely needed

            yield SimulatedBackend(index, SimulatedDevice(**knobs), clock)  # type: ignore[arg-type]


def _isolated(
    python: str, factory: str, options: dict[str, Any], kind: DeviceKind, first: str
) -> DeviceBackend:
    from worker.backends.isolated import IsolatedBackend  # noqa: PLC0415 - 20 ms that few workers need
    from worker.backends.isolation.child_process import Launch  # noqa: PLC0415

    expected = DeviceInfo(first, kind, f"First {kind} device")
    return IsolatedBackend(Launch(python, factory, options), (expected,), SystemClock(), _REMEDIES)
