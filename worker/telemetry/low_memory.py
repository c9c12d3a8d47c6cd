"""What Windows itself says: its low and high memory notifications."""

import ctypes
from typing import Any

from protocol.vocabulary import Source
from worker.core.records import Signal, SignalKind

_LOW, _HIGH = 0, 1
"""MEMORY_RESOURCE_NOTIFICATION_TYPE."""

PLENTY, NEITHER, LOW = 0, 1, 2


class LowMemoryNotification:
    """Two handles that the system signals; asking one costs a system call. Nothing elsewhere than on Windows."""

    def __init__(self, kernel32: Any = None) -> None:
        self._kernel32 = _kernel32() if kernel32 is None else kernel32
        self._handles: tuple[Any, ...] = ()
        if self._kernel32 is not None:
            handles = tuple(self._kernel32.CreateMemoryResourceNotification(kind) for kind in (_LOW, _HIGH))
            if all(handles):
                self._handles = handles

    def signals(self) -> tuple[Signal, ...]:
        """Return the system's word; nothing where it cannot be asked."""
        if not self._handles:
            return ()
        low, high = (self._signalled(handle) for handle in self._handles)
        if low is None or high is None:
            return ()
        word = LOW if low else PLENTY if high else NEITHER
        return (Signal("low_memory_notification", float(word), Source.OS, SignalKind.NOTIFIED),)

    def close(self) -> None:
        """Give the handles up."""
        for handle in self._handles:
            self._kernel32.CloseHandle(handle)
        self._handles = ()

    def _signalled(self, handle: Any) -> bool | None:
        state = ctypes.c_int(0)
        if not self._kernel32.QueryMemoryResourceNotification(handle, ctypes.byref(state)):
            return None
        return bool(state.value)


def _kernel32() -> Any:
    loader = getattr(ctypes, "WinDLL", None)  # only there on Windows
    if loader is None:
        return None
    library = loader("kernel32", use_last_error=True)
    library.CreateMemoryResourceNotification.restype = ctypes.c_void_p
    library.CreateMemoryResourceNotification.argtypes = (ctypes.c_int,)
    library.QueryMemoryResourceNotification.argtypes = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))
    library.CloseHandle.argtypes = (ctypes.c_void_p,)
    return library
