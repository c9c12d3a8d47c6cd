"""NVIDIA's own figures, of whole devices and of single processes, out of the library that its driver installs.

Asked by ctypes: a question costs no context on the device, and no package. Where NVML has no answer the figure is
None: without the driver, for a process under Windows' own memory manager (WDDM answers "not available"), on
chips that share the system's memory.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from protocol.record import Record

_SUCCESS: Final = 0
_INSUFFICIENT_SIZE: Final = 7
_NOT_AVAILABLE: Final = 2**64 - 1
"""NVML_VALUE_NOT_AVAILABLE, as the field of a process has it."""

_PROCESSES: Final = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")
_HANDLE_PREFIXES = ("GPU-", "MIG-")
_ROOM: Final = 32
"""Processes beyond what was counted: some start between the two questions."""


class Memory(ctypes.Structure):
    """nvmlMemory_t, whose used bytes count what the driver reserves; drivers before 510 have no other."""

    _fields_ = (("total", ctypes.c_uint64), ("free", ctypes.c_uint64), ("used", ctypes.c_uint64))


class MemoryV2(ctypes.Structure):
    """nvmlMemory_v2_t."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64),
        ("free", ctypes.c_uint64),
        ("used", ctypes.c_uint64),
    )


class ProcessInfo(ctypes.Structure):
    """nvmlProcessInfo_t, as versions 2 and 3 of the question have it."""

    _fields_ = (
        ("pid", ctypes.c_uint32),
        ("used", ctypes.c_uint64),
        ("gpu_instance", ctypes.c_uint32),
        ("compute_instance", ctypes.c_uint32),
    )


assert (ctypes.sizeof(MemoryV2), ctypes.sizeof(ProcessInfo)) == (40, 24)  # noqa: S101 - the driver writes this many


class GpuMemory(Record):
    """A whole device, every process. Bytes; what the driver keeps for itself is in none of them."""

    total_bytes: int
    used_bytes: int
    free_bytes: int


class Nvml:
    """An open session with NVML; thread-safe, as NVML is."""

    def __init__(self, library: Any) -> None:
        self._library = library
        # All mutable state: the handle of each device that was asked for; None where NVML knows none.
        self._handles: dict[str, ctypes.c_void_p | None] = {}

    @classmethod
    def open(cls) -> "Self | str":
        """Start a session; returns why there is none, for people."""
        library = _load()
        if library is None:
            return "NVML is not asked: the driver's library was not found"
        code = library.nvmlInitWithFlags(0)
        if code != _SUCCESS:
            library.nvmlErrorString.restype = ctypes.c_char_p
            return f"NVML does not answer: {library.nvmlErrorString(code).decode(errors='replace')}"
        return cls(library)

    def memory(self, uuid: str) -> GpuMemory | None:
        """Read a device."""
        handle = self._handle(uuid)
        if handle is None:
            return None
        found = MemoryV2(version=2 << 24 | ctypes.sizeof(MemoryV2))
        if self._ask("nvmlDeviceGetMemoryInfo_v2", handle, ctypes.byref(found)):
            return GpuMemory(found.total - found.reserved, found.used, found.free)
        older = Memory()
        if self._ask("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(older)) and older.total:
            return GpuMemory(older.total, older.used, older.free)
        return None

    def process_bytes(self, uuid: str, pid: int) -> int | None:
        """Read what a process takes on a device. None if NVML does not see it: in a container it may not."""
        handle = self._handle(uuid)
        if handle is None:
            return None
        for question in _PROCESSES:  # one that computes and draws is in both lists, with the same figure
            for process in self._list(question, handle) or ():
                if process.pid == pid and process.used != _NOT_AVAILABLE:
                    return int(process.used)
        return None

    def processes(self, uuid: str) -> dict[int, int | None] | None:
        """Read what each process takes on a device: None where it does not say of one, or of any."""
        handle = self._handle(uuid)
        if handle is None:
            return None
        lists = [self._list(question, handle) for question in _PROCESSES]
        if lists == [None, None]:
            return None
        found: dict[int, int | None] = {}
        for process in (each for rows in lists for each in rows or ()):
            # A process that computes and draws is in both lists, with the same figure.
            used = None if process.used == _NOT_AVAILABLE else int(process.used)
            found[process.pid] = found.get(process.pid) if used is None else used
        return found

    def close(self) -> None:
        """End the session."""
        self._ask("nvmlShutdown")

    def _handle(self, uuid: str) -> ctypes.c_void_p | None:
        if uuid not in self._handles:
            handle = ctypes.c_void_p()
            known = any(
                self._ask("nvmlDeviceGetHandleByUUID", f"{prefix}{uuid}".encode(), ctypes.byref(handle))
                for prefix in _HANDLE_PREFIXES
            )
            self._handles[uuid] = handle if known else None
        return self._handles[uuid]

    def _list(self, question: str, handle: ctypes.c_void_p) -> list[ProcessInfo] | None:
        """Ask for processes, by the newest version of the question that the driver knows; None for no answer."""
        name = next((f"{question}_v{n}" for n in (3, 2) if hasattr(self._library, f"{question}_v{n}")), None)
        if name is None:
            return None
        count = ctypes.c_uint32(0)
        while (code := self._call(name, handle, ctypes.byref(count), None)) == _INSUFFICIENT_SIZE:
            count.value += _ROOM
            listed = (ProcessInfo * count.value)()
            code = self._call(name, handle, ctypes.byref(count), listed)
            if code == _SUCCESS:
                return list(listed[: count.value])
            if code != _INSUFFICIENT_SIZE:
                return None
            count.value = 0
        return [] if code == _SUCCESS else None

    def _ask(self, question: str, *arguments: Any) -> bool:
        """Tell whether a question was answered; a driver that is too old does not know it."""
        return hasattr(self._library, question) and self._call(question, *arguments) == _SUCCESS

    def _call(self, question: str, *arguments: Any) -> int:
        return int(getattr(self._library, question)(*arguments))


def _load() -> Any:
    for path in _paths():
        try:
            return ctypes.CDLL(path)  # on Windows its functions are cdecl, too
        except OSError:
            continue
    return None


def _paths() -> Iterator[str]:
    """Where drivers put it: in the system's folder, older ones for Windows in their own."""
    if sys.platform == "win32":
        yield str(Path(os.environ.get("WINDIR", "C:/Windows")) / "System32/nvml.dll")
        programs = os.environ.get("PROGRAMW6432", "C:/Program Files")
        yield str(Path(programs) / "NVIDIA Corporation/NVSMI/nvml.dll")
    else:
        yield "libnvidia-ml.so.1"
