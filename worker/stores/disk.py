"""What the disk below a store's file has against it, in words that say what to do: whatever happens there is no bug here."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.core.paths import exists
from worker.plugins import OutOfMemoryError, UnsupportedError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_OF_DISKS = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Have what SQLite or the system find wrong with a file raised as ``refusal`` says it."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise refusal(error, path) from error


def refusal(error: sqlite3.Error | OSError, path: Path) -> OutOfMemoryError | UnsupportedError:
    """Return what to raise in place of an error: OutOfMemoryError where the disk is to blame, which may be well again."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return UnsupportedError(
            f"{path} is in use by another process: each worker needs a --store-folder of its own"
        )
    folder, number = path.parent, getattr(error, "errno", None)
    if code == sqlite3.SQLITE_FULL or number in _FULL:
        return _short(folder, f"takes no more ({error}); store.clear needs no room there")
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not os.access(there, os.W_OK):
        return _short(folder, "can't be written: it is read-only by now, or another user's; correct that")
    if there != folder:
        return gone(folder)
    if code in _OF_DISKS or isinstance(error, OSError):
        return _short(folder, f"fails ({error}); see to its disk, or share")
    return UnsupportedError(f"{path} can't be used as a store's file, and stays as it is: {error}")


def gone(folder: Path) -> OutOfMemoryError:
    """Return what to raise where a folder, or a file in it, is not there any more."""
    return OutOfMemoryError(
        f"what was in {folder} is not there any more: it was removed or moved, or its disk unmounted; put it back, or close"
        " the store and open it anew",
        folder=str(folder),
    )


def is_there(path: Path) -> bool:
    """Tell whether there is a file. What ``refusal`` says where that can't be told."""
    with errors_of(path):
        return exists(path)


def device_of(path: Path) -> int | None:
    """Return which disk a file is on; None where it is not there. Files keep no other mark on all kinds of shares."""
    try:
        return path.stat().st_dev
    except OSError:
        return None


def _short(folder: Path, what: str) -> OutOfMemoryError:
    return OutOfMemoryError(f"the file system of {folder} {what}", folder=str(folder))
