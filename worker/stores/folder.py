"""The folder in which stores persist: one worker's at a time, with a folder in it for each user and each project.

Names become digests: no name is a path, and none can be read off one.
"""

import hashlib
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from worker.core.log import log
from worker.core.paths import make_folder
from worker.plugins import OutOfMemoryError, UnsupportedError
from worker.stores.base import MAKING, PERSISTENT, SCRATCH, Home, Scope
from worker.stores.disk import device_of, errors_of
from worker.stores.file_format import described

_DIGEST = 32
_LOCK = "in-use.lock"
_NO_LOCKS = {sqlite3.SQLITE_IOERR_LOCK, sqlite3.SQLITE_IOERR_RDLOCK}


class StoreFolder:
    """Where files go. UnsupportedError for one that can't be used, or is another worker's."""

    def __init__(self, root: Path) -> None:
        self._root = root
        problem = make_folder(root)
        if problem is not None:
            raise UnsupportedError(f"--store-folder {root}: {problem}", folder=str(root))
        try:
            self._lock = _locked(root / _LOCK)
        except sqlite3.Error as error:
            raise UnsupportedError(f"--store-folder {root}: {_why_not(error)}", folder=str(root)) from error
        self._device = device_of(root / _LOCK)
        for end in (SCRATCH, MAKING):
            for left in root.glob(f"*/*/*{end}*"):
                with suppress(OSError):
                    left.unlink()

    def file(self, scope: Scope, home: Home) -> Path:
        """Return where a store's file is, without the end of its name."""
        kind, name = home
        self.check()
        return self._folder(*scope) / f"{kind}-{_digest(name)}"

    def delete(self, user_id: str, project_id: str | None) -> tuple[list[str], int, int]:
        """Delete what no open store has of a user or project. Returns the stores' names, entries and bytes."""
        folder = self._folder(user_id, project_id)
        names, entries, size = [], 0, 0
        for path in sorted(folder.glob(f"**/*{PERSISTENT}")):
            try:
                about, count = described(path)
                names.append(about["store"])
                entries += count
            except Exception as error:  # noqa: BLE001 - whatever is in a file, it goes, and the others too
                log("warning", "a store's file is deleted unread", problem=str(error))
        with errors_of(folder):
            if folder.is_dir():
                size = sum(each.stat().st_size for each in _files(folder))
                shutil.rmtree(folder)
        return names, entries, size

    def check(self) -> None:
        """See that it is still what this worker has the lock of. OutOfMemoryError: nothing is made where another disk is by now."""
        if device_of(self._root / _LOCK) != self._device:
            message = (
                f"--store-folder {self._root} is not there any more: it was removed or moved, or its disk unmounted; put it"
                " back, or start the worker again"
            )
            raise OutOfMemoryError(message, folder=str(self._root))

    def close(self) -> None:
        """Leave it to another worker."""
        self._lock.close()

    def _folder(self, user_id: str, project_id: str | None) -> Path:
        folder = self._root / _digest(user_id)
        return folder if project_id is None else folder / _digest(project_id)


def _locked(path: Path) -> sqlite3.Connection:
    """Return a lock: SQLite's own goes with the process, however that ends, on every system."""
    with ExitStack() as undo:
        lock = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
        undo.callback(lock.close)
        lock.execute("PRAGMA locking_mode = EXCLUSIVE")
        lock.execute("BEGIN EXCLUSIVE")
        undo.pop_all()
        return lock


def _why_not(error: sqlite3.Error) -> str:
    """Say why a folder can't be had, and what to do."""
    code = getattr(error, "sqlite_errorcode", 0)
    if code & 0xFF == sqlite3.SQLITE_BUSY or code in _NO_LOCKS:
        return "another worker uses it, or its file system has no locks: name a folder of this worker's own, on a disk that has them"
    return f"it can't be used ({error}): see to its permissions and its disk, or name another"


def _files(folder: Path) -> Iterator[Path]:
    return (each for each in folder.rglob("*") if each.is_file())


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
