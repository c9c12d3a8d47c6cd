"""Files that a host maps. Each worker's files carry its token; a lock file says that it lives.

What a killed worker left behind is removed at the next start: whoever can lock a token's lock file
knows that its owner is gone, whatever process id it had. Where other users may make files too, such as in
``/dev/shm``, a folder of this user's own holds them; lock files of other users are never opened.
"""

import contextlib
import os
import re
import stat
import sys
from functools import partial
from pathlib import Path

from worker.backends.shared_buffer import NO_ROOM, SharedBuffer, no_file_fits
from worker.core.cancellation import CancelToken
from worker.core.errors import UnsupportedError
from worker.core.file_locks import lock_file
from worker.core.paths import is_private, make_private, said_of, shown
from worker.core.shortages import patiently, shortage
from worker.core.sure_lock import SureLock

_PREFIX = "memory-worker-"
_LOCK_NAME = re.compile(rf"{_PREFIX}([0-9a-f]{{16}})\.lock")
_SYSTEMS_OWN = Path("/dev/shm")  # noqa: S108 - the system's place for shared memory, not a temp file
_NO_FOLDER = (
    "no shared memory: /dev/shm can't be written to, and neither can any temporary folder;"
    " name a folder that can with --shared-folder"
)


def default_folder() -> Path | None:
    """Return this user's folder in ``/dev/shm``, or else in the temp folder; None where neither can be written to.

    Where another user has made one of that name, the files go beside it.
    """
    if sys.platform == "linux" and _SYSTEMS_OWN.is_dir() and os.access(_SYSTEMS_OWN, os.W_OK | os.X_OK):
        parent = _SYSTEMS_OWN
    else:
        import tempfile  # noqa: PLC0415 - 8 ms that Linux does not need

        try:
            parent = Path(tempfile.gettempdir())
        except FileNotFoundError:
            return None
    if sys.platform == "win32":  # there, each user has a temp folder of their own
        return parent
    own = parent / f"{_PREFIX}{os.geteuid()}"
    return own if not os.path.lexists(own) or is_private(own) else parent


class SharedFiles:
    """Makes this worker's shared files, and removes dead workers'.

    ``folder`` is to be there; None: the user's own, which is made when the first file is.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = default_folder() if folder is None else folder
        """None where there is none: then all files are refused."""
        self._made_here = folder is None and self.folder is not None and self.folder.name.startswith(_PREFIX)
        self._token: str | None = None
        self._lock_fd: int | None = None
        self._claiming = SureLock()
        # Files of freed allocations that could not be removed: somebody still maps them, where that keeps them, or their
        # disk takes no change.
        self._left: list[Path] = []

    def create(self, allocation_id: str, size_bytes: int, token: CancelToken) -> SharedBuffer:
        """Make the file of an allocation, mode 0600, zeroed. UnsupportedError if the folder cannot be used."""
        folder = self.folder
        if folder is None:
            raise UnsupportedError(_NO_FOLDER)
        try:
            str(folder).encode()
        except UnicodeEncodeError as error:
            message = (
                f"the host cannot be told of files in {shown(folder)}: JSON is UTF-8, and that name is not;"
            )
            message += " name another folder with --shared-folder"
            raise UnsupportedError(message, folder=shown(folder)) from error
        try:
            with self._claiming:
                if self._lock_fd is None:
                    self._claim_token(folder)
            path = folder / f"{_PREFIX}{self._token}-{allocation_id}"
            return SharedBuffer(path, size_bytes, token, self._left.append)
        except OSError as error:
            if shortage(error) is not None:
                raise
            if error.errno in NO_ROOM:
                raise no_file_fits(folder, size_bytes) from error
            message = f"no file for the host to map can be made in {folder}: {said_of(error, 'written')}"
            message += "; name a folder that can be written to with --shared-folder"
            raise UnsupportedError(message, folder=str(folder)) from error

    def note(self) -> str:
        """Say, for people, where the files are, or why there are none."""
        if self.folder is None:
            return _NO_FOLDER
        return (
            f"shared allocations are files in {shown(self.folder)}; what a free of one returns is"
            " unknown while a host may map it"
        )

    def remove_orphans(self) -> tuple[Path, ...]:
        """Remove the files of workers of this user that are gone. Returns what was removed."""
        locks, removed = list[Path](), list[Path]()
        with contextlib.suppress(OSError):  # what can't be looked into: who makes a file there is told why
            locks = [] if self.folder is None else sorted(self.folder.glob(f"{_PREFIX}*.lock"))
        for lock in locks:
            match = _LOCK_NAME.fullmatch(lock.name)
            if match is None or match[1] == self._token or not _is_own_file(lock):
                continue
            with contextlib.suppress(OSError):  # a living worker's
                fd = os.open(lock, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
                try:
                    lock_file(fd)
                    for left in lock.parent.glob(f"{_PREFIX}{match[1]}-*"):
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
        """Remove the files that could not be removed when their allocation was freed, where they can be now."""
        left, self._left[:] = self._left[:], []
        for path in left:
            try:
                path.unlink(missing_ok=True)
            except OSError:
                self._left.append(path)

    def close(self) -> None:
        """Give the token up. Where files are left the lock is, too: by it the next worker finds and removes them."""
        self.remove_left()
        if self._lock_fd is None or self.folder is None:
            return
        lock = _lock_path(self.folder, self._token)
        with contextlib.suppress(OSError):  # the next worker removes it
            if sys.platform != "win32" and not self._left:
                lock.unlink(missing_ok=True)
        os.close(self._lock_fd)
        with contextlib.suppress(OSError):
            if sys.platform == "win32" and not self._left:
                lock.unlink(missing_ok=True)
        self._token = self._lock_fd = None
        if self._made_here:
            with contextlib.suppress(OSError):  # another worker's files are there
                self.folder.rmdir()

    def _claim_token(self, folder: Path) -> None:
        while True:
            if self._made_here:
                make_private(folder)
            token = os.urandom(8).hex()
            lock = _lock_path(folder, token)
            try:
                fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            except FileNotFoundError:
                if not self._made_here:
                    raise
                continue  # a worker that ended just now took the folder away
            try:
                lock_file(fd)
                # Another worker may have taken the new file for an orphan before it was locked.
                if os.path.samestat(os.fstat(fd), lock.stat()):
                    self._token, self._lock_fd = token, fd
                    return
            except (BlockingIOError, FileNotFoundError):  # it was taken for an orphan
                pass
            except BaseException:  # such as a file system without locks: no lock of nobody's stays
                os.close(fd)
                patiently(partial(lock.unlink, missing_ok=True))
                raise
            os.close(fd)


def _lock_path(folder: Path, token: str | None) -> Path:
    return folder / f"{_PREFIX}{token}.lock"


def _is_own_file(path: Path) -> bool:
    """Tell whether it is a file of this user's: opening another's may wait for what that user pleases."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and (sys.platform == "win32" or found.st_uid == os.geteuid())
