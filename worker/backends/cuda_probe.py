"""Finding CUDA devices, dearest step last: the driver first, then which torch this is, then torch itself."""

import os
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any

from protocol.record import Record
from protocol.vocabulary import DeviceKind, DeviceState, Source
from worker.backends.torch_device import DeviceMemory, ProcessMemory, TorchDevice
from worker.core.records import HOST, DeviceInfo
from worker.telemetry import pdh
from worker.telemetry.com import Luid
from worker.telemetry.cuda_driver import Driver, DriverDevice, Vendor, find_driver
from worker.telemetry.nvml import Nvml

if TYPE_CHECKING:
    import torch

_BUILDS = {Vendor.NVIDIA: "CUDA", Vendor.AMD: "ROCm"}
_HOW = "https://pytorch.org/get-started/locally has the command"


class Found(Record):
    """What a probe found: all devices, and those of them that can be used."""

    infos: tuple[DeviceInfo, ...]
    devices: Mapping[str, TorchDevice]
    notes: tuple[str, ...]
    close: Callable[[], None]


class CudaDevice(TorchDevice):
    """Asks NVML where it answers: that costs no context, and it knows what every process takes.

    Under Windows' own memory manager NVML does not know that; Windows does, and what it moved to the system's memory.
    """

    def __init__(self, index: int, listed: DriverDevice, nvml: Nvml | None) -> None:
        super().__init__(f"cuda:{index}", "cuda", index)
        self._uuid = listed.uuid
        self._luid = None if listed.luid is None else Luid(*listed.luid)
        self._nvml = nvml
        self._used = False
        """Whether a block was ever asked for here: then this process has a context on the device."""

    def empty(self, size: int) -> "torch.Tensor":
        """Return that many bytes."""
        self._used = True
        return super().empty(size)

    def memory(self) -> DeviceMemory:
        """Ask NVML; for what this process can get ask the runtime, once there is a context anyway."""
        nvml = None if self._nvml is None or self._uuid is None else self._nvml.memory(self._uuid)
        if nvml is None:
            return super().memory()
        if not self._used:
            return DeviceMemory(nvml.total_bytes, nvml.used_bytes, nvml.free_bytes, Source.NVML)
        own = super().memory()
        return DeviceMemory(own.total_bytes, nvml.used_bytes, own.free_bytes, Source.TORCH)

    def process_memory(self, pinned_bytes: int) -> ProcessMemory | None:
        """Ask NVML; then Windows, which counts what is locked for the device as shared with it."""
        if self._nvml is not None and self._uuid is not None:
            used = self._nvml.process_bytes(self._uuid, os.getpid())
            if used is not None:
                return ProcessMemory(used, Source.NVML)
        if self._luid is None:
            return None
        used, shared = pdh.process_held_bytes(self._luid, os.getpid())
        if used is None:
            return None
        return ProcessMemory(used, Source.PDH, None if shared is None else max(0, shared - pinned_bytes))

    def processes(self) -> dict[int, int | None] | None:
        """Ask Windows, where it counts; else NVML."""
        by_system = None if self._luid is None else pdh.processes(self._luid)
        if by_system:
            return dict(by_system)
        return None if self._nvml is None or self._uuid is None else self._nvml.processes(self._uuid)


def find_devices() -> Found:
    """Look for the devices. Does not raise.

    1. There is no driver, or no GPU for it: no devices. Nothing was imported, this takes under a millisecond.
    2. The driver does not start, or torch is missing, built without CUDA, or broken: each GPU that the
       driver lists is unavailable, with the cause and what to do.
    3. Torch counts the devices: they are available.
    """
    driver = find_driver()
    if driver is None:  # 1
        return Found((), {}, (), _nothing)
    cause = driver.failure and f"the {driver.vendor} driver does not start: {driver.failure}"
    cause = cause or _why_torch_cannot(driver.vendor)
    if cause is not None:  # 2
        return Found(_unavailable(driver, cause), {}, (), _nothing)
    try:
        return _found_by_torch(driver)  # 3
    except Exception as error:  # noqa: BLE001 - torch's own, and whatever loading its libraries raises
        return Found(
            _unavailable(driver, f"torch can't use the device: {_in_a_line(error)}"), {}, (), _nothing
        )


def _found_by_torch(driver: Driver) -> Found:
    import torch  # noqa: PLC0415 - seconds, and only with a driver and a build for it

    torch.cuda.init()  # raises with the reason where device_count would just say none
    count = torch.cuda.device_count()
    # Where torch and the driver do not count alike, which is which is not known.
    listed = driver.devices if len(driver.devices) == count else (DriverDevice("", None),) * count
    nvml = Nvml.open() if driver.vendor is Vendor.NVIDIA else "NVML is NVIDIA's: no figures by process"
    opened, notes = (None, (nvml,)) if isinstance(nvml, str) else (nvml, ())
    devices = [CudaDevice(index, each, opened) for index, each in enumerate(listed)]
    infos = tuple(
        DeviceInfo(
            device.device_id,
            DeviceKind.CUDA,
            torch.cuda.get_device_name(index),
            shared_with=HOST if device.is_integrated else None,
        )
        for index, device in enumerate(devices)
    )
    build = f"torch {torch.__version__}, built for {torch.version.cuda or torch.version.hip}"
    return Found(
        infos,
        {device.device_id: device for device in devices},
        (build, *notes),
        _nothing if opened is None else opened.close,
    )


def _why_torch_cannot(vendor: Vendor) -> str | None:
    """Look at which torch is installed, without importing it. None if it is built for this driver."""
    build = torch_build()
    if build is None:
        return f"torch is not installed for {sys.executable}: install its {_BUILDS[vendor]} build ({_HOW})"
    folder, version = build
    if not version or version.get("cuda" if vendor is Vendor.NVIDIA else "hip"):
        return None
    return (
        f"torch {version.get('__version__')} in {folder} is built without {_BUILDS[vendor]}: install that build instead"
        f" ({_HOW})"
    )


def torch_build() -> tuple[str, dict[str, Any]] | None:
    """Return where torch is and what its ``version.py`` says, without importing it; None where there is no torch.

    What it says is empty where that can't be read: torch itself will say what is wrong with it.
    """
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = spec.submodule_search_locations[0]
    try:
        return folder, run_path(str(Path(folder) / "version.py"))
    except (OSError, SyntaxError):
        return folder, {}


def _unavailable(driver: Driver, cause: str) -> tuple[DeviceInfo, ...]:
    return tuple(
        DeviceInfo(f"cuda:{index}", DeviceKind.CUDA, each.name, DeviceState.UNAVAILABLE, cause)
        for index, each in enumerate(driver.devices)
    )


def _in_a_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _nothing() -> None:
    """Close nothing."""
