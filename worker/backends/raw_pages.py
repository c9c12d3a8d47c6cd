"""Pages by their addresses: having them in memory, putting others in their place, counting whose they are."""

import ctypes
import errno
import mmap
import os
import sys
from typing import Any

from worker.core.errors import OutOfMemoryError
from worker.core.system_calls import NOT_HAD

POPULATE_READ = 22
POPULATE_WRITE = 23
"""From linux/mman.h, Linux 5.14: fault all pages in at once; what would be a signal at a touch is an error."""

_SCRATCH_BYTES = 2**20
_CACHESTAT = 451
"""The number of the system call, which the C library has no name for."""
_MAP_FIXED = 0x10
_MREMAP_MAYMOVE_FIXED = 3
_FAILED = ctypes.c_void_p(-1).value

_LINUX = sys.platform == "linux"
_libc: Any = ctypes.CDLL(None, use_errno=True) if sys.platform != "win32" else None
if _libc is not None:
    _libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    _libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    _libc.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_ssize_t
    )  # fmt: skip
    _libc.mmap.restype = ctypes.c_void_p
if _LINUX:
    _libc.mremap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p
    )  # fmt: skip
    _libc.mremap.restype = ctypes.c_void_p


def fault_in(address: int, length: int, advice: int) -> int:
    """Have pages in memory. Returns 0, or the system's error; EINVAL where it does not know how, or does not allow it."""
    while _LINUX and _libc.madvise(address, length, advice) != 0:
        code = ctypes.get_errno()
        if code not in {errno.EINTR, errno.EAGAIN}:
            return errno.EINVAL if code in NOT_HAD else code
    return 0 if _LINUX else errno.EINVAL


def touch(address: int, length: int) -> None:
    """Have pages in memory by reading them, where the system has no advice for that.

    Without the interpreter's lock: storage that does not answer holds up this thread alone.
    """
    scratch = ctypes.create_string_buffer(min(_SCRATCH_BYTES, length))
    for start in range(0, length, _SCRATCH_BYTES):
        ctypes.memmove(scratch, address + start, min(_SCRATCH_BYTES, length - start))


def cached_bytes(descriptor: int, start: int, length: int) -> int | None:
    """Count the pages of a file that are in the page cache: 2 ms a GiB, a tenth of what mincore takes.

    None where the system can't say: Linux has the call from 6.5 on.
    """
    if not _LINUX:
        return None
    place = (ctypes.c_uint64 * 2)(start, length)
    counts = (ctypes.c_uint64 * 5)()
    if _libc.syscall(_CACHESTAT, descriptor, place, counts, 0) != 0:
        return None
    return int(counts[0]) * mmap.PAGESIZE


def map_anonymous(length: int, address: int | None = None) -> int:
    """Map pages of this process's own, at an address in place of what is there. OutOfMemoryError."""
    if sys.platform == "win32":
        raise OutOfMemoryError("Windows maps no pages at an address", requested_bytes=length)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (0 if address is None else _MAP_FIXED)
    found = _libc.mmap(address, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if found is None or found == _FAILED:
        message = f"the system refused a map of {length} bytes: {os.strerror(ctypes.get_errno())}"
        raise OutOfMemoryError(message, requested_bytes=length)
    return int(found)


def map_shared(descriptor: int, start: int, length: int, address: int) -> None:
    """Map a part of a file in place of what is at an address. OutOfMemoryError, and that is as it was."""
    if sys.platform == "win32":
        raise OutOfMemoryError("Windows maps no file at an address", requested_bytes=length)
    flags = mmap.MAP_SHARED | _MAP_FIXED
    found = _libc.mmap(address, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, descriptor, start)
    if found != address:
        message = f"the system refused a map of {length} bytes: {os.strerror(ctypes.get_errno())}"
        raise OutOfMemoryError(message, requested_bytes=length)


def move(source: int, destination: int, length: int) -> None:
    """Put pages in the place of others, in one step that no reader sees the middle of. Linux only."""
    if _libc.mremap(source, length, length, _MREMAP_MAYMOVE_FIXED, destination) == _FAILED:
        message = f"the system could not move {length} bytes: {os.strerror(ctypes.get_errno())}"
        raise OutOfMemoryError(message, requested_bytes=length)


def unmap(address: int, length: int) -> None:
    """Give pages up that ``map_anonymous`` made."""
    _libc.munmap(address, length)


def private_bytes(address: int, length: int) -> int | None:
    """Count the pages in memory that this process alone maps. None where the system can't say."""
    if not _LINUX:
        return None
    found, inside = 0, False
    try:
        with open("/proc/self/smaps", "rb") as lines:  # noqa: PTH123 - pathlib is 5 ms that a start need not pay
            for line in lines:
                name, _, rest = line.partition(b" ")
                if not name.endswith(
                    b":"
                ):  # the head of a mapping: low-high, then what it is; the lowest come first
                    low, _, high = name.partition(b"-")
                    if int(low, 16) >= address + length:
                        break
                    inside = address < int(high, 16)
                elif inside and name in {b"Private_Clean:", b"Private_Dirty:"}:
                    found += int(rest.split()[0]) * 1024
    except OSError:  # no /proc, or a kernel that keeps no such list
        return None
    return found
