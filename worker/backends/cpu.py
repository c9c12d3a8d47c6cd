"""The machine's own memory: anonymous maps, and files that the host can map."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.results import SharedMemory
from protocol.vocabulary import DeviceKind, Initialize, MemoryType, SharedMemoryKind, Source
from worker.backends.base import Fill
from worker.backends.buffer_pool import BufferPool
from worker.backends.host_memory import (
    PAGE_BYTES,
    AnonymousBuffer,
    Buffer,
    page_rounded,
)
from worker.backends.mappable_buffer import MappableBuffer
from worker.backends.pieces import Done
from worker.backends.shared_buffer import SharedBuffer
from worker.backends.shared_files import SharedFiles
from worker.backends.shared_section import NOTE as SECTION_NOTE
from worker.backends.shared_section import SharedSection
from worker.core.cancellation import CancelToken
from worker.core.errors import OutOfMemoryError, UnsupportedError
from worker.core.log import log
from worker.core.records import HOST, AllocationRequest, Block, Defragmented, DeviceInfo, FileRange, Readings
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureLock
from worker.telemetry.system import SystemReading

if TYPE_CHECKING:
    from worker.backends.mapped_file import MappedFile

_MAPPABLE_FROM_BYTES = 32 * 2**20
"""Below this, mapping a block costs a device's process more than it saves."""

_HEADROOM_CHECK_BYTES = 2**20
"""Above this size, pooled buffers are given up first if the system is short; below, it can't matter."""


class CpuBackend:
    """Allocates from the operating system. ``device`` and ``host`` mean the same here."""

    quick_bytes = 2**20

    def __init__(
        self,
        read_system: Callable[[], SystemReading],
        now_ns: Callable[[], int],
        pool_bytes: int,
        shared_folder: Path | None,
        system_notes: tuple[str, ...] = (),
        *,
        as_sections: bool = False,
        mappable: bool = False,
    ) -> None:
        """``mappable``: there may be devices in processes, which map large blocks that are copied often (Linux)."""
        self._mappable = mappable and sys.platform == "linux"
        self._as_sections = as_sections
        self._system_notes = system_notes
        self._read_system = read_system
        self._pool = BufferPool(pool_bytes, now_ns)
        self._files = SharedFiles(shared_folder)
        self._lock = SureLock()
        # All mutable state besides the pool: the live buffers by allocation id, and those of them that are files.
        self._buffers: dict[str, Buffer | SharedBuffer] = {}
        self._mapped: dict[str, MappedFile] = {}

    def probe(self) -> tuple[DeviceInfo, ...]:
        """Return the one CPU."""
        return (DeviceInfo(HOST, DeviceKind.CPU, "System memory"),)

    def remove_orphans(self) -> tuple[Path, ...]:
        """Remove shared files of this user's workers that were killed."""
        return self._files.remove_orphans()

    def readings(self, device_id: str) -> Readings:  # noqa: ARG002 - there is one CPU
        """Read the operating system's figures, and our own pool's."""
        system = self._read_system()
        with self._lock:
            buffers = list(self._buffers.values())
            in_place = _in_place_bytes(self._mapped)
        resident = _touched_bytes(buffers)
        # The system counts a mapped file's pages as free, for it may drop them; weights are to stay.
        promised = in_place + sum(buffer.actual_bytes for buffer in buffers if not buffer.touched)
        free = system.free_bytes
        return Readings(
            total_bytes=system.total_bytes,
            budget_bytes=system.budget_bytes,
            budget_source=system.budget_source,
            used_bytes=system.used_bytes,
            process_used_bytes=system.process_rss_bytes,
            free_bytes=None if free is None else max(0, free - promised + self._pool.cached_bytes),
            largest_block_bytes=None,
            resident_bytes=resident,
            cached_bytes=self._pool.cached_bytes,
            fragmentation=None,
            signals=system.signals,
            total_source=None if system.total_bytes is None else Source.OS,
            used_source=None if system.used_bytes is None else Source.OS,
            process_used_source=None if system.process_rss_bytes is None else Source.OS,
            child_process_bytes=system.child_process_bytes,
        )

    def held_bytes(self) -> int:
        """Return the touched bytes: of live buffers but for mapped files, and of those kept for reuse."""
        with self._lock:
            touched = _touched_bytes(list(self._buffers.values())) - _in_place_bytes(self._mapped)
        return self._pool.cached_bytes + touched

    def check(self, request: AllocationRequest) -> None:
        """Refuse pinned memory, which only a GPU driver can give."""
        if request.memory_type is MemoryType.PINNED:
            message = "cpu has no pinned memory: page-locking for a GPU is the GPU driver's to do"
            raise UnsupportedError(message, device_id=HOST, memory_type=request.memory_type)
        shared = request.memory_type is MemoryType.SHARED
        if shared and request.alignment is not None and request.alignment > PAGE_BYTES:
            message = (
                f"shared memory is aligned to {PAGE_BYTES} bytes, the host's own mapping decides;"
                f" {request.alignment} asked for"
            )
            raise UnsupportedError(message, device_id=HOST, alignment=request.alignment)

    def allocate(self, allocation_id: str, request: AllocationRequest, token: CancelToken) -> Block:
        """Make what the host maps, or map a buffer and touch it if it is to be zero."""
        if request.memory_type is MemoryType.SHARED:
            return self._share(allocation_id, request.size_bytes, token)
        zero = request.initialize is Initialize.ZERO
        buffer = self._make(request, reuse=zero or request.overwritten)
        try:
            if zero:
                buffer.touch(token)
        except BaseException:
            buffer.close()
            raise
        return self._keep(allocation_id, buffer)

    def _keep(
        self, name: str, buffer: "Buffer | SharedBuffer | SharedSection", place: SharedMemory | None = None
    ) -> Block:
        """Take a buffer over, or close it where there is no memory for that."""
        try:
            made = Block(buffer.actual_bytes, place)
            self._lock.acquire()
            try:
                self._buffers[name] = buffer
            finally:
                self._lock.release()
        except BaseException:
            buffer.close()
            raise
        return made

    def free(self, allocation_id: str) -> int | None:
        """Unmap a buffer, or keep it where its size is churning: then nothing went back."""
        self._lock.acquire()
        try:
            buffer = self._buffers.pop(allocation_id)
        finally:
            self._lock.release()
        if isinstance(buffer, AnonymousBuffer) and self._pool.offer(buffer):
            return 0
        return buffer.close()

    def view(self, allocation_id: str, *, writable: bool) -> memoryview | None:
        """Return the buffer's bytes; None for a file that its host may cut short."""
        buffer = self._buffers[allocation_id]
        if isinstance(buffer, SharedBuffer):
            return buffer.view
        buffer.touched = buffer.touched or writable
        return buffer.view

    def shared_file(self, allocation_id: str) -> str | None:
        """Return what a device's process can map: what a host maps, or what was copied often. None for others."""
        buffer = self._buffers[allocation_id]
        if isinstance(buffer, MappableBuffer):
            return buffer.path_to_copy()
        if isinstance(buffer, SharedSection):
            return buffer.name
        return str(buffer.path) if isinstance(buffer, SharedBuffer) and buffer.view is None else None

    def read(self, allocation_id: str, offset: int, into: memoryview, token: CancelToken) -> None:
        """Copy out of a buffer."""
        token.check()
        buffer = self._buffers[allocation_id]
        if isinstance(buffer, SharedBuffer):
            buffer.read(offset, into)
        else:
            into[:] = buffer.view[offset : offset + len(into)]

    def write(self, allocation_id: str, offset: int, data: memoryview, token: CancelToken) -> None:
        """Copy into a buffer."""
        token.check()
        buffer = self._buffers[allocation_id]
        if isinstance(buffer, SharedBuffer):
            buffer.write(offset, data)
            return
        buffer.touched = True
        buffer.view[offset : offset + len(data)] = data

    def load(self, handle: str, request: AllocationRequest, fill: Fill, token: CancelToken) -> Block:
        """Map a buffer and fill it in place."""
        self._make_way(request.size_bytes)
        buffer = AnonymousBuffer(request.size_bytes)
        try:
            token.check()
            buffer.touched = True

            def write(offset: int, data: memoryview) -> None:
                buffer.view[offset : offset + len(data)] = data

            with buffer.view as view:
                fill(view, write)
        except BaseException:
            buffer.close()
            raise
        return self._keep(handle, buffer)

    def map_file(
        self, handle: str, file: FileRange, token: CancelToken, done: Done, *, guarded: bool
    ) -> Block:
        """Map it, and have all of it in memory."""
        from worker.backends.mapped_file import MappedFile  # noqa: PLC0415 - only for models, which few workers have

        self._make_way(file.size_bytes)
        buffer = MappedFile(file, guarded=guarded)
        try:
            buffer.populate(token, done)
            with self._lock:
                self._mapped[handle] = buffer
        except BaseException:
            buffer.close()
            raise
        try:
            return self._keep(handle, buffer)
        except BaseException:
            with self._lock:
                self._mapped.pop(handle, None)
            raise

    def is_stale(self, handle: str) -> bool:
        """Ask the file."""
        mapped = self._mapped.get(handle)
        return mapped is not None and mapped.stale

    def unload(self, handle: str) -> int | None:
        """Unmap a buffer."""
        with self._lock:
            self._mapped.pop(handle, None)
            buffer = self._buffers.pop(handle)
        return buffer.close()

    def trim(self, device_id: str) -> int | None:  # noqa: ARG002 - there is one CPU
        """Give the pool up."""
        return self._pool.drop()

    def tick(self) -> None:
        """Give up what no caller uses any more: kept buffers, shared files, and mapped ones that a writer waits for."""
        self._pool.drop_idle()
        self._files.remove_left()
        with self._lock:
            mapped = list(self._mapped.values())
        for buffer in mapped:
            if buffer.is_wanted():
                start_thread(partial(_give_way, buffer), "give way")

    def defragment(self, device_id: str) -> Defragmented | None:  # noqa: ARG002 - every backend is called alike
        """Do nothing: virtual memory does not fragment."""
        return None

    def notes(self) -> tuple[str, ...]:
        """Say where the figures come from and which are missing."""
        return (
            *self._system_notes,
            f"up to {self._pool.max_bytes} bytes are kept for reuse where a size comes and goes",
            SECTION_NOTE if self._as_sections else self._files.note(),
            f"returned bytes are counted by the system ({'working set' if sys.platform == 'win32' else 'mincore'})",
            "fragmentation is null: virtual memory does not fragment",
            "pinned memory is unsupported: it is a GPU driver's to give",
        )

    def live(self) -> frozenset[str]:
        """Return the ids of all buffers."""
        with self._lock:
            return frozenset(self._buffers)

    def close(self) -> None:
        """Unmap everything and remove the shared files."""
        for allocation_id in self.live():
            self.free(allocation_id)
        self._pool.drop()
        self._files.close()

    def _share(self, allocation_id: str, size_bytes: int, token: CancelToken) -> Block:
        shared: SharedBuffer | SharedSection
        if self._as_sections:
            shared = SharedSection(size_bytes, token)
        else:
            shared = self._files.create(allocation_id, size_bytes, token)
        try:
            if isinstance(shared, SharedSection):
                place = SharedMemory(shared.name, size_bytes, SharedMemoryKind.SECTION)
            else:
                place = SharedMemory(str(shared.path), size_bytes, SharedMemoryKind.FILE)
        except BaseException:
            shared.close()
            raise
        return self._keep(allocation_id, shared, place)

    def _make(self, request: AllocationRequest, *, reuse: bool) -> AnonymousBuffer:
        size = request.size_bytes
        if reuse and request.alignment is None:
            kept = self._pool.take(page_rounded(size))
            if kept is not None:
                kept.size_bytes = size
                return kept
        self._make_way(size)
        mappable = self._mappable and size >= _MAPPABLE_FROM_BYTES
        return (MappableBuffer if mappable else AnonymousBuffer)(size, request.alignment)

    def _make_way(self, size: int) -> None:
        """Give the pool up where the system is short of what is asked for."""
        if self._pool.cached_bytes and size > _HEADROOM_CHECK_BYTES:
            free = self._read_system().free_bytes
            if free is not None and free < size:
                self._pool.drop()


def _touched_bytes(buffers: list[Buffer | SharedBuffer]) -> int:
    return sum(buffer.actual_bytes for buffer in buffers if buffer.touched)


def _in_place_bytes(mapped: "dict[str, MappedFile]") -> int:
    return sum(buffer.actual_bytes for buffer in mapped.values() if buffer.in_place)


def _give_way(buffer: "MappedFile") -> None:
    """Copy it into memory; a gibibyte takes about a second, and the writer waits."""
    try:
        buffer.give_way()
    except (OSError, OutOfMemoryError) as error:
        log("error", f"weights in a file that is to be written to can't be copied out of it: {error}")
