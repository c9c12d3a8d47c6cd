"""PDH: Windows' counters of GPU memory, of the whole adapter and of any process, from any process.

Instances are named after the adapter's LUID and the process: ``luid_0x00000000_0x0000D4C2_phys_0`` and
``pid_1234_luid_0x00000000_0x0000D4C2_phys_0``. Dedicated Usage is what is committed of the adapter's own memory,
Shared Usage what lies in the system's instead.
"""

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from worker.telemetry.com import Luid, load_library

LIBRARY: Final = "pdh.dll"

ADAPTER_DEDICATED: Final = r"\GPU Adapter Memory(*)\Dedicated Usage"
ADAPTER_SHARED: Final = r"\GPU Adapter Memory(*)\Shared Usage"
PROCESS_DEDICATED: Final = r"\GPU Process Memory(*)\Dedicated Usage"
PROCESS_SHARED: Final = r"\GPU Process Memory(*)\Shared Usage"

_FMT_LARGE: Final = 0x00000400
_MORE_DATA: Final = 0x800007D2
_CSTATUS_VALID: Final = frozenset({0x00000000, 0x00000001})
"""PDH_CSTATUS_VALID_DATA and PDH_CSTATUS_NEW_DATA."""

_INSTANCE: Final = re.compile(
    r"(?:pid_(?P<pid>\d+)_)?luid_0x(?P<high>[0-9a-f]{8})_0x(?P<low>[0-9a-f]{8})_phys_(?P<node>\d+)",
    re.IGNORECASE,
)


class _Value(ctypes.Union):
    _fields_ = (
        ("long_value", ctypes.c_int32),
        ("double_value", ctypes.c_double),
        ("large_value", ctypes.c_int64),
        ("text", ctypes.c_void_p),
    )


class CounterValue(ctypes.Structure):
    """PDH_FMT_COUNTERVALUE."""

    _anonymous_ = ("value",)
    _fields_ = (("status", ctypes.c_uint32), ("value", _Value))


class CounterItem(ctypes.Structure):
    """PDH_FMT_COUNTERVALUE_ITEM_W."""

    _fields_ = (("name", ctypes.c_void_p), ("value", CounterValue))


assert (ctypes.sizeof(CounterValue), CounterValue.value.offset) == (16, 8)  # noqa: S101 - the system writes this many
assert (ctypes.sizeof(CounterItem), CounterItem.value.offset) == (24, 8)  # noqa: S101 - as above


def pid_of(instance: str, luid: Luid) -> tuple[int | None] | None:
    """Return whose a counter's instance is, (None,) for the adapter's as a whole; None if it is another adapter's."""
    match = _INSTANCE.fullmatch(instance)
    if match is None or (int(match["high"], 16), int(match["low"], 16)) != (luid.high & 0xFFFFFFFF, luid.low):
        return None
    return (None if match["pid"] is None else int(match["pid"]),)


def adapter_used_bytes(luid: Luid, counter: str = ADAPTER_DEDICATED) -> int | None:
    """Return what all processes hold of an adapter's own memory. None where it can't be told."""
    return _by_pid(counter, luid).get(None)


def process_held_bytes(luid: Luid, pid: int) -> tuple[int | None, int | None]:
    """Return what one process holds of an adapter's own memory, and of the system's in its place; of one moment."""
    own, shared = _each_by_pid((PROCESS_DEDICATED, PROCESS_SHARED), luid)
    return own.get(pid), shared.get(pid)


def processes(luid: Luid) -> dict[int, int]:
    """Return what each process holds of an adapter's own memory; empty where it can't be told."""
    return {pid: size for pid, size in _by_pid(PROCESS_DEDICATED, luid).items() if pid is not None}


def _by_pid(counter: str, luid: Luid) -> dict[int | None, int]:
    (found,) = _each_by_pid((counter,), luid)
    return found


def _each_by_pid(counters: tuple[str, ...], luid: Luid) -> list[dict[int | None, int]]:
    """Ask once, and add up an adapter's instances of each counter, for it has one for each of its nodes."""
    try:
        each = read_counters(counters, load_library(LIBRARY))
    except OSError:
        return [{} for _ in counters]
    totals: list[dict[int | None, int]] = []
    for instances in each:
        found: dict[int | None, int] = {}
        totals.append(found)
        for name, value in instances:
            match pid_of(name, luid):
                case (pid,):
                    found[pid] = found.get(pid, 0) + value
    return totals


def read_counters(paths: tuple[str, ...], pdh: Any) -> list[list[tuple[str, int]]]:
    """Return each instance of each counter and its value, of one moment. OSError where PDH or a counter is missing."""
    pdh.PdhGetFormattedCounterArrayW.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.POINTER(ctypes.c_uint32),
        ctypes.POINTER(ctypes.c_uint32),
        ctypes.c_void_p,
    )
    with _query(pdh) as query:
        handles = [ctypes.c_void_p() for _ in paths]
        add = pdh.PdhAddEnglishCounterW
        add.argtypes = (ctypes.c_void_p, ctypes.c_wchar_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p))
        for path, handle in zip(paths, handles, strict=True):
            _check(add(query, path, 0, ctypes.byref(handle)), f"PdhAddEnglishCounterW {path}")
        _check(pdh.PdhCollectQueryData(query), "PdhCollectQueryData")
        return [read_items(handle, pdh) for handle in handles]


def read_items(counter: ctypes.c_void_p, pdh: Any) -> list[tuple[str, int]]:
    """Return the instances of a counter that has been collected."""
    size, count = ctypes.c_uint32(), ctypes.c_uint32()
    arguments = (counter, _FMT_LARGE, ctypes.byref(size), ctypes.byref(count))
    buffer: Any = None
    # Processes come and go between asking for the size and for the items: ask until both fit.
    while (status := pdh.PdhGetFormattedCounterArrayW(*arguments, buffer) & 0xFFFFFFFF) == _MORE_DATA:
        buffer = ctypes.create_string_buffer(size.value)
    _check(status, "PdhGetFormattedCounterArrayW")
    if buffer is None:
        return []
    items = (CounterItem * count.value).from_buffer(buffer)
    return [
        (ctypes.wstring_at(item.name), item.value.large_value)
        for item in items
        if item.value.status in _CSTATUS_VALID
    ]


@contextmanager
def _query(pdh: Any) -> Iterator[ctypes.c_void_p]:
    query = ctypes.c_void_p()
    pdh.PdhOpenQueryW.argtypes = (ctypes.c_wchar_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p))
    pdh.PdhCollectQueryData.argtypes = pdh.PdhCloseQuery.argtypes = (ctypes.c_void_p,)
    _check(pdh.PdhOpenQueryW(None, 0, ctypes.byref(query)), "PdhOpenQueryW")
    try:
        yield query
    finally:
        pdh.PdhCloseQuery(query)


def _check(status: int, what: str) -> None:
    if status & 0xFFFFFFFF:
        message = f"{what}: 0x{status & 0xFFFFFFFF:08X}"
        raise OSError(message)
