"""Which devices this worker looks for, and where each kind's backend lives: here, or in a process of its own."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.vocabulary import DeviceKind, DeviceState, SharedMemoryKind
from worker.app.options import Arguments, fail
from worker.backends.base import DeviceBackend, ProbedBeside
from worker.backends.cpu import CpuBackend
from worker.core.clock import Clock, SystemClock
from worker.core.log import log
from worker.core.paths import shown
from worker.core.records import DeviceInfo
from worker.telemetry.cuda_driver import has_driver, looked_for
from worker.telemetry.level_zero import LIBRARY, has_loader
from worker.telemetry.system import FixedSystemMemory, SystemMemory

if TYPE_CHECKING:
    from worker.backends.isolated import Others

_POOL_SHARE = 16

Begin = Callable[[ProbedBeside], None]
"""Takes a backend in that came later than the others."""

_DIRECTML = (
    "pip install torch-directml==0.2.5.dev240914 there (it needs Python 3.8 to 3.12), or name an interpreter that"
    " has it with --directml-python"
)
_REMEDIES = {
    DeviceKind.DIRECTML: {"torch_directml": _DIRECTML, "torch": _DIRECTML},
    DeviceKind.CUDA: {"torch": "pip install torch there"},
    DeviceKind.XPU: {"torch": "pip install torch there, in its XPU build"},
    DeviceKind.SIMULATED: dict[str, str](),
}
"""What to do about a module that a device's process does not find."""


def host(arguments: Arguments, clock: Clock, system: SystemMemory | FixedSystemMemory) -> CpuBackend:
    """Make the CPU's backend, and remove what killed workers left behind."""
    budget = system.read().budget_bytes or 0
    cpu = CpuBackend(
        system.read,
        clock.now_ns,
        budget // _POOL_SHARE if arguments.pool_bytes is None else arguments.pool_bytes,
        None if arguments.shared_folder is None else Path(arguments.shared_folder),
        system.notes(),
        as_sections=_as_sections(arguments),
        mappable=bool(arguments.isolate) or arguments.directml_python is not None,
    )
    if isinstance(system, FixedSystemMemory):
        system.count(cpu.held_bytes)
    for orphan in cpu.remove_orphans():
        log("info", "removed what a killed worker left behind", path=shown(orphan))
    return cpu


def _as_sections(arguments: Arguments) -> bool:
    wanted = arguments.shared_memory == SharedMemoryKind.SECTION
    if wanted and sys.platform != "win32":
        fail("--shared-memory section: only Windows has sections; the host maps files here")
    return wanted


def accelerators(arguments: Arguments, clock: Clock, begin: Begin) -> Iterator[DeviceBackend]:
    """Make the backends besides the CPU's. Exits with 2 for options that exclude one another.

    ``begin`` is called, by any thread, with the backends of devices that only a probe reveals.
    """
    if arguments.isolate and arguments.deterministic:
        fail("--isolate: another process has its own clock, which --deterministic cannot hold")
    yield from _simulated(arguments, clock)
    if arguments.deterministic:
        return
    yield from _intel(arguments)
    if "cuda" in arguments.isolate:
        expected = DeviceInfo("cuda:0", DeviceKind.CUDA, "First CUDA device")
        yield _isolated(sys.executable, "worker.backends.cuda:CudaBackend", {}, expected)
    elif has_driver():
        from worker.backends.cuda import CudaBackend  # noqa: PLC0415 - only with a driver

        yield CudaBackend()
    if arguments.directml_python is not None or sys.platform == "win32":
        yield _all_directml(arguments, begin)


def devices_of(backend: DeviceBackend) -> tuple[DeviceInfo, ...]:
    """Return a backend's devices, without waiting for those that have yet to be looked for."""
    return backend.devices if isinstance(backend, ProbedBeside) else backend.probe()


def why_none() -> dict[DeviceKind, str]:
    """Return for each kind what it means that no device of it is listed: what was looked for, or what makes us look."""
    return {
        DeviceKind.CUDA: f"no driver was found; looked for {looked_for()}",
        DeviceKind.XPU: f"no driver was found; looked for {LIBRARY}",
        DeviceKind.DIRECTML: "not looked for: --directml-python PATH names an interpreter that has torch_directml"
        " (on Windows this worker's own is looked into)",
    }


def may_come(device_id: str, backends: Mapping[str, DeviceBackend]) -> bool:
    """Tell whether a device is there, or may be found by a probe that has not ended."""
    kind = device_id.partition(":")[0]
    return device_id in backends or any(
        name.partition(":")[0] == kind and isinstance(backend, ProbedBeside)
        for name, backend in backends.items()
    )


def _simulated(arguments: Arguments, clock: Clock) -> Iterator[DeviceBackend]:
    for index, knobs in enumerate(arguments.simulated_device):
        if "simulated" in arguments.isolate:
            factory = "worker.backends.simulated:simulated_in_process"
            expected = DeviceInfo(f"sim:{index}", DeviceKind.SIMULATED, f"Simulated device {index}")
            yield _isolated(sys.executable, factory, {"index": index, **knobs}, expected)
        else:
            from worker.backends.simulated import SimulatedBackend, SimulatedDevice  # noqa: PLC0415 - who simulates no device does not import them

            yield SimulatedBackend(index, SimulatedDevice(**knobs), clock)  # type: ignore[arg-type]  # the knobs were read by its fields


def _intel(arguments: Arguments) -> Iterator[DeviceBackend]:
    if "xpu" in arguments.isolate:
        expected = DeviceInfo("xpu:0", DeviceKind.XPU, "First Intel GPU")
        yield _isolated(sys.executable, "worker.backends.xpu:xpu_backend", {}, expected)
    elif has_loader():
        from worker.backends.xpu import xpu_backend  # noqa: PLC0415 - only with a driver

        yield xpu_backend()


def _directml(arguments: Arguments, expected: DeviceInfo, others: "Others") -> ProbedBeside:
    """Give an adapter a process of its own, so that its end or restart concerns no other adapter."""
    options = {"allocator": arguments.directml_allocator, "only": int(expected.device_id.partition(":")[2])}
    python = arguments.directml_python or sys.executable
    return _isolated(python, "worker.backends.directml:DirectMlBackend", options, expected, others)


def _all_directml(arguments: Arguments, begin: Begin) -> ProbedBeside:
    """Return the first adapter's backend. When its process lists others, each begins with a process of its own.

    What can't be used is listed by the first: it needs none.
    """
    begun = set[str]()  # only the first one's launcher touches it

    def others(found: tuple[DeviceInfo, ...]) -> tuple[DeviceInfo, ...]:
        for info in found:
            if info.state is DeviceState.AVAILABLE and info.device_id not in begun:
                begun.add(info.device_id)
                begin(_directml(arguments, info, lambda _: ()))
        return tuple(each for each in found if each.state is not DeviceState.AVAILABLE)

    first = DeviceInfo("dml:0", DeviceKind.DIRECTML, "First DirectML device")
    return _directml(arguments, first, others)


def _isolated(
    python: str, factory: str, options: dict[str, Any], expected: DeviceInfo, others: "Others | None" = None
) -> ProbedBeside:
    from worker.backends.isolated import IsolatedBackend  # noqa: PLC0415 - 20 ms that few workers need
    from worker.backends.isolation.child_process import Launch  # noqa: PLC0415 - as above

    launch = Launch(python, factory, options)
    return IsolatedBackend(launch, (expected,), SystemClock(), _REMEDIES[expected.kind], others=others)
