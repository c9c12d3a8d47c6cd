"""A named section that a host opens, as a device's process maps it: once, for as long as anybody has it open.

The process keeps a view and no handle: a section's name is gone with the last handle, and its memory with the last view.
"""

import ctypes
import sys
import weakref
from functools import cache
from typing import Any

PREFIX = "Local\\"
"""Of the sections' names, and of no path."""

_READ, _WRITE = 4, 2
"""FILE_MAP_READ and FILE_MAP_WRITE, from memoryapi.h."""


class SectionMap:
    """A Spoilable that never needs to be. OSError where there is no such section, or a shorter one."""

    spoiled = False

    def __init__(self, name: str, size: int) -> None:
        self.path = name
        self.size = size
        address = _viewed(name, size)
        self._bytes = (ctypes.c_char * size).from_address(address)
        # A copy that was cut short may hold a view yet.
        weakref.finalize(self._bytes, _kernel32().UnmapViewOfFile, address)

    @property
    def view(self) -> memoryview:
        """The bytes."""
        return memoryview(self._bytes).cast("B")

    def check(self) -> None:
        """Do nothing: no process can cut it short."""

    def is_short(self) -> bool:
        """Return that it is whole."""
        return False

    def spoil(self) -> None:
        """Do nothing: it is never touched in vain."""

    @property
    def is_freed(self) -> bool:
        """Whether neither the worker nor a host has it open."""
        return not _is_open(self.path)

    def close(self) -> None:
        """Give it up; it is unmapped with its last view."""
        del self._bytes


@cache
def _kernel32() -> Any:
    """Return the system's library. OSError where there is none, and no sections either."""
    if sys.platform == "win32":
        library = ctypes.WinDLL("kernel32")
        library.OpenFileMappingW.argtypes = (ctypes.c_uint32, ctypes.c_int, ctypes.c_wchar_p)
        library.OpenFileMappingW.restype = library.MapViewOfFile.restype = ctypes.c_void_p
        library.MapViewOfFile.argtypes = (
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_size_t
        )  # fmt: skip
        library.UnmapViewOfFile.argtypes = library.CloseHandle.argtypes = (ctypes.c_void_p,)
        return library
    raise OSError("only Windows has sections")


def _viewed(name: str, size: int) -> int:
    """Map a section, and return where it is."""
    system = _kernel32()
    handle = system.OpenFileMappingW(_READ | _WRITE, 0, name)
    if not handle:
        raise FileNotFoundError(f"no section is called {name}")
    try:
        address = system.MapViewOfFile(handle, _READ | _WRITE, 0, 0, size)
    finally:
        system.CloseHandle(handle)
    if not address:
        raise OSError(f"no {size} bytes of the section {name} can be mapped")
    return int(address)


def _is_open(name: str) -> bool:
    system = _kernel32()
    handle = system.OpenFileMappingW(_READ, 0, name)
    if handle:
        system.CloseHandle(handle)
    return bool(handle)
