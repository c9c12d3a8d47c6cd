"""Intel's GPUs through torch's own ``xpu`` devices: ``xpu:0``, ``xpu:1`` ... in torch's order."""

import sys
from collections.abc import Callable

from protocol.vocabulary import DeviceKind, DeviceState
from worker.backends.cuda import CudaBackend
from worker.backends.cuda_probe import Found, torch_build
from worker.backends.torch_device import TorchDevice
from worker.core.records import HOST, DeviceInfo
from worker.telemetry.level_zero import has_gpu

_EXPECTED = DeviceInfo("xpu:0", DeviceKind.XPU, "First Intel GPU", DeviceState.PROBING)
_NO_GPU = "Level Zero's loader is installed, and finds no GPU"
_NOTES = (
    "freed memory goes back to the driver in torch's segments; a size that comes and goes stays for up to 2 s",
    "used by this worker is null: no source counts by process",
    "host memory can't be page-locked for it: copies go through ordinary memory",
)
_HOW = "https://pytorch.org/get-started/locally has the command"


def xpu_backend(find: Callable[[], Found] | None = None) -> CudaBackend:
    """Make the backend: torch's allocator and streams are those of its CUDA devices, under another name."""
    return CudaBackend(find=find or find_devices, expected=_EXPECTED, no_gpu=_NO_GPU, notes=_NOTES)


def find_devices() -> Found:
    """Look for the devices. Does not raise.

    1. There is no driver, or no GPU for it: no devices.
    2. Torch is missing, built without XPU, or broken: one device, unavailable, with the cause and what to do.
    3. Torch counts the devices: they are available.
    """
    if not has_gpu():  # 1
        return Found((), {}, (), _nothing)
    cause = _why_torch_cannot()
    if cause is None:
        try:
            return _found_by_torch()  # 3
        except Exception as error:  # noqa: BLE001 - torch's own, and whatever loading its libraries raises
            cause = f"torch can't use the device: {type(error).__name__}: {error}".splitlines()[0]
    info = DeviceInfo("xpu:0", DeviceKind.XPU, "Intel GPU", DeviceState.UNAVAILABLE, cause)
    return Found((info,), {}, (), _nothing)  # 2


def _found_by_torch() -> Found:
    import torch  # noqa: PLC0415 - seconds, and only with a driver and a build for it

    torch.xpu.init()
    devices = [TorchDevice(f"xpu:{index}", "xpu", index) for index in range(torch.xpu.device_count())]
    infos = tuple(
        DeviceInfo(
            device.device_id,
            DeviceKind.XPU,
            torch.xpu.get_device_name(index),
            shared_with=HOST if device.is_integrated else None,
        )
        for index, device in enumerate(devices)
    )
    build = f"torch {torch.__version__}, built for XPU"
    return Found(infos, {device.device_id: device for device in devices}, (build,), _nothing)


def _why_torch_cannot() -> str | None:
    """Look at which torch is installed, without importing it. None if it is built for XPU."""
    build = torch_build()
    if build is None:
        return f"torch is not installed for {sys.executable}: install its XPU build ({_HOW})"
    folder, version = build
    if version.get("xpu") or not version:
        return None
    return f"torch {version.get('__version__')} in {folder} is built without XPU: install that build instead ({_HOW})"


def _nothing() -> None:
    """Close nothing."""
