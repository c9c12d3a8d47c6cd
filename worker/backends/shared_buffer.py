"""A file that a host maps: its blocks are reserved when it is made, and its bytes reached without a map of ours.

The host may cut the file short at any time, and a touch of a mapped page that is gone is a signal that ends the
process (SIGBUS). ``pread`` and ``pwrite`` return fewer bytes instead. Windows refuses to cut a mapped file
short, and has neither call: there the file is mapped.
"""

import errno
import mmap
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from worker.backends.host_memory import page_rounded
from worker.core.cancellation import CancelToken
from worker.core.errors import NoFileRoomError, OutOfMemoryError, UnsupportedError
from worker.core.log import log
from worker.core.paths import shown
from worker.core.shortages import patiently
from worker.core.system_calls import NOT_HAD

_STEP_BYTES = 64 * 2**20
"""Blocks are reserved in steps of this size, so that cancelling is seen in between."""
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class SharedBuffer:
    """A file of zeros. ``on_left`` is called with the path of a file that can't be removed now (Windows: mapped).

    Errors: NoFileRoomError if its file system has no room, OutOfMemoryError if the system has no memory for it.
    """

    touched = True
    """Its blocks are reserved: in a file system in memory they take that memory from the first moment on."""

    def __init__(
        self, path: Path, size_bytes: int, token: CancelToken, on_left: Callable[[Path], None]
    ) -> None:
        self.path = path
        self._on_left = on_left
        self.size_bytes = size_bytes
        self.actual_bytes = page_rounded(size_bytes)
        self._map: mmap.mmap | None = None
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        # As a string: of a path that finds no memory for becoming one, open says that it is none.
        self._fd = os.open(str(path), flags | getattr(os, "O_BINARY", 0), 0o600)
        try:
            self._reserve(token)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError | OverflowError | ValueError):
                raise self._refusal(error) from error
            raise

    @property
    def view(self) -> memoryview | None:
        """The bytes where the system keeps them from being cut off, else None."""
        return None if self._map is None else memoryview(self._map)

    def read(self, offset: int, into: memoryview) -> None:
        """Copy out of it. UnsupportedError if the host cut it short."""
        if self._map is not None:
            into[:] = memoryview(self._map)[offset : offset + len(into)]
        elif sys.platform != "win32":
            done = 0
            while done < into.nbytes:
                got = os.preadv(self._fd, [into[done:]], offset + done)
                if got == 0:
                    raise self._cut_short()
                done += got

    def write(self, offset: int, data: memoryview) -> None:
        """Copy into it. UnsupportedError if the host cut it short, NoFileRoomError if it gave blocks away."""
        if self._map is not None:
            memoryview(self._map)[offset : offset + len(data)] = data
            return
        if os.fstat(self._fd).st_size < self.size_bytes:  # writing would only make it long again, with a hole
            raise self._cut_short()
        try:
            _write(self._fd, offset, data)
        except OSError as error:
            raise self._refusal(error) from error

    def close(self) -> int | None:
        """Remove it. None: whether a host still maps it, and so keeps its pages, is not to be seen."""
        try:
            if self._map is not None:
                self._map.close()
        except BufferError:  # a copy that was cut short still holds a view; its end unmaps
            self._map = None
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        patiently(self._remove)
        return None

    def _remove(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
        except PermissionError:
            self._on_left(self.path)
        except OSError as error:  # its disk failed or went read-only, and may come back
            log("warning", "a shared file can't be removed yet", path=shown(self.path), error=str(error))
            self._on_left(self.path)

    def _reserve(self, token: CancelToken) -> None:
        """Have the file system set all blocks aside: a full one must be an error now, not a signal later."""
        token.check()
        if sys.platform == "win32":
            os.ftruncate(self._fd, self.size_bytes)
            self._map = mmap.mmap(self._fd, self.size_bytes)
            return
        room = _free_bytes(self.path.parent)
        if room is not None and self.size_bytes > room:  # rather than fill it first
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for offset in range(0, self.size_bytes, _STEP_BYTES):
            token.check()
            _allocate(self._fd, offset, min(_STEP_BYTES, self.size_bytes - offset))

    def _refusal(self, error: Exception) -> OutOfMemoryError:
        folder = self.path.parent
        if isinstance(error, OSError) and error.errno not in NO_ROOM:
            message = f"the system cannot hold {self.size_bytes} bytes in {folder}: {error}"
            return OutOfMemoryError(message, requested_bytes=self.size_bytes)
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            message = f"no file of {self.size_bytes} bytes can be made in {folder}: it is larger than this process, or the"
            message += " file system, may have one; raise RLIMIT_FSIZE (ulimit -f), or name another folder with --shared-folder"
            never = NoFileRoomError(message, requested_bytes=self.size_bytes, folder=str(folder))
            never.retryable = False
            return never
        room = _free_bytes(folder)
        left = "no more room" if room is None else f"room for {room} bytes"
        message = f"the file system of {folder} has {left}; {self.size_bytes} asked for in shared"
        message += f" memory ({error}): make it larger, or name another folder with --shared-folder"
        refused = NoFileRoomError(
            message, requested_bytes=self.size_bytes, available_bytes=room, folder=str(folder)
        )
        refused.retryable = self.size_bytes <= (_whole_bytes(folder) or self.size_bytes)
        return refused

    def _cut_short(self) -> UnsupportedError:
        left = os.fstat(self._fd).st_size
        message = f"{self.path} was cut short from outside: {left} of {self.size_bytes} bytes are left;"
        message += " free the allocation and make it anew"
        return UnsupportedError(message, path=str(self.path), size_bytes=self.size_bytes, left_bytes=left)


def no_file_fits(folder: Path, size_bytes: int) -> NoFileRoomError:
    """Say that a folder's file system takes no more files, whatever room it has: each takes an inode."""
    message = f"the file system of {folder} has no room for another file, by its number of files or its size:"
    message += " remove some, or name another folder with --shared-folder"
    return NoFileRoomError(
        message, requested_bytes=size_bytes, available_bytes=_free_bytes(folder), folder=str(folder)
    )


def _whole_bytes(folder: Path) -> int | None:
    """Return the size of a folder's file system; None where it has none of its own, or does not say."""
    if sys.platform != "win32":
        with suppress(OSError):
            found = os.statvfs(str(folder))
            return found.f_blocks * found.f_frsize or None
    return None


def _free_bytes(folder: Path) -> int | None:
    """Return what this user may still put into a folder's file system; None where that has no size of its own, or does not say."""
    if sys.platform != "win32":
        with suppress(OSError):
            found = os.statvfs(str(folder))
            return found.f_bavail * found.f_frsize if found.f_blocks else None
    return None


def _allocate(fd: int, offset: int, length: int) -> None:
    """Set blocks aside that read as zeros; where the system has no call for that, by writing them."""
    if sys.platform == "linux":
        try:
            os.posix_fallocate(fd, offset, length)
        except OSError as error:
            if error.errno not in NOT_HAD:
                raise
        else:
            return
    zeros = memoryview(bytes(min(length, 2**20)))
    for begin in range(0, length, len(zeros)):
        _write(fd, offset + begin, zeros[: length - begin])


def _write(fd: int, offset: int, data: memoryview) -> None:
    if sys.platform != "win32":
        done = 0
        while done < data.nbytes:
            done += os.pwrite(fd, data[done:], offset + done)
