"""Whether there is a GPU driver that torch's ``cuda`` devices could use, and its devices: asked without torch.

Importing torch costs seconds; looking for the driver costs under a millisecond where there is none.
"""

import ctypes
import struct
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

from protocol.record import Record

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_AMD_LIBRARIES = ("amdhip64_7.dll", "amdhip64_6.dll", "amdhip64.dll")
"""What AMD's driver for Windows installs, by the major version of HIP; older ones had no version in it."""
_SUCCESS = 0
_NO_DEVICE = 100
_STUB_LIBRARY = 34
"""CUresult: the toolkit's placeholder, which is there to link against and finds no device."""
_NAME_BYTES = 256


class Vendor(StrEnum):
    """Whose driver it is."""

    NVIDIA = "NVIDIA"
    AMD = "AMD"


class DriverDevice(Record):
    """A device in the driver's order, which is torch's: CUDA_VISIBLE_DEVICES holds for both."""

    name: str
    uuid: str | None
    """As NVML has it, without its prefix; None where the driver does not say."""
    luid: tuple[int, int] | None = None
    """Low and high part of what names the adapter in Windows' own counters; None elsewhere."""


class Driver(Record):
    """A driver, and what it found. ``failure`` is in the words of the driver."""

    vendor: Vendor
    devices: tuple[DriverDevice, ...]
    failure: str | None = None


class _Uuid(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_ubyte * 16),)


assert ctypes.sizeof(_Uuid) == 16  # noqa: S101, PLR2004 - CUuuid in cuda.h


def looked_for() -> str:
    """Return what tells of a driver here, in words."""
    amd = _AMD_LIBRARIES[0] if sys.platform == "win32" else "/dev/kfd"
    return f"{_LIBRARY} (NVIDIA), {amd} (AMD)"


def has_driver(root: Path = Path("/")) -> bool:
    """Tell whether a driver is installed, which takes under a millisecond; starting it may take a second."""
    return _library() is not None or _has_amd(root)


def find_driver(root: Path = Path("/")) -> Driver | None:
    """Look for a driver and its devices. None if there is no driver, or nothing for it to drive.

    AMD's devices are not listed: only torch's ROCm build knows them.
    """
    library = _library()
    if library is not None:
        return _nvidia(library)
    return Driver(Vendor.AMD, (DriverDevice("AMD GPU", None),)) if _has_amd(root) else None


def _has_amd(root: Path) -> bool:
    if sys.platform == "win32":
        return any(_load(name) is not None for name in _AMD_LIBRARIES)
    return sys.platform == "linux" and (root / "dev/kfd").exists()


def _library() -> Any:
    return _load(_LIBRARY)


def _load(name: str) -> Any:
    try:
        return ctypes.CDLL(name)  # on Windows its functions are stdcall, which x64 does not tell apart
    except OSError:
        return None


def _nvidia(library: Any) -> Driver | None:
    code = library.cuInit(0)
    if code in {_NO_DEVICE, _STUB_LIBRARY}:
        return None
    count = ctypes.c_int(0)
    if code == _SUCCESS:
        code = library.cuDeviceGetCount(ctypes.byref(count))
    if code != _SUCCESS:
        return Driver(Vendor.NVIDIA, (DriverDevice("NVIDIA GPU", None),), _words(library, code))
    devices = tuple(_device(library, ordinal) for ordinal in range(count.value))
    return Driver(Vendor.NVIDIA, devices) if devices else None


def _device(library: Any, ordinal: int) -> DriverDevice:
    handle = ctypes.c_int(0)
    library.cuDeviceGet(ctypes.byref(handle), ordinal)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    named = library.cuDeviceGetName(name, _NAME_BYTES, handle) == _SUCCESS
    uuid = _Uuid()
    # The second version tells the parts of a partitioned GPU (MIG) apart; older drivers have the first.
    get_uuid = getattr(library, "cuDeviceGetUuid_v2", None) or getattr(library, "cuDeviceGetUuid", None)
    known = get_uuid is not None and get_uuid(ctypes.byref(uuid), handle) == _SUCCESS
    return DriverDevice(
        name.value.decode(errors="replace") if named else "NVIDIA GPU",
        str(UUID(bytes=bytes(uuid.bytes))) if known else None,
        _luid(library, handle),
    )


def _luid(library: Any, handle: ctypes.c_int) -> tuple[int, int] | None:
    """Ask for the adapter's LUID, which only Windows has: four bytes each, the high part signed."""
    get_luid, luid, nodes = (
        getattr(library, "cuDeviceGetLuid", None),
        ctypes.create_string_buffer(8),
        ctypes.c_uint(),
    )
    if get_luid is None or get_luid(luid, ctypes.byref(nodes), handle) != _SUCCESS:
        return None
    low, high = struct.unpack("<Ii", luid.raw)
    return low, high


def _words(library: Any, code: int) -> str:
    text = ctypes.c_char_p()
    if library.cuGetErrorString(code, ctypes.byref(text)) == _SUCCESS and text.value is not None:
        return f"{text.value.decode(errors='replace')} (CUresult {code})"
    return f"CUresult {code}"
