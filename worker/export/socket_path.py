"""Where the socket of a live view is, and that nobody else gets at it."""

import os
import stat
import sys
import tempfile
from pathlib import Path


def default_path(pid: int) -> Path:
    """Return where a worker's socket is unless the command line says otherwise."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "memory-worker" / f"{pid}.sock"
    owner = ""  # on Windows, each user has a temp folder of their own
    if sys.platform != "win32":
        owner = f"-{os.getuid()}"
    return Path(tempfile.gettempdir()) / f"memory-worker{owner}" / f"{pid}.sock"


def make_private(folder: Path) -> None:
    """Make a folder that only its owner may enter. OSError if it is there and is anybody else's, or open."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if sys.platform == "win32":  # the user's own temp folder lets nobody else in
        return
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is not a folder of yours that nobody else may enter")
