"""DXGI: the same figures as DXCore's state 1, by LUID, for a Windows whose DXCore does not answer it.

Of the calling process, so it is asked in the process that holds the memory.
"""

import ctypes
from contextlib import closing
from typing import Final

from protocol.record import Record
from worker.telemetry.com import ComError, ComObject, Guid, Luid, make

LIBRARY: Final = "dxgi.dll"

IID_FACTORY4: Final = "1bc6ea02-ef36-464f-bf0c-21ca39e5168a"
IID_ADAPTER3: Final = "645967a4-1392-4310-a798-8053ce3e93fd"
ENUM_ADAPTER_BY_LUID: Final = 26
GET_DESC1: Final = 10
QUERY_VIDEO_MEMORY_INFO: Final = 14
_LOCAL: Final = 0
_NON_LOCAL: Final = 1
_SOFTWARE: Final = 2


class VideoMemoryInfo(ctypes.Structure):
    """DXGI_QUERY_VIDEO_MEMORY_INFO."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("budget", "usage", "reservable", "reserved"))


class AdapterDescription(ctypes.Structure):
    """DXGI_ADAPTER_DESC1, as 64-bit Windows lays it out."""

    _fields_ = (
        ("name", ctypes.c_uint16 * 128),
        ("vendor_id", ctypes.c_uint32),
        ("device_id", ctypes.c_uint32),
        ("subsystem_id", ctypes.c_uint32),
        ("revision", ctypes.c_uint32),
        ("dedicated_video_memory", ctypes.c_size_t),
        ("dedicated_system_memory", ctypes.c_size_t),
        ("shared_system_memory", ctypes.c_size_t),
        ("luid", Luid),
        ("flags", ctypes.c_uint32),
    )


assert ctypes.sizeof(VideoMemoryInfo) == 32  # noqa: PLR2004, S101 - the system writes this many
assert (  # noqa: S101 - as above
    ctypes.sizeof(AdapterDescription),
    AdapterDescription.dedicated_video_memory.offset,
    AdapterDescription.luid.offset,
    AdapterDescription.flags.offset,
) == (312, 272, 296, 304)


class VideoMemory(Record):
    """One adapter at one moment. Bytes; budget and usage are this process's."""

    name: str
    dedicated_bytes: int
    shared_bytes: int
    is_software: bool
    budget_bytes: int | None
    usage_bytes: int | None
    non_local_bytes: int | None
    """What this process has of it in the system's memory."""


def video_memory(luid: Luid, library: str = LIBRARY) -> VideoMemory:
    """Ask about the adapter of this LUID. OSError where DXGI is missing, fails or does not know it."""
    with closing(make(library, "CreateDXGIFactory1", IID_FACTORY4)) as factory:
        # A LUID goes by value: eight bytes, in a register.
        packed = ctypes.c_uint64.from_buffer_copy(luid)
        found = factory.get(ENUM_ADAPTER_BY_LUID, "EnumAdapterByLuid", packed, Guid.of(IID_ADAPTER3))
        with closing(found) as adapter:
            return _describe(adapter)


def _describe(adapter: ComObject) -> VideoMemory:
    description = AdapterDescription()
    adapter.check(GET_DESC1, "GetDesc1", description)
    local, non_local = _query(adapter, _LOCAL), _query(adapter, _NON_LOCAL)
    name = bytes(description.name).decode("utf-16-le", "replace").partition("\0")[0]
    return VideoMemory(
        name=name,
        dedicated_bytes=description.dedicated_video_memory,
        shared_bytes=description.shared_system_memory,
        is_software=bool(description.flags & _SOFTWARE),
        budget_bytes=None if local is None else local.budget,
        usage_bytes=None if local is None else local.usage,
        non_local_bytes=None if non_local is None else non_local.usage,
    )


def _query(adapter: ComObject, segment: int) -> VideoMemoryInfo | None:
    info, node = VideoMemoryInfo(), ctypes.c_uint32(0)
    try:
        adapter.check(QUERY_VIDEO_MEMORY_INFO, "QueryVideoMemoryInfo", node, ctypes.c_uint32(segment), info)
    except ComError:
        return None
    return info
