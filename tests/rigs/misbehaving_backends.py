"""Backends that fail in the ways that real ones do, for a device's process to be made of.

Each is found by its name, as ``misbehaving_backends:segfaults``, with this folder on the module path.
"""

import ctypes
import errno
import gc
import mmap
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from protocol.vocabulary import DeviceKind, DeviceState
from worker.backends import call_threads
from worker.backends.host_memory import address_of
from worker.backends.isolation import model_files
from worker.backends.simulated import SimulatedBackend, SimulatedDevice, simulated_in_process
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.errors import DeviceLostError, OutOfMemoryError
from worker.core.records import AllocationRequest, Block, DeviceInfo, Readings

MIB = 2**20


class _Simulated(SimulatedBackend):
    def __init__(self) -> None:
        super().__init__(0, SimulatedDevice(256 * MIB), SystemClock())


def lacks_a_module() -> SimulatedBackend:
    import torch_directml_that_is_nowhere

    return torch_directml_that_is_nowhere


def lacks_a_library() -> SimulatedBackend:
    ctypes.CDLL("libd3d12-that-is-nowhere.so")
    raise AssertionError


def has_a_broken_module() -> SimulatedBackend:
    raise ImportError("undefined symbol: _ZN3c10")


class Raises(_Simulated):
    """As ``is_available()`` does where DXCore fails."""

    def probe(self) -> tuple[DeviceInfo, ...]:
        raise RuntimeError("Unknown error -2147467259")


class FindsNoMemory(_Simulated):
    """As torch_directml where another program has nearly all of the device: what it makes at first finds no room."""

    def __init__(self, path: str, says: str) -> None:
        if Path(path).exists():
            Path(path).unlink()
            raise RuntimeError(says)
        super().__init__()


class TakesLong(_Simulated):
    """As a library on a disk that is busy: nothing is heard of it while a file is there."""

    def __init__(self, path: str) -> None:
        if Path(path).exists():
            threading.Event().wait()
        super().__init__()


class TakesTurns(_Simulated):
    """As a library that one thread at a time may call, for figures too."""

    def __init__(self) -> None:
        super().__init__()
        self._turn = threading.Lock()

    def write(self, allocation_id: str, offset: int, data: memoryview, token: CancelToken) -> None:
        with self._turn:
            super().write(allocation_id, offset, data, token)

    def readings(self, device_id: str) -> Readings:
        with self._turn:
            return super().readings(device_id)


def takes_turns_where_pages_are_had() -> TakesTurns:
    """As that, on a system that can't say what is in memory of a file: Linux before 6.5."""
    model_files.cached_bytes = lambda *_: None
    return TakesTurns()


def takes_turns_where_pages_are_touched() -> TakesTurns:
    """As that, where there is no call by which pages are had, either: on Windows, or Linux before 5.14."""
    model_files.fault_in = lambda *_: errno.EINVAL
    return takes_turns_where_pages_are_had()


class GrantsLess(_Simulated):
    """As a system that takes back some of its grant, and tells of it, while a library writes to stderr."""

    granted = 256 * MIB

    def watch_figures(self, changed: Callable[[str], None]) -> None:
        self._changed = changed

    def readings(self, device_id: str) -> Readings:
        return replace(super().readings(device_id), budget_bytes=self.granted)

    def trim(self, device_id: str) -> int:
        self.granted //= 2
        os.write(2, b"half a line, ")
        self._changed(device_id)
        return 0


class Segfaults(_Simulated):
    """As ``is_available()`` does on Linux with the wheel's own libraries."""

    def probe(self) -> tuple[DeviceInfo, ...]:
        ctypes.string_at(0)
        raise AssertionError


class Exits(_Simulated):
    """As a library that gives up does."""

    def probe(self) -> tuple[DeviceInfo, ...]:
        sys.stderr.write("cannot go on\n")
        sys.stderr.flush()
        os._exit(5)


class Hangs(_Simulated):
    """As a driver may."""

    def probe(self) -> tuple[DeviceInfo, ...]:
        threading.Event().wait()
        raise AssertionError


class FindsNothing(_Simulated):
    """As on a machine without an adapter."""

    def probe(self) -> tuple[DeviceInfo, ...]:
        return ()


class SaysNo(_Simulated):
    """As a backend that knows what is wrong."""

    def probe(self) -> tuple[DeviceInfo, ...]:
        return (
            DeviceInfo("sim:0", DeviceKind.SIMULATED, "old", DeviceState.UNAVAILABLE, "too old a driver"),
        )


class Prints(_Simulated):
    """As libraries do, in Python and in C, where the messages go if nobody takes care."""

    def probe(self) -> tuple[DeviceInfo, ...]:
        print("hello from a library", flush=True)  # noqa: T201 - writing to stdout is how this backend misbehaves
        os.write(1, b"hello from C\n")
        return super().probe()


class DiesOfMemory(_Simulated):
    """As the tiled allocator does where the driver has no more."""

    def allocate(self, allocation_id: str, request: AllocationRequest, token: CancelToken) -> Block:
        if request.size_bytes > MIB:
            sys.stderr.write("DML allocator out of memory!\n")
            sys.stderr.flush()
            ctypes.string_at(0)
        return super().allocate(allocation_id, request, token)


class IsRemoved(_Simulated):
    """As a device that Windows reset: the process goes on, and nothing there works any more."""

    def read(self, allocation_id: str, offset: int, into: memoryview, token: CancelToken) -> None:
        raise DeviceLostError("Unknown error -2005270523", device_id="sim:0")


class HangsInReadings(_Simulated):
    """As a driver may, later."""

    def readings(self, device_id: str) -> object:
        threading.Event().wait()


class Misreads(_Simulated):
    """As bad memory does: every read differs from the one before."""

    reads = 0

    def read(self, allocation_id: str, offset: int, into: memoryview, token: CancelToken) -> None:
        super().read(allocation_id, offset, into, token)
        self.reads += 1
        into[0] = self.reads % 256


def starts_unless(marker: str, **knobs: int) -> SimulatedBackend:
    """Make a simulated device; fail once the marker exists: as after a driver update."""
    if Path(marker).exists():
        raise RuntimeError("the driver is being updated")
    return simulated_in_process(0, **knobs)


class Shrinks(_Simulated):
    """As an adapter whose budget another program has taken meanwhile: refuses what is large in a second life.

    Until the marker is removed: the other program has ended then.
    """

    def __init__(self, marker: str) -> None:
        super().__init__()
        self._marker = Path(marker)
        self._second = self._marker.exists()
        self._marker.touch()

    def readings(self, device_id: str) -> Readings:
        return replace(super().readings(device_id), restart_returns_bytes=0)

    def allocate(self, allocation_id: str, request: AllocationRequest, token: CancelToken) -> Block:
        if self._second and self._marker.exists() and request.size_bytes > 8 * MIB:
            raise OutOfMemoryError("another program has it now", device_id="sim:0")
        return super().allocate(allocation_id, request, token)


class CutsShort(_Simulated):
    """As a host that cuts a file short that it shares, in the middle of a copy."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def write(self, name: str, offset: int, data: memoryview, token: CancelToken) -> None:
        os.truncate(self._path, 5)
        super().write(name, offset, data, token)


class TouchesWhatIsGone(_Simulated):
    """As a driver whose own file was cut short: a SIGBUS that has nothing to do with what is copied."""

    def write(self, name: str, offset: int, data: memoryview, token: CancelToken) -> None:
        with tempfile.TemporaryFile() as file:  # each call's own: nobody makes it whole again
            file.truncate(MIB)
            mapped = mmap.mmap(file.fileno(), MIB)
            file.truncate(0)
        ctypes.memmove(ctypes.create_string_buffer(MIB), address_of(mapped), MIB)


class HasNoThreads(_Simulated):
    """As on a system that is short of them: once it runs there is none for a call, and none can be started."""

    def probe(self) -> tuple[DeviceInfo, ...]:
        call_threads.start_thread = self._refuse
        (threads,) = (each for each in gc.get_objects() if isinstance(each, call_threads.CallThreads))
        threads._count = 0  # the one that runs this is none of them any more, and takes no other call
        threads._hand_on = lambda: setattr(threads, "_idle", 0)
        return super().probe()

    def _refuse(self, *_: object) -> None:
        raise OutOfMemoryError("the system starts no more threads just now; try again", resource="threads")


class SaysMuch(_Simulated):
    """Says more of itself than a pipe holds."""

    def notes(self) -> tuple[str, ...]:
        """Say so."""
        return ("x" * 2**20,)
