"""Where the socket of a live view is."""

import os
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
