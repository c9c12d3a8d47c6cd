"""What this process may still map, where the system counts promises and not only pages."""

import ctypes
import sys
from pathlib import Path

from protocol.record import Record

_STRICT_OVERCOMMIT = "2"
"""/proc/sys/vm/overcommit_memory: the kernel refuses maps above the commit limit."""


class Commitment(Record):
    """A limit on what may be mapped, and what is left of it. Bytes."""

    name: str
    limit_bytes: int
    room_bytes: int


def commitments(proc: Path = Path("/proc")) -> tuple[Commitment, ...]:
    """Return what RLIMIT_AS and strict overcommit allow; nothing where neither is set.

    On Windows, which always counts promises: what the system and a job object allow.
    """
    found = (_windows(),) if sys.platform == "win32" else (_address_space(proc), _overcommit(proc))
    return tuple(each for each in found if each is not None)


def commit_headroom_bytes(proc: Path = Path("/proc")) -> int | None:
    """Return the smaller of what RLIMIT_AS and strict overcommit leave; None if neither is set."""
    return min((each.room_bytes for each in commitments(proc)), default=None)


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of sysinfoapi.h."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("memory_load", ctypes.c_uint32),
        ("total_physical", ctypes.c_uint64),
        ("available_physical", ctypes.c_uint64),
        ("total_page_file", ctypes.c_uint64),
        ("available_page_file", ctypes.c_uint64),
        ("total_virtual", ctypes.c_uint64),
        ("available_virtual", ctypes.c_uint64),
        ("available_extended_virtual", ctypes.c_uint64),
    )


if ctypes.sizeof(_MemoryStatus) != 64:  # noqa: PLR2004 - as the header has it
    raise ImportError("MEMORYSTATUSEX has another size than Windows gives it")


def _windows() -> Commitment | None:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    if not ctypes.CDLL("kernel32").GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return Commitment("commit", int(status.total_page_file), int(status.available_page_file))


def _address_space(proc: Path) -> Commitment | None:
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - does not exist on Windows

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        pages = int((proc / "self/statm").read_text().split()[0])
    except OSError:
        return None
    return Commitment("address_space", limit, max(0, limit - pages * resource.getpagesize()))


def _overcommit(proc: Path) -> Commitment | None:
    try:
        if (proc / "sys/vm/overcommit_memory").read_text().strip() != _STRICT_OVERCOMMIT:
            return None
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    limit = kib["CommitLimit"]
    return Commitment("commit", limit * 1024, max(0, limit - kib["Committed_AS"]) * 1024)
