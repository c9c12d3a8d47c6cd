"""Files that a host maps. Each worker's files carry its token; a lock file says that it lives.

What a killed worker left behind is removed at the next start: whoever can lock a token's lock file
knows that its owner is gone, whatever process id it had.
"""

import contextlib
import os
import re
import sys
import threading
from pathlib import Path

from worker.backends.shared_buffer import SharedBuffer
from worker.core.cancellation import CancelToken
from worker.core.errors import UnsupportedError

_PREFIX = "memory-worker-"
_LOCK_NAME = re.compile(rf"{_PREFIX}([0-9a-f]{{16}})\.lock")


def default_folder() -> Path:
    """Return ``/dev/shm`` where it exists, else the temp folder."""
    folder = Path("/dev/shm")  # noqa: S108 - the system's own place for shared memory, not a temp file
    if sys.platform == "linux" and folder.is_dir():
        return folder
    import tempfile  # noqa: PLC0415 - 8 ms that Linux does not need

    return Path(tempfile.gettempdir())


class SharedFiles:
    """Makes this worker's shared files, and removes dead workers'."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._token: str | None = None
        self._lock_fd: int | None = None
        self._claiming = threading.Lock()
        # Files of freed allocations that somebody still maps, where that keeps them.
        self._left: list[Path] = []

    def create(self, allocation_id: str, size_bytes: int, token: CancelToken) -> SharedBuffer:
        """Make the file of an allocation, mode 0600, zeroed. UnsupportedError if the folder cannot be used."""
        try:
            with self._claiming:
                if self._lock_fd is None:
                    self._token = self._claim_token()
            path = self.folder / f"{_PREFIX}{self._token}-{allocation_id}"
            return SharedBuffer(path, size_bytes, token, self._left.append)
        except OSError as error:
            message = f"no file for the host to map can be made in {self.folder}: {error}"
            raise UnsupportedError(message, folder=str(self.folder)) from error

    def remove_orphans(self) -> tuple[Path, ...]:
        """Remove the files of workers that are gone. Returns what was removed."""
        removed: list[Path] = []
        for lock in sorted(self.folder.glob(f"{_PREFIX}*.lock")):
            match = _LOCK_NAME.fullmatch(lock.name)
            if match is None or match[1] == self._token:
                continue
            with contextlib.suppress(OSError):  # another user's, or a living worker's
                fd = os.open(lock, os.O_RDWR)
                try:
                    _lock(fd)
                    for left in self.folder.glob(f"{_PREFIX}{match[1]}-*"):
                        left.unlink()
                        removed.append(left)
                    if sys.platform != "win32":  # locked, so that no new worker takes it for its own
                        lock.unlink()
                finally:
                    os.close(fd)
                if sys.platform == "win32":  # open files stay: a new worker's too
                    lock.unlink()
        return tuple(removed)

    def remove_left(self) -> None:
        """Remove the files that were still mapped when their allocation was freed, and are not any more."""
        left, self._left[:] = self._left[:], []
        for path in left:
            try:
                path.unlink(missing_ok=True)
            except PermissionError:
                self._left.append(path)

    def close(self) -> None:
        """Give the token up."""
        self.remove_left()
        if self._lock_fd is None:
            return
        if sys.platform != "win32":
            self._lock_path.unlink(missing_ok=True)
        os.close(self._lock_fd)
        if sys.platform == "win32" and not self._left:  # the next worker removes them, by this lock
            self._lock_path.unlink(missing_ok=True)
        self._token = self._lock_fd = None

    @property
    def _lock_path(self) -> Path:
        return self.folder / f"{_PREFIX}{self._token}.lock"

    def _claim_token(self) -> str:
        while True:
            self._token = os.urandom(8).hex()
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                _lock(fd)
                # Another worker may have taken the new file for an orphan before it was locked.
                if os.path.samestat(os.fstat(fd), self._lock_path.stat()):
                    self._lock_fd = fd
                    return self._token
            except OSError:
                pass
            os.close(fd)


def _lock(fd: int) -> None:
    """Take the lock that the system gives up when this process ends. OSError if another has it."""
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415 - exists on Windows only

        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl  # noqa: PLC0415 - does not exist on Windows

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
