"""Whether there is a driver for Intel's GPUs: asked without torch, by Level Zero's loader, which such drivers install."""

import ctypes
import sys
from typing import Any, Final

LIBRARY: Final = "ze_loader.dll" if sys.platform == "win32" else "libze_loader.so.1"
_SUCCESS: Final = 0
_GPU_ONLY: Final = 1
"""ZE_INIT_FLAG_GPU_ONLY."""


def has_loader() -> bool:
    """Tell whether the loader is installed; starting what it loads may take a second."""
    return _load() is not None


def has_gpu() -> bool:
    """Start the drivers for GPUs, and tell whether one of them has any."""
    library = _load()
    return library is not None and library.zeInit(_GPU_ONLY) == _SUCCESS


def _load() -> Any:
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError:
        return None
