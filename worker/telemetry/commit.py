"""What this process may still map, where the system counts promises and not only pages."""

import ctypes
import sys
from functools import partial
from pathlib import Path

from protocol.record import Record
from worker.core.shortages import with_reserve
from worker.telemetry.process_groups import text_of

_STRICT_OVERCOMMIT = "2"
"""/proc/sys/vm/overcommit_memory: the kernel refuses maps above the commit limit."""


class Commitment(Record):
    """A limit on what may be mapped, and what is left of it. Bytes; None where /proc does not say."""

    name: str
    limit_bytes: int
    headroom_bytes: int | None


def commitments(proc: Path = Path("/proc")) -> tuple[Commitment, ...]:
    """Return what RLIMIT_AS, RLIMIT_DATA and strict overcommit allow; nothing where none is set.

    On Windows, which always counts promises: what the system and a job object allow.
    """
    sources = (_windows,) if sys.platform == "win32" else (_address_space, _data, _overcommit)
    found = [source(proc) for source in sources]
    return tuple(each for each in found if each is not None)


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


def _windows(_proc: Path) -> Commitment | None:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    if not ctypes.CDLL("kernel32").GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return Commitment("commit", int(status.total_page_file), int(status.available_page_file))


def _of_process(
    name: str, limit_name: str, column: int, proc: Path, *, kept_bytes: int = 0
) -> Commitment | None:
    """Hold a limit of this process against its column of /proc/self/statm, in pages: proc_pid_statm(5)."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - does not exist on Windows

    try:
        limit, _ = resource.getrlimit(getattr(resource, limit_name))
    except OSError:  # a sandbox that forbids the question
        return None
    if limit == resource.RLIM_INFINITY:
        return None
    columns = text_of(proc / "self/statm").split()
    if not columns:
        return Commitment(name, limit, None)
    used = int(columns[column]) * resource.getpagesize()
    return Commitment(name, limit, max(0, limit - used - kept_bytes))


_THREAD_BYTES = (128 + 8) * 2**20
"""Addresses that a thread may take at any time: glibc maps 128 MiB to find an aligned arena of 64, and 8 for its stack."""

_address_space = partial(_of_process, "address_space", "RLIMIT_AS", 0, kept_bytes=_THREAD_BYTES)
_data = partial(_of_process, "data", "RLIMIT_DATA", 5)
"""Since Linux 4.7 all private writable maps; the column has the stack besides, which counts for nothing else."""


def _overcommit(proc: Path) -> Commitment | None:
    try:
        if text_of(proc / "sys/vm/overcommit_memory").strip() != _STRICT_OVERCOMMIT:
            return None
        lines = with_reserve((proc / "meminfo").read_text).splitlines()
    except OSError:
        return None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    limit = kib["CommitLimit"]
    return Commitment("commit", limit * 1024, max(0, limit - kib["Committed_AS"]) * 1024)
