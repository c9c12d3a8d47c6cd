"""Files for those who watch: readable by their owner alone whatever the umask, and this worker's alone to write."""

import errno
import os
import select
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from worker.core.file_locks import lock_file
from worker.core.paths import shown

_LOOK_AGAIN_S = 0.2
"""How often whoever waits for a pipe's reader looks whether it is to wait on."""
PRIVATE = 0o600
_WRITTEN = os.O_WRONLY | os.O_APPEND
"""At its end wherever that is: in a file that another program cut short, what comes next would leave zeros before it."""


def create(path: Path, mode: int = PRIVATE) -> int:
    """Make a file and open it. OSError where something is there already, be it a link to somewhere else."""
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, _WRITTEN | os.O_CREAT | os.O_EXCL | flags, mode)
    if sys.platform != "win32":
        os.fchmod(descriptor, mode)
    return descriptor


def check_own(path: Path, begins: bytes) -> None:
    """Refuse to take the place of a file that no worker wrote: OSError. What begins otherwise is somebody's.

    Nothing is said against a file that is not there, is empty, or begins with zeros, as a power failure leaves it.
    """
    flags = (
        os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    try:
        descriptor = _locked(os.open(path, flags), path)
    except FileNotFoundError:
        return
    try:
        head = os.read(descriptor, len(begins)).lstrip(b"\0")
    finally:
        os.close(descriptor)
    if not begins.startswith(head):
        raise OSError(
            errno.EEXIST, "it is there already, and no worker wrote it: name another path", shown(path)
        )


class Sink:
    """A file that is written anew, or a pipe or device that is there. For one thread; ``close`` for any.

    Errors: OSError where it can't be written, where it or its ``NAME.1`` is there and begins otherwise than ``begins``,
    where another worker writes it, where a pipe has no reader, and for a link: whoever may put one there would choose
    which file is overwritten.
    """

    def __init__(self, path: Path, begins: bytes) -> None:
        self._path, self._earlier, self._begins = path, path.with_name(path.name + ".1"), begins
        if (
            self._earlier.is_file() and not self._earlier.is_symlink()
        ):  # a link is replaced, and not what it leads to
            check_own(self._earlier, begins)
        self._descriptor = _open(path, begins)
        self.is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)

    def write(self, data: bytes, gives_up: Callable[[], bool]) -> None:
        """Write all of it. A pipe whose reader does not read is waited for until ``gives_up`` says so: OSError."""
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                if gives_up():
                    raise OSError(errno.EAGAIN, "its reader does not read") from None
                select.select((), (self._descriptor,), (), _LOOK_AGAIN_S)

    def turn_over(self) -> None:
        """Rename the file to ``NAME.1``, and begin a new one."""
        os.close(self._descriptor)
        self._descriptor = -1
        self._path.replace(self._earlier)
        self._descriptor = _locked(create(self._path), self._path)

    def is_whole(self, size_bytes: int) -> bool:
        """Tell whether so much as was written is there yet, by its name: what turns logs over moves them, or cuts them short."""
        return os.fstat(self._descriptor).st_size >= size_bytes and _is_there(self._descriptor, self._path)

    def begin_anew(self) -> None:
        """Begin a new file where the one that was written is not whole any more. Errors as at first."""
        os.close(self._descriptor)
        self._descriptor = -1
        self._descriptor = _open(self._path, self._begins)

    def close(self) -> None:
        """Close it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Lock:
    """Says that a worker writes the file of this name, by a file beside it. OSError where another one does."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f".{path.name}.lock")
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        while True:
            self._descriptor = _locked(os.open(self._path, flags, PRIVATE), path)
            if _is_there(self._descriptor, self._path):
                return
            os.close(self._descriptor)  # the worker that had it ended just now, and took it away

    def close(self) -> None:
        """Let others write it."""
        if sys.platform != "win32":
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        if sys.platform == "win32":
            self._path.unlink(missing_ok=True)


def _open(path: Path, begins: bytes) -> int:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return _locked(create(path), path)
    if stat.S_ISREG(mode):
        check_own(path, begins)
        return _replaced(path)
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, "it is a link: name the file that is meant", shown(path))
    flags = os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise OSError(errno.ENXIO, "it is a pipe without a reader: start that first", shown(path)) from error


def _replaced(path: Path) -> int:
    """Take the place of a file: who has it open, or could read it by its mode, does not get at the new one."""
    if sys.platform == "win32":  # a file that somebody has open can't be removed there
        return os.open(path, _WRITTEN | os.O_TRUNC | os.O_BINARY)
    before = _locked(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK), path)
    try:
        path.unlink()
        return _locked(create(path), path)
    finally:
        os.close(before)


def _locked(descriptor: int, path: Path) -> int:
    """Return a descriptor that no other worker has. OSError, and it is closed, where one does."""
    try:
        if sys.platform == "win32":
            return descriptor  # the others are kept out by what has a file open
        lock_file(descriptor)
    except BlockingIOError as error:
        os.close(descriptor)
        raise OSError(
            errno.EBUSY, "another worker, or another option of this one, writes it", shown(path)
        ) from error
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _is_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
