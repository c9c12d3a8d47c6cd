"""NVIDIA's own figures, of whole devices and of single processes, through nvidia-ml-py.

Where NVML has no answer the figure is None: without the package or the driver, for a process under
Windows' own memory manager (WDDM answers "not available"), on chips that share the system's memory.
"""

from collections.abc import Callable
from typing import Any, Self

from protocol.record import Record

_HANDLE_PREFIXES = ("GPU-", "MIG-")


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
        self._handles: dict[str, Any] = {}

    @classmethod
    def open(cls) -> "Self | str":
        """Start a session; returns why there is none, for people."""
        try:
            import pynvml  # noqa: PLC0415 - optional, and only where there is a driver
        except ImportError:
            return "NVML is not asked: nvidia-ml-py is not installed"
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            return f"NVML does not answer: {error}"
        return cls(pynvml)

    def memory(self, uuid: str) -> GpuMemory | None:
        """Read a device."""
        handle = self._handle(uuid)
        if handle is None:
            return None
        get_info = self._library.nvmlDeviceGetMemoryInfo
        # The first version counts what the driver reserves as used; drivers before 510 have no other.
        found = self._ask(get_info, handle, self._library.nvmlMemory_v2)
        reserved = 0 if found is None else found.reserved
        found = found or self._ask(get_info, handle)
        if found is None or not found.total:
            return None
        return GpuMemory(found.total - reserved, found.used, found.free)

    def process_bytes(self, uuid: str, pid: int) -> int | None:
        """Read what a process takes on a device. None if NVML does not see it: in a container it may not."""
        handle = self._handle(uuid)
        if handle is None:
            return None
        # A process that computes and draws is in both lists, with the same figure.
        for processes in (
            self._ask(self._library.nvmlDeviceGetComputeRunningProcesses, handle),
            self._ask(self._library.nvmlDeviceGetGraphicsRunningProcesses, handle),
        ):
            for process in processes or ():
                if process.pid == pid and process.usedGpuMemory is not None:
                    return int(process.usedGpuMemory)
        return None

    def close(self) -> None:
        """End the session."""
        self._ask(self._library.nvmlShutdown)

    def _handle(self, uuid: str) -> Any:
        if uuid not in self._handles:
            names = (f"{prefix}{uuid}" for prefix in _HANDLE_PREFIXES)
            found = (self._ask(self._library.nvmlDeviceGetHandleByUUID, name) for name in names)
            self._handles[uuid] = next((handle for handle in found if handle is not None), None)
        return self._handles[uuid]

    def _ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return question(*arguments)
        except (self._library.NVMLError, self._library.NVMLLibraryMismatchError):
            return None
