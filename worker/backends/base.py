"""What every device kind can do. Blocks are named by their allocation's id; what they are stays here."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from protocol.record import Record
from protocol.vocabulary import Initialize
from worker.backends.pieces import Done
from worker.core.cancellation import CancelToken
from worker.core.records import (
    AllocationRequest,
    Block,
    Defragmented,
    DeviceInfo,
    FileRange,
    Readings,
    Restarted,
)

if TYPE_CHECKING:
    import torch

COPY_CHUNK_BYTES = 8 * 2**20
"""Transfers go in pieces of this size: each is one step that progress shows and cancelling ends."""


Write = Callable[[int, memoryview], None]
"""Writes bytes to a place in a block. May have ``put_each`` besides (``WritesEach``)."""
Fill = Callable[[memoryview | None, Write], None]
"""Fills a model's block: by its own bytes where the worker can address them, else through ``Write``."""

Piecewise = Callable[[int, memoryview], None]
"""Called with a place in a block, and memory that is to be filled with what belongs there, or holds it."""


@runtime_checkable
class WritesEach(Protocol):
    """What a ``Write`` has besides if bytes are best put where they are sent from."""

    def __call__(self, offset: int, data: memoryview) -> None:
        """Write bytes to a place in a block."""
        ...

    def put_each(self, offset: int, length: int, fill: Piecewise, done: Done) -> None:
        """Have each piece of a part filled, in order; ``done`` is called with how much of it is there."""
        ...


@runtime_checkable
class PutsAtOnce(WritesEach, Protocol):
    """What a ``Write`` has besides if several threads may put at once, each parts of its own."""

    at_once: bool


Range = tuple[int, int, int]
"""A place in a block, the place in a file where what belongs there lies, and how many bytes."""


@runtime_checkable
class ReadsFiles(WritesEach, Protocol):
    """What a ``Write`` has besides if the process that has the block reads model files by itself."""

    def put_ranges(
        self, file: FileRange, ranges: list[Range], done: Callable[[], None], refused: Callable[[], None]
    ) -> None:
        """Have ranges of one file put in their places: ``done`` is called when they are there.

        ``refused`` is called instead where the process can't read the file: the caller has to, then.
        """
        ...

    def settle(self) -> None:
        """Wait until all that was put is there, or refused."""
        ...


class DeviceBackend(Protocol):
    """One device kind. All methods may be called from several threads.

    Errors: OutOfMemoryError (nothing was allocated), UnsupportedError (never will be),
    DeviceUnavailableError (the device is gone, and every block on it).
    """

    quick_bytes: int
    """Blocks of up to this size are made and freed in well under a millisecond; -1 for none."""

    def probe(self) -> tuple[DeviceInfo, ...]:
        """Return the devices of this kind, in a stable order. Does not raise."""
        ...

    def readings(self, device_id: str) -> Readings:
        """Read the device's own figures now."""
        ...

    def check(self, request: AllocationRequest) -> None:
        """Raise UnsupportedError for a request that no amount of memory would make possible."""
        ...

    def allocate(self, allocation_id: str, request: AllocationRequest, token: CancelToken) -> Block:
        """Make a block. Cancelling, like any failure, leaves nothing behind."""
        ...

    def free(self, allocation_id: str) -> int | None:
        """Give a block up. Returns the bytes that went back to the system, None if that can't be told."""
        ...

    def view(self, allocation_id: str, *, writable: bool) -> memoryview | None:
        """Return the block's own bytes where the worker can address them; ``writable`` to write all."""
        ...

    def read(self, allocation_id: str, offset: int, into: memoryview, token: CancelToken) -> None:
        """Copy out of a block."""
        ...

    def write(self, allocation_id: str, offset: int, data: memoryview, token: CancelToken) -> None:
        """Copy into a block."""
        ...

    def load(self, handle: str, request: AllocationRequest, fill: Fill, token: CancelToken) -> Block:
        """Make a block for a model's weights and fill it. Failing in any way leaves nothing behind."""
        ...

    def unload(self, handle: str) -> int | None:
        """Give a model's block up, at once and whole: nothing of it is kept for reuse. Returns as ``free``."""
        ...

    def trim(self, device_id: str) -> int | None:
        """Give up caches. Returns as ``free`` does."""
        ...

    def tick(self) -> None:
        """Give up what was kept for reuse and not reused. Called about once a second."""
        ...

    def defragment(self, device_id: str) -> Defragmented | None:
        """Join free memory by moving blocks; None where memory does not fragment."""
        ...

    def notes(self) -> tuple[str, ...]:
        """Say, for people, what can and can't be measured on this device, and why."""
        ...

    def live(self) -> frozenset[str]:
        """Return the ids of all blocks: the tests hold the ledger against them."""
        ...

    def close(self) -> None:
        """Give everything up."""
        ...


OnChange = Callable[[tuple[DeviceInfo, ...]], None]
"""Called with a backend's devices whenever one is another than before; must not call back."""


HeldByProcess = dict[int, int | None] | None
"""What each process holds of a device, by process id: None for one whose bytes the driver does not say, and None in
place of all where no source lists them."""


@runtime_checkable
class KnowsProcesses(Protocol):
    """What a backend has besides if it can tell who is on its devices."""

    def processes(self, device_id: str, pids: tuple[int, ...]) -> HeldByProcess:
        """Ask the driver or the system. ``pids``: all that run, for a source that has to be asked about each."""
        ...


class RemoteWork(Record):
    """Work on a block, to be done in the process that has it."""

    entry: str
    """``module:function``, called there with backend, block's name, token, report and the arguments."""
    arguments: dict[str, Any]
    """Plain values, by name."""
    lent: dict[str, str]
    """Top-level packages that may be imported there, and the folders in which they lie."""


@runtime_checkable
class ProbedBeside(DeviceBackend, Protocol):
    """What a backend has besides if looking for its devices takes long, and so must keep no caller waiting."""

    @property
    def devices(self) -> tuple[DeviceInfo, ...]:
        """The devices, as far as is known by now: probing, at first."""
        ...

    def begin(self, on_change: OnChange) -> None:
        """Look for the devices, beside everything else, and tell of them whenever one changes."""
        ...


@runtime_checkable
class TellsFigures(Protocol):
    """What a backend has besides if it is told when its devices' figures change for reasons outside this process."""

    def watch_figures(self, changed: Callable[[str], None]) -> None:
        """Have ``changed`` called with a device from now on, by any thread; it does not wait."""
        ...


@runtime_checkable
class OwnProcess(ProbedBeside, TellsFigures, Protocol):
    """What a backend has besides if its devices live in a process of their own, and so can come and go."""

    @property
    def pid(self) -> int | None:
        """The process's id; None while there is none."""
        ...

    def recent_readings(self, device_id: str, max_age_ms: int | None) -> tuple[Readings, int] | None:
        """Return what that process last noted, and how many nanoseconds ago. Never waits, however the process is.

        None where that is older, or something was changed since: it has to be asked.
        """
        ...

    def work(
        self, name: str, work: RemoteWork, token: CancelToken, report: Callable[[int, int], None]
    ) -> Any:
        """Do work on a block where it is. Raises what that raises; DeviceUnavailableError if the process ends."""
        ...

    def restart(self, token: CancelToken, needed_bytes: int = 0) -> Restarted:
        """Replace the process, and carry over all that lives in it through host memory.

        OutOfMemoryError, and nothing was done, unless a new process has a place for it and ``needed_bytes`` more.
        """
        ...


@runtime_checkable
class CopiesWhole(DeviceBackend, Protocol):
    """What a backend has besides if a copy of a whole block is faster than one of its pieces after another."""

    def read_each(
        self,
        allocation_id: str,
        size: int,
        take: Piecewise,
        token: CancelToken,
        done: Done,
        *,
        in_order: bool = False,
    ) -> None:
        """Copy a block's first ``size`` bytes out: ``take`` is called with each place and what lies there.

        Unless it is to be called ``in_order`` several threads may call it at once.
        """
        ...

    def write_each(
        self,
        allocation_id: str,
        size: int,
        fill: Piecewise,
        token: CancelToken,
        done: Done,
    ) -> None:
        """Copy a block's first ``size`` bytes in: ``fill`` is called with each place and memory to fill, by several threads at once."""
        ...


@runtime_checkable
class CopiesWithin(DeviceBackend, Protocol):
    """What a backend has besides if its devices copy between its blocks by themselves."""

    def copy_within(
        self, source_id: str, destination_id: str, offset: int, length: int, token: CancelToken
    ) -> bool:
        """Copy part of a block to the same place in another. False, and nothing was done, where the host has to."""
        ...


@runtime_checkable
class LocksMemory(Protocol):
    """What a backend has besides if its devices copy faster to and from memory that is locked for them."""

    def lend_memory(self, memory: memoryview) -> None:
        """Tell of memory that copies will go through, for as long as this process lives: it may be locked."""
        ...


@runtime_checkable
class SharesFiles(Protocol):
    """What a backend has besides if some of its blocks are files, or sections, that any process of this user's can map."""

    def shared_file(self, allocation_id: str) -> str | None:
        """Return where a block lies, or its section's name; None for one that no other process can map."""
        ...


@runtime_checkable
class MapsSharedFiles(Protocol):
    """What a backend has besides if it copies from and to such files by itself."""

    def read_file(self, allocation_id: str, path: str, size: int, token: CancelToken, done: Done) -> bool:
        """Copy a block's first ``size`` bytes to a file. False, and nothing was done, where it can't be mapped."""
        ...

    def write_file(self, allocation_id: str, path: str, size: int, token: CancelToken, done: Done) -> bool:
        """Copy a block's first ``size`` bytes from a file. Returns as ``read_file``."""
        ...


@runtime_checkable
class ChecksRestart(Protocol):
    """What a backend has besides if a new process could turn out to have less memory than this one."""

    def check_restart(self, more: list[int], besides: frozenset[str]) -> None:
        """Raise OutOfMemoryError unless what lives here would fit into a new one now, with more blocks of these sizes.

        ``besides`` ends with this process: loads that were given up and hang.
        """
        ...


@runtime_checkable
class MapsFiles(Protocol):
    """What a device whose memory is the machine's own can do with a model's file."""

    def map_file(
        self, handle: str, file: FileRange, token: CancelToken, done: Done, *, guarded: bool
    ) -> Block:
        """Make a block of a file's bytes where they are, all of them in memory; ``unload`` gives it up.

        OSError where it can't be mapped, or where ``guarded`` and the system does not hold writers off.
        """
        ...

    def is_stale(self, handle: str) -> bool:
        """Tell whether a block's file, and so the block, is not any more what was mapped."""
        ...


@runtime_checkable
class TorchMemory(Protocol):
    """What a backend has besides if its blocks are torch's own, in this process."""

    def tensor(self, allocation_id: str) -> "torch.Tensor":
        """Return a device block's bytes as torch sees them. Whoever keeps it keeps the memory."""
        ...

    def finish(self, device_id: str) -> None:
        """Wait for all that the device has to do, whoever gave it that. DeviceLostError if it went away."""
        ...


class LoadsThroughCopies:
    """Weights as blocks like any other, for devices that the worker cannot address."""

    def load(
        self: DeviceBackend, handle: str, request: AllocationRequest, fill: Fill, token: CancelToken
    ) -> Block:
        """Allocate, and fill it copy by copy."""
        block = self.allocate(handle, replace(request, initialize=Initialize.NONE, overwritten=True), token)
        try:
            fill(None, lambda offset, data: self.write(handle, offset, data, token))
        except BaseException:
            self.free(handle)
            raise
        return block

    def unload(self: DeviceBackend, handle: str) -> int | None:
        """Free it."""
        return self.free(handle)
