"""The folder in which stores persist: one worker's at a time, with a folder in it for each user and each project.

Names become digests: no name is a path, and none can be read off one.
"""

import hashlib
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from worker.core.log import log
from worker.plugins import UnsupportedError
from worker.stores.base import MAKING, PERSISTENT, SCRATCH, Home, Scope
from worker.stores.file_format import described

_DIGEST = 32
_LOCK = "in-use.lock"


class StoreFolder:
    """Where files go. UnsupportedError for one that can't be used, or is another worker's."""

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite's own lock goes with the process, however that ends, on every system.
            self._lock = sqlite3.connect(
                root / _LOCK, isolation_level=None, check_same_thread=False, timeout=0
            )
            self._lock.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._lock.execute("BEGIN EXCLUSIVE")
        except (OSError, sqlite3.Error) as error:
            message = f"--store-folder {root} can't be used, or another worker uses it: {error}"
            raise UnsupportedError(message, folder=str(root)) from error
        for end in (SCRATCH, MAKING):
            for left in root.glob(f"*/*/*{end}*"):
                with suppress(OSError):
                    left.unlink()

    def file(self, scope: Scope, home: Home) -> Path:
        """Return where a store's file is, without the end of its name."""
        kind, name = home
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
        if folder.is_dir():
            size = sum(each.stat().st_size for each in _files(folder))
            shutil.rmtree(folder)
        return names, entries, size

    def close(self) -> None:
        """Leave it to another worker."""
        self._lock.close()

    def _folder(self, user_id: str, project_id: str | None) -> Path:
        folder = self._root / _digest(user_id)
        return folder if project_id is None else folder / _digest(project_id)


def _files(folder: Path) -> Iterator[Path]:
    return (each for each in folder.rglob("*") if each.is_file())


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
